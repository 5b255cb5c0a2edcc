"""What a finished run has to be: the right bytes, nothing left behind, and all of it in MLflow."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

RUN_DEPENDENT = (".cost.json", ".studies.log", ".anytime.json")
"""Published files that differ from run to run."""
REMAINS = (
    "**/*.part",
    "**/.*.part",
    "**/params-*.json",
    "**/.probe-*",
    "**/*.tmp",
    "**/candidate-*",
    "**/studies.log.*",
)
"""What only a command that is under way has."""


def published(out: Path, *runs: str) -> dict[str, bytes]:
    """Path and bytes of every published file that is the same in every run; of these runs, or of all."""
    files = [path for room in ("results", "checkpoints") for path in (out / room).rglob("*") if path.is_file()]
    there = {str(path.relative_to(out)): path.read_bytes() for path in sorted(files)}
    return {
        name: data
        for name, data in there.items()
        if not name.endswith(RUN_DEPENDENT) and (not runs or any(f"/{run}" in name for run in runs))
    }


def differences(out: Path, expected: Mapping[str, bytes], runs: Sequence[str] = ()) -> list[str]:
    """How what is published under `out`, of these runs or of all, is not what was expected, in few words."""
    there = published(out, *runs)
    faults = [f"{name} is missing" for name in expected if name not in there]
    faults += [f"{name} is too many" for name in there if name not in expected]
    faults += [f"{name} differs" for name, data in expected.items() if there.get(name, data) != data]
    return faults[:3] + ([f"{len(faults) - 3} more files"] if len(faults) > 3 else [])


def leftovers(out: Path) -> list[str]:
    """What a command that has ended should have taken with it: half-written files, handed-over params, held locks."""
    left = {path for pattern in REMAINS for path in out.parent.glob(pattern) if "caches" not in path.parts}
    # What was in the way of a file of ours is moved aside, which is said, and stays.
    left = {path for path in left if path.is_relative_to(out) and ".aside-" not in path.name}
    faults = [f"left behind: {path.relative_to(out)}" for path in sorted(left)[:3]]
    for path in out.glob(".work/*/seed-*/*/lock"):
        with contextlib.suppress(FileNotFoundError), path.open("r+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                faults.append(f"still locked: {path.relative_to(out)}")
    return faults


def untracked(database: Path, runs: Mapping[str, int]) -> list[str]:
    """What MLflow's database lacks of these runs (`ewc/seed-0`, and how many tasks it has learned), or has twice."""
    faults = []
    uri = f"file:{database}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            for run, tasks in runs.items():
                rows = connection.execute("SELECT run_uuid, status FROM runs WHERE name = ?", (run,)).fetchall()
                if [status for _, status in rows] != ["FINISHED"]:
                    faults.append(f"MLflow has {run} as {[status for _, status in rows]}")
                    continue
                steps = connection.execute(
                    "SELECT DISTINCT step FROM metrics WHERE run_uuid = ? AND key = 'average_accuracy'", (rows[0][0],)
                ).fetchall()
                if len(steps) != tasks:
                    faults.append(f"MLflow has {len(steps)} of the {tasks} tasks of {run}")
    except sqlite3.Error as error:
        faults.append(f"MLflow's database: {error}")
    return faults
