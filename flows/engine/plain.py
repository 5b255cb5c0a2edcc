"""The engine without a server: a flow is a call, and each run a thread."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from cl.errors import UserError

T = TypeVar("T")
U = TypeVar("U")


class Engine:
    """Runs stages without a server: a flow is a call, and each run a thread. Subclasses tell a server of it."""

    url: str | None = None
    retries: ClassVar[tuple[float, ...]] = (2.0, 10.0, 60.0)
    """Seconds to wait before each further try in `retried`."""

    def flow(self, name: str, run_name: str, tags: Iterable[str], body: Callable[[], T]) -> T:
        """Run the body as a flow of this name."""
        del name, run_name, tags
        return body()

    def each(
        self,
        runs: Sequence[U],
        body: Callable[[U], T],
        at_once: int,
        name: Callable[[U], str],
        tags: Callable[[U], Iterable[str]] = lambda run: (),
    ) -> list[T | UserError]:
        """Run the body for every run, so many at once; returns what each returned, in the order of the runs.

        A `UserError` of one run is returned in its place and does not disturb the others. A server is told the name and
        the tags of each run.
        """
        told = self.as_task_runs(body, name, tags)

        def guarded(run: U) -> T | UserError:
            try:
                return told(run)
            except UserError as error:
                return error

        threads = ThreadPoolExecutor(max_workers=max(at_once, 1))
        try:
            return list(threads.map(guarded, runs))
        finally:  # after an interrupt nothing is waited for
            threads.shutdown(wait=False, cancel_futures=True)

    def as_task_runs(
        self, body: Callable[[U], T], name: Callable[[U], str], tags: Callable[[U], Iterable[str]]
    ) -> Callable[[U], T]:
        """The body of `each`, which tells a server of every run where there is one."""
        del name, tags
        return body

    def retried(self, name: str, body: Callable[[], T]) -> T:
        """Run what may fail because of others (a network, a server), and try it again after ever longer waits."""
        del name
        for wait in (*self.retries, None):
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

    def note(self, lines: str) -> None:
        """Add to the log of the flow run what a terminal shows otherwise."""

    def outcome(self, sentence: str) -> None:
        """What has come of the flow run, which is its message once it has ended well."""

    def tag(self, tags: Iterable[str]) -> None:
        """Add tags to a flow run that Prefect has started, and so named and tagged itself."""

    def page_of_flow_run(self) -> Callable[[], str | None]:
        """The address of the page of the flow run, once the server has given it one."""
        return lambda: None

    def here(self) -> Callable[[], AbstractContextManager[None]]:
        """A context in which another thread shows what it shows beside the run that is under way here."""
        return contextlib.nullcontext

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
        """Show a table beside the flow run."""

    def growing(self, key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
        """Keep a table up to date that grows while the run is under way."""

    def link(self, key: str, address: str, description: str) -> None:
        """Show a link beside the flow run."""

    def page(self, key: str, markdown: str, description: str) -> None:
        """Show a text beside the flow run."""

    def progress(self, key: str, share: float, description: str) -> None:
        """Show how far a run is, `share` in [0, 1]."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait, for a limited time, until the server knows everything; without one there is nothing to wait for."""
