"""Commands under way: started in a session of their own, ended with everything that descends from them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.place import MARK, Place

SENTENCE = "the same command goes on from here"
DYING_SECONDS = 20.0
"""So long may a command and its children take to end, on a machine that is busy."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int | None
    """None: it did not end before its deadline, and was ended."""
    stdout: str
    stderr: str
    seconds: float

    @property
    def traceback(self) -> str:
        """The last line of a traceback anywhere in what was said; empty where there is none."""
        for text in (self.stderr, self.stdout):
            _, mark, rest = text.partition("Traceback (most recent call last)")
            if mark:
                lines = [line for line in rest.splitlines()[1:] if line and not line.startswith((" ", "\t"))]
                return lines[0] if lines else "Traceback"
        return ""

    @property
    def last(self) -> str:
        """The last line of what it complained of, cut to a readable length."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return lines[-1][:300] if lines else ""

    def faults(self, *codes: int) -> list[str]:
        """What is wrong with an end that should have one of these codes, with one readable line where it is 2."""
        if self.code is None:
            return [f"hangs: no end after {self.seconds:.0f} s; last line: {self.last!r}"]
        if self.traceback:
            return [f"Traceback: {self.traceback[:300]}"]
        if self.code not in codes:
            return [f"ends with {self.code}: {self.last!r}"]
        return unreadable(self.stderr) if self.code == 2 else []


def unreadable(stderr: str) -> list[str]:
    """What is wrong with the complaint of a command that refuses: it has to be one line that says something."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ") or ": error: " in line]
    if len(errors) != 1:
        return [f"ends with 2 and {len(errors)} error lines: {lines[-1][:200] if lines else ''!r}"]
    if lines[-1] != errors[0]:
        return [f"says more after its error line: {lines[-1][:200]!r}"]
    if len(errors[0]) > 2000:
        return [f"an error line of {len(errors[0])} characters: {errors[0][:100]!r}..."]
    return []


STOPPED = threading.Event()
"""The campaign is at its end: no more commands."""


class Stopped(Exception):
    """A case wanted to start a command after the campaign's end."""


def check_going() -> None:
    """Raises `Stopped` where nothing may be started any more."""
    if STOPPED.is_set():
        raise Stopped


class Running:
    """A command under way."""

    def __init__(self, module: str, arguments: Sequence[str], place: Place, env: Mapping[str, str] | None = None):
        check_going()
        self.place, self.started = place, time.monotonic()
        self._files = [place.folder / f"{time.monotonic_ns()}.{name}" for name in ("stdout", "stderr")]
        command = [sys.executable, "-m", module, *arguments]
        mark = f"{os.environ.get(MARK, '')}:{place.folder}:"
        with self._files[0].open("wb") as stdout, self._files[1].open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                cwd=place.project,
                env={**place.environment(), **(env or {}), MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """What it has said so far."""
        return self._files[0].read_text(encoding="utf-8", errors="replace")

    def wait(self, limit: float) -> Done:
        """Until it ends, or is ended after so many seconds."""
        code: int | None
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
            self.end()
        stdout, stderr = (file.read_text(encoding="utf-8", errors="replace") for file in self._files)
        return Done(code, stdout, stderr, time.monotonic() - self.started)

    def send(self, number: int, to: int | None = None) -> None:
        """Send the signal to a process, by default the command's own; one that is gone is none."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(to or self.process.pid, number)

    def children(self) -> dict[int, str]:
        """Whatever descends from this case's commands, itself left out: process ids and command lines."""
        return {pid: line for pid, line in marked(f":{self.place.folder}:").items() if pid != self.process.pid}

    def die(self, seconds: float = DYING_SECONDS) -> list[str]:
        """Wait for it and its children to end; what is alive after so long is a fault, and ended."""
        deadline = time.monotonic() + seconds
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            return [f"lives {seconds:.0f} s after the signal"]
        while left := self.children():
            if time.monotonic() > deadline:
                self.end()
                return [f"a child lives on: {next(iter(left.values()))[:200]}"]
            time.sleep(0.05)
        return []

    def end(self) -> None:
        """End it and all its children."""
        end_marked(f":{self.place.folder}:")
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run(
    module: str, arguments: Sequence[str], place: Place, limit: float, env: Mapping[str, str] | None = None
) -> Done:
    """`python -m <module> <arguments>` in the case's project folder, to its end or for so many seconds."""
    running = Running(module, arguments, place, env)
    try:
        return running.wait(limit)
    finally:
        if running.process.poll() is None:
            running.end()


def marked(mark: str) -> dict[int, str]:
    """Running processes with this in their `MARK`: process ids and command lines."""
    lines = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes().split(b"\0")
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # gone meanwhile, or not ours
            continue
        if line and any(part.startswith(f"{MARK}=".encode()) and mark.encode() in part for part in environ):
            lines[int(folder.name)] = line
    return lines


def end_marked(mark: str) -> None:
    """End every process with this in its `MARK`, and what it starts meanwhile."""
    for _ in range(10):
        left = marked(mark)
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
