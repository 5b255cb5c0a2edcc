"""The backbones: the MLP and the survey's four VGG variants (De Lange et al. 2021, Table 3)."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn

from cl.errors import UserError
from cl.nets.multihead import MultiHead
from cl.params import Model

# Numbers are channels of 3x3 convolutions, M a 2x2 max-pooling; then the units of the two hidden linear layers.
VGG: dict[str, tuple[list[int | str], list[int]]] = {
    "small": ([64, "M", 64, "M", 64, 64, "M", 128, 128, "M"], [128, 128]),
    "base": ([64, "M", 64, "M", 128, 128, "M", 256, 256, "M"], [512, 512]),
    "wide": ([64, "M", 128, "M", 256, 256, "M", 512, 512, "M"], [512, 512]),
    "deep": ([64, "M", *[64] * 6, "M", *[128] * 6, "M", *[256] * 6, "M"], [512, 512]),
}


def build(model: Model, input_shape: tuple[int, int, int], draw: torch.Generator) -> MultiHead:
    """The network of this name for images (C, H, W), initialised from `draw`, without any head yet.

    Raises `UserError` where the images are too small for the network's poolings.
    """
    if model.name == "mlp":
        sizes = [math.prod(input_shape), *model.hidden]
        net = MultiHead(nn.Sequential(nn.Flatten(), *_linear(sizes)), sizes[-1])
        _initialise_linear(net, draw)
        return net
    layout, hidden = VGG[model.name]
    channels, height, width = input_shape
    layers: list[nn.Module] = []
    for entry in layout:
        if entry == "M":
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        else:
            layers += [nn.utils.skip_init(nn.Conv2d, channels, int(entry), 3, padding=1), nn.ReLU()]
            channels = int(entry)
    if height < 1 or width < 1:
        raise UserError(f"model.name: {model.name} needs images of at least 16x16; set benchmark.image_size")
    sizes = [channels * height * width, *hidden]
    net = MultiHead(nn.Sequential(*layers, nn.Flatten(), *_linear(sizes)), sizes[-1])
    _initialise_vgg(net, draw)
    return net


def _linear(sizes: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.utils.skip_init(nn.Linear, before, after), nn.ReLU()]
    return layers


@torch.no_grad()
def _initialise_linear(net: nn.Module, draw: torch.Generator) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=draw)


@torch.no_grad()
def _initialise_vgg(net: nn.Module, draw: torch.Generator) -> None:
    """Torchvision's rule for VGG: Kaiming normal over fan-out for convolutions, N(0, 0.01) for linear layers."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * math.prod(layer.kernel_size)
            layer.weight.normal_(0, math.sqrt(2 / fan_out), generator=draw)
        elif isinstance(layer, nn.Linear):
            layer.weight.normal_(0, 0.01, generator=draw)
        else:
            continue
        assert layer.bias is not None
        layer.bias.zero_()
