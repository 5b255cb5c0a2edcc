"""Tracks runs while they run, in a thread of its own: a slow tracking server slows no training down."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cl.params import Params
from flows.deadline import leave_behind
from flows.tracking.datasets import datasets_of
from flows.tracking.settings import tracking_of
from flows.tracking.tracker import Tracker

SECONDS_BETWEEN_LOOKS = 15.0
"""A run is logged no more often than this while it runs; short runs are logged once, at their end."""
LEAVE_SECONDS = {"server": 75.0, "embedded": 300.0, "interrupted": 5.0}
"""How long sending the rest may take at the end; what is left then follows the next time."""


@dataclass(frozen=True)
class _Look:
    run: Path
    finished: bool
    failed: str | None


class Follower:
    """Hands run folders to the tracker, in order; the context ends once all is sent, or after so long."""

    def __init__(
        self,
        tracker: Tracker | None,
        seconds: float = LEAVE_SECONDS["embedded"],
        sent: Callable[[Path], None] = lambda run: None,
    ) -> None:
        self._tracker = tracker
        self._seconds = seconds
        self._sent = sent
        self._queue: queue.Queue[_Look | None] = queue.Queue()
        self._last: dict[Path, float] = {}
        # A daemon thread: where a tracker hangs, the process ends all the same.
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    @staticmethod
    def of(
        params: Params,
        out: Path,
        tags: dict[str, str],
        flow_run: Callable[[], str | None] = lambda: None,
        sent: Callable[[Path], None] = lambda run: None,
    ) -> Follower:
        """A follower for the runs of these params; it does nothing where tracking is off.

        `flow_run`: the address of the flow run in Prefect, once it is known. `sent` is called, in the follower's
        thread, with the folder of each run that MLflow has as it is now.
        """
        if not params.tracking.enabled:
            return Follower(None)
        settings = params.model_dump(mode="json", exclude={"seeds", "tracking", "champion", "execution", "report"})
        where = tracking_of(params, out)
        seconds = LEAVE_SECONDS["embedded" if where.uri is None else "server"]
        return Follower(Tracker(where, tags, settings, datasets_of(params, out), flow_run), seconds, sent)

    def look(self, run: Path, finished: bool = False, failed: str | None = None) -> None:
        """Note that the run has come further, or to its end."""
        now = time.monotonic()
        ended = finished or failed is not None
        if not ended and now - self._last.setdefault(run, now) < SECONDS_BETWEEN_LOOKS:
            return
        self._last[run] = now
        self._queue.put(_Look(run, finished, failed))

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        interrupted = error is not None and not isinstance(error, Exception)
        self._thread.join(LEAVE_SECONDS["interrupted"] if interrupted else self._seconds)
        if self._thread.is_alive():
            leave_behind(self._thread)
            if not interrupted:
                print("tracking: MLflow takes too long; the next run sends the rest", file=sys.stderr, flush=True)

    def _work(self) -> None:
        while (look := self._queue.get()) is not None:
            if self._tracker and self._tracker.sync(look.run, finished=look.finished, failed=look.failed):
                self._sent(look.run)
        if self._tracker is not None:
            self._tracker.close()
