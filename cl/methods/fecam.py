"""FeCAM: predicts the nearest class by a Mahalanobis distance with a covariance for each class.

Goswami, Liu, Twardowski and van de Weijer, FeCAM: Exploiting the heterogeneity of class distributions in exemplar-free
continual learning, NeurIPS 2023.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cl.closed_form import ClassMeans, factor, gram, symmetric
from cl.knob import knob
from cl.memory import picked


class FeCAM(ClassMeans):
    """argmin_k (z - mu_k)' R_k^-1 (z - mu_k) for z and mu_k of length 1, with R_k the class's shrunk correlations."""

    exports = "torch"  # it solves triangular systems

    tukey: float = knob(0.5, range=(1e-3, 1), help="power that features are raised to; 1: no transform")
    variance_shrinkage: float = knob(1.0, range=(0, 1e6), help="gamma_1: times the mean variance is added to each")
    covariance_shrinkage: float = knob(1.0, range=(0, 1e6), help="gamma_2: times the mean covariance is added to each")

    scatters_: list[Tensor | None] | None = None
    """For each class the sum of (z - mu)(z - mu)', on and below the diagonal; None without samples so far."""

    def add(self, z: Tensor, k: Tensor) -> None:
        """Add to the sums, and to the scatter of each class."""
        z = self._powers(z)
        rows, own = self.deviations(z, k)
        scatters = [*(self.scatters_ or []), *[None] * self.classes][: self.classes]
        for c in k.unique().tolist():
            more, before = gram(picked(rows, (own == c).nonzero().squeeze(1))), scatters[c]
            scatters[c] = more if before is None else more + before
        self.scatters_ = scatters
        super().add(z, k)

    def solve(self) -> tuple[Tensor, list[Tensor | None]]:
        """The means (K, F), scaled to length 1, and for each class the Cholesky factor of its R."""
        factors = [None if scatter is None else self._factor(symmetric(scatter)) for scatter in self.scatters_ or []]
        return F.normalize(self.means(), dim=1), factors

    def _factor(self, scatter: Tensor) -> Tensor:
        return factor(correlations(shrunk(scatter, self.variance_shrinkage, self.covariance_shrinkage)), 0.0)

    def scores(self, z: Tensor, classes: list[int]) -> Tensor:
        """Minus half the squared distance to each class."""
        means, factors = self.solved
        z = F.normalize(self._powers(z), dim=1)
        distances = []
        for c in classes:
            white = torch.linalg.solve_triangular(factors[c], (z - means[c]).T, upper=False)
            distances.append(white.square().sum(0))
        return -torch.stack(distances, 1) / 2 if distances else z.new_zeros(len(z), 0)

    def _powers(self, z: Tensor) -> Tensor:
        """Tukey's transform; a negative number keeps its sign, and its absolute value is transformed."""
        return z.abs() ** self.tukey * z.sign()


def shrunk(scatter: Tensor, variance: float, covariance: float) -> Tensor:
    """S + gamma_1 V_1 I + gamma_2 V_2 (1 - I), V_1 the mean of the diagonal of S (F, F) and V_2 that of the rest."""
    size = len(scatter)
    diagonal = scatter.diagonal()
    rest = (scatter.sum() - diagonal.sum()) / max(size * (size - 1), 1)
    return scatter + covariance * rest + torch.eye(size).to(scatter) * (variance * diagonal.mean() - covariance * rest)


def correlations(matrix: Tensor) -> Tensor:
    """The matrix (F, F) divided on both sides by the roots of its diagonal; where a root is 0, as in the identity."""
    roots = matrix.diagonal().sqrt()
    none = roots == 0
    scaled = matrix / torch.outer(roots, roots).masked_fill(none | none.unsqueeze(1), torch.inf)
    return scaled.fill_diagonal_(1.0)
