"""Tells a Prefect server of flow runs and task runs, in a thread of its own: no run ever waits for the server.

Prefect's own engine asks the server before and after every step of a run. Where the server is gone, hangs or answers
nonsense, a run under that engine fails or stands still, and so does training. Here what happens goes into a queue, and
a thread sends it by Prefect's client, with a deadline for every request. What a server misses while it is away follows
once it answers; a server that stays away costs a warning, and a few seconds at the end.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cl.redact import without_password
from flows.deadline import leave_behind, within
from flows.engine.api import (
    LINE_LENGTH,
    Json,
    Lines,
    PrefectRun,
    client_of_prefect,
    now,
    overloaded,
    refuses,
    said_of,
    seconds_for_an_answer,
    settings_for,
    state_of,
    task_to_make,
)

REQUEST_SECONDS = 6.0
"""For a whole request, unless the user gives Prefect's clients another time."""
WAITS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds to wait before each further try of a request that failed; the last wait is repeated."""
QUIET_SECONDS = 5.0
"""Where a server answers again within that time, there is no warning."""
END_SECONDS = (8.0, 60.0)
"""How long the end waits for a server: at most so long without a request that succeeds, and so long in all."""
INTERRUPTED_SECONDS = (3.0, 10.0)
"""The same after an interrupt."""
LINES = 200
"""Lines of a log that are sent at once."""


class Teller:
    """Sends what the server at this address is told, in order, while the caller goes on."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._jobs: deque[Callable[[], None]] = deque()  # the first one is being sent
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._client: Any = None
        self._artifacts: dict[tuple[PrefectRun, str], str] = {}
        self._newest: dict[tuple[PrefectRun, str], Json] = {}
        self._taken = time.monotonic()  # when the server last took something
        self._ready = self._last_try = self._gave_up = self._warned = False
        self._seconds = seconds_for_an_answer(REQUEST_SECONDS)

    # What it can be told.

    def flow(
        self,
        name: str,
        run_name: str,
        tags: Iterable[str],
        parent: PrefectRun | None,
        parameters: Mapping[str, str] | None = None,
    ) -> PrefectRun:
        """Tell of a flow run that has begun, below another where it has a parent."""
        run = PrefectRun("flow", tags, parent)
        once = uuid.uuid4().hex

        def create() -> None:
            above = None
            if parent is not None:
                if parent.flow.id is None:
                    return
                placeholder = task_to_make(name, once, run_name, run.tags, parent.flow.id)
                above = self._ask("POST", "/task_runs/", placeholder)["id"]
            flow = self._ask("POST", "/flows/", {"name": name})["id"]
            made = {"flow_id": flow, "name": run_name, "tags": run.tags, "state": state_of("PENDING")}
            made |= {"parent_task_run_id": above, "idempotency_key": once, "parameters": dict(parameters or {})}
            run.id = str(self._ask("POST", "/flow_runs/", made)["id"])
            self._set(run, "RUNNING", "")

        self._put(create)
        return run

    def task(self, key: str, name: str, flow: PrefectRun, tags: Iterable[str] = ()) -> PrefectRun:
        """Tell of a task run of the flow run that has begun."""
        run = PrefectRun("task", tags, flow)
        once = uuid.uuid4().hex

        def create() -> None:
            if flow.id is not None:
                made = task_to_make(key, once, name, run.tags, flow.id)
                run.id = str(self._ask("POST", "/task_runs/", made)["id"])
                self._set(run, "RUNNING", "")

        self._put(create)
        return run

    def end(self, run: PrefectRun, state: str, message: str = "") -> None:
        """Tell that the run has ended; what still runs below it has crashed with it."""
        if run.ended:
            return
        run.ended = True
        for below in run.below:
            self.end(below, "CRASHED", message)
        self._put(lambda: self._set(run, state, message))

    def waits(self, run: PrefectRun, message: str) -> None:
        """Tell that the run has failed and will be tried again."""
        self._put(lambda: self._set(run, "SCHEDULED", message, "AwaitingRetry"))

    def goes_on(self, run: PrefectRun) -> None:
        """Tell that the run is tried again now."""
        self._put(lambda: self._set(run, "RUNNING", "", "Retrying"))

    def line(self, run: PrefectRun, text: str, level: int = 20) -> None:
        """Add a line to the run's log."""
        told = {"message": without_password(text)[:LINE_LENGTH], "level": level, "timestamp": now()}
        with self._changed:
            last = self._jobs[-1] if len(self._jobs) > 1 else None
            if isinstance(last, Lines) and len(last.told) < LINES:
                last.told.append((run, told))
                return
        self._put(Lines(self._ask, [(run, told)]))

    def artifact(self, run: PrefectRun, key: str, kind: str, data: str, description: str) -> None:
        """Show an artifact beside the run; the server keeps the earlier ones of the key."""
        told = {"key": key, "type": kind, "data": data, "description": description}

        def create() -> None:
            self._create_artifact(run, told)

        self._put(create)

    def renewed(self, run: PrefectRun, key: str, kind: str, data: str | float, description: str) -> None:
        """Show one artifact of the key beside the run, kept up to date: of what waits to be sent, the last alone."""
        artifact = run, key
        with self._changed:
            waits = artifact in self._newest
            self._newest[artifact] = {"data": data, "description": description}
        if not waits:
            self._put(lambda: self._renew(artifact, kind))

    def _renew(self, artifact: tuple[PrefectRun, str], kind: str) -> None:
        run, key = artifact
        with self._changed:
            told = self._newest.pop(artifact, None)
        if told is None:  # an earlier job has sent it
            return
        try:
            if (known := self._artifacts.get(artifact)) is not None:
                self._ask("PATCH", f"/artifacts/{known}", told)
            elif (made := self._create_artifact(run, {"key": key, "type": kind, **told})) is not None:
                self._artifacts[artifact] = made
        except Exception as error:
            if not refuses(error):  # it is tried again, with what is the newest then
                with self._changed:
                    self._newest.setdefault(artifact, told)
            raise

    def tags(self, run: PrefectRun) -> None:
        """Tell which tags the flow run has now."""
        told = {"tags": list(run.tags)}
        self._put(lambda: self._ask("PATCH", f"/flow_runs/{run.id}", told))

    def flush(self, interrupted: bool = False) -> None:
        """Wait until the server knows everything, as long as its requests succeed."""
        idle, whole = INTERRUPTED_SECONDS if interrupted else END_SECONDS
        if not interrupted:  # whoever has patience with a request has it here
            idle, whole = (seconds - REQUEST_SECONDS + self._seconds for seconds in (idle, whole))
        end = time.monotonic() + whole
        with self._changed:
            self._taken = time.monotonic()
            self._last_try = True
            self._changed.notify_all()
            while self._jobs and not self._gave_up:
                left = (min(self._taken + idle, end) if self._ready else end) - time.monotonic()
                if left <= 0:
                    self._give_up("it takes too long")
                else:
                    self._changed.wait(left)
            self._last_try = False
        if self._gave_up and self._thread is not None:
            leave_behind(self._thread)

    # The thread.

    def _put(self, job: Callable[[], None]) -> None:
        with self._changed:
            if self._gave_up:
                return
            self._jobs.append(job)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="prefect", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        try:
            settings = settings_for(self._url)
        except Exception as error:  # Prefect is not installed, or refuses its own settings
            with self._changed:
                self._give_up(said_of(error))
            return
        with self._changed:
            self._ready, self._taken = True, time.monotonic()
            self._changed.notify_all()
        with settings:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._jobs)
                    job = self._jobs[0]
                self._deliver(job)
                with self._changed:
                    if self._gave_up:
                        return
                    self._jobs.popleft()
                    self._taken = time.monotonic()
                    self._changed.notify_all()

    def _deliver(self, job: Callable[[], None]) -> None:
        """Do the job, however many tries it takes; a job that the server refuses is left out."""
        began, failed = time.monotonic(), 0
        while not self._gave_up:
            last = self._last_try
            try:
                job()
            except Exception as error:  # whatever a server, or Prefect's client, makes of it: training goes on
                if refuses(error):
                    self._warn(f"it refused something: {said_of(error)}")
                    return
                with self._changed:
                    if last and not overloaded(error):
                        self._give_up(said_of(error))
                    elif time.monotonic() - began > QUIET_SECONDS:
                        self._warn(said_of(error))
                    wait = WAITS[min(failed, len(WAITS) - 1)]
                    if not last:
                        self._changed.wait_for(lambda: self._last_try or self._gave_up, wait)
                    elif not self._gave_up:
                        self._changed.wait(WAITS[0])
                failed += 1
            else:
                return

    def _give_up(self, why: str) -> None:
        self._gave_up = True
        self._changed.notify_all()
        self._warn(why)

    def _warn(self, why: str) -> None:
        """Say so, once."""
        if not self._warned:
            self._warned = True
            url = without_password(self._url)
            line = f"warning: the Prefect server at {url} is not up to date ({why}); the run itself goes on"
            with contextlib.suppress(OSError):  # nobody may read it any more
                print(line, flush=True)

    # Requests.

    def _set(self, run: PrefectRun, state: str, message: str, name: str | None = None) -> None:
        if run.id is not None:
            told = {"state": state_of(state, message, name), "force": True}
            self._ask("POST", f"/{run.kind}_runs/{run.id}/set_state", told)

    def _create_artifact(self, run: PrefectRun, told: Json) -> str | None:
        if run.id is None or run.flow.id is None:
            return None
        task = run.id if run.kind == "task" else None
        made = self._ask("POST", "/artifacts/", {**told, "flow_run_id": run.flow.id, "task_run_id": task})
        return str(made["id"])

    def _ask(self, method: str, path: str, body: Any) -> Any:
        """Make one request; raises whatever is wrong with the answer."""
        if self._client is None:
            self._client = client_of_prefect(self._seconds)
        client = self._client

        def request() -> Any:
            answer = client.request(method, path, json=body)
            return answer.json() if answer.content else None

        try:
            return within(self._seconds, request)
        except TimeoutError:
            self._client = None  # closing it ends the request that was left behind
            within(REQUEST_SECONDS, lambda: client.__exit__(None, None, None))
            raise
