"""What the survey's two replay baselines share: keep samples of every task, and train on some of them in every step."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.data import Task, TaskIds
from cl.gpu import sent
from cl.memory import drawn
from cl.method import ALL, Method
from cl.ops import occurrences


class Rehearsal(Method):
    """L = CE(new samples) + mean over old tasks s of CE_s(samples drawn from the memory of s).

    Each is taken among the classes the network is asked about (`MultiHead.scope`): in task-incremental learning on the
    task's own head. De Lange et al. 2021, section 6.1. A subclass says how many samples a task may keep.
    """

    stores_samples = True
    scenarios = ALL
    selection = "learning-rate"

    memory_: list[dict[str, Tensor]] | None = None
    """Per task: `images` (K, C, H, W) uint8 and labels `y` (K,), in random order."""
    _replay: dict[str, Tensor] | None = None
    """All of the memory: `images` as they are kept, `y`, `t`."""

    def slots(self, tasks: int) -> int:
        """Samples that each task may keep once so many tasks are learned or being learned."""
        raise NotImplementedError

    def capacity(self) -> int:
        """m: the memory's size, from which the number of samples drawn for a step follows (`per_step`)."""
        raise NotImplementedError

    def begin_task(self, data: Task) -> None:
        """Cut the memories to what a task may keep from now on."""
        slots = self.slots(self.task + 1)
        kept = [{name: tensor[:slots].clone() for name, tensor in memory.items()} for memory in self.memory_ or []]
        self.memory_, self._replay = kept, None
        if kept and slots:
            counts = torch.tensor([len(memory["y"]) for memory in kept])
            device = data.train.normalise.device
            self._replay = {
                "images": torch.cat([memory["images"] for memory in kept]).to(device),
                "y": torch.cat([memory["y"].to(device) for memory in kept]),
                "t": torch.arange(len(kept)).repeat_interleave(counts).to(device),
                "counts": counts,
            }
            self._replay["wanted"] = torch.tensor(per_step(self.training.batch_size, len(data.train), self.capacity()))

    def batch(self, x: Tensor, y: Tensor, t: TaskIds) -> tuple[Tensor, Tensor, TaskIds]:
        """The new samples, then those drawn from the memory, task by task."""
        if self._replay is None:
            return x, y, t
        replay = self._replay
        chosen = sent(draw(replay["counts"], int(replay["wanted"]), self.rng("replay")), x.device)
        old = self.view(replay["images"][chosen], "replay")
        ids = torch.full_like(y, self.task)
        return torch.cat([x, old]), torch.cat([y, replay["y"][chosen]]), torch.cat([ids, replay["t"][chosen]])

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """The new task weighs as much as all old ones together, and the old ones weigh the same as one another."""
        if isinstance(t, int):
            return super().loss(x, y, t)
        each = F.cross_entropy(self.net(x, self.net.scope(t)), self.net.label(y, t), reduction="none")
        counts = occurrences(t, self.task + 1)
        weight = 1 / counts
        weight[: self.task] /= counts[: self.task].count_nonzero()
        return weight[t] @ each

    def end_task(self, data: Task) -> None:
        """Keep samples of this task."""
        self.memory_ = [*(self.memory_ or []), drawn(data.train, self.slots(self.task + 1), self.rng("memory"))]


def per_step(batch_size: int, new: int, capacity: int) -> int:
    """Samples replayed in a step, on top of the batch of new ones: ceil(B m / (N + m))."""
    return math.ceil(batch_size * capacity / (new + capacity))


def draw(counts: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
    """Indices into memories of `counts` samples laid end to end: each task's share of `wanted`, without repetition.

    What does not divide goes one by one to random tasks; a task with fewer samples gives all of them.
    """
    share, rest = divmod(wanted, len(counts))
    extra = torch.randint(len(counts), (rest,), generator=generator).bincount(minlength=len(counts))
    starts = counts.cumsum(0) - counts
    parts = [
        torch.randperm(count, generator=generator)[: share + more] + start
        for count, more, start in zip(counts.tolist(), extra.tolist(), starts.tolist(), strict=True)
    ]
    return torch.cat(parts)
