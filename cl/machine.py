"""What a process runs on: its processors, and how much memory it takes. Needs no torch."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cl.errors import UserError

if TYPE_CHECKING:
    import torch

GROUPS, GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux keeps the limits of groups of processes, and which group this one is in."""

KEPT = {-3: 128 * 2**10, -1: 128 * 2**10}
"""What `mallopt` calls M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, and their usual values."""


def processors() -> int:
    """The processors that this process may use: those it is bound to, and no more than a container's limit."""
    known = hasattr(os, "sched_getaffinity")  # not on macOS
    bound = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return min([bound, *_limits()])


def _limits() -> list[int]:
    """In whole processors, what the control groups above this process allow (`docker run --cpus`), of both versions."""
    try:
        lines = GROUP.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        room = GROUPS / "cpu" if controllers else GROUPS
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        own = room / path.strip("/")
        for group in [own, *own.parents]:
            try:
                quota, period = (int(n) for name in names for n in (group / name).read_text(encoding="ascii").split())
            except (OSError, ValueError):  # no such file, or "max" for no limit
                quota, period = -1, 1
            if quota > 0 < period:
                quotas.append(math.ceil(quota / period))
            if group == room:
                break
    return quotas


@contextlib.contextmanager
def keeping_memory() -> Iterator[None]:
    """Within the body, the C library (glibc) keeps freed memory for the next tensors.

    To get it from the kernel anew for every layer takes a third of the time of a small network. Runs have this from
    their environment (`cl.pool`).
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt"):
        yield
        return
    for parameter in KEPT:
        library.mallopt(parameter, 2**30)
    try:
        yield
    finally:
        for parameter, usual in KEPT.items():
            library.mallopt(parameter, usual)
        library.malloc_trim(0)


def choose_device(name: str) -> torch.device:
    """The device of this name; `auto` is a GPU if there is one. Raises `UserError` if it is missing."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("execution.device: cuda is not available here; use auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def machine(device: torch.device) -> dict[str, Any]:
    """The machine on which the times were measured."""
    import torch

    return {
        "platform": platform.platform(),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "device": device.type,
    }


def resident(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Resident memory of this process in bytes: VmRSS the current value, VmHWM the highest. Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def peak_memory() -> int:
    """The most resident memory this process had, in bytes.

    On Linux not `getrusage`, whose maximum a process takes over from the one that started it.
    """
    if sys.platform == "linux":
        return resident("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
