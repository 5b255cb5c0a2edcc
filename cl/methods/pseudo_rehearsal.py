"""Pseudo-rehearsal: on random inputs go on answering as the old network did; no sample is kept.

Robins, Catastrophic forgetting, rehearsal and pseudorehearsal, Connection Science 1995.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from cl.data import Task, TaskIds
from cl.knob import knob, shrink
from cl.method import ALL, Method
from cl.ops import Tensors, distillation, snapshot

LOOKED_AT = 1000
"""Images of the new task from which the range of pixels is taken."""


class PseudoRehearsal(Method):
    """L = CE + lambda sum_g D(answers of group g, the old network's), on random inputs drawn anew in every step.

    A group is the columns that competed before this task: one old head, or all old classes together.
    """

    scenarios = ALL

    strength: float = knob(1.0, decay=shrink, range=(0, 1e9), help="lambda")
    law: str = knob(
        "uniform", choices=("uniform", "gaussian"), help="distribution that each pixel of a random input is drawn from"
    )
    distance: str = knob("softened", choices=("softened", "squared"), help="D: of softmax(logits / T), or of logits")
    temperature: float = knob(2.0, range=(1e-3, 1e3), help="T of the softened distributions")
    inputs: int = knob(0, range=(0, 1e6), help="random inputs in a step; 0: as many as new images")

    _teacher: Tensors | None = None
    _shift: Tensor
    _scale: Tensor

    def begin_task(self, data: Task) -> None:
        """The teacher is the network as the last task left it; of the new images only the range of pixels is used."""
        if self.task == 0:
            return
        self._teacher = snapshot(self.net.state_dict())
        seen = data.train.normalise(data.train.images[:LOOKED_AT])
        if self.law == "uniform":
            self._shift = seen.amin((0, 2, 3), keepdim=True)
            self._scale = seen.amax((0, 2, 3), keepdim=True) - self._shift
        else:
            self._shift = seen.mean((0, 2, 3), keepdim=True)
            self._scale = seen.std((0, 2, 3), keepdim=True)

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """Cross-entropy on the new task, and how far the answers to random inputs have moved."""
        if self._teacher is None or self.strength == 0:
            return super().loss(x, y, t)
        inputs = self.random(self.inputs or len(x), x)
        with self.net.at_rest():  # noise would spoil the statistics of batch normalisation
            with torch.no_grad():
                teacher = functional_call(self.net, self._teacher, (inputs,))
            student = self.net(inputs)
        held = [self.apart(student[:, group], teacher[:, group]) for group in self.net.groups(self.task)]
        return super().loss(x, y, t) + self.strength * torch.stack(held).sum()

    def random(self, count: int, like: Tensor) -> Tensor:
        """`count` random inputs of the shape of `like` (N, C, H, W), as the network takes them."""
        shape, draw = (count, *like.shape[1:]), self.rng("random inputs", like.device)
        law = torch.rand if self.law == "uniform" else torch.randn
        return law(shape, generator=draw, device=like.device) * self._scale + self._shift

    def apart(self, student: Tensor, teacher: Tensor) -> Tensor:
        """D of the new and the old logits of a group, (N, columns) each: a mean over the inputs."""
        if self.distance == "squared":
            return F.mse_loss(student, teacher)
        return distillation(student, teacher, self.temperature)
