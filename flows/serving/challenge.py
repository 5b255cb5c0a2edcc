"""Champion and challenger on the same new labelled pictures, and a paired test of the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cl.errors import UserError
from flows.serving.judgement import Drift, class_of, drift, is_right
from flows.serving.pictures import Answer, Picture, answers, found

if TYPE_CHECKING:
    from cl.deployed import Deployed


@dataclass(frozen=True)
class Challenge:
    """What came of it."""

    folder: str
    pictures: int
    """Labelled ones that could be read and that name a class of either model; both were asked about all of them."""
    challenger: float
    """Its accuracy on them."""
    champion: float
    only_challenger: int
    """Pictures that only the challenger gets right."""
    only_champion: int
    p: float
    """McNemar's exact test: the chance of so uneven a split if both were equally good."""
    level: float
    drifted: Drift | None
    """How far the pictures are from the challenger's validation images."""

    @property
    def won(self) -> bool:
        """Whether the challenger is better by the test."""
        return self.only_challenger > self.only_champion and self.p < self.level

    @property
    def said(self) -> str:
        """The numbers, in a sentence without its end."""
        return (
            f"accuracy {self.challenger:.4f} against {self.champion:.4f} on {self.pictures:,} new pictures; "
            f"{self.only_challenger} only the challenger gets right, {self.only_champion} only the champion "
            f"(McNemar's exact test: p = {self.p:.2g}, has to be below {self.level:g})"
        )

    @property
    def tags(self) -> Mapping[str, str]:
        """As tags of a version in MLflow."""
        values = {name: value for name, value in asdict(self).items() if name != "drifted"}
        moved = {} if self.drifted is None else {"drift": self.drifted.gap, "drift_p": self.drifted.p}
        return {f"challenge.{name}": str(value) for name, value in {**values, **moved, "won": self.won}.items()}


def challenge(challenger: Deployed, champion: Deployed, folder: Path, level: float, aware: bool) -> Challenge:
    """Ask both models about the labelled pictures of the folder.

    A class that a model has not learned counts as wrong. Pictures that name no class of either are left out.

    Args:
        challenger: the new model.
        champion: the one that has the alias.
        folder: with `<class>/<image>`, or `<task>/<class>/<image>`.
        level: the p-value below which the challenger has won.
        aware: whether the models are told the task, which the folder above the class then names.

    Raises `UserError` where there is no labelled picture.
    """
    from cl.calibration import mcnemar

    root, pictures = found(folder)
    labelled = [p for p in pictures if class_of(challenger, p) is not None or class_of(champion, p) is not None]
    told = [_asked(model, root, labelled, aware) for model in (challenger, champion)]
    kept = [k for k in range(len(labelled)) if told[0][k].fault is None]
    if not kept:
        raise UserError(f"champion.challenge: {folder}: no picture is in a folder that is called like a class")
    new, old = ([_right(model, of[k]) for k in kept] for model, of in zip((challenger, champion), told, strict=True))
    first = sum(a and not b for a, b in zip(new, old, strict=True))
    second = sum(b and not a for a, b in zip(new, old, strict=True))
    return Challenge(
        str(folder),
        len(kept),
        sum(new) / len(kept),
        sum(old) / len(kept),
        first,
        second,
        mcnemar(first, second),
        level,
        drift(challenger, told[0], aware),
    )


def _asked(model: Deployed, root: Path, pictures: Sequence[Picture], aware: bool) -> list[Answer]:
    """In the order of the pictures; one of a task that the model has not learned gets an empty answer."""

    def task_of(picture: Picture) -> int | None:
        return model.task(picture.task) if aware else None

    known = [p for p in pictures if not aware or p.task in model.tasks]
    told = {answer.picture: answer for answer in answers(model, root, known, task_of)}
    return [told.get(picture, Answer(picture)) for picture in pictures]


def _right(model: Deployed, answer: Answer) -> bool:
    return answer.label is not None and class_of(model, answer.picture) is not None and is_right(model, answer)
