"""Guided backpropagation (Springenberg et al., "Striving for Simplicity", ICLR 2015)."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from crosseai.errors import InputError
from crosseai.maps.state import class_index, evaluation_mode, forward_without_parameters

__all__ = ["guided_backprop"]


def guided_backprop(
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
    reduction: str = "max",
) -> torch.Tensor:
    """Gradient of the logits by the input where ReLUs let only positive gradients back.

    One forward pass is shared by all classes, each class costs one backward pass, and gradients
    of parameters are never computed.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits [N, L]. It is left as it was. Its ReLUs may be modules, reused, in
        place or functions: they are met when they are called, not where they are stored.
    images : Tensor [N, 3, H, W]
        Normalised as the model wants them.
    classes : sequence of int, or Tensor [C] or [N, C] int
        Logits to explain, the same for all images or each image's own.
    reduction : {"max", "sum", "none"}
        Over the input's channels: the largest or the sum of the absolute values, or none.

    Returns
    -------
    Tensor [N, C, H, W]
        Never negative, in logits per unit of the input; [N, C, 3, H, W] signed with "none".
    """
    if reduction not in REDUCTIONS:
        raise InputError(f"reduction: {reduction!r} is unknown; choose one of {tuple(REDUCTIONS)}")
    reduce = REDUCTIONS[reduction]
    index = class_index(classes, images)  # [N, C]
    leaf = images.detach().requires_grad_()
    with evaluation_mode(model), torch.enable_grad(), GuidedReLUs():
        # The clone lets a network begin with an in-place operation.
        logits = forward_without_parameters(model, leaf.clone())
        maps = []
        for column in index.T:  # [N]
            score = logits.gather(1, column[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, leaf, retain_graph=True)  # [N, 3, H, W]
            maps.append(reduce(gradient))
    return torch.stack(maps, 1)


#: From the gradient [N, 3, H, W] to the map.
REDUCTIONS = {
    "max": lambda gradient: gradient.abs().amax(1),
    "sum": lambda gradient: gradient.abs().sum(1),
    "none": lambda gradient: gradient,
}


class GuidedReLU(torch.autograd.Function):
    """A ReLU whose backward pass also drops negative gradients."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, in_place: bool) -> torch.Tensor:
        """ReLU of x, any shape."""
        output = x.relu_() if in_place else x.relu()
        if in_place:
            ctx.mark_dirty(x)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Pass the gradient where it and the activation are positive."""
        (output,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient.relu(), output, 0), None


class GuidedReLUs(TorchFunctionMode):
    """While active, every ReLU that PyTorch is asked for is a guided one."""

    OUT_OF_PLACE = frozenset({torch.relu, torch.Tensor.relu, functional.relu})
    IN_PLACE = frozenset({torch.relu_, torch.Tensor.relu_})

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Replace ReLUs; everything else goes on as it is."""
        kwargs = kwargs or {}
        if function not in self.OUT_OF_PLACE and function not in self.IN_PLACE:
            return function(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        # In place means that the caller may go on with x itself, not with what is returned.
        inplace = kwargs.get("inplace", len(args) > 1 and args[1])
        if function not in self.IN_PLACE and not inplace:
            return GuidedReLU.apply(x, False)
        if x._is_view():  # which autograd lets no custom function write to
            return x.copy_(GuidedReLU.apply(x, False))
        return GuidedReLU.apply(x, True)
