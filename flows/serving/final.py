"""The final model of a run, class by class, on the test images of its comparison.

What was found is kept in `<out>/.work/judged`, under a key of all that decides it, so a second report needs neither
torch nor time. Nothing here imports torch before it has to be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from cl.data import features
from cl.data.places import place
from cl.data.prepare import digest
from cl.errors import UserError
from cl.files import read_json, read_object, sealed, sha256_of, unsealed, write_json
from cl.imports import closure, path_of
from cl.params import Params
from cl.reading import RunResult
from cl.register import declares
from flows.serving.judgement import Judgement, class_of, is_right, judge, name_of
from flows.serving.learned import deployed, key_of
from flows.serving.pictures import Answer, Picture, named

if TYPE_CHECKING:
    from cl.data import Task
    from cl.deployed import Deployed

MISTAKES = 100
"""So many are kept, those of the highest probability."""
NUMBERS = ("images", "temperature", "test_images", "ece_before", "ece_after")
"""What is kept of a calibration (`cl.calibrate.calibrated`)."""


@dataclass(frozen=True)
class Mistake:
    """A test image that the model got wrong."""

    task: int
    image: int
    """Its place among the test images of the task."""
    label: str
    answer: str
    probability: float
    """Of the answer, calibrated."""


@dataclass(frozen=True)
class Final:
    """How a final model answers."""

    method: str
    seed: int
    asked: str
    """As in the scenario: `task-aware` or `task-agnostic`."""
    judgement: Judgement
    groups: list[tuple[str, int]]
    """The tasks, and how many of the judgement's columns each brings."""
    calibration: dict[str, dict[str, float]]
    """The calibration error before and after, by how the model is asked."""
    mistakes: list[Mistake]
    """The wrong answers of the highest probability, that first."""


AGAIN = "the same comparison, run again, learns the model anew"
FINAL: TypeAdapter[Final] = TypeAdapter(Final)


def final_of(params: Params, out: Path, run: RunResult, say: Callable[[str], None]) -> Final:
    """As it was kept, or computed from the checkpoint.

    Raises `UserError` where the checkpoint is missing, damaged, or of other params, data or code.
    """
    if params.benchmark.drawn:
        raise UserError("each seed draws a benchmark of its own, so no model is the model of them all")
    index = 0 if declares(run.method, "sees_all_tasks") else len(run.tasks) - 1
    folder = out / "checkpoints" / run.method / f"seed-{run.seed}" / f"task-{index}"
    manifest = read_object(folder / "manifest.json")
    if not manifest:
        raise UserError(f"there is no checkpoint {folder}; {AGAIN}")
    if manifest.get("key") != key_of(params, out, run.method, run.seed, index):
        raise UserError(f"{folder} was learned with other params, data or code; {AGAIN}")
    key = digest([manifest, {module: sha256_of(path_of(module)) for module in sorted(closure([__name__]))}])
    kept = out / ".work" / "judged" / f"{run.method}-{run.seed}.json"
    if (found := _kept(kept, key)) is not None:
        return found
    say(f"report: {run.method}, seed {run.seed}: the final model, class by class")
    found = _computed(params, out, run, index)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, sealed({"key": key, "final": asdict(found)}))
    return found


def _kept(path: Path, key: str) -> Final | None:
    """None where nothing of this key was kept, or it was altered."""
    content = unsealed(read_json(path)) if path.is_file() else None
    if content is None or content.get("key") != key:
        return None
    try:
        return FINAL.validate_python(content["final"])
    except ValidationError:  # of another version
        return None


def _computed(params: Params, out: Path, run: RunResult, index: int) -> Final:
    from cl.calibrate import calibrated
    from cl.data import load
    from cl.deployed import Calibration

    model = deployed(params, out, run, index, pictures=False)
    crop, own = params.training.augmentation.crop, features.numbers(params)
    tasks = load(place(params, out, run.seed), crop=crop, numbers=own).tasks
    numbers, tensors = calibrated(model, tasks, None)
    model.calibration = Calibration.read(numbers, tensors)
    aware = params.scenario.name == "task"
    said = [_answers(model, task, aware) for task in tasks]
    judgement = judge(model, [answer for of_task in said for answer in of_task])
    assert judgement is not None, "a test image is of a class"
    return Final(
        run.method,
        run.seed,
        "task-aware" if aware else "task-agnostic",
        judgement,
        _groups(model, judgement.labels),
        {asked: {name: numbers[asked][name] for name in NUMBERS} for asked in numbers if asked.startswith("task-")},
        _mistakes(model, said),
    )


def _answers(model: Deployed, task: Task, aware: bool) -> list[Answer]:
    """Of the task's test images, asked as in the scenario."""
    told = task.index if aware else None
    of = task.index if model.method.net.increment == "domain" else told  # there a class has a name in each task
    pictures = [Picture(str(k), task.classes[label], task.name) for k, label in enumerate(task.test.y.tolist())]
    return named(model, model.outputs(task.test, told), told, model.columns(of), pictures)


def _groups(model: Deployed, labels: Sequence[str]) -> list[tuple[str, int]]:
    brought: dict[str, str] = {}
    for task, classes in model.tasks.items():
        for label in classes:
            brought.setdefault(name_of(model, task, label), task)
    return [(task, sum(brought[label] == task for label in labels)) for task in model.tasks]


def _mistakes(model: Deployed, said: Sequence[Sequence[Answer]]) -> list[Mistake]:
    wrong = [
        Mistake(
            task,
            image,
            class_of(model, answer.picture) or "",
            name_of(model, answer.task, answer.label or ""),
            answer.probability,
        )
        for task, of_task in enumerate(said)
        for image, answer in enumerate(of_task)
        if not is_right(model, answer)
    ]
    return sorted(wrong, key=lambda one: (-one.probability, one.task, one.image))[:MISTAKES]
