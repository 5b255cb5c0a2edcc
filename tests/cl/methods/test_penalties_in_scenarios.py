"""Methods that hold weights by an importance of each, where all tasks have one head and where all heads compete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cl.method import ALL
from cl.nets.multihead import Increment
from cl.register import method_class
from tests.cl.small import OFF, attach, learn_tasks, learner_for, linear_net, params_for, toy_task

NAMES = ["ewc", "online_ewc", "riemannian_walk", "si", "mas"]
STATE = {"ewc": "fisher_", "online_ewc": "fisher_", "riemannian_walk": "fisher_", "si": "omega_", "mas": "omega_"}


@pytest.mark.parametrize("increment", sorted(ALL))
@pytest.mark.parametrize("name", NAMES)
def test_the_common_head_is_measured_and_held(name: str, increment: str, prepared: dict[int, Path]) -> None:
    """So it is where there is one; heads of which each has its own classes are left free."""
    learner = learner_for(params_for(name, selection=OFF, scenario={"name": increment}), prepared[2])
    learn_tasks(learner, 1)
    learner.open(learner.experiences[1])
    method: Any = learner.method
    learner.attach(method, "test", 0, 0.1)
    method.begin_task(learner.experiences[1])
    importance: dict[str, Tensor] = getattr(method, STATE[name])
    measured = {key for key, value in importance.items() if bool(value.any())}
    heads = {"heads.0.weight", "heads.0.bias"} if increment == "domain" else set()
    assert measured == {"1.weight", "1.bias"} | heads
    with torch.no_grad():
        for p in method.net.parameters():
            p.add_(1.0)
    method.net.zero_grad()
    method.penalty().backward()
    pulled = {key for key, p in method.net.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert pulled == {"backbone.1.weight", "backbone.1.bias"} | heads


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("increment", ["domain", "class"])
def test_a_strong_penalty_keeps_more(name: str, increment: str, prepared: dict[int, Path]) -> None:
    """The weights that are held end nearer to where the first task left them."""
    moved = []
    for strength in (0.0, 0.1):
        learner = learner_for(
            params_for(name, {"strength": strength}, selection=OFF, scenario={"name": increment}), prepared[2]
        )
        learn_tasks(learner, 1)
        before = {key: p.detach().clone() for key, p in learner.method.shared.items()}
        learn_tasks_from(learner, 1)
        moved.append(sum(float((p.detach() - before[key]).square().sum()) for key, p in learner.method.shared.items()))
    assert 0 < moved[1] < moved[0]


def learn_tasks_from(learner: Any, start: int) -> None:
    for task in learner.experiences[start:]:
        learner.open(task)
        trained = learner.train("learn", 0, 0.05, learner.knobs, plain=False)
        learner.consolidate("learn", 0, 0.05, learner.knobs, trained)


@pytest.mark.parametrize(("increment", "factor"), [("task", 1.0), ("domain", 1.0), ("class", 2.0)])
def test_outputs_that_are_measured(increment: Increment, factor: float) -> None:
    """MAS on two heads that pass W x on: among all classes each output is there twice."""
    net = linear_net(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), heads=2)
    net.increment = increment
    method = attach(method_class("mas")(), net, task=1)
    method.end_task(toy_task([[1, 1]], [0], index=1))
    torch.testing.assert_close(method.omega_["1.weight"], factor * torch.tensor([[2.0, 2.0], [4.0, 4.0]]))


@pytest.mark.parametrize("name", ["ewc", "online_ewc"])
@pytest.mark.parametrize("increment", ["task", "class"])
def test_classes_that_compete_in_the_fisher(name: str, increment: Increment) -> None:
    """Label 0 of the second task, by its own head of two classes or among all four."""
    net = linear_net(torch.tensor([[3.0, 0.0], [0.0, 0.0]]), heads=2)
    for p in net.heads[0].parameters():
        torch.nn.init.zeros_(p)
    net.increment = increment
    method = attach(method_class(name)(), net, task=1)
    method.end_task(toy_task([[1, 0]], [0], index=1))
    logits = torch.tensor([3.0, 0.0] if increment == "task" else [3.0, 0.0, 0.0, 0.0])
    slope = torch.softmax(logits, 0)[:2] - torch.tensor([1.0, 0.0])
    torch.testing.assert_close(method.fisher_["1.weight"][:, 0], slope.square())
