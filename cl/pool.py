"""Many runs at once: each is a child process, as many as there are cores, and one that fails disturbs no other.

Used by the plain runner (`python -m cl`) and by the flows; a run is the same process whoever starts it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cl.children import Children, Hear, RunId
from cl.data.prepare import read_manifest
from cl.errors import UserError, count
from cl.events import Event
from cl.files import remove_left, sweep
from cl.gpu import runs_per_gpu
from cl.limit import Limit
from cl.machine import processors
from cl.params import Benchmark, Params
from cl.paths import apart, expanded
from cl.register import declares


def runs_of(params: Params) -> list[RunId]:
    """Every method with every seed, in the order to start them.

    They start seed by seed. All methods can then be compared as soon as the first seed is finished, and the times of a
    method are measured at different moments, since other work on the machine may come and go.
    """
    return [RunId(method, seed) for seed in params.seeds for method in params.methods]


def width(params: Params, runs: int) -> tuple[int, int]:
    """(runs at once, processes per run for the plasticity search) on the cores present, and on one GPU.

    With a few more runs than cores, all rounds but the last would be full and the last nearly empty; so the runs
    of the last round are spread over the earlier ones, one or two processes above the cores.
    """
    cores, sharing = params.execution.workers or processors(), runs_per_gpu(params)
    cores = cores if sharing is None else min(cores, sharing)
    if params.execution.workers is not None or sharing is not None or runs <= cores:
        return min(runs, cores), max(1, cores // max(runs, 1))
    return -(-runs // (runs // cores)), 1


def advice(params: Params, prepared: Path) -> str | None:
    """What to change where a batch is larger than a task, so that an epoch is a single step; None where none is.

    A benchmark of few images, in batches made for many, teaches next to nothing.
    """
    images, task = min((task["splits"]["train"]["samples"], task["name"]) for task in read_manifest(prepared)["tasks"])
    if params.scenario.online or images > params.training.batch_size:
        return None
    if all(declares(name, "selection") == "one-pass" for name in params.methods):
        return None
    return (
        f"{task} has {count(images, 'training image')}, and a batch holds {params.training.batch_size}: an epoch is a "
        f"single step, which teaches little; set training.batch_size={max(1, images // 10)}"
    )


def run_all(params: Params, out: Path, runs: Sequence[RunId], hear: Hear, limit: Limit | None = None) -> dict[str, str]:
    """Learn the runs in parallel. Returns the name of each run that failed, and why: `STOPPED` by the limit.

    An interrupt (Ctrl-C) ends all children at once and is raised again; the same command goes on from there.
    """
    at_once, trial_workers = width(params, len(runs))
    children = Children(params, out, hear)
    try:
        with ThreadPoolExecutor(max_workers=at_once) as threads, (limit or Limit(None)).ends(children.stop):
            try:
                reasons = list(threads.map(lambda run: children.run(run, trial_workers), runs))
            except BaseException:
                children.stop()
                raise
    finally:
        children.close()
    return {run.name: reason for run, reason in zip(runs, reasons, strict=True) if reason is not None}


PATIENCE_SECONDS = 5.0
"""A run that has said nothing for so long says how its last trial went."""


def chosen_of(values: dict[str, Any]) -> str:
    """`learning rate 0.05, strength 400`; without a learning rate, where nothing was searched: `in one pass`."""
    given = {name: value for name, value in values.items() if value is not None}
    named = (f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in given.items())
    return ", ".join(named) or "in one pass"


SURE_SECONDS, SURE_SHARE = 300.0, 0.05
"""After so long, or with so much of the work done, an estimate of the time left is worth showing."""
LONG_SECONDS = 3 * 3600.0
"""A longer time is told in hours."""


def time_left(shares: Iterable[float], before: Iterable[float], elapsed: float) -> str:
    """What is left of runs of these shares done, some of it before this run began: `5 min left`.

    Empty at the end, and as long as too little is known.
    """
    shares = list(shares)
    done, new = sum(shares), sum(shares) - sum(before)
    to_do = len(shares) - done
    if to_do <= 0 or new <= 0 or (elapsed < SURE_SECONDS and new < SURE_SHARE * (new + to_do)):
        return ""
    left = elapsed * to_do / new
    if left > LONG_SECONDS:
        return f"{left / 3600:.0f} h left"
    return f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left"


class Pace:
    """How far each of some runs is, and how long the rest takes at this pace.

    If the first task comes soon, the pace is measured from its end on: what was before it was mostly starting up.
    """

    def __init__(self, runs: Iterable[RunId]) -> None:
        self.share = dict.fromkeys(runs, 0.0)
        self._before = dict(self.share)
        self._began = time.monotonic()
        self._measured = False

    def found(self, run: RunId, share: float) -> None:
        """So much of a run was there before."""
        self.share[run] = self._before[run] = share

    def learned(self, run: RunId, share: float) -> None:
        """So much of a run is done now."""
        self.share[run] = share
        now = time.monotonic()
        if not self._measured and now - self._began < SURE_SECONDS:
            self._before, self._began = dict(self.share), now
        self._measured = True

    def left(self) -> str:
        """As `time_left` tells it."""
        return time_left(self.share.values(), self._before.values(), time.monotonic() - self._began)


class Progress:
    """Says one line a task: accuracy so far, what was chosen, and the time left; where tasks are long, also trials."""

    def __init__(self, runs: Iterable[RunId], say: Callable[[str], None] = print) -> None:
        self._say = say
        self._started = time.monotonic()
        self._pace = Pace(runs)
        self._shown: dict[str, float] = {}
        self._kept: dict[str, str] = {}

    def __call__(self, run: RunId, event: Event) -> None:
        """Hear of an event of a run."""
        if event["event"] in ("trial", "task") and (kept := self._kept.pop(run.name, None)):
            self._say(f"{run.name}: goes on after task {kept}")
        if event["event"] == "warning":
            self._say(f"{run.name}: warning: {event['message']}")
        elif event["event"] == "resumed":
            self._pace.found(run, (event["index"] + 1) / event["tasks"])
            self._kept[run.name] = f"{event['index'] + 1}/{event['tasks']}"
        elif event["event"] == "finished before":
            self._pace.found(run, 1.0)
            self._say(f"{run.name}: finished before")
        elif (
            event["event"] == "trial" and time.monotonic() - self._shown.get(run.name, self._started) > PATIENCE_SECONDS
        ):
            self._shown[run.name] = time.monotonic()
            self._say(
                f"{run.name}: task {event['index'] + 1}/{event['tasks']}, {event['phase']} trial at "
                f"{chosen_of(event['point'])}: validation accuracy {event['accuracy']:.1%}"
            )
        elif event["event"] == "task":
            self._shown[run.name] = time.monotonic()
            self._pace.learned(run, (event["index"] + 1) / event["tasks"])
            chosen = chosen_of({"learning rate": event["learning_rate"], **event["decayed"]})
            tried = f", {event['attempts']} attempts" if event["attempts"] > 1 else ""
            self._say(
                f"{run.name}: task {event['index'] + 1}/{event['tasks']} {event['task']}, accuracy so far "
                f"{event['average_accuracy']:.1%} ({chosen}{tried}){self._left()}"
            )
            for remark in event.get("remarks", ()):
                self._say(f"{run.name}: warning: task {event['index'] + 1} {event['task']}: {remark}")

    def _left(self) -> str:
        left = self._pace.left()
        return f"; {left}" if left else ""


def explain(failures: dict[str, str]) -> str:
    """One sentence a failed run."""
    return "; ".join(f"{name}: {reason}" for name, reason in failures.items())


WRITTEN = ("prepared", "results", "checkpoints", "report", ".work", "features", "mlflow", "nights")
"""The folders that a run writes in its output folder; every run the first five."""


def check_out(out: Path, benchmark: Benchmark | None = None) -> None:
    """Raise `UserError` where the output folder cannot be written, or holds the benchmark's images or is in them.

    Removes what a kill has left there.
    """
    places = [out / name for name in WRITTEN]
    if benchmark is not None and benchmark.path is not None:
        apart("benchmark.path", Path(expanded(benchmark.path)), *places)
    for place in places[:5]:
        if os.path.lexists(place) and not place.is_dir():
            raise UserError(f"{place}: is no folder, but one is needed there; move it away, or give another --out")
    work = out / ".work"
    try:
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work):
            pass
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from None
    for name in ("results", "checkpoints", "report", ".work"):
        sweep(out / name, below=True)
    for file in work.glob("params-*.json"):
        if file.stem.removeprefix("params-").isdecimal():
            remove_left(file)
