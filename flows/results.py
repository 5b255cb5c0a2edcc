"""Reading the result files back, checked: `<out>/results/<method>/seed-<s>.json` and the two files beside each."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl.errors import UserError

# What must be in a file: its own fields, the field that lists its entries, and the fields of each entry.
RESULT = (
    ("benchmark", "method", "seed", "tasks", "accuracy"),
    "per_task",
    ("task", "learning_rate", "plasticity_accuracy", "threshold", "knobs", "attempts", "validation_accuracy",
     "state_bytes"),
)  # fmt: skip
TRIALS = ((), "trials", ("task_index", "phase", "learning_rate", "knobs", "accuracy", "threshold", "kept"))
PLAIN = "task-incremental"
OTHERWISE = ("task_agnostic_accuracy", "task_aware_accuracy")
COST = (("machine", "seconds", "process_seconds", "peak_memory_bytes"), "per_task", ("task", "seconds"))


@dataclass(frozen=True)
class Run:
    """One method and seed: what its result file says, its trials, and its cost where that was kept."""

    path: Path
    method: str
    seed: int
    benchmark: str
    tasks: tuple[str, ...]
    accuracy: list[list[float | None]]  # [after task i][on task j] in [0, 1], None where not measured
    per_task: list[dict[str, Any]]
    trials: list[dict[str, Any]]
    cost: dict[str, Any] | None
    reduced: dict[str, int]  # what the benchmark was scaled to by options
    scenario: str = PLAIN  # task-incremental, online class-incremental, ...
    search: str = ""  # how knobs were chosen where it was not by the survey's protocol
    otherwise: list[list[float | None]] | None = None  # accuracy, the task not told where else it is, or told

    @property
    def benchmark_as_run(self) -> str:
        """Its name, in brackets what it was scaled to, and what else keeps results from one ranking."""
        return ", ".join(filter(None, [as_run(self.benchmark, self.reduced), self.setting]))

    @property
    def setting(self) -> str:
        """The scenario and the search where they are not the usual ones."""
        return ", ".join(filter(None, [self.scenario if self.scenario != PLAIN else "", self.search]))


def read_runs(
    out: Path,
    methods: Collection[str] | None = None,
    seeds: Collection[int] | None = None,
    failed: Collection[str] = (),
) -> list[Run]:
    """The finished runs under `out` by method and seed, of the given methods and seeds (None: all there are).

    `failed`: units, as `ewc/seed-0`, whose files are not read, being those of an earlier run. Raises `UserError` where
    there is none, and unless all are of one task sequence.
    """
    found = [(path, re.fullmatch(r"seed-(\d+)", path.stem)) for path in out.glob("results/*/seed-*.json")]
    paths = sorted(
        (path.parent.name, int(name[1]), path)
        for path, name in found
        if name and (methods is None or path.parent.name in methods) and (seeds is None or int(name[1]) in seeds)
        if f"{path.parent.name}/seed-{int(name[1])}" not in failed
    )
    if not paths:
        raise UserError(f"no results under {out / 'results'}: run `python -m flows.benchmark --out {out}` first.")
    runs = [read_run(path, method, seed) for method, seed, path in paths]
    first = runs[0]
    for run in runs:
        if (run.benchmark_as_run, run.tasks) != (first.benchmark_as_run, first.tasks):
            raise UserError(
                f"{first.path} and {run.path} are of different task sequences or scenarios ({first.benchmark_as_run}, "
                f"{count(len(first.tasks), 'task')}; {run.benchmark_as_run}, {count(len(run.tasks), 'task')}) "
                "and cannot be ranked together: keep each sequence in a folder of its own (--out), or delete "
                "what is out of date."
            )
    return runs


def read_run(path: Path, method: str, seed: int) -> Run:
    """One result file with its two companions; UserError naming the file that is damaged or incomplete."""
    again = f"delete it and run `python -m flows.benchmark --methods {method} --seeds {seed}` again."

    def load(file: Path, fields: Sequence[str], entries: str, entry_fields: Sequence[str]) -> dict[str, Any]:
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise UserError(f"{file} cannot be read ({error}): {again}") from error
        if not isinstance(data, dict) or data.get("schema") != 1:
            raise UserError(f"{file} is not a file of schema 1: {again}")
        if lacking := [name for name in (*fields, entries) if name not in data]:
            raise UserError(f"{file} is incomplete (no {', '.join(lacking)}): {again}")
        for name in {"tasks", entries} & set(data):
            if not isinstance(data[name], list):
                raise UserError(f"{file} is damaged ({name} is not a list): {again}")
        for entry in data[entries]:
            if lacking := [name for name in entry_fields if name not in entry]:
                raise UserError(f"{file} is incomplete (no {', '.join(lacking)} in {entries}): {again}")
        return data

    def companion(kind: str, *expected: Any) -> dict[str, Any] | None:
        file = path.with_suffix(f".{kind}.json")
        return load(file, *expected) if file.exists() else None

    data = load(path, *RESULT)
    if (data["method"], data["seed"]) != (method, seed):
        raise UserError(f"{path} holds {data['method']}, seed {data['seed']}: put it where it belongs, or {again}")
    if problem := defect(data["accuracy"], len(data["tasks"])) or ("" if data["per_task"] else "per_task is empty"):
        raise UserError(f"{path} is damaged or unfinished ({problem}): {again}")
    trials = companion("trials", *TRIALS)
    return Run(
        path=path,
        method=method,
        seed=seed,
        benchmark=data["benchmark"],
        tasks=tuple(data["tasks"]),
        accuracy=data["accuracy"],
        per_task=data["per_task"],
        trials=trials["trials"] if trials else [],
        cost=companion("cost", *COST),
        reduced=data.get("reduced", {}),
        scenario=data.get("scenario", PLAIN),
        search=data.get("search", ""),
        otherwise=next((data[name] for name in OTHERWISE if name in data), None),
    )


def defect(matrix: Any, tasks: int) -> str:
    """What is wrong with the accuracy matrix of a finished run ("" where nothing is)."""
    if not isinstance(matrix, list) or len(matrix) != tasks or not tasks:
        return f"its accuracy matrix has not one row for each of {count(tasks, 'task')}"
    if not all(isinstance(row, list) and len(row) == tasks for row in matrix):
        return f"a row of its accuracy matrix has not {count(tasks, 'value')}"
    at_once = all(value is None for row in matrix[:-1] for value in row)
    for i in range(tasks - 1 if at_once else 0, tasks):
        if not all(isinstance(value, float | int) and 0 <= value <= 1 for value in matrix[i][: i + 1]):
            return f"row {i + 1} of its accuracy matrix has a value that is missing or not in [0, 1]"
    return ""


def as_run(benchmark: str, reduced: Mapping[str, int]) -> str:
    """`tiny-imagenet (image_size 32, train_per_class 100)`."""
    return f"{benchmark} ({', '.join(f'{name} {value}' for name, value in reduced.items())})" if reduced else benchmark


def count(number: int, noun: str) -> str:
    """A number of things: "1 task", "10 tasks"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
