"""Linear layers: drawn from a generator, or with weights to be filled in."""

from __future__ import annotations

import math
import warnings

import torch
from torch import nn


def unfilled(kind: type[nn.Linear], inputs: int, outputs: int) -> nn.Linear:
    """`torch.nn.utils.skip_init`, which warns of a layer without outputs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        layer: nn.Linear = nn.utils.skip_init(kind, inputs, outputs)
    return layer


def drawn_linear(inputs: int, outputs: int, draw: torch.Generator) -> nn.Linear:
    """Weights and biases uniform in +-1/sqrt(inputs), as torch draws them itself."""
    layer = unfilled(nn.Linear, inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=draw)
    return layer
