"""Picture files, many of them, and what a model says of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl.data.benchmarks.folder import SPLIT_FOLDERS
from cl.data.images import Listing, raw_tasks
from cl.data.prepare import Say
from cl.data.progress import SAY_EVERY, duration
from cl.data.source import Folder
from cl.data.subsets import composed
from cl.errors import UserError

if TYPE_CHECKING:
    from cl.deployed import Column, Deployed, Outputs

TOGETHER = 256
"""So many pictures are decoded while those before them go through the network."""
LISTS = (".txt", ".list")
"""How the name of a file ends that lists pictures, one path a line."""


@dataclass(frozen=True)
class Picture:
    """A picture file, and what its folders say of it."""

    path: str
    """Relative to the root, with slashes."""
    label: str | None = None
    """The folder it is in."""
    task: str | None = None
    """The folder above that."""


@dataclass(frozen=True)
class Answer:
    """What the model says of a picture, or why the file is none (`fault`)."""

    picture: Picture
    task: str | None = None
    label: str | None = None
    probability: float = 0.0
    known: bool | None = None
    nearness: float = 0.0
    fault: str | None = None


def found(where: Path) -> tuple[Path, list[Picture]]:
    """The root and the pictures of a folder (all files below it), of a list, or of a single picture.

    Raises `UserError` where there is nothing.
    """
    if where.is_dir():
        names = Folder(where).names()
        pictures = [_in_folders(name) for name in names]
    elif not where.is_file():
        raise UserError(f"{where}: is not there; give a folder of pictures, a picture, or a list of pictures (.txt)")
    elif where.suffix in LISTS:
        lines = where.read_text(encoding="utf-8").splitlines()
        pictures = [Picture(str(Path(line.strip()).absolute())[1:]) for line in lines if line.strip()]
        where = Path("/")
    else:
        pictures, where = [Picture(where.name)], where.parent
    if not pictures:
        raise UserError(f"{where}: holds no picture")
    return where, pictures


def _in_folders(name: str) -> Picture:
    """Of `<task>/<class>/<image>`, also with a split folder (train, test) below the task."""
    above = [composed(part) for part in name.split("/")[:-1]]
    label = above[-1] if above else None
    tasks = above[:-1]
    if len(tasks) > 1 and tasks[-1] in SPLIT_FOLDERS:
        tasks = tasks[:-1]
    return Picture(name, label, tasks[-1] if tasks else None)


def answers(
    model: Deployed,
    root: Path,
    pictures: Sequence[Picture],
    task_of: Callable[[Picture], int | None],
    say: Say | None = None,
) -> Iterator[Answer]:
    """What the model says of each picture, in their order; at any time, memory holds a few hundred of them.

    `task_of`: the task that the model is told for a picture, or None. A file that is no picture is an answer too.
    """
    there = [picture for picture in pictures if (root / picture.path).is_file()]
    parts = [there[start : start + TOGETHER] for start in range(0, len(there), TOGETHER)]
    listings = [Listing("", [], {"all": [(p.path, index) for index, p in enumerate(part)]}) for part in parts]
    progress = _Progress(len(there), say)
    for picture in pictures:
        if not (root / picture.path).is_file():
            yield Answer(picture, fault="no such file")
    if not there:
        return
    for part, task in zip(parts, raw_tasks(root, listings, model.shape[2], "skip"), strict=True):
        images, places = task.splits["all"]
        answered: list[Answer | None] = [None] * len(part)
        faults = {fault["path"]: fault["reason"] for fault in task.notes["skipped"]}
        told = [task_of(part[place]) for place in places]
        for one in dict.fromkeys(told):
            rows = [row for row, own in enumerate(told) if own == one]
            of_task = _judged(model, images, rows, one, [part[places[row]] for row in rows])
            for row, answer in zip(rows, of_task, strict=True):
                answered[places[row]] = answer
        for picture, found in zip(part, answered, strict=True):
            yield found or Answer(picture, fault=faults[picture.path])
        progress.add(len(part))


def _judged(
    model: Deployed, images: Any, rows: Sequence[int], task: int | None, pictures: Sequence[Picture]
) -> list[Answer]:
    import numpy as np
    import torch

    prepared = torch.from_numpy(np.stack([model.prepared(images[row]) for row in rows]))
    return named(model, model.outputs(model.split(prepared, task), task), task, model.columns(task), pictures)


def named(
    model: Deployed, outputs: Outputs, task: int | None, columns: Sequence[Column], pictures: Sequence[Picture]
) -> list[Answer]:
    """The model's scores of these pictures as answers; it was asked as of this task, and `columns` names the scores."""
    from cl.deployed import asked

    best = outputs.scores.argmax(1)
    chances = model.probabilities(outputs.scores, task).gather(1, best.unsqueeze(1)).squeeze(1)
    least = model.calibration.least(asked(task)) if model.calibration is not None else None
    made = zip(pictures, best.tolist(), chances.tolist(), outputs.nearness.tolist(), strict=True)
    return [
        Answer(picture, columns[k].task, columns[k].label, chance, None if least is None else near >= least, near)
        for picture, k, chance, near in made
    ]


class _Progress:
    """A line every few seconds."""

    def __init__(self, total: int, say: Say | None) -> None:
        self.total, self.say, self.done = total, say, 0
        self.started = self.said = time.monotonic()

    def add(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if self.say is None or now - self.said < SAY_EVERY or self.done == self.total:
            return
        self.said, rate = now, self.done / (now - self.started)
        left = duration((self.total - self.done) / rate)
        self.say(f"predict: {self.done:,} of {self.total:,} pictures, {rate:,.0f} a second, {left} left")
