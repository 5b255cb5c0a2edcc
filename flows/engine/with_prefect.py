"""The engine that tells a Prefect server of flow runs and task runs; and which engine is configured."""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from cl.errors import Stopped, UserError
from cl.redact import without_password
from flows.deadline import check_answer
from flows.engine.api import PrefectRun, seconds_for_an_answer
from flows.engine.plain import Engine, T, U
from flows.engine.teller import Teller
from flows.report.made import whole_line

HEALTH_SECONDS = 5
_current: contextvars.ContextVar[PrefectRun | None] = contextvars.ContextVar("run", default=None)


class WithPrefect(Engine):
    """Runs everything as without a server, and tells the server at `url` of flow runs and task runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._teller = Teller(url)
        self._around = _run_by_prefect()
        """The flow run whose process this is, where Prefect itself started it from a deployment."""

    @property
    def _run(self) -> PrefectRun | None:
        return _current.get() or self._around

    def flow(self, name: str, run_name: str, tags: Iterable[str], body: Callable[[], T]) -> T:
        """Run the body as a flow run; a `UserError` from it becomes the flow run's message, and is raised again."""
        line = whole_line() if self._run is None else None
        given = {"command": without_password(line)} if line else {}
        run = self._teller.flow(name, run_name, tags, self._run, given)
        with contextlib.ExitStack() as stack:
            if run.parent is None:
                stack.enter_context(self)
            with self._told(run):
                return super().flow(name, run_name, tags, body)

    def as_task_runs(
        self, body: Callable[[U], T], name: Callable[[U], str], tags: Callable[[U], Iterable[str]]
    ) -> Callable[[U], T]:
        """The body within a task run of the flow run that is under way here."""
        around = self._run
        if around is None:
            return body

        def told(run: U) -> T:
            with self._told(self._teller.task("unit", name(run), around, tags(run))):
                return body(run)

        return told

    def retried(self, name: str, body: Callable[[], T]) -> T:
        """Run the body as a task run, of which the server sees every try."""
        if (around := self._run) is None:
            return super().retried(name, body)
        run = self._teller.task(name, name, around)
        tries = 0

        def told() -> T:
            nonlocal tries
            tries += 1
            if tries > 1:
                self._teller.goes_on(run)
            try:
                return body()
            except Exception as error:
                if tries <= len(self.retries):
                    self._teller.waits(run, _reason(error))
                raise

        with self._told(run):
            return super().retried(name, told)

    @contextlib.contextmanager
    def _told(self, run: PrefectRun) -> Iterator[None]:
        """Within the context this run is the current one; the server is told how it ends."""
        token = _current.set(run)
        try:
            yield
        except Stopped as error:
            self._teller.line(run, str(error), logging.WARNING)
            self._teller.end(run, "CANCELLED", str(error))
            raise
        except Exception as error:
            detail = "" if isinstance(error, UserError) else f"\n{traceback.format_exc()}"
            self._teller.line(run, f"{_reason(error)}{detail}", logging.ERROR)
            self._teller.end(run, "FAILED", _reason(error))
            raise
        except BaseException as error:  # an interrupt
            self._teller.end(run, "CRASHED", type(error).__name__)
            raise
        else:
            self._teller.end(run, "COMPLETED", run.outcome)
        finally:
            _current.reset(token)

    def say(self, line: str) -> None:
        """Show the line, here and in the run's log."""
        super().say(line)
        if (run := self._run) is not None:
            self._teller.line(run, line)

    def note(self, lines: str) -> None:
        """Add lines to the run's log, as one entry."""
        if (run := self._run) is not None:
            self._teller.line(run, lines)

    def outcome(self, sentence: str) -> None:
        """The message of the run's state once it has ended well."""
        if (run := self._run) is not None:
            run.outcome = sentence

    def tag(self, tags: Iterable[str]) -> None:
        """Add tags to the flow run around, and to all that is told below it."""
        if (run := self._around) is not None:
            run.tags = list(dict.fromkeys([*run.tags, *tags]))
            self._teller.tags(run)

    def page_of_flow_run(self) -> Callable[[], str | None]:
        """The address of the flow run that is under way here; None until the server has given it an id."""
        run = self._run
        pages = without_password(str(self.url)).removesuffix("/api")
        return lambda: f"{pages}/runs/flow-run/{run.flow.id}" if run is not None and run.flow.id else None

    def here(self) -> Callable[[], AbstractContextManager[None]]:
        """A context in which the run that is under way here is under way in another thread."""
        run = self._run

        @contextlib.contextmanager
        def there() -> Iterator[None]:
            token = _current.set(run)
            try:
                yield
            finally:
                _current.reset(token)

        return there

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
        """Store a table artifact under the key, so that the UI keeps its history."""
        if (run := self._run) is not None:
            self._teller.artifact(run, key, "table", json.dumps([dict(row) for row in rows]), description)

    def growing(self, key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
        """Keep one table artifact under the key up to date."""
        if (run := self._run) is not None:
            self._teller.renewed(run, key, "table", json.dumps([dict(row) for row in rows]), description)

    def link(self, key: str, address: str, description: str) -> None:
        """Store a link artifact under the key."""
        if (run := self._run) is not None:
            self._teller.artifact(run, key, "markdown", f"# [{address}]({address})\n\n{description}\n", description)

    def page(self, key: str, markdown: str, description: str) -> None:
        """Store a Markdown artifact under the key."""
        if (run := self._run) is not None:
            self._teller.artifact(run, key, "markdown", markdown, description)

    def progress(self, key: str, share: float, description: str) -> None:
        """Keep a progress artifact under the key up to date; the UI shows it above the task run."""
        if (run := self._run) is not None:
            self._teller.renewed(run, key, "progress", round(100 * share, 1), description)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._teller.flush(_interrupts(error))


def _run_by_prefect() -> PrefectRun | None:
    """The flow run whose process this is, where Prefect started it, and so tells of it itself."""
    if (context := sys.modules.get("prefect.context")) is None:
        return None
    around = context.FlowRunContext.get()
    if around is None or around.flow_run is None:
        return None
    return PrefectRun("flow", around.flow_run.tags, identity=str(around.flow_run.id))


def _interrupts(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, Exception)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def configured_engine() -> Engine:
    """The engine that tells Prefect, where `PREFECT_API_URL` names a server that answers; else the plain one.

    Where a server is named and does not answer, a warning says so.
    """
    url = os.environ.get("PREFECT_API_URL", "").strip().rstrip("/")
    if not url:
        return Engine()
    try:
        check_answer(f"{url}/health", seconds_for_an_answer(HEALTH_SECONDS))
    except ConnectionError as error:
        print(f"warning: no Prefect server answers at {without_password(url)} ({error}); going on without", flush=True)
        return Engine()
    return WithPrefect(url)
