"""EWC. Golden values by hand from equation 3 of Kirkpatrick et al. (2017), on a softmax of one layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cl.methods.ewc import EWC
from cl.ops import snapshot
from tests.cl.small import attach, linear_net, mlp, toy_task

FISHER = torch.tensor([[0.25, 1.0], [0.25, 1.0]])


def fisher_of(samples: int, estimator: str, batch_size: int) -> Tensor:
    """Of x = (1, 2) with label 0 at W = 0, so many times over."""
    method = attach(EWC(estimator=estimator), linear_net(torch.zeros(2, 2)), batch_size=batch_size)
    method.end_task(toy_task([[1, 2]] * samples, [0] * samples))
    return method.fisher_["1.weight"]


def test_fisher_of_one_sample() -> None:
    torch.testing.assert_close(fisher_of(1, "per-sample", 200), FISHER)


@pytest.mark.parametrize("batch_size", [1, 2, 200])
def test_fisher_per_sample_does_not_depend_on_the_batch(batch_size: int) -> None:
    torch.testing.assert_close(fisher_of(2, "per-sample", batch_size), FISHER)


def test_fisher_of_the_reference_code() -> None:
    """Gradients are summed over a batch before they are squared: twice as large for two samples of the same kind."""
    torch.testing.assert_close(fisher_of(2, "batch-sum", 2), 2 * FISHER)
    torch.testing.assert_close(fisher_of(2, "batch-sum", 1), FISHER)


def test_fisher_uses_the_true_labels() -> None:
    method = attach(EWC(), linear_net(torch.tensor([[3.0, 0.0], [0.0, 0.0]])))
    method.end_task(toy_task([[1, 0], [1, 0]], [0, 1]))
    p = torch.softmax(torch.tensor([3.0, 0.0]), 0)
    expected = ((1 - p[0]) ** 2 + p[0] ** 2) / 2  # one sample answered rightly, one wrongly
    torch.testing.assert_close(method.fisher_["1.weight"][0, 0], expected)


def test_fisher_of_the_networks_own_answers() -> None:
    method = attach(EWC(labels="predicted"), linear_net(torch.tensor([[3.0, 0.0], [0.0, 0.0]])))
    method.end_task(toy_task([[1, 0], [1, 0]], [0, 1]))
    p = torch.softmax(torch.tensor([3.0, 0.0]), 0)
    expected = torch.tensor([[(1 - p[0]) ** 2, 0], [p[1] ** 2, 0]])  # class 0 is the answer, whatever the label
    torch.testing.assert_close(method.fisher_["1.weight"], expected)


def test_every_task_has_its_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    """F_1 = (1, 3, 0) around (0, 0, 0) and F_2 = (3, 0, 0) around (4, 2, 5): the gradients add up."""
    found = iter([torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([[3.0, 0.0, 0.0]])])
    monkeypatch.setattr("cl.methods.ewc.importance", lambda *args: {"1.weight": next(found)})
    net = linear_net(torch.zeros(1, 3))
    method = attach(EWC(anchors="each", strength=10.0), net)
    data = toy_task([[1, 2, 3]], [0])
    method.end_task(data)
    with torch.no_grad():
        net.shared["1.weight"].copy_(torch.tensor([[4.0, 2.0, 5.0]]))
    method.end_task(data)
    torch.testing.assert_close(method.anchor_["1.weight"], torch.tensor([[3.0, 0.0, 5.0]]))
    with torch.no_grad():
        net.shared["1.weight"].copy_(torch.tensor([[1.0, 1.0, 1.0]]))
    method.penalty().backward()
    expected = 2 * 10 * torch.tensor([[1 * 1.0 + 3 * (1.0 - 4.0), 3 * 1.0, 0.0]])
    torch.testing.assert_close(net.shared["1.weight"].grad, expected)


def test_penalty_and_its_gradient() -> None:
    net = mlp()
    method = attach(EWC(strength=7.0), net)
    assert method.penalty() is None, "nothing to hold on to in the first task"
    draw = torch.Generator().manual_seed(0)
    method.anchor_ = snapshot(method.shared)
    method.fisher_ = {name: torch.rand(p.shape, generator=draw) for name, p in method.shared.items()}
    method.penalty().backward()
    assert all(not bool(p.grad.any()) for p in method.shared.values()), "zero at the anchor"
    net.zero_grad()
    for p in method.shared.values():
        p.data += torch.randn(p.shape, generator=draw)
    value = method.penalty()
    value.backward()
    expected = 7 * sum((f * (method.shared[n] - method.anchor_[n]) ** 2).sum() for n, f in method.fisher_.items())
    torch.testing.assert_close(value.detach(), expected.detach())
    for name, p in method.shared.items():
        torch.testing.assert_close(p.grad, 2 * 7 * method.fisher_[name] * (p.detach() - method.anchor_[name]))


def test_two_tasks_add_their_fishers_and_keep_one_anchor() -> None:
    net = mlp(classes=(3, 3))
    first, second = toy_task([[1, 0, 2, 1]], [2]), toy_task([[0, 3, 1, 1]], [1], index=1)
    alone = []
    for task, data in enumerate((first, second)):
        method = attach(EWC(), net, task)
        method.end_task(data)
        alone.append(method.fisher_)
    both = attach(EWC(), net)
    both.end_task(first)
    at_first = snapshot(both.shared)
    both.attach(net, 1, both.training, 0.1, (0,))
    both.end_task(second)
    for name in alone[0]:
        torch.testing.assert_close(both.fisher_[name], alone[0][name] + alone[1][name])
    with torch.no_grad():
        net.backbone[1].weight += 1
    both.end_task(second)
    assert torch.equal(both.anchor_["1.weight"], at_first["1.weight"] + 1)


def test_knobs_that_came_later_are_written_only_where_they_are_set() -> None:
    assert EWC().values() == {"strength": 400.0, "estimator": "per-sample"}
    assert EWC(labels="predicted", anchors="last").values() == {
        "strength": 400.0,
        "estimator": "per-sample",
        "labels": "predicted",
    }


def test_heads_have_no_importance() -> None:
    method = attach(EWC(), mlp(classes=(3, 3)))
    method.end_task(toy_task([[1, 0, 2, 1]], [2]))
    assert method.fisher_.keys() == method.anchor_.keys() == {"1.weight", "1.bias", "3.weight", "3.bias"}
