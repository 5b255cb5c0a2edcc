"""Prefect where there is a server, nothing at all where there is none.

A stage is written once, as a plain function. With a Prefect server configured (`PREFECT_API_URL`) it runs as a
named and tagged flow, its units as tasks; without one it is simply called, and Prefect is not even imported: the
temporary server that Prefect would start instead costs ten seconds a stage.
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from cl.errors import UserError

T = TypeVar("T")
U = TypeVar("U")
HEALTH_SECONDS = 5
RETRIES = (2.0, 10.0, 60.0)
"""Seconds before each further try of what others may have made fail."""


class Plain:
    """No orchestration: a flow is a call, and each task a thread."""

    url: str | None = None

    def flow(self, name: str, run_name: str, tags: Iterable[str], body: Callable[[], T], at_once: int = 1) -> T:
        """Run the body as a flow of this name, with so many tasks at once."""
        del name, run_name, tags, at_once
        return body()

    def each(
        self, units: Sequence[U], body: Callable[[U], T], at_once: int, name: Callable[[U], str]
    ) -> list[T | UserError]:
        """Run the body for every unit, so many at once; in the order of the units, what came of each.

        A `UserError` of one unit is returned in its place and does not disturb the others.
        """
        del name

        def guarded(unit: U) -> T | UserError:
            try:
                return body(unit)
            except UserError as error:
                return error

        threads = ThreadPoolExecutor(max_workers=max(at_once, 1))
        try:
            return list(threads.map(guarded, units))
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
        """Show how far a unit is, `share` in [0, 1]."""


class WithServer(Plain):
    """Flows and tasks on the Prefect server at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._progress: dict[str, Any] = {}

    def flow(self, name: str, run_name: str, tags: Iterable[str], body: Callable[[], T], at_once: int = 1) -> T:
        """Run the body as a flow; a `UserError` from it fails the flow with its message, and is raised again."""
        import prefect
        from prefect.task_runners import ThreadPoolTaskRunner

        runner: Any = ThreadPoolTaskRunner(max_workers=at_once)
        made = prefect.flow(name=name, flow_run_name=run_name, task_runner=runner, persist_result=False)(body)
        with prefect.tags(*tags):
            return made()

    def each(
        self, units: Sequence[U], body: Callable[[U], T], at_once: int, name: Callable[[U], str]
    ) -> list[T | UserError]:
        """Run the body as a task for every unit; one that raises is a failed task, and no more."""
        import prefect
        from prefect.cache_policies import NO_CACHE

        del at_once  # the flow's
        made = prefect.task(name="unit", cache_policy=NO_CACHE, persist_result=False)(body)
        futures = [made.with_options(task_run_name=name(unit)).submit(unit) for unit in units]
        found: list[T | UserError] = []
        for future in futures:
            result = future.result(raise_on_failure=False)
            if isinstance(result, BaseException) and not isinstance(result, UserError):
                raise result
            found.append(result)
        return found

    def retried(self, name: str, body: Callable[[], T]) -> T:
        """Run it as a task with retries."""
        import prefect
        from prefect.cache_policies import NO_CACHE

        delays = list(RETRIES)
        made = prefect.task(
            name=name,
            retries=len(delays),
            retry_delay_seconds=delays,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(body)
        return made()

    def say(self, line: str) -> None:
        """Log the line to the run, which also prints it."""
        import prefect
        from prefect.exceptions import MissingContextError

        try:
            prefect.get_run_logger().info(line)
        except MissingContextError:  # before or after the run
            super().say(line)

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
        """Store a table artifact under the key, so that the UI keeps its history."""
        from prefect.artifacts import create_table_artifact

        create_table_artifact(table=[dict(row) for row in rows], key=key, description=description)

    def link(self, key: str, address: str, description: str) -> None:
        """Store a link artifact under the key."""
        from prefect.artifacts import create_link_artifact

        create_link_artifact(link=address, key=key, description=description)

    def page(self, key: str, markdown: str, description: str) -> None:
        """Store a Markdown artifact under the key."""
        from prefect.artifacts import create_markdown_artifact

        create_markdown_artifact(markdown=markdown, key=key, description=description)

    def progress(self, key: str, share: float, description: str) -> None:
        """Keep a progress artifact under the key up to date: it stands above the unit's task in the run's graph."""
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        told: dict[str, Any] = {"progress": round(100 * share, 1), "description": description}
        known = self._progress.get(key)
        if known is None:
            self._progress[key] = create_progress_artifact(key=key, **told)
        else:
            update_progress_artifact(artifact_id=known, **told)


def engine() -> Plain:
    """Prefect where `PREFECT_API_URL` names a server that answers; else none, saying so where one was named."""
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if not url:
        return Plain()
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=HEALTH_SECONDS):
            pass
    except (urllib.error.URLError, OSError, ValueError) as error:
        print(f"warning: no Prefect server answers at {url} ({error}); going on without", flush=True)
        return Plain()
    return WithServer(url)
