"""Experience replay: in every step learn from some remembered samples too, of a uniform draw of all that was seen.

Chaudhry et al., On tiny episodic memories in continual learning, 2019; Rolnick et al., Experience replay for continual
learning, NeurIPS 2019.
"""

from __future__ import annotations

from torch import Tensor

from cl.method import TaskIds, knob, shrink
from cl.replay import Replay


class ER(Replay):
    """L = CE(new samples) + rho CE(samples drawn from the memory)."""

    strength: float = knob(1.0, decay=shrink, range=(0, 1e6), help="rho: weight of the remembered samples")

    def batch(self, x: Tensor, y: Tensor, t: TaskIds) -> tuple[Tensor, Tensor, TaskIds]:
        """The new samples, then remembered ones."""
        recalled = self.recall(self.replayed(len(y)), "replay") if self.strength else None
        return self.mixed(x, y, t, recalled)

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """The mean over the new samples, and rho times that over the others."""
        new = len(self.indices)
        if len(y) == new:
            return super().loss(x, y, t)
        each = self.cross_entropies(self.net(x, self.net.scope(t)), y, t)
        return each[:new].mean() + self.strength * each[new:].mean()
