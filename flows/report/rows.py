"""Each method over its seeds, as means and intervals, the best first."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cl import metrics
from cl.reading import RunResult
from cl.results import Cost, TrialResult
from flows.report.standing import ranks
from flows.report.words import Estimate

BOUNDS = {"joint": "upper bound", "finetune": "lower bound"}


@dataclass(frozen=True)
class Row:
    """One method over its seeds; accuracies in [0, 1], forgetting as a difference of those."""

    method: str
    rank: int | None  # methods not told apart may share one; None: a bound, which is not ranked
    bound: str | None
    runs: tuple[RunResult, ...]
    missing: tuple[int, ...]  # seeds that other methods have and this one lacks
    accuracy: Estimate
    forgetting: Estimate | None
    learning: Estimate | None
    so_far: list[Estimate | None]  # average accuracy after each task
    matrix: list[list[float | None]]  # mean over seeds
    state_bytes: float
    seconds: dict[str, float]  # processor time by phase of the protocol, summed over tasks; empty without cost files
    process_seconds: float | None  # the sum of these
    peak_memory: float | None
    relative_time: float | None  # processor time over that of finetune
    measures: dict[str, Estimate | None]  # those of `MEASURES`
    searched: list[TrialResult]  # the first seed's trials that measured stability, where a front was searched for
    other_accuracy: Estimate | None  # average accuracy, task-agnostic where the scenario is task-aware, and vice versa
    to_best: metrics.Difference | None = None  # of the average accuracy, to that of the best ranked method
    other_forgetting: Estimate | None = None
    other_learning: Estimate | None = None
    other_rank: int | None = None  # by the other accuracy
    other_to_best: metrics.Difference | None = None  # of the other accuracy, to that of the method best at it

    @property
    def seeds(self) -> str:
        """The seeds that finished, and those that are missing."""
        done = ", ".join(str(run.seed) for run in self.runs)
        return done + (f" (missing: {', '.join(map(str, self.missing))})" if self.missing else "")

    def by_seed(self, other: bool = False) -> dict[int, float]:
        """The average accuracy, or the `other` one where there is one, of each seed."""
        matrices = {run.seed: run.other_accuracy if other else run.accuracy for run in self.runs}
        return {seed: metrics.average_accuracy(matrix) for seed, matrix in matrices.items() if matrix is not None}


def compare(runs: Sequence[RunResult], expected: Collection[int] | None = None) -> tuple[Row, ...]:
    """One row for each method, the best average accuracy first.

    A seed is missing where it was `expected`, or another method has it.
    """
    seeds = {run.seed for run in runs} | set(expected or ())
    groups: dict[str, list[RunResult]] = {}
    for run in runs:
        groups.setdefault(run.method, []).append(run)
    reference = mean_cost(groups.get("finetune", []), "process_seconds")
    joint = {run.seed: run.accuracy[-1] for run in groups.get("joint", [])}
    rows = [summarise(group, seeds, reference, joint) for group in groups.values()]
    rows.sort(key=lambda row: (-row.accuracy[0], row.method))
    best, best_other = first_ranked(rows), first_ranked(best_at_other(rows))
    places, other_places = ranks(values_of(rows)), ranks(values_of(rows, other=True))
    for place, row in enumerate(rows):
        row = replace(row, rank=places.get(row.method), other_rank=other_places.get(row.method))
        if best and row.method != best.method:
            row = replace(row, to_best=metrics.paired(row.by_seed(), best.by_seed()))
        if best_other and row.method != best_other.method:
            row = replace(row, other_to_best=metrics.paired(row.by_seed(other=True), best_other.by_seed(other=True)))
        rows[place] = row
    return tuple(rows)


def first_ranked(rows: Iterable[Row]) -> Row | None:
    """The first row that is no bound; None where there are bounds alone."""
    return next((row for row in rows if not row.bound), None)


def values_of(rows: Iterable[Row], other: bool = False) -> dict[str, dict[int, float]]:
    """By ranked method, the average accuracy of each seed; the `other` one of the methods that have it."""
    values = {row.method: row.by_seed(other) for row in rows if not row.bound}
    return {method: by_seed for method, by_seed in values.items() if by_seed}


def best_at_other(rows: Iterable[Row]) -> list[Row]:
    """The rows that have an accuracy in the other setting, the best at that first."""
    able = [row for row in rows if row.other_accuracy is not None]
    return sorted(able, key=lambda row: (-(row.other_accuracy or (0.0,))[0], row.method))


def summarise(
    runs: Sequence[RunResult], seeds: set[int], reference: float | None, joint: Mapping[int, list[float | None]]
) -> Row:
    """One method over its seeds.

    `reference`: the processor time of finetune in seconds; `joint`: the accuracies of joint training by seed.
    """
    matrices = [run.accuracy for run in runs]
    others = [run.other_accuracy for run in runs if run.other_accuracy]
    process_seconds = mean_cost(runs, "process_seconds")
    costs = [run.cost for run in runs if run.cost]
    phases: dict[str, list[float]] = {}
    for cost in costs:
        for phase, seconds in processor_time(cost).items():
            phases.setdefault(phase, []).append(seconds)
    return Row(
        method=runs[0].method,
        rank=None,
        bound=BOUNDS.get(runs[0].method),
        runs=tuple(runs),
        missing=tuple(sorted(seeds - {run.seed for run in runs})),
        accuracy=metrics.interval([metrics.average_accuracy(matrix) for matrix in matrices]),
        forgetting=estimate(metrics.average_forgetting(matrix) for matrix in matrices),
        learning=estimate(metrics.learning_accuracy(matrix) for matrix in matrices),
        so_far=[estimate(values) for values in zip(*map(metrics.accuracy_so_far, matrices), strict=True)],
        matrix=[
            [mean[0] if (mean := estimate(values)) else None for values in zip(*lines, strict=True)]
            for lines in zip(*matrices, strict=True)
        ],
        state_bytes=statistics.fmean(run.per_task[-1]["state_bytes"] for run in runs),
        seconds={phase: sum(seconds) / len(costs) for phase, seconds in phases.items()},
        process_seconds=process_seconds,
        peak_memory=mean_cost(runs, "peak_memory_bytes"),
        relative_time=process_seconds / reference if process_seconds and reference else None,
        measures={
            "backward transfer": estimate(metrics.backward_transfer(matrix) for matrix in matrices),
            "average incremental accuracy": estimate(metrics.average_incremental_accuracy(m) for m in matrices),
            "intransigence": estimate(intransigence(run, joint.get(run.seed)) for run in runs),
            "forward transfer": estimate(forward_transfer(run) for run in runs),
            "size efficiency": estimate(size_efficiency(run) for run in runs),
        },
        searched=[t for t in runs[0].trials if "stability" in t and t["phase"] != "plasticity"],
        other_accuracy=estimate(metrics.average_accuracy(matrix) for matrix in others),
        other_forgetting=estimate(metrics.average_forgetting(matrix) for matrix in others),
        other_learning=estimate(metrics.learning_accuracy(matrix) for matrix in others),
    )


def processor_time(cost: Cost) -> dict[str, float]:
    """The processor time of a run by phase. Phases are measured on the clock: each has that share of the whole."""
    clock: dict[str, float] = {}
    for entry in cost["per_task"]:
        for phase, seconds in entry["seconds"].items():
            clock[phase] = clock.get(phase, 0.0) + seconds
    total, spent = sum(clock.values()), cost["process_seconds"]
    return {phase: spent * seconds / total for phase, seconds in clock.items()} if spent and total else {}


def intransigence(run: RunResult, joint: Sequence[float | None] | None) -> float | None:
    """Intransigence against joint training with the same seed; None without it."""
    known = [value for value in joint or () if value is not None]
    return metrics.intransigence(run.accuracy, known) if known else None


def forward_transfer(run: RunResult) -> float | None:
    """Forward transfer; None unless accuracies were measured before each task was learned."""
    measured = [entry for entry in run.per_task if "zero_shot_accuracy" in entry]
    before = [entry["zero_shot_accuracy"] for entry in measured]
    return metrics.forward_transfer(before, [entry["untrained_accuracy"] for entry in measured])


def size_efficiency(run: RunResult) -> float | None:
    """Size efficiency of network and state; None without a recorded network size, or learned at once."""
    sizes = [entry["state_bytes"] + entry["network_bytes"] for entry in run.per_task if "network_bytes" in entry]
    return metrics.size_efficiency(sizes) if len(sizes) == len(run.tasks) else None


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean and interval of what was measured; None where nothing was."""
    measured = [value for value in values if value is not None]
    return metrics.interval(measured) if measured else None


def mean_cost(runs: Sequence[RunResult], field: Literal["process_seconds", "peak_memory_bytes"]) -> float | None:
    """Mean of one field of the cost files; None where there are none."""
    values = [value for run in runs if run.cost and (value := run.cost[field]) is not None]
    return statistics.fmean(values) if values else None
