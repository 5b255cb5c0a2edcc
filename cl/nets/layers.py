"""Layers whose weights are still to be filled in, and linear layers drawn from a generator."""

from __future__ import annotations

import math
import warnings
from typing import Any, TypeVar

import torch
from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def unfilled(kind: type[Layer], *sizes: Any, **settings: Any) -> Layer:
    """A layer with parameters of any value: nothing is drawn. It may be without outputs.

    `torch.nn.utils.skip_init` does the same, but imports torch's compiler on its way, for a third of a second.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        layer = kind(*sizes, device="meta", **settings)
    for part in layer.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))
    return layer


def drawn_linear(inputs: int, outputs: int, draw: torch.Generator) -> nn.Linear:
    """Weights and biases uniform in +-1/sqrt(inputs), as torch draws them itself."""
    layer = unfilled(nn.Linear, inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=draw)
    return layer
