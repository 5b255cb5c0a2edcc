"""Reading the result files back, checked: `<out>/results/<method>/seed-<s>.json` and the two files beside each.

Others may have written or edited them. This module checks types and ranges, on which all later code relies, and ignores
fields that it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cl.called import program
from cl.errors import UserError, count
from cl.files import from_json
from cl.results import (
    OTHER_ACCURACY,
    SCHEMA,
    TASK_INCREMENTAL,
    Backbone,
    Cost,
    Matrix,
    Result,
    TaskResult,
    TrialResult,
    Trials,
)
from cl.sections import DRAWN

SHOWN = 3
"""So many names of a long list are shown."""

RESULT: TypeAdapter[Any] = TypeAdapter(Result)
TRIALS: TypeAdapter[Any] = TypeAdapter(Trials)
COST: TypeAdapter[Any] = TypeAdapter(Cost)


@dataclass(frozen=True)
class RunResult:
    """One method and seed: what its result file says, its trials, and its cost where that was kept."""

    path: Path
    method: str
    seed: int
    benchmark: str
    tasks: tuple[str, ...]
    accuracy: Matrix  # [after task i][on task j] in [0, 1], None where not measured
    per_task: list[TaskResult]
    trials: list[TrialResult]
    cost: Cost | None
    reduced: dict[str, float]  # what the benchmark was scaled to by options
    scenario: str = TASK_INCREMENTAL  # task-incremental, online class-incremental, ...
    search: str = ""  # how knobs were chosen where it was not by the survey's protocol
    other_accuracy: Matrix | None = None  # task-agnostic where the scenario is task-aware, or aware
    backbone: Backbone | None = None  # the pretrained network, where there is one
    drawn: bool = False  # whether the seed drew the benchmark's splits and permutations too

    @property
    def benchmark_as_run(self) -> str:
        """Its name, in brackets what it was scaled to, and what else keeps results from one ranking."""
        return ", ".join(filter(None, [as_run(self.benchmark, self.reduced), self.setting]))

    @property
    def setting(self) -> str:
        """What keeps results out of one ranking: a benchmark drawn by each seed, scenario, search, pretrained network.

        Defaults are left out.
        """
        scenario = self.scenario if self.scenario != TASK_INCREMENTAL else ""
        backbone = self.backbone["setting"] if self.backbone is not None else ""
        return ", ".join(filter(None, [DRAWN if self.drawn else "", scenario, self.search, backbone]))

    @property
    def over_seeds(self) -> str:
        """What an interval over the seeds covers."""
        return over_seeds(self.drawn)


def read_runs(
    out: Path,
    methods: Collection[str] | None = None,
    seeds: Collection[int] | None = None,
    failed: Collection[str] = (),
) -> list[RunResult]:
    """The finished runs under `out` by method and seed, of the given methods and seeds (None: all there are).

    `failed`: runs, as `ewc/seed-0`, whose files are not read, being those of an earlier run. Raises `UserError` where
    there is none, and unless all are of one task sequence, or those of a seed where each seed draws one.
    """
    candidates = [(path, re.fullmatch(r"seed-(\d+)", path.stem)) for path in out.glob("results/*/seed-*.json")]
    paths = sorted(
        (path.parent.name, int(name[1]), path)
        for path, name in candidates
        if name and (methods is None or path.parent.name in methods) and (seeds is None or int(name[1]) in seeds)
        if f"{path.parent.name}/seed-{int(name[1])}" not in failed
    )
    if not paths:
        raise UserError(f"no results under {out / 'results'}: run `{program('flows.compare')} --out {out}` first.")
    runs = [read_run(path, method, seed) for method, seed, path in paths]
    first, of_seed = runs[0], {run.seed: run for run in reversed(runs)}
    for run in runs:
        alike = of_seed[run.seed] if first.drawn else first
        same = run.tasks == alike.tasks and len(run.tasks) == len(first.tasks)
        if run.benchmark_as_run != first.benchmark_as_run or not same:
            raise UserError(
                f"{first.path} and {run.path} are of different task sequences or scenarios ({first.benchmark_as_run}, "
                f"{count(len(first.tasks), 'task')}; {run.benchmark_as_run}, {count(len(run.tasks), 'task')}) "
                "and cannot be ranked together: keep each sequence in a folder of its own (--out), or delete "
                "what is out of date."
            )
    return runs


def task_names(runs: Sequence[RunResult]) -> tuple[str, ...]:
    """Of runs that are ranked together: their tasks, in order, by number where each seed has tasks of its own."""
    names = {run.tasks for run in runs}
    return names.pop() if len(names) == 1 else tuple(f"task {k + 1}" for k in range(len(runs[0].tasks)))


def some(names: Sequence[str]) -> str:
    """Names between commas; of many the first, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:SHOWN])} and {more} more"


def read_run(path: Path, method: str, seed: int) -> RunResult:
    """One result file with its two companions; UserError naming the file that is damaged or incomplete."""
    again = f"delete it and run `{program('flows.compare')} --methods {method} --seeds {seed}` again."
    if path.stem != f"seed-{seed}":
        raise UserError(f"{path} does not have the name of a result: rename it to seed-{seed}.json, or {again}")
    data = _read(path, RESULT, again)
    if (data["method"], data["seed"]) != (method, seed):
        raise UserError(f"{path} holds {data['method'][:80]}, seed {data['seed']}: put it where it belongs, or {again}")
    other_accuracy = next((data[name] for name in OTHER_ACCURACY if name in data), None)
    problem = defect(data["accuracy"], len(data["tasks"])) or _contradiction(data)
    if not problem and other_accuracy is not None:
        problem = defect(other_accuracy, len(data["tasks"]))
    if problem:
        raise UserError(f"{path} is damaged or unfinished ({problem}): {again}")

    def companion(kind: str, schema: TypeAdapter[Any]) -> Any:
        file = path.with_suffix(f".{kind}.json")
        if not file.exists():
            return None
        content = _read(file, schema, again)
        for name in ("benchmark", "method", "seed"):
            if content[name] != data[name]:
                raise UserError(f"{file} is of another run (its {name} is {_short(content[name])}): {again}")
        return content

    trials, cost = companion("trials", TRIALS), companion("cost", COST)
    for number, trial in enumerate(trials["trials"] if trials else []):
        if trial["task_index"] >= len(data["tasks"]):
            file = path.with_suffix(".trials.json")
            raise UserError(f"{file} is damaged (trials.{number}.task_index: there is no such task): {again}")
    return RunResult(
        path=path,
        method=method,
        seed=seed,
        benchmark=data["benchmark"],
        tasks=tuple(data["tasks"]),
        accuracy=data["accuracy"],
        per_task=data["per_task"],
        trials=trials["trials"] if trials else [],
        cost=cost,
        reduced=data.get("reduced", {}),
        scenario=data.get("scenario", TASK_INCREMENTAL),
        search=data.get("search", ""),
        other_accuracy=other_accuracy,
        backbone=data.get("backbone"),
        drawn=data.get("benchmark_seed") == "run",
    )


def over_seeds(drawn: bool) -> str:
    """What differs between the seeds, and what an interval over them therefore covers."""
    own = "initialisation, order of samples and draws"
    return f"{own}, and the benchmark's own draws (splits, permutations)" if drawn else f"{own}; the benchmark stays"


def read_folder(folder: Path) -> tuple[Result | None, Trials | None, Cost | None]:
    """The files of a run in its work folder, as far as it has come; None for one that is not there.

    Raises `UserError` for one that is damaged.
    """
    again = "delete it, and it is written anew"
    files = {folder / "result.json": RESULT, folder / "trials.json": TRIALS, folder / "cost.json": COST}
    result, trials, cost = (_read(file, schema, again) if file.exists() else None for file, schema in files.items())
    return result, trials, cost


def _read(file: Path, schema: TypeAdapter[Any], again: str) -> Any:
    """What is in the file, once it is as the schema has it."""
    try:
        if not file.is_file():
            raise OSError("it is no file")
        data = from_json(file.read_bytes())
    except (ValueError, OSError) as error:
        raise UserError(f"{file} cannot be read ({_short(error)}): {again}") from None
    if not isinstance(data, dict) or type(data.get("schema")) is not int or data["schema"] != SCHEMA:
        raise UserError(f"{file} is not a file of schema {SCHEMA}: {again}")
    try:
        schema.validate_python(data, strict=True)
    except ValidationError as error:
        raise UserError(f"{file} is {_fault(error)}: {again}") from None
    return data


def _fault(error: ValidationError) -> str:
    """The first of what is lacking, or else wrong, in words."""
    faults = error.errors(include_url=False)
    first = next((one for one in faults if one["type"] == "missing"), faults[0])
    *above, last = (part if isinstance(part, str) and len(part) < 40 else _short(part, 40) for part in first["loc"])
    if first["type"] == "missing":
        where = f" in {'.'.join(above)}" if above else ""
        return f"incomplete (no {last}{where})"
    if first["type"] == "list_type":
        return f"damaged ({'.'.join([*above, last])} is not a list)"
    return f"damaged ({'.'.join([*above, last])}: {first['msg']}, not {_short(first['input'])})"


def _short(value: Any, most: int = 80) -> str:
    text = " ".join((str(value) if isinstance(value, Exception) else repr(value)).split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _contradiction(data: Mapping[str, Any]) -> str:
    """What the fields of a finished run say against each other ("" where nothing)."""
    entries, names = data["per_task"], data["tasks"]
    if not entries:
        return "per_task is empty"
    at_once = all(value is None for row in data["accuracy"][:-1] for value in row)
    learned = [entry["task"] for entry in entries]
    if learned != names and not (at_once and len(learned) == 1):
        return "per_task does not have one entry for each task, in their order"
    if any(("zero_shot_accuracy" in entry) != ("untrained_accuracy" in entry) for entry in entries):
        return "per_task has one of zero_shot_accuracy and untrained_accuracy without the other"
    return ""


def defect(matrix: Any, tasks: int) -> str:
    """What is wrong with the accuracy matrix of a finished run; empty if nothing is."""
    if not isinstance(matrix, list) or len(matrix) != tasks or not tasks:
        return f"its accuracy matrix does not have one row for each of {count(tasks, 'task')}"
    if not all(isinstance(row, list) and len(row) == tasks for row in matrix):
        return f"a row of its accuracy matrix does not have {count(tasks, 'value')}"
    at_once = all(value is None for row in matrix[:-1] for value in row)
    for i in range(tasks - 1 if at_once else 0, tasks):
        if not all(type(value) in (float, int) and 0 <= value <= 1 for value in matrix[i][: i + 1]):
            return f"row {i + 1} of its accuracy matrix has a value that is missing or not in [0, 1]"
        if any(value is not None for value in matrix[i][i + 1 :]):
            return f"row {i + 1} of its accuracy matrix has a value of a task that was not learned yet"
    return ""


def as_run(benchmark: str, reduced: Mapping[str, float]) -> str:
    """`tiny-imagenet (image_size 32, train_per_class 100)`."""
    return f"{benchmark} ({', '.join(f'{name} {value}' for name, value in reduced.items())})" if reduced else benchmark
