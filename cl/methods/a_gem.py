"""Averaged gradient episodic memory: no step may raise the mean loss on samples of the old tasks.

Chaudhry et al., Efficient lifelong learning with A-GEM, ICLR 2019, section 4, equations 10 and 11.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cl.data import Task
from cl.gpu import sent
from cl.knob import knob
from cl.memory import placed
from cl.ops import flatten, gradients
from cl.replay import Replay, Rows


class AGEM(Replay):
    """g~ = the vector nearest to g with <g~, r> >= 0; r the gradient on a draw from the memory of all old tasks."""

    shares_first_task = True
    learns_from_steps = True
    selection = "learning-rate"

    replay_batch: int = knob(256, range=(0, 1e6), help="samples whose gradient is r; 0: as many as are new")
    margin: float = knob(0.0, range=(0, 1e6), help="gamma: least weight of r, once g is against it")
    memory_per_class: int = knob(
        0,
        range=(0, 1e9),
        help="samples kept of each class, the latest ones; 0: memory_budget samples of all classes together",
        younger=True,
    )

    offered_: list[int] | None = None
    """By column: how many samples of its class were offered; counted only if each class has a share of its own."""
    _learning: int | None = None
    """The task being learned, whose samples do not count as past yet; None where no boundary is announced."""

    def begin_task(self, data: Task) -> None:
        """From here on the samples of earlier tasks count as past."""
        self._learning = self.task

    def remember(self, rows: Mapping[str, Tensor]) -> None:
        """Offer samples to the memory one after the other, in the first epoch only."""
        if not self.memory_per_class:
            super().remember(rows)
        elif self.epoch == 0:
            columns = self.net.column(rows["y"], rows["t"]).tolist()
            for row, column in enumerate(columns):
                self._keep({name: tensor[row : row + 1] for name, tensor in rows.items()}, column)
            self.seen_ += len(columns)

    def _keep(self, row: Rows, column: int) -> None:
        """Put one sample in the place of the oldest of its class, or behind all others where there is room."""
        offered = list(self.offered_ or [])
        offered += [0] * (column + 1 - len(offered))
        count = offered[column]
        offered[column] += 1
        self.offered_ = offered
        slot = len(self.memory_["y"]) if self.memory_ is not None else 0
        if self.memory_ is not None and count >= self.memory_per_class:
            own = (self.net.column(self.memory_["y"], self.memory_["t"]) == column).nonzero().flatten()
            slot = int(own[count % self.memory_per_class])
        self.memory_ = placed(self.memory_, row, torch.tensor([slot]))

    def on_grad(self) -> None:
        """Replace g by its projection, over all parameters, heads included."""
        recalled = self.recall(self.replayed(len(self.indices)), "reference", before=self._learning)
        if recalled is None:
            return
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        y, t = (sent(recalled.rows[name], recalled.x.device) for name in ("y", "t"))
        loss = self.cross_entropies(self.net(recalled.x, self.net.scope(t)), y, t).mean()
        r = flatten(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))
        g = flatten(gradients(parameters))
        projected, against = project(g, r, self.margin)
        # The optimizer leaves a parameter without gradient as it is, so that one gets none from a projection not made.
        if any(p.grad is None for p in parameters) and not against:
            return
        for p, part in zip(parameters, projected.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)


def project(g: Tensor, r: Tensor, margin: float = 0.0) -> tuple[Tensor, Tensor]:
    """g + v r with v = max(margin, -<g, r> / <r, r>) where <g, r> < 0, else g; and whether that is so. g, r (P,).

    At margin 0 it is the vector nearest to g with <., r> >= 0. The margin is that of GEM's dual with one constraint.
    """
    largest = r.abs().max()
    unit = r / largest  # so that <r, r> does not vanish in float32 however small r is
    along = g @ unit / (unit @ unit)
    against = (largest != 0) & ~(along >= 0)
    return torch.where(against, g + torch.maximum(margin * largest, -along) * unit, g), against
