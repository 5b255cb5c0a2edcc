"""The runs of a command as child processes: what they are told, what they say, and how they ended."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cl.events import FINISHED_BEFORE, Event, event_of, warning
from cl.files import hold, make_way
from cl.forks import starter
from cl.keys import run_folder
from cl.limit import STOPPED
from cl.params import Params
from cl.publish import publish_if_finished

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


def arguments_of(params_file: Path, run: RunId, out: Path) -> list[str]:
    """The arguments of `python -m cl.run` for a run."""
    return ["--params", str(params_file), "--method", run.method, "--seed", str(run.seed), "--out", str(out)]


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
        self._starter = starter({**os.environ, **RUN_ENVIRONMENT})
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
        arguments = [*arguments_of(self._params_file, run, self.out), "--trial-workers", str(trial_workers)]
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
                child = self._starter.start(arguments, stderr)
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
        if code != 0 and self.stopped:
            return STOPPED
        return None if code == 0 else failure or how_it_ended(code, log)

    def stop(self) -> None:
        """End all children now; what they finished is kept."""
        with self._lock:
            self.stopped = True
        self._starter.stop()

    def close(self) -> None:
        """Remove the files that were passed to the children, none of which is running any more."""
        self._starter.close()
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
