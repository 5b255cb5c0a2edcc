"""A comparison in full: its rows, and what holds for all of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cl import metrics
from cl.chance import Chance
from cl.reading import RunResult
from flows.report.headline import above_chance, unlearned
from flows.report.rows import Row, best_at_other, first_ranked
from flows.report.words import student

MEASURES = {
    "backward transfer": "1/(T−1) Σ_{j<T} (a_{T,j} − a_{j,j}), in points",
    "average incremental accuracy": "1/T Σ_k A_k with A_k = 1/k Σ_{j≤k} a_{k,j}, in per cent",
    "intransigence": "1/T Σ_k (a*_k − a_{k,k}) with a* of joint training on all tasks, in points",
    "forward transfer": "1/(T−1) Σ_{j≥2} (a_{j−1,j} − b_j) with b of a network that has learned nothing, in points",
    "size efficiency": "min(1, 1/T Σ_i m_1 / m_i) with m_i the bytes of network and state after task i",
}
"""Measures that the survey does not have, with their formulas; a_{i,j}: test accuracy on task j after task i."""
FOLLOWED = ("average incremental accuracy", "forward transfer")
"""Those of them that DVC follows: the others follow from numbers that it has already."""
SHORT = {
    "average_accuracy": "accuracy",
    "average_accuracy_interval": "interval",
    "average_forgetting": "forgetting",
}
"""Of the measures in `metrics`, those for a small table, with short names."""
REMARKS = 8
"""The most remarks that a report shows."""
MARKS = {"upper bound": "▲", "lower bound": "▼"}


@dataclass(frozen=True)
class Summary:
    """The comparison: rows sorted by average accuracy, best first, and the sentence that sums them up."""

    benchmark: str
    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    headline: str
    folder: Path
    absent: tuple[str, ...] = ()  # methods that were asked for and have no result at all
    other_setting: str = ""  # of the other accuracy: "task-agnostic", or "task-aware"
    chance: Chance | None = None  # None where the prepared data are not there
    other_chance: Chance | None = None  # in the other setting
    chance_so_far: tuple[float, ...] = ()  # after each task

    @property
    def over_seeds(self) -> str:
        """What differs between the seeds."""
        return self.rows[0].runs[0].over_seeds

    @property
    def selected(self) -> bool:
        """Whether the protocol chose the hyperparameters, where there is a learning rate; else they were as given."""
        entries = [entry for row in self.rows for run in row.runs for entry in run.per_task]
        thresholds = [entry["threshold"] for entry in entries if entry["learning_rate"] is not None]
        return bool(thresholds) and None not in thresholds

    @property
    def in_one_pass(self) -> list[str]:
        """The methods that learned a task without gradient steps, and so without a learning rate."""
        entries = [(row.method, entry) for row in self.rows for run in row.runs for entry in run.per_task]
        return list(dict.fromkeys(method for method, entry in entries if entry["learning_rate"] is None))

    @property
    def remarks(self) -> list[str]:
        """What a reader has to know of single tasks before the numbers: the first few remarks."""
        lines = [
            f"{run.method}, seed {run.seed}, {entry['task']}: {remark}"
            for row in self.rows
            for run in row.runs
            for entry in run.per_task
            for remark in entry.get("remarks", ())
        ]
        more = [f"and {len(lines) - REMARKS} more, in the results' `remarks`"] if len(lines) > REMARKS else []
        return lines[:REMARKS] + more

    def other_ranking(self) -> list[Row]:
        """The rows that have an accuracy in the other setting, the best at that first; of one task it is the same."""
        return best_at_other(self.rows) if len(self.tasks) > 1 else []

    @property
    def best(self) -> Row | None:
        """The best ranked method; None where there are bounds alone."""
        return first_ranked(self.rows)

    @property
    def methods(self) -> list[str]:
        """The methods, the best first."""
        return [row.method for row in self.rows]

    @property
    def learned(self) -> bool:
        """Whether something was learned, so that ranks mean something; so too where chance is not known."""
        return not unlearned(self.rows, self.chance)

    @property
    def unfinished(self) -> list[str]:
        """The methods without any result, and the runs that are missing of others, as `lwf (seed 1)`."""
        parts = [(row.method, row.missing) for row in self.rows if row.missing]
        told = [f"{name} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})" for name, seeds in parts]
        return [*self.absent, *told]

    @property
    def crownable(self) -> bool:
        """Whether some method has a rank, so that a model of it is worth using."""
        return self.learned and self.best is not None

    @property
    def other_learned(self) -> bool:
        """The same in the other setting."""
        return not unlearned(self.rows, self.other_chance, other=True)

    def near_chance(self, row: Row, other: bool = False) -> bool:
        """Whether a method is near chance, in the scenario or in the `other` setting."""
        return not above_chance([row], self.other_chance if other else self.chance, other)

    @property
    def of_intervals(self) -> str:
        """The number of seeds and Student's t of each interval that is shown."""
        differences = [row.to_best for row in self.rows] + [row.other_to_best for row in self.rows]
        counts = {len(row.runs) for row in self.rows} | {one.n for one in differences if one is not None}
        return "; ".join(student(n) for n in sorted(counts, reverse=True))

    def metrics(self) -> dict[str, dict[str, float]]:
        """What DVC follows: one flat entry for each method, of deterministic values; a value of None is left out."""
        table: dict[str, dict[str, float]] = {}
        for row in sorted(self.rows, key=lambda row: row.method):
            values = {
                "average_accuracy": row.accuracy[0],
                "average_accuracy_interval": row.accuracy[1],
                "average_forgetting": row.forgetting[0] if row.forgetting else None,
                "seeds": len(row.runs),
                "rank": row.rank if self.learned else None,
            }
            if row.other_accuracy is not None:
                values[f"{self.other_setting.replace('-', '_')}_accuracy"] = row.other_accuracy[0]
            values |= {
                name.replace(" ", "_"): value[0] for name, value in row.measures.items() if value and name in FOLLOWED
            }
            table[row.method] = {key: round(value, 6) for key, value in values.items() if value is not None}
        return table

    def short_metrics(self) -> dict[str, dict[str, float]]:
        """By method, what `dvc metrics show` prints: so few columns, so short names, that a table fits a terminal."""
        other = f"{self.other_setting.replace('-', '_')}_accuracy"
        names = {**SHORT, other: self.other_setting.removeprefix("task-")}
        return {
            method: {short: round(values[name], 4) for name, short in names.items() if name in values}
            for method, values in self.metrics().items()
        }

    def has(self, bound: str) -> bool:
        """Whether a row of that kind of bound is among the results."""
        return any(row.bound == bound for row in self.rows)


def long_form(runs: Sequence[RunResult]) -> str:
    """Average accuracy so far, as CSV for `dvc plots`; `task` is the number of tasks learned."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["method", "seed", "task", "average_accuracy"])
    for run in runs:
        for task, value in enumerate(metrics.accuracy_so_far(run.accuracy), start=1):
            if value is not None:
                table.writerow([run.method, run.seed, task, round(value, 6)])
    return text.getvalue()
