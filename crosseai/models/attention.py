"""Triplet attention (Misra et al., "Rotate to Attend", WACV 2021)."""

import torch
from torch import nn

__all__ = ["TripletAttention"]


class Gate(nn.Module):
    """Z-pool, a 7x7 convolution from two channels to one, batch norm, sigmoid.

    Parameters
    ----------
    bias : float
        Initial bias of the batch norm. 0, the paper's, starts every gate near 0.5; 4 starts it
        near 0.98, which leaves pretrained layers as they are until the gate has learned.
    """

    def __init__(self, bias: float):
        super().__init__()
        self.convolution = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)
        nn.init.constant_(self.norm.bias, bias)

    def forward(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """Pool `x` [N, H, W, C] over `axis` and weigh what remains; values in (0, 1)."""
        pooled = torch.stack([x.amax(axis), x.mean(axis)], dim=3)  # [N, the two other axes, 2]
        weight = self.norm(self.convolution(pooled.movedim(3, 1))).sigmoid()
        return weight.squeeze(1).unsqueeze(axis)


class TripletAttention(nn.Module):
    """Weigh a feature map by the mean of three gates, each blind to one of its axes.

    The three branches see channel and width, channel and height, height and width. Averaging the
    three gated maps equals gating once by the averaged gates.

    Parameters
    ----------
    bias : float, default 0
        See `Gate`.
    """

    def __init__(self, bias: float = 0.0):
        super().__init__()
        self.channel_width = Gate(bias)
        self.channel_height = Gate(bias)
        self.height_width = Gate(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate `x` [N, C, H, W]; the shape stays."""
        # Channels last throughout: as the network lies in memory, several times as fast.
        x = x.permute(0, 2, 3, 1)  # [N, H, W, C]
        gates = (
            self.channel_width(x, axis=1) / 3  # [N, 1, W, C]
            + self.channel_height(x, axis=2) / 3  # [N, H, 1, C]
            + self.height_width(x, axis=3) / 3  # [N, H, W, 1]
        )
        return (x * gates).permute(0, 3, 1, 2)
