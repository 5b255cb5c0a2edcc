"""How far the runs are: on a terminal as a table that renews itself, otherwise as plain lines."""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from cl.children import Hear, RunId
from cl.errors import count
from cl.events import Event
from cl.pool import Pace, Progress, chosen_of

NARROW = 60
"""Columns of a terminal below which the last decision is left out."""
OTHER_LINES = 3
"""Of the table: its head, what stands below it, and the cursor's."""


class LiveTable:
    """A row per method: how far its seeds are, accuracy so far, and the last decision."""

    def __init__(self, runs: Iterable[RunId], console: Console) -> None:
        self.console = console
        self._runs = list(runs)
        self._pace = Pace(self._runs)
        self._accuracy: dict[RunId, float] = {}
        self._last = dict.fromkeys((run.method for run in self._runs), "")  # what was heard last stands at the end

    def __call__(self, run: RunId, event: Event) -> None:
        """Take an event of a run."""
        if event["event"] == "warning" or event["event"] == "error":
            self.console.print(f"{run.name}: {event['message']}", markup=False, highlight=False)
        elif event["event"] == "finished before":
            self._pace.found(run, 1.0)
            self._note(run.method, f"seed {run.seed}: finished before")
        elif event["event"] == "resumed":
            self._pace.found(run, (event["index"] + 1) / event["tasks"])
            self._note(run.method, f"seed {run.seed}: continues earlier work")
        elif event["event"] == "trial":
            where = f"seed {run.seed}: task {event['index'] + 1}/{event['tasks']} {event['phase']}"
            self._note(run.method, f"{where} {chosen_of(event['point'])}: {event['accuracy']:.1%}")
        elif event["event"] == "task":
            self._pace.learned(run, (event["index"] + 1) / event["tasks"])
            self._accuracy[run] = event["average_accuracy"]
            chosen = chosen_of({"learning rate": event["learning_rate"], **event["decayed"]})
            self._note(run.method, f"seed {run.seed}: task {event['index'] + 1}/{event['tasks']} learned, {chosen}")
            for remark in event.get("remarks", ()):
                said = f"{run.name}: warning: task {event['index'] + 1} {event['task']}: {remark}"
                self.console.print(said, markup=False, highlight=False)

    def _note(self, method: str, said: str) -> None:
        del self._last[method]
        self._last[method] = said

    def __rich__(self) -> RenderableType:
        """The table as it is now; where a terminal has too few lines, those heard of last, and how many more."""
        table = Table(box=None, header_style="dim", pad_edge=False, expand=True)
        table.add_column("method", no_wrap=True)
        narrow = self.console.width < NARROW
        bar = 6 if narrow else 20
        table.add_column("", width=bar + 2)
        table.add_column("so far" if narrow else "accuracy so far", justify="right", no_wrap=True)
        if not narrow:
            table.add_column("last", no_wrap=True, overflow="ellipsis", ratio=1, style="dim")
        fit = list(self._last)[-max(self.console.height - OTHER_LINES, 1) :]
        for method in dict.fromkeys(run.method for run in self._runs):
            if method not in fit:
                continue
            own = [run for run in self._runs if run.method == method]
            share = statistics.fmean(self._pace.share[run] for run in own)
            reached = [self._accuracy[run] for run in own if run in self._accuracy]
            accuracy = f"{statistics.fmean(reached):.1%}" if reached else ""
            last = [] if narrow else [self._last[method]]
            table.add_row(method, ProgressBar(1.0, share, width=bar), accuracy, *last)
        hidden = count(more, "more method") if (more := len(self._last) - len(fit)) else ""
        table.caption, table.caption_justify = "; ".join(filter(None, [hidden, self._pace.left()])), "left"
        return table


@contextlib.contextmanager
def shown(runs: Iterable[RunId], say: Callable[[str], None], *, lines: bool = False) -> Iterator[Hear]:
    """A function that takes the runs' events and shows them; `lines`: as lines even on a terminal."""
    runs = list(runs)
    console = Console()
    if lines or not sys.stdout.isatty() or not console.is_terminal or console.is_dumb_terminal:
        yield Progress(runs, say)
        return
    table = LiveTable(runs, console)
    with Live(table, console=console, refresh_per_second=4):
        yield table
