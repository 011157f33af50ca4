"""Class activation maps: the channels of a layer, each weighed by what it does for the class."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from crosseai.errors import InputError
from crosseai.maps.state import class_index, evaluation_mode, forward_without_parameters

__all__ = ["Recorder", "cam", "grad_cam", "grad_cam_plus_plus"]


def cam(
    model: nn.Module, images: torch.Tensor, classes: Sequence[int] | torch.Tensor
) -> torch.Tensor:
    """Class activation maps (Zhou et al., CVPR 2016) at the native size of the last feature map.

    The activations that a network pools, weighed by the row of its one linear layer. Their pooling
    may be any that works channel by channel: the mean (Zhou), Log-Sum-Exp (Wang et al., CVPR
    2017), the maximum. One forward pass serves every class.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits [N, L]. It is left as it was: mode, gradients and hooks.
    images : Tensor [N, 3, H, W]
        Normalised as the model wants them.
    classes : sequence of int, or Tensor [C] or [N, C] int
        Logits to explain, the same for all images or each image's own.

    Returns
    -------
    Tensor [N, C, h, w]
        Signed, in logits: negative where a pixel speaks against the class.

    Raises
    ------
    InputError
        If the network does not end in such a pooling and one linear layer.
    """
    index = class_index(classes, images)  # [N, C]
    with evaluation_mode(model), Recorder(model) as recorder, torch.no_grad():
        logits = forward_without_parameters(model, images)
    if not recorder.pools(logits):
        raise InputError(
            "kind: cam needs a network that pools its last feature map channel by channel and "
            "ends in one linear layer; choose grad_cam for this one"
        )
    theta = recorder.linear.weight.detach()[index]  # [N, C, K]
    return torch.einsum("nck,nkhw->nchw", theta, recorder.activation)


def grad_cam(
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
    layer: str | None = None,
) -> torch.Tensor:
    """Grad-CAM heatmaps (Selvaraju et al., ICCV 2017) at the native size of the layer.

    Each channel is weighed by the mean of the logit's gradient. Parameters, result and errors as
    `grad_cam_plus_plus`.
    """
    return heatmaps(model, images, classes, layer, mean_weight)


def grad_cam_plus_plus(
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
    layer: str | None = None,
) -> torch.Tensor:
    """Grad-CAM++ heatmaps (Chattopadhay et al., WACV 2018) at the native size of the layer.

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
    return heatmaps(model, images, classes, layer, plus_plus_weight)


#: From the gradient of a logit by the activations and the activations, both [..., K, h, w], to the
#: weights of the channels [..., K]. A gradient that is the same at all pixels may come as
#: [..., K, 1, 1].
Weigh = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def mean_weight(gradient: torch.Tensor, activation: torch.Tensor) -> torch.Tensor:
    """Weights of Grad-CAM, equation 1: the mean of the gradient."""
    return gradient.mean((-2, -1))


def plus_plus_weight(gradient: torch.Tensor, activation: torch.Tensor) -> torch.Tensor:
    """Weights of Grad-CAM++, equations 10 and 19.

    The score is the exponential of the logit, whose second and third derivatives are powers of
    the first where the head is piecewise linear:

        alpha = g^2 / (2 g^2 + g^3 sum(A)),  w = sum(alpha ReLU(g)),  g = d logit / d A.
    """
    total = activation.sum((-2, -1), keepdim=True)  # [..., K, 1, 1]
    # g^2 cancels; only positive gradients count, so the denominator stays away from zero.
    alpha = 1 / (2 + gradient.relu() * total)
    return activation.shape[-2:].numel() * (alpha * gradient.relu()).mean((-2, -1))


def heatmaps(
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
    layer: str | None,
    weigh: Weigh,
) -> torch.Tensor:
    """Positive part of the layer's channels, weighed and summed; see `grad_cam_plus_plus`."""
    index = class_index(classes, images)  # [N, C]
    with evaluation_mode(model), Recorder(model, layer) as recorder:
        with torch.no_grad():
            logits = forward_without_parameters(model, images)
        if recorder.averages(logits):
            theta = recorder.linear.weight.detach()[index]  # [N, C, K]
            return closed_form(recorder.activation, theta, weigh)
        with torch.enable_grad():
            logits = forward_without_parameters(model, images.detach().requires_grad_())
            return general_formula(recorder.activation, logits, index, weigh)


def closed_form(activation: torch.Tensor, theta: torch.Tensor, weigh: Weigh) -> torch.Tensor:
    """Heatmaps where the logit is a linear function of the mean of the activations.

    With ``y = b + sum_k theta_k mean(A_k)`` the gradient is ``theta_k / Z`` at each of the Z
    pixels: Grad-CAM's weights are just that, and those of Grad-CAM++ become

        w_k = ReLU(theta_k) / (2 + ReLU(theta_k) mean(A_k)).

    Parameters
    ----------
    activation : Tensor [N, K, h, w]
    theta : Tensor [N, C, K]
        Rows of the linear layer.
    weigh : Weigh

    Returns
    -------
    Tensor [N, C, h, w]
    """
    activation = at_least_single(activation)
    gradient = theta[..., None, None] / activation.shape[2:].numel()  # [N, C, K, 1, 1]
    weight = weigh(gradient, activation[:, None])  # [N, C, K]
    return torch.einsum("nck,nkhw->nchw", weight, activation).relu()


def general_formula(
    activation: torch.Tensor, logits: torch.Tensor, index: torch.Tensor, weigh: Weigh
) -> torch.Tensor:
    """Heatmaps for any head, a backward pass a class.

    Parameters
    ----------
    activation : Tensor [N, K, h, w]
        Part of the graph of `logits`.
    logits : Tensor [N, L]
    index : Tensor [N, C] int
    weigh : Weigh

    Returns
    -------
    Tensor [N, C, h, w]
    """
    values, found = at_least_single(activation.detach()), []
    for column in index.T:  # [N]
        score = logits.gather(1, column[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, activation, retain_graph=True)  # [N, K, h, w]
        weight = weigh(at_least_single(gradient), values)  # [N, K]
        found.append(torch.einsum("nk,nkhw->nhw", weight, values).relu())
    return torch.stack(found, 1)


def at_least_single(values: torch.Tensor) -> torch.Tensor:
    """Half precision, where a network has it, is too coarse for sums over a map."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Recorder:
    """Keep, during a forward pass, the layer, its output and what a linear layer makes of it.

    Attributes
    ----------
    layer : nn.Module
        The named one, or the last that gave more than one pixel.
    activation : Tensor [N, K, h, w]
        What it gave.
    linear : nn.Linear
        The last one that was called.
    """

    def __init__(self, model: nn.Module, layer: str | None = None):
        modules = dict(model.named_modules())
        if layer is not None and layer not in modules:
            raise InputError(f"layer: the model has no module {layer!r}")
        self.layer = self.activation = self.linear = self._pooled = self._linear_output = None
        self._learned_since = 0
        leaves = [module for module in modules.values() if not list(module.children())]
        self._watched = leaves if layer is None else [modules[layer]]
        self._learned = [m for m in modules.values() if list(m.parameters(recurse=False))]
        self._handles = []

    def __enter__(self) -> "Recorder":
        # In this order, so that a learned layer that gives a map does not count as behind it.
        self._handles = [m.register_forward_hook(self._keep_linear) for m in self._learned]
        self._handles += [m.register_forward_hook(self._keep_spatial) for m in self._watched]
        return self

    def __exit__(self, *_) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep_linear(self, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        self._learned_since += 1
        if isinstance(module, nn.Linear):
            self.linear, self._pooled, self._linear_output = module, inputs[0], output

    def _keep_spatial(self, module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        if torch.is_tensor(output) and output.ndim == 4 and output.shape[2:].numel() > 1:
            self.layer, self.activation = module, output
            self._learned_since = 0

    def check(self) -> None:
        """See that the forward pass met a map."""
        if self.activation is None:
            raise InputError("layer: no module gives a map of more than one pixel; name one")

    def pools(self, logits: torch.Tensor) -> bool:
        """Whether one linear layer makes the logits of one number a channel of the map.

        No other learned layer may come between, and the number must lie between the channel's
        extremes, as that of a pooling does.
        """
        self.check()
        if self._linear_output is not logits or self._learned_since != 1:
            return False
        if self._pooled.shape != self.activation.shape[:2]:
            return False
        low, high = self.activation.amin((2, 3)), self.activation.amax((2, 3))  # [N, K]
        margin = 1e-6 + 1e-4 * torch.maximum(low.abs(), high.abs())
        return bool(((self._pooled >= low - margin) & (self._pooled <= high + margin)).all())

    def averages(self, logits: torch.Tensor) -> bool:
        """Whether that number is the mean."""
        if not self.pools(logits):
            return False
        mean = at_least_single(self.activation).mean((2, 3))
        return bool(torch.allclose(self._pooled, mean, rtol=1e-4, atol=1e-6))
