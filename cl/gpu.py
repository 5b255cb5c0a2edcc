"""What a GPU needs: not to be waited for, and to be shared by several runs."""

from __future__ import annotations

import importlib.metadata
import math
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from cl.machine import processors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cl.params import Params

OF_A_RUN = 6 * 2**30
"""Bytes of a GPU that a run may need: BASE on batches of 200 images of 64 x 64, with a teacher beside it, takes two to
three GiB; the rest is the data and what CUDA itself takes."""
CONTEXT = 3 * 2**28
"""Bytes that CUDA takes for each process, beyond its tensors."""


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on this device; itself, where it is there already.

    A plain `.to` of a tensor in main memory waits until the GPU has done all that it was told before.
    """
    if tensor.device == device or device.type == "cpu":
        return tensor.to(device)
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)


def memory() -> int | None:
    """The bytes of the GPU that runs use, which is the first that this process may see; None where there is none.

    Nvidia's own command is asked: torch would take some of the GPU to answer, and keep it.
    """
    command = shutil.which("nvidia-smi")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if command is None or visible == "" or "+cpu" in importlib.metadata.version("torch"):
        return None
    query = [command, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    if visible is not None:
        query += ["-i", visible.split(",")[0]]
    done = subprocess.run(query, capture_output=True, encoding="utf-8", check=False)
    sizes = done.stdout.split()
    return int(sizes[0]) * 2**20 if done.returncode == 0 and sizes and sizes[0].isdigit() else None


def runs_per_gpu(params: Params) -> int | None:
    """How many processes share the GPU; None where runs use none, or where a cluster gives each run a whole one."""
    execution = params.execution
    if execution.device == "cpu":
        return None
    if execution.runner != "local":
        return math.floor(1 / min(execution.gpus_per_run, 1)) if execution.gpus_per_run else None
    there = memory()
    if there is None:
        return None
    return execution.runs_per_gpu or max(1, min(processors(), there // OF_A_RUN))


def take_share(params: Params, device: torch.device) -> None:
    """Take no more of the GPU than one of the processes that share it may: beyond that torch is out of memory.

    So a run that needs more than its share fails alone, instead of whichever asks last.
    """
    import torch

    sharing = runs_per_gpu(params) if device.type == "cuda" else None
    if sharing is not None and sharing > 1:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(max(1 / sharing - CONTEXT / total, 0.01), device)


def room(device: torch.device) -> float:
    """The bytes that this process may still take on a GPU: of what is free no more than its share (`take_share`)."""
    import torch

    if device.type != "cuda":
        return float("inf")
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return min(free, share * total - torch.cuda.memory_allocated(device))
