"""The nights that have ended, by their `night.json`, and what is kept of older ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from cl.data.prepare import remove_prepared
from cl.errors import UserError
from cl.files import read_object, remove
from cl.params import Params
from cl.reading import RunResult, read_runs

KEPT_WHOLE = 3
"""So many nights keep their checkpoints; of older ones the results are kept."""
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d")
"""The name of a night."""
RUN = r"[a-z_]+/seed-\d+"
FILE = r"(manifest|record|state)\.json|(net|state)\.safetensors"
WORK = rf"(unit|finished|result|trials|cost(-\d+)?)\.json|lock|(stderr|studies)\.log|(task|candidate)-[\d-]+/({FILE})"
THINNED = {
    "checkpoints": re.compile(rf"{RUN}/task-\d+/({FILE})"),
    ".work": re.compile(
        rf"tracking\.json|tracking\.locks/[^/]+|{RUN}/[0-9a-f]{{16}}/({WORK})|"
        r"judged/[a-z_]+-\d+\.json|"
        rf"first-task/[0-9a-f]{{16}}/trial-\d+(\.lock|/({FILE}))"
    ),
}
"""What is removed from an older night: files by the names that we give them."""


@dataclass(frozen=True)
class Night:
    """A night that has ended, and its `night.json`."""

    folder: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """Its time."""
        return self.folder.name


class _Tasks(BaseModel):
    """Which tasks a night learned, and how."""

    model_config = ConfigDict(strict=True)
    benchmark: str
    tasks: list[str]
    reduced: dict[str, int | float] = {}
    setting: str = ""


class _Record(BaseModel):
    """What a night reads of earlier ones."""

    model_config = ConfigDict(strict=True)
    good: bool
    sequence: _Tasks
    versions: dict[str, Any] = Field(alias="from")
    params: dict[str, Any]
    methods: dict[str, dict[str, FiniteFloat]]


def folders(home: Path) -> list[Path]:
    """The folders of the nights, the oldest first; a folder of another name is no night."""
    return sorted(path for path in home.glob("nights/*") if TIME.fullmatch(path.name) and path.is_dir())


def nights(home: Path, say: Callable[[str], None] = print) -> list[Night]:
    """All nights that have ended, the oldest first; where a `night.json` is damaged, `say` is told."""
    ended = []
    for path in (folder / "night.json" for folder in folders(home)):
        if not path.exists():
            continue
        record = read_object(path)
        try:
            _Record.model_validate(record)
            ended.append(Night(path.parent, record))
        except ValidationError:
            say(f"{path}: damaged; this night is left out")
    return ended


def last_good(
    earlier: Sequence[Night], sequence: Mapping[str, Any], params: Params, say: Callable[[str], None] = print
) -> tuple[Night, list[RunResult]] | None:
    """The latest night without failure or regression on this very sequence of tasks, and its runs.

    A night whose results are damaged, or of other methods and seeds, is passed over, and `say` is told.
    """
    for night in reversed(earlier):
        if night.record["good"] and sequence_of(night.record) == sequence:
            try:
                return night, read_runs(night.folder, params.methods, params.seeds)
            except UserError as error:
                say(f"night {night.name}: nothing to compare with: {error}")
    return None


def sequence_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Which tasks a night learned, and in which setting."""
    return {"reduced": {}, "setting": "", **record["sequence"]}  # the first nights did not say so


def thin(home: Path) -> None:
    """Of older nights keep the results and what somebody else has put there, but not the models."""
    for folder in folders(home)[:-KEPT_WHOLE]:
        for room in ("prepared", "features"):
            remove_prepared(folder / room)
        for name, pattern in THINNED.items():
            remove(folder / name, pattern.fullmatch)
