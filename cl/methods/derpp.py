"""Dark experience replay: learn again what the network answered to remembered samples, and their labels (DER++).

Buzzega et al., Dark experience for general continual learning: a strong, simple baseline, NeurIPS 2020, equation 6.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.data import TaskIds
from cl.knob import knob, shrink
from cl.memory import placed
from cl.nets import MultiHead
from cl.replay import Recalled, Replay

LOGIT_BYTES = 4
"""Bytes of a stored logit (float32)."""


class DERPlusPlus(Replay):
    """L = CE(new samples) + alpha |h(x') - z'|^2 over one draw + beta CE(x'', y'') over another."""

    strength: float = knob(0.05, decay=shrink, range=(0, 1e6), help="alpha: weight of the remembered logits")
    label_strength: float = knob(1.0, decay=shrink, range=(0, 1e6), help="beta: weight of the remembered labels")

    _recalled: list[Recalled | None]
    """The draw whose logits count, and the draw whose labels do."""
    _logits: Tensor
    """Of the new samples before the step, (N, columns of their scope)."""
    _held: dict[int, int]
    """Which sample of this task, by its index, is in which slot of the memory."""

    def sample_bytes(self, pixels: int, classes: int) -> int:
        """An image, its label, its task, and as many logits as it can have."""
        return super().sample_bytes(pixels, classes) + LOGIT_BYTES * classes

    def batch(self, x: Tensor, y: Tensor, t: TaskIds) -> tuple[Tensor, Tensor, TaskIds]:
        """The new samples, then the draw whose logits count, then the draw whose labels count."""
        weights = {"logits": self.strength, "labels": self.label_strength}
        count = self.replayed(len(y))
        self._recalled = [self.recall(count, f"replay of {what}") if weights[what] else None for what in weights]
        return self.mixed(x, y, t, *self._recalled)

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """The mean over the new samples, alpha times that over the second part, beta times that over the third."""
        logits, label = self.net(x, self.net.scope(t)), self.net.label(y, t)
        new = len(self.indices)
        if isinstance(t, int):
            self._logits = logits.detach()
            return F.cross_entropy(logits, label)
        of_new, _ = columns(self.net, logits[:new], t[:new])
        own = self.net.groups(self.task + 1)[-1]
        self._logits = of_new.detach()[:, : own.stop - own.start]
        total = F.cross_entropy(logits[:new], label[:new])
        dark, labelled = self._recalled
        start = new
        if dark is not None:
            part = slice(start, start := start + len(dark.x))
            total = total + self.strength * distance(self.net, logits[part], dark.rows["logits"], t[part])
        if labelled is not None:
            total = total + self.label_strength * F.cross_entropy(logits[start:], label[start:])
        return total

    def on_step(self, x: Tensor, y: Tensor, t: TaskIds) -> None:
        """Offer the new samples with the logits from before the step; in later epochs renew the stored logits."""
        rows = self.present(logits=self._logits)
        if self.memory_ is not None:  # the network may have more outputs than when the memory was begun
            width = max(stored["logits"].shape[1] for stored in (rows, self.memory_))
            for stored in (rows, self.memory_):
                stored["logits"] = F.pad(stored["logits"], (0, width - stored["logits"].shape[1]))
        self.remember(rows)
        if self.epoch > 0 and self.memory_ is not None:
            slot_of = {index: slot for slot, index in self._held.items()}
            again = torch.tensor([slot_of.get(index, -1) for index in self.indices.tolist()])
            self.memory_ = placed(self.memory_, rows, again)

    def slots(self, count: int) -> Tensor:
        """As the reservoir says. Also notes which sample is where, for later epochs."""
        slots = super().slots(count)
        if self.step == 0:
            self._held = {}
        for slot, index in zip(slots.tolist(), self.indices.tolist(), strict=True):
            self._held[slot] = index  # the last one in a slot is there; that of -1 is asked for by nobody
        self._held.pop(-1, None)
        return slots


def columns(net: MultiHead, wide: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The logits that a sample of task t (N,) had when it was new, from those of all heads side by side (N, all).

    They stand at the left of the first result, (N, all). The second, a mask of the same shape, says which they are;
    the other numbers mean nothing.
    """
    start, stop = net.bounds[0 if net.increment == "domain" else t].expand(len(t), 2).T.unsqueeze(2)
    start = start if net.increment == "task" else torch.zeros_like(start)
    index = start + torch.arange(wide.shape[1], device=t.device)
    return wide.gather(1, index.clamp(max=wide.shape[1] - 1)), index < stop


def distance(net: MultiHead, wide: Tensor, stored: Tensor, t: Tensor) -> Tensor:
    """Mean over the samples of the squared distance of their own logits from those stored (N, width)."""
    now, has = (part[:, : stored.shape[1]] for part in columns(net, wide, t))
    return torch.where(has, now - stored, 0.0).square().sum(1).mean()
