"""Where a run is shown, and what was sent there: the ledger beside the runs, `<out>/.work/tracking.json`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cl.files import write_whole
from cl.redact import encoded, without_password

Json = dict[str, Any]

SCHEMA = 1
STATES = ("running", "finished", "failed", "killed")
NIGHTLY = " nightly"
"""Ends the name of an experiment whose runs are by night."""


@dataclass(frozen=True)
class Tracking:
    """Where a run is shown: the `tracking` section of params.yaml, and the output folder."""

    out: Path  # holds the runs and the ledger in `.work`, the embedded database in `mlflow`
    uri: str | None  # of an MLflow tracking server; None: SQLite in `<out>/mlflow`
    experiment: str
    shared: Path | None = None  # where the embedded database is instead, with the runs of other output folders
    retry_seconds: float = 60.0  # how long a server that failed is left alone

    @property
    def folder(self) -> Path:
        """Where the embedded database and its artifacts are."""
        return (self.shared or self.out / "mlflow").resolve()

    @property
    def database(self) -> Path:
        """The embedded database."""
        return self.folder / "mlflow.db"

    @property
    def has_database(self) -> bool:
        """Whether the embedded database is there, with anything in it."""
        return self.database.exists() and self.database.stat().st_size > 0

    @property
    def groups(self) -> tuple[str, ...]:
        """The tags that runs are shown by."""
        return ("night", "method") if self.experiment.endswith(NIGHTLY) else ("method",)

    @property
    def address(self) -> str:
        """Where MLflow's clients find it."""
        return encoded(self.uri) if self.uri else f"sqlite:///{self.database}"

    @property
    def target(self) -> str:
        """Name of the place that is sent to: without passwords, and the same after the project was moved."""
        if self.uri is None:
            return "embedded"
        return without_password(self.uri)


class Ledger:
    """What was sent of which run, shared by all processes of an output folder.

    Of each target and experiment: the experiment's id there and when it was made, and by run `path`,
    `state`, `error`, `current` (nothing newer has the same method and seed), `run` (its id) and `sent` (digest
    of the files, `state` and `current`, as last sent completely).
    """

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking
        self._path = tracking.out / ".work" / "tracking.json"
        self._id = tracking.out / ".work" / "tracking.id"
        self.locks = tracking.out / ".work" / "tracking.locks"

    def runs(self) -> dict[str, Json]:
        """Every run by name, `<method>/seed-<s>/<key>`."""
        return dict(self._section(self._read())["units"])

    def mark(self, name: str) -> str:
        """What finds a run in MLflow; where others may run the same, it says whose it is."""
        alone = self._tracking.uri is None and self._tracking.shared is None
        return name if alone else f"{self._read()['id']}:{name}"

    def experiment(self) -> str | None:
        """Id of the experiment, None before the first contact."""
        value = self._section(self._read())["experiment"]
        return None if value is None else str(value)

    def folder(self, entry: Json) -> Path:
        """Where the files of a run are; noted relative to the output folder, which may have been moved."""
        return self._tracking.out.resolve() / str(entry["path"])

    def note(self, name: str, folder: Path, state: str, error: str | None) -> None:
        """Remember what is to be sent. This run becomes the current one of its method and seed."""
        path, out = folder.resolve(), self._tracking.out.resolve()
        where = str(path.relative_to(out) if path.is_relative_to(out) else path)
        with self._edit() as section:
            entry = section["units"].setdefault(name, {"run": None, "sent": None})
            for other in section["units"]:
                if other.rpartition("/")[0] == name.rpartition("/")[0]:
                    section["units"][other]["current"] = False
            entry |= {"path": where, "state": state, "error": error, "current": True}

    def connected(self, experiment: str, created: int) -> None:
        """Note which experiment is sent to; another one than before has nothing of what was sent."""
        known = self._section(self._read())
        if (known["experiment"], known["created"]) != (experiment, created):
            with self._edit() as section:
                section |= {"experiment": experiment, "created": created}
                for entry in section["units"].values():
                    entry |= {"run": None, "sent": None}

    def update(self, name: str, **changes: object) -> None:
        """Change some fields of a run."""
        with self._edit() as section:
            section["units"][name] |= changes

    def drop(self, name: str) -> None:
        """Forget a run."""
        with self._edit() as section:
            del section["units"][name]

    def _section(self, data: Json) -> Json:
        key = f"{self._tracking.target} {self._tracking.experiment}"
        section: Json = data["targets"].setdefault(key, {"experiment": None, "created": None, "units": {}})
        return section

    def _read(self) -> Json:
        return self._sound()[0]

    def _sound(self) -> tuple[Json, bool]:
        """What of the file is as we write it, and whether all of it is; where there is no file, the beginning of one.

        By the id, runs on a server that others use too are known for ours: it has a file of its own as well.
        """
        try:
            text = self._path.read_text("utf-8")
        except FileNotFoundError:
            return {"schema": SCHEMA, "id": self._known_id() or uuid.uuid4().hex, "targets": {}}, True
        except (OSError, ValueError):
            text = ""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        whole = isinstance(found, dict) and found.get("schema") == SCHEMA and isinstance(found.get("targets"), dict)
        given = str(found.get("id")) if isinstance(found, dict) else "".join(_ID_IN.findall(text)[:1])
        identity = given if _ID.fullmatch(given) else self._known_id() or uuid.uuid4().hex
        targets = {key: section for key, section in found["targets"].items() if _is_section(section)} if whole else {}
        data = {"schema": SCHEMA, "id": identity, "targets": targets}
        return data, data == found

    def _known_id(self) -> str | None:
        try:
            text = self._id.read_text("utf-8").strip()
        except (OSError, ValueError):
            return None
        return text if _ID.fullmatch(text) else None

    @contextlib.contextmanager
    def _edit(self) -> Iterator[Json]:
        with locked(self.locks / "ledger"):
            data, sound = self._sound()
            if not sound:
                aside = self._path.with_name(f"{self._path.name}.damaged-{uuid.uuid4().hex[:8]}")
                self._path.rename(aside)
                said = f"{self._path} was damaged: it is {aside.name} now, and made anew from what MLflow has"
                print(f"tracking: {said}", file=sys.stderr, flush=True)
            if self._known_id() != data["id"]:
                write_whole(self._id, f"{data['id']}\n".encode())
            yield self._section(data)
            write_whole(self._path, json.dumps(data, indent=1).encode())


_ID = re.compile("[0-9a-f]{32}")
_ID_IN = re.compile(r'"id":\s*"([0-9a-f]{32})"')


def _is_section(value: Any) -> bool:
    """Whether it is what the ledger has of a target."""
    if not isinstance(value, dict) or not isinstance(value.get("units"), dict):
        return False
    kinds: Json = {"experiment": str | None, "created": int | None}
    runs = value["units"]
    return _has(value, kinds) and all(name.count("/") == 2 and _is_entry(entry) for name, entry in runs.items())


def _is_entry(value: Any) -> bool:
    """Whether it is what the ledger has of a run."""
    kinds: Json = {"path": str, "state": str, "error": str | None, "current": bool, "run": str | None}
    return isinstance(value, dict) and _has(value, kinds | {"sent": list | None}) and value["state"] in STATES


def _has(value: Json, kinds: Json) -> bool:
    return all(name in value and isinstance(value[name], kind) for name, kind in kinds.items())


def lock_file(path: Path) -> IO[str]:
    """The file, open, for a lock; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", encoding="utf-8")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file, however long another process has it."""
    with lock_file(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
