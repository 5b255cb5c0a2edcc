"""Metrics against published golden values and their own identities."""

import math

import pytest

from cl import metrics

# Rows after a task, columns on a task, in per cent.
SURVEY = [[50, None, None], [40, 60, None], [30, 50, 70]]
# Every entry known, also accuracies on tasks not yet learned, which no metric here may use.
FULL = [[0.90, 0.20, 0.15], [0.80, 0.85, 0.25], [0.70, 0.75, 0.95]]
JOINT = [[None, None, None], [None, None, None], [0.9, 0.8, 0.7]]


def test_survey_example():
    assert metrics.average_accuracy(SURVEY) == pytest.approx(50)
    assert metrics.average_forgetting(SURVEY) == pytest.approx(15)  # (20 + 10) / (T - 1); the survey's code says 10
    assert metrics.learning_accuracy(SURVEY) == pytest.approx(60)
    assert metrics.accuracy_so_far(SURVEY) == pytest.approx([50, 50, 50])


def test_full_matrix_example():
    assert metrics.average_accuracy(FULL) == pytest.approx(0.80)
    assert metrics.average_forgetting(FULL) == pytest.approx(0.15)  # backward transfer is -0.15
    assert metrics.learning_accuracy(FULL) == pytest.approx(0.90)
    assert metrics.accuracy_so_far(FULL) == pytest.approx([0.90, 0.825, 0.80])


def test_accuracy_is_what_was_learned_less_what_was_forgotten():
    learned, forgotten = metrics.learning_accuracy(FULL), metrics.average_forgetting(FULL)
    assert learned is not None
    assert forgotten is not None
    assert metrics.average_accuracy(FULL) == pytest.approx(learned - 2 / 3 * forgotten)


def test_forgetting_counts_from_right_after_learning_not_from_the_best():
    gained_then_lost = [[0.5, None, None], [0.9, 0.8, None], [0.6, 0.8, 0.8]]
    assert metrics.average_forgetting(gained_then_lost) == pytest.approx((-0.1 + 0.0) / 2)


def test_learning_all_at_once_has_no_forgetting():
    assert metrics.average_accuracy(JOINT) == pytest.approx(0.8)
    assert metrics.average_forgetting(JOINT) is None
    assert metrics.learning_accuracy(JOINT) is None
    assert metrics.accuracy_so_far(JOINT) == [None, None, pytest.approx(0.8)]


def test_a_single_task_has_no_forgetting():
    assert metrics.average_accuracy([[0.7]]) == 0.7
    assert metrics.average_forgetting([[0.7]]) is None
    assert metrics.learning_accuracy([[0.7]]) == 0.7


def test_a_run_still_going_is_measured_over_the_tasks_so_far():
    going = [*(row[:] for row in SURVEY[:2]), [None, None, None]]
    assert metrics.average_accuracy(going) == pytest.approx(50)
    assert metrics.average_forgetting(going) == pytest.approx(10)


@pytest.mark.parametrize("matrix", [[], [[None]], [[0.5, None], [None, 0.5]]])
def test_nothing_learned_or_a_hole_in_the_last_row_is_refused(matrix):
    with pytest.raises(ValueError, match="accuracy matrix"):
        metrics.average_accuracy(matrix)


def test_interval_of_three_seeds():
    mean, half = metrics.interval([1.0, 2.0, 3.0])
    assert mean == pytest.approx(2.0)
    assert half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t with 2 degrees of freedom; s = 1


def test_a_difference_by_hand():
    """Differences -1, -2, -1 points: mean -4/3, deviation 1/sqrt(3), t = 4.302653, so 4.302653 / 3 points."""
    best = {0: 0.90, 1: 0.92, 2: 0.94, 7: 0.5}
    found = metrics.paired({2: 0.93, 0: 0.89, 1: 0.90, 8: 0.1}, best)
    assert found is not None
    assert (found.mean, found.half) == (pytest.approx(-0.04 / 3), pytest.approx(0.04302653 / 3, rel=1e-6))
    assert (found.n, found.tied) == (3, True)
    assert metrics.quantile(3) == pytest.approx(4.302653, rel=1e-6)
    below = metrics.paired({seed: value - 0.02 - 0.001 * seed for seed, value in best.items()}, best)
    assert below is not None
    assert not below.tied, "although the intervals of the two means overlap widely"


def test_a_difference_needs_a_seed_that_both_have_and_its_interval_two():
    assert metrics.paired({0: 0.9}, {1: 0.8}) is None
    assert metrics.paired({0: 0.9, 1: 0.7}, {1: 0.5}) == metrics.Difference(pytest.approx(0.2), None, 1)
    assert not metrics.Difference(0.2, None, 1).tied


def test_interval_narrows_with_seeds_and_needs_two():
    assert metrics.interval([0.5]) == (0.5, None)
    assert metrics.interval([0.5, 0.5]) == (0.5, 0.0)
    assert metrics.interval([0.0, 1.0])[1] == pytest.approx(12.706205 * math.sqrt(0.5) / math.sqrt(2), rel=1e-6)
    with pytest.raises(ValueError, match="at least one value"):
        metrics.interval([])


# Beyond the survey's: golden values by hand from the formulas of docs/metrics.md, on the matrix above.

UNTRAINED = [0.10, 0.12, 0.10]
TOGETHER = [0.92, 0.90, 0.96]


def test_golden_values_of_the_further_measures():
    assert metrics.backward_transfer(FULL) == pytest.approx(-0.15)
    assert metrics.average_incremental_accuracy(FULL) == pytest.approx(0.841667, abs=1e-6)
    assert metrics.forward_transfer([FULL[0][1], FULL[1][2]], UNTRAINED[1:]) == pytest.approx(0.115)
    assert metrics.intransigence(FULL, TOGETHER) == pytest.approx((0.02 + 0.05 + 0.01) / 3)
    assert metrics.size_efficiency([1.0, 1.5, 2.0]) == pytest.approx(0.722222, abs=1e-6)


def test_measures_of_nothing_are_none():
    for measure in (metrics.backward_transfer, metrics.average_incremental_accuracy):
        assert measure(JOINT) is None
    assert metrics.intransigence(JOINT, TOGETHER) is None
    assert metrics.forward_transfer([], []) is None
    assert metrics.backward_transfer([[0.5]]) is None
    assert metrics.average_incremental_accuracy([[0.5]]) == 0.5


def test_a_model_that_shrinks_is_no_more_efficient_than_one_that_does_not_grow():
    assert metrics.size_efficiency([2.0, 1.0]) == 1.0


@pytest.mark.parametrize(("window", "sign", "expected"), [(2, -1, 0.40), (2, 1, 0.20), (5, -1, 0.40), (5, 1, 0.35)])
def test_largest_change_within_a_window(window, sign, expected):
    assert metrics.largest_change([0.90, 0.50, 0.70, 0.85, 0.80], window, sign) == pytest.approx(expected)


def test_a_rise_after_a_fall_is_seen_from_its_foot():
    """A shortcut that is right for falls alone gives 0.10 here."""
    assert metrics.largest_change([0.5, 0.2, 0.6], 3, 1) == pytest.approx(0.40)
    assert metrics.largest_change([0.5], 3) == 0.0


def test_worst_case_accuracy_counts_the_lowest_since_learned():
    assert metrics.worst_case_accuracy([[0.8, 0.2, 0.7], [0.6, 0.5]], 0.9) == pytest.approx(0.9 / 3 + 2 / 3 * 0.35)
    assert metrics.worst_case_accuracy([], 0.9) == pytest.approx(0.9)
