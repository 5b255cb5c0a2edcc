"""Mean- and mode-IMM. Golden values by hand from equations 1 to 4 of Lee et al. (2017)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cl.methods import mode_imm
from cl.methods.mean_imm import MeanIMM
from cl.methods.mode_imm import PRIOR, ModeIMM
from tests.cl.small import attach, linear_net, mlp, toy_task

DATA = toy_task([[1, 0, 0, 2], [0, 1, 3, 0], [2, 2, 0, 1]], [0, 1, 2])
BOTH = pytest.mark.parametrize("cls", [MeanIMM, ModeIMM])


def merged(
    cls: type[Any], thetas: list[float], precisions: list[float] | None, patch: pytest.MonkeyPatch
) -> tuple[Any, list[float]]:
    """One shared weight: its merged value after each of these models, of these precisions."""
    if precisions is not None:
        given = iter(precisions)
        patch.setattr(
            mode_imm, "importance", lambda *args, **kwargs: {"1.weight": torch.full((1, 1), next(given) - PRIOR)}
        )
    method = cls()
    net = linear_net(torch.zeros(1, 1), heads=len(thetas))
    found = []
    for index, theta in enumerate(thetas):
        net.backbone[1].weight.data.fill_(theta)
        attach(method, net, index)
        method.end_task(toy_task([[1], [2]], [0, 0], index))
        found.append(float(method.merged_["1.weight"]))
        assert float(net.backbone[1].weight.detach()) == theta, "training goes on from the unmerged model"
    return method, found


def test_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    assert merged(MeanIMM, [0.0, 1.0], None, monkeypatch)[1] == [0.0, 0.5]
    assert merged(MeanIMM, [1.0, 2.0, 6.0], None, monkeypatch)[1] == pytest.approx([1, 1.5, 3])


def test_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    assert merged(ModeIMM, [0.0, 1.0], [3.0, 1.0], monkeypatch)[1] == pytest.approx([0, 0.25])
    assert merged(ModeIMM, [1.0, 2.0, 6.0], [1.0, 2.0, 5.0], monkeypatch)[1] == pytest.approx([1, 5 / 3, 35 / 8])


def test_equal_precisions_give_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    thetas = [1.0, -2.0, 4.0]
    mean = merged(MeanIMM, thetas, None, monkeypatch)[1]
    assert merged(ModeIMM, thetas, [2.0] * 3, monkeypatch)[1] == pytest.approx(mean)


def test_weight_no_task_cares_about_is_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    assert merged(ModeIMM, [0.0, 1.0], [PRIOR, PRIOR], monkeypatch)[1] == pytest.approx([0, 0.5])


@BOTH
def test_identical_models_merge_to_themselves(cls: type[Any]) -> None:
    net, method = mlp(classes=(3, 3, 3)), cls()
    for index in range(3):
        attach(method, net, index)
        method.end_task(DATA)
        assert all(torch.equal(method.merged_[name], p) for name, p in method.shared.items())


@BOTH
def test_heads_are_not_merged(cls: type[Any]) -> None:
    net, method = mlp(classes=(3, 3)), cls()
    heads = [head.weight.detach().clone() for head in net.heads]
    for index in range(2):
        attach(method, net, index)
        net.backbone[1].weight.data += index
        method.end_task(DATA)
    assert not any("head" in name for name in method.merged_)
    assert all(torch.equal(head.weight, before) for head, before in zip(net.heads, heads, strict=True))
    with torch.no_grad():
        found = method.predict(DATA.test.x, 1)
        net.load_state_dict({**net.state_dict(), **{f"backbone.{k}": v for k, v in method.merged_.items()}})
        torch.testing.assert_close(found, net(DATA.test.x, 1))


@BOTH
def test_transfer_pulls_to_the_unmerged_weights(cls: type[Any]) -> None:
    net, method = mlp(classes=(3, 3)), cls()
    assert attach(method, net).penalty() is None
    method.end_task(DATA)
    net.backbone[1].weight.data += 1
    attach(method, net, task=1).end_task(DATA)
    anchor = {name: p.detach().clone() for name, p in method.shared.items()}
    assert not torch.equal(method.merged_["1.weight"], anchor["1.weight"])
    with torch.no_grad():
        for p in net.parameters():
            p += 0.5
    method.penalty().backward()
    for name, p in method.shared.items():
        torch.testing.assert_close(p.grad, 2 * 0.01 * (p.detach() - anchor[name]))
    assert all(p.grad is None for p in net.heads.parameters())


@BOTH
def test_transfer_of_the_head_pulls_to_where_it_was_drawn(cls: type[Any]) -> None:
    """As the reference code (Q18)."""
    net, method = mlp(classes=(3, 3)), cls(hold_head=True)
    attach(method, net).begin_task(DATA)
    assert method.penalty() is None
    method.end_task(DATA)
    attach(method, net, task=1).begin_task(DATA)
    drawn = {name: p.detach().clone() for name, p in net.heads[1].named_parameters()}
    with torch.no_grad():
        for p in net.parameters():
            p += 0.5
    method.penalty().backward()
    for name, p in net.heads[1].named_parameters():
        torch.testing.assert_close(p.grad, 2 * 0.01 * (p.detach() - drawn[name]))
    for name, p in method.shared.items():
        torch.testing.assert_close(p.grad, 2 * 0.01 * (p.detach() - method.anchor_[name]))
    assert all(p.grad is None for p in net.heads[0].parameters())


def test_precision_is_the_fisher_of_drawn_labels() -> None:
    """Linear softmax at W = 0: whatever label is drawn, the squared gradient of x = (1, 2) is the same."""
    method = attach(ModeIMM(), linear_net(torch.zeros(2, 2)))
    method.end_task(toy_task([[1, 2], [1, 2]], [0, 0]))
    torch.testing.assert_close(method.precision_["1.weight"], torch.tensor([[0.25, 1.0], [0.25, 1.0]]) + PRIOR)


def test_labels_are_drawn_from_the_models_prediction() -> None:
    net = linear_net(torch.tensor([[1.0], [0.0]]))
    method = attach(ModeIMM(), net)
    labels: Tensor = method._drawn_labels(toy_task([[1]] * 4000, [0, 1] * 2000))
    chance = float(F.softmax(torch.tensor([1.0, 0.0]), 0)[0])
    assert float((labels == 0).float().mean()) == pytest.approx(chance, abs=0.03)
    other = attach(ModeIMM(), net)
    assert torch.equal(other._drawn_labels(toy_task([[1]] * 4000, [0, 1] * 2000)), labels)


def test_precision_is_of_the_drawn_labels_and_not_of_the_true_ones() -> None:
    """A network sure of class 0 draws nothing else, and moves next to nothing for it; the labels say class 1."""
    method = attach(ModeIMM(), linear_net(torch.tensor([[20.0], [0.0]])))
    method.end_task(toy_task([[1]] * 10, [1] * 10))
    assert float(method.precision_["1.weight"].max()) < 1e-6
