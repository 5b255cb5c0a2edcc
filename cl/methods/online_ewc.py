"""Online elastic weight consolidation: one running Fisher information that slowly lets go of the oldest tasks.

Schwarz et al., Progress and compress: A scalable framework for continual learning, ICML 2018; Huszar, Note on the
quadratic penalties in elastic weight consolidation, PNAS 2018, for the single anchor.
"""

from __future__ import annotations

from cl.data import Task
from cl.holding import Holding
from cl.knob import knob
from cl.ops import LIKELIHOODS, Tensors, add, importance, snapshot


class OnlineEWC(Holding):
    """L = CE + lambda sum_k gamma F~_k (theta_k - theta*_k)^2, with F~ <- gamma F~ + F at the end of each task."""

    gamma: float = knob(0.95, range=(0, 1), help="each new task multiplies the Fisher information of old ones by this")
    labels: str = knob(
        "data", choices=tuple(LIKELIHOODS), help="labels in F: the data's, or the network's answers", younger=True
    )

    fisher_: Tensors | None = None
    anchor_: Tensors | None = None

    @property
    def weight(self) -> float:
        """lambda gamma: as a task begins, those before it are one task older (the paper holds weights by gamma F~)."""
        return self.gamma * self.strength

    def held(self) -> tuple[Tensors, Tensors] | None:
        """(theta*, F~)."""
        return None if self.fisher_ is None or self.anchor_ is None else (self.anchor_, self.fisher_)

    def end_task(self, data: Task) -> None:
        """Fade the old Fisher information, add this task's (per sample), and move the anchor."""
        size = self.training.batch_size
        fisher = importance(
            self.net, data.train, self.task, LIKELIHOODS[self.labels], lambda g: g.square(), "per-sample", size
        )
        self.fisher_ = add(self.fisher_, fisher, self.gamma)
        self.anchor_ = snapshot(self.shared)
