"""Pseudo-rehearsal (Robins 1995): what is held, what inputs are drawn, and what must not move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cl.methods.pseudo_rehearsal import PseudoRehearsal
from cl.nets import BatchNorm
from cl.nets.multihead import Backbone, Increment
from cl.train import Snapshot
from tests.cl.small import OFF, attach, learn_tasks, learner_for, linear_net, mlp, params_for, same, toy_task

DATA = toy_task([[1, 0, 0, 2], [0, 1, 3, 0], [2, 2, 0, 1]], [2, 1, 0], index=2)


def third_task(increment: Increment = "task", **knobs: Any) -> Any:
    net = mlp(classes=(3,) if increment == "domain" else (3, 2, 3))
    net.increment = increment
    method = attach(PseudoRehearsal(**knobs), net, task=2)
    method.begin_task(DATA)
    return method


def moved(method: Any) -> None:
    with torch.no_grad():
        for p in method.net.parameters():
            p += 0.1


def held(method: Any) -> Tensor:
    """The loss less that of the new task."""
    x, y = DATA.train.x, DATA.train.y
    found: Tensor = method.loss(x, y, 2) - F.cross_entropy(method.net(x, method.net.scope(2)), method.net.label(y, 2))
    return found


def test_unmoved_answers_cost_nothing_by_squares_and_their_entropy_softened() -> None:
    method = third_task(distance="squared", strength=1e6)
    assert float(held(method).detach()) == 0
    moved(method)
    assert float(held(method).detach()) > 1
    method = third_task(distance="softened", strength=3.0, temperature=4.0)
    found = held(method)
    noise = third_task().random(3, DATA.train.x)
    answers = [(method.net(noise, s) / 4).softmax(1) for s in range(2)]
    entropy = -sum((p * p.log()).sum(1).mean() for p in answers)
    torch.testing.assert_close(found, 3 * entropy)
    for slope in torch.autograd.grad(found, list(method.shared.values())):
        torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-5, rtol=0)


@pytest.mark.parametrize("increment", ["task", "domain", "class"])
def test_every_old_group_is_held(increment: Increment) -> None:
    method = third_task(increment, distance="squared", strength=2.0)
    noise = third_task(increment).random(3, DATA.train.x)
    before = method.net(noise).detach()
    moved(method)
    after = method.net(noise)
    groups = {"task": [(0, 3), (3, 5)], "domain": [(0, 3)], "class": [(0, 5)]}[increment]
    expected = 2 * sum((before - after)[:, start:end].square().mean() for start, end in groups)
    torch.testing.assert_close(held(method), expected)


@pytest.mark.parametrize("law", ["uniform", "gaussian"])
def test_law_of_the_inputs_and_that_they_are_drawn_anew(law: str) -> None:
    bright = toy_task([[0, 4, 8, 12], [2, 4, 6, 4]], [0, 1], index=1)
    found = []
    for _ in range(2):
        method = attach(PseudoRehearsal(law=law), mlp(classes=(2, 2)), task=1)
        method.begin_task(bright)
        found.append([method.random(5000, bright.train.x) for _ in range(2)])
    first, second = found[0]
    assert first.shape == (5000, 1, 1, 4)
    assert not torch.equal(first, second)
    assert same(found[0], found[1]), "by the key alone"
    pixels = bright.train.x
    if law == "uniform":
        assert 0 <= float(first.min()) < 0.1
        assert 11.9 < float(first.max()) <= 12
        assert float(first.mean()) == pytest.approx(6, abs=0.1)
        assert float(first.std()) == pytest.approx(12 / 12**0.5, abs=0.1)
    else:
        assert float(first.mean()) == pytest.approx(float(pixels.mean()), abs=0.1)
        assert float(first.std()) == pytest.approx(float(pixels.std()), abs=0.1)
        assert float(first.min()) < 0


def test_as_many_inputs_as_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    original = PseudoRehearsal.random

    def counted(self: PseudoRehearsal, count: int, like: Tensor) -> Tensor:
        counts.append(count)
        return original(self, count, like)

    monkeypatch.setattr(PseudoRehearsal, "random", counted)
    for inputs in (0, 7):
        held(third_task(inputs=inputs))
    assert counts == [3, 7]


def test_linear_network_is_pinned_by_enough_random_inputs() -> None:
    """As many independent inputs as pixels leave W no freedom: their squares alone bring it back."""
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    data = toy_task([[0, 1, 2], [2, 1, 0]], [0, 1], index=1)
    net = linear_net(weight, heads=2)
    net.heads.requires_grad_(False)
    method = attach(PseudoRehearsal(distance="squared", inputs=8, strength=1e6), net, task=1)
    method.begin_task(data)
    (layer,) = net.backbone.parameters()
    with torch.no_grad():
        layer.add_(torch.tensor([[0.5, -1.0, 2.0], [1.0, 1.0, -1.0]]))
    optimizer = torch.optim.SGD([layer], lr=1e-7)
    for _ in range(400):
        optimizer.zero_grad()
        method.loss(data.train.x, data.train.y, 1).backward()
        optimizer.step()
    torch.testing.assert_close(layer.detach(), weight, atol=1e-4, rtol=0)


def test_noise_leaves_the_statistics_of_batch_normalisation_alone() -> None:
    net = mlp(classes=(3, 3))
    net.backbone = Backbone(
        torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), BatchNorm(2), torch.nn.Flatten(), torch.nn.Linear(8, 5))
    )
    method = attach(PseudoRehearsal(), net, task=1)
    data = toy_task([[1, 0, 0, 2], [0, 1, 3, 0]], [0, 1], index=1)
    method.begin_task(data)
    net.train()
    norm = next(layer for layer in net.modules() if isinstance(layer, BatchNorm))
    method.loss(data.train.x, data.train.y, 1)
    assert norm.state_dict()["num_batches_tracked"] == 1, "the new images were one batch, random inputs none"
    assert norm.training


def test_teacher_is_frozen_and_old_heads_learn() -> None:
    method = third_task()
    before = {name: tensor.clone() for name, tensor in method._teacher.items()}
    moved(method)
    held(method).backward()
    assert bool(method.net.heads[0].weight.grad.any())
    assert same(method._teacher, before)
    assert not any(tensor.requires_grad for tensor in method._teacher.values())
    first = attach(PseudoRehearsal(), mlp())
    first.begin_task(toy_task([[1, 0, 0, 2]], [1]))
    assert first._teacher is None


def test_random_inputs_keep_old_tasks(prepared: dict[int, Path]) -> None:
    found = []
    for name in ("finetune", "pseudo_rehearsal"):
        sections: dict[str, Any] = {"training": {"epochs": 30, "learning_rate": 0.05}, "model": {"hidden": [50]}}
        learner = learner_for(params_for(name, selection=OFF, **sections), prepared[3])
        learn_tasks(learner, 3)
        assert Snapshot.of(learner.method).state == {}, "and nothing is kept for it"
        found.append(sum(learner.test()[:2]) / 2)
    assert found[1] > found[0] + 0.04
