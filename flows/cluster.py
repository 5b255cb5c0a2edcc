"""Runs on the workers of a Dask or a Ray cluster: the same child process as here, in an output folder that all share.

A worker is handed text, and hands back an exit status: all else is in the shared folder. There the driver, the process
that was started by the user, holds a lock for as long as it wants its runs to go on; a worker that gets hold of the
lock ends its child. So no run outlives a driver that was stopped, killed or cut off, and a folder that is not shared is
found out at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from cl.children import RUN_ENVIRONMENT, Hear, RunId, arguments_of, how_it_ended, params_for_runs
from cl.errors import UserError
from cl.events import FINISHED_BEFORE, Event, event_of, warning
from cl.files import hold, remove, remove_left, sweep, write_bytes
from cl.keys import run_folder, run_key
from cl.limit import STOPPED
from cl.machine import processors
from cl.names import PACKAGE
from cl.params import Execution, Params, read
from cl.publish import publish_if_finished

POLL_SECONDS = 0.25
CONNECT_SECONDS = 30
PATIENCE_SECONDS = 60.0
"""Where no run has begun after so long, a warning says so."""
WORKERS_LOST = 3
"""A run that has lost so many workers is tried once more, and then counts as failed."""
LEASH = "driver.lock"


@dataclass(frozen=True)
class Job:
    """What a worker has to know of a run."""

    method: str
    seed: int
    out: str
    shared: str
    """The driver's folder: its lock, the params, and the events of the runs."""
    key: str
    """The run's key, as the driver computes it."""


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int = 0
    """Exit status of its process, negative for a signal."""
    refused: str | None = None
    """Why the worker started no process."""


# On the worker.


def work(job: Job) -> Ended:
    """Train the run to its end as a child of this worker, or until the driver lets go."""
    host, folder = socket.gethostname(), Path(job.shared)
    try:
        leash = (folder / LEASH).open("rb")
    except FileNotFoundError:
        shared = "the output folder has to be on a disk that all machines see under the same path"
        return Ended(refused=f"{host} does not see {folder}: {shared}")
    with leash:
        if _let_go(leash):
            return Ended(refused=f"{host} can lock {folder / LEASH} too: the disk has to support locks across machines")
        params = read(folder / "params.json")
        if run_key(params, job.method, job.seed) != job.key:
            same = "install the same commit and the same versions on all machines"
            return Ended(refused=f"the code or torch of {host} is not that of the driver: {same}")
        log = run_folder(params, job.method, job.seed, Path(job.out)) / "stderr.log"
        events = folder / job.method / str(job.seed) / f"{host}-{os.getpid()}-{uuid4().hex}.jsonl"
        for path in (log, events):
            path.parent.mkdir(parents=True, exist_ok=True)
        arguments = arguments_of(folder / "params.json", RunId(job.method, job.seed), Path(job.out))
        command = [sys.executable, "-m", "cl.run", *arguments, "--parent", str(os.getpid())]
        with events.open("wb") as stdout, log.open("wb") as stderr:
            child = subprocess.Popen(
                command,
                cwd=PACKAGE.parent,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, **RUN_ENVIRONMENT},
                process_group=0,
            )
            try:
                while True:
                    try:
                        return Ended(child.wait(POLL_SECONDS))
                    except subprocess.TimeoutExpired:
                        if _let_go(leash):
                            child.kill()
            finally:
                child.kill()
                child.wait()


def _let_go(leash: BufferedReader) -> bool:
    """Whether the driver has let go of the lock, which it holds while it lives and wants its runs to go on."""
    try:
        fcntl.flock(leash, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(leash, fcntl.LOCK_UN)
    return True


# In the driver.


class Future(Protocol):
    """What a cluster gives for a job."""

    def done(self) -> bool:
        """Whether it has come to an end."""

    def result(self) -> Ended:
        """How it ended; raises the cluster's error where it could not be run."""


class Cluster(Protocol):
    """Where jobs are run; a job whose worker is lost goes to another."""

    def submit(self, job: Job, name: str) -> Future:
        """Have the job run."""

    def close(self) -> None:
        """Leave the cluster; end it where it is our own."""


class Dask:
    """A Dask cluster: workers take one run a thread."""

    def __init__(self, execution: Execution) -> None:
        config = _package("dask.config", "dask")
        config.set({"logging.distributed": "critical", "distributed.scheduler.allowed-failures": WORKERS_LOST})
        distributed = _package("distributed", "dask")
        self._cluster: Any = None
        if execution.address is None:
            if execution.gpus_per_run:
                raise UserError(
                    "execution.gpus_per_run: Dask's workers declare their GPUs themselves; start them as "
                    "docs/scaling.md shows and give execution.address"
                )
            self._cluster = distributed.LocalCluster(
                n_workers=cores(execution),
                threads_per_worker=1,
                memory_limit=None,  # the memory of a worker says nothing of its children
                dashboard_address=None,
            )
        try:
            self._client = distributed.Client(self._cluster or execution.address, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise _unreachable(execution, error) from None
        self._resources = {"GPU": execution.gpus_per_run} if execution.gpus_per_run else None

    def submit(self, job: Job, name: str) -> Future:
        """Have the job run; the method stands first in its key, so that Dask learns how long each method takes."""
        key = f"{name.replace('/', '-')}-{uuid4().hex}"
        future: Future = self._client.submit(work, job, key=key, pure=False, resources=self._resources)
        return future

    def close(self) -> None:
        """Leave the cluster; end it where it is our own."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


class Ray:
    """A Ray cluster: a run takes one CPU and the GPUs that are asked for."""

    def __init__(self, execution: Execution) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray = _package("ray", "ray")
        own = {"num_cpus": cores(execution), "include_dashboard": False, "object_store_memory": 2**27}
        try:
            self._ray.init(
                address=execution.address or "local",  # without any, Ray looks for one that happens to run
                log_to_driver=False,
                logging_level="critical",
                **({} if execution.address else own),
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise _unreachable(execution, error) from None
        gpus = execution.gpus_per_run or 0
        self._work = self._ray.remote(num_cpus=1, num_gpus=gpus, max_retries=WORKERS_LOST)(work)

    def submit(self, job: Job, name: str) -> Future:
        """Have the job run, under the name of the run."""
        future: Future = self._work.options(name=name).remote(job).future()
        return future

    def close(self) -> None:
        """Leave the cluster; end it where it is our own."""
        self._ray.shutdown()


CLUSTERS: dict[str, type[Dask] | type[Ray]] = {"dask": Dask, "ray": Ray}


class Runs:
    """The runs of a comparison on a cluster; for the train stage what `cl.pool.Children` is on this machine."""

    def __init__(self, params: Params, out: Path, hear: Hear, runs: Iterable[RunId]) -> None:
        self.params, self.out, self.hear = params, out.resolve(), hear
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._begun = False
        self._started = time.monotonic()
        self._finished = {run for run in runs if self._publish(run)}
        self._cluster: Cluster | None = None
        if set(runs) - self._finished:  # where all is done no cluster is needed
            self._cluster = CLUSTERS[params.execution.runner](params.execution)
        _sweep(self.out / ".work")
        self._shared = self.out / ".work" / f"run-{uuid4().hex}"
        self._leash = hold(self._shared / LEASH, b"")
        write_bytes(self._shared / "params.json", params_for_runs(params))

    @property
    def stopped(self) -> bool:
        """Whether an interrupt, or the limit of time, has ended it."""
        return self._ended.is_set()

    def run(self, run: RunId, trial_workers: int = 1) -> str | None:
        """Train one run to its end; returns why it failed, or None. Its trials stay in its one process."""
        del trial_workers
        if run in self._finished:
            self._tell(run, FINISHED_BEFORE)
            return None
        if self.stopped:
            return STOPPED
        assert self._cluster is not None
        key = run_key(self.params, run.method, run.seed)
        job = Job(run.method, run.seed, str(self.out), str(self._shared), key)
        future = self._cluster.submit(job, run.name)
        heard = _Heard(self._shared / run.method / str(run.seed))
        while not future.done():
            if self._ended.wait(POLL_SECONDS):
                return STOPPED
            self._pass_on(run, heard)
        try:
            ended = future.result()
        except Exception as error:  # each cluster has classes of its own
            return f"the {self.params.execution.runner} cluster could not run it: {_said(error)}"
        finally:
            self._pass_on(run, heard)
        if self.stopped and ended != Ended():
            return STOPPED
        if ended.refused is not None or ended.code == 0:
            return ended.refused
        log = run_folder(self.params, run.method, run.seed, self.out) / "stderr.log"
        return heard.error or how_it_ended(ended.code, log)

    def stop(self) -> None:
        """End all runs now; what they finished is kept."""
        self._ended.set()
        self._leash.close()

    def close(self) -> None:
        """Leave the cluster and remove the shared folder."""
        self._leash.close()
        _remove(self._shared)
        if self._cluster is not None:
            self._cluster.close()

    def _publish(self, run: RunId) -> bool:
        return publish_if_finished(self.params, (run.method, run.seed), self.out, lambda event: self._tell(run, event))

    def _tell(self, run: RunId, event: Event) -> None:
        with self._lock:
            self.hear(run, event)

    def _pass_on(self, run: RunId, heard: _Heard) -> None:
        events = heard.new()
        self._begun = self._begun or heard.starts > 0
        if not self._begun and time.monotonic() - self._started > PATIENCE_SECONDS:
            self._begun = True  # said once
            execution = self.params.execution
            wanted = f" with {execution.gpus_per_run:g} GPU" if execution.gpus_per_run else ""
            say = f"no worker{wanted} has taken a run for {PATIENCE_SECONDS:.0f} s; does the cluster have one?"
            self._tell(run, warning(say))
        for event in events:
            self._tell(run, event)


HANDED = re.compile(r"params\.json|[a-z_]+/\d+/[^/]+\.jsonl")
"""What is in a driver's folder, beside its lock."""


def _sweep(work: Path) -> None:
    """Remove the folders of drivers that were killed: their locks are free, or gone."""
    for shared in work.glob("run-*"):
        leash = shared / LEASH
        if re.fullmatch(r"run-[0-9a-f]{32}", shared.name) and (remove_left(leash) or not leash.exists()):
            _remove(shared)


def _remove(shared: Path) -> None:
    sweep(shared, below=True)
    with contextlib.suppress(OSError):
        remove(shared, lambda name: name == LEASH or HANDED.fullmatch(name))


class _Heard:
    """The events of a run so far, one file for each start; a file is read on from where the last reading ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.error: str | None = None

    @property
    def starts(self) -> int:
        """How often it has begun."""
        return len(self._read)

    def new(self) -> list[Event]:
        """The events since the last call; a line that is cut short waits for its end."""
        events: list[Event] = []
        files = self._folder.glob("*.jsonl") if self._folder.exists() else ()
        for path in files:
            if path not in self._read:
                self._read[path] = 0
                if self.starts > 1:
                    host = path.name.split("-")[0]
                    message = f"its worker was lost; on {host} it goes on from its last finished trial"
                    events.append(warning(message))
            with path.open("rb") as lines:
                lines.seek(self._read[path])
                whole = lines.read().rpartition(b"\n")[0]
            self._read[path] += len(whole) + 1 if whole else 0
            events += [event for line in whole.splitlines() if (event := event_of(line)) is not None]
        for event in events:
            if event["event"] == "error":
                self.error = event["message"]
        return [event for event in events if event["event"] != "error"]


def cores(execution: Execution) -> int:
    """How many workers a cluster on this machine alone has."""
    return execution.workers or processors()


def at_once(execution: Execution, runs: int) -> int:
    """How many runs are handed to the cluster at once: all, so that it can grow with them, unless told otherwise."""
    return min(execution.workers or runs, runs)


def _package(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        needs = f"install the project's extra {extra!r}: pip install -c constraints.txt -e '.[{extra}]'"
        raise UserError(f"execution.runner: {extra} needs {error.name}, which is not installed; {needs}") from None


def _unreachable(execution: Execution, error: Exception) -> UserError:
    return UserError(
        f"execution.address: no {execution.runner} cluster answers at {execution.address} ({_said(error)})"
    )


def _said(error: Exception) -> str:
    """A cluster's error on one line; of a worker's traceback the last one, which names the fault."""
    text = str(error).strip()
    return text.splitlines()[-1].strip() if "Traceback (most recent call last)" in text else " ".join(text.split())
