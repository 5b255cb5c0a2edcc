"""Prefect where there is a server, nothing at all where there is none.

A stage is written once, as a plain function, and runs as one. Where a Prefect server is configured (`PREFECT_API_URL`)
it is told of the stage as a named and tagged flow run, and of the runs as task runs; where none is, Prefect is not
even imported.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from cl.errors import UserError
from cl.redact import without_password
from flows.deadline import check_answer
from flows.prefect_runs import Run, Teller

T = TypeVar("T")
U = TypeVar("U")
HEALTH_SECONDS = 5
RETRIES = (2.0, 10.0, 60.0)
"""Seconds before each further try of what others may have made fail."""


class Plain:
    """No orchestration: a flow is a call, and each task a thread."""

    url: str | None = None

    def flow(self, name: str, run_name: str, tags: Iterable[str], body: Callable[[], T]) -> T:
        """Run the body as a flow of this name."""
        del name, run_name, tags
        return body()

    def each(
        self, runs: Sequence[U], body: Callable[[U], T], at_once: int, name: Callable[[U], str]
    ) -> list[T | UserError]:
        """Run the body for every run, so many at once; in the order of the runs, what came of each.

        A `UserError` of one run is returned in its place and does not disturb the others.
        """
        del name

        def guarded(run: U) -> T | UserError:
            try:
                return body(run)
            except UserError as error:
                return error

        threads = ThreadPoolExecutor(max_workers=max(at_once, 1))
        try:
            return list(threads.map(guarded, runs))
        finally:  # an interrupt is the caller's to act on, at once
            threads.shutdown(wait=False, cancel_futures=True)

    def retried(self, name: str, body: Callable[[], T]) -> T:
        """Run what may fail for reasons of others (a network, a server): tried `RETRIES` times more, ever later."""
        del name
        for wait in (*RETRIES, None):
            try:
                return body()
            except Exception:
                if wait is None:
                    raise
                time.sleep(wait)
        raise AssertionError("not reached")

    def say(self, line: str) -> None:
        """Show a line of progress."""
        print(line, flush=True)

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
        """Show a table beside the run."""

    def link(self, key: str, address: str, description: str) -> None:
        """Show a link beside the run."""

    def page(self, key: str, markdown: str, description: str) -> None:
        """Show a text beside the run."""

    def progress(self, key: str, share: float, description: str) -> None:
        """Show how far a run is, `share` in [0, 1]."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait, for some seconds at most, until those who are told of the run know all."""


class WithServer(Plain):
    """Runs all as without a server, and tells the one at `url` of flow and task runs (`flows.prefect_runs`)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._teller = Teller(url)
        self._around = _run_by_prefect()
        """The flow run that Prefect itself runs us in, as a deployment."""

    @property
    def _run(self) -> Run | None:
        return _current.get() or self._around

    def flow(self, name: str, run_name: str, tags: Iterable[str], body: Callable[[], T]) -> T:
        """Run the body as a flow run; a `UserError` from it fails that with its message, and is raised again."""
        run = self._teller.flow(name, run_name, tags, self._run)
        with contextlib.ExitStack() as stack:
            if run.parent is None:
                stack.enter_context(self)
            with self._told(run):
                return super().flow(name, run_name, tags, body)

    def each(
        self, runs: Sequence[U], body: Callable[[U], T], at_once: int, name: Callable[[U], str]
    ) -> list[T | UserError]:
        """Run the body as a task run for every run; one that raises has failed, and no more."""
        around = self._run
        if around is None:
            return super().each(runs, body, at_once, name)

        def told(run: U) -> T:
            with self._told(self._teller.task("unit", name(run), around)):
                return body(run)

        return super().each(runs, told, at_once, name)

    def retried(self, name: str, body: Callable[[], T]) -> T:
        """Run it as a task run, of which the server sees every try."""
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
                if tries <= len(RETRIES):
                    self._teller.waits(run, _reason(error))
                raise

        with self._told(run):
            return super().retried(name, told)

    @contextlib.contextmanager
    def _told(self, run: Run) -> Iterator[None]:
        """Be this run, and tell how it ends."""
        token = _current.set(run)
        try:
            yield
        except Exception as error:
            detail = "" if isinstance(error, UserError) else f"\n{traceback.format_exc()}"
            self._teller.line(run, f"{_reason(error)}{detail}", logging.ERROR)
            self._teller.end(run, "FAILED", _reason(error))
            raise
        except BaseException as error:  # an interrupt
            self._teller.end(run, "CRASHED", type(error).__name__)
            raise
        else:
            self._teller.end(run, "COMPLETED")
        finally:
            _current.reset(token)

    def say(self, line: str) -> None:
        """Show the line, here and in the run's log."""
        super().say(line)
        if (run := self._run) is not None:
            self._teller.line(run, line)

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
        """Store a table artifact under the key, so that the UI keeps its history."""
        if (run := self._run) is not None:
            self._teller.artifact(run, key, "table", json.dumps([dict(row) for row in rows]), description)

    def link(self, key: str, address: str, description: str) -> None:
        """Store a link artifact under the key."""
        if (run := self._run) is not None:
            self._teller.artifact(run, key, "markdown", f"[{address}]({address})", description)

    def page(self, key: str, markdown: str, description: str) -> None:
        """Store a Markdown artifact under the key."""
        if (run := self._run) is not None:
            self._teller.artifact(run, key, "markdown", markdown, description)

    def progress(self, key: str, share: float, description: str) -> None:
        """Keep a progress artifact under the key up to date: it stands above the run's task in the run's graph."""
        if (run := self._run) is not None:
            self._teller.progress(run, key, share, description)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._teller.flush(_interrupts(error))


_current: contextvars.ContextVar[Run | None] = contextvars.ContextVar("run", default=None)


def _run_by_prefect() -> Run | None:
    """The flow run whose process this is, where Prefect started it: it is told of by Prefect."""
    if (context := sys.modules.get("prefect.context")) is None:
        return None
    found = context.FlowRunContext.get()
    return None if found is None or found.flow_run is None else Run("flow", (), identity=str(found.flow_run.id))


def _interrupts(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, Exception)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def engine() -> Plain:
    """Prefect where `PREFECT_API_URL` names a server that answers; else none, saying so where one was named."""
    url = os.environ.get("PREFECT_API_URL", "").strip().rstrip("/")
    if not url:
        return Plain()
    try:
        check_answer(f"{url}/health", HEALTH_SECONDS)
    except ConnectionError as error:
        print(f"warning: no Prefect server answers at {without_password(url)} ({error}); going on without", flush=True)
        return Plain()
    return WithServer(url)
