"""Explanations that compare the image with a black one, by captum.

Black is what the image's own darkest pixel is, so that neither the normalisation nor the depth of
the image need be known. Images are explained one at a time: neither the memory nor the result
depends on how many come together.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import exp

import numpy as np
import torch
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import IntegratedGradients, LayerConductance, Lime
from skimage.segmentation import slic
from torch import nn

from crosseai.errors import InputError
from crosseai.maps.cam import Recorder
from crosseai.maps.channels import reduction_of
from crosseai.maps.state import class_index, evaluation_mode, forward_without_parameters

__all__ = ["integrated_gradients", "layer_conductance", "lime", "segments"]

#: Images that go through the network together.
AT_ONCE = 16


def integrated_gradients(
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
    steps: int = 50,
    reduction: str = "max",
) -> torch.Tensor:
    """Integrated gradients (Sundararajan et al., ICML 2017).

    The gradient of the logit by the input, averaged over the straight path from the black image
    by the rule of Gauss and Legendre, times the way from there.

    Parameters
    ----------
    model : nn.Module
        Maps images to logits [N, L]. It is left as it was: mode, gradients and hooks.
    images : Tensor [N, 3, H, W]
        Normalised as the model wants them.
    classes : sequence of int, or Tensor [C] or [N, C] int
        Logits to explain, the same for all images or each image's own.
    steps : int
        Points on the path; each costs a forward and a backward pass an image and class.
    reduction : {"max", "sum", "none"}
        Over the input's channels: the largest or the sum of the absolute values, or none.

    Returns
    -------
    Tensor [N, C, H, W]
        Never negative, in logits; [N, C, 3, H, W] signed with "none", which adds up to the logit
        of the image less that of the black one.
    """
    check_positive("steps", steps)
    reduce = reduction_of(reduction)
    method = IntegratedGradients(partial(forward_without_parameters, model))

    def explain(image: torch.Tensor, label: int) -> torch.Tensor:
        values = method.attribute(
            image, black(image), label, n_steps=steps, internal_batch_size=AT_ONCE
        )  # [1, 3, H, W]
        return reduce(values[0])

    return one_by_one(explain, model, images, classes)


def layer_conductance(
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
    layer: str | None = None,
    steps: int = 50,
) -> torch.Tensor:
    """Layer conductance (Dhamdhere et al., ICLR 2019) at the native size of the layer.

    What flows through each unit of the layer on the straight path from the black image, summed
    over the channels. Behind a mean and one linear layer that is, whatever the steps, the weighed
    sum of the activations less that of the black image's.

    Parameters
    ----------
    model, images, classes
        As for `integrated_gradients`.
    layer : str, optional
        Name of the module; by default the last one that gives more than one pixel.
    steps : int
        Parts of the path; each costs a forward and a backward pass an image and class.

    Returns
    -------
    Tensor [N, C, h, w]
        The positive part, in logits.

    Raises
    ------
    ValueError
        If the layer does not exist or no module gives a spatial output.
    """
    check_positive("steps", steps)
    with evaluation_mode(model), torch.no_grad(), Recorder(model, layer) as recorder:
        forward_without_parameters(model, images[:1])
    recorder.check()
    method = LayerConductance(partial(forward_without_parameters, model), recorder.layer)

    def explain(image: torch.Tensor, label: int) -> torch.Tensor:
        values = method.attribute(
            image,
            black(image),
            label,
            n_steps=steps,
            method="riemann_trapezoid",  # whose points reach both ends of the path
            internal_batch_size=AT_ONCE,
        )  # [1, K, h, w]
        if values.shape[1:] != recorder.activation.shape[1:]:
            raise InputError("layer: the module is used again behind its map; name another")
        return values[0].detach().sum(0).relu()

    return one_by_one(explain, model, images, classes)


def lime(
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
    samples: int = 1000,
    superpixels: int = 64,
    seed: int = 0,
) -> torch.Tensor:
    """LIME (Ribeiro et al., KDD 2016).

    Half of the superpixels, drawn anew for each sample, are made black; a ridge regression of the
    logit on what was left as it is gives each superpixel its weight. Samples that keep more count
    more. Kernel and ridge are those of the authors' package.

    Parameters
    ----------
    model, images, classes
        As for `integrated_gradients`.
    samples : int
        Forward passes an image and class.
    superpixels : int
        About how many; see `segments`.
    seed : int
        Of the samples, the same for every image.

    Returns
    -------
    Tensor [N, C, H, W]
        The positive weights, in logits.
    """
    check_positive("samples", samples)
    check_positive("superpixels", superpixels)
    logits = partial(forward_without_parameters, model)

    def explain(image: torch.Tensor, label: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)

        def keep_half(_image: torch.Tensor, num_interp_features: int, **_) -> torch.Tensor:
            half = torch.full((1, num_interp_features), 0.5)
            return torch.bernoulli(half, generator=generator).long().to(image.device)

        parts = torch.from_numpy(segments(image[0].mean(0).cpu().numpy(), superpixels))
        parts = parts.to(image.device)  # [H, W]
        method = Lime(logits, SkLearnRidge(alpha=1.0), nearness, keep_half)
        weights = method.attribute(
            image,
            black(image),
            label,
            feature_mask=parts[None, None],
            n_samples=samples,
            perturbations_per_eval=AT_ONCE,
            return_input_shape=False,
        )
        return weights.flatten().to(image)[parts].relu()

    return one_by_one(explain, model, images, classes)


def segments(grey: np.ndarray, number: int) -> np.ndarray:
    """Superpixels of an image, by SLIC (Achanta et al., TPAMI 2012).

    Parameters
    ----------
    grey : ndarray [H, W] float
        On any scale.
    number : int
        About how many.

    Returns
    -------
    ndarray [H, W] int64
        0, 1, ... without a gap.
    """
    return slic(grey, number, compactness=0.1, channel_axis=None, start_label=0)


def nearness(_image: torch.Tensor, _perturbed: torch.Tensor, kept: torch.Tensor, **_) -> float:
    """Weight of a sample: falls with the cosine distance between `kept` [1, S] and all ones."""
    distance = 1 - kept.float().mean().sqrt().item()
    return exp(-((distance / 0.25) ** 2) / 2)


def black(image: torch.Tensor) -> torch.Tensor:
    """Image [1, 3, H, W] that is everywhere what the darkest pixel of `image` is."""
    return image.amin((2, 3), keepdim=True).expand_as(image)


def one_by_one(
    explain: Callable[[torch.Tensor, int], torch.Tensor],
    model: nn.Module,
    images: torch.Tensor,
    classes: Sequence[int] | torch.Tensor,
) -> torch.Tensor:
    """Stack [N, C, ...] of what `explain` gives for each image [1, 3, H, W] and class."""
    index, images = class_index(classes, images), images.detach()
    with evaluation_mode(model):
        rows = [
            torch.stack([explain(image, label) for label in labels])
            for image, labels in zip(images.split(1), index.tolist(), strict=True)
        ]
    return torch.stack(rows)


def check_positive(name: str, value: int) -> None:
    """See that a count counts something."""
    if value < 1:
        raise InputError(f"{name}: {value}; must be at least 1")
