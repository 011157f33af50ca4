"""The SCALP classifier (Jaiswal et al. 2021): attention, pooling, one logit a label."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from crosseai.errors import InputError
from crosseai.models.backbone import build_backbone
from crosseai.models.classifier import Classifier, Targets, pool, without_autocast
from crosseai.models.losses import nt_xent, patient_contrastive
from crosseai.models.pairs import Batch, contrastive_batches, patient_batches, plain_batches

__all__ = ["Scalp"]


class Scalp(Classifier):
    """Backbone with triplet attention, global average pooling and one linear layer.

    The contrastive loss is that of the paper. That of its published code, which departs from it,
    has ``pairs="patient", projection=128, positive_in_denominator=True``.

    Parameters
    ----------
    labels : sequence of str
    backbone, attention, gate_bias, stride_in_1x1, output_stride, width
        See `crosseai.models.backbone.build_backbone`.
    classification_weight : float
        Lambda: the weight of the binary cross-entropy; the contrastive loss has the rest. At 1
        there is no contrastive loss.
    temperature : float
        Tau of the contrastive loss.
    pairs : {"label", "patient"}
        A query and its positive share label and patient, and negatives the label (see
        `crosseai.models.pairs.contrastive_batches`); or the patient alone, and all other images of
        the batch are negatives (see `crosseai.models.pairs.patient_batches`).
    negatives : int
        Negatives a query, for pairs by label.
    positive_in_denominator : bool
        InfoNCE, or NT-Xent, instead of SCALP's equation 1.
    projection : int
        Dimensions of a projection head that is contrasted; 0 contrasts the pooled features.
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
        classification_weight: float = 0.8,
        temperature: float = 0.5,
        pairs: str = "label",
        negatives: int = 8,
        positive_in_denominator: bool = False,
        projection: int = 0,
    ):
        super().__init__()
        if pairs not in ("label", "patient"):
            raise InputError(f"pairs: {pairs!r} is unknown; choose one of ('label', 'patient')")
        self.labels = list(labels)
        self.features, channels = build_backbone(
            backbone, attention, gate_bias, stride_in_1x1, output_stride, width
        )
        self.classifier = nn.Linear(channels, len(self.labels))
        self.classification_weight = classification_weight
        self.temperature = temperature
        self.pairs = pairs
        self.negatives = negatives
        self.positive_in_denominator = positive_in_denominator
        self.projection = projector(channels, projection) if projection else nn.Identity()

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [N, L] of the last feature map [N, C, h, w], never in half precision."""
        with without_autocast(features):
            return self.classifier(pool(features))

    def batches(
        self, labels: np.ndarray, patients: np.ndarray, size: int, rng: np.random.Generator
    ) -> Iterator[Batch]:
        """One epoch's batches over labels [N, L] bool and patients [N]."""
        if self.classification_weight == 1:
            return plain_batches(len(labels), size, rng)
        if self.pairs == "patient":
            return patient_batches(patients, size, rng)
        return contrastive_batches(labels, patients, self.negatives, size, rng)

    def losses(self, inputs: torch.Tensor, stage: int, targets: Targets) -> dict[str, torch.Tensor]:
        """Cross-entropy and contrastive loss, weighted; see `Classifier.losses`."""
        features = self.features[stage:](inputs)  # [B, C, h, w]
        classification = binary_cross_entropy_with_logits(self.head(features), targets.truth)
        if self.classification_weight == 1:
            return {"total": classification, "classification": classification}
        with without_autocast(features):
            embedding = self.projection(pool(features))  # [B, D]
            how = (self.temperature, self.positive_in_denominator)
            if self.pairs == "patient":
                contrastive = nt_xent(embedding, *how)
            else:
                contrastive = patient_contrastive(
                    embedding, targets.label, targets.patient, targets.group, *how
                )
        share = self.classification_weight
        return {
            "total": share * classification + (1 - share) * contrastive,
            "classification": classification,
            "contrastive": contrastive,
        }


def projector(channels: int, dimensions: int) -> nn.Sequential:
    """Build the projection head of SCALP's published code."""
    return nn.Sequential(
        nn.Linear(channels, channels, bias=False),
        nn.BatchNorm1d(channels),
        nn.ReLU(inplace=True),
        nn.Linear(channels, dimensions, bias=False),
        nn.BatchNorm1d(dimensions, affine=False),
    )
