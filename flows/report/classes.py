"""Final models class by class: what the page shows of `flows.serving.final`, and thumbnails of wrong answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from cl.data.places import prepared
from cl.data.prepare import is_whole, read_manifest
from cl.errors import UserError
from cl.params import Params
from flows.report.drawing import Drawing, save
from flows.report.looks import STYLE
from flows.report.summary import Summary
from flows.serving.confusion import confusion
from flows.serving.final import Final, Mistake, final_of

CONFUSION = "confusion-"
"""How the name of a figure begins; the rest is the method's."""
WORST = 5
SIDE = 64
"""Of a thumbnail, in pixels."""


@dataclass(frozen=True)
class Line:
    """A class in the table."""

    label: str
    task: str
    images: int
    accuracy: float
    taken_for: str | None
    """What its images were most often taken for; None where all are right."""
    taken: float
    """The share of its images that were."""


@dataclass(frozen=True)
class Thumbnail:
    """A test image that the model got wrong."""

    of: Mistake
    source: str
    """The image as an address that holds it."""


@dataclass(frozen=True)
class ClassByClass:
    """What the page shows of one method."""

    method: str
    seed: int
    final: Final | None
    why: str = ""
    """Why there is nothing to show."""
    lines: tuple[Line, ...] = ()
    """The classes in the order of their tasks."""
    worst: tuple[Line, ...] = ()
    elsewhere: float | None = None
    """The share of the wrong answers that name a class of another task; None where that cannot be."""
    pictures: tuple[Thumbnail, ...] = ()


def classes(params: Params, out: Path, summary: Summary, say: Callable[[str], None]) -> list[ClassByClass]:
    """Of the methods that the params name, the best first; of each the model of its first seed."""
    wanted = params.report.classes
    best = summary.best or summary.rows[0]
    rows = {"none": (), "best": (best,), "all": summary.rows}[wanted]
    made = []
    for run in (row.runs[0] for row in rows):
        try:
            final = final_of(params, out, run, say)
            shown = _thumbnails(params, out, final)
        except UserError as error:
            made.append(ClassByClass(run.method, run.seed, None, str(error)))
        else:
            made.append(_told(final, shown))
    return made


def _told(final: Final, pictures: tuple[Thumbnail, ...]) -> ClassByClass:
    found = final.judgement
    tasks = [task for task, size in final.groups for _ in range(size)]
    task_of = dict(zip(found.labels, tasks, strict=True))
    lines = {}
    for label, (count, accuracy) in found.by_class.items():
        other, taken = found.taken_for(label) or (None, 0)
        lines[label] = Line(label, task_of[label], count, accuracy, other, taken / count)
    worst = tuple(lines[label] for label in found.worst(WORST) if lines[label].accuracy < 1)
    elsewhere = None
    if final.asked == "task-agnostic" and len(set(tasks)) > 1:
        wrong = [
            (count, task_of[row] != task_of[column])
            for row, counts in found.confusion.items()
            for column, count in zip(found.labels, counts, strict=True)
            if row != column
        ]
        if total := sum(count for count, _ in wrong):
            elsewhere = sum(count for count, other in wrong if other) / total
    return ClassByClass(final.method, final.seed, final, "", tuple(lines.values()), worst, elsewhere, pictures)


def drawn(models: Sequence[ClassByClass]) -> dict[str, Drawing]:
    """The confusion of each model, by the name of the figure."""
    drawings = {}
    for model in models:
        if model.final is not None:
            name = CONFUSION + model.method
            with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
                drawings[name] = save(confusion(model.final.judgement, model.final.groups), name)
    return drawings


def _thumbnails(params: Params, out: Path, final: Final) -> tuple[Thumbnail, ...]:
    """Of the wrong answers of the highest probability; raises `UserError` where the prepared images are not there."""
    mistakes = final.mistakes[: params.report.pictures]
    if not mistakes:
        return ()
    folder = prepared(params, out, final.seed)
    manifest = read_manifest(folder)
    arrays = {}
    for task in {one.task for one in mistakes}:
        file = manifest["tasks"][task]["splits"]["test"]["images"]
        if not is_whole(folder / file["path"], file["sha256"]):
            raise UserError(f"{folder / file['path']}: missing or altered, so its images cannot be shown")
        arrays[task] = np.load(folder / file["path"], mmap_mode="r", allow_pickle=False)
    return tuple(Thumbnail(one, _png(arrays[one.task][one.image], manifest["scale"])) for one in mistakes)


def _png(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], scale: float) -> str:
    """A prepared image (C, H, W), of so many levels of grey, as an address."""
    levels = np.rint(image * (255 / scale)).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)))
    picture.thumbnail((SIDE, SIDE))
    png = io.BytesIO()
    picture.save(png, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
