"""How far `make run` is over all its stages: `stage 3 of 17, some 12 minutes left`.

DVC runs the stages one by one and says nothing of the whole. So `flows.repro` notes before it which stages have
something to do, and how much; each stage then notes its start there and says how far all of them are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from cl.files import read_json, write_json

PLAN = "UNFORGETTING_PLAN"
"""The variable of the environment that names the file."""


def write(path: Path, work: Mapping[str, float]) -> None:
    """Note the stages that have something to do, each with its share of the work: 0 where it hardly takes time."""
    write_json(path, {"work": dict(work), "started": {}})


def announce(now: float | None = None) -> None:
    """Say which stage begins, of how many, and how long all will take; nothing where no plan was made."""
    path, stage = os.environ.get(PLAN), os.environ.get("DVC_STAGE")
    if path is None or stage is None or not Path(path).exists():
        return
    plan = read_json(Path(path))
    started = {**plan["started"], stage: time.time() if now is None else now}
    write_json(Path(path), {**plan, "started": started})
    print(line(plan["work"], started), flush=True)


def line(work: Mapping[str, float], started: Mapping[str, float]) -> str:
    """Of the stage that was started last; the time follows from the work that those before it did."""
    *before, stage = started
    number, total = len(started), len({*work, *started})
    done = sum(work.get(name, 0) for name in before)
    said = f"{stage}: stage {number} of {total}"
    if done == 0:
        return said
    first = min(began for name, began in started.items() if work.get(name, 0))  # in the file they stand by name
    left = (started[stage] - first) / done * (sum(work.values()) - done)
    if left < 1:
        return said
    return f"{said}, some {left / 60:.0f} minutes left" if left > 90 else f"{said}, some {left:.0f} seconds left"
