"""What Prefect's server is sent, and the client that sends it, which is Prefect's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from cl.redact import encoded, without_password

Json = dict[str, Any]
LINE_LENGTH = 20_000
"""Of a line of a log, or of a message, at most."""


TIMEOUT = "PREFECT_API_REQUEST_TIMEOUT"
"""How long Prefect's own clients wait for an answer, in seconds."""


class PrefectRun:
    """A flow run or a task run of Prefect's, of which the server is told."""

    def __init__(
        self, kind: str, tags: Iterable[str], parent: PrefectRun | None = None, identity: str | None = None
    ) -> None:
        self.kind = kind
        above = parent.tags if parent is not None and kind == "flow" else ()  # of all methods: wrong for a single run
        self.tags: list[str] = list(dict.fromkeys([*above, *tags]))
        self.parent = parent
        self.id = identity
        """The id at the server; None until the server has given it."""
        self.ended = False
        self.outcome = ""
        """What has come of it, as the message of its last state."""
        self.below: list[PrefectRun] = []
        if parent is not None:
            parent.below.append(self)

    @property
    def flow(self) -> PrefectRun:
        """The flow run it belongs to."""
        return self if self.kind == "flow" or self.parent is None else self.parent.flow


class Lines:
    """Lines of logs, which are sent together."""

    def __init__(self, ask: Callable[[str, str, Any], Any], told: list[tuple[PrefectRun, Json]]) -> None:
        self._ask, self.told = ask, told

    def __call__(self) -> None:
        logs = [
            {
                **line,
                "name": f"prefect.{run.kind}_runs",
                "flow_run_id": run.flow.id,
                "task_run_id": run.id if run.kind == "task" else None,
            }
            for run, line in self.told
            if run.flow.id is not None
        ]
        if logs:
            self._ask("POST", "/logs/", logs)


def seconds_for_an_answer(usual: float) -> float:
    """How long a request may take: as long as the user lets Prefect's clients wait, and otherwise so long."""
    try:
        return float(os.environ.get(TIMEOUT, usual))
    except ValueError:  # Prefect refuses it, in words of its own
        return usual


def settings_for(url: str) -> Any:
    """A context in which Prefect's client asks this address and repeats no request."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    return temporary_settings({PREFECT_API_URL: encoded(url), PREFECT_CLIENT_MAX_RETRIES: 0})


def client_of_prefect(seconds: float) -> Any:
    """Prefect's own client, which knows its keys, certificates and headers; it waits so long for the next byte."""
    from prefect.client.orchestration import get_client

    return get_client(httpx_settings={"timeout": seconds}, sync_client=True).__enter__()


def task_to_make(key: str, once: str, name: str, tags: list[str], flow: str) -> Json:
    """A task run to be made; told twice, it is made once."""
    told = {"task_key": key, "dynamic_key": once, "name": name, "tags": tags, "flow_run_id": flow}
    return {**told, "state": state_of("PENDING")}


def state_of(kind: str, message: str = "", name: str | None = None) -> Json:
    """A state of a run, as the server takes it."""
    told: Json = {"type": kind, "name": name or kind.capitalize(), "message": without_password(message)[:LINE_LENGTH]}
    return told


def now() -> str:
    """The time, as the server takes it."""
    return datetime.now(UTC).isoformat()


def refuses(error: Exception) -> bool:
    """Whether the server is well, and refuses this one thing."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status in (400, 404, 409, 413, 422)


def overloaded(error: Exception) -> bool:
    """Whether the server answers that it cannot now. A busy one says so when its database is locked."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status == 429 or (status is not None and status >= 500)


def said_of(error: Exception) -> str:
    """What is wrong, in a few words without a password."""
    text = without_password(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__
