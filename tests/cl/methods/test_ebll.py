"""EBLL: equations 2 and 5 of Rannen Triki et al. (2017) written out once more, and what learns in which step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cl.data import Sequence, Task
from cl.learner import Learner
from cl.method import Method
from cl.methods import ebll
from cl.methods.ebll import EBLL, Coder, code
from cl.nets import build
from cl.nets.multihead import Increment
from cl.ops import Tensors, distillation, snapshot
from cl.params import Model
from cl.train import Fit, Snapshot, fit
from tests.cl.small import (
    CPU,
    OFF,
    attach,
    dark_and_bright,
    learn_tasks,
    learner_for,
    mlp,
    params_for,
    same,
    toy_task,
)

DATA = toy_task([[1, 0, 0, 2], [0, 1, 3, 0], [2, 2, 0, 1]], [2, 1, 0], index=2)


def encoder(seed: int, features: int = 5, units: int = 2) -> Tensors:
    draw = torch.Generator().manual_seed(seed)
    return {"weight": torch.randn(units, features, generator=draw), "bias": torch.randn(units, generator=draw)}


def third_task(**knobs: Any) -> Any:
    """At the start of its third task, with an encoder of two units and one of three."""
    method = attach(EBLL(**knobs), mlp(classes=(3, 2, 3)), task=2)
    method.encoders_ = [encoder(0), encoder(1, units=3)]
    method.begin_task(DATA)
    return method


# The loss of a task.


def test_codes_do_not_count_at_the_start_of_a_task() -> None:
    """They are the teacher's: no loss, and no gradient."""
    method = third_task(strength=0.0, code_strength=1e6)
    x, y, shared = DATA.train.x, DATA.train.y, list(method.shared.values())
    plain = F.cross_entropy(method.net(x, 2), y)
    found = method.loss(x, y, 2)
    assert torch.equal(found, plain)
    for got, expected in zip(torch.autograd.grad(found, shared), torch.autograd.grad(plain, shared), strict=True):
        assert torch.equal(got, expected)
    with torch.no_grad():
        method.net.backbone[1].weight += 0.1
    assert float(method.loss(x, y, 2).detach()) > 1e3, "and they do once the features have moved"


def test_loss_of_two_old_tasks() -> None:
    method = third_task(strength=5.0, code_strength=3.0, temperature=4.0)
    x, y, net = DATA.train.x, DATA.train.y, method.net
    teachers, before = [net(x, s).detach() for s in range(2)], net.backbone[:3](x).detach()
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1
    features = torch.relu(x.flatten(1) @ net.backbone[1].weight.T + net.backbone[1].bias)
    expected = F.cross_entropy(net(x, 2), y) + 5 * sum(distillation(net(x, s), teachers[s], 4.0) for s in range(2))
    for seed, units in ((0, 2), (1, 3)):
        weight, bias = encoder(seed, units=units).values()
        codes, held = (torch.sigmoid(f @ weight.T + bias) for f in (features, before))
        expected = expected + 3 * (codes - held).square().sum() / (len(x) * units)
    torch.testing.assert_close(method.loss(x, y, 2), expected)


@pytest.mark.parametrize(("increment", "classes", "old"), [("domain", (3,), 3), ("class", (3, 2, 3), 5)])
def test_one_softmax_is_distilled_as_one(increment: Increment, classes: tuple[int, ...], old: int) -> None:
    net = mlp(classes=classes)
    net.increment = increment
    method = attach(EBLL(strength=5.0, code_strength=1e-9), net, task=2)
    method.encoders_ = [encoder(0)]
    method.begin_task(DATA)
    x, y = DATA.train.x, DATA.train.y
    teacher = net(x).detach()
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1
    column = y + 5 if increment == "class" else y
    expected = F.cross_entropy(net(x), column) + 5 * distillation(net(x)[:, :old], teacher[:, :old], 2.0)
    torch.testing.assert_close(method.loss(x, y, 2), expected)


def test_codes_pull_the_features_back_and_move_nothing_else() -> None:
    method = third_task(strength=0.0, code_strength=2.0)
    held, taught = snapshot(method.encoders_[0]), snapshot(method._teacher)
    with torch.no_grad():
        method.net.backbone[1].weight += 0.1
    x, y = DATA.train.x, DATA.train.y
    (method.loss(x, y, 2) - F.cross_entropy(method.net(x, 2), y)).backward()
    assert bool(method.net.backbone[1].weight.grad.any())
    assert not bool(method.net.backbone[3].weight.grad.any()), "of no part in the features"
    assert same(method.encoders_[0], held)
    assert same(method._teacher, taught)
    assert not any(t.requires_grad for e in [method._teacher, *method.encoders_] for t in e.values())


def test_without_codes_it_is_lwf_bit_for_bit(prepared: dict[int, Path]) -> None:
    few = {"code_sizes": [4], "reconstruction": [0.1], "code_epochs": 1}
    networks = []
    for name, knobs in (("lwf", {}), ("ebll", {**few, "code_strength": 0.0}), ("ebll", {**few, "code_strength": 9.0})):
        params = params_for(name, {**knobs, "strength": 2.0}, selection=OFF, model={"hidden": [16, 12]})
        learner = learner_for(params, prepared[3])
        learn_tasks(learner, 3)
        networks.append(Snapshot.of(learner.method).net)
    assert same(networks[0], networks[1])
    assert not same(networks[0], networks[2])


def test_an_encoder_of_each_finished_task_and_no_more_of_it(prepared: dict[int, Path]) -> None:
    knobs = {"code_sizes": [3, 4], "reconstruction": [0.1], "code_epochs": 1}
    learner = learner_for(params_for("ebll", knobs, selection=OFF), prepared[3])
    kept: list[Tensors] = []
    for task in learner.experiences:
        learner.open(task)
        trained = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
        assert isinstance(learner.method, EBLL)
        assert same(learner.method.encoders_ or [], kept), "frozen while a task is learned"
        learner.consolidate("learn", 0, 0.1, learner.knobs, trained)
        encoders = learner.method.encoders_
        assert encoders is not None
        assert same(encoders[:-1], kept)
        assert len(encoders) == len(learner.method.code_accuracy_ or []) == task.index + 1
        size, features = encoders[-1]["weight"].shape
        assert size in (3, 4)
        assert features == 16
        assert encoders[-1]["bias"].shape == (size,)
        kept = [snapshot(e) for e in encoders]
        assert learner.method._teacher is None


# The autoencoder.


@pytest.mark.parametrize(
    ("accuracies", "kept"), [([0.5, 0.7, 0.7, 0.6], 1), ([0.1, 0.2, 0.3, 0.4], 3), ([0.0] * 4, 0), ([0.9] * 4, 0)]
)
def test_best_autoencoder_is_kept_the_first_among_equals(accuracies: list[float], kept: int) -> None:
    knobs = {"code_sizes": [2, 3], "reconstruction": [0.1, 0.01], "code_learning_rate": 0.7, "code_epochs": 9}
    method = attach(EBLL(**knobs), mlp())
    tried: list[Method] = []
    asked: list[str] = []

    def told(data: Task, purpose: str, learner: Method, **settings: Any) -> Fit:
        assert settings == {"learning_rate": 0.7, "epochs": 9}
        learner.net.backbone[0].encoder.weight.data.fill_(len(tried))  # type: ignore[union-attr, operator]
        tried.append(learner)
        asked.append(purpose)
        return Fit(accuracies[len(tried) - 1], 1, 1, 0.0)

    method.fit = told
    method.end_task(toy_task([[1, 0, 2, 1]], [2]))
    sizes = [learner.net.backbone[0].encoder.out_features for learner in tried]  # type: ignore[union-attr]
    weights = [learner.reconstruction for learner in tried]
    assert list(zip(sizes, weights, strict=True)) == [(2, 0.1), (2, 0.01), (3, 0.1), (3, 0.01)]
    assert len(set(asked)) == 4, "each with its own order of samples"
    assert torch.equal(method.encoders_[0]["weight"], torch.full((sizes[kept], 5), float(kept)))
    assert method.code_accuracy_ == [accuracies[kept]]


@pytest.mark.parametrize(("name", "side", "first", "size"), [("mlp", 4, 3, 7), ("small", 16, 17, 128)])
def test_autoencoder_learns_from_the_features_and_touches_nothing(
    name: str, side: int, first: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a VGG the flattened map of its convolutions, of an MLP its first hidden layer."""
    knobs = {"code_sizes": [3], "reconstruction": [0.1], "code_epochs": 2, "code_learning_rate": 1.0}
    params = params_for("ebll", knobs, selection=OFF, model={"name": name, "hidden": [7, 6]}, training={"epochs": 1})
    learner = Learner(
        params, "ebll", 0, Sequence("toy", (1, side, side), (dark_and_bright(0, side), dark_and_bright(1, side))), CPU
    )
    learn_tasks(learner, 1)
    learner.open(learner.experiences[1])
    trained = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
    method = learner.method
    assert isinstance(method, EBLL)
    before, old = Snapshot.of(method).net, [snapshot(e) for e in method.encoders_ or []]
    seen: list[Task] = []

    def watched(coding: Method, data: Task, *args: Any, **settings: Any) -> Fit:
        learning = {name for name, p in coding.net.named_parameters() if p.requires_grad}
        assert learning == {f"backbone.0.{layer}.{p}" for layer in ("encoder", "decoder") for p in ("weight", "bias")}
        seen.append(data)
        return fit(coding, data, *args, **settings)

    monkeypatch.setattr("cl.learner.fit", watched)
    learner.consolidate("learn", 0, 0.1, learner.knobs, trained)
    assert same(Snapshot.of(method).net, before)
    assert all(p.requires_grad for p in method.net.parameters()), "the next task is learned with them"
    assert method.encoders_ is not None
    assert same(method.encoders_[:1], old)
    assert method.encoders_[1]["weight"].shape == (3, size)
    expected = method.net.backbone.of(list(method.net.backbone)[:first])(learner.task.train.x).detach()
    assert expected.shape == (12, size)
    torch.testing.assert_close(seen[0].train.x, expected)
    torch.testing.assert_close(seen[0].validation.x, expected)
    assert seen[0].test is learner.task.test, "not looked at"


@pytest.mark.parametrize(("hidden", "first"), [([7], 3), ([7, 6, 5], 3)])
def test_features_of_an_mlp(hidden: list[int], first: int) -> None:
    net = build(Model(hidden=hidden), (1, 4, 4), torch.Generator())
    backbone, (front, back) = net.backbone, net.parts()
    assert list(front) == list(backbone)[:first]
    assert [*front, *back] == list(backbone)


def test_loss_of_the_autoencoder() -> None:
    """The frozen classifier on the reconstruction, and how far that is off."""
    net = mlp(classes=(2, 3))
    coder = Coder(5, 2, torch.Generator().manual_seed(3))
    features, y = torch.rand(4, 5), torch.tensor([0, 2, 1, 2])
    weight, bias = coder.encoder.weight, coder.encoder.bias
    torch.testing.assert_close(
        code(features, {"weight": weight, "bias": bias}), 1 / (1 + (-coder.encoder(features)).exp())
    )
    rebuilt = code(features, {"weight": weight, "bias": bias}) @ coder.decoder.weight.T + coder.decoder.bias
    answer = net.heads[1](net.backbone[3:](rebuilt))
    expected = F.cross_entropy(answer, y) + 0.3 * ((rebuilt - features) ** 2).sum() / 20
    net.backbone = net.backbone.of([coder, *list(net.backbone)[3:]])
    torch.testing.assert_close(attach(ebll._Autoencoder(net, 0.3), net, task=1).loss(features, y, 1), expected)


def test_autoencoder_stops_after_six_epochs_and_keeps_its_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a row without a better validation accuracy, whatever patience the params ask of the tasks."""
    rates: list[float] = []
    step = torch.optim.Adadelta.step

    def stepping(optimizer: torch.optim.Adadelta) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer)

    monkeypatch.setattr(torch.optim.Adadelta, "step", stepping)
    monkeypatch.setattr("cl.train.accuracy", lambda *given, **named: 0.5)
    net, data = mlp(classes=(3,)).requires_grad_(False), toy_task([[1, 0, 2, 1, 3], [0, 1, 1, 2, 0]], [2, 1])
    net.backbone = net.backbone.of([Coder(5, 2, torch.Generator()), *list(net.backbone)[3:]])
    flat = data.train.mapped(torch.nn.Flatten(), 2)
    learner = attach(ebll._Autoencoder(net, 0.1), net, patience={"drop_after": 2, "stop_after": 3})
    found = fit(learner, replace(data, train=flat, validation=flat), (0,), learning_rate=0.01, epochs=50)
    assert found.epochs == 7
    assert rates == [0.01] * 7


def test_autoencoder_serves_the_softmax_of_the_scenario() -> None:
    net = mlp(classes=(2, 3))
    net.increment = "class"
    coder = Coder(5, 2, torch.Generator().manual_seed(3))
    features, y = torch.rand(4, 5), torch.tensor([0, 2, 1, 2])
    rebuilt = coder(features)
    answer = net.logits(net.backbone[3:](rebuilt))
    expected = F.cross_entropy(answer, y + 2) + 0.3 * F.mse_loss(rebuilt, features)
    net.backbone = net.backbone.of([coder, *list(net.backbone)[3:]])
    learner = attach(ebll._Autoencoder(net, 0.3), net, task=1)
    torch.testing.assert_close(learner.loss(features, y, 1), expected)


@pytest.mark.parametrize("increment", ["domain", "class"])
def test_learns_where_tasks_share_a_softmax(increment: Increment, prepared: dict[int, Path]) -> None:
    few = {"code_sizes": [4], "reconstruction": [0.1], "code_epochs": 1}
    params = params_for("ebll", few, selection=OFF, scenario={"name": increment})
    learner = learner_for(params, prepared[3])
    learn_tasks(learner, 3)
    assert isinstance(learner.method, EBLL)
    assert len(learner.method.encoders_ or []) == 3
    assert learner.method.predict(learner.task.test.x).shape[1] == (10 if increment == "domain" else 30)


def test_autoencoder_learns(prepared: dict[int, Path]) -> None:
    """What the classifier makes of ten numbers a sample comes close to what it makes of all features."""
    found = []
    for rate in (10.0, 1e-6):
        knobs = {"code_sizes": [10], "reconstruction": [0.1], "code_learning_rate": rate}
        learner = learner_for(params_for("ebll", knobs, selection=OFF, training={"epochs": 20}), prepared[2])
        learn_tasks(learner, 1)
        assert isinstance(learner.method, EBLL)
        found.append((learner.method.code_accuracy_ or [0.0])[0])
    assert found[0] > 0.5
    assert found[1] < 0.3, "chance is 0.1"
