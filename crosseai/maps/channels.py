"""From the input's channels to one map."""

from collections.abc import Callable

import torch

from crosseai.errors import InputError

__all__ = ["reduction_of"]

#: From attributions to the input [..., 3, H, W] to the map.
REDUCTIONS = {
    "max": lambda values: values.abs().amax(-3),
    "sum": lambda values: values.abs().sum(-3),
    "none": lambda values: values,
}


def reduction_of(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Look up a reduction over the channels of [..., 3, H, W].

    Parameters
    ----------
    name : {"max", "sum", "none"}
        The largest or the sum of the absolute values, or none: the signed values as they are.

    Raises
    ------
    InputError
        If the name is another.
    """
    if name not in REDUCTIONS:
        raise InputError(f"reduction: {name!r} is unknown; choose one of {tuple(REDUCTIONS)}")
    return REDUCTIONS[name]
