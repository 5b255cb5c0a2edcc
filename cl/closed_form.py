"""What the methods without gradients share: one pass over the features, sums, and classifiers computed from the sums.

A class is identified by its column among the outputs of all heads (`MultiHead.column`), also in a later task. Sums are
float64, so adding in another order changes them only beyond some 15 digits.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from cl.data import TaskIds
from cl.errors import UserError
from cl.gpu import sent
from cl.knob import knob
from cl.method import ALL, Method

UNSEEN = -1e30
"""Score of a class without samples so far: finite, and below every other."""
NOT_FINITE = "the features of some images are not finite; start from other weights"
TINY = 1e-10
"""First amount added to the diagonal of a singular matrix, as a share of the diagonal's mean."""


class ClosedForm(Method):
    """Predicts from sums over the features of all samples so far, without changing the network or using its heads.

    A subclass adds a batch to its sums (`add`), computes a classifier from the sums (`solve`), and scores features with
    it (`scores`).
    """

    selection = "one-pass"
    scenarios = ALL
    online = True
    shares_first_task = False

    features: str = knob(
        "network",
        choices=("network", "first-task", "input"),
        help="of a frozen pretrained backbone or of the initial network; after the first task; or the input itself",
    )

    counts_: Tensor | None = None
    """Samples of each class, (K,) float64."""
    _solved: Any = None
    """What `solve` made of the current sums; None: not computed yet."""
    _seen: frozenset[int] | None = None
    """The classes that have samples; None: not looked up yet."""

    # For subclasses.

    def add(self, z: Tensor, k: Tensor) -> None:
        """Add features (N, F) float64 of the classes k (N,) to the sums; `counts_` does not include them yet.

        k is in main memory, so that it can be looked at without waiting for a GPU.
        """
        raise NotImplementedError

    def solve(self) -> Any:
        """The classifier that the sums give."""
        raise NotImplementedError

    def scores(self, z: Tensor, classes: list[int]) -> Tensor:
        """Scores (N, C) of features (N, F) for these C classes, each of which has samples."""
        raise NotImplementedError

    @property
    def solved(self) -> Any:
        """What `solve` returns, kept until more is observed or another state is loaded."""
        if self._solved is None:
            self.refuse_what_is_not_finite()
            self._solved = self.solve()
        return self._solved

    def refuse_what_is_not_finite(self) -> None:
        """Raises `UserError` where a sum is not finite."""
        if not all(bool(tensor.isfinite().all()) for tensor in _tensors(self.state())):
            raise UserError(NOT_FINITE)

    @property
    def seen(self) -> frozenset[int]:
        """The classes with samples so far, kept as `solved` is: what follows from them is no question of the images."""
        if self._seen is None:
            counts = [] if self.counts_ is None else self.counts_.tolist()
            self._seen = frozenset(k for k, count in enumerate(counts) if count)
        return self._seen

    @property
    def classes(self) -> int:
        """K: the number of classes that the network has outputs for."""
        return self.net.width

    # The hooks.

    def trains(self, *, first: bool, online: bool) -> bool:
        """Whether the network is trained on the next task: only on the first, and only with `features: first-task`.

        Raises `UserError` in a stream, where nothing says where the first task ends.
        """
        if self.features != "first-task":
            return False
        if online:
            name = type(self).__module__.rpartition(".")[2]
            raise UserError(f"methods.{name}.features: a stream does not say where the first task ends; take network")
        return first

    def observe(self, x: Tensor, y: Tensor, t: TaskIds) -> None:
        """Add a batch to the sums."""
        k = self.net.column(self.data.train.labels[self.indices], t)
        z = self._features(x)
        self.add(z, k)
        self.counts_ = plus(self.counts_, sent(k.bincount(minlength=self.classes).double(), z.device))
        self._solved = self._seen = None

    def predict(self, x: Tensor, t: int | None = None) -> Tensor:
        """Scores (N, classes) float64; `UNSEEN` for classes without samples so far."""
        z = self._features(x)
        asked = range(self.classes) if t is None else self.net.columns_of(t)
        scores = z.new_full((z.shape[0], len(asked)), UNSEEN)
        places = [place for place, k in enumerate(asked) if k in self.seen]
        if places:
            scores[:, sent(torch.tensor(places), z.device)] = self.scores(z, [asked[place] for place in places])
        return scores

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Replace the state, and drop the classifier computed from the old one."""
        super().load_state(state)
        self._solved = self._seen = None

    def _features(self, x: Tensor) -> Tensor:
        as_given = self.features == "input" or (self.features == "network" and self.net.on_features)
        z: Tensor = (x.flatten(1) if as_given else self.net.backbone(x)).double()
        # A GPU would be waited for in every batch; there the sums are looked at, when they are complete.
        if z.device.type == "cpu" and not torch.compiler.is_exporting() and not z.isfinite().all():
            raise UserError(NOT_FINITE)
        return z


class ClassMeans(ClosedForm):
    """Keeps the sum of the features of each class, and so their mean."""

    sums_: Tensor | None = None
    """(K, F)."""

    def add(self, z: Tensor, k: Tensor) -> None:
        """Add to the sums."""
        self.sums_ = plus(self.sums_, z.new_zeros(self.classes, z.shape[1]).index_add(0, sent(k, z.device), z))

    def means(self) -> Tensor:
        """(K, F); 0 for a class without samples so far."""
        assert self.sums_ is not None
        assert self.counts_ is not None
        return self.sums_ / self.counts_.clamp(min=1).unsqueeze(1)

    def deviations(self, z: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """The increase of the scatter within each class by these samples: rows r (N + K, F), and the class of each row.

        The classes are in main memory, as are k (N,).

        The sum of r r' over the rows of a class is the increase of its sum of (z - mean)(z - mean)', where the mean is
        that of all its samples so far (Chan, Golub and LeVeque 1983, eq. 2.1). Exact; call it before `add`.
        """
        there = sent(k, z.device)
        new = z.new_zeros(self.classes)
        new.index_add_(0, there, z.new_ones(len(k)))
        mean = z.new_zeros(self.classes, z.shape[1]).index_add(0, there, z) / new.clamp(min=1).unsqueeze(1)
        between = torch.zeros_like(mean)
        if self.counts_ is not None:
            known = len(self.counts_)
            old = self.counts_
            weight = (old * new[:known] / (old + new[:known]).clamp(min=1)).sqrt()
            between[:known] = weight.unsqueeze(1) * (mean[:known] - self.means())
        return torch.cat([z - mean[there], between]), torch.cat([k, torch.arange(self.classes)])


def plus(sums: Tensor | None, more: Tensor) -> Tensor:
    """The sum of both, computed in `more` (K, ...), which may have additional rows for new classes."""
    if sums is not None:
        more[: len(sums)] += sums
    return more


def gram(rows: Tensor) -> Tensor:
    """The sum of r r' over the rows r (N, F), as its entries on and below the diagonal: (F (F + 1) / 2,)."""
    square = rows.T @ rows
    below, across = _below(len(square), rows.device)
    return square[below, across]


def symmetric(numbers: Tensor) -> Tensor:
    """The symmetric matrix (F, F) with these entries on and below the diagonal."""
    size = round(((8 * len(numbers) + 1) ** 0.5 - 1) / 2)
    matrix = numbers.new_zeros(size, size)
    below, across = _below(size, numbers.device)
    matrix[below, across] = numbers
    return matrix + matrix.tril(-1).T


@functools.lru_cache(maxsize=2)
def _below(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each entry on and below the diagonal, row by row."""
    rows, columns = torch.tril_indices(size, size, device=device)
    return rows, columns


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in a state."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list):
        for below in value.values() if isinstance(value, dict) else value:
            yield from _tensors(below)


def factor(matrix: Tensor, ridge: float) -> Tensor:
    """The Cholesky factor of `matrix` + `ridge` times the identity, for a matrix (F, F) without negative eigenvalues.

    If the sum is singular in double precision, `ridge` is multiplied by ten until it is not.
    """
    while True:
        lower, fault = torch.linalg.cholesky_ex(matrix + ridge * torch.eye(len(matrix)).to(matrix))
        if not fault:
            return lower  # type: ignore[no-any-return]
        ridge = 10 * ridge or TINY * (float(matrix.diagonal().mean()) or 1.0)
