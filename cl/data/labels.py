"""Whether a label means the same in all tasks, as domain-incremental learning needs it."""

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


def _apart(first: str, wanted: Sequence[str], name: str, classes: Sequence[str]) -> str:
    """What one task has and another has not, in words."""
    told = [] if len(wanted) == len(classes) else [f"{first} has {len(wanted)}, {name} has {len(classes)}"]
    for task, mine, others in ((first, wanted, classes), (name, classes, wanted)):
        alone = [label for label in mine if label not in others]
        more = f" and {len(alone) - CLASSES_SHOWN} more" if len(alone) > CLASSES_SHOWN else ""
        told += [f"{', '.join(alone[:CLASSES_SHOWN])}{more} in {task} alone"] if alone else []
    return ", ".join(told) or "in another order"
