"""The embedded database, for runs that are sent to no server: made whole, checked, and moved with the project."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from cl.errors import UserError
from cl.files import making, sweep

_MUST_ANSWER = (
    "SELECT experiment_id, name FROM experiments LIMIT 1",
    "SELECT run_uuid, experiment_id FROM runs LIMIT 1",
    "SELECT version_num FROM alembic_version",
)
CHECKED_BYTES = 2**27
"""A larger database is not read as a whole to check it."""


def create_database(path: Path) -> None:
    """Make the embedded database, whole or not at all.

    A half-made database makes every process fail that opens it.
    """
    from mlflow.store.db import utils

    sweep(path.parent, [path.name], sure=True)  # a process may have been killed here
    for journal in (
        "-wal",
        "-shm",
        "-journal",
    ):  # of a database moved away: SQLite would take them for the new one's
        if (left := path.with_name(path.name + journal)).exists():
            left.rename(left.with_name(f"{left.name}.left"))
    with making(path) as part:  # a folder, as SQLite keeps journals beside the file
        new = part / path.name
        database: Any = utils
        engine = database.create_sqlalchemy_engine(f"sqlite:///{new}")
        database._initialize_tables(engine)
        engine.dispose()
        with contextlib.closing(sqlite3.connect(new)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # stays with the file: readers and a writer at once
        new.replace(path)


def check_database(path: Path) -> None:
    """Raise `UserError` where the embedded database is damaged; MLflow itself would print pages of tracebacks."""
    try:
        with path.open("rb") as file:
            head = file.read(32)
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
            pages, page = int.from_bytes(head[28:32]), int.from_bytes(head[16:18])
            if pages * max(page, 2) > path.stat().st_size and not path.with_name(f"{path.name}-wal").exists():
                raise sqlite3.DatabaseError("it is cut short")
            for question in _MUST_ANSWER:
                connection.execute(question)
            if path.stat().st_size < CHECKED_BYTES:
                ((answer,), *_) = connection.execute("PRAGMA quick_check(1)").fetchall()
                if answer != "ok":
                    raise sqlite3.DatabaseError(" ".join(answer.split()))
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
            raise  # it is locked, or the disk is full
        raise UserError(
            f"{path} is damaged ({error}); move it away, and it is made anew and filled from the results here"
        ) from None


def relocate(database: Path, old: str, new: str) -> None:
    """Correct the addresses of artifacts, which are absolute, after the project was moved or copied."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        columns = {
            "experiments": "artifact_location",
            "runs": "artifact_uri",
            "logged_models": "artifact_location",
            "model_versions": "storage_location",
        }
        for table, column in columns.items():
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                (new, len(old) + 1, len(old), old),
            )
