"""What is shared by the methods that merge the tasks' weights: training near the last task's, answers by the merge."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call

from cl.data import Task
from cl.knob import knob
from cl.method import Method
from cl.ops import Quadratic, Tensors, quadratic, snapshot


class Merging(Method):
    """Training: CE + lambda sum_k (theta_k - theta*_k)^2, the L2 transfer. Test: by `merged_`, under the task's head.

    Merging is for inference only: training goes on from the unmerged weights. A subclass says, as a task ends, what
    they are merged to. Lee et al., Overcoming catastrophic forgetting by incremental moment matching, NIPS 2017.
    """

    needs_shared_layers = True
    selection = "learning-rate"

    strength: float = knob(0.01, range=(0, 1e9), help="lambda of the L2 transfer; static, as in the survey")
    hold_head: bool = knob(False, help="the L2 transfer holds the new head too, near where it was drawn")

    anchor_: Tensors | None = None
    head_: Tensors | None = None
    merged_: Tensors | None = None

    def begin_task(self, data: Task) -> None:
        """Remember the random start of the new head."""
        self.head_ = snapshot(self._head()) if self.hold_head else None

    def _head(self) -> dict[str, nn.Parameter]:
        return {f"head.{name}": p for name, p in self.net.heads[self.task].named_parameters()}

    def penalty(self) -> Quadratic | None:
        """The L2 transfer, to the unmerged weights of the last task."""
        if self.anchor_ is None or self.strength == 0:
            return None
        if self.head_ is None:
            return self.strength * quadratic(self.shared, self.anchor_)
        return self.strength * quadratic({**self.shared, **self._head()}, {**self.anchor_, **self.head_})

    def stiffness(self) -> float:
        """lambda: all weights are held alike."""
        return 0.0 if self.anchor_ is None else self.strength

    def end_task(self, data: Task) -> None:
        """Move the anchor here."""
        self.anchor_, self.head_ = snapshot(self.shared), None

    def predict(self, x: Tensor, t: int | None = None) -> Tensor:
        """Scores of the merged backbone."""
        assert self.merged_ is not None
        return self.net.logits(functional_call(self.net.backbone, self.merged_, (x,)), t)
