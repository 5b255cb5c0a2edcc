"""Which knobs suit the digits, asked of other splits than the comparison's: `python -m benchmarks.knobs`.

The protocol chooses learning rates and decaying knobs on the current task alone. What it cannot choose, because only
old tasks would show it, is set in params.yaml. Those values are not to be found on the data that the comparison
reports: so each candidate runs here on other splits and permutations (`benchmark.seed`) with other seeds, and half the
tasks. Of the best mean of average accuracy params.yaml takes the knobs. Resumable, as every run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.switches import results_of
from cl import cli
from cl.errors import UserError
from cl.files import write_json
from cl.knob import Value
from cl.metrics import average_accuracy

ELSEWHERE = ("benchmark.seed=1", "benchmark.tasks=5")
SEEDS = "10,11,12"
Knobs = Mapping[str, Value]
STRENGTHS: list[Knobs] = [{"strength": value} for value in (10.0, 3.0, 1.0, 0.3)]
PULLS: list[Knobs] = [{"strength": value} for value in (0.01, 0.1, 1.0, 10.0)]
BETAS: list[Knobs] = [{"beta": value} for value in (1.0, 0.3)]
CANDIDATES: dict[str, list[Knobs]] = {
    "lwf": STRENGTHS,
    "ebll": STRENGTHS,
    "mean_imm": PULLS,
    "mode_imm": PULLS,
    "vcl": BETAS,
}
"""By method, the declared value first. VCL with a coreset takes what suits VCL."""


def table(entries: list[dict[str, Any]]) -> str:
    """A line for each candidate, the best of each method in bold."""
    best = {name: max(e["accuracy"] for e in entries if e["method"] == name) for name in {e["method"] for e in entries}}
    lines = ["| method | knobs | average accuracy % | each seed |", "| :--- | :--- | ---: | :--- |"]
    for entry in entries:
        accuracy = f"{entry['accuracy']:.2f}"
        mean = f"**{accuracy}**" if entry["accuracy"] == best[entry["method"]] else accuracy
        knobs = ", ".join(f"{name} {json.dumps(value)}" for name, value in entry["knobs"].items())
        each = ", ".join(f"{value:.2f}" for value in entry["seeds"])
        lines.append(f"| {entry['method']} | {knobs} | {mean} | {each} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = cli.parser("benchmarks.knobs", (__doc__ or "").splitlines()[0])
    made.set_defaults(out=Path("out/knobs"), seeds=SEEDS)
    return made


def main() -> int:
    """Run every candidate, print the table, and keep it as JSON for `benchmarks.pages`."""
    given = parser().parse_args()
    given.overrides = [*ELSEWHERE, *given.overrides]
    chosen = cli.methods_of(given.methods) if given.methods else list(CANDIDATES)
    if strange := [name for name in chosen if name not in CANDIDATES]:
        raise UserError(f"--methods: there are no candidates for {', '.join(strange)}; known: {', '.join(CANDIDATES)}")
    entries = []
    for method in chosen:
        for knobs in CANDIDATES[method]:
            seeds = [100 * average_accuracy(run.accuracy) for run in results_of(method, dict(knobs), given)]
            entries.append(
                {"method": method, "knobs": dict(knobs), "accuracy": statistics.fmean(seeds), "seeds": seeds}
            )
    print(table(entries))
    write_json(given.out / "knobs.json", entries)
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
