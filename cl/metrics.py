"""What an accuracy matrix says: how much was learned, how much was kept, how sure we are over seeds.

`matrix[i][j]` is the test accuracy in [0, 1] on task j right after learning task i, None if task j was not yet
learned. A run that is still going has None in later rows, and averages are then over the tasks learned so far.
Learning all tasks at once (joint training) fills only the last row: nothing is forgotten.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


def backward_transfer(matrix: Matrix) -> float | None:
    """1/(T-1) sum_{j<T} (a[T][j] - a[j][j]); positive where later tasks helped earlier ones.

    Minus the average forgetting, and None where that is. Source: Lopez-Paz and Ranzato 2017 ("BWT"; their code divides
    by T).
    """
    forgetting = average_forgetting(matrix)
    return None if forgetting is None else -forgetting + 0.0  # + 0.0: no "-0"


def average_incremental_accuracy(matrix: Matrix) -> float | None:
    """(1/T) sum_k A_k with A_k = (1/k) sum_{j<=k} a[k][j]: how good the model was at any time, looked at as tasks end.

    None where all tasks were learned at once. Source: Rebuffi et al. 2017; Caccia et al. 2022 ("anytime").
    """
    known = [value for value in accuracy_so_far(matrix)[: _last(matrix) + 1] if value is not None]
    return statistics.fmean(known) if len(known) == _last(matrix) + 1 else None


def forward_transfer(zero_shot: Sequence[float], untrained: Sequence[float]) -> float | None:
    """1/(T-1) sum_{j>=2} (a[j-1][j] - b[j]): what the tasks before help with one that was not learned yet.

    `zero_shot`: a[j-1][j], `untrained`: b[j], the accuracy of a network that learned nothing; both of the tasks from
    the second on. It means something only if all tasks share one head: otherwise the head of a later task is random.
    None without any. Source: Lopez-Paz and Ranzato 2017 ("FWT").
    """
    gains = [before - chance for before, chance in zip(zero_shot, untrained, strict=True)]
    return statistics.fmean(gains) if gains else None


def intransigence(matrix: Matrix, reference: Sequence[float]) -> float | None:
    """(1/T) sum_k (a*[k] - a[k][k]): how far each task, just learned, falls short of a model that saw all of them.

    `reference`: a*, of joint training on all tasks. Chaudhry et al. 2018 define it with joint training on the tasks up
    to k. Negative where learning in turn was better. None where all tasks were learned at once.
    """
    learned = _diagonal(matrix, _last(matrix))
    if learned is None:
        return None
    return statistics.fmean(best - own for best, own in zip(reference, learned, strict=True))


def size_efficiency(sizes: Sequence[float]) -> float:
    """min(1, (1/T) sum_i size[1] / size[i]) of what is kept after each task: 1 where nothing grows.

    Source: Diaz-Rodriguez et al. 2018 ("MS").
    """
    return min(1.0, statistics.fmean(sizes[0] / size for size in sizes))


def worst_case_accuracy(traces: Sequence[Sequence[float]], now: float) -> float:
    """(1/k) a[k] + (1 - 1/k) min-ACC, with min-ACC = (1/(k-1)) sum_{i<k} (the lowest accuracy on task i since then).

    `traces`: of each of the k - 1 earlier tasks the accuracies since its own training ended, `now`: that on task k.
    Source: De Lange et al. 2023 ("WC-ACC").
    """
    k = len(traces) + 1
    lowest = statistics.fmean(min(trace) for trace in traces) if traces else 0.0
    return now / k + (1 - 1 / k) * lowest


def largest_change(trace: Sequence[float], window: int, sign: int = -1) -> float:
    """The largest drop (sign -1) or rise (1) from one value of the trace to a later one, fewer than `window` on.

    Source: De Lange et al. 2023 (windowed forgetting and windowed plasticity; there the mean over the tasks).
    """
    pairs = ((a, b) for i, a in enumerate(trace) for b in trace[i + 1 : i + window])
    return max([0.0, *(sign * (b - a) for a, b in pairs)])


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over seeds and the half width of its 95 % Student t-interval (None for a single value).

    half width = t * s / sqrt(n), with s the sample standard deviation (n - 1) and t of `quantile`. Source: Student
    1908. ValueError without any value.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    mean = statistics.fmean(values)
    n = len(values)
    if n == 1:
        return mean, None
    return mean, quantile(n) * statistics.stdev(values) / n**0.5


def quantile(n: int) -> float:
    """The t of the interval of n values: the 97.5 % point of Student's distribution with n - 1 degrees of freedom."""
    from scipy.special import stdtrit  # the quantile behind scipy.stats.t, without its half second of imports

    return float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2))


@dataclass(frozen=True)
class Difference:
    """A value of one method minus that of another, as a mean over the n seeds that both have."""

    mean: float
    half: float | None
    """Half width of the 95 % interval of the mean; None for a single seed."""
    n: int

    @property
    def tied(self) -> bool:
        """Whether the interval contains 0, so that these seeds do not tell the two apart; False without one."""
        return self.half is not None and abs(self.mean) <= self.half


def paired(own: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """The difference own - other of two methods' values, which are given by seed; None if they share no seed.

    With the same seed, methods begin with the same weights and see the same order of samples. What a seed does to both
    is not in their difference, so its interval is mostly narrower than theirs. Source: Student 1908 (paired samples).
    """
    differences = [own[seed] - other[seed] for seed in sorted({*own} & {*other})]
    return Difference(*interval(differences), len(differences)) if differences else None


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points on the Pareto front, in order: those that no other point beats.

    One point beats another if it is no smaller in both coordinates and larger in one; equal points do not.
    """

    def beaten(a: tuple[float, float]) -> bool:
        return any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in points)

    return [number for number, point in enumerate(points) if not beaten(point)]


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
