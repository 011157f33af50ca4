"""The classifiers by name."""

from torch import nn

from crosseai.errors import InputError
from crosseai.models.baseline import Baseline
from crosseai.models.chexradinet import ChexRadiNet
from crosseai.models.scalp import Scalp
from crosseai.models.supervision import Supervision

__all__ = ["CLASSIFIERS", "build"]

#: Each a `crosseai.models.classifier.Classifier`.
CLASSIFIERS = {
    "scalp": Scalp,
    "baseline": Baseline,
    "supervision": Supervision,
    "chexradinet": ChexRadiNet,
}


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
