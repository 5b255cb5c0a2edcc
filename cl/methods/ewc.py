"""Elastic weight consolidation: hold each weight near its old value, as firmly as the old tasks relied on it.

Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017, equation 3.
"""

from __future__ import annotations

import torch

from cl.data import Task
from cl.holding import Holding
from cl.knob import knob
from cl.ops import LIKELIHOODS, Tensors, add, importance, snapshot


class EWC(Holding):
    """L = CE + lambda sum_k F_k (theta_k - theta*_k)^2, with F the sum of the tasks' diagonal Fisher informations.

    theta* are the weights at the end of the last task. With `anchors: each` they are the mean over the ends of all
    tasks, weighted by each task's F; the gradient is then that of lambda sum_t sum_k F_tk (theta_k - theta*_tk)^2.
    """

    estimator: str = knob("per-sample", choices=("per-sample", "batch-sum"), help="how gradients become F")
    labels: str = knob(
        "data", choices=tuple(LIKELIHOODS), help="labels in F: the data's, or the network's answers", younger=True
    )
    anchors: str = knob(
        "last", choices=("last", "each"), help="weights at the end of the last task, or of each task", younger=True
    )

    fisher_: Tensors | None = None
    anchor_: Tensors | None = None

    def held(self) -> tuple[Tensors, Tensors] | None:
        """(theta*, F)."""
        return None if self.fisher_ is None or self.anchor_ is None else (self.anchor_, self.fisher_)

    def end_task(self, data: Task) -> None:
        """Add this task's empirical Fisher and move the anchor."""
        fisher = importance(
            self.net,
            data.train,
            self.task,
            LIKELIHOODS[self.labels],
            lambda g: g.square(),
            self.estimator,
            self.training.batch_size,
        )
        total, anchor = add(self.fisher_, fisher), snapshot(self.shared)
        if self.anchors == "each" and self.fisher_ is not None and self.anchor_ is not None:
            # Up to a constant, the sum of the tasks' parabolas is a single one around their weighted mean.
            old = {name: (self.fisher_[name] / f).nan_to_num(0.0) for name, f in total.items()}
            anchor = {name: torch.lerp(here, self.anchor_[name], old[name]) for name, here in anchor.items()}
        self.fisher_, self.anchor_ = total, anchor
