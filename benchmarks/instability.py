"""Which attempts diverged, and how near their penalty was to instability: `python -m benchmarks.instability OUT ...`.

Reads the results of finished runs, and computes nothing anew. r is `Outcome.instability`: the penalty alone is stable
below 1 (docs/protocol.md, trainings that diverge).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cl import cli
from cl.metrics import average_forgetting
from cl.paths import option
from cl.reading import RunResult, read_runs


def row(out: Path, runs: Sequence[RunResult]) -> list[str]:
    """Of one method: forgetting by seed in points, attempts that diverged on either side of r = 1, and r where kept."""
    attempts = [
        trial for run in runs for trial in run.trials if trial["phase"] == "stability" and "instability" in trial
    ]
    sides = [[t for t in attempts if t["instability"] < 1], [t for t in attempts if t["instability"] >= 1]]
    kept = [trial["instability"] for trial in attempts if trial["kept"]]
    forgetting = [average_forgetting(run.accuracy) for run in runs]
    return [
        out.name,
        runs[0].method,
        ", ".join("–" if value is None else f"{100 * value:.1f}" for value in forgetting),
        *(f"{sum('diverged' in trial for trial in side)} of {len(side)}" for side in sides),
        f"{min(kept):.2f} to {max(kept):.2f}" if kept else "–",
    ]


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.instability", description=(__doc__ or "").splitlines()[0])
    made.add_argument("out", type=option("OUT"), nargs="+", help="output folders of finished runs")
    made.add_argument("--methods", default="ewc,online_ewc,si,mas,riemannian_walk", help="default: %(default)s")
    return made


def main() -> int:
    """Print a line for each folder and method that has such a penalty."""
    given = parser().parse_args()
    print("| run | method | forgetting of each seed | diverged, r < 1 | diverged, r >= 1 | r of what was kept |")
    print("| :--- | :--- | :--- | ---: | ---: | ---: |")
    for out in given.out:
        runs = read_runs(out, given.methods.split(","))
        for method in dict.fromkeys(run.method for run in runs):
            print("| " + " | ".join(row(out, [run for run in runs if run.method == method])) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
