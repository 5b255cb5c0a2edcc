"""`python -m MODULE ARGUMENTS` in a fork of an interpreter that has imported what takes seconds.

The module is run anew as `__main__`, in a process of its own with its own folder, environment and streams: what is
spared is the reading of torch and its like, and its tearing down.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import queue
import runpy
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
MODULES = (
    "yaml",
    "numpy",
    "PIL.Image",
    "cl.pool",
    "cl.live",
    "cl.data.images",
    "cl.register",
    "torch._dynamo",
    "optuna.storages.journal",
    "cl.resume",
    "cl.methods.ewc",
    "cl.status",
    "cl.anytime",
    "jinja2",
    "matplotlib.backends.backend_svg",
    "matplotlib.backends.backend_agg",
    "flows.report.figures",
    "flows.compare",
)


class Warm:
    """Some such interpreters, each of which runs one command at a time; they are started when they are first needed."""

    def __init__(self, count: int = 2, modules: Sequence[str] = MODULES) -> None:
        self._modules = modules
        self._free: queue.Queue[subprocess.Popen[str] | None] = queue.Queue()
        for _ in range(count):
            self._free.put(None)
        self._count = count

    def run(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        files: Sequence[Path],
        limit: float,
    ) -> int | None:
        """The exit status, or minus the signal that ended it; None: it was ended, after `limit` seconds.

        `files`: where its standard output and error go.
        """
        request = {
            "module": module,
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": dict(environment),
            "files": [str(file) for file in files],
            "limit": limit,
        }
        interpreter = self._free.get()
        try:
            if interpreter is None:
                interpreter = self._started()
            return _asked(interpreter, request)
        finally:
            self._free.put(interpreter)

    def _started(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.warm", *self._modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            cwd=REPOSITORY,
            encoding="utf-8",
            start_new_session=True,
        )

    def close(self) -> None:
        """End them."""
        for _ in range(self._count):
            interpreter = self._free.get()
            if interpreter is not None:
                assert interpreter.stdin is not None
                with contextlib.suppress(OSError):
                    interpreter.stdin.close()
                assert interpreter.stdout is not None
                interpreter.stdout.close()
                interpreter.wait()


def _asked(interpreter: subprocess.Popen[str], request: Mapping[str, Any]) -> int | None:
    assert interpreter.stdin is not None
    assert interpreter.stdout is not None
    interpreter.stdin.write(json.dumps(request) + "\n")
    interpreter.stdin.flush()
    answer = interpreter.stdout.readline()
    if not answer:
        raise RuntimeError("the warm interpreter has ended")
    code: int | None = json.loads(answer)
    return code


def serve(modules: Sequence[str]) -> dict[str, Any] | None:
    """Answer requests until standard input ends. In the child that is to run one, returns it; else None."""
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # to collect what was imported would cost each fork a copy of it
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        child = os.fork()
        if child == 0:
            return request
        handle = os.pidfd_open(child)
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        in_time = bool(ended.poll(1000 * request["limit"]))
        if not in_time:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(handle)
        print(json.dumps(os.waitstatus_to_exitcode(status) if in_time else None), flush=True)
    return None


def become(request: dict[str, Any]) -> None:
    """Be the command: its session, folder, environment, streams and arguments; then run its module."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for descriptor, path in enumerate(request["files"], 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    module = request["module"]
    sys.argv = [module, *request["arguments"]]
    sys.modules.pop(module, None)
    for line in ("", str(REPOSITORY)):
        with contextlib.suppress(ValueError):
            sys.path.remove(line)
    sys.path[:0] = [request["folder"], str(REPOSITORY)]
    os._exit(status_of(module))


def status_of(module: str) -> int:
    """Run the module as Python does, and come to its exit status; what Python would tear down first is left alone."""
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


if __name__ == "__main__":
    if (served := serve(sys.argv[1:])) is not None:
        become(served)
    os._exit(0)
