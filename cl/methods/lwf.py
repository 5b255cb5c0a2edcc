"""Learning without forgetting: on the new task's images, answer for the old tasks as the old network did.

Li and Hoiem, Learning without forgetting, TPAMI 2018, equations 1 to 3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from cl.data import Task, TaskIds
from cl.knob import knob, shrink
from cl.method import ALL, Method
from cl.ops import Tensors, distillation, scaled_distillation, snapshot


class LwF(Method):
    """L = CE + lambda sum_{s<t} D(student head s, teacher head s); the old heads go on learning.

    Where tasks share a softmax there is one D for all of them: of the one head, or of all old classes.
    With `form: replay`, L = (1/t) CE + lambda (1 - 1/t) T^2 mean_s D while task t is learned, as if the new images were
    those of old tasks: the teacher's answers rule out the new classes (van de Ven and Tolias 2019).
    """

    scenarios = ALL

    strength: float = knob(10.0, decay=shrink, range=(0, 1e9), help="lambda")
    temperature: float = knob(2.0, range=(1e-3, 1e3), help="T of the softened distributions")
    form: str = knob(
        "sum", choices=("sum", "replay"), help="how the losses are combined: added, or as in replay", younger=True
    )

    _teacher: Tensors | None = None

    def begin_task(self, data: Task) -> None:
        """The teacher is the network as the last task left it."""
        self._teacher = snapshot(self.net.state_dict()) if self.task > 0 else None

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """Cross-entropy on the new task, distillation on every old head."""
        if self._teacher is None or self.strength == 0:
            return super().loss(x, y, t)
        with torch.no_grad(), self.net.at_rest():
            teacher = functional_call(self.net, self._teacher, (x,))
        student = self.net(x)
        old, groups = self.net.groups(self.task), self.net.groups(self.task + 1)
        if self.form == "replay":
            pairs = zip(groups, old, strict=False)
            answers = [
                scaled_distillation(student[:, now], teacher[:, before], self.temperature) for now, before in pairs
            ]
            share = 1 / (self.task + 1)
            kept, weights = torch.stack(answers).mean(), (share, self.strength * (1 - share))
        else:
            answers = [distillation(student[:, group], teacher[:, group], self.temperature) for group in old]
            kept, weights = torch.stack(answers).sum(), (1.0, self.strength)
        return weights[0] * F.cross_entropy(student[:, groups[-1]], self.net.label(y, t)) + weights[1] * kept
