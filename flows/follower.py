"""Tracks runs while they run, in a thread of its own: a slow tracking server slows no training down."""

from __future__ import annotations

import queue
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cl.params import Params
from flows.deadline import leave_behind
from flows.tracking import Tracker, Tracking

SECONDS_BETWEEN_LOOKS = 15.0
"""A run that is still running is logged no more often than this; short runs are logged once, at their end."""
LEAVE_SECONDS = {"server": 75.0, "embedded": 300.0, "interrupted": 5.0}
"""How long what is left may take at the end of a run; afterwards it is left for the next one."""


@dataclass(frozen=True)
class _Look:
    run: Path
    finished: bool
    failed: str | None


def tracking_of(params: Params, out: Path) -> Tracking:
    """Where a run of these params is shown."""
    settings = params.tracking
    shared = Path(settings.folder) if settings.folder is not None else None
    return Tracking(out, settings.uri, settings.experiment or params.title, shared)


class Follower:
    """Hands run folders to the tracker, in order; leaving the context waits for what is left, for so long at most."""

    def __init__(self, tracker: Tracker | None, seconds: float = LEAVE_SECONDS["embedded"]) -> None:
        self._tracker = tracker
        self._seconds = seconds
        self._queue: queue.Queue[_Look | None] = queue.Queue()
        self._last: dict[Path, float] = {}
        # A daemon: where a tracker hangs, the process ends all the same.
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    @staticmethod
    def of(params: Params, out: Path, tags: dict[str, str]) -> Follower:
        """A follower for a run of these params; one that does nothing where tracking is off."""
        if not params.tracking.enabled:
            return Follower(None)
        settings = params.model_dump(mode="json", exclude={"seeds", "tracking", "champion", "execution"})
        where = tracking_of(params, out)
        seconds = LEAVE_SECONDS["embedded" if where.uri is None else "server"]
        return Follower(Tracker(where, tags, settings), seconds)

    def look(self, run: Path, finished: bool = False, failed: str | None = None) -> None:
        """The run has come further (or to its end)."""
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
            if self._tracker is not None:
                self._tracker.sync(look.run, finished=look.finished, failed=look.failed)
        if self._tracker is not None:
            self._tracker.close()
