"""Riemannian walk and EWC++ (Chaudhry et al. 2018). Golden values of both scores, and the hooks, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cl.methods.riemannian_walk import RiemannianWalk, path_score, running, unit_range
from cl.nets import MultiHead
from tests.cl.small import attach, linear_net, mlp, toy_task

DATA = toy_task([[1]], [0])


def one(value: float) -> Tensor:
    return torch.tensor([value])


def test_running_fisher() -> None:
    found = running({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([0.5, 0.0])}, 0.9)
    torch.testing.assert_close(found["w"], torch.tensor([0.55, 0.2]))
    assert running(None, {"w": one(3.0)}, 0.9) == {"w": one(3.0)}


def test_score_of_a_step() -> None:
    assert float(path_score(one(0.02), one(0.5), one(0.2), 1e-12)) == pytest.approx(2.0)
    assert float(path_score(one(0.02), one(0.5), one(0.2), 1e-3)) == pytest.approx(0.02 / 0.011)
    assert float(path_score(one(-0.02), one(0.5), one(0.2), 1e-3)) == 0, "a step that raised the loss"


def test_scaled_over_all_weights_together() -> None:
    found = unit_range({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([[5.0]])})
    assert found["a"].tolist() == [0.0, 0.5]
    assert found["b"].tolist() == [[1.0]]
    alike = unit_range({"a": torch.full((2,), 4.0)})
    assert alike["a"].tolist() == [0.0, 0.0]


def walk(method: RiemannianWalk, weights: list[float], slopes: list[float]) -> None:
    """The one weight goes from value to value; `slopes` are the gradients of the task's loss on the way."""
    weight = method.shared["1.weight"]
    weight.data.fill_(weights[0])
    method.begin_task(DATA)
    for slope, new in zip(slopes, weights[1:], strict=True):
        weight.grad = torch.full_like(weight, slope)
        method.on_grad()
        weight.grad += 100.0  # the penalty's, which is none of the task's
        weight.data.fill_(new)
        method.on_step(DATA.train.x, DATA.train.y, 0)


def walker(**knobs: Any) -> RiemannianWalk:
    found: RiemannianWalk = attach(RiemannianWalk(**knobs), linear_net(torch.ones(1, 1)))
    return found


def test_two_intervals_by_hand() -> None:
    method = walker(interval=2, damping=0.001, newest=0.9)
    walk(method, [1.0, 0.9, 0.7, 0.75, 0.6], [2.0, 1.0, -1.0, 3.0])
    first, second = (4 + 1) / 2, (1 + 9) / 2
    fisher = [first, 0.9 * second + 0.1 * first]
    gained = (0.2 + 0.2) / (0.5 * fisher[0] * 0.3**2 + 0.001)
    gained += (0.05 + 0.45) / (0.5 * fisher[1] * 0.1**2 + 0.001)
    assert method.fisher_ is not None
    assert method.gained_ is not None
    assert float(method.fisher_["1.weight"]) == pytest.approx(fisher[1])
    assert float(method.gained_["1.weight"]) == pytest.approx(gained, rel=1e-5)


def test_interval_ends_with_the_epoch() -> None:
    """Two steps an epoch, and an interval of ten: what holds the weights is there after the first epoch."""
    method = walker(interval=10)
    method.steps_per_epoch = 2
    weight = method.shared["1.weight"]
    weight.data.fill_(1.0)
    method.begin_task(DATA)
    for step, (slope, new) in enumerate([(2.0, 0.9), (1.0, 0.7)]):
        method.step = step
        weight.grad = torch.full_like(weight, slope)
        method.on_grad()
        weight.data.fill_(new)
        method.on_step(DATA.train.x, DATA.train.y, 0)
    assert method.fisher_ is not None
    assert float(method.fisher_["1.weight"]) == pytest.approx((4 + 1) / 2)


def test_interval_that_is_not_over_counts_for_nothing() -> None:
    method = walker(interval=3)
    walk(method, [1.0, 0.9, 0.7], [2.0, 1.0])
    assert method.fisher_ is None
    method.end_task(DATA)
    method.attach(method.net, 1, method.training, 0.1, (0,))
    method.begin_task(DATA)
    assert method.penalty() is None


def test_fisher_runs_on_and_scores_are_averaged() -> None:
    method = walker(interval=1, newest=0.5, damping=1.0)
    walk(method, [1.0, 0.0], [4.0])
    method.end_task(DATA)
    assert method.score_ is not None
    first = 4.0 / (0.5 * 16.0 + 1.0)
    assert float(method.score_["1.weight"]) == pytest.approx(first)
    walk(method, [0.0, 1.0], [-2.0])
    method.end_task(DATA)
    assert method.fisher_ is not None
    assert float(method.fisher_["1.weight"]) == pytest.approx((16 + 4) / 2)
    assert float(method.score_["1.weight"]) == pytest.approx((first + 2.0 / (0.5 * 10.0 + 1.0)) / 2)
    assert method.gained_ is None


def two_weights(score: bool) -> tuple[RiemannianWalk, nn.Parameter]:
    net: MultiHead = linear_net(torch.tensor([[0.5, -0.5, 2.0]]))
    method: RiemannianWalk = attach(RiemannianWalk(strength=10.0, score=score), net, task=1)
    method.fisher_ = {"1.weight": torch.tensor([[1.0, 5.0, 3.0]])}
    method.score_ = {"1.weight": torch.tensor([[8.0, 6.0, 0.0]])}
    return method, method.shared["1.weight"]


@pytest.mark.parametrize("score", [True, False])
def test_penalty_and_its_gradient(score: bool) -> None:
    method, weight = two_weights(score)
    assert method.penalty() is None, "no anchor before the task begins"
    method.begin_task(DATA)
    at_rest = method.penalty()
    assert at_rest is not None
    assert float(at_rest.detach()) == 0
    with torch.no_grad():
        weight.add_(torch.tensor([[1.0, -1.0, 2.0]]))
    value = method.penalty()
    assert value is not None
    value.backward()
    importance = torch.tensor([[0.0, 1.0, 0.5]]) + score * torch.tensor([[1.0, 0.75, 0.0]])
    moved = torch.tensor([[1.0, -1.0, 2.0]])
    torch.testing.assert_close(value.detach(), 10 * (importance * moved.square()).sum())
    torch.testing.assert_close(weight.grad, 20 * importance * moved)


def test_first_task_and_strength_zero_have_no_penalty() -> None:
    method = walker()
    method.begin_task(DATA)
    assert method.penalty() is None
    method, _ = two_weights(True)
    method.strength = 0.0
    method.begin_task(DATA)
    assert method.penalty() is None


def test_heads_have_no_importance() -> None:
    net = mlp(classes=(3, 3))
    method = attach(RiemannianWalk(interval=1), net)
    data = toy_task([[1, 0, 2, 1]], [2])
    method.begin_task(data)
    method.loss(data.train.x, data.train.y, 0).backward()
    method.on_grad()
    method.on_step(data.train.x, data.train.y, 0)
    assert method.fisher_.keys() == method.gained_.keys() == {"1.weight", "1.bias", "3.weight", "3.bias"}
