"""Class activation maps: Grad-CAM++ (Chattopadhay et al., WACV 2018)."""

from collections.abc import Sequence

import torch
from torch import nn

from crosseai.errors import InputError
from crosseai.maps.state import class_index, evaluation_mode, forward_without_parameters

__all__ = ["closed_form", "general_formula", "grad_cam_plus_plus"]


def grad_cam_plus_plus(
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
    layer: str | None = None,
) -> torch.Tensor:
    """Grad-CAM++ heatmaps at the native size of the layer.

    A network that ends in global average pooling and one linear layer takes the closed form: one
    forward pass serves every class. Any other takes the general formula, a backward pass a class
    from the logit to the layer. Which one applies is seen in the forward pass.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits [N, L]. It is left as it was: mode, gradients and hooks.
    images : Tensor [N, 3, H, W]
        Normalised as the model wants them.
    classes : sequence of int, or Tensor [C] or [N, C] int
        Logits to explain, the same for all images or each image's own.
    layer : str, optional
        Name of the module whose output is weighed; by default the last one that gives more than
        one pixel.

    Returns
    -------
    Tensor [N, C, h, w]
        Never negative; in units of the logit's first-order change.

    Raises
    ------
    ValueError
        If the layer does not exist or no module gives a spatial output.
    """
    index = class_index(classes, images)  # [N, C]
    with evaluation_mode(model), Recorder(model, layer) as recorder:
        with torch.no_grad():
            logits = forward_without_parameters(model, images)
        if recorder.pools_linearly(logits):
            return closed_form(recorder.activation, recorder.linear.weight.detach()[index])
        with torch.enable_grad():
            logits = forward_without_parameters(model, images.detach().requires_grad_())
            return general_formula(recorder.activation, logits, index)


def closed_form(activation: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Grad-CAM++ where the logit is a linear function of the pooled activations.

    With ``y = b + sum_k theta_k mean(A_k)`` the gradient is ``theta_k / Z`` at each of the Z
    pixels, and the weights of Grad-CAM++'s equations 10 and 19 become

        w_k = ReLU(theta_k) / (2 + theta_k mean(A_k)).

    Parameters
    ----------
    activation : Tensor [N, K, h, w]
    theta : Tensor [N, C, K]
        Rows of the linear layer.

    Returns
    -------
    Tensor [N, C, h, w]
    """
    mean = activation.mean((2, 3))[:, None]  # [N, 1, K]
    weight = theta.relu() / (2 + theta.relu() * mean)  # [N, C, K]
    return torch.einsum("nck,nkhw->nchw", weight, activation).relu()


def general_formula(
    activation: torch.Tensor, logits: torch.Tensor, index: torch.Tensor
) -> torch.Tensor:
    """Grad-CAM++ by its equations 10 and 19, for any head.

    The score is the exponential of the logit, whose second and third derivatives are powers of
    the first where the head is piecewise linear:

        alpha = g^2 / (2 g^2 + g^3 sum(A)),  w = sum(alpha ReLU(g)),  g = d logit / d A.

    Parameters
    ----------
    activation : Tensor [N, K, h, w]
        Part of the graph of `logits`.
    logits : Tensor [N, L]
    index : Tensor [N, C] int

    Returns
    -------
    Tensor [N, C, h, w]
    """
    heatmaps = []
    for column in index.T:  # [N]
        score = logits.gather(1, column[:, None]).sum()
        (g,) = torch.autograd.grad(score, activation, retain_graph=True)  # [N, K, h, w]
        total = activation.detach().sum((2, 3), keepdim=True)  # [N, K, 1, 1]
        # g^2 cancels; only positive gradients count, so the denominator stays away from zero.
        alpha = 1 / (2 + g.relu() * total)
        weight = (alpha * g.relu()).sum((2, 3))  # [N, K]
        heatmaps.append(torch.einsum("nk,nkhw->nhw", weight, activation.detach()).relu())
    return torch.stack(heatmaps, 1)


class Recorder:
    """Keep, during a forward pass, the layer's output and the last linear layer's input."""

    def __init__(self, model: nn.Module, layer: str | None):
        modules = dict(model.named_modules())
        if layer is not None and layer not in modules:
            raise InputError(f"layer: the model has no module {layer!r}")
        self.activation = self.linear = self.pooled = self.linear_output = None
        leaves = [module for module in modules.values() if not list(module.children())]
        self._watched = leaves if layer is None else [modules[layer]]
        self._linears = [module for module in leaves if isinstance(module, nn.Linear)]
        self._handles = []

    def __enter__(self) -> "Recorder":
        self._handles = [m.register_forward_hook(self._keep_spatial) for m in self._watched]
        self._handles += [m.register_forward_hook(self._keep_linear) for m in self._linears]
        return self

    def __exit__(self, *_) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep_spatial(self, _module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        if torch.is_tensor(output) and output.ndim == 4 and output.shape[2:].numel() > 1:
            self.activation = output

    def _keep_linear(self, module: nn.Linear, inputs: tuple, output: torch.Tensor) -> None:
        self.linear, self.pooled, self.linear_output = module, inputs[0], output

    def pools_linearly(self, logits: torch.Tensor) -> bool:
        """Whether the logits are a linear layer's output for the mean of the activation."""
        if self.activation is None:
            raise InputError("layer: no module gives a map of more than one pixel; name one")
        if self.linear_output is not logits or self.pooled.shape != self.activation.shape[:2]:
            return False
        mean = self.activation.mean((2, 3))
        return bool(torch.allclose(self.pooled, mean, rtol=1e-4, atol=1e-6))
