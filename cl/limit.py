"""A limit of time for a command: at its end what still runs is stopped, and the same command goes on from there."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cl.errors import Stopped
from cl.keys import run_folder
from cl.params import Params
from cl.publish import publish_if_finished
from cl.work import RUN

STOPPED = "stopped"
"""Why a run ended that was stopped from here, by the limit or by an interrupt."""


class Limit:
    """Minutes from the begin of the command on; None: no limit."""

    def __init__(self, minutes: float | None, began: float | None = None) -> None:
        self.minutes = minutes
        began = time.monotonic() if began is None else began
        self._end = math.inf if minutes is None else began + 60 * minutes

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._end

    @contextlib.contextmanager
    def ends(self, stop: Callable[[], None]) -> Iterator[None]:
        """Within the context a thread calls `stop` when the time is over; at once if it is over already."""
        if self.minutes is None:
            yield
        elif self.over:
            stop()
            yield
        else:
            timer = threading.Timer(self._end - time.monotonic(), stop)
            timer.daemon = True
            timer.start()
            try:
                yield
            finally:
                timer.cancel()


@dataclass(frozen=True)
class Far:
    """How far a comparison is: the names of its runs, as `ewc/seed-0`."""

    finished: list[str]
    failed: list[str]
    begun: list[str]
    """Those under way."""
    waiting: list[str]
    """Those not begun."""

    @property
    def left(self) -> list[str]:
        """The runs that the same command goes on with."""
        return [*self.begun, *self.waiting]

    def __str__(self) -> str:
        runs = sum(len(names) for names in (self.finished, self.failed, self.left))
        failed = f", failed: {len(self.failed)}" if self.failed else ""
        return (
            f"{len(self.finished)} of {runs} runs are finished{failed}, under way: {len(self.begun)}, "
            f"not begun: {len(self.waiting)}"
        )


def how_far(params: Params, out: Path, failed: Collection[str] = ()) -> Far:
    """How far the runs of the params are; what has failed is known to the caller alone.

    A run that was ended between its last task and its results is finished: its results are published here.
    """
    far = Far([], list(failed), [], [])
    for seed in params.seeds:
        for method in params.methods:
            if (name := f"{method}/seed-{seed}") in failed:
                continue
            if publish_if_finished(params, (method, seed), out, lambda event: None):
                far.finished.append(name)
            else:
                begun = (run_folder(params, method, seed, out) / RUN).exists()
                (far.begun if begun else far.waiting).append(name)
    return far


class Unfinished(Stopped):
    """The limit ended the command before all runs were finished.

    `failures` says of every run without a result why it has none.
    """

    def __init__(self, limit: Limit, far: Far, failed: Mapping[str, str]) -> None:
        self.failures = {**failed, **dict.fromkeys(far.left, f"not finished within {limit.minutes:g} minutes")}
        super().__init__(
            f"stopped at the limit of {limit.minutes:g} minutes; {far}; the same command goes on from here"
        )
