"""What was sent to MLflow: the ledger beside the runs, `<out>/.work/tracking.json`."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cl.files import from_json, write_whole
from cl.locks import alone
from flows.tracking.settings import Tracking

Json = dict[str, Any]
SCHEMA = 1
STATES = ("running", "finished", "failed", "killed")


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
        """The tag that finds a run in MLflow; where others share the server or database, it also says whose it is."""
        alone = self._tracking.uri is None and self._tracking.shared is None
        return name if alone else f"{self._read()['id']}:{name}"

    def experiment(self) -> str | None:
        """Id of the experiment, None before the first contact."""
        value = self._section(self._read())["experiment"]
        return None if value is None else str(value)

    def newest(self) -> tuple[str, str] | None:
        """Name and id of the experiment to look at: that of the params, or the newest one where only others have runs.

        None where nothing was made.
        """
        own, target = self._tracking.experiment, f"{self._tracking.target} "
        found = [
            (bool(section["units"]), key == target + own, section["created"], key, str(section["experiment"]))
            for key, section in self._read()["targets"].items()
            if key.startswith(target) and section["created"] is not None
        ]
        *_, key, identity = max(found, default=("", ""))
        return (key.removeprefix(target), identity) if found else None

    def report(self) -> str | None:
        """What identifies the report that was sent last; None where none was."""
        value = self._section(self._read()).get("report")
        return None if value is None else str(value)

    def reported(self, report: str) -> None:
        """Note which report was sent."""
        with self._edit() as section:
            section["report"] = report

    def folder(self, entry: Json) -> Path:
        """Where the files of a run are; noted relative to the output folder, which may have been moved."""
        return self._tracking.out.resolve() / str(entry["path"])

    def note(self, name: str, folder: Path, state: str, error: str | None) -> None:
        """Note what is to be sent; the run becomes the current one of its method and seed."""
        path, out = folder.resolve(), self._tracking.out.resolve()
        where = str(path.relative_to(out) if path.is_relative_to(out) else path)
        with self._edit() as section:
            entry = section["units"].setdefault(name, {"run": None, "sent": None})
            for other in section["units"]:
                if other.rpartition("/")[0] == name.rpartition("/")[0]:
                    section["units"][other]["current"] = False
            entry |= {"path": where, "state": state, "error": error, "current": True}

    def connected(self, experiment: str, created: int) -> None:
        """Note to which experiment runs are sent; where it is another than before, nothing was sent to it yet."""
        known = self._section(self._read())
        if (known["experiment"], known["created"]) != (experiment, created):
            with self._edit() as section:
                section |= {"experiment": experiment, "created": created, "report": None}
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
        section: Json = data["targets"].setdefault(
            key, {"experiment": None, "created": None, "report": None, "units": {}}
        )
        return section

    def _read(self) -> Json:
        return self._sound()[0]

    def _sound(self) -> tuple[Json, bool]:
        """The parts of the file that are sound, and whether all of it is; where there is no file, an empty ledger.

        By the id we know our runs on a server that others use too, so the id also stands in a file of its own.
        """
        try:
            written = self._path.read_bytes()
        except FileNotFoundError:
            return {"schema": SCHEMA, "id": self._known_id() or uuid.uuid4().hex, "targets": {}}, True
        except OSError:
            written = b""
        try:
            content = from_json(written)
        except ValueError:
            content = None
        is_ours = isinstance(content, dict) and content.get("schema") == SCHEMA
        is_ours = is_ours and isinstance(content.get("targets"), dict)
        given = str(content.get("id")) if isinstance(content, dict) else b"".join(_ID_IN.findall(written)[:1]).decode()
        identity = given if _ID.fullmatch(given) else self._known_id() or uuid.uuid4().hex
        sections = content["targets"].items() if is_ours else ()
        targets = {key: section for key, section in sections if _is_section(section)}
        data = {"schema": SCHEMA, "id": identity, "targets": targets}
        return data, data == content

    def _known_id(self) -> str | None:
        try:
            text = self._id.read_text("utf-8").strip()
        except (OSError, ValueError):
            return None
        return text if _ID.fullmatch(text) else None

    @contextlib.contextmanager
    def _edit(self) -> Iterator[Json]:
        with alone(self.locks / "ledger", lambda: None):
            data, sound = self._sound()
            if not sound:
                aside = self._path.with_name(f"{self._path.name}.damaged-{uuid.uuid4().hex[:8]}")
                self._path.rename(aside)
                said = f"{self._path} was damaged: it is {aside.name} now, and a new one is made from what MLflow has"
                print(f"tracking: {said}", file=sys.stderr, flush=True)
            if self._known_id() != data["id"]:
                write_whole(self._id, f"{data['id']}\n".encode())
            yield self._section(data)
            write_whole(self._path, json.dumps(data, indent=1).encode())


_ID = re.compile("[0-9a-f]{32}")
_ID_IN = re.compile(rb'"id":\s*"([0-9a-f]{32})"')


def _is_section(value: Any) -> bool:
    """Whether it is a section of the ledger, as of one target."""
    if not isinstance(value, dict) or not isinstance(value.get("units"), dict):
        return False
    kinds: Json = {"experiment": str | None, "created": int | None}
    runs = value["units"]
    return _has(value, kinds) and all(name.count("/") == 2 and _is_entry(entry) for name, entry in runs.items())


def _is_entry(value: Any) -> bool:
    """Whether it is an entry of the ledger, as of one run."""
    kinds: Json = {"path": str, "state": str, "error": str | None, "current": bool, "run": str | None}
    return isinstance(value, dict) and _has(value, kinds | {"sent": list | None}) and value["state"] in STATES


def _has(value: Json, kinds: Json) -> bool:
    return all(name in value and isinstance(value[name], kind) for name, kind in kinds.items())
