"""Networks: a backbone shared by all tasks, and one linear head per task."""

from cl.nets.build import build
from cl.nets.dropout import Dropout
from cl.nets.layers import drawn_linear
from cl.nets.multihead import MultiHead
from cl.nets.norms import BatchNorm, norm_layers, norms
from cl.nets.resnet import Block
from cl.nets.weights import load_weights

__all__ = [
    "BatchNorm",
    "Block",
    "Dropout",
    "MultiHead",
    "build",
    "drawn_linear",
    "load_weights",
    "norm_layers",
    "norms",
]
