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
from flows.report.rows import Row, compare
from flows.report.words import percent, size, times

PAGE = Path("docs/photographs.md")
BLOCKS = ("thousand", "tiny", "cifar", "mnist")


def table(features: tuple[Row, ...], scratch: tuple[Row, ...]) -> str:
    """One row for each method, the best on features first; methods that need the task of an image come last."""
    others = {row.method: row for row in scratch}
    lines = [
        "| | features: all classes | features: task-aware | time | state | random weights: all classes | task-aware |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in features:
        other = others.get(row.method)
        cells = [row.method, percent(row.accuracy, 1), percent(row.other_accuracy, 1)]
        cells += [times(row.relative_time), size(row.state_bytes)]
        cells += [percent(other.accuracy, 1), percent(other.other_accuracy, 1)] if other else ["–", "–"]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"Features: {where(features)}."]
    if scratch:
        notes.append(f"Random weights: {where(scratch)}.")
    return "\n".join([*lines, "", *notes])


def main() -> int:
    """Fill the tables whose comparisons have results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.photographs", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=option("FOLDER"), help="the folder that holds the comparisons' output folders")
    folder: Path = parser.parse_args().folder
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
