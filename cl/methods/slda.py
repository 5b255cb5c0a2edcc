"""Streaming linear discriminant analysis: a mean for each class, and one covariance for all.

Hayes and Kanan, Lifelong machine learning with deep streaming linear discriminant analysis, CVPR Workshops 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cl.closed_form import ClassMeans, factor, gram, plus, symmetric
from cl.knob import knob
from cl.memory import picked


class SLDA(ClassMeans):
    """argmax_k w_k z + b_k with w_k = Lambda mu_k, b_k = -mu_k Lambda mu_k / 2, Lambda = ((1 - eps) S + eps I)^-1."""

    epsilon: float = knob(1e-4, range=(1e-12, 1), help="eps: weight of the identity in the covariance")

    scatter_: Tensor | None = None
    """N S: the sum of (z - mu_y)(z - mu_y)' over all samples, on and below the diagonal."""

    def add(self, z: Tensor, k: Tensor) -> None:
        """Add to the sums and to the scatter."""
        self.scatter_ = plus(self.scatter_, gram(self.deviations(z, k)[0]))
        super().add(z, k)

    def solve(self) -> tuple[Tensor, Tensor]:
        """The weights (K, F) and the offsets (K,)."""
        assert self.scatter_ is not None
        assert self.counts_ is not None
        means, covariance = self.means(), symmetric(self.scatter_) / self.counts_.sum()
        weights = torch.cholesky_solve(means.T, factor((1 - self.epsilon) * covariance, self.epsilon)).T
        return weights, -(means * weights).sum(1) / 2

    def scores(self, z: Tensor, classes: list[int]) -> Tensor:
        """The log-probability of each class, up to a term that is the same for all."""
        weights, offsets = self.solved
        return z @ picked(weights, torch.tensor(classes)).T + picked(offsets, torch.tensor(classes))
