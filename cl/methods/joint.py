"""Joint training: one training on all tasks together. The upper bound, not a continual learner."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cl.data import TaskIds
from cl.knob import knob
from cl.method import ALL, Method
from cl.params import Augmentation


class Joint(Method):
    """One softmax over the classes of all tasks (De Lange et al. 2021, section 6), at test over one task's."""

    scenarios = ALL
    selection = "learning-rate"
    sees_all_tasks = True
    stores_samples = True
    shares_first_task = False

    flip: bool = knob(False, help="flip images left and right in training, as the survey does on Tiny ImageNet")

    @property
    def augmentation(self) -> Augmentation:
        """That of all methods, and the flips."""
        given = super().augmentation
        return given.model_copy(update={"flip": given.flip or self.flip})

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """Cross-entropy over all classes of all tasks."""
        return F.cross_entropy(self.net(x), self.net.column(y, t))
