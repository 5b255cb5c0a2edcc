"""Continual prototype evolution: a prototype of each class that moves with the features, and the nearest one answers.

De Lange and Tuytelaars, Continual prototype evolution: learning online from non-stationary data streams, ICCV 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.data import TaskIds
from cl.errors import UserError
from cl.gpu import sent
from cl.knob import knob
from cl.memory import picked, placed, reservoir
from cl.nets import MultiHead
from cl.nets.layers import unfilled
from cl.replay import Recalled, Replay, Rows

OTHERS = 19
"""The other samples of a batch, for each of the authors' ten new and ten remembered ones."""
UNSEEN = -2.0
"""Score of a class without a prototype: below any product of two vectors of length at most 1."""


def loosen(value: float, alpha: float) -> float:
    """Decay of a momentum: its distance to 1 divided by alpha, until it is 0."""
    return max(0.0, 1 - (1 - value) / alpha)


class CoPE(Replay):
    """The pseudo-prototypical proxy loss on the new samples and on samples from a memory balanced over the classes.

    The heads learn nothing: f(x), the backbone's features scaled to length 1, is compared with the prototypes.
    """

    judged_by = "inference"

    prototype_momentum: float = knob(0.9, decay=loosen, range=(0, 1), help="alpha: what a step leaves of a prototype")
    temperature: float = knob(0.1, range=(1e-3, 1e3), help="T of the softmax over cosines")
    embedding: int = knob(100, range=(1, 1e6), help="K: length of the features that are compared")
    partners: str = knob(
        "moving", choices=("moving", "held"), help="whether a sample moves the others that it is pushed away from"
    )

    scale: str = knob(
        "bounded", choices=("bounded", "published"), help="of the loss: alike at any batch size and T, or as published"
    )

    prototypes_: Tensor | None = None
    """(C, K): one for each class seen, in the order of their appearance; each of length at most 1."""
    classes_: Tensor | None = None
    """(C,): the class of each prototype, as its column among the heads side by side; in main memory."""
    offered_: Tensor | None = None
    """(C,): how many samples of each of these classes were offered to the memory; in main memory."""
    _columns: Tensor | None = None
    """(N,): the classes of this step's samples, as such columns; in main memory."""
    _features: Tensor | None = None
    """(N, K): the features of this step's samples before the step, without gradient."""

    def wrap(self, net: MultiHead) -> MultiHead:
        """A linear layer behind the backbone, to features of any sign; drawn in `grow`."""
        layer = unfilled(nn.Linear, net.feature_size, self.embedding)
        return MultiHead(net.backbone.of([*net.backbone, layer]), self.embedding)

    def grow(self, net: MultiHead, task: int, draw: torch.Generator) -> None:
        """Draw that layer, before the first task, as torch draws one."""
        if task > 0:
            return
        layer = list(net.backbone)[-1]
        assert isinstance(layer, nn.Linear)
        bound = 1 / math.sqrt(layer.in_features)
        with torch.no_grad():
            for p in layer.parameters():
                p.copy_(torch.empty(p.shape).uniform_(-bound, bound, generator=draw))

    def batch(self, x: Tensor, y: Tensor, t: TaskIds) -> tuple[Tensor, Tensor, TaskIds]:
        """The new samples, then remembered ones."""
        recalled = self._recall_balanced(self.replayed(len(y)))
        self._columns = self.net.column(self.data.train.labels[self.indices], self.task)
        if recalled is not None:
            self._columns = torch.cat([self._columns, self.net.column(recalled.rows["y"], recalled.rows["t"])])
        return self.mixed(x, y, t, recalled)

    def _recall_balanced(self, count: int) -> Recalled | None:
        """So many samples without repetition, of each class as likely."""
        if self.memory_ is None or not len(self.memory_["y"]):
            return None
        index = self._index(self.net.column(self.memory_["y"], self.memory_["t"]))
        weights = 1 / index.bincount()[index]
        draw = self.rng("replay")
        chosen = torch.multinomial(weights, min(count, len(weights)), generator=draw)
        rows = {name: picked(tensor, chosen) for name, tensor in self.memory_.items()}
        return Recalled(self.view(rows["images"], "replay"), rows)

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """The loss of the step's samples; gives each new class a prototype. 0 while there is only one class."""
        features = F.normalize(self.net.backbone(x), dim=1)
        self._features = features.detach()
        assert self._columns is not None
        self._meet(self._columns, x.device)
        assert self.prototypes_ is not None
        if len(self.prototypes_) < 2:
            return 0 * features.sum()
        attracted, repelled = proxy_loss(
            features, self._index(self._columns), self.prototypes_, self.temperature, moving=self.partners == "moving"
        )
        if self.scale == "published":
            return attracted + repelled
        # The repellor is a sum over the batch, and all of it is in units of 1 / T: with 400 samples it is 20 times as
        # steep as the authors', and no learning rate that suits other methods suits it.
        return self.temperature * (attracted + min(1.0, OTHERS / max(1, len(x) - 1)) * repelled)

    def _meet(self, columns: Tensor, device: torch.device | None = None) -> None:
        """Give each class that has none yet a prototype: a random direction with no negative component."""
        known = self.classes_.tolist() if self.classes_ is not None else []
        new = [c for c in dict.fromkeys(columns.tolist()) if c not in known]
        if not new:
            return
        draw = self.rng("prototypes")
        drawn = F.normalize(torch.rand(len(new), self.embedding, generator=draw), dim=1)
        drawn = sent(drawn, device or drawn.device)
        more = torch.tensor(new)
        none = torch.zeros_like(more)
        self.prototypes_ = torch.cat([self.prototypes_, drawn]) if self.prototypes_ is not None else drawn
        self.classes_ = torch.cat([self.classes_, more]) if self.classes_ is not None else more
        self.offered_ = torch.cat([self.offered_, none]) if self.offered_ is not None else none

    def _index(self, columns: Tensor) -> Tensor:
        """Which prototype is that of the class of each column (N,): (N,); both in main memory."""
        assert self.classes_ is not None
        return (columns.unsqueeze(1) == self.classes_).nonzero()[:, 1]

    def on_step(self, x: Tensor, y: Tensor, t: TaskIds) -> None:
        """p_c becomes alpha p_c + (1 - alpha) times the mean feature of class c in the step; offer the new samples.

        The features are those from before the step. Prototypes are not scaled to length 1.
        """
        assert self._features is not None
        assert self._columns is not None
        assert self.prototypes_ is not None
        index = self._index(self._columns)
        self.prototypes_ = moved(self.prototypes_, self._features, index, self.prototype_momentum)
        self.remember(self.present())

    def remember(self, rows: Mapping[str, Tensor]) -> None:
        """Offer samples to the memory, in which each class seen has the same share; in the first epoch alone.

        A class's share is a reservoir. A new class makes the others' shares smaller. Raises `UserError` where the
        memory cannot hold one of each class.
        """
        if self.epoch > 0 or self.memory_budget == 0:
            return
        assert self.classes_ is not None
        assert self.offered_ is not None
        quota = self.memory_budget // len(self.classes_)
        if quota == 0:
            raise UserError(
                f"methods.cope.memory_budget: {self.memory_budget} samples cannot hold one of each of the "
                f"{len(self.classes_)} classes seen; raise it, or set it to 0 for none"
            )
        draw, index = self.rng("reservoir"), self._index(self.net.column(rows["y"], rows["t"]))
        kept = self._cut(quota, draw)
        offered = self.offered_.tolist()
        for c in index.unique().tolist():
            mine = (index == c).nonzero().flatten()
            new = {name: picked(tensor, mine) for name, tensor in rows.items()}
            slots = reservoir(offered[c], len(new["y"]), quota, draw)
            kept[c] = placed(kept.get(c), new, slots)
            offered[c] += len(new["y"])
        self.memory_ = {name: torch.cat([kept[c][name] for c in sorted(kept)]) for name in rows}
        self.offered_ = torch.tensor(offered)
        self.seen_ += len(index)

    def _cut(self, quota: int, draw: torch.Generator) -> dict[int, Rows]:
        """What is kept of each class, by its prototype; a random part of it where it is more than its share."""
        if self.memory_ is None:
            return {}
        index = self._index(self.net.column(self.memory_["y"], self.memory_["t"]))
        cut = {}
        for c in index.unique().tolist():
            mine = (index == c).nonzero().flatten()
            if len(mine) > quota:
                mine = mine[torch.randperm(len(mine), generator=draw)[:quota]]
            cut[c] = {name: picked(tensor, mine) for name, tensor in self.memory_.items()}
        return cut

    def predict(self, x: Tensor, t: int | None = None) -> Tensor:
        """f(x) p_c for the classes of task t, or of all tasks; a class never seen scores below all others."""
        features = F.normalize(self.net.backbone(x), dim=1)
        scores = features.new_full((x.shape[0], self.net.width), UNSEEN)
        if self.prototypes_ is not None and self.classes_ is not None:
            scores[:, sent(self.classes_, scores.device)] = features @ self.prototypes_.T
        return scores if t is None else self.net.own(scores, t)


def proxy_loss(
    features: Tensor, index: Tensor, prototypes: Tensor, temperature: float, *, moving: bool
) -> tuple[Tensor, Tensor]:
    """Attractor and repellor: the two parts whose sum is the pseudo-prototypical proxy loss.

    Each sample i of class c is drawn to p_c and to the others of c in the batch. Samples of other classes are pushed
    away from p_c and i. With P(c | x, p) = e^(f p / T) / (e^(f p / T) + sum_{k != c} e^(f p_k / T)) and s = f p / T
    less the logarithm of that sum, log P = -softplus(-s) and log (1 - P) = -softplus(s), which neither overflow nor
    underflow.

    Args:
        features: (N, K), of length 1.
        index: (N,), each sample's prototype; in main memory.
        prototypes: (C, K) of two classes or more.
        temperature: T.
        moving: the gradient of a repellor also moves the sample that pushes, as in the authors' code.
    """
    to_prototypes = features @ prototypes.T / temperature
    here = index.unique(return_inverse=True)
    own = sent(F.one_hot(here[0], len(prototypes)).bool(), features.device)
    present, place, index = (sent(numbers, features.device) for numbers in (*here, index))
    # Column b: over all prototypes but that of the b-th class present.
    others = to_prototypes.unsqueeze(1).masked_fill(own, -math.inf).logsumexp(2)  # (N, present)
    to_class = (to_prototypes[:, present] - others)[:, place]  # [j, i]: sample j and the prototype of i's class
    beside = others[:, place]
    held = features @ features.detach().T / temperature - beside
    pushed = features @ features.T / temperature - beside if moving else held
    same = index.unsqueeze(1) == index
    count = same.sum(1).to(features)

    itself = torch.eye(len(index), dtype=torch.bool, device=index.device)
    partner = (-F.softplus(-held)).masked_fill(~same | itself, -math.inf)
    prototype = -F.softplus(-to_class.diagonal())
    attracted = torch.cat([prototype.unsqueeze(1), partner], 1).logsumexp(1) - count.log()
    repelled = torch.logaddexp(-F.softplus(to_class), -F.softplus(pushed)) - math.log(2)
    return -attracted.mean(), -repelled.masked_fill(same, 0).sum() / len(index)


def moved(prototypes: Tensor, features: Tensor, index: Tensor, momentum: float) -> Tensor:
    """alpha p_c + (1 - alpha) times the mean of the features (N, K) of class c, where there are any; else p_c.

    index (N,) is in main memory.
    """
    count = sent(index.bincount(minlength=len(prototypes)).unsqueeze(1), features.device)
    mean = torch.zeros_like(prototypes).index_add_(0, sent(index, features.device), features) / count.clamp(min=1)
    return torch.where(count > 0, momentum * prototypes + (1 - momentum) * mean, prototypes)
