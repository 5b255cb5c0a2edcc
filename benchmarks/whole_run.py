"""Where a whole default run spends its time: `python -m benchmarks.whole_run`.

Clones the committed project into a temporary folder, does there what `make run` does (the environment apart), and
compares the processor time of all its processes with what was spent in training steps.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cl import cli
from cl.errors import UserError
from cl.reading import read_runs


def main() -> int:
    """Print wall-clock and processor time, the share of training steps, and the peak memory of a process."""
    description = (__doc__ or "").splitlines()[0]
    argparse.ArgumentParser(prog="python -m benchmarks.whole_run", description=description).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        _run(["git", "clone", "--quiet", ".", str(clone)], Path())
        started = time.monotonic()
        for command in (["dvc", "pull", "--quiet", "-r", "embedded", "data.dvc"], ["dvc", "repro"]):
            _run(command, clone)
        wall = time.monotonic() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs = [run.cost for run in read_runs(clone / "out") if run.cost]
    process = used.ru_utime + used.ru_stime
    steps = sum(cost.get("step_seconds") or 0.0 for cost in costs)
    learning = sum(cost["process_seconds"] or 0.0 for cost in costs)
    print(f"runs:                    {len(costs)}")
    print(f"wall-clock:              {wall:.0f} s")
    print(f"processor, all of it:    {process:.0f} s")
    print(f"  in runs, after start:  {learning:.0f} s ({learning / process:.0%})")
    print(f"  in training steps:     {steps:.0f} s ({steps / process:.0%})")
    peak = max(cost["peak_memory_bytes"] or 0.0 for cost in costs)
    print(f"peak memory, one process: {peak / 2**30:.2f} GiB")
    return 0


def _run(command: list[str], folder: Path) -> None:
    if subprocess.run(command, cwd=folder, check=False).returncode:
        raise UserError(f"`{' '.join(command)}` failed; the lines above say why")


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
