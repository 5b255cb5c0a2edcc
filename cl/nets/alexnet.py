"""AlexNet as torchvision has it, layer for layer and name for name, up to its last layer (the head)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from cl.nets.dropout import Dropout

SMALLEST = 63
"""Pixels a side: with fewer a pooling finds nothing."""
FEATURES = 4096


def alexnet(channels: int, dropout: float) -> nn.Sequential:
    """Images (N, channels, H, W) -> (N, 4096), its parameters not drawn yet.

    Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014. Dropout stands before both
    linear layers.
    """
    features = nn.Sequential(
        _convolution(channels, 64, 11, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        _convolution(64, 192, 5, 1, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        _convolution(192, 384, 3, 1, 1),
        nn.ReLU(),
        _convolution(384, 256, 3, 1, 1),
        nn.ReLU(),
        _convolution(256, 256, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )
    classifier = nn.Sequential(
        Dropout(dropout) if dropout else nn.Identity(),
        nn.utils.skip_init(nn.Linear, 256 * 6 * 6, FEATURES),
        nn.ReLU(),
        Dropout(dropout) if dropout else nn.Identity(),
        nn.utils.skip_init(nn.Linear, FEATURES, FEATURES),
        nn.ReLU(),
    )
    parts = {
        "features": features,
        "avgpool": nn.AdaptiveAvgPool2d(6),
        "flatten": nn.Flatten(),
        "classifier": classifier,
    }
    return nn.Sequential(OrderedDict(parts))


def _convolution(inputs: int, outputs: int, size: int, stride: int, padding: int) -> nn.Conv2d:
    made: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, inputs, outputs, size, stride=stride, padding=padding)
    return made
