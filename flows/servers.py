"""The servers that `flows.serve` has started from this folder: which they are, and whether they still run."""

from __future__ import annotations

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
    command: str = ""
    """What was started, as in a shell."""

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
