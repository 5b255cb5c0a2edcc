"""SI, through the real loop. Golden values by hand: descent on a parabola (Zenke et al. 2017, eq. 3 to 5)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cl import train
from cl.methods.si import SI
from cl.ops import snapshot
from cl.train import fit
from tests.cl.small import attach, linear_net, mlp, toy_task


class Parabola(SI):
    """The loss of the one weight is (a/2) theta^2, whatever the data."""

    curvature = 2.0

    def loss(self, x: Tensor, y: Tensor, t: Any) -> Tensor:
        return self.curvature / 2 * self.net.backbone[1].weight.square().sum()


def descended(method: SI, rate: float, epochs: int, patch: pytest.MonkeyPatch, **training: Any) -> SI:
    """The method after plain descent from D = 1, one step an epoch; the last epoch is the best."""
    rising = iter(range(1, 10**6))
    patch.setattr(train, "accuracy", lambda *args, **kwargs: next(rising) / 1e6)
    net = linear_net(torch.ones(1, 1))
    net.heads[0].requires_grad_(False)
    attach(method, net, epochs=epochs, batch_size=4, momentum=training.pop("momentum", 0.0), **training)
    data = toy_task([[1], [1]], [0, 0])
    method.begin_task(data)
    fit(method, data, (0,), learning_rate=rate)
    return method


def test_path_integral_of_a_parabola(monkeypatch: pytest.MonkeyPatch) -> None:
    method = descended(Parabola(), 0.1, 200, monkeypatch)
    assert method.path_ is not None
    assert float(method.path_["1.weight"]) == pytest.approx(1.111111, abs=1e-6)
    method.end_task(toy_task([[1]], [0]))
    assert float(method.omega_["1.weight"]) == pytest.approx(1.110001, abs=1e-6)


def test_small_steps_give_the_fall_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    method = descended(Parabola(), 0.001, 6000, monkeypatch)
    assert float(method.path_["1.weight"]) == pytest.approx(1.0, abs=2e-3)


def test_path_sums_to_the_fall_of_the_loss_of_a_network() -> None:
    method = attach(SI(), mlp())
    data = toy_task([[1, 0, 0, 2], [0, 1, 3, 0], [2, 2, 0, 1]], [0, 1, 2])
    x, y = data.train.x, data.train.y
    method.begin_task(data)
    start = float(method.loss(x, y, 0).detach())
    for _ in range(200):
        method.net.zero_grad()
        method.loss(x, y, 0).backward()
        method.on_grad()
        with torch.no_grad():
            for p in method.shared.values():
                p -= 1e-4 * p.grad
        method.on_step(x, y, 0)
    fall = start - float(method.loss(x, y, 0).detach())
    assert fall > 0.01
    assert float(sum(w.sum() for w in method.path_.values())) == pytest.approx(fall, rel=0.02)


def test_gradient_is_the_tasks_alone_and_displacement_is_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Penalty, weight decay and momentum move the weight; none of them is in g."""
    rows: list[tuple[float, float]] = []

    class Watching(Parabola):
        def on_step(self, x: Tensor, y: Tensor, t: Any) -> None:
            assert self._before is not None
            before, after = float(self._before[0]), float(self.net.backbone[1].weight.detach())
            rows.append((before, after))
            super().on_step(x, y, t)

    method = Watching(strength=0.3)
    method.omega_ = {"1.weight": torch.full((1, 1), 0.7)}
    descended(method, 0.05, 6, monkeypatch, momentum=0.9, weight_decay=0.1)
    theta, velocity = 1.0, 0.0
    expected = 0.0
    for before, after in rows:
        assert before == pytest.approx(theta, rel=1e-5)
        g = 2.0 * theta
        whole = g + 2 * 0.3 * 0.7 * (theta - 1.0) + 0.1 * theta
        velocity = 0.9 * velocity + whole
        new = theta - 0.05 * velocity
        assert after == pytest.approx(new, rel=1e-5)
        expected -= g * (new - theta)
        theta = new
    assert len(rows) == 6
    assert float(method.path_["1.weight"]) == pytest.approx(expected, rel=1e-5)


def test_credit_with_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of rate 0.1 from 1, curvature 2, penalty 0.3 * 0.7 (theta - 1)^2: 1 -> 0.8 -> 0.6484."""
    method = Parabola(strength=0.3, credit="total")
    method.omega_ = {"1.weight": torch.full((1, 1), 0.7)}
    descended(method, 0.1, 2, monkeypatch)
    first, second = 2 * 1.0, 2 * 0.8 + 2 * 0.3 * 0.7 * (0.8 - 1.0)
    assert second == pytest.approx(1.516)
    assert float(method.path_["1.weight"]) == pytest.approx(first * 0.2 + second * 0.1516, rel=1e-5)


def test_importance_is_never_negative_and_adds_up() -> None:
    net = mlp(classes=(3, 3))
    method = attach(SI(damping=0.5), net)
    data = toy_task([[1, 0, 0, 2]], [0])
    method.begin_task(data)
    method.path_ = {name: torch.full_like(p, -1.0) for name, p in method.shared.items()}
    method.end_task(data)
    assert all(not bool(o.any()) for o in method.omega_.values())
    for count in (1, 2):
        method.begin_task(data)
        assert all(not bool(w.any()) for w in method.path_.values()), "w starts at zero with every task"
        assert torch.equal(method.anchor_["1.weight"], net.backbone[1].weight)
        method.path_ = {name: torch.ones_like(p) for name, p in method.shared.items()}
        with torch.no_grad():
            for p in method.shared.values():
                p += 2.0
        method.end_task(data)
        for importance in method.omega_.values():
            torch.testing.assert_close(importance, torch.full_like(importance, count / 4.5))


def test_importance_may_be_negative_as_in_the_paper() -> None:
    method = attach(SI(damping=0.5, clamp=False), mlp())
    data = toy_task([[1, 0, 0, 2]], [0])
    method.begin_task(data)
    method.path_ = {name: torch.full_like(p, -1.0) for name, p in method.shared.items()}
    method.end_task(data)
    assert all(bool((omega == -2.0).all()) for omega in method.omega_.values())


def test_penalty_holds_to_where_the_task_started() -> None:
    method = attach(SI(strength=3.0), mlp())
    data = toy_task([[1, 0, 0, 2]], [0])
    assert method.penalty() is None
    method.omega_ = {name: torch.full_like(p, 0.5) for name, p in method.shared.items()}
    method.begin_task(data)
    anchor = snapshot(method.shared)
    with torch.no_grad():
        for p in method.shared.values():
            p += 1.5
    method.penalty().backward()
    for name, p in method.shared.items():
        torch.testing.assert_close(p.grad, 2 * 3 * 0.5 * (p.detach() - anchor[name]))
    assert not any(name.startswith("heads") for name in method.omega_)
