"""RanPAC: ridge regression behind a fixed random projection of the features.

McDonnell, Gong, Parvaneh, Abbasnejad and van den Hengel, RanPAC: Random projections and pre-trained models for
continual learning, NeurIPS 2023; without its first phase, which adapts the backbone to the first task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.closed_form import ClosedForm, factor, gram, plus, symmetric
from cl.data import Task
from cl.errors import UserError
from cl.gpu import sent
from cl.knob import knob
from cl.memory import picked
from cl.rng import seed_of

WIDER, WIDEST = 10, 2000
"""By default the projection has ten times as many numbers as there are features, but at most 2000."""
RIDGES = [10.0**power for power in range(-8, 9)]
HELD = 5
"""One in HELD samples of each class is held out to choose the ridge."""
ALIKE = 1e-4
"""Largest difference of a number in the projection between processors."""
Sums = dict[str, Tensor]


class RanPAC(ClosedForm):
    """Scores h (G + lambda I)^-1 C with h = ReLU(z W), G the sum of h'h, and C that of h' times the one-hot label."""

    projection: int = knob(0, range=(0, 1e6), help="P: numbers in h; 0: ten times the features, but at most 2000")
    ridge: float = knob(0.0, range=(0, 1e15), help="lambda; 0: chosen after each task")

    sums_: dict[str, Sums] | None = None
    """`G`, as its entries on and below the diagonal, and `C` as (K, P), over three sets of samples: those of earlier
    tasks (`old`), and those of the current task that are held out (`held`) or not (`fitted`). A stream is one task."""
    offered_: Tensor | None = None
    """Number of samples of each class in the current task so far, (K,); in main memory."""
    ridge_: float = 1.0
    """Lambda of the last task learned."""
    seed_: int | None = None
    """The seed of W, which is drawn again instead of being stored."""
    probe_: float = 0.0
    """One number of W, which shows whether W was drawn as before."""
    _drawn: Tensor | None = None

    def add(self, z: Tensor, k: Tensor) -> None:
        """Add to the sums; the second sample of each class and every fifth after it are held out to choose lambda."""
        h, of_class = self._projected(z), F.one_hot(k, self.classes)
        before = plus(self.offered_, of_class.new_zeros(self.classes))
        place = (before + of_class.cumsum(0)).gather(1, k.unsqueeze(1)).squeeze(1)
        held = place % HELD == 2
        parts = {"fitted": held | ~held} if self.ridge else {"fitted": ~held, "held": held}
        sums = dict(self.sums_ or {})
        for name, chosen in parts.items():
            rows = picked(h, chosen.nonzero().squeeze(1))
            cross = h.new_zeros(self.classes, h.shape[1]).index_add(0, sent(k[chosen], h.device), rows)
            sums[name] = added(sums.get(name), {"G": gram(rows), "C": cross})
        self.sums_ = sums
        self.offered_ = before + of_class.sum(0)

    def end_task(self, data: Task) -> None:
        """Choose lambda for this task, and move its samples to those of earlier tasks."""
        self.ridge_ = self._chosen()
        self.sums_, self.offered_ = {"old": self.total()}, None

    def total(self) -> Sums:
        """G and C over all samples seen, as in `sums_`."""
        total: Sums | None = None
        for part in (self.sums_ or {}).values():
            total = added(total, {name: numbers.clone() for name, numbers in part.items()})
        assert total is not None
        return total

    def solve(self) -> Tensor:
        """The weights (P, K)."""
        return weights(self.total(), self._chosen())

    def scores(self, z: Tensor, classes: list[int]) -> Tensor:
        """Near 1 for the class, and near 0 for the others."""
        return self._projected(z) @ self.solved[:, sent(torch.tensor(classes), z.device)]  # type: ignore[no-any-return]

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state; W is drawn again."""
        super().load_state(state)
        self._drawn = None

    def _chosen(self) -> float:
        """The lambda whose weights, computed from the other samples, have the least squared error on those held out."""
        if self.ridge or self.offered_ is None or self.offered_.max() < 2:
            return self.ridge or self.ridge_
        self.refuse_what_is_not_finite()
        assert self.sums_ is not None
        fitted, held = self.sums_["fitted"], self.sums_["held"]
        square, cross = symmetric(held["G"]), held["C"].T

        def error(ridge: float) -> float:
            """The squared error up to the sum of the squared labels, which is the same for every ridge."""
            found = weights(fitted, ridge)
            return float((found * (square @ found - 2 * cross)).sum())

        return min(RIDGES, key=error)

    def _projected(self, z: Tensor) -> Tensor:
        """h (N, P) of features (N, F)."""
        if self._drawn is None:
            fresh = self.seed_ is None
            self.seed_ = seed_of(self._key[0], "projection") if self.seed_ is None else self.seed_
            size = self.projection or min(WIDER * z.shape[1], WIDEST)
            drawn = torch.randn(z.shape[1], size, generator=torch.Generator().manual_seed(self.seed_))
            self.probe_ = float(drawn[0, 0]) if fresh else self.probe_
            if abs(float(drawn[0, 0]) - self.probe_) > ALIKE:
                raise UserError("ranpac: this torch draws another projection; use the version that learned the model")
            self._drawn = sent(drawn.to(z.dtype), z.device)
        return (z @ self._drawn).relu()


def weights(sums: Sums, ridge: float) -> Tensor:
    """(G + lambda I)^-1 C, (P, K)."""
    return torch.cholesky_solve(sums["C"].T, factor(symmetric(sums["G"]), ridge))


def added(sums: Sums | None, more: Sums) -> Sums:
    """The sums of both; `more` may have additional classes."""
    return more if sums is None else {name: plus(sums[name], numbers) for name, numbers in more.items()}
