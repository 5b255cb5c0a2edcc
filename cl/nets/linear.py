"""A linear layer drawn from a generator."""

from __future__ import annotations

import math

import torch
from torch import nn


def drawn_linear(inputs: int, outputs: int, draw: torch.Generator) -> nn.Linear:
    """Weights and biases uniform in +-1/sqrt(inputs), as torch draws them itself."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=draw)
    return layer
