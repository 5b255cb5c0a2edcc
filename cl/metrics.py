"""What an accuracy matrix says: how much was learned, how much was kept, how sure we are over seeds.

`matrix[i][j]` is the test accuracy in [0, 1] on task j right after learning task i, None where task j was not
yet learned. A run that is still going has None in the rows to come: averages are then over the tasks
learned so far. Learning all tasks at once (joint training) fills the last row only: nothing is forgotten.
"""

import statistics
from collections.abc import Sequence

Matrix = Sequence[Sequence[float | None]]

CONFIDENCE = 0.95


def average_accuracy(matrix: Matrix) -> float:
    """Mean accuracy over the T tasks learned so far: (1/T) sum_j a[T][j].

    Source: De Lange et al. 2021; Lopez-Paz and Ranzato 2017 (there "ACC").
    Raises ValueError where nothing has been learned yet or a value of the last row is missing.
    """
    return statistics.fmean(_row(matrix, _last(matrix)))


def accuracy_so_far(matrix: Matrix) -> list[float | None]:
    """Average accuracy after each task k, (1/k) sum_{j<=k} a[k][j]; None for a row that was not measured."""
    measured = [i for i, row in enumerate(matrix) if any(value is not None for value in row)]
    return [statistics.fmean(_row(matrix, i)) if i in measured else None for i in range(len(matrix))]


def average_forgetting(matrix: Matrix) -> float | None:
    """Mean loss since each task was learned: 1/(T-1) sum_{j<T} (a[j][j] - a[T][j]); positive is forgetting.

    The reference point is the accuracy right after learning the task, as in the survey (De Lange et al.
    2021), not the best one ever seen. The survey's code divides by T although the last task cannot have been
    forgotten; here it is T - 1, which makes this minus the backward transfer of Lopez-Paz and Ranzato 2017.
    None with a single task, and where all tasks were learned at once.
    """
    last = _last(matrix)
    learned = _diagonal(matrix, last)
    if learned is None or last == 0:
        return None
    final = _row(matrix, last)
    return statistics.fmean(learned[j] - final[j] for j in range(last))


def learning_accuracy(matrix: Matrix) -> float | None:
    """Mean accuracy on each task right after learning it: (1/T) sum_j a[j][j]; high means plastic.

    average_accuracy = learning_accuracy - (T-1)/T * average_forgetting. None where all were learned at once.
    Source: Riemer et al. 2019 ("learning accuracy").
    """
    learned = _diagonal(matrix, _last(matrix))
    return None if learned is None else statistics.fmean(learned)


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over seeds and the half width of its 95 % Student t-interval (None for a single value).

    half width = t * s / sqrt(n), with s the sample standard deviation (n - 1) and t the 97.5 % point of
    Student's distribution with n - 1 degrees of freedom. Source: Student 1908. ValueError without any value.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    mean = statistics.fmean(values)
    n = len(values)
    if n == 1:
        return mean, None
    from scipy.special import stdtrit  # the quantile behind scipy.stats.t, without its half second of imports

    t = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2))
    return mean, t * statistics.stdev(values) / n**0.5


def _last(matrix: Matrix) -> int:
    """Index of the last row that holds a value."""
    for i in reversed(range(len(matrix))):
        if any(value is not None for value in matrix[i]):
            return i
    raise ValueError("the accuracy matrix is empty: no task has been learned")


def _row(matrix: Matrix, i: int) -> list[float]:
    """Accuracies on tasks 0..i after learning task i."""
    values = [value for value in matrix[i][: i + 1] if value is not None]
    if len(values) != i + 1:
        raise ValueError(f"row {i} of the accuracy matrix has {len(values)} of {i + 1} values")
    return values


def _diagonal(matrix: Matrix, last: int) -> list[float] | None:
    """Accuracy right after learning each of the tasks 0..last, or None where it was not measured for each."""
    values = [value for i in range(last + 1) if (value := matrix[i][i]) is not None]
    return values if len(values) == last + 1 else None
