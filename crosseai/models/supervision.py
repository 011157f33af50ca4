"""The classifier that sees boxes (Li et al. 2018): patch logits and a noisy-or over them."""

import math

import torch
from torch import nn
from torch.nn.functional import (
    adaptive_avg_pool2d,
    binary_cross_entropy_with_logits,
    interpolate,
)

from crosseai.errors import InputError
from crosseai.models.backbone import build_backbone
from crosseai.models.classifier import Classifier, Targets, without_autocast
from crosseai.models.losses import box_cross_entropy, noisy_or

__all__ = ["Supervision", "patches_in"]

#: The probability that an image can reach at least, where the paper's rescaling would cap it.
CAP = 0.99
PAPERS_FACTOR = 0.98


class Supervision(Classifier):
    """Backbone, a grid of patches, one logit a patch and label, and a noisy-or over the patches.

    An image and label without a box learn from the label: the image is positive if any patch is.
    With a box, the patches that it touches learn to be positive and the others negative.

    The logit of an image is that of the rescaled noisy-or (see `crosseai.models.losses.noisy_or`),
    whose probability never exceeds ``1 - lowest_factor ** (grid * grid)``.

    Parameters
    ----------
    labels : sequence of str
    backbone, stride_in_1x1, output_stride, width
        See `crosseai.models.backbone.build_backbone`.
    grid : int
        P: patches across and down. The backbone's last map is enlarged to it bilinearly or
        averaged down to it.
    recognition_channels : int
        Channels of the 3x3 convolution on the grid.
    box_weight : float
        Lambda: what the loss of a box counts, that of a label being 1.
    patch_prior : float
        The probability that a patch is positive before training: the classification layer's bias
        (Lin et al. 2017, Focal Loss, section 4.1). With 0.5 the noisy-or of some 200 patches calls
        every image positive, and a short training does little but unlearn that.
    lowest_factor : float, optional
        b: each factor of a product over patches is rescaled from [0, 1] to [b, 1]. By default the
        paper's 0.98, or less for a grid so small that an image's probability could not reach 0.99.
    """

    sees_boxes = True

    def __init__(
        self,
        labels: list[str],
        backbone: str = "resnet50",
        stride_in_1x1: bool = False,
        output_stride: int = 32,
        width: int = 64,
        grid: int = 16,
        recognition_channels: int = 512,
        box_weight: float = 5.0,
        patch_prior: float = 0.01,
        lowest_factor: float | None = None,
    ):
        super().__init__()
        if lowest_factor is None:
            lowest_factor = min(PAPERS_FACTOR, (1 - CAP) ** (1 / grid**2))
        if not 0 < lowest_factor < 1:
            raise InputError(f"lowest_factor: {lowest_factor} does not lie between 0 and 1")
        if not 0 < patch_prior < 1:
            raise InputError(f"patch_prior: {patch_prior} does not lie between 0 and 1")
        self.labels = list(labels)
        self.features, channels = build_backbone(
            backbone, "none", 0.0, stride_in_1x1, output_stride, width
        )
        self.features.add_module("grid", Grid(grid))
        recognition = nn.Sequential(
            nn.Conv2d(channels, recognition_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(recognition_channels),
            nn.ReLU(inplace=True),
        )
        self.features.add_module("recognition", recognition)
        self.classifier = nn.Conv2d(recognition_channels, len(self.labels), 1)
        nn.init.constant_(self.classifier.bias, math.log(patch_prior / (1 - patch_prior)))
        self.box_weight = box_weight
        self.lowest_factor = lowest_factor

    def patch_logits(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [N, L, P, P] of the last feature map [N, D, P, P], never in half precision."""
        with without_autocast(features):
            precision = torch.promote_types(features.dtype, torch.float32)
            return self.classifier(features.to(precision))

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [N, L] of the last feature map [N, D, P, P], never in half precision."""
        with without_autocast(features):
            return noisy_or(self.patch_logits(features), self.lowest_factor)

    def heatmaps(self, images: torch.Tensor) -> torch.Tensor:
        """Probability of each patch, not rescaled, [N, L, P, P] of images [N, 3, H, W]."""
        return self.patch_logits(self.features(images)).sigmoid()

    def losses(self, inputs: torch.Tensor, stage: int, targets: Targets) -> dict[str, torch.Tensor]:
        """Loss of images and labels without a box, and with one; see `Classifier.losses`.

        Both are sums, divided by the number of all pairs of image and label.
        """
        features = self.features[stage:](inputs)  # [B, D, P, P]
        with without_autocast(features):
            logits = self.patch_logits(features)  # [B, L, P, P]
            inside = patches_in(targets.boxes, logits.shape[-1])  # [B, L, P, P]
            # A box that touches no patch was moved out of the image: it shows nothing.
            boxed = inside.any(3).any(2)  # [B, L]
            bag = binary_cross_entropy_with_logits(
                noisy_or(logits, self.lowest_factor), targets.truth, reduction="none"
            )
            box = box_cross_entropy(logits, inside, self.lowest_factor)
            classification = torch.where(boxed, 0, bag).mean()
            localisation = torch.where(boxed, box, 0).mean()
        return {
            "total": classification + self.box_weight * localisation,
            "classification": classification,
            "localisation": localisation,
        }


class Grid(nn.Module):
    """Resize a feature map to P x P patches."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, h, w] to [N, C, P, P]."""
        if max(x.shape[2:]) > self.size:
            return adaptive_avg_pool2d(x, self.size)
        return interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)


def patches_in(boxes: torch.Tensor, grid: int) -> torch.Tensor:
    """Which patches of a grid boxes touch, by more than their border.

    Parameters
    ----------
    boxes : Tensor [..., 4] float
        x1, y1, x2, y2 as shares of the image; NaN touches nothing.
    grid : int
        Patches across and down.

    Returns
    -------
    Tensor [..., grid, grid] bool
        Rows before columns.
    """
    x1, y1, x2, y2 = (grid * boxes[..., None]).unbind(-2)  # [..., 1]
    start = torch.arange(grid, device=boxes.device)  # [grid]
    columns = (x1 < start + 1) & (x2 > start)  # [..., grid]
    rows = (y1 < start + 1) & (y2 > start)
    return rows[..., :, None] & columns[..., None, :]
