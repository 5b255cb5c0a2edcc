"""Where a whole default run spends its time: `python -m benchmarks.whole_run [--against COMMIT]`.

Clones the committed project into a temporary folder, does there what `make run` does (the environment apart), and
compares the processor time of all its processes with what was spent in training steps. With `--against` the same run
of an earlier commit goes before it, on the same machine, and results and checkpoints are compared byte by byte.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from cl import cli
from cl.errors import UserError
from cl.reading import read_runs

DEPENDENT = re.compile(r"\.cost\.json$|\.studies\.log$|/manifest\.json$|/record\.json$")
"""What says when, how long or by which code something was learned. A record holds what result and trials show too."""


@dataclass(frozen=True)
class Whole:
    """A whole run, in seconds."""

    runs: int
    wall: float
    processor: float
    """Of all its processes."""
    steps: float
    """Of training steps."""
    peak: float
    """Memory of the largest process, in bytes."""
    files: dict[str, bytes]
    """Results and checkpoints that have to be the same for the same numbers."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.whole_run", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--against", metavar="COMMIT", help="an earlier commit, whose run goes before")
    made.add_argument("--tasks", type=cli.positive, metavar="N", help="the first N tasks alone, for a shorter run")
    return made


def main() -> int:
    """Print wall-clock and processor time, the share of training steps, and the peak memory of a process."""
    given = parser().parse_args()
    before = measured(given.against, given.tasks) if given.against else None
    now = measured("HEAD", given.tasks)
    for name, whole in ((given.against, before), ("HEAD", now)):
        if whole is not None:
            tell(name, whole)
    if before is None:
        return 0
    print(f"wall-clock, ratio:       {now.wall / before.wall:.3f}")
    print(f"processor, ratio:        {now.processor / before.processor:.3f}")
    shared = before.files.keys() & now.files.keys()
    differ = sorted(name for name in shared if before.files[name] != now.files[name])
    print(f"files in both:           {len(shared)} of {len(before.files)} and {len(now.files)}")
    print(f"  with other bytes:      {len(differ)}{': ' + ', '.join(differ[:5]) if differ else ''}")
    return 0


def measured(commit: str, tasks: int | None) -> Whole:
    """Do the whole run of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        _run(["git", "clone", "--quiet", ".", str(clone)], Path())
        if commit != "HEAD":
            _run(["git", "checkout", "--quiet", commit], clone)
        if tasks is not None:
            params = clone / "params.yaml"
            text = params.read_text(encoding="utf-8")
            params.write_text(re.sub(r"^  tasks: null", f"  tasks: {tasks}", text, flags=re.M), encoding="utf-8")
        used, started = _processor(), time.monotonic()
        for command in (["dvc", "pull", "--quiet", "-r", "embedded", "data.dvc"], ["dvc", "repro"]):
            _run(command, clone)
        wall, used = time.monotonic() - started, _processor() - used
        out = clone / "out"
        costs = [run.cost for run in read_runs(out) if run.cost]
        paths = [path for room in ("results", "checkpoints") for path in sorted((out / room).rglob("*"))]
        files = {path.relative_to(out).as_posix(): path.read_bytes() for path in paths if path.is_file()}
    return Whole(
        runs=len(costs),
        wall=wall,
        processor=used,
        steps=stepping([[task.get("step_seconds") or 0.0 for task in cost["per_task"]] for cost in costs]),
        peak=max(cost["peak_memory_bytes"] or 0.0 for cost in costs),
        files={name: data for name, data in files.items() if not DEPENDENT.search(name)},
    )


def stepping(runs: list[list[float]]) -> float:
    """The time of the steps that were taken, from that of each task of each run.

    Runs that share a first task all report its cost, to the last digit the same. It was spent once.
    """
    return sum({of_tasks[0] for of_tasks in runs}) + sum(sum(of_tasks[1:]) for of_tasks in runs)


def tell(name: str, whole: Whole) -> None:
    """Print the figures of a run."""
    print(f"{name}")
    print(f"  runs:                  {whole.runs}")
    print(f"  wall-clock:            {whole.wall:.0f} s")
    print(f"  processor:             {whole.processor:.0f} s")
    print(f"    in training steps:   {whole.steps:.0f} s ({whole.steps / whole.processor:.0%})")
    print(f"  peak memory, one process: {whole.peak / 2**30:.2f} GiB", flush=True)


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(command: list[str], folder: Path) -> None:
    own = {"PYTHONPATH": str(folder), "PREFECT_HOME": str(folder / ".prefect")}  # a clone runs its own code
    if subprocess.run(command, cwd=folder, env=os.environ | own, check=False).returncode:
        raise UserError(f"`{' '.join(command)}` failed; the lines above say why")


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
