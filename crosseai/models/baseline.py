"""The baseline classifier (Wang et al. 2017): transition layer, Log-Sum-Exp pooling, one logit."""

import torch
from torch import nn

from crosseai.errors import InputError
from crosseai.models.backbone import build_backbone
from crosseai.models.classifier import Classifier, Targets, without_autocast
from crosseai.models.losses import balanced_cross_entropy

__all__ = ["Baseline", "log_sum_exp_pool"]


class Baseline(Classifier):
    """Backbone without attention, transition layer, Log-Sum-Exp pooling and one linear layer.

    The transition layer is the last stage of ``features``. What is pooled goes straight into the
    linear layer, so that its weights times the activations are the class activation map.

    Parameters
    ----------
    labels : sequence of str
    backbone, stride_in_1x1, output_stride, width
        See `crosseai.models.backbone.build_backbone`.
    transition_channels : int, optional
        Channels D of the transition layer; by default as many as the backbone's last map has,
        the paper's 2048 for ResNet-50.
    sharpness : float
        r of the pooling: small is the mean, large the maximum.
    """

    def __init__(
        self,
        labels: list[str],
        backbone: str = "resnet50",
        stride_in_1x1: bool = False,
        output_stride: int = 32,
        width: int = 64,
        transition_channels: int | None = None,
        sharpness: float = 10.0,
    ):
        super().__init__()
        if not sharpness > 0:
            raise InputError(f"sharpness: {sharpness} is not positive; the paper's is 10")
        self.labels = list(labels)
        self.features, channels = build_backbone(
            backbone, "none", 0.0, stride_in_1x1, output_stride, width
        )
        depth = transition_channels or channels
        transition = nn.Sequential(
            nn.Conv2d(channels, depth, 1, bias=False),
            nn.BatchNorm2d(depth),  # fixes the scale that the sharpness is measured on
            nn.ReLU(inplace=True),
        )
        self.features.add_module("transition", transition)
        self.classifier = nn.Linear(depth, len(self.labels))
        self.sharpness = sharpness

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [N, L] of the last feature map [N, D, h, w], never in half precision."""
        with without_autocast(features):
            return self.classifier(log_sum_exp_pool(features, self.sharpness))

    def losses(self, inputs: torch.Tensor, stage: int, targets: Targets) -> dict[str, torch.Tensor]:
        """Batch-balanced cross-entropy; see `Classifier.losses`."""
        logits = self.head(self.features[stage:](inputs))  # [B, L]
        loss = balanced_cross_entropy(logits, targets.truth)
        return {"total": loss, "classification": loss}


def log_sum_exp_pool(features: torch.Tensor, sharpness: float) -> torch.Tensor:
    """Log-Sum-Exp pooling, between the mean and the maximum over all pixels.

    With x* the largest of the S values of a channel, Wang et al. (CVPR 2017, equation 1)

        x* + (1/r) log((1/S) sum exp(r (x - x*))).

    Parameters
    ----------
    features : Tensor [N, C, h, w]
    sharpness : float
        r, positive.

    Returns
    -------
    Tensor [N, C]
        In float32 or better.
    """
    x = features.to(torch.promote_types(features.dtype, torch.float32)).flatten(2)  # [N, C, S]
    largest = x.amax(2, keepdim=True).detach()  # its gradient cancels
    mean = torch.exp(sharpness * (x - largest)).mean(2)  # [N, C]
    return largest[..., 0] + mean.log() / sharpness
