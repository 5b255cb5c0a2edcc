"""Where runs are shown: the section `tracking` of params.yaml, and the output folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cl.files import read_object, write_json
from cl.params import Params
from cl.redact import encoded, without_password

NIGHTLY = " nightly"
"""Ends the name of the experiment that holds the nights."""


@dataclass(frozen=True)
class Tracking:
    """Where runs are shown."""

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


def tracking_of(params: Params, out: Path) -> Tracking:
    """Where the runs of these params are shown."""
    settings, suffix = params.tracking, ""
    shared = Path(settings.folder) if settings.folder is not None else None
    if shared is None and settings.uri is None and (noted := read_object(_note(out))):
        shared, suffix = out / str(noted.get("folder")), f" in {noted.get('name')}"
    return Tracking(out, settings.uri, settings.experiment or f"{params.title}{suffix}", shared)


def share(out: Path, folder: Path) -> None:
    """From now on show the runs of this output folder in the database in `folder`, in experiments of their own.

    So all that is done in the output folder is found in one place, whoever starts it. What the params say goes first.
    """
    if folder.resolve() == (out / "mlflow").resolve():
        return
    inside = os.path.relpath(out, folder.parent)
    name = (out.as_posix() if inside.startswith("..") else inside).strip("/").replace("/", ":")  # a / would be a path
    content = {"folder": os.path.relpath(folder.resolve(), out.resolve()), "name": name}
    if read_object(_note(out)) != content:
        _note(out).parent.mkdir(parents=True, exist_ok=True)
        write_json(_note(out), content)


def _note(out: Path) -> Path:
    return out / ".work" / "tracking.shared.json"
