"""Synaptic intelligence: importance of a weight is its share in the fall of the loss along the training path.

Zenke, Poole and Ganguli, Continual learning through synaptic intelligence, ICML 2017, equations 3 to 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl.data import Task, TaskIds
from cl.holding import Holding
from cl.knob import knob
from cl.ops import Tensors, add, gradients, snapshot, zeros_like


class SI(Holding):
    """L = CE + lambda sum_k Omega_k (theta_k - theta*_k)^2, Omega = sum_t max(0, w / (Delta^2 + xi))."""

    learns_from_steps = True

    damping: float = knob(1e-3, range=(1e-12, 1e6), help="xi: keeps importances finite where a weight hardly moved")
    clamp: bool = knob(True, help="a weight whose path made the loss rise counts as unimportant")
    credit: str = knob(
        "loss",
        choices=("loss", "total"),
        help="gradient in the path integral: that of the loss, or of loss and penalty",
        younger=True,
    )

    omega_: Tensors | None = None
    anchor_: Tensors | None = None
    path_: Tensors | None = None
    """w: minus the path integral of the task's gradient, so far in this task."""
    _before: list[Tensor] | None = None
    _slope: list[Tensor] | None = None

    def begin_task(self, data: Task) -> None:
        """Start the path integral where the task starts."""
        self.path_ = zeros_like(self.shared)
        self.anchor_ = snapshot(self.shared)
        self._before = list(snapshot(self.shared).values())

    def on_grad(self) -> None:
        """Keep g_k: of the task's loss alone, before penalty, weight decay and momentum."""
        slope = [p.grad for p in self.shared.values() if p.grad is not None]
        if self._slope is None:
            self._slope = [g.clone() for g in slope]
        else:
            torch._foreach_copy_(self._slope, slope)

    def held(self) -> tuple[Tensors, Tensors] | None:
        """(theta*, Omega)."""
        return None if self.omega_ is None or self.anchor_ is None else (self.anchor_, self.omega_)

    def on_step(self, x: Tensor, y: Tensor, t: TaskIds) -> None:
        """w_k -= g_k (theta_k_new - theta_k_old), with the movement as it happened.

        With `credit: total` g is the gradient of loss and penalty, as the step took it.
        """
        assert self.path_ is not None
        assert self._before is not None
        assert self._slope is not None
        slope = self._slope if self.credit == "loss" else gradients(self.shared.values())
        now = [p.detach() for p in self.shared.values()]
        moved = torch._foreach_sub(now, self._before)
        torch._foreach_addcmul_(list(self.path_.values()), slope, moved, value=-1)
        torch._foreach_copy_(self._before, now)

    def end_task(self, data: Task) -> None:
        """Turn the path integral into importance; Delta is how far the whole task moved the weight."""
        assert self.path_ is not None
        assert self.anchor_ is not None
        gained = {
            name: self.path_[name] / ((p.detach() - self.anchor_[name]).square() + self.damping)
            for name, p in self.shared.items()
        }
        if self.clamp:
            gained = {name: omega.clamp(min=0) for name, omega in gained.items()}
        self.omega_ = add(self.omega_, gained)
        self.path_ = self.anchor_ = None
