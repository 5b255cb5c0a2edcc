"""The backbones by name: MLP, AlexNet, ResNet-18, and the survey's VGG variants (De Lange et al. 2021, Table 3)."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict

import torch
from torch import nn

from cl.backbones import backbone
from cl.errors import UserError
from cl.nets import alexnet, resnet
from cl.nets.dropout import Dropout
from cl.nets.layers import unfilled
from cl.nets.multihead import MultiHead
from cl.nets.norms import BatchNorm
from cl.nets.pretrained import Finetuned
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
    channels, side = input_shape[0], min(input_shape[1:])
    if model.name == "mlp" or model.on_features:
        sizes = [math.prod(input_shape), *model.hidden]
        net = MultiHead(nn.Sequential(nn.Flatten(), *_linear(sizes, model.dropout or 0.0)), sizes[-1])
        net.on_features = model.on_features
        _initialise_uniform(net, draw)
    elif model.name == "features":
        net = _finetuned(model, draw)
    elif model.name == "alexnet":
        _large_enough(model.name, side, alexnet.SMALLEST)
        dropout = 0.5 if model.dropout is None else model.dropout
        net = MultiHead(alexnet.alexnet(channels, dropout), alexnet.FEATURES)
        _initialise_uniform(net, draw)
    elif model.name == "resnet18":
        _large_enough(model.name, side, resnet.SMALLEST)
        net = MultiHead(resnet.resnet18(channels, side, model.width), resnet.features(model.width))
        _initialise_normal(net, draw)
    else:
        _large_enough(model.name, side, 2 ** VGG[model.name][0].count("M"))
        net = _vgg(model, input_shape)
        _initialise_normal(net, draw)
    if model.initialisation != "usual":
        _initialise_scaled(net, draw, model.initialisation)
    return net


def _finetuned(model: Model, draw: torch.Generator) -> MultiHead:
    """A pretrained backbone, still without its weights (`load_weights`), and hidden layers behind it."""
    front = Finetuned(backbone(model.backbone))
    sizes = [front.features, *model.hidden]
    behind = nn.Sequential(*_linear(sizes, model.dropout or 0.0))
    _initialise_uniform(behind, draw)
    layers = {"pretrained": front, "flatten": nn.Flatten(), **dict(behind.named_children())}
    return MultiHead(nn.Sequential(OrderedDict(layers)), sizes[-1])


def _large_enough(name: str, side: int, least: int) -> None:
    if side < least:
        raise UserError(f"model.name: {name} needs images of at least {least}x{least}; set benchmark.image_size")


def _vgg(model: Model, input_shape: tuple[int, int, int]) -> MultiHead:
    layout, hidden = VGG[model.name]
    channels, height, width = input_shape
    layers: list[nn.Module] = []
    for entry in layout:
        if entry == "M":
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        else:
            layers.append(unfilled(nn.Conv2d, channels, int(entry), 3, padding=1))
            channels = int(entry)
            layers += [BatchNorm(channels), nn.ReLU()] if model.batch_norm else [nn.ReLU()]
    sizes = [channels * height * width, *hidden]
    return MultiHead(nn.Sequential(*layers, nn.Flatten(), *_linear(sizes, model.dropout or 0.0)), sizes[-1])


def _linear(sizes: list[int], dropout: float) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [unfilled(nn.Linear, before, after), nn.ReLU()]
        if dropout:
            layers.append(Dropout(dropout))
    return layers


@torch.no_grad()
def _initialise_uniform(net: nn.Module, draw: torch.Generator) -> None:
    """Torch's own rule: weights and biases uniform in +-1/sqrt(inputs of a unit)."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=draw)


@torch.no_grad()
def _initialise_scaled(net: nn.Module, draw: torch.Generator, rule: str) -> None:
    """Weights uniform, biases 0; variance 2 / (inputs + outputs) (Glorot and Bengio 2010), or 1 / inputs (lecun).

    Inputs and outputs are those of the layer; in a convolution each is multiplied by the pixels of the kernel.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            inputs, outputs = layer.weight[0].numel(), layer.weight[:, 0].numel()
            bound = math.sqrt(3 / inputs if rule == "lecun" else 6 / (inputs + outputs))
            layer.weight.uniform_(-bound, bound, generator=draw)
            if layer.bias is not None:
                layer.bias.zero_()


@torch.no_grad()
def _initialise_normal(net: nn.Module, draw: torch.Generator) -> None:
    """Torchvision's rule for VGG and ResNet: convolutions Kaiming normal over fan-out, linear layers N(0, 0.01)."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * math.prod(layer.kernel_size)
            layer.weight.normal_(0, math.sqrt(2 / fan_out), generator=draw)
        elif isinstance(layer, nn.Linear):
            layer.weight.normal_(0, 0.01, generator=draw)
        else:
            continue
        if layer.bias is not None:
            layer.bias.zero_()
