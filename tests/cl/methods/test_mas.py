"""MAS. Golden values by hand from equations 2 to 4 of Aljundi et al. (2018), and heads that are swapped in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cl.evaluate import accuracy
from cl.methods.mas import MAS
from cl.ops import snapshot
from tests.cl.small import attach, learner_for, linear_net, mlp, params_for, same, toy_task

GOLDEN = [[2.0, 2.0], [4.0, 4.0]]


def omega_of(
    weight: list[list[float]],
    x: list[list[int]],
    y: list[int] | None = None,
    estimator: str = "per-sample",
    batch_size: int = 200,
) -> Tensor:
    method = attach(MAS(estimator=estimator), linear_net(torch.tensor(weight)), batch_size=batch_size)
    method.end_task(toy_task(x, y or [0] * len(x)))
    return method.omega_["1.weight"]


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("estimator", ["per-sample", "batch-sum"])
def test_importance_of_a_linear_map(estimator: str, label: int) -> None:
    """|2 z x'| for z = (1, 2), whatever the label."""
    found = omega_of([[1, 0], [0, 2]], [[1, 1]], [label], estimator)
    torch.testing.assert_close(found, torch.tensor(GOLDEN))


def test_labels_play_no_part() -> None:
    x = [[1, 0, 2, 1], [0, 3, 1, 1], [2, 2, 0, 1]]
    found = []
    for y in ([0, 1, 2], [2, 2, 0]):
        method = attach(MAS(), mlp())
        method.end_task(toy_task(x, y))
        found.append(method.omega_)
    assert same(*found)


WEIGHT, PAIR = [[1.0, -1.0], [0.0, 2.0]], [[2, 1], [1, 2]]
"""z = (1, 2) and (-1, 4), so that 2 z x' is [[4, 2], [8, 4]] and [[-2, -4], [8, 16]]."""


def test_samples_that_pull_opposite_ways() -> None:
    """Each sample counts in full; in the survey's code they cancel within a batch."""
    torch.testing.assert_close(omega_of(WEIGHT, PAIR), torch.tensor([[3.0, 3.0], [8.0, 10.0]]))
    summed = omega_of(WEIGHT, PAIR, estimator="batch-sum", batch_size=2)
    torch.testing.assert_close(summed, torch.tensor([[1.0, 1.0], [8.0, 10.0]]))


def test_sums_over_a_batch_are_never_larger() -> None:
    x = torch.randint(4, (30, 4), generator=torch.Generator().manual_seed(0)).tolist()
    found = {}
    for estimator, batch_size in (("per-sample", 7), ("batch-sum", 1), ("batch-sum", 7), ("batch-sum", 30)):
        method = attach(MAS(estimator=estimator), mlp(units=20), batch_size=batch_size)
        method.end_task(toy_task(x, [0] * 30))
        found[estimator, batch_size] = method.omega_
    for name, each in found["per-sample", 7].items():
        assert bool((each >= 0).all())
        torch.testing.assert_close(found["batch-sum", 1][name], each)
        for batch_size in (7, 30):
            summed = found["batch-sum", batch_size][name]
            assert bool((summed <= each * (1 + 1e-5)).all())
        assert bool((found["batch-sum", 30]["1.weight"] < 0.9 * found["per-sample", 7]["1.weight"]).any())


def test_heads_have_no_importance() -> None:
    method = attach(MAS(), mlp(classes=(3, 3)))
    method.end_task(toy_task([[1, 0, 2, 1]], [2]))
    assert method.omega_.keys() == method.anchor_.keys() == {"1.weight", "1.bias", "3.weight", "3.bias"}


def test_two_tasks_add_up_and_keep_one_anchor() -> None:
    """Each measured at the outputs of its own head."""
    net = mlp(classes=(3, 2))
    first, second = toy_task([[1, 0, 2, 1]], [2]), toy_task([[0, 3, 1, 1]], [1], index=1)
    alone = []
    for task, data in enumerate((first, second)):
        method = attach(MAS(), net, task)
        method.end_task(data)
        alone.append(method.omega_)
    both = attach(MAS(), net)
    both.end_task(first)
    at_first = snapshot(both.shared)
    with torch.no_grad():
        net.heads[0].weight += 1  # no part of the second task's outputs
    both.attach(net, 1, both.training, 0.1, (0,))
    both.end_task(second)
    for name in alone[0]:
        torch.testing.assert_close(both.omega_[name], alone[0][name] + alone[1][name])
    with torch.no_grad():
        net.backbone[1].weight += 1
    both.end_task(second)
    assert torch.equal(both.anchor_["1.weight"], at_first["1.weight"] + 1)


def test_penalty_and_its_gradient() -> None:
    net = mlp()
    method = attach(MAS(strength=5.0), net)
    assert method.penalty() is None, "nothing to hold on to in the first task"
    method.end_task(toy_task([[1, 0, 2, 1], [0, 3, 1, 1]], [2, 1]))
    method.penalty().backward()
    assert all(not bool(p.grad.any()) for p in method.shared.values()), "zero at the anchor"
    net.zero_grad()
    draw = torch.Generator().manual_seed(0)
    for p in method.shared.values():
        p.data += torch.randn(p.shape, generator=draw)
    value = method.penalty()
    value.backward()
    moved = {name: p.detach() - method.anchor_[name] for name, p in method.shared.items()}
    expected = 5 * torch.stack([(omega * moved[name] ** 2).sum() for name, omega in method.omega_.items()]).sum()
    torch.testing.assert_close(value.detach(), expected)
    for name, p in method.shared.items():
        torch.testing.assert_close(p.grad, 2 * 5 * method.omega_[name] * moved[name])


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("name", ["finetune", "ewc", "mas"])
def test_head_of_a_task_is_over_with_it(name: str, weight_decay: float, prepared: dict[int, Path]) -> None:
    """The survey swaps in the head saved right after a task to test on it; here that head is never touched again."""
    training = {"weight_decay": weight_decay}
    learner = learner_for(params_for(name, selection={"enabled": False}, training=training), prepared[3])
    saved: list[Any] = []
    for task in learner.experiences:
        learner.open(task)
        trained = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
        learner.consolidate("learn", 0, 0.1, learner.knobs, trained)
        saved.append(snapshot(learner.method.net.heads[task.index].state_dict()))
        heads = [dict(head.state_dict()) for head in learner.method.net.heads]
        assert same(heads, saved)
    before = [accuracy(learner.method, task.test, inference=True) for task in learner.experiences]
    for head, old in zip(learner.method.net.heads, saved, strict=True):
        head.load_state_dict(old)
    assert (
        [accuracy(learner.method, task.test, inference=True) for task in learner.experiences]
        == before
        == learner.test()
    )


@pytest.mark.parametrize(("gamma", "kept"), [(1.0, 1.0), (0.5, 0.5), (0.0, 0.0)])
def test_old_importances_fade(gamma: float, kept: float) -> None:
    """2 z x' is [[2, 2], [4, 4]] for x = (1, 1), and [[2, 0], [0, 0]] for x = (1, 0)."""
    method = attach(MAS(gamma=gamma), linear_net(torch.tensor([[1.0, 0.0], [0.0, 2.0]])))
    for x in ([[1, 1]], [[1, 0]]):
        method.end_task(toy_task(x, [0]))
    expected = kept * torch.tensor(GOLDEN) + torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(method.omega_["1.weight"], expected)
