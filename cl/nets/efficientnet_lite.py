"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation and with ReLU6, with its own head or without.

Tan and Le, EfficientNet: Rethinking model scaling for convolutional neural networks, ICML 2019 (Table 1), and the Lite
variants that the authors published in 2020, whose first and last convolutions keep their widths at every scale.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from cl.nets.layers import unfilled

STEM, LAST, CLASSES = 32, 1280, 1000
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""For each stage: the factor by which a block widens its input, the output channels, the number of blocks, the stride
of the first block, and the side of the depthwise kernels."""
EPSILON = 1e-3
"""Epsilon of the batch normalisations."""
PUBLISHED = (
    (r"_conv_stem\.", "stem.0."),
    (r"_bn0\.", "stem.1."),
    (r"_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand.0."),
    (r"_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.1."),
    (r"_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise.0."),
    (r"_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.1."),
    (r"_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project.0."),
    (r"_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.1."),
    (r"_conv_head\.", "last.0."),
    (r"_bn1\.", "last.1."),
    (r"_fc\.", "fc."),
)
"""The published file's names, as patterns, and ours."""


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under our names instead of the published file's; names that are ours already stay."""
    return {_ours(name): tensor for name, tensor in state.items()}


def _ours(name: str) -> str:
    for theirs, ours in PUBLISHED:
        new, count = re.subn(f"^{theirs}", ours, name)
        if count:
            return new
    return name


class EvenlyPadded(nn.Conv2d):
    """A convolution whose output has ceil(side / stride) pixels a side.

    If an odd number of zeros is needed, the extra one is on the right or at the bottom, as in TensorFlow, in which the
    weights were learned.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride))."""
        side, stride = self.kernel_size[0], self.stride[0]
        rows, columns = (max((-(-n // stride) - 1) * stride + side - n, 0) for n in x.shape[2:])
        x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return F.conv2d(x, self.weight, None, self.stride, 0, 1, self.groups)


class Block(nn.Module):
    """An inverted residual block: a 1x1 convolution that widens, a depthwise one, and a 1x1 one that narrows."""

    def __init__(self, inputs: int, widening: int, outputs: int, stride: int, side: int) -> None:
        super().__init__()
        wide = inputs * widening
        self.expand: nn.Module = _part(inputs, wide, 1) if widening > 1 else nn.Identity()
        self.depthwise = _part(wide, wide, side, stride, groups=wide)
        self.project = _part(wide, outputs, 1, active=False)
        self.goes_past = stride == 1 and inputs == outputs
        """Whether the input is added to the output."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, inputs, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride))."""
        made: Tensor = self.project(self.depthwise(self.expand(x)))
        return made + x if self.goes_past else made


class EfficientNetLite0(nn.Module):
    """Pictures (N, 3, H, W) -> scores of 1000 classes, or with `fc` an Identity, the last map's mean (N, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _part(3, STEM, 3, 2)
        blocks, inputs = [], STEM
        for widening, outputs, count, stride, side in STAGES:
            for number in range(count):
                blocks.append(Block(inputs, widening, outputs, stride if number == 0 else 1, side))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = _part(inputs, LAST, 1)
        self.fc: nn.Module = unfilled(nn.Linear, LAST, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Through all layers; always without the published dropout."""
        scores: Tensor = self.fc(self.last(self.blocks(self.stem(x))).mean((2, 3)))
        return scores


def _part(
    inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1, *, active: bool = True
) -> nn.Sequential:
    """A convolution, its normalisation and, if `active`, ReLU6; the weights are not initialised."""
    kind, padding = (nn.Conv2d, side // 2) if stride == 1 else (EvenlyPadded, 0)
    convolution = unfilled(kind, inputs, outputs, side, stride=stride, padding=padding, groups=groups, bias=False)
    parts = [convolution, nn.BatchNorm2d(outputs, eps=EPSILON)]
    return nn.Sequential(*parts, *([nn.ReLU6(inplace=True)] if active else []))
