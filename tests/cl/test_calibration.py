"""The mathematics of calibration, against closed forms and other implementations."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest, ks_2samp

from cl.calibration import (
    BACKGROUND,
    Gaussians,
    auroc,
    expected_calibration_error,
    kolmogorov_smirnov,
    least_of,
    mcnemar,
    shrinkage,
    temperature,
)


def test_the_temperature_of_two_classes_in_closed_form() -> None:
    """Scores (2, 0), 7 of 10 labels on the first: 2 / T = logit(q), with q the share after the prior of 1/12."""
    scores = torch.tensor([[2.0, 0.0]]).repeat(10, 1)
    labels = torch.tensor([0] * 7 + [1] * 3)
    q = 0.7 * (1 - 1 / 12) + 0.5 / 12
    assert temperature(scores, labels) == pytest.approx(2 / math.log(q / (1 - q)), rel=1e-9)
    assert temperature(scores + 5, labels) == pytest.approx(temperature(scores, labels), rel=1e-9)
    assert temperature(1e4 * scores, labels) == pytest.approx(1e4 * temperature(scores, labels), rel=1e-9)


def test_the_temperature_is_the_best_one() -> None:
    draw = torch.Generator().manual_seed(0)
    truth = 3 * torch.randn(4000, 5, generator=draw, dtype=torch.float64)
    labels = torch.multinomial(truth.softmax(1), 1, generator=draw).squeeze(1)
    found = temperature(4 * truth, labels)
    assert found == pytest.approx(4, rel=0.05)

    def loss(T: float) -> float:
        return float(torch.nn.functional.cross_entropy(4 * truth / T, labels))

    assert loss(found) <= min(loss(found * 1.02), loss(found / 1.02)) + 1e-9


def test_a_temperature_where_all_answers_are_right_or_none_tells() -> None:
    """Neither certainty from three images, nor a number that is none."""
    three = torch.eye(3)
    found = temperature(three, torch.arange(3))
    right = float((three / found).softmax(1)[0, 0])
    assert right == pytest.approx(1 - (1 / 5) * (2 / 3), rel=1e-6)  # what the prior leaves to the label
    assert temperature(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)) == 1
    wrong = temperature(torch.tensor([[1.0, 0.0]]).repeat(9, 1), torch.ones(9, dtype=torch.int64))
    assert wrong == pytest.approx(1000, rel=1e-6)


def test_classes_that_cannot_be_do_not_count() -> None:
    scores, labels = torch.tensor([[2.0, 0.0]]).repeat(10, 1), torch.tensor([0] * 7 + [1] * 3)
    wide = torch.nn.functional.pad(scores, (0, 3), value=-1e30)
    assert temperature(wide, labels) == pytest.approx(temperature(scores, labels), rel=1e-12)
    lost = torch.cat([wide, wide[:1]]), torch.cat([labels, torch.tensor([4])])
    assert temperature(*lost) == pytest.approx(temperature(scores, labels), rel=1e-12)


def test_the_calibration_error_by_hand() -> None:
    """Two bins of ten: at 0.95 three of four right, at 0.55 one of two: 4/6 * 0.20 + 2/6 * 0.05."""
    confidence = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = torch.tensor([True, True, True, False, True, False])
    assert expected_calibration_error(confidence, right, bins=10) == pytest.approx(4 / 6 * 0.20 + 2 / 6 * 0.05)
    assert expected_calibration_error(torch.ones(3), torch.ones(3)) == 0
    assert expected_calibration_error(torch.zeros(3), torch.ones(3)) == 1


@pytest.mark.parametrize(("kept", "least"), [(1.0, 1.0), (0.9, 2.0), (0.95, 1.0), (0.5, 6.0), (0.01, 10.0)])
def test_the_least_of_ten(kept: float, least: float) -> None:
    scores = torch.arange(1.0, 11.0)[torch.randperm(10)]
    assert least_of(scores, kept) == least
    assert (scores >= least_of(scores, kept)).double().mean() >= kept


def test_auroc_counts_pairs() -> None:
    known, unknown = torch.tensor([3.0, 2.0, 2.0]), torch.tensor([2.0, 1.0])
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in known.tolist() for b in unknown.tolist()]
    assert auroc(known, unknown) == sum(pairs) / 6
    assert auroc(known + 9, unknown) == 1
    assert auroc(unknown, known + 9) == 0


def test_kolmogorov_smirnov_as_scipy_has_it() -> None:
    draw = torch.Generator().manual_seed(1)
    a, b = torch.randn(900, generator=draw), torch.randn(700, generator=draw) + 0.07
    gap, p = kolmogorov_smirnov(a, b)
    other = ks_2samp(a.numpy(), b.numpy())
    assert gap == pytest.approx(other.statistic)
    assert p == pytest.approx(other.pvalue, abs=0.02)
    assert kolmogorov_smirnov(a, a) == (0, 1)
    assert kolmogorov_smirnov(a, a + 100) == (1, 0)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (12, 3), (3, 12), (40, 40), (1000, 900), (5000, 3000)])
def test_mcnemar_is_a_binomial_test(first: int, second: int) -> None:
    n = first + second
    expected = binomtest(first, n).pvalue if n else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_shrinkage_by_hand() -> None:
    """S = diag(4, 0), 10 samples: ((1 - 1) 16 + 16) / ((10 + 1 - 1)(16 - 8))."""
    assert shrinkage(torch.tensor([[4.0, 0.0], [0.0, 0.0]]), 10) == pytest.approx(16 / 80)
    assert shrinkage(torch.eye(3), 10) == 1


def test_nearness_is_what_its_formula_says() -> None:
    draw = torch.Generator().manual_seed(2)
    k = torch.arange(3).repeat_interleave(20)
    z = torch.randn(60, 4, generator=draw, dtype=torch.float64) @ torch.randn(4, 4, generator=draw).double()
    z = z + 5 * torch.randn(3, 4, generator=draw).double()[k]
    found = Gaussians.of(z, k, 4)  # the fourth class has no samples

    def distances(groups: list[torch.Tensor], new: torch.Tensor) -> torch.Tensor:
        means = [group.mean(0) for group in groups]
        apart = torch.cat([group - mean for group, mean in zip(groups, means, strict=True)])
        S = apart.T @ apart / 60
        rho = shrinkage(S, 60)
        inverse = torch.linalg.inv((1 - rho) * S + rho * S.trace() / 4 * torch.eye(4))
        return torch.stack([((new - mean) @ inverse * (new - mean)).sum(1) for mean in means], 1)

    new = 3 * torch.randn(7, 4, generator=draw).double()
    own = distances([z[k == c] for c in range(3)], new)
    whole = distances([z], new)[:, 0]
    assert found.nearness(new) == pytest.approx((BACKGROUND * whole - own.min(1).values).float(), rel=1e-3)
    two = found.nearness(new, torch.tensor([0, 2]))
    assert two == pytest.approx((BACKGROUND * whole - own[:, [0, 2]].min(1).values).float(), rel=1e-3)
