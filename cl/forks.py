"""Processes of runs, each a fork of one process that has torch loaded already: `Forks`; where there is no fork, anew.

Loading torch takes two seconds of processor time, which each run of a comparison would spend again. A fork is a process
like any other: it has its own memory, standard output and group, it can crash or be killed, and it learns the same
bytes. The process that forks (`python -m cl.forks`) does nothing else and has one thread. It ends with the process that
started it, and its forks end with it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import IO, NoReturn, Protocol, TextIO

AVAILABLE = sys.platform == "linux"
"""Elsewhere there is no fork, or the system's own libraries do not survive it."""
PRELOADED = ("cl.run", "cl.resume", "cl.data")
LOOK_SECONDS = 0.2
LARGEST = 2**16
"""Bytes of a message."""


class Child(Protocol):
    """A run's process, as its parent sees it."""

    stdout: IO[str] | None

    def wait(self) -> int:
        """Wait for its end; its exit status, or minus the signal that ended it."""


class Starter(Protocol):
    """What starts the processes of runs."""

    def start(self, arguments: Sequence[str], stderr: TextIO) -> Child:
        """Start `python -m cl.run` with these arguments; its standard output is read from `stdout`."""

    def stop(self) -> None:
        """Kill all of them now."""

    def close(self) -> None:
        """End what is left of them."""


def starter(environment: Mapping[str, str]) -> Starter:
    """What starts runs on this system, in this environment."""
    return Forks(environment) if AVAILABLE else Spawns(environment)


class Spawns:
    """Each process loads all it needs anew."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._started: list[subprocess.Popen[str]] = []

    def start(self, arguments: Sequence[str], stderr: TextIO) -> Child:
        """See `Starter`."""
        child = subprocess.Popen(
            [sys.executable, "-m", "cl.run", *arguments, "--parent", str(os.getpid())],
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            errors="replace",
            env=self._environment,
            process_group=0,
        )
        self._started.append(child)
        return child

    def stop(self) -> None:
        """See `Starter`."""
        for child in self._started:
            child.kill()

    def close(self) -> None:
        """See `Starter`."""


class Forks:
    """Each process is a fork of one that has loaded `PRELOADED`. That one is begun with the first of them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._lock = threading.Lock()
        self._begun: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def start(self, arguments: Sequence[str], stderr: TextIO) -> Child:
        """See `Starter`."""
        output, write = os.pipe()
        status, tell = os.pipe()
        asked = json.dumps(list(arguments)).encode()
        try:
            with self._lock:
                process, control = self._begun or self._begin()
                try:
                    socket.send_fds(control, [asked], [write, stderr.fileno(), tell])
                except ConnectionError:  # it was killed, and all its forks with it
                    self._end()
                    process, control = self._begin()
                    socket.send_fds(control, [asked], [write, stderr.fileno(), tell])
        except BaseException:
            os.close(output)
            os.close(status)
            raise
        finally:
            os.close(write)
            os.close(tell)
        return _Forked(output, status, process)

    def stop(self) -> None:
        """Kill the process that forks. Its forks die with it, at once and also while it still loads what they need."""
        with self._lock:
            if self._begun is not None:
                self._begun[0].kill()

    def close(self) -> None:
        """End the process that forks, and with it what is left of its forks."""
        with self._lock:
            self._end()

    def _begin(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "cl.forks", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # each fork has files of its own
                stderr=subprocess.DEVNULL,
                env=self._environment,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        self._begun = (process, control)
        return self._begun

    def _end(self) -> None:
        if self._begun is not None:
            process, control = self._begun
            control.close()  # at which it ends
            process.wait()
            self._begun = None


class _Forked:
    """A process that was forked by another than this one."""

    def __init__(self, output: int, status: int, server: subprocess.Popen[bytes]) -> None:
        self.stdout: IO[str] | None = open(output, encoding="utf-8", errors="replace")  # noqa: SIM115 - the reader's
        self._status, self._server = status, server

    def wait(self) -> int:
        """Wait for its end. Where the process that forked it was killed, it was killed too: that one's status."""
        with open(self._status, encoding="ascii") as status:
            told = status.read()
        return int(told) if told else self._server.wait()


# The process that forks.


def serve(control: socket.socket, parent: int) -> None:
    """Load what runs need, then fork as asked until the other end of the socket is closed.

    `parent`: the process that started this one. While this one loads, it looks for it now and then.
    """

    def look(number: int, frame: object) -> None:
        if os.getppid() != parent:
            os._exit(1)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)
    for module in PRELOADED:
        with contextlib.suppress(Exception):  # each run says itself why it cannot be loaded
            importlib.import_module(module)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page that holds an object
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    running: dict[int, int] = {}
    """By PID, where it is told how the fork ended."""
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, LARGEST)
            _reap(running)
        if control.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, LARGEST, 3)
        if not message:
            break
        output, errors, tell = descriptors
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for descriptor in (control.fileno(), woken, wake, tell, *running.values()):
                os.close(descriptor)
            _be_run(json.loads(message), output, errors, parent)
        os.close(output)
        os.close(errors)
        running[pid] = tell
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    _reap(running, options=0)


def _reap(running: dict[int, int], options: int = os.WNOHANG) -> None:
    while running:
        pid, status = os.waitpid(-1, options)
        if pid == 0:
            return
        with contextlib.suppress(BrokenPipeError), open(running.pop(pid), "w", encoding="ascii") as tell:
            print(os.waitstatus_to_exitcode(status), file=tell)  # unless nobody waits for it any more


def _be_run(arguments: list[str], output: int, errors: int, parent: int) -> NoReturn:
    """In the fork: be what `python -m cl.run` with these arguments would be."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        for descriptor, standard in ((output, 1), (errors, 2)):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process runs
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        from cl import cli, run

        code = cli.guarded(functools.partial(run.main, [*arguments, "--parent", str(parent)]))
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as end:
        serve(end, int(sys.argv[2]))
    os._exit(0)  # nothing is left to be done, and unloading torch takes its time
