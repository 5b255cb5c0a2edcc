"""Elastic weight consolidation: hold each weight near its old value, as firmly as the old tasks relied on it.

Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017, equation 3.
"""

from __future__ import annotations

from torch import Tensor

from cl.data import Task
from cl.method import ALL, Method, knob, shrink
from cl.ops import Tensors, add, importance, negative_log_likelihood, quadratic, snapshot


class EWC(Method):
    """L = CE + lambda sum_k F_k (theta_k - theta*_k)^2, with F the sum of the tasks' diagonal Fisher informations."""

    scenarios = ALL

    strength: float = knob(400.0, decay=shrink, range=(0, 1e12), help="lambda")
    estimator: str = knob("per-sample", choices=("per-sample", "batch-sum"), help="how gradients become F")

    fisher_: Tensors | None = None
    anchor_: Tensors | None = None

    def penalty(self) -> Tensor | None:
        """lambda sum_k F_k (theta_k - theta*_k)^2."""
        if self.fisher_ is None or self.anchor_ is None or self.strength == 0:
            return None
        return self.strength * quadratic(self.shared, self.anchor_, self.fisher_)

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
