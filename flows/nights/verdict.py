"""Tonight against the last good night: what got worse, what better, and what is noise.

Runs are deterministic, so as a rule the results of two nights are the same to the last bit, and the verdict says so.
After a change of code, data or settings there is noise. A difference counts where it is beyond the noise in one of
three ways. The same method with the same seed on both nights is a pair, and a change that moves all pairs alike stands
out from how the differences of the pairs vary. A change that draws other random numbers, and makes no run better or
worse, moves the mean no more than seeds differ. Where tonight's seeds differ wildly, because some of them broke down,
the last night's seeds tell how much they should differ. At `CONFIDENCE` each, the three together are wrong on at most
one comparison in twenty where nothing has changed. Times are compared as ratios to the times of the other runs of that
night, and count where they stand out from how these ratios vary.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from cl.metrics import average_accuracy, average_forgetting, interval
from cl.reading import RunResult

CONFIDENCE = 1 - 0.05 / 3
POINTS = 0.1
"""Percentage points of accuracy or forgetting below which no change is worth a morning."""
POINTS_OF_ONE_SEED = 1.0
"""The same where there is one seed alone, and so no interval."""
HIDDEN = 5.0
"""If noise may hide more points of accuracy than this, the headline says how many."""
TIME, MEMORY = 1.25, 1.10
"""Ratios up to which a step's time (against the night's other runs) and a process's memory count as noise."""
METHODS_TO_TELL = 5
"""With fewer methods it cannot be told how much their times vary that night."""

Kind = Literal["same", "noise", "better", "worse", "missing", "new"]


@dataclass(frozen=True)
class Change:
    """One measure of one method on two nights, as means over the seeds that both nights have."""

    method: str
    measure: str
    unit: str
    """`points`; or `ratio`, where `difference` is tonight's value over the last night's."""
    before: float | None
    tonight: float | None
    difference: tuple[float, float | None] | None
    """The mean difference, and up to which size it may be noise; of a ratio both as factors."""
    kind: Kind

    @property
    def said(self) -> str:
        """The difference in words."""
        if self.kind == "missing":
            return "has no result tonight"
        if self.kind == "new":
            return "is new"
        if self.kind == "same":
            return "no change"
        assert self.difference is not None
        mean, half = self.difference
        if self.unit == "ratio":
            return f"x{mean:.2f}" + (f" (x{mean / half:.2f} to x{mean * half:.2f})" if half is not None else "")
        return f"{mean:+.2f}" + (f" ± {half:.2f}" if half is not None else "") + " points"


@dataclass(frozen=True)
class Verdict:
    """What came of the comparison of two nights."""

    changes: tuple[Change, ...]
    failures: dict[str, str]
    """By run, why it has no result."""

    @property
    def worse(self) -> tuple[Change, ...]:
        """What got worse beyond noise."""
        return tuple(change for change in self.changes if change.kind in ("worse", "missing"))

    @property
    def better(self) -> tuple[Change, ...]:
        """What got better beyond noise."""
        return tuple(change for change in self.changes if change.kind == "better")

    @property
    def good(self) -> bool:
        """Whether later nights may be compared with this one."""
        return not self.worse and not self.failures

    @property
    def headline(self) -> str:
        """The night in a sentence."""
        if self.failures:
            return f"{len(self.failures)} of the runs failed: {', '.join(sorted(self.failures))}"
        if self.worse:
            first = "; ".join(f"{c.method}: {c.measure} {c.said}" for c in self.worse[:3])
            more = f"; and {len(self.worse) - 3} more" if len(self.worse) > 3 else ""
            return f"regression: {first}{more}"
        learned = [c for c in self.changes if c.measure in ("accuracy", "forgetting")]
        if not learned:
            return "the first good night: nothing to compare with yet"
        if self.better:
            return "better: " + "; ".join(f"{c.method}: {c.measure} {c.said}" for c in self.better[:3])
        if all(change.kind == "same" for change in learned):
            return "no change: every accuracy is the same to the last bit"
        told = "no change beyond noise"
        halves = {c.method: c.difference[1] or 0.0 for c in learned if c.measure == "accuracy" and c.difference}
        most = max(halves, key=lambda method: halves[method], default=None)
        if most is not None and halves[most] > HIDDEN:
            told += f", which for these seeds of {most} is up to {halves[most]:.0f} points of accuracy"
        return told


def compare_nights(tonight: Sequence[RunResult], before: Sequence[RunResult], failures: dict[str, str]) -> Verdict:
    """Tonight's runs against those of the last good night (none: nothing is compared)."""
    changes: list[Change] = []
    drift, limit = _times(tonight, before)
    for method in sorted({run.method for run in before} | {run.method for run in tonight}):
        new = {run.seed: run for run in tonight if run.method == method}
        old = {run.seed: run for run in before if run.method == method}
        seeds = sorted(set(new) & set(old))
        if not seeds:
            if before:
                changes.append(Change(method, "accuracy", "points", None, None, None, "missing" if old else "new"))
            continue
        pairs = [(new[seed], old[seed]) for seed in seeds]
        changes.append(_points(method, "accuracy", pairs, lambda run: average_accuracy(run.accuracy), rising=True))
        if all(average_forgetting(run.accuracy) is not None for pair in pairs for run in pair):
            changes.append(
                _points(method, "forgetting", pairs, lambda run: average_forgetting(run.accuracy) or 0.0, rising=False)
            )
        if all(seconds_per_step(run) is not None for pair in pairs for run in pair):
            changes.append(_ratio(method, "time per step", pairs, seconds_per_step, limit, drift))
        if all(peak_memory(run) is not None for pair in pairs for run in pair):
            changes.append(_ratio(method, "memory", pairs, peak_memory, MEMORY, 1.0))
    return Verdict(tuple(changes), failures)


def seconds_per_step(run: RunResult) -> float | None:
    """Processor time of a training step, in seconds; None where it was not measured."""
    steps = sum(task["steps"] for task in run.per_task)
    seconds = run.cost.get("step_seconds") if run.cost else None
    return seconds / steps if steps and seconds else None


def peak_memory(run: RunResult) -> float | None:
    """Highest resident memory of the run's process, in bytes."""
    return run.cost["peak_memory_bytes"] if run.cost else None


def _times(tonight: Iterable[RunResult], before: Iterable[RunResult]) -> tuple[float, float]:
    """By how much everything was slower tonight, whatever the method; and up to which ratio to that a time is noise.

    The median ratio of the runs, and three standard deviations of the ratios, by their median absolute deviation: on a
    machine with other work to do, some runs are slower than others, whatever they do.
    """
    old = {(run.method, run.seed): seconds_per_step(run) for run in before}
    ratios = [
        (run.method, math.log(now / then))
        for run in tonight
        if (now := seconds_per_step(run)) is not None and (then := old.get((run.method, run.seed))) is not None
    ]
    if not ratios:
        return 1.0, TIME
    drift = statistics.median(ratio for _, ratio in ratios)
    spread = 1.4826 * statistics.median(abs(ratio - drift) for _, ratio in ratios)
    can_tell = len({method for method, _ in ratios}) >= METHODS_TO_TELL
    return math.exp(drift), max(TIME, math.exp(3 * spread)) if can_tell else TIME


def _points(
    method: str,
    measure: str,
    pairs: Sequence[tuple[RunResult, RunResult]],
    value: Callable[[RunResult], float],
    *,
    rising: bool,
) -> Change:
    """In percentage points; `rising`: more is better."""
    after, before = ([100 * value(run) for run in side] for side in zip(*pairs, strict=True))
    differences = [a - b for a, b in zip(after, before, strict=True)]
    mean, half = statistics.fmean(differences), noise(after, before)
    kind: Kind = "noise"
    if all(difference == 0 for difference in differences):
        kind = "same"
    elif abs(mean) > (POINTS_OF_ONE_SEED if half is None else max(POINTS, half)):
        kind = "better" if (mean > 0) == rising else "worse"
    return Change(method, measure, "points", statistics.fmean(before), statistics.fmean(after), (mean, half), kind)


def noise(after: Sequence[float], before: Sequence[float]) -> float | None:
    """Up to which size the difference of the means of two nights may be noise; None for a single seed.

    The smallest of the half widths of three t-intervals: of the paired differences (n - 1 degrees of freedom), of the
    difference of two independent means of equal variance (2n - 2), and of the same where the variance is that of the
    night before alone (n - 1). Source: Student 1908.
    """
    n = len(after)
    if n == 1:
        return None
    from scipy.special import stdtrit

    point, points = (stdtrit(freedom, 0.5 + CONFIDENCE / 2) for freedom in (n - 1, 2 * n - 2))
    old, new = statistics.variance(before), statistics.variance(after)
    paired = statistics.variance([a - b for a, b in zip(after, before, strict=True)])
    return float(min(point * (paired / n) ** 0.5, points * ((old + new) / n) ** 0.5, point * (2 * old / n) ** 0.5))


def _ratio(
    method: str,
    measure: str,
    pairs: Sequence[tuple[RunResult, RunResult]],
    value: Callable[[RunResult], float | None],
    noise: float,
    drift: float,
) -> Change:
    """As a factor, with `drift` taken out; it counts where the whole interval is beyond `noise`."""
    after, before = ([value(run) or math.nan for run in side] for side in zip(*pairs, strict=True))
    mean, half = interval([math.log(a / b / drift) for a, b in zip(after, before, strict=True)])
    kind: Kind = "noise"
    if abs(mean) - (half or 0.0) > math.log(noise):
        kind = "worse" if mean > 0 else "better"
    factor = (math.exp(mean), math.exp(half) if half is not None else None)
    return Change(method, measure, "ratio", statistics.fmean(before), statistics.fmean(after), factor, kind)
