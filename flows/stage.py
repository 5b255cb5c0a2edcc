"""A command as a stage of DVC: it ends when the `dvc` that started it ends.

Ctrl-C reaches both. After `kill -9 dvc` the command would go on for hours on all cores, although DVC records nothing
of what it makes; a second `dvc repro` would wait for it. So on Linux the command looks now and then for its `dvc`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from flows import plan

SHELLS = {"sh", "dash", "bash", "zsh", "fish", "ksh", "busybox"}
LOOK_SECONDS = 1.0


def ends_with_dvc() -> None:
    """Where DVC started this process, end it as soon as that `dvc` is gone; says how far all stages are, if known."""
    if "DVC_STAGE" not in os.environ:
        return
    plan.announce()
    starter = _starter()
    if starter is not None:
        threading.Thread(target=_watch, args=starter, name="dvc", daemon=True).start()


def _watch(process: int, started: int) -> None:
    while started_at(process) == started:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _starter() -> tuple[int, int] | None:
    """The process that started this one, shells left out, and its start; None where the system does not say."""
    process = os.getppid()
    while (fields := _fields(process)) is not None:
        name, values = fields
        if name not in SHELLS:
            return process, int(values[19])
        process = int(values[1])
    return None


def started_at(process: int) -> int | None:
    """When a process was started, in clock ticks since boot; None where there is no such process, or a zombie."""
    fields = _fields(process)
    return None if fields is None or fields[1][0] == "Z" else int(fields[1][19])


def _fields(process: int) -> tuple[str, list[str]] | None:
    """The name of a process, and the fields that the kernel lists after it: its state, its parent, ..."""
    try:
        head, _, tail = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
    except OSError:
        return None
    return head.partition("(")[2], tail.split()
