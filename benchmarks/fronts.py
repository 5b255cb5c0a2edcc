"""How near the survey's choice is to the front: `python -m benchmarks.fronts [--out DIR]`, of a finished pareto search.

Per method: for how many tasks the survey's accepted attempt is on the front, for how many it is what is kept, and how
much more stable what is kept is, in points (mean, and most).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from cl import cli
from cl.errors import UserError
from cl.metrics import front
from cl.paths import option
from cl.reading import RunResult, read_runs


def compared(run: RunResult) -> list[tuple[bool, bool, float]]:
    """Of each task searched: the survey's attempt is on the front, it is kept, stability gained in points."""
    gains = []
    for index in range(len(run.tasks)):
        tried = [t for t in run.trials if t["task_index"] == index and "stability" in t and t["phase"] != "plasticity"]
        if not tried:
            continue
        best = front([(t["accuracy"], t["stability"]) for t in tried])
        attempts = [number for number, t in enumerate(tried) if t["phase"] == "stability"]
        chosen = [number for number, t in enumerate(tried) if t["kept"]]
        if not attempts or not chosen:
            raise UserError(
                f"{run.path.with_suffix('.trials.json')}: task {index + 1} has no attempt, or none was kept"
            )
        survey, kept = attempts[-1], chosen[0]
        gained = 100 * (tried[kept]["stability"] - tried[survey]["stability"])
        gains.append((survey in best, kept == survey, gained))
    return gains


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.fronts", description=(__doc__ or "").splitlines()[0])
    made.add_argument(
        "--out",
        type=option("--out"),
        default=Path("out/pareto"),
        help="the output folder of the search; default: out/pareto",
    )
    return made


def main() -> int:
    """Print a line per method."""
    given = parser().parse_args()
    runs = read_runs(given.out)
    tasks = {name: [entry for run in runs if run.method == name for entry in compared(run)] for name in _names(runs)}
    if not any(tasks.values()):
        raise UserError(f"{given.out}: no front was searched for; run with --set selection.strategy=pareto")
    print("| method | tasks | survey's point on the front | kept | stability gained, mean | most |")
    print("| :--- | ---: | ---: | ---: | ---: | ---: |")
    for name, entries in tasks.items():
        if entries:
            on, kept, gained = zip(*entries, strict=True)
            values = f"{statistics.fmean(gained):.2f} | {max(gained):.2f}"
            print(f"| {name} | {len(entries)} | {sum(on)} | {sum(kept)} | {values} |")
    return 0


def _names(runs: list[RunResult]) -> list[str]:
    return sorted({run.method for run in runs})


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
