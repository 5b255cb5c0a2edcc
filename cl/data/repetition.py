"""Classes that come again: a data set cut into tasks that share classes, but no images.

Hemati et al., Class-incremental learning with repetition, CoLLAs 2023: their slot-based streams of N tasks with K
classes each. A class is never twice in one task here, which it may be there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from cl.data.prepare import SPLITS, Images, Labels, RawTask
from cl.data.subsets import chosen
from cl.errors import UserError, count
from cl.params import Benchmark
from cl.rng import numpy_generator

Own: TypeAlias = list[tuple[int, int]]
"""Of one task its classes, ascending, each with the number of times it came before: which part of its images it has."""


def cut_again(classes: int, per_task: int, options: Benchmark) -> dict[str, Own]:
    """The tasks `task-01`, `task-02`, ... as `options` chooses and orders them.

    Each class is in `options.repetition` tasks, and each task has `per_task` classes; which ones is drawn from
    `options.seed`. Raises `UserError` where that leaves a remainder, and for an order or a number of tasks that cannot
    be.
    """
    times = options.repetition or 1
    if per_task > classes or classes * times % per_task:
        raise UserError(
            f"benchmark.repetition: {classes} classes in {times} tasks each make no tasks of {per_task}; "
            "change it, or benchmark.classes_per_task"
        )
    drawn = arrangement(classes, per_task, times, options.name, options.seed, "repetition")
    digits, before = len(str(len(drawn))), [0] * classes
    tasks: dict[str, Own] = {}
    for number, own in enumerate(drawn, start=1):
        tasks[f"task-{number:0{digits}d}"] = [(c, before[c]) for c in own]
        for c in own:
            before[c] += 1
    return {name: tasks[name] for name in chosen(list(tasks), options)}


def arrangement(classes: int, per_task: int, times: int, *key: int | str) -> list[list[int]]:
    """The classes of each task: each class is in `times` tasks, and `per_task` different ones are in a task.

    Tasks are filled in turn: by the classes that have to be in all that are left, and at random by others.
    """
    draw = numpy_generator(*key)
    due = np.full(classes, times)
    tasks = []
    for left in range(classes * times // per_task, 0, -1):
        forced, free = np.flatnonzero(due == left), np.flatnonzero((due > 0) & (due < left))
        own = np.concatenate([forced, draw.permutation(free)[: per_task - len(forced)]])
        due[own] -= 1
        tasks.append(sorted(own.tolist()))
    return tasks


def repeated(
    splits: Mapping[str, tuple[Images, Labels]],
    classes: Sequence[str],
    tasks: Mapping[str, Own],
    options: Benchmark,
    notes: Mapping[str, Any],
) -> Iterator[RawTask]:
    """Yield the tasks; of the images of a class in each split, each of its tasks has another part.

    `splits` are of the whole data set, their labels places among `classes`. Raises `UserError` where a class has fewer
    images than tasks.
    """
    times = options.repetition or 1
    parts: dict[tuple[str, int, int], Labels] = {}
    for split in SPLITS:
        for c, name in enumerate(classes):
            members = np.flatnonzero(splits[split][1] == c)
            if len(members) < times:
                some = count(len(members), f"{split} image")
                raise UserError(f"benchmark.repetition: class {name} has {some} for {times} tasks; lower it")
            order = numpy_generator(options.name, options.seed, "repetition", split, name).permutation(members)
            parts |= {(split, c, turn): part for turn, part in enumerate(np.array_split(order, times))}
    for name, own in tasks.items():
        made = {}
        for split in SPLITS:
            index = np.sort(np.concatenate([parts[split, c, turn] for c, turn in own]))
            images, labels = splits[split]
            made[split] = images[index], np.searchsorted([c for c, _ in own], labels[index])
        yield RawTask(name, [classes[c] for c, _ in own], made, notes)
