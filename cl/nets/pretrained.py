"""A pretrained backbone: pictures in, features out; with its own head, scores of the classes it was trained on.

`cl.backbones` lists the backbones and their inputs. No pickle is ever executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl import backbones
from cl.backbones import Backbone
from cl.errors import UserError
from cl.files import sha256_unless_changed
from cl.nets.efficientnet_lite import EfficientNetLite0, renamed
from cl.nets.norms import BatchNorm
from cl.nets.weights import imagenet, put, read
from cl.params import Model

HEADS = {"mobilenet_v3_small": "classifier", "mobilenet_v3_large": "classifier", "vit_b_16": "heads"}
"""Torchvision's name of the head, if it is not `fc`."""
RGB = 3
LENGTH = 5.0
"""The length to which every feature vector is scaled. Unscaled, those of different backbones are 5 to 100 long, and no
learning rate suits all: the curvature of the loss grows with the square of the length."""
TOGETHER = 2**18
"""Pixels in one batch on a processor, so that the output of a layer stays small enough for its cache: 28 pictures of 96
pixels a side, or five of 224."""
MOST_TOGETHER = 32


def as_long(features: Tensor) -> Tensor:
    """Features (N, F), each vector scaled to length `LENGTH`."""
    return LENGTH * F.normalize(features, dim=1)


class Pretrained(nn.Module):
    """Pictures (N, 1 or 3, H, W) uint8 -> features (N, F) float32 of length `LENGTH`; with its head, the head's scores.

    It stays in evaluation mode and keeps no gradients.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, about: Backbone, net: nn.Module, size: int, scale: float, *, head: bool = False) -> None:
        super().__init__()
        self.net, self.size, self.head = net, size, head
        # So grey levels from 0 to `scale` become the numbers that the network was trained on.
        self.register_buffer("mean", scale * torch.tensor(about.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("deviation", scale * torch.tensor(about.deviation).view(1, -1, 1, 1), persistent=False)
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def seen(self, images: Tensor) -> Tensor:
        """The pictures as the network takes them, (N, 3, size, size): scaled, in colour, normalised."""
        x = images.to(self.mean.device, torch.float32)
        if x.shape[1] == 1:
            x = x.expand(-1, RGB, -1, -1)
        if x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return ((x - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features, or with its own head the head's scores."""
        together = MOST_TOGETHER if images.is_cuda else min(MOST_TOGETHER, max(1, TOGETHER // self.size**2))
        found = torch.cat([self.net(self.seen(part)) for part in images.split(together)]).float()
        return found if self.head else as_long(found)


class Finetuned(nn.Module):
    """A backbone that is trained further: normalised pictures (N, C, H, W) -> features (N, F, 1, 1).

    It stays in evaluation mode. Its batch normalisation keeps the pretrained statistics, which a few pictures of one
    task would spoil; scales and shifts are trained. `load_backbone` puts the weights in.
    """

    def __init__(self, about: Backbone) -> None:
        super().__init__()
        self.net = made(about, weighted=False, head=False)
        for layer in self.net.modules():
            if type(layer) is nn.BatchNorm2d:
                layer.__class__ = BatchNorm  # the class that methods look for which keep the statistics of each task
        self.features: int = about.features or self.net.num_features  # type: ignore[assignment]

    def train(self, mode: bool = True) -> Finetuned:
        """Stay in evaluation mode."""
        del mode
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """The features, as a map of one pixel."""
        return as_long(self.net(x.expand(-1, RGB, -1, -1)))[:, :, None, None]


def backbone_parameters(net: nn.Module) -> list[nn.Parameter]:
    """The parameters of the backbone that is trained further, if there is one."""
    return [p for part in net.modules() if isinstance(part, Finetuned) for p in part.parameters()]


def load_backbone(backbone: nn.Module, model: Model) -> None:
    """Put the weights into a backbone that is trained (`Finetuned`); a frozen one is no part of the network.

    Raises `UserError` as `pretrained` does.
    """
    for part in backbone.children():
        if isinstance(part, Finetuned):
            part.net.load_state_dict(pretrained(model).net.state_dict())


def pretrained(model: Model, size: int | None = None, scale: float = 255.0, *, head: bool = False) -> Pretrained:
    """The backbone that the model names, with its weights, for pictures with levels from 0 to `scale`.

    `size`: the side in pixels to which pictures are scaled; by default the size it was trained on. `head`: with its own
    head. Raises `UserError` if the weights are missing or wrong, and for a size that it does not take.
    """
    about = backbones.backbone(model.backbone)
    if about.one_size and size not in (None, about.image_size):
        raise UserError(
            f"benchmark.image_size: {about.name} takes pictures of {about.image_size} pixels a side only, not of "
            f"{size}; leave the size out"
        )
    net = made(about, weighted=False, head=head)
    file = weights_file(model)
    if file is None:
        net = made(about, weighted=True, head=head)
    else:
        put(net, _fitting(about, net, read(file), head), str(file), about.name)
    return Pretrained(about, net, size or about.image_size, scale, head=head)


def made(about: Backbone, *, weighted: bool, head: bool) -> nn.Module:
    """The network of this name; `weighted`: with timm's own weights, otherwise with arbitrary ones."""
    if about.origin == "package":
        net: Any = EfficientNetLite0()
    elif about.origin == "torchvision":
        from torchvision.models import get_model  # takes a second to import

        with torch.device("meta"):
            net = get_model(about.name)
        net = net.to_empty(device="cpu")
    else:
        return _of_timm(about, weighted, head)
    if not head:
        setattr(net, _head_of(about), nn.Identity())
    return net  # type: ignore[no-any-return]


def _head_of(about: Backbone) -> str:
    return HEADS.get(about.name, "fc")


def _of_timm(about: Backbone, weighted: bool, head: bool) -> nn.Module:
    timm = backbones.imported_timm()
    own = about.name.removeprefix(backbones.TIMM)
    try:
        with contextlib.redirect_stdout(sys.stderr), torch.random.fork_rng(devices=[]):
            net: nn.Module = timm.create_model(own, pretrained=weighted, **({} if head else {"num_classes": 0}))
    except (OSError, HTTPException, RuntimeError, ValueError) as error:
        raise UserError(
            f"model.backbone: the weights of {about.name} cannot be downloaded ({' '.join(str(error).split())[:200]}); "
            "download them on another machine, and set model.weights to the path of the file"
        ) from None
    return net


def _fitting(about: Backbone, net: nn.Module, given: Mapping[str, Tensor], head: bool) -> dict[str, Tensor]:
    """The tensors under our network's names, without those of the head if it has none."""
    state = renamed(given) if about.origin == "package" else dict(given)
    if head:
        return state
    heads: Any = _head_of(about)
    if about.origin == "timm":
        settings: Any = getattr(net, "pretrained_cfg", None) or {}
        heads = settings.get("classifier") or "fc"
    starts = tuple(f"{name}." for name in ([heads] if isinstance(heads, str) else heads))
    return {name: tensor for name, tensor in state.items() if not name.startswith(starts)}


def weights_file(model: Model) -> Path | None:
    """The file of the weights, downloaded if it is torchvision's; None if timm keeps them."""
    if model.weights is not None:
        return Path(model.weights)
    about = backbones.backbone(model.backbone)
    if about.origin == "timm":
        return None
    if about.origin == "package":
        file = backbones.lite0_file()
        if sha256_unless_changed(file) != backbones.LITE0_SHA256:
            raise UserError(f"{file}: is not the file of EfficientNet-Lite0's weights; install the package again")
        return file
    from torchvision.models import get_model_weights

    imagenet(about.name)  # into torch's cache, unless it is there already
    return Path(torch.hub.get_dir(), "checkpoints", Path(get_model_weights(about.name).DEFAULT.url).name)


def checksum(model: Model) -> str:
    """SHA-256 of the file of the weights; if timm keeps them, of the named tensors."""
    file = weights_file(model)
    if file is None:
        return digest_of(made(backbones.backbone(model.backbone), weighted=True, head=False).state_dict())
    try:
        return sha256_unless_changed(file)
    except OSError as error:
        raise UserError(f"model.weights: {file}: cannot be read ({error.strerror}); give the path of a file") from None


def digest_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the tensors and their names."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        hasher.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()
