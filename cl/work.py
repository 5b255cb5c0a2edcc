"""Which files of a run's work folder are as they were written. Needs no torch.

`finished.json` says that all is learned and has the SHA-256 of each file that is published; what a task cost is in a
file of its own. Both are sealed. Checkpoints (`cl.checkpoint_files`) and the journal (`cl.journal`) vouch for
themselves. Damage is reported, and the file is made again from those that vouch for themselves.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cl.errors import UserError
from cl.files import make_way, read_json, sealed, unsealed, write_bytes, write_json
from cl.results import TaskCost

FINISHED = "finished.json"
RUN = "unit.json"
PUBLISHED = {
    "result.json": ".json",
    "trials.json": ".trials.json",
    "cost.json": ".cost.json",
    "studies.log": ".studies.log",
}
"""What is published of a finished run, and what its name there ends in."""
COSTS = {"task", "seconds", "process_seconds", "step_seconds"}
Warn = Callable[[str], None]


class DamagedFile(UserError):
    """A file of a finished run is missing or not as it was written; the message names it."""


@dataclass(frozen=True)
class Finished:
    """What `finished.json` says."""

    tasks: list[str]
    """The digests of the tasks, in order."""
    files: dict[str, str]
    """The SHA-256 of the files in the folder that are published; without cost.json where costs were lost."""
    manifests: list[str]
    """The same of the manifests of the checkpoints: one a task, or a single one where all were learned at once."""

    def read(self, folder: Path, name: str) -> bytes:
        """What is in one of these files; raises `DamagedFile` where that is not what was written."""
        return whole(folder / name, self.files.get(name, ""))


def whole(path: Path, sha256: str, copy: Path | None = None, warn: Warn = warnings.warn) -> bytes:
    """What is in a file of this digest; raises `DamagedFile` where that is not what was written.

    Where `copy` still has that digest, the file is restored from it, and `warn` is told.
    """
    data = _bytes(path)
    if _sha256(data) == sha256:
        return data
    damaged = f"{path}: missing or damaged (its sha256 is not that of {FINISHED})"
    if copy is None or _sha256(data := _bytes(copy)) != sha256:
        raise DamagedFile(damaged)
    warn(f"{damaged}: restored from {copy}")
    make_way(path, warn)
    write_bytes(path, data)
    return data


def finish(folder: Path, tasks: Sequence[str], stages: int) -> None:
    """Note that the tasks of these digests are learned, and that the files in the folder are as they should be."""
    files = {name: _sha256(_bytes(folder / name)) for name in PUBLISHED if (folder / name).exists()}
    manifests = [_sha256(_bytes(folder / f"task-{index:03d}" / "manifest.json")) for index in range(stages)]
    write_json(folder / FINISHED, sealed(asdict(Finished(list(tasks), files, manifests))))


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def finished(folder: Path) -> Finished | None:
    """What was noted by `finish`; None where nothing was, or where the note is damaged."""
    try:
        return Finished(**(unsealed(read_json(folder / FINISHED)) or {}))
    except TypeError:
        return None


def keep_cost(folder: Path, index: int, cost: TaskCost, peak_memory: int) -> None:
    """Note what the experience of this index cost, and the highest memory of the process until then, in bytes."""
    write_json(_cost_file(folder, index), sealed({**cost, "peak_memory_bytes": peak_memory}))


def cost_noted(folder: Path, index: int) -> tuple[TaskCost, int] | None:
    """What was noted by `keep_cost`; None where nothing was, or where the note is damaged."""
    noted: Any = unsealed(read_json(_cost_file(folder, index)))
    return None if noted is None else (noted, noted.pop("peak_memory_bytes"))


def copy_cost(source: Path, folder: Path, index: int) -> None:
    """Take over what was noted in another run's folder; an earlier version noted it without a seal."""
    noted: Any = read_json(_cost_file(source, index))
    if isinstance(noted, dict) and set(noted) == COSTS:
        keep_cost(folder, index, noted, 0)  # type: ignore[arg-type]  # of these keys
    elif noted is not None:
        write_json(_cost_file(folder, index), noted)


def tidy(folder: Path, warn: Warn) -> None:
    """Move away anything but a file where a file of ours belongs, and anything but a folder where a folder belongs."""
    for name in (*PUBLISHED, FINISHED, RUN):
        make_way(folder / name, warn)
    for path in (path for path in folder.glob("[a-z]*-[0-9]*") if ".aside-" not in path.name):
        make_way(path, warn, folder=not path.name.startswith("cost-"))


def _cost_file(folder: Path, index: int) -> Path:
    return folder / f"cost-{index:03d}.json"
