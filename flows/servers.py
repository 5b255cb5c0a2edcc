"""Which servers of this project run, as `flows.serve` has noted them: for links that open, and for what they show."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl.files import read_json
from flows.stage import started_at

STATE = Path(".prefect") / "servers.json"


def address(name: str) -> str | None:
    """Where the server of this name answers; None where it does not run."""
    found = _noted(name)
    return None if found is None else str(found.get("address"))


def shown_folder() -> Path | None:
    """The folder with the database that the MLflow of `make serve` shows; None where none runs."""
    found = _noted("mlflow")
    return Path(found["shows"]) if found is not None and found.get("shows") else None


def link_to(page: Path) -> str:
    """The address of a page of a report: served over HTTP where it can be, otherwise the file's."""
    page, base = page.resolve(), address("report")
    if base is None or not page.is_relative_to(Path.cwd().resolve()):
        return page.as_uri()
    return f"{base}/{urllib.parse.quote(page.relative_to(Path.cwd().resolve()).as_posix())}"


def _noted(name: str) -> Mapping[str, Any] | None:
    if not STATE.exists():
        return None
    try:
        (found,) = [server for server in read_json(STATE)["servers"] if server["name"] == name]
        return found if started_at(found["pid"]) == found["started"] else None
    except (KeyError, TypeError, ValueError):  # `flows.serve` says of a damaged file what to do
        return None
