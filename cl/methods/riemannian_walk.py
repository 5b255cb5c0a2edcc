"""Riemannian walk: hold weights by a running Fisher information, and by how much their own steps lowered the loss.

Chaudhry et al., Riemannian walk for incremental learning: Understanding forgetting and intransigence, ECCV 2018.
Without the scores of the path it is their EWC++.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl.data import Task, TaskIds
from cl.holding import Holding
from cl.knob import knob, shrink
from cl.ops import Tensors, gradients, snapshot, zeros_like


class RiemannianWalk(Holding):
    """L = CE + lambda sum_k (F_k + s_k) (theta_k - theta*_k)^2, F and s scaled to [0, 1] over all weights."""

    learns_from_steps = True

    strength: float = knob(100.0, decay=shrink, range=(0, 1e12), help="lambda")
    score: bool = knob(True, help="the score of the path counts beside the Fisher; without it this is EWC++")
    newest: float = knob(0.9, range=(0, 1), help="alpha: share of the latest gradients in the running Fisher")
    interval: int = knob(10, range=(1, 1e6), help="steps after which Fisher and score are brought up to date")
    damping: float = knob(1e-3, range=(1e-12, 1e6), help="epsilon: keeps scores finite where a weight hardly moved")

    fisher_: Tensors | None = None
    """The running mean of squared gradients, over all tasks."""
    score_: Tensors | None = None
    """The score of the tasks before this one."""
    gained_: Tensors | None = None
    """The score in this task so far."""
    _importance: Tensors | None = None
    _anchor: Tensors | None = None
    _steps: int = 0
    _slope: list[Tensor]
    _squares: list[Tensor]
    _fall: list[Tensor]
    """How much the weights' own steps lowered the loss since the interval began."""
    _start: list[Tensor]
    """The weights when the interval began."""
    _before: list[Tensor]

    def begin_task(self, data: Task) -> None:
        """Fix the importance and the anchor for the task; the score of the task begins at zero."""
        if self.fisher_ is not None:
            parts = [self.fisher_, self.score_] if self.score else [self.fisher_]
            scaled = [unit_range(part) for part in parts if part is not None]
            self._importance = {name: torch.stack([part[name] for part in scaled]).sum(0) for name in self.fisher_}
            self._anchor = snapshot(self.shared)
        self.gained_ = zeros_like(self.shared)
        self._before = list(snapshot(self.shared).values())
        self._restart()

    def _restart(self) -> None:
        self._steps = 0
        self._start = [p.clone() for p in self._before]
        self._fall = [torch.zeros_like(p) for p in self._before]
        self._squares = [torch.zeros_like(p) for p in self._before]

    def on_grad(self) -> None:
        """Keep g: of the task's loss alone, before penalty, weight decay and momentum."""
        self._slope = [g.clone() for g in gradients(self.shared.values())]
        torch._foreach_addcmul_(self._squares, self._slope, self._slope)

    def held(self) -> tuple[Tensors, Tensors] | None:
        """(theta*, F + s)."""
        return None if self._importance is None or self._anchor is None else (self._anchor, self._importance)

    def on_step(self, x: Tensor, y: Tensor, t: TaskIds) -> None:
        """The loss falls by -g (theta_new - theta_old); every `interval` steps Fisher and score are updated."""
        now = [p.detach() for p in self.shared.values()]
        torch._foreach_addcmul_(self._fall, self._slope, torch._foreach_sub(now, self._before), value=-1)
        torch._foreach_copy_(self._before, now)
        self._steps += 1
        if self._steps == self.interval or self.step + 1 == self.steps_per_epoch:
            self._take_in()
            self._restart()

    def _take_in(self) -> None:
        assert self.gained_ is not None
        latest = {name: squares / self._steps for name, squares in zip(self.shared, self._squares, strict=True)}
        self.fisher_ = running(self.fisher_, latest, self.newest)
        for name, fall, now, start in zip(self.shared, self._fall, self._before, self._start, strict=True):
            self.gained_[name] += path_score(fall, self.fisher_[name], now - start, self.damping)

    def end_task(self, data: Task) -> None:
        """Average the old score and this task's, so that scores do not grow with the number of tasks."""
        gained = self.gained_
        assert gained is not None
        if self.score_ is not None:
            gained = {name: (self.score_[name] + new) / 2 for name, new in gained.items()}
        self.score_, self.gained_ = gained, None


def running(old: Tensors | None, new: Tensors, share: float) -> Tensors:
    """alpha new + (1 - alpha) old by name, alpha being the share; the new where there is no old."""
    return new if old is None else {name: share * new[name] + (1 - share) * old[name] for name in new}


def path_score(fall: Tensor, fisher: Tensor, moved: Tensor, damping: float) -> Tensor:
    """max(0, fall / (F moved^2 / 2 + epsilon)): the fall of the loss, per change in the answers. All of one shape.

    That change is the Kullback-Leibler divergence of the answers after from those before, to second order.
    """
    return (fall / (fisher * moved.square() / 2 + damping)).clamp(min=0)


def unit_range(tensors: Tensors) -> Tensors:
    """Scaled and shifted so that the least of all numbers is 0 and the greatest 1; zeros where they are all alike."""
    low = torch.stack([tensor.min() for tensor in tensors.values()]).min()
    high = torch.stack([tensor.max() for tensor in tensors.values()]).max()
    width = high - low
    return {name: torch.where(width > 0, (tensor - low) / width, 0.0) for name, tensor in tensors.items()}
