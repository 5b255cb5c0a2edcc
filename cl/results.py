"""What the files of a run hold: result.json, trials.json, cost.json, and the record in each checkpoint.

Their types are written here, and they are made here, by pure functions. `cl.reading` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from cl.metrics import average_accuracy, average_forgetting

SCHEMA = 1
TASK_INCREMENTAL = "task-incremental"
OTHER_ACCURACY = ("task_agnostic_accuracy", "task_aware_accuracy")


def _value(value: Any) -> Any:
    """The value of a knob: a number, a text, true or false, None, or a list of these."""
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, bool | int | float | str | None):
            raise ValueError("is no value of a knob")
    return value


Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, Field(ge=0, le=1e15)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Size = Annotated[int, Field(ge=1, le=2**53)]
Text = Annotated[str, Field(min_length=1, max_length=300)]
Values = dict[Text, Annotated[Any, AfterValidator(_value)]]
Matrix = list[list[float | None]]
"""Accuracy after task i (row) on task j (column), in [0, 1]; None where it was not measured."""


class Head(TypedDict):
    """The fields that say which run a file is of."""

    schema: int
    benchmark: Text
    method: Text
    seed: Count


class TaskResult(TypedDict):
    """How one task was learned."""

    task: Text
    learning_rate: Number | None
    plasticity_accuracy: Share | None
    threshold: Share | None
    knobs: Values
    attempts: Count
    validation_accuracy: Share
    steps: Count
    state_bytes: Count
    network_bytes: NotRequired[Size]
    zero_shot_accuracy: NotRequired[Share]
    untrained_accuracy: NotRequired[Share]
    remarks: NotRequired[list[Text]]


class Backbone(TypedDict):
    """The pretrained network whose features were learned from, or which was trained further."""

    name: Text
    weights: Text
    """SHA-256 of the file they came in."""
    image_size: Size
    setting: Text
    """What keeps such results from one ranking with others: `features of efficientnet-lite0`."""


class Result(Head):
    """result.json."""

    scenario: NotRequired[Text]
    tasks: list[Text]
    accuracy: Any  # a `Matrix`, which `cl.reading.defect` checks
    average_accuracy: NotRequired[Share]
    average_forgetting: NotRequired[Annotated[float, Field(ge=-1, le=1)] | None]
    per_task: list[TaskResult]
    search: NotRequired[Annotated[str, Field(max_length=300)]]
    reduced: NotRequired[dict[Text, Count | Share | Literal[False]]]
    backbone: NotRequired[Backbone]
    benchmark_seed: NotRequired[Literal["run"]]
    task_agnostic_accuracy: NotRequired[Any]
    task_aware_accuracy: NotRequired[Any]


class TrialResult(TypedDict):
    """One trial."""

    task: NotRequired[str]
    task_index: Count
    phase: Text
    trial: Count
    learning_rate: Number | None
    knobs: Values
    accuracy: Share
    threshold: Share | None
    stability: NotRequired[Share]
    instability: NotRequired[Annotated[float, Field(ge=0)]]
    diverged: NotRequired[bool]
    kept: bool
    epochs: Count
    steps: Count


class Trials(Head):
    """trials.json."""

    trials: list[TrialResult]


class TaskCost(TypedDict):
    """What one task cost, in seconds: by phase on the clock, and processor time, in all and in training steps."""

    task: Text
    seconds: dict[Text, Number]
    process_seconds: NotRequired[Number | None]
    step_seconds: NotRequired[Number | None]


class Cost(Head):
    """cost.json."""

    machine: Values
    precision: NotRequired[Text]
    seconds: Number
    process_seconds: Number | None
    step_seconds: NotRequired[Number | None]
    peak_memory_bytes: Annotated[float, Field(gt=0, le=1e15)] | None
    per_task: list[TaskCost]


class Record(TypedDict):
    """What a checkpoint holds about its task for the files of the run."""

    accuracy: list[float]
    """Test accuracy on every task so far."""
    other_accuracy: list[float] | None
    """Task-agnostic where `accuracy` is task-aware, and the other way round; None where there is none."""
    next_knobs: dict[str, Any]
    """The knobs that the next task starts from."""
    per_task: TaskResult
    trials: list[TrialResult]


def result_of(
    head: Head,
    tasks: Sequence[str],
    records: Sequence[Record],
    scenario: str,
    search: str,
    reduced: Mapping[str, float],
    backbone: Backbone | None = None,
    drawn: bool = False,
) -> Result:
    """result.json so far; a single record that covers all tasks is of tasks learned at once.

    `drawn`: the run's seed drew the splits and permutations too.
    """
    matrix = matrix_of([record["accuracy"] for record in records], len(tasks))
    result: Result = {
        **head,  # type: ignore[typeddict-item]  # what need not be there follows
        "scenario": scenario,
        "tasks": list(tasks),
        "accuracy": matrix,
        "average_accuracy": average_accuracy(matrix),
        "average_forgetting": average_forgetting(matrix),
        "per_task": [record["per_task"] for record in records],
    }
    if search:
        result["search"] = search
    if reduced:
        result["reduced"] = dict(reduced)
    if backbone is not None:
        result["backbone"] = backbone
    if drawn:
        result["benchmark_seed"] = "run"
    others = [other for record in records if (other := record["other_accuracy"]) is not None]
    if others:
        aware = scenario.endswith(TASK_INCREMENTAL)
        result["task_agnostic_accuracy" if aware else "task_aware_accuracy"] = matrix_of(others, len(tasks))
    return result


def matrix_of(rows: Sequence[Sequence[float]], tasks: int) -> Matrix:
    """A row for each task, filled as far as tasks were learned; of tasks learned at once, the last row alone."""
    # A record holds the tasks there were when it was written, so a further task changes none of the records.
    filled: Matrix = [[*row, *[None] * (tasks - len(row))] for row in rows]
    empty: Matrix = [[None] * tasks for _ in range(tasks - len(rows))]
    return empty + filled if len(rows[0]) > 1 else filled + empty


def trials_of(head: Head, records: Sequence[Record]) -> Trials:
    """trials.json."""
    return {**head, "trials": [trial for record in records for trial in record["trials"]]}


def cost_of(head: Head, costs: Sequence[TaskCost], machine: Mapping[str, Any], reduced: bool, peak_memory: int) -> Cost:
    """cost.json; `reduced`: in bfloat16. `peak_memory`: the highest resident memory of the process, in bytes."""
    return {
        **head,
        "machine": dict(machine),
        "precision": "bfloat16" if reduced else "float32",
        "seconds": sum(sum(cost["seconds"].values()) for cost in costs),
        "process_seconds": sum(cost["process_seconds"] or 0.0 for cost in costs),
        "step_seconds": sum(cost["step_seconds"] or 0.0 for cost in costs),
        "peak_memory_bytes": peak_memory,
        "per_task": list(costs),
    }
