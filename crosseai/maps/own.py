"""Maps that a classifier makes itself."""

from collections.abc import Sequence

import torch
from torch import nn

from crosseai.errors import InputError
from crosseai.maps.state import class_index, evaluation_mode

__all__ = ["own"]


def own(
    model: nn.Module, images: torch.Tensor, classes: Sequence[int] | torch.Tensor
) -> torch.Tensor:
    """The map of each class that ``model.heatmaps(images)`` gives, such as patch probabilities.

    Parameters
    ----------
    model : nn.Module
        Has a method `heatmaps` from images to maps [N, L, h, w] of all its classes.
    images : Tensor [N, 3, H, W]
        Normalised as the model wants them.
    classes : sequence of int, or Tensor [C] or [N, C] int
        Maps to take, the same for all images or each image's own.

    Returns
    -------
    Tensor [N, C, h, w]

    Raises
    ------
    InputError
        If the model has no such method.
    """
    if not hasattr(model, "heatmaps"):
        raise InputError(
            f"kind: own needs a classifier that makes maps; {type(model).__name__} makes none, "
            "choose another kind"
        )
    index = class_index(classes, images)  # [N, C]
    with evaluation_mode(model), torch.no_grad():
        maps = model.heatmaps(images)  # [N, L, h, w]
    return maps[torch.arange(len(maps), device=maps.device)[:, None], index]
