"""Fill the tables of docs/photographs.md: `python -m benchmarks.photographs FOLDER`.

The page says which comparisons to run, and into which folders below FOLDER. Each table is for one benchmark and shows
the comparison on features (`<block>-features`) beside that of a network from random weights (`<block>-scratch`). A
table stays as it is if its comparison on features was not run. This command computes nothing that the report does not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.pages import where
from benchmarks.tables import fill
from cl import cli
from cl.errors import UserError
from cl.paths import option
from cl.reading import read_runs
from cl.results import TASK_INCREMENTAL
from flows.report.rows import Row, compare
from flows.report.words import percent, size, times

PAGE = Path("docs/photographs.md")
BLOCKS = ("thousand", "tiny", "tiny-task", "cifar", "mnist")
SETTINGS = ("all classes", "task-aware")
"""What the model chooses among."""


def table(features: tuple[Row, ...], scratch: tuple[Row, ...]) -> str:
    """One row for each method, the best on features first; random weights only where they were compared."""
    settings = SETTINGS if features[0].runs[0].scenario != TASK_INCREMENTAL else SETTINGS[::-1]
    others = {row.method: row for row in scratch}
    heads = ["", *(f"features: {name}" for name in settings), "time", "state"]
    heads += [f"random weights: {settings[0]}", settings[1]] if scratch else []
    lines = [f"| {' | '.join(heads)} |", "| :--- |" + " ---: |" * (len(heads) - 1)]
    most = max(len(row.runs) for row in features)
    for row in features:
        other = others.get(row.method)
        seeds = ", ".join(str(run.seed) for run in row.runs)
        name = row.method if len(row.runs) == most else f"{row.method} (seeds {seeds})"
        cells = [name, percent(row.accuracy, 1), percent(row.other_accuracy, 1)]
        cells += [times(row.relative_time), size(row.state_bytes)]
        if scratch:
            cells += [percent(other.accuracy, 1), percent(other.other_accuracy, 1)] if other else ["–", "–"]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"Features: {where(features)}."]
    if scratch:
        notes.append(f"Random weights: {where(scratch)}.")
    return "\n".join([*lines, "", *notes])


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.photographs", description=(__doc__ or "").split("\n")[0])
    made.add_argument("folder", type=option("FOLDER"), help="the folder that holds the comparisons' output folders")
    return made


def main() -> int:
    """Fill the tables whose comparisons have results."""
    folder: Path = parser().parse_args().folder
    there = [block for block in BLOCKS if (folder / f"{block}-features" / "results").exists()]
    if not there:
        raise UserError(f"{folder}: has no folder {BLOCKS[0]}-features with results; {PAGE} says how to make it")
    for block in there:
        scratch = folder / f"{block}-scratch"
        rows = compare(read_runs(scratch)) if (scratch / "results").exists() else ()
        fill(PAGE, block, table(compare(read_runs(folder / f"{block}-features")), rows))
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
