"""Triplet attention (Misra et al., "Rotate to Attend", WACV 2021)."""

import torch
from torch import nn
from torch.autograd.function import once_differentiable

__all__ = ["TripletAttention", "ZPool"]

AXES = (1, 2, 3)  # of [N, H, W, C]


class ZPools(torch.autograd.Function):
    """Maximum and mean of a map over each of its three axes.

    What autograd makes of the six by itself takes several times as long as the convolutions around
    it, most of it for comparing the map with its maxima. Where values tie for a maximum, the first
    of them has the gradient.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pool `x` [N, H, W, C] to [N, W, C, 2], [N, H, C, 2] and [N, H, W, 2]."""
        largest, where = zip(*(x.max(axis) for axis in AXES), strict=True)
        ctx.shape = x.shape
        ctx.save_for_backward(*where)
        return tuple(
            torch.stack([values, x.mean(axis)], 3)
            for axis, values in zip(AXES, largest, strict=True)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: torch.Tensor) -> torch.Tensor:
        """Give each mean's gradient to all alike and each maximum's to where it was."""
        even = [
            (gradient[..., 1] / ctx.shape[axis]).unsqueeze(axis)
            for axis, gradient in zip(AXES, gradients, strict=True)
        ]
        result = even[0] + even[1]  # [N, H, W, C]
        result += even[2]
        for axis, where, gradient in zip(AXES, ctx.saved_tensors, gradients, strict=True):
            result.scatter_add_(axis, where.unsqueeze(axis), gradient[..., 0].unsqueeze(axis))
        return result


class ZPool(nn.Module):
    """`ZPools` as a module, which torch.fx can leave as it is."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pool `x` [N, H, W, C] to [N, W, C, 2], [N, H, C, 2] and [N, H, W, 2]."""
        return ZPools.apply(x)


class Gate(nn.Module):
    """A 7x7 convolution from Z-pool's two channels to one, batch norm, sigmoid.

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

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Weights [N, A, B], in (0, 1), of what was pooled to [N, A, B, 2]."""
        return self.norm(self.convolution(pooled.movedim(3, 1))).sigmoid().squeeze(1)


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
        self.pool = ZPool()
        self.channel_width = Gate(bias)
        self.channel_height = Gate(bias)
        self.height_width = Gate(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate `x` [N, C, H, W]; the shape stays."""
        # Channels last throughout: as the network lies in memory, several times as fast.
        x = x.permute(0, 2, 3, 1)  # [N, H, W, C]
        over_height, over_width, over_channels = self.pool(x)
        gates = (
            self.channel_width(over_height)[:, None] / 3  # [N, 1, W, C]
            + self.channel_height(over_width)[:, :, None] / 3  # [N, H, 1, C]
            + self.height_width(over_channels)[..., None] / 3  # [N, H, W, 1]
        )
        return (x * gates).permute(0, 3, 1, 2)
