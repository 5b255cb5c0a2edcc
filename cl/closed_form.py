"""What methods share that learn without gradients: one pass over the features, sums, and what follows from the sums.

A class is a column of the heads side by side, as `MultiHead.column` says, so a class that comes again is the same one.
All sums are of float64: what is added in another order then gives the same to some 15 digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cl.data import TaskIds
from cl.errors import UserError
from cl.knob import knob
from cl.method import ALL, Method

UNSEEN = -1e30
"""Score of a class of which nothing was seen: finite, and below every other."""
TINY = 1e-10
"""What is added first to the diagonal of a matrix that is singular, as a share of its mean."""


class ClosedForm(Method):
    """Answers from sums over the features of all samples seen. The network is not changed, its heads are not used.

    A subclass adds a batch to its sums (`add`), and scores features (`scores`) by what follows from them (`solve`).
    """

    selection = "one-pass"
    scenarios = ALL
    online = True
    shares_first_task = False

    features: str = knob(
        "network",
        choices=("network", "first-task", "input"),
        help="of the pretrained backbone, or else of the network as it starts; after the first task; or the input",
    )

    counts_: Tensor | None = None
    """Samples of each class, (K,) float64."""
    _solved: Any = None
    """What `solve` has made of the sums as they are."""

    # For subclasses.

    def add(self, z: Tensor, k: Tensor) -> None:
        """Add features (N, F) float64 of the classes k (N,) to the sums; `counts_` is still that of before."""
        raise NotImplementedError

    def solve(self) -> Any:
        """What follows from the sums, and answers need."""
        raise NotImplementedError

    def scores(self, z: Tensor, classes: Tensor) -> Tensor:
        """Scores (N, C) of features (N, F) for these C classes, all of them seen."""
        raise NotImplementedError

    @property
    def solved(self) -> Any:
        """What `solve` makes; made once, until more is observed or another state is loaded."""
        if self._solved is None:
            self._solved = self.solve()
        return self._solved

    @property
    def classes(self) -> int:
        """K: the classes that the network has columns for."""
        return sum(self.net.classes())

    # The hooks.

    def trains(self, *, first: bool, online: bool) -> bool:
        """On the first task alone, where its features are asked for.

        Raises `UserError` in a stream, which does not tell where the first task ends.
        """
        if self.features != "first-task":
            return False
        if online:
            name = type(self).__module__.rpartition(".")[2]
            raise UserError(f"methods.{name}.features: a stream does not tell where the first task ends; take another")
        return first

    def observe(self, x: Tensor, y: Tensor, t: TaskIds) -> None:
        """Add a batch to the sums."""
        k = self.net.column(y, t)
        self.add(self._features(x), k)
        self.counts_ = plus(self.counts_, k.bincount(minlength=self.classes).double())
        self._solved = None

    def predict(self, x: Tensor, t: int | None = None) -> Tensor:
        """Scores, float64, of which those of classes that were not seen are UNSEEN."""
        z, sizes = self._features(x), self.net.classes()
        start, stop = 0, sum(sizes)
        if t is not None and self.net.increment != "domain":
            start, stop = sum(sizes[:t]), sum(sizes[: t + 1])
        scores = z.new_full((len(z), stop - start), UNSEEN)
        if self.counts_ is not None:
            seen = self.counts_[start:stop].nonzero().squeeze(1)
            scores[:, seen] = self.scores(z, seen + start)
        return scores

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Replace what was learned, and forget what followed from it."""
        super().load_state(state)
        self._solved = None

    def _features(self, x: Tensor) -> Tensor:
        as_given = self.features == "input" or (self.features == "network" and self.net.on_features)
        z: Tensor = (x.flatten(1) if as_given else self.net.backbone(x)).double()
        if not z.isfinite().all():
            raise UserError("the features of some images are no finite numbers; start from other weights")
        return z


class ClassMeans(ClosedForm):
    """Of each class the sum of its features, and so its mean."""

    sums_: Tensor | None = None
    """(K, F)."""

    def add(self, z: Tensor, k: Tensor) -> None:
        """Add to the sums."""
        self.sums_ = plus(self.sums_, z.new_zeros(self.classes, z.shape[1]).index_add(0, k, z))

    def means(self) -> Tensor:
        """(K, F); 0 for a class of which nothing was seen."""
        assert self.sums_ is not None
        assert self.counts_ is not None
        return self.sums_ / self.counts_.clamp(min=1).unsqueeze(1)

    def deviations(self, z: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """What the scatter within the classes grows by with these samples: rows r (N + K, F), and the class of each.

        Of a class the sum of r r' is what is added to the sum of (z - mean)(z - mean)', with each time the mean of all
        its samples so far (Chan, Golub and LeVeque 1983, eq. 2.1). Exact, and to be called before `add`.
        """
        new = z.new_zeros(self.classes)
        new.index_add_(0, k, z.new_ones(len(k)))
        mean = z.new_zeros(self.classes, z.shape[1]).index_add(0, k, z) / new.clamp(min=1).unsqueeze(1)
        between = torch.zeros_like(mean)
        if self.counts_ is not None:
            known = len(self.counts_)
            old = self.counts_
            weight = (old * new[:known] / (old + new[:known]).clamp(min=1)).sqrt()
            between[:known] = weight.unsqueeze(1) * (mean[:known] - self.means())
        return torch.cat([z - mean[k], between]), torch.cat([k, torch.arange(self.classes, device=k.device)])


def plus(sums: Tensor | None, more: Tensor) -> Tensor:
    """The sum of both; `more` (K, ...) may have more rows, of classes that `sums` does not know yet."""
    if sums is not None:
        more[: len(sums)] += sums
    return more


def gram(rows: Tensor) -> Tensor:
    """The sum of r r' over rows r (N, F), as the numbers on and below its diagonal: (F (F + 1) / 2,)."""
    square = rows.T @ rows
    return square[_below(len(square), rows.device)]


def symmetric(numbers: Tensor) -> Tensor:
    """The symmetric matrix (F, F) with these on and below its diagonal."""
    size = round(((8 * len(numbers) + 1) ** 0.5 - 1) / 2)
    matrix = numbers.new_zeros(size, size)
    matrix[_below(size, numbers.device)] = numbers
    return matrix + matrix.tril(-1).T


def _below(size: int, device: torch.device) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool, device=device).tril()


def factor(matrix: Tensor, ridge: float) -> Tensor:
    """The Cholesky factor of `matrix` + `ridge` times the identity, for a matrix (F, F) without negative eigenvalues.

    Where that is singular in double precision, `ridge` is raised by powers of ten until it is not.
    """
    while True:
        lower, fault = torch.linalg.cholesky_ex(matrix + ridge * torch.eye(len(matrix)).to(matrix))
        if not fault:
            return lower  # type: ignore[no-any-return]
        ridge = 10 * ridge or TINY * (float(matrix.diagonal().mean()) or 1.0)
