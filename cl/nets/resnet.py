"""ResNet-18 as torchvision has it, layer for layer and name for name, up to its last layer (the head).

He et al., Deep residual learning for image recognition, CVPR 2016.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from cl.nets.layers import unfilled
from cl.nets.norms import BatchNorm

WIDTH = 64
"""Channels of the first of the four stages of two blocks each; each later one doubles them and halves the maps' sides.
GEM (Lopez-Paz and Ranzato 2017) and those who compare with it take 20 instead."""
STAGES = 4
LARGE = 64
"""Pixels a side from which images go through torchvision's stem, which quarters their sides at once."""
SMALLEST = 9
"""Pixels a side: with fewer the last map is a single pixel, and one image alone has no variance to divide by."""


class Block(nn.Module):
    """Two 3x3 convolutions, and a way past them."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, channels, 3, stride)
        self.bn1 = BatchNorm(channels)
        self.relu1: nn.Module = nn.ReLU()
        self.conv2 = _convolution(channels, channels, 3, 1)
        self.bn2 = BatchNorm(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != channels:
            self.downsample = nn.Sequential(_convolution(inputs, channels, 1, stride), BatchNorm(channels))
        self.relu2: nn.Module = nn.ReLU()

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        """x (N, inputs, H, W) -> (N, channels, H / stride, W / stride); `more`, of that shape, joins the last sum."""
        inner = self.relu1(self.bn1(self.conv1(x)))
        total = self.bn2(self.conv2(inner)) + self.downsample(x)
        outer: Tensor = self.relu2(total if more is None else total + more)
        return outer


class Stage(nn.Sequential):
    """Two blocks."""

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        """Through both; `more` joins the last sum of the second."""
        first, second = self
        outer: Tensor = second(first(x), more)
        return outer

    @property
    def entrance(self) -> nn.Conv2d:
        """The first convolution: it takes the stage's inputs to as many maps of that size as the stage gives."""
        block = self[0]
        assert isinstance(block, Block)
        return block.conv1


def features(width: int | None = None) -> int:
    """Numbers that come out: the channels of the last stage."""
    return (width or WIDTH) << (STAGES - 1)


def resnet18(channels: int, side: int, width: int | None = None) -> nn.Sequential:
    """Images (N, channels, H, W) whose shorter side is `side` -> (N, 8 width), its convolutions not drawn yet.

    For images below 64 pixels the stem is the usual one for small images: a 3x3 convolution of stride 1 instead of
    a 7x7 one of stride 2, and no pooling.
    """
    large, width = side >= LARGE, width or WIDTH
    parts: dict[str, nn.Module] = {"conv1": _convolution(channels, width, *((7, 2) if large else (3, 1)))}
    parts["bn1"] = BatchNorm(width)
    parts["relu"] = nn.ReLU()
    if large:
        parts["maxpool"] = nn.MaxPool2d(3, 2, padding=1)
    inputs = width
    for number in range(1, STAGES + 1):
        wide = width * 2 ** (number - 1)
        parts[f"layer{number}"] = Stage(
            Block(inputs, wide, 1 if number == 1 else 2),
            Block(wide, wide, 1),
        )
        inputs = wide
    parts["avgpool"] = nn.AdaptiveAvgPool2d(1)
    parts["flatten"] = nn.Flatten()
    return nn.Sequential(OrderedDict(parts))


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Conv2d:
    made: nn.Conv2d = unfilled(nn.Conv2d, inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return made
