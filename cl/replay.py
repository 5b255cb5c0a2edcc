"""What is shared by the methods that keep samples of the stream and learn from some of them in every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.data import Split, TaskIds, held
from cl.data.task import Normalise
from cl.gpu import sent
from cl.knob import knob, shrink
from cl.memory import picked, placed, reservoir
from cl.method import ALL, LABEL_BYTES, Method

Rows: TypeAlias = dict[str, Tensor]
"""Samples as they are kept: `images` (K, C, H, W) uint8, labels `y` (K,), tasks `t` (K,), and what a method adds.

Images are where the network is; labels and tasks are in main memory, where the host draws by them.
"""


@dataclass(frozen=True)
class Recalled:
    """Samples drawn from the memory."""

    x: Tensor
    """As the network takes them, (M, C, H, W); augmented anew."""
    rows: Rows
    """As they are kept, (M, ...)."""


class Replay(Method):
    """Keeps `memory_budget` samples of everything seen: after one pass a uniform draw, by the reservoir.

    Needs no task boundary, and no task id at test. The memory holds samples of the current task too. If a task has
    many epochs, its samples are offered in the first one only.
    """

    stores_samples = True
    online = True
    scenarios = ALL
    shares_first_task = False

    memory_budget: int = knob(500, range=(0, 1e9), help="samples kept over all tasks together")
    replay_batch: int = knob(0, range=(0, 1e6), help="samples replayed in a step; 0: as many as new samples")

    memory_: Rows | None = None
    seen_: int = 0
    """How many samples were offered so far."""

    def sample_bytes(self, pixels: int, classes: int) -> int:
        """The bytes of an image, its label and its task."""
        return super().sample_bytes(pixels, classes) + LABEL_BYTES

    def kept(self, normalise: Normalise) -> list[Split]:
        """The stored samples of each old task of which there are some."""
        if self.memory_ is None:
            return []
        images, y, t = (self.memory_[name] for name in ("images", "y", "t"))
        return [
            held(images[t == task], y[t == task], task, normalise) for task in range(self.task) if (t == task).any()
        ]

    def recall(self, count: int, purpose: str, before: int | None = None) -> Recalled | None:
        """So many samples, uniformly without repetition (all of them, where they are fewer); None where there is none.

        `before`: of earlier tasks than this alone.
        """
        if self.memory_ is None:
            return None
        t = self.memory_["t"]
        open_to = (t < before).nonzero().flatten() if before is not None else torch.arange(len(t))
        if not len(open_to):
            return None
        chosen = open_to[torch.randperm(len(open_to), generator=self.rng(purpose))[:count]]
        rows = {name: picked(tensor, chosen) for name, tensor in self.memory_.items()}
        return Recalled(self.view(rows["images"], purpose), rows)

    def mixed(self, x: Tensor, y: Tensor, t: TaskIds, *recalled: Recalled | None) -> tuple[Tensor, Tensor, TaskIds]:
        """The new samples, then those recalled, each with its own task; as they came where none was recalled."""
        batches = [one for one in recalled if one is not None]
        if not batches:
            return x, y, t
        ys, ts = ([sent(one.rows[name], y.device) for one in batches] for name in ("y", "t"))
        return (
            torch.cat([x, *(one.x for one in batches)]),
            torch.cat([y, *ys]),
            torch.cat([torch.full_like(y, self.task), *ts]),
        )

    def replayed(self, new: int) -> int:
        """How many samples are replayed beside so many new ones."""
        return self.replay_batch or new

    def present(self, **more: Tensor) -> Rows:
        """The new samples of this step as they would be kept, with what a method adds."""
        y = self.data.train.labels[self.indices]
        return {"images": self.data.train.pictures(self.indices), "y": y, "t": torch.full_like(y, self.task), **more}

    def remember(self, rows: Mapping[str, Tensor]) -> None:
        """Offer samples to the memory, one after the other; in the first epoch alone."""
        if self.epoch > 0 or self.memory_budget == 0:
            return
        slots = self.slots(len(rows["y"]))
        self.memory_ = placed(self.memory_, rows, slots)
        self.seen_ += len(slots)

    def slots(self, count: int) -> Tensor:
        """Where in the memory each of the next so many samples goes, (count,); -1: nowhere."""
        return reservoir(self.seen_, count, self.memory_budget, self.rng("reservoir"))

    def on_step(self, x: Tensor, y: Tensor, t: TaskIds) -> None:
        """Offer the new samples to the memory."""
        self.remember(self.present())

    def cross_entropies(self, logits: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """The cross-entropy of each sample, (N,), from the logits that `MultiHead.scope` asks for."""
        return F.cross_entropy(logits, self.net.label(y, t), reduction="none")


class ReplayedLoss(Replay):
    """L = CE(new samples) + rho CE(samples drawn from the memory)."""

    strength: float = knob(1.0, decay=shrink, range=(0, 1e6), help="rho: weight of the remembered samples")

    def batch(self, x: Tensor, y: Tensor, t: TaskIds) -> tuple[Tensor, Tensor, TaskIds]:
        """The new samples, then remembered ones."""
        recalled = self.recall(self.replayed(len(y)), "replay") if self.strength else None
        return self.mixed(x, y, t, recalled)

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """The mean over the new samples, and rho times that over the others."""
        new = len(self.indices)
        if len(y) == new:
            return super().loss(x, y, t)
        each = self.cross_entropies(self.net(x, self.net.scope(t)), y, t)
        return each[:new].mean() + self.strength * each[new:].mean()
