"""What a process runs on, and how much memory it takes."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any, Literal

import torch


def machine(device: torch.device) -> dict[str, Any]:
    """What the times were measured on."""
    return {
        "platform": platform.platform(),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "device": device.type,
    }


def resident(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Of this process's resident memory, in bytes: VmRSS what it has, VmHWM the most it had. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def peak_memory() -> int:
    """The most resident memory this process had, in bytes.

    On Linux not `getrusage`, whose maximum a process takes over from the one that started it.
    """
    if sys.platform == "linux":
        return resident("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
