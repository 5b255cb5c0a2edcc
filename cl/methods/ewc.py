"""Elastic weight consolidation: hold each weight near its old value, as firmly as the old tasks relied on it.

Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017, equation 3.
"""

from __future__ import annotations

from cl.data import Task
from cl.holding import Holding
from cl.knob import knob
from cl.ops import Tensors, add, importance, negative_log_likelihood, snapshot


class EWC(Holding):
    """L = CE + lambda sum_k F_k (theta_k - theta*_k)^2, with F the sum of the tasks' diagonal Fisher informations."""

    estimator: str = knob("per-sample", choices=("per-sample", "batch-sum"), help="how gradients become F")

    fisher_: Tensors | None = None
    anchor_: Tensors | None = None

    def held(self) -> tuple[Tensors, Tensors] | None:
        """(theta*, F)."""
        return None if self.fisher_ is None or self.anchor_ is None else (self.anchor_, self.fisher_)

    def end_task(self, data: Task) -> None:
        """Add this task's empirical Fisher (true labels) and move the anchor."""
        size = self.training.batch_size
        fisher = importance(
            self.net,
            data.train,
            self.task,
            negative_log_likelihood,
            lambda g: g.square(),
            self.estimator,
            size,
        )
        self.fisher_ = add(self.fisher_, fisher)
        self.anchor_ = snapshot(self.shared)
