"""Mean-IMM: learn each task near the last one's weights, and answer with the mean of all tasks' weights.

Lee et al., Overcoming catastrophic forgetting by incremental moment matching, NIPS 2017, equations 1 and 2.
"""

from __future__ import annotations

from cl.data import Task
from cl.merging import Merging


class MeanIMM(Merging):
    """Test: theta = (1/t) sum_s theta_s. The mean is a running one, so the storage does not grow with the tasks."""

    def end_task(self, data: Task) -> None:
        """Move the anchor to the new weights, and the running mean by 1/t of the way towards them."""
        super().end_task(data)
        assert self.anchor_ is not None
        mean = self.merged_ or self.anchor_
        self.merged_ = {name: m + (self.anchor_[name] - m) / (self.task + 1) for name, m in mean.items()}
