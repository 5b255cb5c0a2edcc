"""Probabilities one can use, and how far an image is from all that was learned: the mathematics alone.

Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML 2017 (temperature scaling, expected
calibration error). Lee, Lee, Lee and Shin, A simple unified framework for detecting out-of-distribution samples and
adversarial attacks, NeurIPS 2018 (Mahalanobis distance to the nearest class). Ren et al., A simple fix to Mahalanobis
distance for improving near-OOD detection, 2021 (the same, relative to the background). Hendrycks et al., Scaling
out-of-distribution detection for real-world settings, ICML 2022 (the largest logit).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cl.ops import distances

BINS = 15
"""Of the expected calibration error, as in its paper."""
IMPOSSIBLE = -1e8
"""A score this far below the best one of its image stands for a class that cannot be (methods use -1e9 and less)."""
STEPS = 60
"""Halvings of an interval of nine orders of magnitude: what is left is less than a rounding error."""
BACKGROUND = 0.8
"""Share of the distance to the background. On 50 classes of photographs (features of EfficientNet-Lite0), 0 gave AUROCs
of 0.58 to 0.76 on classes held out, 0.8 gave 0.77 to 0.87; from 0.9 on, noise and plain colours pass as known."""
TINY = 1e-10
"""Added to the diagonal of a covariance, as a share of its mean."""
FARTHEST = 1e18
"""A coordinate of a class without images, so that it is nearest to nothing; its square is a float32."""


def temperature(scores: Tensor, labels: Tensor) -> float:
    """T for which softmax(scores / T) has the smallest negative log-likelihood of the labels (Guo et al., section 4.2).

    The likelihood is convex in 1/T, so T is where its slope crosses 0. Without more, T would be 0 where every answer is
    right, as it often is for a few images. So a label counts 1 - 1/(N + 2), and the rest is shared by all classes: the
    prior of Platt (Probabilistic outputs for support vector machines, 1999). T is bounded. It is at its upper bound,
    where all classes are equally probable, if the scores are worse than chance.

    Args:
        scores: (N, C), of any scale.
        labels: (N,), columns of the scores. Images whose label is impossible by their scores say nothing of T.
    """
    s = scores.double()
    s = s - s.max(1, keepdim=True).values
    own = s.gather(1, labels.unsqueeze(1)).squeeze(1)
    s, own = s[own > IMPOSSIBLE], own[own > IMPOSSIBLE]
    possible = s > IMPOSSIBLE
    s = s.where(possible, torch.full_like(s, -math.inf))
    finite = s.where(possible, torch.zeros_like(s))
    spread = float(finite.abs().max()) if len(s) else 0.0
    if spread == 0:
        return 1.0
    rest = 1 / (len(s) + 2)
    wanted = ((1 - rest) * own + rest * finite.sum(1) / possible.sum(1)).mean()
    low, high = math.log(1e-3 / spread), math.log(1e6 / spread)  # of log(1/T)
    for _ in range(STEPS):
        middle = (low + high) / 2
        slope = ((math.exp(middle) * s).softmax(1) * finite).sum(1).mean() - wanted
        low, high = (middle, high) if slope < 0 else (low, middle)
    return math.exp(-high)


def expected_calibration_error(confidence: Tensor, right: Tensor, bins: int = BINS) -> float:
    """sum_b n_b / N |accuracy_b - confidence_b| over bins of equal width (Guo et al., equation 3); in [0, 1].

    `confidence` (N,): the probability of the class that was named. `right` (N,): whether it was the right one.
    """
    bin = (confidence.double() * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add(0, bin, right.double() - confidence.double())
    return float(gaps.abs().sum() / len(confidence))


def least_of(scores: Tensor, kept: float) -> float:
    """The largest number that at least this share of the scores (N,) reach."""
    ordered = scores.double().sort(descending=True).values
    return float(ordered[max(1, math.ceil(round(kept * len(ordered), 9))) - 1])


def auroc(known: Tensor, unknown: Tensor) -> float:
    """The chance that an image of a known class scores higher than one of an unknown class; equal scores count half.

    The area under the receiver operating characteristic (Mann-Whitney's U over the number of pairs). `known` (N,),
    `unknown` (M,).
    """
    ordered = unknown.double().sort().values
    below = torch.searchsorted(ordered, known.double(), right=False)
    upto = torch.searchsorted(ordered, known.double(), right=True)
    return float((below + upto).sum()) / (2 * len(known) * len(unknown))


def kolmogorov_smirnov(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The largest gap D between the distribution functions of two samples (N,), (M,), and its p-value.

    The p-value is the asymptotic one, 2 sum_j (-1)^(j-1) exp(-2 j^2 x^2) with x = D sqrt(NM / (N + M)).
    """
    a, b = a.double().sort().values, b.double().sort().values
    places = torch.cat([a, b])
    gaps = torch.searchsorted(a, places, right=True) / len(a) - torch.searchsorted(b, places, right=True) / len(b)
    gap = float(gaps.abs().max())
    x = gap * math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    if x < 0.2:  # where the series converges slowly, and p is 1 to eleven digits
        return gap, 1.0
    p = 2 * sum((-1) ** (j - 1) * math.exp(-2 * j**2 * x**2) for j in range(1, 101))
    return gap, min(1.0, max(0.0, p))


def mcnemar(first: int, second: int) -> float:
    """The exact two-sided p-value of a paired test of two classifiers on the same images.

    `first`: images that only the first one gets right; `second`: only the second one. If both are equally good, each
    such image is a toss of a fair coin (McNemar, Psychometrika 1947; here with the binomial distribution itself).
    """
    n = first + second
    term = tail = 1  # the binomial coefficients, from that of 0 on
    for k in range(1, min(first, second) + 1):
        term = term * (n - k + 1) // k
        tail += term
    return float(min(1.0, 2 * tail / 2**n))


def shrinkage(covariance: Tensor, count: int) -> float:
    """rho in [0, 1]: how much of tr(S)/F I belongs into the covariance S (F, F) of `count` samples.

    Oracle approximating shrinkage: Chen, Wiesel, Eldar and Hero, Shrinkage algorithms for MMSE covariance estimation,
    IEEE Transactions on Signal Processing 2010, equation 23.
    """
    F = len(covariance)
    trace, square = float(covariance.trace()), float(covariance.square().sum())
    above = (1 - 2 / F) * square + trace**2
    below = (count + 1 - 2 / F) * (square - trace**2 / F)
    return min(1.0, above / below) if below > 0 else 1.0


@dataclass(frozen=True)
class Gaussians:
    """A normal distribution for each class, with one covariance for all, as linear discriminant analysis has them.

    Beside them stands one distribution for all samples together, the background.
    """

    means: Tensor
    """(K, F) float32: W' mu_k, with W W' the inverse of the covariance; far away where a class has no samples."""
    whitening: Tensor
    """W, (F, F) float32."""
    middle: Tensor
    """(1, F) float32: the same of the background."""
    background: Tensor
    """(F, F) float32: its W."""

    @classmethod
    def of(cls, z: Tensor, k: Tensor, classes: int) -> Gaussians:
        """From features z (N, F) of the classes k (N,) out of `classes`; the covariances are shrunk (`shrinkage`).

        What it takes are sums over the samples, so they can be added up task by task.
        """
        return cls(*_fitted(z.double(), k, classes), *_fitted(z.double(), torch.zeros_like(k), 1))

    def nearness(self, z: Tensor, classes: Tensor | slice = slice(None)) -> Tensor:
        """`BACKGROUND` d_0 - min_k d_k of features z (N, F) among these classes, (N,); d: squared Mahalanobis distance.

        Without d_0 it is the score of Lee et al. In many dimensions that says mostly how typical a picture is, and
        little of the classes. With all of d_0 it is the score of Ren et al., which takes noise for something known.
        """
        z = z.float()
        return BACKGROUND * _distance(z, self.background, self.middle) - _distance(
            z, self.whitening, self.means[classes]
        )


def _fitted(z: Tensor, k: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The means (classes, F) and W (F, F) of a normal distribution for each class, with one covariance."""
    counts = torch.bincount(k, minlength=classes)
    means = z.new_zeros(classes, z.shape[1]).index_add(0, k, z) / counts.clamp(min=1).unsqueeze(1)
    apart = z - means[k]
    covariance = apart.T @ apart / len(z)
    rho, identity = shrinkage(covariance, len(z)), torch.eye(z.shape[1], dtype=torch.float64)
    size = float(covariance.trace()) / z.shape[1] or 1.0  # 0: all samples of a class are alike
    covariance = (1 - rho) * covariance + (rho + TINY) * size * identity
    root = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(root, identity, upper=False).T.contiguous()
    means = means @ white
    means[counts == 0] = FARTHEST
    return means.float(), white.float()


def _distance(z: Tensor, white: Tensor, means: Tensor) -> Tensor:
    """The squared Mahalanobis distance to the nearest mean, (N,)."""
    return distances(z @ white, means).min(1).values ** 2
