"""Mode-IMM: as mean-IMM, but the tasks' weights are averaged by how precisely each task knows them.

Lee et al., Overcoming catastrophic forgetting by incremental moment matching, NIPS 2017, equations 3 and 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl.data import Task
from cl.knob import knob
from cl.merging import Merging
from cl.ops import Tensors, importance, negative_log_likelihood

PRIOR = 1e-8
"""Added to every F: a weight that no task cares about ends at the plain mean, not at 0/0."""


class ModeIMM(Merging):
    """Test: theta = sum_s F_s theta_s / sum_s F_s, elementwise.

    F_s is the diagonal Fisher information of task s, its labels drawn from the model's own prediction. Both sums are
    kept as running ones, so the storage does not grow with the tasks.
    """

    estimator: str = knob("per-sample", choices=("per-sample", "batch-sum"), help="how gradients become F")

    precision_: Tensors | None = None

    def end_task(self, data: Task) -> None:
        """Move the anchor to the new weights, and the merged weights towards them by F_t's share of the sum."""
        fisher = importance(
            self.net,
            data.train,
            self.task,
            negative_log_likelihood,
            torch.square,
            self.estimator,
            self.training.batch_size,
            self._drawn_labels(data),
        )
        fisher = {name: f + PRIOR for name, f in fisher.items()}
        super().end_task(data)
        assert self.anchor_ is not None
        past = self.precision_ or {name: torch.zeros_like(f) for name, f in fisher.items()}
        self.precision_ = {name: past[name] + f for name, f in fisher.items()}
        self.merged_ = {
            name: m + fisher[name] / self.precision_[name] * (self.anchor_[name] - m)
            for name, m in (self.merged_ or self.anchor_).items()
        }

    @torch.no_grad()
    def _drawn_labels(self, data: Task) -> Tensor:
        self.net.eval()
        draw = self.rng("labels")
        batches = data.train.batches(self.training.batch_size)
        chances = torch.cat([self.net(x, self.task).softmax(1) for x, _, _ in batches]).cpu()
        return torch.multinomial(chances, 1, generator=draw).squeeze(1).to(data.train.y.device)
