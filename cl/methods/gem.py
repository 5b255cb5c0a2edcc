"""Gradient episodic memory: no step may raise the loss on the samples of any old task.

Lopez-Paz and Ranzato, Gradient episodic memory for continual learning, NIPS 2017, equations 8 to 11.
"""

from __future__ import annotations

import math

import numpy as np
import quadprog
import torch
from torch import Tensor

from cl.data import Split, Task, held
from cl.data.task import Normalise
from cl.gpu import sent
from cl.grouped import Batch, Grouped, groupable
from cl.knob import knob, shrink
from cl.memory import drawn
from cl.method import ALL, Method
from cl.ops import cross_entropy, flatten

RIDGE = 1e-3
"""Added to the programme's diagonal, as in the authors' code: it stays solvable with parallel gradients."""


class GEM(Method):
    """g~ = the vector nearest to g with <g~, g_s> >= 0 for every old task s; g_s on the whole memory of s."""

    stores_samples = True
    scenarios = ALL

    margin: float = knob(1.0, decay=shrink, range=(0, 1e6), help="gamma: least weight of a memory gradient")
    memory_per_task: int = knob(450, range=(0, 1e9), help="samples kept of each task")
    memory_gradient: str = knob("mean", choices=("mean", "sum"), help="how a memory's batches are combined")
    memory_batch: int = knob(
        0, range=(0, 1e9), help="samples of a memory in one batch; 0: as many as in training", younger=True
    )

    memory_: list[dict[str, Tensor]] | None = None
    _replayed: list[Batch] | None = None
    """The memory of each old task, as the network takes it."""
    _parameters: list[torch.nn.Parameter]
    """All that are trained, in the order of the vectors."""
    _nothing: list[Tensor]
    """Of each the gradient where the loss does not depend on it."""
    _rows: Tensor
    """G: a row for each old task. It stays zero where the loss on that task's memory does not depend on a parameter."""
    _reached: dict[int, tuple[list[torch.nn.Parameter], list[Tensor]]]
    """For each old task the parameters that its loss depends on, and where in its row their gradients are."""
    _grouped: Grouped | None
    """All rows at once, where that is possible."""

    def begin_task(self, data: Task) -> None:
        """The memories as the network takes them."""
        memories = enumerate(self.memory_ or [])
        self._replayed = [(data.train.normalise(m["images"]), m["y"], s) for s, m in memories if len(m["y"])]
        self._parameters = [p for p in self.net.parameters() if p.requires_grad]
        self._nothing, self._reached = [torch.zeros_like(p) for p in self._parameters], {}
        self._rows = flatten(self._nothing).repeat(len(self._replayed), 1)
        whole = all(len(y) <= self._size for _, y, _ in self._replayed)
        together = whole and groupable(self.net, self._replayed)
        self._grouped = Grouped(self.net, self._replayed, self._rows) if together else None

    def on_grad(self) -> None:
        """Replace g by its projection, over all parameters, heads included."""
        if not self._replayed:
            return
        parameters = self._parameters
        g = flatten(none if p.grad is None else p.grad for p, none in zip(parameters, self._nothing, strict=True))
        if self._grouped is not None:
            self._grouped()
        else:
            for row in range(len(self._replayed)):
                self._memory_gradient(row)
        projected = project(g, self._rows, self.margin)
        if projected is g:
            return
        for p, part in zip(parameters, projected.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)

    @property
    def _size(self) -> int:
        """Samples of a memory in one batch."""
        return self.memory_batch or self.training.batch_size

    def _memory_gradient(self, row: int) -> Tensor:
        """g_s, in its row."""
        assert self._replayed is not None
        x, y, s = self._replayed[row]
        for number, (part, labels) in enumerate(zip(x.split(self._size), y.split(self._size), strict=True)):
            loss = cross_entropy(self.net, part, labels, s)
            if row not in self._reached:
                self._reached[row] = self._reach(loss, row)
            parameters, places = self._reached[row]
            found = torch.autograd.grad(loss, parameters)
            share = len(labels) / len(y) if self.memory_gradient == "mean" else 1.0
            if share != 1:
                found = torch._foreach_mul(found, share)
            if number:
                torch._foreach_add_(places, found)
            else:
                torch._foreach_copy_(places, found)
        return self._rows[row]

    def _reach(self, loss: Tensor, row: int) -> tuple[list[torch.nn.Parameter], list[Tensor]]:
        found = torch.autograd.grad(loss, self._parameters, allow_unused=True, retain_graph=True)
        places = self._rows[row].split([p.numel() for p in self._parameters])
        reached = [
            (p, place.view_as(p)) for p, place, g in zip(self._parameters, places, found, strict=True) if g is not None
        ]
        return [p for p, _ in reached], [place for _, place in reached]

    def kept(self, normalise: Normalise) -> list[Split]:
        """The memory of each old task."""
        old = (self.memory_ or [])[: self.task]
        return [held(m["images"], m["y"], s, normalise) for s, m in enumerate(old) if len(m["y"])]

    def end_task(self, data: Task) -> None:
        """Remember a uniform draw of the task."""
        self.memory_ = [*(self.memory_ or []), drawn(data.train, self.memory_per_task, self.rng("memory"))]


def project(g: Tensor, G: Tensor, margin: float, ridge: float = RIDGE) -> Tensor:
    """g~ = g + G'v with v minimising (1/2) v'(GG' + ridge I)v + (Gg)'v subject to v >= margin.

    g (P,), G (old tasks, P). Solved in float64. Where no constraint is violated g itself is returned.
    """
    if bool((G @ g >= 0).all()):
        return g
    G64, g64 = G.double(), g.double()
    numbers = torch.cat([G64 @ G64.T, (G64 @ g64).unsqueeze(1)], 1).cpu().numpy()
    P, q = numbers[:, :-1], numbers[:, -1]
    # Beyond about 1e12 times the ridge the matrix is singular in float64 whatever the ridge.
    P = (P + P.T) / 2 + np.diag(np.full(len(P), max(ridge, 1e-12 * float(np.trace(P)))))
    # The solver compares with constants: gradients of some thousands leave it at a wrong solution, or at none. A common
    # factor of both terms does not move v, and a power of four rounds nothing.
    factor = 4.0 ** -(math.frexp(float(np.trace(P)))[1] // 2)
    v = quadprog.solve_qp(factor * P, -factor * q, np.eye(len(P)), np.full(len(P), margin))[0]
    return (g64 + sent(torch.from_numpy(v), g.device) @ G64).to(g)
