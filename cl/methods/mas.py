"""Memory aware synapses: a weight matters as much as the network's outputs react to it; no labels are needed.

Aljundi et al., Memory aware synapses: Learning what (not) to forget, ECCV 2018, equations 2 to 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl.data import Task
from cl.holding import Holding
from cl.knob import knob, shrink
from cl.ops import Tensors, add, importance, snapshot


class MAS(Holding):
    """L = CE + lambda sum_k Omega_k (theta_k - theta*_k)^2, Omega = sum_t mean_x |d ||z_t(x)||^2 / d theta_k|.

    With gamma below 1 a task counts less with each task after it.
    """

    strength: float = knob(3.0, decay=shrink, range=(0, 1e12), help="lambda")
    estimator: str = knob("per-sample", choices=("per-sample", "batch-sum"), help="how gradients become Omega")
    gamma: float = knob(
        1.0, range=(0, 1), help="each new task multiplies the importances of old ones by this", younger=True
    )

    omega_: Tensors | None = None
    anchor_: Tensors | None = None

    def held(self) -> tuple[Tensors, Tensors] | None:
        """(theta*, Omega)."""
        return None if self.omega_ is None or self.anchor_ is None else (self.anchor_, self.omega_)

    def end_task(self, data: Task) -> None:
        """Add this task's importance, from its images alone, and move the anchor."""
        omega = importance(
            self.net, data.train, self.task, squared_norm, torch.abs, self.estimator, self.training.batch_size
        )
        self.omega_ = add(self.omega_, omega, self.gamma)
        self.anchor_ = snapshot(self.shared)


def squared_norm(logits: Tensor, y: Tensor) -> Tensor:
    """||z||^2 of one sample's logits (classes,); its label y plays no part."""
    return logits.square().sum()
