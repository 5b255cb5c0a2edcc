"""Which classes of two tasks are the same: by label for a common head, by name for a class that comes again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from cl.errors import UserError

CLASSES_SHOWN = 5
LabelsAre = Literal["names", "places"]
"""What makes label k the same in two tasks: that the class has the same name, or that it has place k in its task."""


def one_label_space(tasks: Mapping[str, Sequence[str]], labels: LabelsAre) -> None:
    """Raise `UserError` unless a label means the same in all tasks, given by name with their classes.

    Domain-incremental learning has one head: its output k is label k of every task.
    """
    first, wanted = next(iter(tasks.items()))
    for name, classes in tasks.items():
        if len(classes) != len(wanted) or (labels == "names" and list(classes) != list(wanted)):
            raise UserError(
                "scenario.name: domain-incremental tasks share their classes, but those of "
                f"{name} are not those of {first} ({_apart(first, wanted, name, classes)}); "
                "give them the same classes, or set scenario.name to task or class"
            )


def check_classes(
    tasks: Mapping[str, Sequence[str]], increment: Literal["task", "domain", "class"], labels: LabelsAre
) -> None:
    """Raise `UserError` where a scenario cannot have tasks of these classes, given by the tasks' names.

    A task of one class is for class-incremental learning alone, and there not as the first.
    """
    for place, (name, classes) in enumerate(tasks.items()):
        if len(classes) < 2 and increment != "class":
            raise UserError(
                f"task {name}: 1 class ({', '.join(classes)}), and a task needs two at least to tell apart; "
                "give it more, or set scenario.name=class, where it is told from those of other tasks"
            )
        if len(classes) < 2 and place == 0:
            raise UserError(
                f"task {name}: 1 class ({', '.join(classes)}), and the first task needs two at least to tell apart; "
                "put another first (benchmark.order)"
            )
    if increment == "domain":
        one_label_space(tasks, labels)


def columns_of(tasks: Sequence[Sequence[str]], same_names: bool) -> list[list[int]]:
    """For each task, given by its classes, the column of each class among all outputs side by side.

    `same_names`: a class that comes again has the column of the earlier task; else each task has columns of its own.
    """
    known: dict[tuple[int, str], int] = {}
    columns = []
    for index, classes in enumerate(tasks):
        keys = [(0 if same_names else index, name) for name in classes]
        columns.append([known.setdefault(key, len(known)) for key in keys])
    return columns


def _apart(first: str, wanted: Sequence[str], name: str, classes: Sequence[str]) -> str:
    """What one task has and another has not, in words."""
    told = [] if len(wanted) == len(classes) else [f"{first} has {len(wanted)}, {name} has {len(classes)}"]
    for task, mine, others in ((first, wanted, classes), (name, classes, wanted)):
        alone = [label for label in mine if label not in others]
        more = f" and {len(alone) - CLASSES_SHOWN} more" if len(alone) > CLASSES_SHOWN else ""
        told += [f"{', '.join(alone[:CLASSES_SHOWN])}{more} in {task} alone"] if alone else []
    return ", ".join(told) or "in another order"
