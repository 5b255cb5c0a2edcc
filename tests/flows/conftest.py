"""The commands as a user starts them, on settings of seconds, and one finished run that the tests share."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.warm import Warm
from flows import deadline

REPOSITORY = Path(__file__).parents[2]
SMALL = (
    "benchmark.tasks=2",
    "benchmark.train_per_class=10",
    "model.hidden=[16]",
    "training.epochs=3",
    "selection.first_task_learning_rates=[0.1]",
    "selection.learning_rates=[0.1]",
    "execution.workers=2",
    "tracking.enabled=false",
    "report.classes=none",
)
LONGER = ("training.epochs=20", "training.batch_size=5")
"""Over `SMALL`: a second or so of training a run."""
ENDLESS = ("training.epochs=100000", "training.batch_size=1", "training.patience.stop_after=100000")
"""Over `SMALL`: no trial comes to its end."""
RUN_DEPENDENT = (".cost.json", ".studies.log")
"""Published files that may differ from run to run."""
MARK = "UNFORGETTING_TEST"
"""An environment variable by which a test finds every process that descends from its command."""
SECONDS = 300


@pytest.fixture
def no_rest() -> Iterator[None]:
    """Threads that a bad server held have gone at the end, and their sockets with them."""
    yield
    for thread in list(deadline._left_behind):
        thread.join(10)
    deadline._left_behind.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of a connection that was left in the middle
        gc.collect()


@pytest.fixture
def called() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A URL, and what was POSTed there."""
    bodies: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    hook = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{hook.server_port}/hook", bodies
    hook.shutdown()
    hook.server_close()


def options(*overrides: str, out: Path, methods: str = "finetune,ewc", seeds: str = "0,1") -> list[str]:
    """The command line of a small run."""
    settings = [part for override in (*SMALL, *overrides) for part in ("--set", override)]
    return ["--methods", methods, "--seeds", seeds, "--out", str(out), *settings]


def environment(**more: str) -> dict[str, str]:
    """Of a child: this interpreter's commands come first, and no Prefect server but one that is asked for."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "DVC_"))}
    quiet = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "1",
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**clean, **quiet, "PATH": path, "PYTHONUNBUFFERED": "1", **more}


@functools.cache
def warm() -> Warm:
    """What `run` forks its commands from: reading torch anew would be most of what a small command does."""
    interpreters = Warm(1)
    atexit.register(interpreters.close)
    return interpreters


def run(
    module: str,
    arguments: Sequence[str],
    *,
    cwd: Path = REPOSITORY,
    env: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """`python -m <module> <arguments>` to its end, in a process that was forked where that makes no difference.

    `before` runs in the child, before the command.
    """
    command, given = [sys.executable, "-m", module, *arguments], environment(**env or {})
    if cwd != REPOSITORY or before is not None or any(name.startswith("PYTHON") for name in env or {}):
        return subprocess.run(
            command,
            cwd=cwd,
            env=given,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            preexec_fn=before,
        )
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        code = warm().run(module, arguments, folder=cwd, environment=given, files=files, limit=SECONDS)
        assert code is not None, f"no end after {SECONDS} s: {command}"
        said = [file.read_text(encoding="utf-8") for file in files]
    return subprocess.CompletedProcess(command, code, *said)


class Started:
    """A command under way, in a process group of its own, its output in files; a context leaves nothing running."""

    def __init__(self, command: Sequence[str], folder: Path, cwd: Path = REPOSITORY) -> None:
        self.mark = uuid.uuid4().hex
        self._files = [folder / f"{self.mark}.{name}" for name in ("stdout", "stderr")]
        with self._files[0].open("w") as stdout, self._files[1].open("w") as stderr:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment(**{MARK: self.mark}),
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *error: object) -> None:
        for pid in [self.process.pid, *self._descendants()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self._files[0].read_text()

    @property
    def stderr(self) -> str:
        """What it has complained of so far."""
        return self._files[1].read_text()

    def wait_for(self, found: Callable[[], object], what: str) -> None:
        """Until the condition holds; fails when the command ends before."""
        deadline = time.monotonic() + SECONDS
        while not found():
            assert self.process.poll() is None, f"ended before {what}:\n{self.stdout}\n{self.stderr}"
            assert time.monotonic() < deadline, f"no {what} in {SECONDS} s:\n{self.stdout}\n{self.stderr}"
            time.sleep(0.02)

    def alive(self) -> list[str]:
        """The command lines of the processes that descend from it, itself left out."""
        return list(self._descendants().values())

    def _descendants(self) -> dict[int, str]:
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                marked = f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # gone meanwhile
                continue
            if marked and command and int(folder.name) != self.process.pid:
                found[int(folder.name)] = command
        return found

    def dies_with_children(self, seconds: float = 5.0) -> None:
        """Fails where a descendant is alive for longer than that."""
        self.process.wait(seconds)
        deadline = time.monotonic() + seconds
        while left := self.alive():
            assert time.monotonic() < deadline, f"still alive: {left}"
            time.sleep(0.05)


def learned(output: str) -> list[tuple[str, str]]:
    """(run, "k/T") of every task that was trained, sorted, as the progress lines say."""
    return sorted(re.findall(r"(\w+/seed-\d+): task (\d+/\d+) .*accuracy so far", output))


def published(out: Path, *runs: str) -> dict[str, bytes]:
    """Path and bytes of every published file that has to be the same in every run; of these runs, or of all."""
    files = [path for room in ("results", "checkpoints") for path in sorted((out / room).rglob("*")) if path.is_file()]
    found = {str(p.relative_to(out)): p.read_bytes() for p in files if not p.name.endswith(RUN_DEPENDENT)}
    return {name: data for name, data in found.items() if not runs or any(run in name for run in runs)}


def everything(out: Path) -> dict[str, bytes]:
    """Path and bytes of every file a user has of a run: results, checkpoints, report, prepared data."""
    rooms = ("results", "checkpoints", "report", "prepared")
    return {str(p.relative_to(out)): p.read_bytes() for room in rooms for p in (out / room).rglob("*") if p.is_file()}


@dataclass(frozen=True)
class Finished:
    """A run that went well."""

    out: Path
    stdout: str
    stderr: str

    def copy(self, folder: Path) -> Path:
        """The same output folder elsewhere, to do anything with."""
        return Path(shutil.copytree(self.out, folder))


def made_once(base: Path, name: str, module: str, arguments: Callable[[Path], list[str]]) -> Finished:
    """A command that ran to its end once, for all testers that run side by side."""
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    out = folder / "out"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "stderr").exists():
            done = run(module, arguments(out))
            assert done.returncode == 0, done.stderr
            (folder / "stdout").write_text(done.stdout)
            (folder / "stderr").write_text(done.stderr)
    return Finished(out, (folder / "stdout").read_text(), (folder / "stderr").read_text())


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """finetune and ewc with seeds 0 and 1 by `python -m flows.compare`."""
    return made_once(tmp_path_factory.getbasetemp(), "finished", "flows.compare", lambda out: options(out=out))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the longer run ends in."""
    base = tmp_path_factory.getbasetemp()
    return published(made_once(base, "undisturbed", "cl", lambda out: options(*LONGER, out=out)).out)
