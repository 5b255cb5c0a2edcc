"""How right a model is on labelled pictures: accuracy, confusion, calibration, and how new the pictures are to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.serving.pictures import Answer, Picture

if TYPE_CHECKING:
    from cl.deployed import Deployed

NO_CLASS = "(no class of the model)"
"""The row of pictures whose folder is called like none of its classes."""


@dataclass(frozen=True)
class Judgement:
    """Of the pictures that could be read and whose folder names a class of the model."""

    count: int
    accuracy: float
    by_class: dict[str, tuple[int, float]]
    """Number of pictures, and the share of them that is right."""
    labels: list[str]
    """Columns of the confusion."""
    confusion: dict[str, list[int]]
    """By class, how many of its pictures got each label; `NO_CLASS` is the last row where there are such pictures."""
    calibration_error: float
    foreign: int
    """How many pictures are in folders that are called like no class of the model."""
    foreign_refused: float | None
    """The share of these that the model does not know; None where it cannot say, or there are none."""
    known: float | None
    """The share of the others that it knows."""

    def worst(self, most: int) -> list[str]:
        """So many classes, that of the lowest accuracy first."""
        return sorted(self.by_class, key=lambda name: (self.by_class[name][1], name))[:most]

    def taken_for(self, label: str) -> tuple[str, int] | None:
        """What pictures of the class were most often taken for, and how many; None where all are right."""
        counts = zip(self.labels, self.confusion[label], strict=True)
        others = [(name, count) for name, count in counts if name != label and count]
        return max(others, key=lambda pair: pair[1], default=None)


def name_of(model: Deployed, task: str | None, label: str) -> str:
    """A class as tables name it: with its task only where tasks have classes of the same name."""
    owners = sum(label in labels for labels in model.tasks.values())
    alone = owners <= 1 or task is None or model.method.net.increment != "task"
    return label if alone else f"{task}/{label}"


def class_of(model: Deployed, picture: Picture) -> str | None:
    """The class of the model that the picture's folders name; None where they name none."""
    if picture.label is None:
        return None
    owners = [name for name, labels in model.tasks.items() if picture.label in labels]
    if not owners:
        return None
    return name_of(model, picture.task if picture.task in owners else None, picture.label)


def is_right(model: Deployed, answer: Answer) -> bool:
    """Whether the answer is the class that the picture's folders name."""
    assert answer.label is not None
    return class_of(model, answer.picture) == name_of(model, answer.task, answer.label)


def judge(model: Deployed, answers: Sequence[Answer]) -> Judgement | None:
    """Judge the answers about pictures in class folders; None where no folder is called like a class of the model."""
    import torch

    from cl.calibration import expected_calibration_error

    read = [answer for answer in answers if answer.fault is None]
    own = [answer for answer in read if class_of(model, answer.picture) is not None]
    foreign = [answer for answer in read if class_of(model, answer.picture) is None]
    if not own:
        return None
    right = [is_right(model, answer) for answer in own]
    confidence = torch.tensor([answer.probability for answer in own], dtype=torch.float64)
    labels = list(dict.fromkeys(name_of(model, task, label) for task, of in model.tasks.items() for label in of))
    pairs = Counter((class_of(model, a.picture) or NO_CLASS, name_of(model, a.task, a.label or "")) for a in read)
    rows = [*labels, *([NO_CLASS] if foreign else [])]
    totals = Counter(class_of(model, answer.picture) for answer in own)
    return Judgement(
        count=len(own),
        accuracy=sum(right) / len(own),
        by_class={name: (totals[name], pairs[name, name] / totals[name]) for name in labels if totals[name]},
        labels=labels,
        confusion={row: [pairs[row, label] for label in labels] for row in rows if row == NO_CLASS or totals[row]},
        calibration_error=expected_calibration_error(confidence, torch.tensor(right)),
        foreign=len(foreign),
        foreign_refused=None if (share := _known(foreign)) is None else 1 - share,
        known=_known(own),
    )


def _known(answers: Sequence[Answer]) -> float | None:
    if not answers or answers[0].known is None:
        return None
    return sum(bool(answer.known) for answer in answers) / len(answers)


@dataclass(frozen=True)
class Drift:
    """How far new pictures are from the validation images, by their nearness to what was learned."""

    gap: float
    """Kolmogorov and Smirnov's D: the largest distance between the two distribution functions."""
    p: float
    new: int
    validation: int

    @property
    def said(self) -> str:
        """In a sentence."""
        far = "more than chance explains" if self.p < 0.01 else "no more than chance explains"
        return (
            f"drift: the nearness of these {self.new:,} pictures to what was learned differs from that of "
            f"{self.validation:,} validation images by {self.gap:.2f} of at most 1 (Kolmogorov-Smirnov, "
            f"p = {self.p:.2g}), {far}"
        )


def drift(model: Deployed, answers: Sequence[Answer], aware: bool) -> Drift | None:
    """Compare the answers with the validation images; None for a model without a calibration, or without answers.

    `aware`: whether the model was told the tasks.
    """
    import torch

    from cl.calibration import kolmogorov_smirnov

    seen = model.calibration.seen if model.calibration is not None else None
    validation = (seen or {}).get("task-aware" if aware else "task-agnostic")
    near = torch.tensor([answer.nearness for answer in answers if answer.fault is None])
    if validation is None or not len(near):
        return None
    return Drift(*kolmogorov_smirnov(near, validation), len(near), len(validation))
