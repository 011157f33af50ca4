"""The two maps that CrossEAI fuses, from one forward pass."""

from collections.abc import Sequence

import torch
from torch import nn

from crosseai.maps.cam import Recorder, closed_form, grad_cam_plus_plus, plus_plus_weight
from crosseai.maps.channels import reduction_of
from crosseai.maps.guided import RectifyingReLUs, gradients
from crosseai.maps.state import class_index, evaluation_mode, forward_without_parameters

__all__ = ["heatmaps_and_gradients"]


def heatmaps_and_gradients(
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
    reduction: str = "max",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Grad-CAM++ heatmaps and guided backpropagation of the same images and classes.

    Equal to `crosseai.maps.cam.grad_cam_plus_plus` and `crosseai.maps.guided.guided_backprop`, and
    a forward pass cheaper where the network ends in global average pooling and one linear layer:
    an ReLU's other backward pass does not change what it gives forward.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits [N, L]. It is left as it was.
    images : Tensor [N, 3, H, W]
        Normalised as the model wants them.
    classes : sequence of int, or Tensor [C] or [N, C] int
        Logits to explain, the same for all images or each image's own.
    reduction : {"max", "sum", "none"}
        Over the gradient's channels, as in `crosseai.maps.guided.guided_backprop`.

    Returns
    -------
    heatmaps : Tensor [N, C, h, w]
        Never negative, at the native size of the last feature map.
    gradients : Tensor [N, C, H, W]
        Never negative; [N, C, 3, H, W] signed with "none".
    """
    index = class_index(classes, images)  # [N, C]
    reduce = reduction_of(reduction)
    leaf = images.detach().requires_grad_()
    with evaluation_mode(model), torch.enable_grad(), RectifyingReLUs(guided=True):
        with Recorder(model) as recorder:
            logits = forward_without_parameters(model, leaf)
        maps = gradients(logits, leaf, index, reduce)
    if not recorder.averages(logits):
        return grad_cam_plus_plus(model, images, index), maps
    with torch.no_grad():
        theta = recorder.linear.weight[index]  # [N, C, K]
        return closed_form(recorder.activation.detach(), theta, plus_plus_weight), maps
