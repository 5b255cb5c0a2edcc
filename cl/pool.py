"""Many runs at once: each is a child process, as many as there are cores, and one that fails disturbs no other.

Used by the plain runner (`python -m cl`) and by the flows; a run is the same process whoever starts it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl.data.prepare import read_manifest
from cl.errors import UserError
from cl.events import FINISHED_BEFORE, Event, event_of, warning
from cl.files import hold, make_way, remove_left, sweep
from cl.gpu import runs_per_gpu
from cl.keys import run_folder
from cl.limit import STOPPED, Limit
from cl.machine import processors
from cl.params import Benchmark, Params
from cl.paths import apart, expanded
from cl.publish import publish_if_finished
from cl.reading import count

Hear = Callable[["RunId", Event], None]


@dataclass(frozen=True)
class RunId:
    """A method with a seed."""

    method: str
    seed: int

    @property
    def name(self) -> str:
        """As it is shown: `ewc/seed-0`."""
        return f"{self.method}/seed-{self.seed}"


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
    from cl.register import method_class  # which needs torch, and takes a moment

    if all(method_class(name).selection == "one-pass" for name in params.methods):
        return None
    return (
        f"{task} has {count(images, 'training image')}, and a batch holds {params.training.batch_size}: an epoch is a "
        f"single step, which teaches little; set training.batch_size={max(1, images // 10)}"
    )


def command_of(params_file: Path, run: RunId, out: Path) -> list[str]:
    """The command of a run, for a child of this process, with which it dies."""
    command = [sys.executable, "-m", "cl.run", "--params", str(params_file), "--method", run.method]
    return [*command, "--seed", str(run.seed), "--out", str(out), "--parent", str(os.getpid())]


def params_for_runs(params: Params) -> bytes:
    """The params file of the runs, without `tracking`, which they do not need and which may hold a password."""
    return params.model_dump_json(exclude={"tracking"}).encode()


def how_it_ended(code: int, log: Path) -> str:
    """What is known of a run that reported nothing itself: its exit status and the end of its log."""
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return f"{how}{': ' + last[0] if last else ''} (the whole log: {log})"


class Children:
    """The running child processes of this process, so that an interrupt, or a limit of time, ends them all."""

    def __init__(self, params: Params, out: Path, hear: Hear) -> None:
        self.out, self.hear, self.params = out, hear, params
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self.stopped = False
        self._params_file = out / ".work" / f"params-{os.getpid()}.json"
        self._held = hold(self._params_file, params_for_runs(params))

    def run(self, run: RunId, trial_workers: int = 1) -> str | None:
        """Learn one run to its end. Returns why it failed, or None."""
        try:
            return self._run(run, trial_workers)
        except BrokenPipeError:  # nobody hears of the runs any more: no run's fault, and the end of all
            raise
        except OSError as error:
            return f"{error.filename or self.out}: {error.strerror}; mend that and run the same command again"

    def _run(self, run: RunId, trial_workers: int) -> str | None:
        def hear(event: Event) -> None:
            with self._lock:
                self.hear(run, event)

        if publish_if_finished(self.params, (run.method, run.seed), self.out, hear):
            hear(FINISHED_BEFORE)
            return None
        command = [*command_of(self._params_file, run, self.out), "--trial-workers", str(trial_workers)]
        log = run_folder(self.params, run.method, run.seed, self.out) / "stderr.log"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            make_way(log, lambda message: hear(warning(message)))
            stderr = log.open("a", encoding="utf-8")  # where the same command runs twice, both write
        except OSError as error:  # it costs no other run anything
            return f"{log}: cannot be written ({error.strerror})"
        failure = None
        with stderr:
            stderr.truncate(0)
            with self._lock:
                if self.stopped:
                    return STOPPED
                child = subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    encoding="utf-8",
                    errors="replace",
                    env={**os.environ, **RUN_ENVIRONMENT},
                    process_group=0,
                )
                self._running.add(child)
            assert child.stdout is not None
            with child.stdout:
                for line in child.stdout:
                    event = event_of(line)
                    if event is None:
                        print(line, end="", file=stderr, flush=True)
                        continue
                    if event["event"] == "error":
                        failure = event["message"]
                    hear(event)
            code = child.wait()
            with self._lock:
                self._running.discard(child)
        if code != 0 and self.stopped:
            return STOPPED
        return None if code == 0 else failure or how_it_ended(code, log)

    def stop(self) -> None:
        """End all children now; what they finished is kept."""
        with self._lock:
            self.stopped = True
            for child in self._running:
                child.kill()

    def close(self) -> None:
        """Remove the files that were passed to the children."""
        self._params_file.unlink(missing_ok=True)
        self._held.close()


# Beside other busy processes a second thread makes torch many times slower, not faster.
RUN_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    # The C library (glibc) keeps freed memory for the next tensors. Getting it anew from the kernel in every step took
    # a seventh to a quarter of the time of a step of the SMALL net on batches of 200.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


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


def time_left(shares: Iterable[float], before: Iterable[float], elapsed: float) -> str:
    """What is left of runs of these shares done, some of it before this run began: `5 min left`.

    Empty at the end, and as long as nothing is known.
    """
    shares = list(shares)
    done, new = sum(shares), sum(shares) - sum(before)
    if done >= len(shares) or new <= 0:
        return ""
    left = elapsed * (len(shares) - done) / new
    return f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left"


class Progress:
    """Says one line a task: accuracy so far, what was chosen, and the time left; where tasks are long, also trials."""

    def __init__(self, runs: Iterable[RunId], say: Callable[[str], None] = print) -> None:
        self._say = say
        self._started = time.monotonic()
        self._share = {run.name: 0.0 for run in runs}
        self._resumed: dict[str, float] = {}
        self._shown: dict[str, float] = {}
        self._kept: dict[str, str] = {}

    def __call__(self, run: RunId, event: Event) -> None:
        """Hear of an event of a run."""
        if event["event"] in ("trial", "task") and (kept := self._kept.pop(run.name, None)):
            self._say(f"{run.name}: goes on after task {kept}")
        if event["event"] == "warning":
            self._say(f"{run.name}: warning: {event['message']}")
        elif event["event"] == "resumed":
            self._resumed[run.name] = self._share[run.name] = (event["index"] + 1) / event["tasks"]
            self._kept[run.name] = f"{event['index'] + 1}/{event['tasks']}"
        elif event["event"] == "finished before":
            self._resumed[run.name] = self._share[run.name] = 1.0
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
            self._share[run.name] = (event["index"] + 1) / event["tasks"]
            chosen = chosen_of({"learning rate": event["learning_rate"], **event["decayed"]})
            tried = f", {event['attempts']} attempts" if event["attempts"] > 1 else ""
            self._say(
                f"{run.name}: task {event['index'] + 1}/{event['tasks']} {event['task']}, accuracy so far "
                f"{event['average_accuracy']:.1%} ({chosen}{tried}){self._left()}"
            )
            for remark in event.get("remarks", ()):
                self._say(f"{run.name}: warning: task {event['index'] + 1} {event['task']}: {remark}")

    def _left(self) -> str:
        before = self._resumed.values()
        left = time_left(self._share.values(), before, time.monotonic() - self._started)
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
