"""Metrics against published golden values and their own identities."""

import math

import pytest

from cl import metrics

# The survey's: rows after a task, columns on a task (the protocol sheet writes it transposed, in per cent).
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


def test_interval_narrows_with_seeds_and_needs_two():
    assert metrics.interval([0.5]) == (0.5, None)
    assert metrics.interval([0.5, 0.5]) == (0.5, 0.0)
    assert metrics.interval([0.0, 1.0])[1] == pytest.approx(12.706205 * math.sqrt(0.5) / math.sqrt(2), rel=1e-6)
    with pytest.raises(ValueError, match="at least one value"):
        metrics.interval([])
