"""Networks: weights from outside, dropout, batch normalisation, heads; counts by hand from the layers that
De Lange et al. (2021) list in Table 3.
"""

from __future__ import annotations

import importlib
import itertools
import random
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from cl.descent import Descent
from cl.errors import UserError
from cl.learner import Learner
from cl.methods.finetune import Finetune
from cl.names import names_in
from cl.nets import BatchNorm, Dropout, MultiHead, alexnet, build, load_weights, resnet
from cl.nets.build import VGG
from cl.ops import importance, negative_log_likelihood, snapshot
from cl.params import Model, validate
from cl.rng import generator
from cl.train import Snapshot, copy_state, fit
from tests.cl.small import CPU, learn_tasks, learner_for, mlp, output, params_for, published, run, same
from tests.cl.tiny import NETS, images, learner_of, narrow


@pytest.mark.parametrize(
    ("name", "convolutions", "features", "total", "inputs", "head"),
    [
        ("small", 6, 334_016, 612_800, 2048, 2_580),
        ("base", 6, 1_145_408, 3_505_728, 4096, 10_260),
        ("wide", 6, 4_500_864, 8_958_336, 8192, 10_260),
        ("deep", 19, 4_280_704, 6_641_024, 4096, 10_260),
        ("alexnet", 5, 2_469_696, 57_003_840, 9216, 81_940),
    ],
)
def test_survey_counts(name: str, convolutions: int, features: int, total: int, inputs: int, head: int) -> None:
    net = build(Model(name=name), (3, 64, 64), generator(0, "network"))  # type: ignore[arg-type]
    layers = [layer for layer in net.backbone.modules() if isinstance(layer, nn.Conv2d)]
    linear = [layer for layer in net.backbone.modules() if isinstance(layer, nn.Linear)]
    assert len(layers) == convolutions
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == features
    assert sum(p.numel() for layer in linear for p in layer.parameters()) == total - features
    assert sum(p.numel() for p in net.parameters()) == total
    assert linear[0].in_features == inputs
    net.add_head(20, generator(0, "head"))
    assert sum(p.numel() for p in net.heads.parameters()) == head
    net.eval()
    with torch.no_grad():
        assert net(torch.zeros(2, 3, 64, 64), 0).shape == (2, 20)


def test_mlp() -> None:
    net = build(Model(hidden=[7, 5]), (1, 8, 8), generator(0, "network"))
    assert [tuple(p.shape) for p in net.parameters()] == [(7, 64), (7,), (5, 7), (5,)]
    assert net.feature_size == 5
    assert set(net.shared) == {"1.weight", "1.bias", "3.weight", "3.bias"}


@pytest.mark.parametrize("name", ["mlp", "small", "resnet18"])
def test_weights_follow_from_the_generator(name: str) -> None:
    def weights(seed: int) -> bytes:
        torch.manual_seed(torch.randint(9999, (1,)).item())
        net = build(Model(name=name), (3, 16, 16), generator(seed, "network"))  # type: ignore[arg-type]
        net.add_head(4, generator(seed, "head", 0))
        parameters = torch.cat([p.detach().flatten() for p in net.parameters()])
        assert bool(torch.isfinite(parameters).all())
        return parameters.numpy().tobytes()

    assert weights(0) == weights(0)
    assert weights(0) != weights(1)


def test_initialisation_of_the_vgg_nets() -> None:
    net = build(Model(name="small"), (3, 32, 32), generator(0, "network"))
    for layer in net.backbone:
        if isinstance(layer, nn.Conv2d):
            assert float(layer.weight.detach().std()) == pytest.approx((2 / (layer.out_channels * 9)) ** 0.5, rel=0.1)
        elif isinstance(layer, nn.Linear):
            assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
        else:
            continue
        assert not bool(layer.bias.any())


@pytest.mark.parametrize(("name", "least"), [("small", 16), ("alexnet", 63), ("resnet18", 9)])
def test_images_too_small_are_named(name: str, least: int) -> None:
    model = Model(name=name)  # type: ignore[arg-type]
    for shape in ((1, least - 1, least), (1, least, least - 1)):
        said = rf"model\.name.*{name}.*{least}x{least}.*benchmark\.image_size"
        with pytest.raises(UserError, match=said):
            build(model, shape, generator(0))
    with torch.no_grad():  # one image alone, as the last batch of an epoch may be
        net = build(model.model_copy(update={"dropout": 0.0}), (1, least, least), generator(0))
        assert net.train().backbone(torch.rand(1, 1, least, least)).shape == (1, net.feature_size)


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (6, 6), (13, 9)])
def test_the_pooling_of_a_gpu_is_torchs(shape: tuple[int, int]) -> None:
    """Windows that repeat, that overlap, of one pixel, and of several; the gradient too."""
    x = torch.rand(2, 3, *shape, generator=generator("pooled"), requires_grad=True)
    one, other = alexnet.by_products(x, 6), F.adaptive_avg_pool2d(x, 6)
    torch.testing.assert_close(one, other)
    slope = torch.rand(one.shape, generator=generator("slope"))
    torch.testing.assert_close(*(torch.autograd.grad(found, x, slope)[0] for found in (one, other)))
    with torch.autocast("cpu", torch.bfloat16):
        found = alexnet.by_products(x.bfloat16(), 6)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(x.bfloat16(), 6))


def test_smallest_images_of_alexnet_are_those_it_can_pool() -> None:
    with pytest.raises(RuntimeError):
        alexnet.alexnet(3, 0.0)(torch.zeros(1, 3, alexnet.SMALLEST - 1, alexnet.SMALLEST))


# Batch normalisation, dropout, and the nets of torchvision.


def test_batch_norm_stands_between_convolution_and_relu() -> None:
    model, plain = Model(name="small", batch_norm=True), Model(name="small")
    net = build(model, (3, 16, 16), generator(0, "network"))
    kinds = [type(layer) for layer in net.backbone]
    for index, kind in enumerate(kinds):
        if kind is nn.Conv2d:
            assert kinds[index + 1 : index + 3] == [BatchNorm, nn.ReLU]
    channels = sum(layer.out_channels for layer in net.backbone if isinstance(layer, nn.Conv2d))
    without = build(plain, (3, 16, 16), generator(0, "network"))
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in without.parameters()) + 2 * channels
    drawn = [p for p in net.parameters() if p.dim() > 1]
    assert all(torch.equal(a, b) for a, b in zip(drawn, [p for p in without.parameters() if p.dim() > 1], strict=True))


def test_dropout_stands_behind_each_hidden_linear_layer() -> None:
    for name, count in (("mlp", 2), ("small", 2)):
        net = build(Model(name=name, dropout=0.5), (3, 16, 16), generator(0))  # type: ignore[arg-type]
        kinds = [type(layer) for layer in net.backbone]
        assert kinds.count(Dropout) == count
        assert all(
            kinds[i : i + 3] == [nn.Linear, nn.ReLU, Dropout] for i, kind in enumerate(kinds) if kind is nn.Linear
        )
        plain = build(Model(name=name, dropout=0.0), (3, 16, 16), generator(0))  # type: ignore[arg-type]
        assert not any(isinstance(layer, Dropout) for layer in plain.backbone)
    assert [layer.p for layer in alexnet.alexnet(3, 0.25).modules() if isinstance(layer, Dropout)] == [0.25, 0.25]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "mlp", "batch_norm": True}, r"batch_norm: .*VGG.*mlp"),
        ({"name": "alexnet", "batch_norm": True}, r"batch_norm: .*VGG.*alexnet"),
        ({"name": "resnet18", "dropout": 0.5}, r"dropout: resnet18"),
        ({"name": "small", "weights": "imagenet"}, r"weights: .*alexnet, resnet18 and features.*small"),
        ({"name": "small", "dropout": 1.0}, r"dropout"),
    ],
)
def test_what_a_network_cannot_have_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"model.*{said}"):
        validate({"model": settings, "methods": {"ewc": {}}}, "params.yaml")


def test_resnet_is_torchvisions() -> None:
    """Names, count and numbers, and the statistics that training leaves behind."""
    theirs = torchvision.models.resnet18(weights=None)
    body = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("fc.")}
    theirs.fc = nn.Identity()
    net = build(Model(name="resnet18"), (3, 64, 64), generator(0))
    assert sum(p.numel() for p in net.parameters()) == 11_689_512 - 513_000
    net.backbone.load_state_dict(body)
    x = torch.rand(2, 3, 64, 64, generator=generator(1))
    with torch.no_grad():
        for training in (False, True, False):
            assert torch.equal(net.train(training).backbone(x), theirs.train(training)(x))
    assert same(dict(net.backbone.state_dict()), dict(theirs.state_dict()))


def test_alexnet_is_torchvisions() -> None:
    theirs = torchvision.models.alexnet(weights=None).eval()
    body = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("classifier.6.")}
    theirs.classifier[6] = nn.Identity()
    backbone = alexnet.alexnet(3, 0.5).eval()
    backbone.load_state_dict(body)
    x = torch.rand(2, 3, 70, 64, generator=generator(1))
    with torch.no_grad():
        assert torch.equal(backbone(x), theirs(x))


@pytest.mark.parametrize(
    ("backbone", "cut", "features"),
    [(alexnet.alexnet(3, 0.5), 3, 9216), (resnet.resnet18(3, 64), 10, 512), (resnet.resnet18(3, 32), 9, 512)],
    ids=["alexnet", "resnet18", "resnet18-small"],
)
def test_parts_are_cut_where_the_last_map_is_flattened(backbone: nn.Sequential, cut: int, features: int) -> None:
    net = MultiHead(backbone.to("meta"), 1)
    front, back = net.parts()
    assert [*front, *back] == list(backbone)
    assert len(front) == cut
    assert front.eval()(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, features)


def test_resnet_for_small_images_halves_no_side_at_once() -> None:
    for side, size, stride, pooled in ((63, 3, 1, False), (64, 7, 2, True)):
        net = resnet.resnet18(3, side)
        assert (net.conv1.kernel_size, net.conv1.stride) == ((size, size), (stride, stride))
        assert any(isinstance(layer, nn.MaxPool2d) for layer in net) == pooled


def test_initialisation_of_the_nets_of_torchvision() -> None:
    """AlexNet's as torch's own, uniform in +-1/sqrt(inputs); ResNet's as the VGG nets'."""
    for layer in build(Model(name="alexnet"), (3, 63, 63), generator(0, "network")).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / layer.weight[0].numel() ** 0.5
            for p in layer.parameters():
                assert 0.9 * bound < float(p.detach().abs().max()) <= bound * (1 + 1e-6)
                assert abs(float(p.detach().mean())) < 0.2 * bound
    for layer in build(Model(name="resnet18"), (3, 32, 32), generator(0, "network")).modules():
        if isinstance(layer, nn.Conv2d):
            deviation = (2 / (layer.out_channels * layer.kernel_size[0] ** 2)) ** 0.5
            assert float(layer.weight.detach().std()) == pytest.approx(deviation, rel=0.1)
        elif isinstance(layer, BatchNorm):
            assert bool((layer.weight == 1).all())
            assert not bool(layer.bias.any())


# Weights from outside.


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> MultiHead:
    """ResNet-18 with a few channels."""
    narrow(monkeypatch)
    return build(Model(name="resnet18"), (3, 64, 64), generator(0))


def put(net: MultiHead, source: Path | str) -> None:
    load_weights(net.backbone, Model(name="resnet18", weights=str(source)))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_are_read_from_a_file(suffix: str, thin: MultiHead, tmp_path: Path) -> None:
    """The head of the file is left out, and counters it lacks are not missed."""
    given = {name: torch.rand_like(p.detach()) for name, p in thin.backbone.named_parameters()}
    given |= {name: t + 1 for name, t in thin.backbone.named_buffers() if not name.endswith("num_batches_tracked")}
    file = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "pth" else save_file)({**given, "fc.weight": torch.zeros(2, 8)}, file)
    put(thin, file)
    state = thin.backbone.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in given.items())


def test_a_learner_starts_from_the_weights(monkeypatch: pytest.MonkeyPatch, thin: MultiHead, tmp_path: Path) -> None:
    narrow(monkeypatch)
    small = build(Model(name="resnet18"), (3, 16, 16), generator("elsewhere"))
    torch.save(small.backbone.state_dict(), tmp_path / "weights.pth")
    params = params_for("finetune", model={"name": "resnet18", "weights": str(tmp_path / "weights.pth")})
    learner = Learner(params, "finetune", 0, images(1), CPU)
    assert same(dict(learner.method.net.backbone.state_dict()), dict(small.backbone.state_dict()))


def test_weights_of_another_network_are_named(thin: MultiHead, tmp_path: Path) -> None:
    state = dict(thin.backbone.state_dict())
    state["bn2.weight"] = state.pop("bn1.weight")
    state["conv1.weight"] = state["conv1.weight"][:, :1].clone()
    torch.save(state, tmp_path / "weights.pth")
    before = {name: tensor.clone() for name, tensor in thin.backbone.state_dict().items()}
    with pytest.raises(
        UserError,
        match=r"model\.weights: .*weights\.pth.* resnet18 .*missing: bn1\.weight; unknown: bn2\.weight; "
        r"of another shape: conv1\.weight \(8, 1, 7, 7\) instead of \(8, 3, 7, 7\)$",
    ):
        put(thin, tmp_path / "weights.pth")
    assert same(dict(thin.backbone.state_dict()), before), "nothing is loaded by halves"
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"missing: conv1\.weight(, [a-z0-9._]+){4} and \d+ more"):
        put(thin, tmp_path / "weights.pth")


def test_files_that_are_no_weights_are_named(thin: MultiHead, tmp_path: Path) -> None:
    for name in ("absent.pth", "absent.safetensors"):
        with pytest.raises(UserError, match=rf"model\.weights: .*{name}: cannot be read .*'imagenet'"):
            put(thin, tmp_path / name)
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(UserError, match=rf"model\.weights: .*{name}: damaged"):
            put(thin, tmp_path / name)
    torch.save(dict(thin.backbone.state_dict()), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model\.weights: .*cut\.pth: damaged"):
        put(thin, tmp_path / "cut.pth")
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "more.pth")
    with pytest.raises(UserError, match=r"model\.weights: .*more\.pth: holds more than tensors"):
        put(thin, tmp_path / "more.pth")


class Touch:
    """Pickled, it creates a file when it is read back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_nothing_in_a_file_is_executed(thin: MultiHead, tmp_path: Path) -> None:
    torch.save({"conv1.weight": Touch(tmp_path / "touched")}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"model\.weights: .*damaged, or not a file of weights alone"):
        put(thin, tmp_path / "weights.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [b"", b"root:x:0:0:root", b"(Nq\x80", b"x\x800tt", b"\x80\x02}.", bytes(200)])
def test_a_file_of_something_else_is_said(content: bytes, thin: MultiHead, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.weights: .*(damaged, or not a file of weights alone|does not hold)"):
        put(thin, tmp_path / "weights.pth")


def test_imagenet_weights_are_torchvisions(
    thin: MultiHead, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[dict[str, Any]] = []
    given = {name: tensor + 1 for name, tensor in thin.backbone.state_dict().items()}

    def fetched(self: Any, **settings: Any) -> dict[str, Tensor]:
        asked.append({"weights": self, **settings})
        print("Downloading, as torch says")
        return {**given, "fc.bias": torch.zeros(1000)}

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", fetched)
    put(thin, "imagenet")
    assert same(dict(thin.backbone.state_dict()), given)
    (asked_for,) = asked
    assert asked_for.pop("weights") is torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    assert capsys.readouterr().out == "", "events of a run go there"
    assert asked_for == {"progress": False, "check_hash": True, "weights_only": True}


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("invalid hash value")])
def test_where_the_network_does_not_allow_it_is_said_what_to_fetch(
    error: Exception, thin: MultiHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(self: Any, **settings: Any) -> dict[str, Tensor]:
        raise error

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", fetched)
    with pytest.raises(UserError, match=r"model\.weights: those of resnet18 .*(no route|hash).*resnet18-\w+\.pth"):
        put(thin, "imagenet")


# Dropout: what a mask follows from.


def masks_of(layer: Dropout, *key: int | str, passes: int = 1) -> list[Tensor]:
    layer.draw_from(*key)
    return [layer(torch.ones(40, 50)) for _ in range(passes)]


def test_dropout_leaves_out_a_share_and_scales_the_rest() -> None:
    layer = Dropout(0.2)
    (found,) = masks_of(layer, 0)
    assert set(found.flatten().tolist()) == {0.0, 1.25}
    assert 0.15 < float((found == 0).float().mean()) < 0.25
    x = torch.rand(40, 50)
    layer.draw_from(0)
    assert torch.equal(layer(x), x * found)
    layer.eval()
    assert layer(x) is x


def test_masks_follow_from_the_key_alone() -> None:
    first, other = Dropout(0.5), Dropout(0.5)
    expected = masks_of(first, 0, "a", passes=2)
    assert not torch.equal(*expected)
    masks_of(other, 1, passes=3)
    torch.manual_seed(random.randrange(2**31))
    before = torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(masks_of(other, 0, "a", passes=2), expected, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(masks_of(first, 0, "b")[0], expected[0])
    with pytest.raises(AssertionError, match="draw_from"):
        Dropout(0.5)(torch.ones(2))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every output of dropout in training, in order."""
    found: list[Tensor] = []
    forward = Dropout.forward

    def watched(self: Dropout, x: Tensor) -> Tensor:
        out = forward(self, x)
        if self.training:
            found.append((out != 0) | (x == 0))
        return out

    monkeypatch.setattr(Dropout, "forward", watched)
    return found


class Twice(Finetune):
    """Passes everything through the network once more before each loss."""

    def loss(self, x: Tensor, y: Tensor, t: Any) -> Tensor:
        self.net(x, t)
        return super().loss(x, y, t)


def test_masks_of_a_step_do_not_hang_on_those_before(seen: list[Tensor], prepared: dict[int, Path]) -> None:
    """More passes in a step change none of the masks of the next; no two layers, steps or epochs share any."""
    masks: list[list[Tensor]] = []
    for method in (Finetune(), Twice()):
        seen.clear()
        learner = learner_for(params_for("finetune", model={"hidden": [16, 16], "dropout": 0.5}), prepared[2])
        learner.open(learner.experiences[0])
        learner.attach(method, "test", 0, 0.0)
        method.training = method.training.model_copy(update={"epochs": 2})
        with torch.no_grad():  # so that nothing but the mask makes a zero
            for p in method.net.parameters():
                p.abs_()
        fit(method, learner.experiences[0], (0, "test"), learning_rate=0.0)
        masks.append(seen.copy())
    once, twice = masks
    assert len(twice) == 2 * len(once) > 8
    steps = len(once) // 2
    for step in range(steps):
        for layer in range(2):
            assert torch.equal(once[2 * step + layer], twice[4 * step + layer])
    whole = [mask for mask in once if len(mask) == 32]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(whole, 2))


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize(
    ("method", "model"),
    [
        ("ewc", {"hidden": [16], "dropout": 0.5}),
        ("packnet", {"name": "small", "dropout": 0.5, "batch_norm": True}),
        ("hat", {"name": "small", "dropout": 0.5, "batch_norm": True}),
    ],
)
def test_resumed_is_straight(
    method: str, model: dict[str, Any], prepared: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes from a run in one go, again, and killed at three steps and gone on."""
    monkeypatch.setitem(VGG, "small", ([4, "M"], [8]))
    params = params_for(method, model=model, training={"epochs": 2}, selection={"max_attempts": 2})
    straight, again, killed = (output(tmp_path / name, prepared[2]) for name in ("straight", "again", "killed"))
    step, steps = Descent.step, 0

    def counting(self: Descent, *args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps in fatal:
            raise Killed
        return step(self, *args)

    monkeypatch.setattr(Descent, "step", counting)
    fatal: set[int] = set()
    run(params, straight)
    total, steps = steps, 0
    torch.manual_seed(random.randrange(2**31))
    run(params, again)
    assert published(again) == published(straight)
    steps, fatal = 0, {total // 5, total // 2, total - 1}
    for _ in fatal:
        with pytest.raises(Killed):
            run(params, killed)
    run(params, killed)
    assert published(killed) == published(straight)
    plain = output(tmp_path / "plain", prepared[2])
    run(params_for(method, model={**model, "dropout": 0.0}, training={"epochs": 2}), plain)
    assert published(plain).keys() == published(straight).keys()
    networks = [path for path in published(plain) if path.endswith("net.safetensors")]
    assert all(published(plain)[path] != published(straight)[path] for path in networks)


@pytest.mark.slow
def test_trials_side_by_side_are_trials_in_turn(prepared: dict[int, Path], tmp_path: Path) -> None:
    params = params_for("lwf", model={"hidden": [16], "dropout": 0.5})
    alone, beside = output(tmp_path / "alone", prepared[2]), output(tmp_path / "beside", prepared[2])
    run(params, alone)
    run(params, beside, trial_workers=2)
    assert published(beside) == published(alone)


# Every method on networks with batch normalisation.


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", names_in("methods"))
def test_every_method_learns_with_batch_norm(method: str, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Testing changes nothing; a snapshot brings everything back, statistics too."""
    narrow(monkeypatch)
    try:
        learner = learner_of(method, net)
    except UserError as error:
        pytest.skip(str(error))
    fresh = snapshot(learner.method.net.state_dict())
    learn_tasks(learner, len(learner.experiences))
    kept = Snapshot.of(learner.method)
    running = [name for name in fresh if "running_" in name]
    assert running
    assert not any(torch.equal(kept.net[name], fresh[name]) for name in running)
    assert all(0 <= value <= 1 for value in learner.test())
    assert same(snapshot(learner.method.net.state_dict()), kept.net)
    assert same(learner.method.state(), kept.state)
    for layer in learner.method.net.modules():
        if isinstance(layer, Dropout):
            layer.draw_from("one more pass")
    learner.method.net.train()(learner.task.train.x, learner.task.index)
    assert not same(snapshot(learner.method.net.state_dict()), kept.net)
    kept.restore(learner.method)
    assert same(snapshot(learner.method.net.state_dict()), kept.net)


@pytest.mark.parametrize("method", ["lwf", "ebll"])
def test_a_teacher_answers_at_rest(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dropout, by the statistics it has, which do not run on; the student's do."""
    narrow(monkeypatch)
    learner = learner_of(method, "vgg")
    learn_tasks(learner, 1)
    learner.open(learner.experiences[1])
    learner.attach(learner.method, "test", 0, 0.05)
    student: Any = learner.method
    student.begin_task(learner.experiences[1])
    x, y = learner.experiences[1].train.x, learner.experiences[1].train.y
    student.net.eval()
    with torch.no_grad():
        expected = student.net(x).split(2, 1)[0]
    asked: list[Tensor] = []
    module = importlib.import_module(f"cl.methods.{method}")
    inner = module.distillation
    monkeypatch.setattr(module, "distillation", lambda s, t, c: (asked.append(t), inner(s, t, c))[1])
    before, running = copy_state(student._teacher), snapshot(dict(student.net.named_buffers()))
    student.net.train()
    for number, layer in enumerate(layer for layer in student.net.modules() if isinstance(layer, Dropout)):
        layer.draw_from(number)
    student.loss(x, y, 1)
    assert len(asked) == 1
    assert torch.equal(asked[0], expected)
    assert same(student._teacher, before)
    assert student.net.training
    assert all(layer.training for layer in student.net.backbone)
    assert not same(snapshot(dict(student.net.named_buffers())), running)


@pytest.mark.parametrize("estimator", ["per-sample", "batch-sum"])
@pytest.mark.parametrize("reduced", [False, True])
def test_importance_through_batch_norm_and_dropout(
    estimator: str, reduced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As autograd finds it in evaluation, of scales and shifts too; statistics stay as they are."""
    narrow(monkeypatch)
    for name in NETS:
        learner = learner_of("finetune", name)
        learn_tasks(learner, 1)
        net, split = learner.method.net, learner.experiences[0].train
        net.backbone.reduced = reduced
        before = snapshot(net.state_dict())
        net.train()
        found = importance(net, split, 0, negative_log_likelihood, torch.square, estimator, 12)
        assert same(snapshot(net.state_dict()), before)
        expected = {key: torch.zeros_like(p) for key, p in net.shared.items()}
        rows = torch.arange(12).split(1 if estimator == "per-sample" else 12)
        for part in rows:
            loss = F.cross_entropy(net(split.x[part], 0), split.y[part], reduction="sum")
            for key, g in zip(expected, torch.autograd.grad(loss, list(net.shared.values())), strict=True):
                expected[key] += g**2 / 12
        assert any(
            value.dim() == 1 and bool(value.any()) for key, value in found.items() if "bn" in key or key == "1.weight"
        )
        for key, value in expected.items():
            scale = float(value.abs().max())
            torch.testing.assert_close(
                found[key], value, rtol=0.1 if reduced else 1e-3, atol=0.1 * scale if reduced else 1e-5 * scale + 1e-12
            )


# Heads.


def test_forms_of_logits() -> None:
    net = mlp(classes=(3, 2, 4))
    x = torch.rand(6, 4)
    wide = net(x)
    assert wide.shape == (6, 9)
    for t, part in enumerate(wide.split([3, 2, 4], 1)):
        torch.testing.assert_close(net(x, t), part)
    t = torch.tensor([0, 1, 2, 2, 1, 0])
    masked = net(x, t)
    for row, of_task in enumerate(t.tolist()):
        start, stop = [(0, 3), (3, 5), (5, 9)][of_task]
        assert torch.equal(masked[row, start:stop], wide[row, start:stop])
        outside = torch.cat([masked[row, :start], masked[row, stop:]])
        assert bool((outside == -torch.inf).all())
    assert net.column(torch.tensor([2, 1, 0, 3]), torch.tensor([0, 1, 2, 2])).tolist() == [2, 4, 5, 8]
    assert net.column(torch.tensor([1, 3]), 2).tolist() == [6, 8]


def test_other_heads_get_no_gradient() -> None:
    net = mlp(classes=(3, 2))
    F.cross_entropy(net(torch.rand(6, 4), torch.tensor([1] * 6)), torch.tensor([3, 4] * 3)).backward()
    assert not bool(net.heads[0].weight.grad.any())
    assert bool(net.heads[1].weight.grad.any())
    net.zero_grad()
    F.cross_entropy(net(torch.rand(6, 4), 1), torch.tensor([0, 1] * 3)).backward()
    assert net.heads[0].weight.grad is None


def test_new_head_leaves_the_others_alone_and_is_within_its_bound() -> None:
    net = mlp(units=100, classes=(3,))
    before = net.heads[0].weight.detach().clone()
    net.add_head(50, generator(0, "head", 1))
    assert torch.equal(net.heads[0].weight, before)
    assert net.classes() == [3, 50]
    size = torch.cat([p.detach().flatten().abs() for p in net.heads[1].parameters()])
    assert 0.099 < float(size.max()) <= 0.1


def test_every_model_of_the_schema_can_be_built() -> None:
    assert "build" in names_in("nets")
    names = Model.model_fields["name"].annotation.__args__  # type: ignore[union-attr]
    for name in names:
        assert build(Model(name=name), (1, 64, 64), generator(0)).feature_size > 0
