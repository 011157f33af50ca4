"""How a model is explained and left as it was."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.func import functional_call

__all__ = ["class_index", "evaluation_mode", "forward_without_parameters"]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode and every module back into its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def forward_without_parameters(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits of `images`, differentiable in the images but not in the parameters.

    The parameters' own `requires_grad` and `grad` are not touched, and no gradient of theirs is
    ever computed or stored. The network may begin with an in-place operation: it gets a copy.
    """
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    return functional_call(model, parameters, images.clone(), tie_weights=True)


def class_index(classes: Sequence[int] | torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Classes of each image, int [N, C], from [C] for all images alike or [N, C]."""
    index = torch.as_tensor(classes, device=images.device)
    if index.ndim == 1:
        index = index.expand(len(images), -1)
    if index.ndim != 2 or len(index) != len(images):
        raise ValueError(f"classes: shape {tuple(index.shape)}, expected [C] or [{len(images)}, C]")
    return index
