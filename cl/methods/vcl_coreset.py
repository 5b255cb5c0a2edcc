"""Variational continual learning with coresets: a few samples of each task are kept out, and learned before answering.

Nguyen et al., Variational continual learning, ICLR 2018, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl.data import Split, Task, TaskIds, held
from cl.data.task import Normalise
from cl.gpu import sent
from cl.knob import knob
from cl.ops import Tensors, snapshot
from cl.variational import Posterior, Variational


class VCLCoreset(Variational):
    """The posterior handed on to the next task has not seen the coresets; the one that answers has learned them."""

    stores_samples = True

    memory_budget: int = knob(
        200, range=(1, 1e9), help="samples in all coresets together; each task has its equal part"
    )
    coreset: str = knob("random", choices=("random", "k-center"), help="which samples of a task are kept out")

    coresets_: list[dict[str, Tensor]] | None = None
    """Per task: `images` (K, C, H, W) uint8 and labels `y` (K,), the first chosen first."""
    kept_out_: Tensor | None = None
    """Indices (K,) into the training data of the task being learned."""
    fitted_: Tensors | None = None
    """The means and log variances that answer, by name; None while a task is being learned."""

    def begin_task(self, data: Task) -> None:
        """Choose the task's coreset, of no more than half of its data, and cut the others to their part."""
        part = min(self.memory_budget // (self.task + 1), len(data.train) // 2)
        draw = self.rng("coreset")
        chosen = torch.randperm(len(data.train), generator=draw)[:part]
        if self.coreset == "k-center":
            chosen = k_center(data.train.x.flatten(1), part)
        rows = {"images": data.train.images[chosen].clone(), "y": data.train.y.cpu()[chosen]}
        old = [{name: tensor[:part].clone() for name, tensor in rows.items()} for rows in self.coresets_ or []]
        self.coresets_, self.kept_out_, self.fitted_ = [*old, rows], chosen, None
        self.count_ = len(data.train) - len(chosen)

    def batch(self, x: Tensor, y: Tensor, t: TaskIds) -> tuple[Tensor, Tensor, TaskIds]:
        """The batch without what is kept out."""
        assert self.kept_out_ is not None
        stays = sent((~torch.isin(self.indices, self.kept_out_)).nonzero().squeeze(1), x.device)
        return x[stays], y[stays], t

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """0 where the whole batch is kept out."""
        return super().loss(x, y, t) if len(y) else self.net(x, t).sum()

    def end_task(self, data: Task) -> None:
        """Hand q on; then learn all coresets, for the answers alone."""
        super().end_task(data)
        assert self.coresets_ is not None
        self.kept_out_ = None
        rows = {name: torch.cat([coreset[name] for coreset in self.coresets_]) for name in ("images", "y")}
        counts = torch.tensor([len(coreset["y"]) for coreset in self.coresets_])
        t = torch.arange(len(counts)).repeat_interleave(counts).to(data.train.normalise.device)
        split = Split(lambda: (rows["images"], rows["y"], t), data.train.normalise)
        before = snapshot(self.net.state_dict())
        self.fit(
            Task(self.task, "coresets", data.classes, split, split, split, data.digest),
            "coresets",
            _Coresets(self, len(split)),
            learning_rate=self.learning_rate,
            keep="last",
        )
        self.fitted_ = snapshot(dict(self.net.named_parameters()))
        self.net.load_state_dict(before)

    def kept(self, normalise: Normalise) -> list[Split]:
        """The coreset of each old task."""
        old = (self.coresets_ or [])[: self.task]
        return [held(rows["images"], rows["y"], s, normalise) for s, rows in enumerate(old) if len(rows["y"])]

    def predict(self, x: Tensor, t: int | None = None) -> Tensor:
        """Scores of networks drawn from the posterior that has learned the coresets."""
        return self.answer(self.fitted_ or dict(self.net.named_parameters()), x, t)


class _Coresets(Posterior):
    """Goes on from what the method has learned, with all coresets together."""

    def __init__(self, method: VCLCoreset, count: int) -> None:
        self.net, self.prior_, self.count_ = method.net, method.prior_, count
        self.beta, self.train_samples = method.beta, method.train_samples
        self.mean_rate, self.variance_rate = method.mean_rate, method.variance_rate


def k_center(points: Tensor, count: int) -> Tensor:
    """Indices (count,) of points (N, D): the first, then always the one farthest from all that were chosen."""
    chosen = [torch.zeros(1, dtype=torch.int64, device=points.device)]
    distance = (points - points[0]).norm(dim=1)
    while len(chosen) < count:
        chosen.append(distance.argmax(0, keepdim=True))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).norm(dim=1))
    return torch.cat(chosen)[:count].cpu()
