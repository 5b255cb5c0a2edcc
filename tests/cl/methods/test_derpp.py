"""DER++. Golden values by hand from equation 6 of Buzzega et al. (2020)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cl.data import Task
from cl.methods.derpp import DERPlusPlus, columns, distance
from cl.nets import MultiHead
from cl.train import Snapshot
from tests.cl.small import attach, learn_tasks, learner_for, linear_net, mlp, params_for, same, toy_task

OFF = {"enabled": False}
STREAM = {"name": "class", "online": True}


def net_for(increment: Any, classes: tuple[int, ...] = (2, 3)) -> MultiHead:
    net = mlp(classes=classes[:1] if increment == "domain" else classes)
    net.increment = increment
    return net


def task_of(index: int, samples: int, classes: int = 2) -> Task:
    """Images that tell their task and their sample."""
    return toy_task([[index, i, 2, 1] for i in range(samples)], [i % classes for i in range(samples)], index)


def step(method: DERPlusPlus, data: Task, indices: Tensor, learning_rate: float = 0.0) -> Tensor:
    """One step as the loop takes it, and what it trained on."""
    method.data, method.indices, method.task = data, indices, data.index
    x, y, t = method.batch(data.train.x[indices], data.train.y[indices], data.index)
    method.net.zero_grad()
    method.loss(x, y, t).backward()
    with torch.no_grad():
        for parameter in method.net.parameters():
            if parameter.grad is not None:
                parameter.sub_(learning_rate * parameter.grad)
    method.on_step(x, y, t)
    method.step += 1
    return x


# The distance between logits.


def test_distance_is_the_sum_over_the_classes() -> None:
    """z = (1, 2, 3) and h = (1, 1, 1): 5, where the authors' code has the mean, 5/3; and the mean over samples."""
    net = linear_net(torch.eye(3))
    z, h = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3)
    assert float(distance(net, h, z, torch.tensor([0]))) == 5
    assert float(F.mse_loss(h, z)) == pytest.approx(5 / 3)
    assert float(distance(net, torch.cat([h, z]), torch.cat([z, z]), torch.tensor([0, 0]))) == 2.5


def test_equal_logits_have_no_distance() -> None:
    net = net_for("class")
    wide = net(torch.randn(4, 1, 1, 4, generator=torch.Generator().manual_seed(0))).detach()
    assert float(distance(net, wide, wide.clone(), torch.tensor([1, 1, 1, 1]))) == 0


@pytest.mark.parametrize(
    ("increment", "expected"),
    [
        ("task", {0: [0, 1], 1: [2, 3, 4]}),
        ("class", {0: [0, 1], 1: [0, 1, 2, 3, 4]}),
        ("domain", {0: [0, 1], 1: [0, 1]}),
    ],
)
def test_logits_a_sample_was_asked_among(increment: str, expected: dict[int, list[int]]) -> None:
    net = net_for(increment)
    count = sum(net.classes())
    wide = torch.arange(float(count)).expand(2, count)
    found, has = columns(net, wide, torch.tensor([0, 1]))
    assert {t: found[t][has[t]].tolist() for t in (0, 1)} == expected
    assert all(has[t].tolist() == sorted(has[t].tolist(), reverse=True) for t in (0, 1)), "from the left"


@pytest.mark.parametrize("increment", ["task", "class", "domain"])
def test_what_is_stored_beside_a_samples_own_logits_is_not_read(increment: str) -> None:
    """Whatever fills its row up, and what the network answers elsewhere, have no part in it and no gradient."""
    net, t = net_for(increment), torch.tensor([0, 1])
    x = torch.randn(2, 1, 1, 4, generator=torch.Generator().manual_seed(0))
    wide = net(x, net.scope(t))
    own, has = columns(net, wide, t)
    stored = torch.where(has, own.detach() + 1, 1e6)
    found = distance(net, wide, stored, t)
    assert found.item() == pytest.approx(float(has.sum()) / 2, abs=1e-4)
    found.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)
    if increment != "domain":
        narrow = distance(net, wide.detach()[:1], stored[:1, :2], t[:1])
        assert float(narrow) == pytest.approx(2, abs=1e-4), "from when there were fewer classes"


# The loss.


@pytest.mark.parametrize("increment", ["task", "class", "domain"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.0), (0.0, 0.5), (0.3, 0.5)])
def test_loss(increment: str, alpha: float, beta: float) -> None:
    """CE(new) + alpha |h - z|^2 over one draw + beta CE over the other; here the memory holds four samples."""
    method = attach(DERPlusPlus(memory_budget=4, strength=alpha, label_strength=beta), net_for(increment))
    old, new = task_of(0, 4), task_of(1, 6)
    step(method, old, torch.arange(4))
    kept = {name: tensor.clone() for name, tensor in method.memory_.items()}
    kept["logits"] += torch.tensor([1.0, -2.0] + [0.0] * (kept["logits"].shape[1] - 2))
    method.memory_ = kept
    method.data, method.task, method.indices = new, 1, torch.arange(6)
    x, y, t = method.batch(new.train.x, new.train.y, 1)
    drawn = 4 * (alpha > 0) + 4 * (beta > 0)
    assert len(x) == 6 + drawn
    assert t.tolist() == [1] * 6 + [0] * drawn
    net = method.net

    def entropy(images: Tensor, labels: Tensor, task: int) -> Tensor:
        return F.cross_entropy(net(images, net.scope(task)), net.label(labels, task))

    expected = entropy(new.train.x, new.train.y, 1) + beta * entropy(old.train.x, old.train.y, 0)
    torch.testing.assert_close(method.loss(x, y, t), expected + alpha * (1 + 4))


def test_draws_are_independent() -> None:
    method = attach(DERPlusPlus(memory_budget=50), mlp(classes=(2, 3)))
    step(method, task_of(0, 50), torch.arange(50))
    x = step(method, task_of(1, 6), torch.arange(6)).flatten(1)
    first, second = x[6:12, 1].tolist(), x[12:, 1].tolist()
    assert len(second) == 6
    assert sorted(first) != sorted(second)


# What is stored.


def test_logits_are_those_before_the_step_in_training_mode() -> None:
    net = mlp(classes=(2, 3))
    method = attach(DERPlusPlus(memory_budget=50), net)
    data = task_of(0, 10)
    modes: list[bool] = []
    net.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    net.train()
    before = net(data.train.x, 0).detach()
    step(method, data, torch.arange(4), learning_rate=0.5)
    assert same(method.memory_["logits"], before[:4])
    after = net(data.train.x, 0).detach()
    assert not torch.allclose(after[:4], before[:4])
    step(method, data, torch.arange(4, 10), learning_rate=0.5)
    torch.testing.assert_close(method.memory_["logits"], torch.cat([before[:4], after[4:]]))
    assert method.memory_["logits"].dtype == torch.float32
    assert not method.memory_["logits"].requires_grad
    assert modes == [True] * 4, "one forward pass a step, besides those of this test"


@pytest.mark.parametrize("increment", ["task", "class", "domain"])
def test_width_grows_with_the_classes(increment: str) -> None:
    """Each row has its own logits from the left, and zeros after them."""
    net = net_for(increment, (2,))
    method = attach(DERPlusPlus(memory_budget=8), net)
    step(method, task_of(0, 4), torch.arange(4))
    assert method.memory_["logits"].shape == (4, 2)
    first = method.memory_["logits"].clone()
    if increment != "domain":
        net.add_head(3, torch.Generator().manual_seed(1))
    new = task_of(1, 4, 2 if increment == "domain" else 3)
    with torch.no_grad():
        expected = net(new.train.x, net.scope(1))
    step(method, new, torch.arange(4))
    width = {"task": 3, "class": 5, "domain": 2}[increment]
    assert method.memory_["logits"].shape == (8, width)
    assert same(method.memory_["logits"][:4, :2], first)
    assert float(method.memory_["logits"][:4, 2:].abs().sum()) == 0
    torch.testing.assert_close(method.memory_["logits"][4:], expected)
    found = sum(tensor.nbytes for tensor in method.memory_.values())
    assert found == 8 * method.sample_bytes(4, width)
    assert method.sample_bytes(3072, 100) == 3072 + 16 + 400


def test_later_epochs_renew_the_logits_and_nothing_else() -> None:
    """Of the samples that are kept, each its own; not those of earlier tasks."""
    net = mlp(classes=(2, 3))
    method = attach(DERPlusPlus(memory_budget=12), net)
    step(method, task_of(0, 20), torch.arange(20))
    attach(method, net, 1)
    data = task_of(1, 40, 3)
    for indices in torch.arange(40).split(8):
        step(method, data, indices)
    before = {name: tensor.clone() for name, tensor in method.memory_.items()}
    of_this = before["t"] == 1
    assert 0 < int(of_this.sum()) < 12
    for p in net.parameters():
        p.data += 0.1
    method.epoch, method.step = 1, 0
    for indices in torch.randperm(40, generator=torch.Generator().manual_seed(0)).split(8):
        step(method, data, indices)
    with torch.no_grad():
        expected = net(before["images"].float(), 1)
    torch.testing.assert_close(method.memory_["logits"][of_this], expected[of_this])
    assert not torch.allclose(method.memory_["logits"][of_this], before["logits"][of_this])
    assert same(method.memory_["logits"][~of_this], before["logits"][~of_this])
    assert all(same(method.memory_[name], before[name]) for name in ("images", "y", "t"))
    assert method.seen_ == 60


@pytest.mark.parametrize("scenario", [{}, STREAM])
def test_same_samples_as_er_keeps(scenario: dict[str, Any], prepared: dict[int, Path]) -> None:
    """The reservoir's draws are its own."""
    kept = []
    for name in ("er", "derpp"):
        settings = {"selection": OFF, "scenario": scenario, "training": {"epochs": 2}}
        learner = learner_for(params_for(name, {"memory_budget": 40}, **settings), prepared[3])
        learn_tasks(learner, 3)
        state = learner.method.state()
        kept.append({row: state["memory_"][row] for row in ("images", "y", "t")})
        assert state["seen_"] == 300
    assert same(*kept)
    assert len(kept[0]["y"]) == 40


# Its limits.


@pytest.mark.parametrize("scenario", [{}, {"name": "class"}, {"name": "domain"}, STREAM])
def test_limits(scenario: dict[str, Any], prepared: dict[int, Path]) -> None:
    """Without weights or without memory as ER without them; each of the two terms does something of its own."""
    nets = []
    none, dark, labels = (
        {"strength": alpha, "label_strength": beta} for alpha, beta in ((0.0, 0.0), (0.05, 0.0), (0.0, 1.0))
    )
    for name, knobs in (
        ("er", {"strength": 0.0}),
        ("derpp", none),
        ("derpp", {"memory_budget": 0}),
        ("derpp", dark),
        ("derpp", labels),
        ("derpp", {}),
    ):
        settings = {"selection": OFF, "scenario": scenario, "training": {"epochs": 2}}
        learner = learner_for(params_for(name, knobs, **settings), prepared[2])
        learn_tasks(learner, 2)
        nets.append(Snapshot.of(learner.method).net)
    assert same(nets[0], nets[1])
    assert same(nets[0], nets[2])
    different = nets[2:]
    assert not any(same(a, b) for i, a in enumerate(different) for b in different[:i])
    assert all(bool(torch.isfinite(tensor).all()) for net in different for tensor in net.values())
