"""The convolutional backbones: torchvision's networks with triplet attention put in.

A backbone is an ``nn.Sequential`` of named stages from the image to the last feature map, so that
freezing a part is cutting the sequence. Its parameters carry torchvision's names.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torchvision.models import densenet, resnet

from crosseai.errors import InputError
from crosseai.models.attention import TripletAttention

__all__ = ["BACKBONES", "build_backbone"]


class AttentiveBasicBlock(resnet.BasicBlock):
    """A residual block of two convolutions whose branch is gated before the residual sum."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, H, W] to [N, D, h, w]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.attention(self.bn2(self.conv2(x)))
        return self.relu(x + shortcut)


class AttentiveBottleneck(resnet.Bottleneck):
    """A residual block of three convolutions whose branch is gated before the residual sum."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, H, W] to [N, D, h, w]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.attention(self.bn3(self.conv3(x)))
        return self.relu(x + shortcut)


def build_resnet(
    block: type[nn.Module],
    depths: list[int],
    attention: str,
    gate_bias: float,
    stride_in_1x1: bool,
    output_stride: int,
    width: int,
) -> tuple[nn.Sequential, int]:
    """Build a ResNet; see `build_backbone`."""
    stages = OrderedDict(
        conv1=nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(width),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    channels = width
    for number, depth in enumerate(depths, 1):
        planes = width * 2 ** (number - 1)
        stride = 2 if 1 < number <= STRIDED[output_stride] else 1
        attentive = attention == "all" or (attention == "last" and number == 4)
        blocks = []
        for _ in range(depth):
            blocks.append(
                block(channels, planes, stride, shortcut(channels, planes, block, stride))
            )
            blocks[-1].attention = TripletAttention(gate_bias) if attentive else nn.Identity()
            if stride_in_1x1:
                blocks[-1].conv1.stride, blocks[-1].conv2.stride = (stride, stride), (1, 1)
            channels, stride = planes * block.expansion, 1
        stages[f"layer{number}"] = nn.Sequential(*blocks)
    for name, layer in nn.Sequential(stages).named_modules():
        if isinstance(layer, nn.Conv2d) and "attention" not in name:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(stages), channels


def shortcut(
    channels: int, planes: int, block: type[nn.Module], stride: int
) -> nn.Sequential | None:
    """Projection beside a block whose output has another shape than its input."""
    if stride == 1 and channels == planes * block.expansion:
        return None
    return nn.Sequential(
        nn.Conv2d(channels, planes * block.expansion, 1, stride=stride, bias=False),
        nn.BatchNorm2d(planes * block.expansion),
    )


def build_densenet(
    constructor: Callable,
    attention: str,
    gate_bias: float,
    stride_in_1x1: bool,
    output_stride: int,
    width: int,
) -> tuple[nn.Sequential, int]:
    """Build a DenseNet with attention behind its dense blocks; see `build_backbone`."""
    if stride_in_1x1:
        raise InputError("stride_in_1x1: only resnet50 has a stride to move; set it to false")
    if width != 64:
        raise InputError("width: only a ResNet's can be set; leave it at 64")
    stages = OrderedDict()
    for name, stage in constructor(weights=None).features.named_children():
        stages[name] = stage
        if name.startswith("denseblock") and (
            attention == "all" or (attention == "last" and name == "denseblock4")
        ):
            stages[name.replace("denseblock", "attention")] = TripletAttention(gate_bias)
    for number in range(STRIDED[output_stride], 4):
        stages[f"transition{number}"].pool = nn.Identity()
    stages["relu5"] = nn.ReLU()
    return nn.Sequential(stages), stages["norm5"].num_features


#: Output stride -> the last of the four stages that halves the resolution.
STRIDED = {32: 4, 16: 3, 8: 2}

#: Name, constructor taking (attention, gate_bias, stride_in_1x1, output_stride, width).
BACKBONES = {
    "resnet18": partial(build_resnet, AttentiveBasicBlock, [2, 2, 2, 2]),
    "resnet50": partial(build_resnet, AttentiveBottleneck, [3, 4, 6, 3]),
    "densenet121": partial(build_densenet, densenet.densenet121),
    "densenet169": partial(build_densenet, densenet.densenet169),
}


def build_backbone(
    name: str,
    attention: str = "all",
    gate_bias: float = 0.0,
    stride_in_1x1: bool = False,
    output_stride: int = 32,
    width: int = 64,
) -> tuple[nn.Sequential, int]:
    """Build a backbone with random weights.

    Parameters
    ----------
    name : {"resnet18", "resnet50", "densenet121", "densenet169"}
    attention : {"all", "last", "none"}
        Triplet attention in every residual block (ResNet) or behind every dense block (DenseNet),
        in the last stage alone, or nowhere.
    gate_bias : float
        Where the gates start; see `crosseai.models.attention.Gate`.
    stride_in_1x1 : bool
        Put the stride of a bottleneck on its first 1x1 convolution (ResNet v1) rather than on the
        3x3 (torchvision's v1.5).
    output_stride : {32, 16, 8}
        Pixels of the image a pixel of the feature map. At 16 the last stage keeps the resolution
        of the one before, at 8 the last two do.
    width : int
        Channels of a ResNet's first stage; each later stage has twice as many. 64 is the
        published network; a narrow one trains in minutes on a small machine.

    Returns
    -------
    backbone : nn.Sequential
        Maps [N, 3, H, W] to [N, channels, H / output_stride, W / output_stride], all values >= 0.
    channels : int

    Raises
    ------
    InputError
        If the name or a setting is unknown.
    """
    for setting, value, known in [
        ("backbone", name, tuple(BACKBONES)),
        ("attention", attention, ("all", "last", "none")),
        ("output_stride", output_stride, tuple(STRIDED)),
    ]:
        if value not in known:
            raise InputError(f"{setting}: {value!r} is unknown; choose one of {known}")
    if stride_in_1x1 and name == "resnet18":
        raise InputError("stride_in_1x1: only resnet50 has a stride to move; set it to false")
    return BACKBONES[name](attention, gate_bias, stride_in_1x1, output_stride, width)
