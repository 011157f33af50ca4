"""ChexRadiNet (Han et al., AMIA Annual Symposium 2021; arXiv:2011.12506), a reconstruction.

Of the paper the outline alone was at hand, and its code could not be had: radiomic features of the
region that the class activation map shows guide the image features, and better image features show
a better region. How the guidance works here is that of the group's later CheXT: the image's vector
and the region's radiomic vector are a pair of a contrastive loss.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from tqdm import tqdm

from crosseai.boxes.regions import largest_region, mask_of
from crosseai.models.backbone import build_backbone
from crosseai.models.classifier import Classifier, Targets, pool, without_autocast
from crosseai.models.losses import nt_xent
from crosseai.models.radiomics import FEATURES, radiomic_features

__all__ = ["ChexRadiNet", "standardise"]

#: Length of the vectors that the contrastive loss compares.
EMBEDDING = 128

#: Images at a time on their way to the regions.
BATCH = 64


class ChexRadiNet(Classifier):
    """Backbone with triplet attention, pooling, a linear layer, and guidance by radiomics.

    The training is divided into ``iterations + 1`` equal parts. The first knows no guidance, since
    an untrained network shows no region; before each other part the regions of all training
    images are found and measured anew.

    Parameters
    ----------
    labels : sequence of str
    backbone, attention, gate_bias, stride_in_1x1, output_stride, width
        See `crosseai.models.backbone.build_backbone`.
    iterations : int
        How often the regions are found; 0 leaves a plain classifier.
    guidance_weight : float
        Of the contrastive loss, beside the cross-entropy.
    temperature : float
        Tau of the contrastive loss.
    region_threshold : float
        Share of the way from the activation map's minimum to its maximum above which a pixel may
        be part of the region.
    """

    def __init__(
        self,
        labels: list[str],
        backbone: str = "resnet50",
        attention: str = "all",
        gate_bias: float = 0.0,
        stride_in_1x1: bool = False,
        output_stride: int = 32,
        width: int = 64,
        iterations: int = 3,
        guidance_weight: float = 0.1,
        temperature: float = 0.05,
        region_threshold: float = 0.5,
    ):
        super().__init__()
        self.labels = list(labels)
        self.features, channels = build_backbone(
            backbone, attention, gate_bias, stride_in_1x1, output_stride, width
        )
        self.classifier = nn.Linear(channels, len(self.labels))
        self.image_projection = nn.Linear(channels, EMBEDDING)
        self.radiomic_projection = nn.Sequential(
            nn.Linear(len(FEATURES), EMBEDDING), nn.ReLU(), nn.Linear(EMBEDDING, EMBEDDING)
        )
        # Part of the state, so that a training that goes on from a checkpoint knows it.
        self.register_buffer("iteration", torch.tensor(0))
        self.iterations = iterations
        self.guidance_weight = guidance_weight
        self.temperature = temperature
        self.region_threshold = region_threshold

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [N, L] of the last feature map [N, C, h, w], never in half precision."""
        with without_autocast(features):
            return self.classifier(pool(features))

    def losses(self, inputs: torch.Tensor, stage: int, targets: Targets) -> dict[str, torch.Tensor]:
        """Cross-entropy and, once there is guidance, NT-Xent; see `Classifier.losses`."""
        features = self.features[stage:](inputs)  # [B, C, h, w]
        classification = binary_cross_entropy_with_logits(self.head(features), targets.truth)
        if targets.guidance is None:
            return {"total": classification, "classification": classification}
        with without_autocast(features):
            image = self.image_projection(pool(features))  # [B, D]
            region = self.radiomic_projection(targets.guidance)  # [B, D]
            pairs = torch.stack([image, region], 1).flatten(0, 1)  # [2B, D], each beside its own
            contrastive = nt_xent(pairs, self.temperature)
        return {
            "total": classification + self.guidance_weight * contrastive,
            "classification": classification,
            "contrastive": contrastive,
        }

    def guide(
        self, done: float, pixels: torch.Tensor, features: Callable[[np.ndarray], torch.Tensor]
    ) -> torch.Tensor | None:
        """Radiomic vectors [N, F] of the training images, where an iteration begins.

        See `Classifier.guide`. They are measured on the images as they are; mirroring them would
        change none (see `crosseai.models.radiomics`), the other augmentations change little.
        """
        due = math.floor(done * (self.iterations + 1) + 1e-9)  # shares of epochs are rounded
        if due <= self.iteration:
            return None
        self.iteration.fill_(due)
        vectors = np.empty((len(pixels), len(FEATURES)))
        progress = tqdm(total=len(pixels), desc="radiomics", unit="image", disable=None)
        for start in range(0, len(pixels), BATCH):
            rows = np.arange(start, min(start + BATCH, len(pixels)))
            maps = self.activation_maps(features(rows).float(), pixels.shape[1:])  # [B, H, W]
            for row, map in zip(rows, maps.cpu().numpy(), strict=True):
                region = largest_region(mask_of(map, self.region_threshold, "span"))
                vectors[row] = list(radiomic_features(pixels[row].numpy(), region).values())
            progress.update(len(rows))
        progress.close()
        return torch.from_numpy(standardise(vectors))

    def activation_maps(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Class activation map [N, H, W] of each image's most probable label, enlarged."""
        weight = self.classifier.weight[self.head(features).argmax(1)]  # [N, C]
        maps = torch.einsum("nc,nchw->nhw", weight, features)
        return interpolate(maps[:, None], tuple(size), mode="bilinear")[:, 0]


def standardise(vectors: np.ndarray, limit: float = 3.0) -> np.ndarray:
    """Make features comparable, whatever their units and outliers.

    Parameters
    ----------
    vectors : ndarray [N, F] float
    limit : float
        Values beyond are clipped.

    Returns
    -------
    ndarray [N, F] float32
        Distance from the median by the interquartile range; 0 where most images share a value.
    """
    low, median, high = np.percentile(vectors, [25, 50, 75], axis=0)  # [F] each
    span = high - low
    known = span > 1e-9 * np.maximum(abs(low), abs(high))  # less is rounding
    scaled = np.where(known, (vectors - median) / np.where(known, span, 1), 0)
    return scaled.clip(-limit, limit).astype("float32")
