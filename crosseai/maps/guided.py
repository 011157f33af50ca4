"""Gradients by the input with ReLUs of another backward pass: guided backpropagation, deconvnet."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from crosseai.maps.channels import reduction_of
from crosseai.maps.state import class_index, evaluation_mode, forward_without_parameters

__all__ = ["deconvnet", "guided_backprop"]


def guided_backprop(
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
    reduction: str = "max",
) -> torch.Tensor:
    """Guided backpropagation (Springenberg et al., "Striving for Simplicity", ICLR 2015).

    The gradient of the logits by the input where a ReLU lets back only what is positive, and only
    where its activation is. One forward pass is shared by all classes, each class costs one
    backward pass, and gradients of parameters are never computed.

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
    return rectified_gradient(model, images, classes, reduction, guided=True)


def deconvnet(
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
    reduction: str = "max",
) -> torch.Tensor:
    """Deconvnet (Zeiler and Fergus, ECCV 2014).

    As `guided_backprop`, but a ReLU lets back what is positive wherever it is.
    """
    return rectified_gradient(model, images, classes, reduction, guided=False)


def rectified_gradient(
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
    reduction: str,
    guided: bool,
) -> torch.Tensor:
    """Gradient of the logits by the input through `RectifyingReLUs`; see `guided_backprop`."""
    reduce = reduction_of(reduction)
    index = class_index(classes, images)  # [N, C]
    leaf = images.detach().requires_grad_()
    with evaluation_mode(model), torch.enable_grad(), RectifyingReLUs(guided):
        return gradients(forward_without_parameters(model, leaf), leaf, index, reduce)


def gradients(
    logits: torch.Tensor,
    images: torch.Tensor,
    index: torch.Tensor,
    reduce: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Gradient of each image's logits by the image, a backward pass a class.

    Parameters
    ----------
    logits : Tensor [N, L]
    images : Tensor [N, 3, H, W]
        The leaf of the graph of `logits`.
    index : Tensor [N, C] int
    reduce : callable
        From [N, 3, H, W] to the map.

    Returns
    -------
    Tensor [N, C, ...]
    """
    maps = []
    for column in index.T:  # [N]
        score = logits.gather(1, column[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, images, retain_graph=True)  # [N, 3, H, W]
        maps.append(reduce(gradient))
    return torch.stack(maps, 1)


class RectifyingReLU(torch.autograd.Function):
    """A ReLU whose backward pass drops negative gradients."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, guided: bool, in_place: bool) -> torch.Tensor:
        """ReLU of x, any shape."""
        output = x.relu_() if in_place else x.relu()
        if in_place:
            ctx.mark_dirty(x)
        if guided:
            ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Pass the gradient where it is positive and, if guided, the activation is too."""
        if not ctx.saved_tensors:
            return gradient.relu(), None, None
        (output,) = ctx.saved_tensors
        passed = torch.ops.aten.threshold_backward(gradient, output, 0)  # a tensor of its own
        return passed.relu_(), None, None


class RectifyingReLUs(TorchFunctionMode):
    """While active, every ReLU that PyTorch is asked for is a `RectifyingReLU`."""

    OUT_OF_PLACE = frozenset({torch.relu, torch.Tensor.relu, functional.relu})
    IN_PLACE = frozenset({torch.relu_, torch.Tensor.relu_})

    def __init__(self, guided: bool):
        super().__init__()
        self.guided = guided

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Replace ReLUs; everything else goes on as it is."""
        kwargs = kwargs or {}
        if function not in self.OUT_OF_PLACE and function not in self.IN_PLACE:
            return function(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        # In place means that the caller may go on with x itself, not with what is returned.
        inplace = kwargs.get("inplace", len(args) > 1 and args[1])
        if function not in self.IN_PLACE and not inplace:
            return RectifyingReLU.apply(x, self.guided, False)
        if x._is_view():  # which autograd lets no custom function write to
            return x.copy_(RectifyingReLU.apply(x, self.guided, False))
        return RectifyingReLU.apply(x, self.guided, True)
