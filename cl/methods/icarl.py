"""iCaRL: keep the samples nearest to each class's mean, distil on them, and classify by the nearest mean.

Rebuffi et al., iCaRL: Incremental classifier and representation learning, CVPR 2017, algorithms 1 to 5; made
task-incremental as in De Lange et al. 2021: both losses and the nearest mean stay within a task's classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.data import Split, Task
from cl.errors import UserError
from cl.memory import herd
from cl.method import Method, TaskIds, knob, shrink

FLOOR = -1e9
"""Instead of minus infinity for the logits of other tasks' classes: 0 times it is 0."""


class ICaRL(Method):
    """L = CE(new samples) + lambda T^2 KL(old network || network) on drawn exemplars, each in its task's classes."""

    stores_samples = True

    strength: float = knob(10.0, decay=shrink, range=(0, 1e9), help="lambda")
    temperature: float = knob(2.0, range=(1e-3, 1e3), help="T of the softened distributions")
    memory_budget: int = knob(4500, range=(1, 1e9), help="exemplars kept over all classes together")

    exemplars_: list[list[Tensor]] | None = None
    """Per task and class: images (K, C, H, W) uint8, the first chosen first."""
    means_: list[Tensor] | None = None
    """Per task: the normalised mean feature of each class's exemplars, (classes, F)."""
    replay_: dict[str, Tensor] | None = None
    drawn_: Tensor | None = None

    def begin_task(self, data: Task) -> None:
        """The exemplars as the network takes them, and what the network says of them before it learns."""
        if not self.exemplars_ or self.strength == 0:
            return
        images = torch.cat([images.cpu() for task in self.exemplars_ for images in task])
        of_class = [(s, c, len(images)) for s, task in enumerate(self.exemplars_) for c, images in enumerate(task)]
        counts = torch.tensor([count for _, _, count in of_class])
        x = data.train.normalise(images)
        t = torch.tensor([s for s, _, _ in of_class]).repeat_interleave(counts).to(x.device)
        y = torch.tensor([c for _, c, _ in of_class]).repeat_interleave(counts).to(x.device)
        self.net.eval()
        with torch.no_grad():
            parts = zip(x.split(1000), t.split(1000), strict=True)
            logits = torch.cat([self.net(part, ids).clamp(min=FLOOR) for part, ids in parts])
        per_step = math.ceil(self.training.batch_size * len(x) / (len(data.train) + len(x)))
        self.replay_ = {"x": x, "y": y, "t": t, "logits": logits, "per_step": torch.tensor(per_step)}

    def batch(self, x: Tensor, y: Tensor, t: TaskIds) -> tuple[Tensor, Tensor, TaskIds]:
        """The new samples, then ceil(B m / (N + m)) of the m exemplars."""
        if self.replay_ is None:
            return x, y, t
        replay = self.replay_
        order = torch.randperm(len(replay["x"]), generator=self.rng("replay"))
        self.drawn_ = order[: int(replay["per_step"])].to(x.device)
        ids = torch.full_like(y, self.task)
        mixed = (torch.cat([a, b[self.drawn_]]) for a, b in ((x, replay["x"]), (y, replay["y"]), (ids, replay["t"])))
        return next(mixed), next(mixed), next(mixed)

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """Cross-entropy on the new samples, distillation on the exemplars."""
        if self.replay_ is None or self.drawn_ is None:
            return super().loss(x, y, t)
        assert isinstance(t, Tensor)
        new = len(x) - len(self.drawn_)
        features = self.net.backbone(x)
        learned = F.cross_entropy(self.net.logits(features[:new], self.task), y[:new])
        student = self.net.logits(features[new:], t[new:]).clamp(min=FLOOR)
        kept = divergence(
            student[:, : self.replay_["logits"].shape[1]],
            self.replay_["logits"][self.drawn_],
            self.temperature,
        )
        return learned + self.strength * kept

    def end_task(self, data: Task) -> None:
        """Cut the old classes to their share of the budget, herd the new ones, and take the means anew."""
        self.replay_ = self.drawn_ = None
        classes = sum(self.net.classes())
        share = self.memory_budget // classes
        if share == 0:
            raise UserError(
                f"methods.icarl.memory_budget: {self.memory_budget} exemplars cannot hold one of each of the {classes} "
                "classes seen; raise it"
            )
        self.net.eval()
        kept = [[images[:share].clone() for images in task] for task in self.exemplars_ or []]
        new = []
        for c in range(self.net.classes()[self.task]):
            images = data.train.images[(data.train.y == c).cpu()]
            chosen = herd(self._features(data.train, images), share)
            new.append(images[chosen.cpu()].clone())
        self.exemplars_ = [*kept, new]
        self.means_ = [
            torch.stack([F.normalize(self._features(data.train, images).mean(0), dim=0) for images in task])
            for task in self.exemplars_
        ]

    @torch.no_grad()
    def _features(self, split: Split, images: Tensor) -> Tensor:
        parts = [F.normalize(self.net.backbone(split.normalise(part)), dim=1) for part in images.split(1000)]
        return torch.cat(parts)

    def predict(self, x: Tensor, t: int | None = None) -> Tensor:
        """Minus the distance to each class's mean exemplar feature."""
        assert self.means_ is not None
        means = self.means_[t] if t is not None else torch.cat(self.means_)
        return -torch.cdist(F.normalize(self.net.backbone(x), dim=1), means)


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch."""
    log_q = F.log_softmax(student / temperature, 1)
    return temperature**2 * F.kl_div(log_q, F.softmax(teacher / temperature, 1), reduction="batchmean")
