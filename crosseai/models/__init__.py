"""The classifiers by name."""

from torch import nn

from crosseai.errors import InputError
from crosseai.models.scalp import Scalp

__all__ = ["CLASSIFIERS", "build"]

#: Each a `crosseai.models.classifier.Classifier`.
CLASSIFIERS = {"scalp": Scalp}


def build(name: str, labels: list[str], **settings) -> nn.Module:
    """Build a classifier with random weights.

    Parameters
    ----------
    name : str
        One of `CLASSIFIERS`.
    labels : list of str
        One logit each.
    **settings
        The classifier's own; see its class.

    Raises
    ------
    InputError
        If the name or a setting's value is unknown.
    """
    if name not in CLASSIFIERS:
        raise InputError(f"classifier: {name!r} is unknown; choose one of {tuple(CLASSIFIERS)}")
    return CLASSIFIERS[name](labels, **settings)
