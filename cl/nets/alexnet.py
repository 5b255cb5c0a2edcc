"""AlexNet as torchvision has it, layer for layer and name for name, up to its last layer (the head)."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.nets.dropout import Dropout
from cl.nets.layers import unfilled

SMALLEST = 63
"""Pixels a side: with fewer a pooling finds nothing."""
FEATURES = 4096
POOLED = 6
"""Pixels a side of the last map, after it was pooled."""


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
        unfilled(nn.Linear, 256 * POOLED**2, FEATURES),
        nn.ReLU(),
        Dropout(dropout) if dropout else nn.Identity(),
        unfilled(nn.Linear, FEATURES, FEATURES),
        nn.ReLU(),
    )
    parts = {
        "features": features,
        "avgpool": EvenPool(POOLED),
        "flatten": nn.Flatten(),
        "classifier": classifier,
    }
    return nn.Sequential(OrderedDict(parts))


class EvenPool(nn.Module):
    """The means of `side` x `side` windows of even size that cover a map: torch's `AdaptiveAvgPool2d`.

    On a GPU as two products: torch's own gradient adds up in any order there, and is refused in deterministic mode.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> (N, C, side, side)."""
        return by_products(x, self.side) if x.is_cuda else F.adaptive_avg_pool2d(x, self.side)


def by_products(x: Tensor, side: int) -> Tensor:
    """The same means, of the rows and then of the columns; in float32, as torch takes them."""
    rows, columns = (_windows(length, side, x.device) for length in x.shape[2:])
    with torch.autocast(x.device.type, enabled=False):
        return (rows @ x.float() @ columns.T).to(x.dtype)


def _windows(length: int, side: int, device: torch.device) -> Tensor:
    """Each row (side, length) has equal shares of one for the places of a window, which may overlap the next."""
    place, window = torch.arange(length, device=device), torch.arange(side, device=device).unsqueeze(1)
    inside = (place >= window * length // side) & (place < -((window + 1) * -length // side))
    return inside / inside.sum(1, keepdim=True)


def _convolution(inputs: int, outputs: int, size: int, stride: int, padding: int) -> nn.Conv2d:
    made: nn.Conv2d = unfilled(nn.Conv2d, inputs, outputs, size, stride=stride, padding=padding)
    return made
