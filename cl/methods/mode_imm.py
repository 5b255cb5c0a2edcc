"""Mode-IMM: as mean-IMM, but the tasks' weights are averaged by how precisely each task knows them.

Lee et al., Overcoming catastrophic forgetting by incremental moment matching, NIPS 2017, equations 3 and 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cl.data import Task
from cl.method import Method, knob
from cl.ops import Tensors, importance, negative_log_likelihood, quadratic, snapshot

PRIOR = 1e-8
"""Added to every F: a weight that no task cares about ends at the plain mean, not at 0/0."""


class ModeIMM(Method):
    """Training: CE + lambda sum_k (theta_k - theta*_k)^2. Test: theta = sum_s F_s theta_s / sum_s F_s, elementwise.

    F_s is the diagonal Fisher information of task s, its labels drawn from the model's own prediction. Merging is
    for inference only. Both sums are kept as running ones, so the storage does not grow with the tasks.
    """

    selection = "learning-rate"

    strength: float = knob(0.01, range=(0, 1e9), help="lambda of the L2 transfer; static, as in the survey")
    hold_head: bool = knob(False, help="the L2 transfer holds the new head too, near where it was drawn")
    estimator: str = knob("per-sample", choices=("per-sample", "batch-sum"), help="how gradients become F")

    anchor_: Tensors | None = None
    head_: Tensors | None = None
    merged_: Tensors | None = None
    precision_: Tensors | None = None

    def begin_task(self, data: Task) -> None:
        """Where the new head was drawn."""
        self.head_ = snapshot(self._head()) if self.hold_head else None

    def _head(self) -> dict[str, nn.Parameter]:
        return {f"head.{name}": p for name, p in self.net.heads[self.task].named_parameters()}

    def penalty(self) -> Tensor | None:
        """The L2 transfer: lambda sum_k (theta_k - theta*_k)^2, to the unmerged weights of the last task."""
        if self.anchor_ is None or self.strength == 0:
            return None
        if self.head_ is None:
            return self.strength * quadratic(self.shared, self.anchor_)
        return self.strength * quadratic({**self.shared, **self._head()}, {**self.anchor_, **self.head_})

    def end_task(self, data: Task) -> None:
        """Move the anchor here, and the merged weights towards here by this task's share of the precision."""
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
        self.anchor_, self.head_ = snapshot(self.shared), None
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

    def predict(self, x: Tensor, t: int | None = None) -> Tensor:
        """Scores of the merged backbone."""
        assert self.merged_ is not None
        return self.net.logits(functional_call(self.net.backbone, self.merged_, (x,)), t)
