"""What the files of a run say, as MLflow is to show it: runs, metrics by step, parameters and tables."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cl import metrics
from cl.reading import over_seeds, read_folder
from cl.results import OTHER_ACCURACY, Result, TaskCost
from flows.tracking.datasets import Dataset, Datasets

KEY_LENGTH, PARAM_LENGTH = 250, 6000
"""What MLflow takes at most of a name, and of a parameter."""
FILES = ("result.json", "trials.json", "cost.json")
PROCESSOR, STEPS = "processor_seconds", "step_seconds"
"""The metrics of time: processor time, as in the report, and the part of it spent in training steps."""
MARKER = "average_accuracy"
"""Stored with the last metrics of a task: where it is, the task was logged."""


@dataclass(frozen=True)
class Task:
    """What one learned task adds. Times in milliseconds since the run began."""

    name: str
    step: int  # number of tasks learned with it
    start: int
    end: int
    params: dict[str, str]  # of the nested MLflow run
    facts: dict[int, dict[str, float]]  # metrics of the nested MLflow run by step: of each trial, and of the task at 0
    progress: dict[str, float]  # metrics of the MLflow run, the marker first


class RunFiles:
    """What the folder of a run says; the folder may be empty or gone where nothing was learned.

    Of a `live` run only those tasks count that cost.json has, too: it is the last file to be written.
    """

    def __init__(self, name: str, folder: Path, live: bool) -> None:
        method, seed, _ = name.split("/")
        self.label = f"{method}/{seed}"
        self.digest = digest_of(folder)
        self.files = [folder / file for file in FILES if (folder / file).exists()]
        self.result, self.trials, self.cost = read_folder(folder)
        self.params = {"method": method, "seed": seed.removeprefix("seed-")}
        self.tags = dict(self.params)
        if self.result:
            self.tags["benchmark"] = self.result["benchmark"]
            self.tags["over_seeds"] = over_seeds("benchmark_seed" in self.result)
        machine = self.cost["machine"] if self.cost else {}
        self.tags |= {f"machine.{key}": str(value) for key, value in machine.items()}
        written = [file.stat().st_mtime for file in self.files] or [time.time()]
        self._clock = self.cost["seconds"] if self.cost else 0.0  # on the wall; shown as when the run began and ended
        self.end = int(1000 * max(written))  # milliseconds since the epoch
        self.start = self.end - int(1000 * self._clock)
        self.tasks = self._tasks(self.result, live) if self.result else []

    def wants(self, key: str) -> bool:
        """Whether this key of params.yaml concerns the run: all but the knobs of other methods."""
        return not key.startswith("methods.") or key.startswith(f"methods.{self.params['method']}.")

    def data(self, datasets: Datasets) -> Mapping[str, Dataset]:
        """Those it learned from, by task; empty where other tasks than its own are prepared."""
        known = datasets(int(self.params["seed"])) if self.result else {}
        return known if self.result and {*self.result["tasks"]} <= {*known} else {}

    def _tasks(self, result: Result, live: bool) -> list[Task]:
        matrix, names = result["accuracy"], _metric_names(result["tasks"])
        rows = [row for row, values in enumerate(matrix) if any(value is not None for value in values)]
        costs = {cost["task"]: cost for cost in self.cost["per_task"]} if self.cost else {}
        left = [entry["task"] for entry in result["per_task"]]
        tasks: list[Task] = []
        for row, entry in zip(rows, result["per_task"], strict=True):
            name = left.pop(0)
            if name not in costs and live:
                break
            progress = _progress(result, row)
            learned = metrics.learning_accuracy(matrix[: row + 1]) is not None
            facts = {"test_accuracy": matrix[row][row] if learned else progress[MARKER]}
            start = end = tasks[-1].end if tasks else 0
            if name in costs:
                later = [costs[task] for task in left if task in costs]
                progress |= self._cost_so_far(later)
                end = max(start, int(1000 * (self._clock - sum(map(_on_the_clock, later)))))
                facts |= _processor_time(costs[name])
            knobs = {f"knob.{key}": value for key, value in entry["knobs"].items()}
            numbers = _numbers({**entry, **knobs})
            facts |= numbers
            progress |= numbers
            progress |= {f"accuracy/{key}": a for key, a in zip(names, matrix[row], strict=True) if a is not None}
            rate = {} if entry["learning_rate"] is None else {"learning_rate": entry["learning_rate"]}
            params = flatten({"task": name} | rate | knobs)
            points = self._trials(name)
            points[0] = facts | points.get(0, {})
            tasks.append(Task(name, row + 1, start, end, params, points, progress))
        return tasks

    def _cost_so_far(self, later: Sequence[TaskCost]) -> dict[str, float]:
        """The whole cost up to a task is the total less what came later: so it ends at the total of the file."""
        assert self.cost is not None
        totals = {PROCESSOR: self.cost["process_seconds"], STEPS: self.cost.get("step_seconds")}
        parts = {
            PROCESSOR: [cost.get("process_seconds") for cost in later],
            STEPS: [cost.get("step_seconds") for cost in later],
        }
        spent = {
            name: total - sum(part for part in parts[name] if part is not None)
            for name, total in totals.items()
            if total is not None
        }
        if not later and self.cost["peak_memory_bytes"] is not None:  # known of the process as a whole only
            spent["peak_memory_bytes"] = self.cost["peak_memory_bytes"]
        return spent

    def _trials(self, task: str) -> dict[int, dict[str, float]]:
        """What the selection tried for a task, as metrics like `stability.accuracy`, by trial."""
        steps: dict[int, dict[str, float]] = {}
        for trial in self.trials["trials"] if self.trials else ():
            if trial.get("task") == task:
                tried: dict[str, object] = {
                    "accuracy": trial["accuracy"],
                    "threshold": trial["threshold"],
                    "learning_rate": trial["learning_rate"],
                }
                tried |= {f"knob.{key}": value for key, value in trial["knobs"].items()}
                values = {f"{trial['phase']}.{key}": value for key, value in _numbers(tried).items()}
                steps.setdefault(trial["trial"], {}).update(values)
        return steps

    def artifacts(self) -> dict[str, str]:
        """Texts to keep with the run, by file name: our own files, and what MLflow can show as a table."""
        texts = {file.name: file.read_text("utf-8") for file in self.files}
        if self.result:
            tasks = self.result["tasks"]
            rows = [[task, *row] for task, row in zip(tasks, self.result["accuracy"], strict=True)]
            texts["accuracy.csv"] = _csv([["after learning", *tasks], *rows])
        if self.trials and (trials := self.trials["trials"]):
            columns = [key for key in trials[0] if key != "knobs"]
            rows = [[*(t.get(key) for key in columns), json.dumps(t["knobs"], sort_keys=True)] for t in trials]
            texts["trials.csv"] = _csv([[*columns, "knobs"], *rows])
        return texts


def _progress(result: Result, row: int) -> dict[str, float]:
    """Averages after the task of this row, in the order in which MLflow shows and offers them."""
    seen = result["accuracy"][: row + 1]
    progress = {MARKER: metrics.average_accuracy(seen)}
    progress |= _numbers(
        {
            "average_forgetting": metrics.average_forgetting(seen),
            "learning_accuracy": metrics.learning_accuracy(seen),
            "average_incremental_accuracy": metrics.average_incremental_accuracy(seen),
        }
    )
    for kind in OTHER_ACCURACY:
        if kind in result:
            progress[f"average_{kind}"] = metrics.average_accuracy(result[kind][: row + 1])  # type: ignore[literal-required]
    return progress


def _on_the_clock(cost: TaskCost) -> float:
    return sum(cost["seconds"].values())


def _processor_time(cost: TaskCost) -> dict[str, float]:
    """What a task cost, in all, in training steps and by phase; the phases, known on the clock alone, share it."""
    spent, clock = cost.get("process_seconds"), _on_the_clock(cost)
    facts = _numbers({PROCESSOR: spent, STEPS: cost.get("step_seconds")})
    if spent is not None and clock > 0:
        facts |= {f"{PROCESSOR}/{phase}": spent * part / clock for phase, part in cost["seconds"].items()}
    return facts


def digest_of(folder: Path, files: Sequence[str] = FILES) -> str:
    """Sha256 over the files of a run."""
    digest = hashlib.sha256()
    for path in (folder / file for file in files):
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.exists() else b"none")
    return digest.hexdigest()


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    return {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested settings as MLflow's parameters: `training.epochs` -> `70`."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[_clean(f"{prefix}{key}")] = text[:PARAM_LENGTH]
    return flat


def _clean(key: str, length: int = KEY_LENGTH) -> str:
    """A name that MLflow takes for a parameter or, in part, for a metric."""
    return re.sub(r"[^\w.\- :]", "_", key)[:length].strip(". ") or "_"


def _metric_names(tasks: Sequence[str]) -> list[str]:
    """Names of tasks as parts of a metric's name; unlike ones stay unlike."""
    names = [_clean(task, KEY_LENGTH - 50) for task in tasks]
    return names if len(set(names)) == len(names) else [f"{i:03d} {name}" for i, name in enumerate(names, 1)]


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
