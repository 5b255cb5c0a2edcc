"""Averaged gradient episodic memory: move only where the mean loss on remembered samples of old tasks does not rise.

Chaudhry et al., Efficient lifelong learning with A-GEM, ICLR 2019, section 4, equations 10 and 11.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl.data import Task
from cl.knob import knob
from cl.ops import flatten, gradients
from cl.replay import Replay


class AGEM(Replay):
    """g~ = the vector nearest to g with <g~, r> >= 0; r the gradient on a draw from the memory of all old tasks."""

    shares_first_task = True
    selection = "learning-rate"

    replay_batch: int = knob(256, range=(0, 1e6), help="samples whose gradient is r; 0: as many as are new")
    margin: float = knob(0.0, range=(0, 1e6), help="gamma: least weight of r, once g is against it")

    _learning: int | None = None
    """The task being learned, whose samples are not of the past yet; None where no boundary is told."""

    def begin_task(self, data: Task) -> None:
        """From here on the memory of the tasks before is the past."""
        self._learning = self.task

    def on_grad(self) -> None:
        """Replace g by its projection, over all parameters, heads included."""
        recalled = self.recall(self.replayed(len(self.indices)), "reference", before=self._learning)
        if recalled is None:
            return
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        y, t = (recalled.rows[name].to(recalled.x.device) for name in ("y", "t"))
        loss = self.cross_entropies(self.net(recalled.x, self.net.scope(t)), y, t).mean()
        r = flatten(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))
        g = flatten(gradients(parameters))
        projected = project(g, r, self.margin)
        if projected is g:
            return
        for p, part in zip(parameters, projected.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)


def project(g: Tensor, r: Tensor, margin: float = 0.0) -> Tensor:
    """g + v r with v = max(margin, -<g, r> / <r, r>) where <g, r> < 0; else g itself. g, r (P,).

    At margin 0 the vector nearest to g with <., r> >= 0; the margin is that of GEM's dual with one constraint.
    """
    largest = r.abs().max()
    if largest == 0:
        return g
    unit = r / largest  # so that <r, r> does not vanish in float32 however small r is
    along = g @ unit / (unit @ unit)
    if along >= 0:
        return g
    return g + torch.maximum(margin * largest, -along) * unit
