"""Copy the figures of the last runs into the pages: `python -m benchmarks.pages`.

Between `<!-- results -->` and `<!-- /results -->` on a method's page come its row and the two bounds of `out/`, between
`<!-- switches -->` and `<!-- /switches -->` what `benchmarks.switches` found, and between `<!-- leaderboard -->` and
`<!-- /leaderboard -->` in the README the whole table. Nothing is computed here but what the report computes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from benchmarks import switches
from cl import cli
from cl.errors import UserError
from cl.params import names_in
from flows.report import BOUNDS, Row, compare, percent, size, times
from flows.results import read_runs


def fill(page: Path, block: str, content: str) -> None:
    """Replace what stands between the block's two marks; raises `UserError` where the page has none."""
    text = page.read_text(encoding="utf-8")
    marks = re.compile(rf"(<!-- {block} -->\n).*?(<!-- /{block} -->)", re.DOTALL)
    if not marks.search(text):
        raise UserError(f"{page}: has no block <!-- {block} --> ... <!-- /{block} -->")
    page.write_text(marks.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text), encoding="utf-8")


def where(rows: tuple[Row, ...]) -> str:
    """What the figures are of, and from where."""
    run = rows[0].runs[0]
    machine: dict[str, Any] = (run.cost or {}).get("machine", {})
    kind = machine["platform"].split("-")[0] if machine else "?"
    cores = f"{machine.get('cores')} cores ({machine.get('processor')}, {kind}), torch {machine.get('torch')}"
    return f"{run.benchmark}, {len(run.tasks)} tasks, seeds {rows[0].seeds}; {cores}"


def results(method: str, rows: tuple[Row, ...]) -> str:
    """A method's row between the two bounds."""
    lines = [
        "| | average accuracy % | forgetting | learning accuracy % | time | carried |",
        "| :--- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row.method == method or row.method in BOUNDS:
            name = f"**{row.method}**" if row.method == method else row.method
            cells = [name, percent(row.accuracy), percent(row.forgetting), percent(row.learning)]
            lines.append("| " + " | ".join([*cells, times(row.relative_time), size(row.state_bytes)]) + " |")
    notes = (
        f"{where(rows)}; `make run` prints it. Mean and half width of the 95 % t-interval over the seeds; *time* is "
        "computing time relative to finetuning, selection included; *carried* is what goes on to the next task besides "
        "the network."
    )
    return "\n".join([*lines, "", textwrap.fill(notes, 120)])


def main() -> int:
    """Fill every block."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="of the whole run; default: out")
    parser.add_argument("--switches", type=Path, default=Path("out/switches"), help="of benchmarks.switches")
    given = parser.parse_args()
    rows = compare(read_runs(given.out))
    pages = Path("docs/methods")
    for name in sorted({row.method for row in rows}):
        fill(pages / f"{name}.md", "results", results(name, rows))
    found = json.loads((given.switches / "switches.json").read_bytes())
    for name in names_in("methods"):
        own = [entry for entry in found if entry["method"] == name]
        if own:
            seeds = ", ".join(map(str, own[0]["seeds"]))
            note = f"permuted-digits, ten tasks, seeds {seeds}; `python -m benchmarks.switches` prints it."
            fill(pages / f"{name}.md", "switches", f"{switches.table(own)}\n\n{note}")
    board = (given.out / "report" / "leaderboard.md").read_text(encoding="utf-8")
    fill(Path("README.md"), "leaderboard", "\n".join(line for line in board.splitlines() if line.startswith("|")))
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
