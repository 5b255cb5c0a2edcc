"""The servers that `flows.serve` has started from this folder: which they are, and whether they still run."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from cl.errors import UserError
from cl.files import read_json
from flows.deadline import check_answer
from flows.stage import started_at

HOME = Path(".prefect")
STATE = HOME / "servers.json"
ANSWER_SECONDS = 3.0


@dataclass(frozen=True)
class Server:
    """A server that was started: its process, and where it answers."""

    name: str
    address: str
    health: str
    pid: int
    started: int
    """When the process was started, in clock ticks since boot: a pid may be used again, this pair is not."""
    log: str
    shows: str = ""
    """Of MLflow: the folder whose database it shows."""

    @property
    def alive(self) -> bool:
        """Whether that very process still runs."""
        return started_at(self.pid) == self.started

    @property
    def answers(self) -> bool:
        """Whether it is ready."""
        try:
            check_answer(self.health, ANSWER_SECONDS)
        except ConnectionError:
            return False
        return True


def known() -> dict[str, Server]:
    """The servers of this project that run; raises `UserError` where the record of what was started is damaged."""
    if not STATE.exists():
        return {}
    try:
        started = TypeAdapter(list[Server]).validate_python(read_json(STATE)["servers"])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{STATE}: damaged; end its servers (`pgrep -af 'prefect|mlflow'` lists all there are) and remove the file"
        ) from None
    return {server.name: server for server in started if server.alive}


def address(name: str) -> str | None:
    """Where the server of this name answers; None where it does not run."""
    found = _noted(name)
    return None if found is None else found.address


def shown_folder() -> Path | None:
    """The folder with the database that the MLflow of `make serve` shows; None where none runs."""
    found = _noted("mlflow")
    return Path(found.shows) if found is not None and found.shows else None


def link_to(page: Path) -> str:
    """The address of a page of a report: served over HTTP where it can be, otherwise the file's."""
    page, base = page.resolve(), address("report")
    if base is None or not page.is_relative_to(Path.cwd().resolve()):
        return page.as_uri()
    return f"{base}/{urllib.parse.quote(page.relative_to(Path.cwd().resolve()).as_posix())}"


def _noted(name: str) -> Server | None:
    try:
        return known().get(name)
    except UserError:  # `flows.serve` says of a damaged file what to do
        return None
