"""Online EWC. Golden values by hand from F = gamma F + F_new (Schwarz et al. 2018)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cl.methods.ewc import EWC
from cl.methods.online_ewc import OnlineEWC
from tests.cl.small import attach, linear_net, mlp, toy_task

FISHER = torch.tensor([[0.25, 1.0], [0.25, 1.0]])
"""Of x = (1, 2) with label 0 at W = 0."""


def after_task(old: Tensor | None, gamma: float) -> OnlineEWC:
    """At the end of a task of that Fisher, this being left from the tasks before."""
    method: OnlineEWC = attach(OnlineEWC(gamma=gamma), linear_net(torch.zeros(2, 2)))
    method.fisher_ = {"1.weight": old} if old is not None else None
    method.end_task(toy_task([[1, 2]], [0]))
    return method


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_old_fisher_fades(gamma: float) -> None:
    old = torch.tensor([[1.0, 2.0], [0.5, 0.0]])
    method = after_task(old, gamma)
    assert method.fisher_ is not None
    torch.testing.assert_close(method.fisher_["1.weight"], gamma * old + FISHER)
    assert torch.equal(old, torch.tensor([[1.0, 2.0], [0.5, 0.0]])), "what a failed attempt goes back to"


def test_fisher_of_the_networks_own_answers() -> None:
    weight = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    method: OnlineEWC = attach(OnlineEWC(labels="predicted"), linear_net(weight))
    method.end_task(toy_task([[1, 0]], [1]))
    p = torch.softmax(torch.tensor([3.0, 0.0]), 0)
    assert method.fisher_ is not None
    torch.testing.assert_close(method.fisher_["1.weight"][0, 0], (1 - p[0]) ** 2)  # not p[0]^2, of the true label


def test_first_task_does_not_fade() -> None:
    method = after_task(None, 0.5)
    assert method.fisher_ is not None
    torch.testing.assert_close(method.fisher_["1.weight"], FISHER)


def test_recursion_and_penalty_of_two_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.0]])])
    monkeypatch.setattr("cl.methods.online_ewc.importance", lambda *args: {"1.weight": next(found)})
    net = linear_net(torch.zeros(1, 2))
    method = attach(OnlineEWC(gamma=0.9, strength=10.0), net)
    assert method.penalty() is None, "nothing to hold on to in the first task"
    data = toy_task([[1, 2]], [0])
    method.end_task(data)
    method.end_task(data)
    torch.testing.assert_close(method.fisher_["1.weight"], torch.tensor([[1.4, 1.8]]))
    assert float(method.penalty().detach()) == 0
    with torch.no_grad():
        net.shared["1.weight"].add_(torch.tensor([[1.0, -1.0]]))
    value = method.penalty()
    value.backward()
    assert float(value.detach()) == pytest.approx(0.9 * 32.0), "both tasks are a task older while the third is learned"
    torch.testing.assert_close(net.shared["1.weight"].grad, 0.9 * torch.tensor([[28.0, -36.0]]))
    assert method.stiffness() == pytest.approx(0.9 * 10 * 1.8)
    method.strength = 0.0
    assert method.penalty() is None


def test_gamma_one_is_ewc() -> None:
    net = mlp(classes=(3, 3))
    methods = [attach(OnlineEWC(gamma=1.0), net), attach(EWC(), net)]
    for task, data in enumerate((toy_task([[1, 0, 2, 1]], [2]), toy_task([[0, 3, 1, 1]], [1], index=1))):
        for method in methods:
            method.attach(net, task, method.training, 0.1, (0,))
            method.end_task(data)
    assert all(torch.equal(methods[0].fisher_[name], fisher) for name, fisher in methods[1].fisher_.items())
