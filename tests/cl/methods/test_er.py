"""ER. Golden values by hand: the means over the new and over the remembered samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.methods.er import ER
from cl.nets import MultiHead
from cl.ops import cross_entropy
from cl.train import Snapshot
from tests.cl.small import attach, learn_tasks, learner_for, mlp, params_for, same, toy_task

OFF = {"enabled": False}
INCREMENTS = ["task", "domain", "class"]


def net_for(increment: Any) -> MultiHead:
    """Ready for two tasks of three classes."""
    net = mlp(classes=(3,) if increment == "domain" else (3, 3))
    net.increment = increment
    return net


def second_task(increment: Any, new: int = 10, old: int = 5, **knobs: Any) -> tuple[Any, Tensor, Tensor, Any]:
    """ER in a step of its second task, all of the first one's samples remembered; and what the step trains on."""
    method = attach(ER(memory_budget=old, **knobs), net_for(increment))
    for index, count in ((0, old), (1, new)):
        data = toy_task([[index, i, 2, 1] for i in range(count)], [i % 3 for i in range(count)], index)
        method.data, method.indices, method.task = data, torch.arange(count), index
        if index == 0:
            method.on_step(data.train.x, data.train.y, 0)
    return method, *method.batch(data.train.x, data.train.y, 1)


class Given(nn.Module):
    """Instead of a network: given logits, whatever the input."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor, t: Any) -> Tensor:
        return self.logits

    def scope(self, t: Any) -> Any:
        return t

    def label(self, y: Tensor, t: Any) -> Tensor:
        return y


def of_loss(values: Tensor) -> Tensor:
    """Logits (N, 2) at which the cross-entropy of label 0 is this, for each sample."""
    return torch.stack([torch.zeros_like(values), values.expm1().log()], 1)


@pytest.mark.parametrize(("strength", "expected"), [(1.0, 1.2), (0.5, 1.05), (2.0, 1.5)])
def test_each_part_has_its_own_mean(strength: float, expected: float) -> None:
    """10 new samples of mean 0.9 and 5 remembered ones of mean 0.3: 0.9 + rho 0.3, however many there are."""
    method, x, _, t = second_task("task", strength=strength)
    new = torch.linspace(0.4, 1.4, 10)
    method.net = Given(of_loss(torch.cat([new, torch.linspace(0.1, 0.5, 5)])))
    found = method.loss(x, torch.zeros(15, dtype=torch.int64), t)
    assert float(found) == pytest.approx(expected, abs=1e-5)


def test_weights_of_the_paper() -> None:
    """rho = m / b is, but for the size of the step, one mean over both: weights 2/3 and 1/3 of 10 and 5."""
    method, x, y, t = second_task("task", strength=0.5)
    parameters = list(method.net.parameters())
    found = torch.autograd.grad(method.loss(x, y, t), parameters)
    both = torch.autograd.grad(1.5 * cross_entropy(method.net, x, y, t), parameters)
    for a, b in zip(found, both, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("increment", INCREMENTS)
def test_every_sample_is_asked_as_its_scenario_asks(increment: str) -> None:
    method, x, y, t = second_task(increment)
    net = method.net
    assert t.tolist() == [1] * 10 + [0] * 5
    heads = [net.heads[0](net.backbone(x)), net.heads[-1](net.backbone(x))]
    if increment == "task":
        new, old = F.cross_entropy(heads[1][:10], y[:10]), F.cross_entropy(heads[0][10:], y[10:])
    elif increment == "domain":
        new, old = F.cross_entropy(heads[0][:10], y[:10]), F.cross_entropy(heads[0][10:], y[10:])
    else:
        wide = torch.cat(heads, 1)
        new, old = F.cross_entropy(wide[:10], y[:10] + 3), F.cross_entropy(wide[10:], y[10:])
    torch.testing.assert_close(method.loss(x, y, t), new + old)


def test_old_heads_learn_from_their_own_samples_alone() -> None:
    method, x, y, t = second_task("task")
    method.loss(x, y, t).backward()
    alone = second_task("task")[0]
    cross_entropy(alone.net, x[10:], y[10:], 0).backward()
    torch.testing.assert_close(method.net.heads[0].weight.grad, alone.net.heads[0].weight.grad)


def test_opposed_samples_cancel() -> None:
    """A linear model at 0, a new sample of one class and the same image of the other in the memory: no step."""
    net = mlp(inputs=1, classes=(2,))
    for parameter in net.heads.parameters():
        parameter.data.zero_()
    method = attach(ER(memory_budget=1), net)
    old, new = toy_task([[1]], [1]), toy_task([[1]], [0])
    method.data, method.indices = old, torch.arange(1)
    method.on_step(old.train.x, old.train.y, 0)
    method.data = new
    x, y, t = method.batch(new.train.x, new.train.y, 0)
    assert y.tolist() == [0, 1]
    method.loss(x, y, t).backward()
    assert all(p.grad is not None and not bool(p.grad.any()) for p in net.parameters())


@pytest.mark.parametrize(("replay_batch", "expected"), [(0, 10), (4, 4), (50, 20)])
def test_how_many_are_replayed(replay_batch: int, expected: int) -> None:
    """As many as are new, or so many; all where the memory holds fewer."""
    _, x, y, t = second_task("task", old=20, replay_batch=replay_batch)
    assert len(x) == len(y) == len(t) == 10 + expected
    images = x[10:].flatten(1)
    assert len(images.unique(dim=0)) == expected


def test_samples_of_a_step_are_not_replayed_in_it() -> None:
    method = attach(ER(memory_budget=5), mlp())
    data = toy_task([[i, 0, 0, 0] for i in range(4)], [0, 1, 2, 0])
    method.data = data
    for start in (0, 2):
        method.indices = torch.arange(start, start + 2)
        x, y, t = method.batch(data.train.x[method.indices], data.train.y[method.indices], 0)
        if start == 0:
            assert len(x) == 2
            assert t == 0
        else:
            assert sorted(x[2:].flatten(1)[:, 0].tolist()) == [0, 1]
        method.on_step(x, y, t)


@pytest.mark.parametrize("scenario", [{}, {"name": "class"}, {"name": "domain", "online": True}])
def test_nothing_kept_or_nothing_weighed_is_finetuning(scenario: dict[str, Any], prepared: dict[int, Path]) -> None:
    nets = []
    for knobs in ({"memory_budget": 0}, {"strength": 0.0}, {}):
        learner = learner_for(params_for("er", knobs, selection=OFF, scenario=scenario), prepared[2])
        learn_tasks(learner, 2)
        nets.append(Snapshot.of(learner.method).net)
    assert same(nets[0], nets[1])
    assert not same(nets[0], nets[2])


def test_less_is_forgotten(prepared: dict[int, Path]) -> None:
    """Of the first task, in a stream that shows every sample once."""
    found = []
    stream = {"name": "domain", "online": True}
    for strength in (0.0, 1.0):
        knobs = {"strength": strength, "memory_budget": 200}
        learner = learner_for(params_for("er", knobs, selection=OFF, scenario=stream), prepared[3])
        learn_tasks(learner, 3)
        found.append(learner.test()[0])
    assert found[1] > found[0] + 0.1
