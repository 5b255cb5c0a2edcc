"""Copy the figures of the last comparisons into the pages: `python -m benchmarks.pages`.

A page marks the place of a block by `<!-- results -->` and `<!-- /results -->`. On a method's page `results` has the
rows of the method and of the two bounds from `out/all`, and `switches` what `benchmarks.switches` measured. In the
README `leaderboard` is the table of `out`. The blocks of docs/scenarios.md are the tables of other scenarios. The block
of a comparison that was not run stays as it is. This command computes nothing that the report does not compute.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import textwrap
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from benchmarks import knobs, switches
from benchmarks.tables import METHODS, fill
from cl import cli
from cl.errors import UserError
from cl.files import read_json
from cl.names import names_in
from cl.paths import option
from cl.reading import read_runs
from flows.report.rows import BOUNDS, Row, compare
from flows.report.words import percent, size, times

PROTOCOL = Path("docs/protocol.md")
SCENARIOS = Path("docs/scenarios.md")
FOLDERS = {
    "out": ("out", "the default comparison; default: %(default)s"),
    "all": ("out/all", "a comparison of all methods; default: %(default)s"),
    "switches": ("out/switches", "benchmarks.switches"),
    "online": ("out/online", "the study online-class-split-digits"),
    "class": ("out/class", "a class-incremental comparison"),
    "closed": ("out/closed", "a class-incremental comparison of the methods without gradients"),
    "knobs": ("out/knobs", "benchmarks.knobs"),
}
"""By option, without its dashes: where a comparison is looked for by default, and which one that is."""


def where(rows: tuple[Row, ...]) -> str:
    """What the figures are of, and from where; the seeds are those of the method that has most."""
    row = max(rows, key=lambda row: len(row.runs))
    run = row.runs[0]
    machine: dict[str, Any] = dict(run.cost["machine"]) if run.cost else {}
    kind = machine["platform"].split("-")[0] if machine else "?"
    cores = f"{machine.get('cores')} cores ({machine.get('processor')}, {kind}), torch {machine.get('torch')}"
    return f"{run.benchmark_as_run}, {len(run.tasks)} tasks, seeds {row.seeds}; {cores}"


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
        f"{where(rows)}; `python -m flows.compare --methods all` prints it. Mean and half width of the 95 % "
        f"t-interval over the seeds ({rows[0].runs[0].over_seeds}); *time* is processor time relative to finetuning, "
        "selection included; *carried* is what goes on to the next task besides the network."
    )
    return "\n".join([*lines, "", textwrap.fill(notes, 120)])


def board(out: Path) -> str:
    """The tables of a run's leaderboard, and what they are of."""
    text = (out / "report" / "leaderboard.md").read_text(encoding="utf-8")
    kept = [
        line
        for line in text.splitlines()
        if line.startswith(("|", "The same models,", "Left out, as they need the task"))
    ]
    lines = [f"\n{line}\n" if not line.startswith("|") else line for line in kept]
    rows = compare(read_runs(out))
    covered = f"{where(rows)}. Over seeds: {rows[0].runs[0].over_seeds}."
    return "\n".join([*lines, "", textwrap.fill(covered, 120)])


def in_time(out: Path) -> str:
    """What `cl.anytime` found of the runs there, a line per method and seed."""
    lines = ["| | average | worst case | minimum | largest fall |", "| :--- | ---: | ---: | ---: | ---: |"]
    for path in sorted(out.glob("results/*/seed-*.anytime.json")):
        fields = ("anytime_average_accuracy", "worst_case_accuracy", "minimum_accuracy", "windowed_forgetting")
        with _made_by("cl.anytime", path) as measures:
            values = " | ".join(f"{100 * measures[field]:.1f}" for field in fields)
            lines.append(f"| {measures['method']}, seed {measures['seed']} | {values} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=(__doc__ or "").splitlines()[0])
    for name, (folder, about) in FOLDERS.items():
        key = f"--{name}"
        made.add_argument(key, type=option(key), default=Path(folder), help=f"output folder of {about}")
    made.add_argument(
        "--methods", metavar="A,B", help="copy only the rows of these methods from --all into their own pages"
    )
    return made


def main() -> int:
    """Fill every block."""
    given = parser().parse_args()
    if given.methods:
        _fill_results(given.all, cli.methods_of(given.methods))
        return 0
    if (given.knobs / "knobs.json").exists():
        with _made_by("benchmarks.knobs", given.knobs / "knobs.json") as candidates:
            fill(PROTOCOL, "knobs", knobs.table(candidates))
    if (given.all / "results").exists():
        _fill_results(given.all)
    if (given.switches / "switches.json").exists():
        _fill_switches(given.switches)
    if (given.out / "report" / "leaderboard.md").exists():
        table = (given.out / "report" / "leaderboard.md").read_text(encoding="utf-8").partition("The same models")[0]
        own = "\n".join(line for line in table.splitlines() if line.startswith("|"))
        fill(Path("README.md"), "leaderboard", own)
    tables = {"online": given.online, "class": getattr(given, "class"), "closed": given.closed, "all": given.all}
    for block, out in tables.items():
        if (out / "report").exists():
            fill(SCENARIOS, block, board(out))
    if any(given.all.glob("results/*/*.anytime.json")):
        fill(Path("docs/metrics.md"), "anytime", in_time(given.all))
    return 0


def _fill_results(out: Path, methods: Collection[str] | None = None) -> None:
    rows = compare(read_runs(out))
    for name in sorted({row.method for row in rows}):
        if methods is None or name in methods:
            fill(METHODS / f"{name}.md", "results", results(name, rows))


def _fill_switches(folder: Path) -> None:
    with _made_by("benchmarks.switches", folder / "switches.json") as entries:
        for name in names_in("methods"):
            own = [entry for entry in entries if entry["method"] == name]
            if own:
                seeds = ", ".join(map(str, own[0]["seeds"]))
                note = f"permuted-digits, ten tasks, seeds {seeds}; `python -m benchmarks.switches` prints it."
                fill(METHODS / f"{name}.md", "switches", f"{switches.table(own)}\n\n{note}")


@contextlib.contextmanager
def _made_by(command: str, path: Path) -> Iterator[Any]:
    """What is in a JSON file; raises `UserError` where that is not what the body takes it for."""
    try:
        yield read_json(path)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path}: damaged, or of another version; make it again: python -m {command}") from None


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
