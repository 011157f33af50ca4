"""What every classifier has in common: how it is run and what training asks of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.amp import is_autocast_available

from crosseai.models.pairs import Batch, plain_batches

__all__ = ["Classifier", "Targets", "pool", "without_autocast"]


@dataclass(frozen=True)
class Targets:
    """What is known of the images of a batch.

    Attributes
    ----------
    truth : Tensor [B, L] float
        0 or 1.
    label, group : Tensor [B] int
        See `crosseai.models.pairs.Batch`.
    patient : Tensor [B] int
    boxes : Tensor [B, L, 4] float
        x1, y1, x2, y2 of the one box a label, shares of the image as it was augmented; NaN where
        there is none or where the classifier must not see it.
    guidance : Tensor [B, F] float, or None
        What `Classifier.guide` gave for these images.
    """

    truth: torch.Tensor
    label: torch.Tensor
    patient: torch.Tensor
    group: torch.Tensor
    boxes: torch.Tensor
    guidance: torch.Tensor | None = None


class Classifier(nn.Module, ABC):
    """Named stages up to the last feature map, and a head from there to one logit a label.

    A subclass sets `labels`, a list of str, and `features`, an ``nn.Sequential`` of named stages,
    and writes `head` and `losses`.
    """

    #: Whether training sees radiologists' boxes.
    sees_boxes = False

    labels: list[str]
    features: nn.Sequential

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, L] of normalised images [N, 3, H, W]."""
        return self.head(self.features(images))

    @abstractmethod
    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [N, L] of the last feature map [N, C, h, w], never in half precision."""

    @abstractmethod
    def losses(self, inputs: torch.Tensor, stage: int, targets: Targets) -> dict[str, torch.Tensor]:
        """Loss of one batch, `total` and by term; `classification` is one of them.

        Parameters
        ----------
        inputs : Tensor [B, C, H, W]
            What goes into the stage of ``self.features`` that `stage` counts: the images for 0,
            the activations of a frozen part for more.
        stage : int
        targets : Targets
        """

    def batches(
        self, labels: np.ndarray, patients: np.ndarray, size: int, rng: np.random.Generator
    ) -> Iterator[Batch]:
        """One epoch's batches over labels [N, L] bool and patients [N]."""
        return plain_batches(len(labels), size, rng)

    def guide(
        self, done: float, pixels: torch.Tensor, features: Callable[[np.ndarray], torch.Tensor]
    ) -> torch.Tensor | None:
        """Look at all training images before an epoch, in evaluation mode.

        Parameters
        ----------
        done : float
            Share of the epochs that are over, 0 before the first.
        pixels : Tensor [N, H, W] uint8
            The training images.
        features : callable
            From rows, int [B], to the last feature map [B, C, h, w] of these images.

        Returns
        -------
        Tensor [N, F] float32 on the CPU, or None
            A row an image, which `losses` finds as ``targets.guidance`` until another one comes;
            None leaves what there was.
        """
        return None


def without_autocast(x: torch.Tensor) -> AbstractContextManager:
    """Where mixed precision would be too coarse."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext()


def pool(features: torch.Tensor) -> torch.Tensor:
    """Global average [N, C] of [N, C, h, w], in float32 or better."""
    return features.to(torch.promote_types(features.dtype, torch.float32)).mean((2, 3))
