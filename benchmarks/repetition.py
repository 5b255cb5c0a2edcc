"""How much repetition helps each method: `python -m benchmarks.repetition`.

Runs the study studies/repetition.yaml with other shares of the classes in each task, and fills the table of
docs/scenarios.md. Resumable, as every run.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from benchmarks.tables import fill
from cl import cli
from cl.data.places import prepare_all
from cl.errors import UserError
from cl.metrics import average_accuracy, average_forgetting, interval
from cl.params import Params, read
from cl.pool import Progress, explain, run_all, runs_of
from cl.reading import RunResult, read_run
from cl.register import checked
from cl.results import Matrix

STUDY = Path("studies/repetition.yaml")
PAGE = Path("docs/scenarios.md")
CUTS: dict[str, list[str]] = {
    "no class again": ["benchmark.repetition=null", "benchmark.classes_per_task=2"],
    **{
        f"{count} of 10 classes": [f"benchmark.repetition={count}", f"benchmark.classes_per_task={count}"]
        for count in (2, 5, 10)
    },
}
"""By column of the table, what it sets. There are ten tasks, but five where no class comes again."""


def results_of(params: Params, out: Path) -> dict[str, list[RunResult]]:
    """The results of each method over the seeds; what is missing is run."""
    prepare_all(params, cli.RAW, out, _say)
    runs = runs_of(params)
    if failures := run_all(params, out, runs, Progress(runs, lambda line: None)):
        raise UserError(explain(failures))
    return {
        method: [read_run(out / "results" / method / f"seed-{seed}.json", method, seed) for seed in params.seeds]
        for method in params.methods
    }


def table(columns: dict[str, dict[str, list[RunResult]]]) -> str:
    """Average accuracy and forgetting in per cent, by method and column."""
    heads = list(columns)
    lines = [f"| method | {' | '.join(heads)} |", f"| :--- |{' ---: |' * len(heads)}"]
    for method in next(iter(columns.values())):
        cells = [
            f"{_spread(of[method], average_accuracy)}<br>{_spread(of[method], average_forgetting)}"
            for of in columns.values()
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    seeds = ", ".join(str(result.seed) for result in next(iter(next(iter(columns.values())).values())))
    notes = (
        f"split-digits, class-incremental, seeds {seeds}; `python -m benchmarks.repetition` runs it all. The first "
        "line of a cell is the average accuracy in per cent, the second the average forgetting, each with its 95 % "
        "t-interval over the seeds."
    )
    return "\n".join([*lines, "", textwrap.fill(notes, 120)])


def _spread(results: list[RunResult], measure: Callable[[Matrix], float | None]) -> str:
    values = [100 * value for result in results if (value := measure(result.accuracy)) is not None]
    if not values:
        return "–"
    mean, half = interval(values)
    return f"{mean:.1f}" + (f" ± {half:.1f}" if half is not None else "")


def _say(line: str) -> None:
    print(line, flush=True)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.repetition", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--out", type=Path, default=Path("out/repetition"), help="default: %(default)s")
    made.add_argument("--workers", type=int, metavar="N", help="runs at a time; default: that of the study")
    return made


def main() -> int:
    """Run what is missing, fill the page, and print the table."""
    given = parser().parse_args()
    workers = [f"execution.workers={given.workers}"] if given.workers else []
    columns = {}
    for number, (name, overrides) in enumerate(CUTS.items()):
        _say(name)
        columns[name] = results_of(checked(read(STUDY, [*overrides, *workers])), given.out / str(number))
    fill(PAGE, "repetition", table(columns))
    print(table(columns))
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
