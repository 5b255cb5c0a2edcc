"""Compare every finished run: a leaderboard, figures, one self-contained page, and DVC's metrics and plots.

    python -m flows.report [--params FILE] [--out DIR] [--show]

reads `<out>/results/<method>/seed-<s>.json` (and `.trials.json`, `.cost.json` beside it, where there are any)
and writes `<out>/report/`: `index.html`, `leaderboard.md`, `summary.json`, `accuracy.csv` and `plots/*.png`.
The same results give the same bytes. `--show` only prints the last leaderboard and where to look next.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import statistics
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cl import metrics
from cl.errors import UserError
from cl.files import sweep, write_whole
from cl.reading import Run, count, read_runs
from cl.redact import without_password
from cl.results import TrialResult
from flows.deadline import finish

if TYPE_CHECKING:
    from cl.params import Params
    from flows import report_plots
    from flows.engine import Plain
    from flows.tracking import Tracking

# Only the standard library up here: `--show` is asked for after every run and must answer at once.

MEASURES = {
    "backward transfer": "1/(T−1) Σ_{j<T} (a_{T,j} − a_{j,j}), in points",
    "average incremental accuracy": "1/T Σ_k A_k, in per cent, A_k = 1/k Σ_{j≤k} a_{k,j}: good whenever a task ends",
    "intransigence": "1/T Σ_k (a*_k − a_{k,k}), in points, a* the accuracies of joint training on all tasks",
    "forward transfer": "1/(T−1) Σ_{j≥2} (a_{j−1,j} − b_j), in points, b of a network that learned nothing",
    "size efficiency": "min(1, 1/T Σ_i m_1 / m_i), m_i the bytes of network and state after task i: 100 % is no growth",
}
"""Beyond the survey's, with their formulas; a_{i,j}: test accuracy on task j after task i."""
FOLLOWED = ("average incremental accuracy", "forward transfer")
"""Those of them that are no other number in another form, for DVC."""
BOUNDS = {"joint": "upper bound", "finetune": "lower bound"}
REMARKS = 8
"""So many stand in a report."""
MARKS = {"upper bound": "▲", "lower bound": "▼"}

Estimate = tuple[float, float | None]  # mean over seeds, half width of the 95 % interval (None: one seed)


@dataclass(frozen=True)
class Row:
    """One method over its seeds; accuracies in [0, 1], forgetting as a difference of those."""

    method: str
    rank: int | None  # None: a bound, which competes with nobody
    bound: str | None
    runs: tuple[Run, ...]
    missing: tuple[int, ...]  # seeds that other methods have and this one lacks
    accuracy: Estimate
    forgetting: Estimate | None
    learning: Estimate | None
    so_far: list[Estimate | None]  # average accuracy after each task
    matrix: list[list[float | None]]  # mean over seeds
    state_bytes: float
    seconds: dict[str, float]  # wall-clock per phase of the protocol, summed over tasks; empty without cost files
    process_seconds: float | None
    peak_memory: float | None
    relative_time: float | None  # process seconds over those of finetune
    measures: dict[str, Estimate | None]  # those of `MEASURES`
    searched: list[TrialResult]  # trials of the first seed that weigh stability too, where a front was searched for
    other_accuracy: Estimate | None  # average accuracy, task-agnostic where the scenario is task-aware, or aware

    @property
    def seeds(self) -> str:
        """The seeds that finished, and those that did not."""
        done = ", ".join(str(run.seed) for run in self.runs)
        return done + (f" (missing: {', '.join(map(str, self.missing))})" if self.missing else "")


@dataclass(frozen=True)
class Summary:
    """The comparison: rows sorted by average accuracy, best first, and the sentence that sums them up."""

    benchmark: str
    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    headline: str
    folder: Path
    absent: tuple[str, ...] = ()  # methods that were asked for and have no result at all
    other_setting: str = ""  # of the other accuracy: "task-agnostic", or "task-aware"

    @property
    def selected(self) -> bool:
        """Whether hyperparameters were chosen by the protocol, and not taken as given."""
        return all(entry["threshold"] is not None for row in self.rows for run in row.runs for entry in run.per_task)

    @property
    def remarks(self) -> list[str]:
        """What a reader has to know of single tasks before the numbers, the first few of it."""
        found = [
            f"{run.method}, seed {run.seed}, {entry['task']}: {remark}"
            for row in self.rows
            for run in row.runs
            for entry in run.per_task
            for remark in entry.get("remarks", ())
        ]
        more = [f"and {len(found) - REMARKS} more, in the results' `remarks`"] if len(found) > REMARKS else []
        return found[:REMARKS] + more

    def other_ranking(self) -> list[Row]:
        """The rows that have an accuracy in the other setting, the best at that first."""
        able = [row for row in self.rows if row.other_accuracy is not None]
        return sorted(able, key=lambda row: (-(row.other_accuracy or (0.0,))[0], row.method))

    def second_ranking(self) -> list[str]:
        """The same models in the other setting, as lines of Markdown: another scenario, so another ranking."""
        rows = self.other_ranking()
        if not rows:
            return []
        width = max(len(name) for name in ["method", *(row.method for row in rows)])
        ranks = iter(range(1, len(rows) + 1))
        lines = [
            f"The same models, {self.other_setting}:",
            "",
            f"| rank | {'method'.ljust(width)} | average accuracy % |",
        ]
        lines.append(f"| ---: | :{'-' * (width - 1)} | -----------------: |")
        for row in rows:
            mark = MARKS[row.bound] if row.bound else str(next(ranks))
            lines.append(f"| {mark:>4} | {row.method.ljust(width)} | {percent(row.other_accuracy):>18} |")
        if aware_only := [row.method for row in self.rows if row.other_accuracy is None]:
            lines += ["", f"Need the task: {', '.join(aware_only)}."]
        return ["", *lines]

    def metrics(self) -> dict[str, dict[str, float]]:
        """What DVC follows: one flat entry per method, of deterministic values; what is None is left out."""
        table: dict[str, dict[str, float]] = {}
        for row in sorted(self.rows, key=lambda row: row.method):
            values = {
                "average_accuracy": row.accuracy[0],
                "average_accuracy_interval": row.accuracy[1],
                "average_forgetting": row.forgetting[0] if row.forgetting else None,
                "seeds": len(row.runs),
            }
            if row.other_accuracy is not None:
                values[f"{self.other_setting.replace('-', '_')}_accuracy"] = row.other_accuracy[0]
            values |= {
                name.replace(" ", "_"): found[0] for name, found in row.measures.items() if found and name in FOLLOWED
            }
            table[row.method] = {key: round(value, 6) for key, value in values.items() if value is not None}
        return table

    def table(self) -> list[dict[str, Any]]:
        """The leaderboard as rows of short values, for a table artifact."""
        return [
            {
                "rank": row.rank or row.bound or "",
                "method": row.method,
                "average accuracy %": percent(row.accuracy),
                "forgetting": percent(row.forgetting),
                "time": times(row.relative_time),
                "state": size(row.state_bytes),
                "seeds": row.seeds,
            }
            for row in self.rows
        ]

    def leaderboard(self) -> str:
        """The table as Markdown, aligned so that it reads as well in a terminal."""
        head = ["rank", "method", "average accuracy %", "forgetting", "learning accuracy %"]
        head += ["time", "state", "seeds"]
        body = [
            [
                str(row.rank or MARKS[row.bound or ""]),
                row.method,
                *map(percent, (row.accuracy, row.forgetting, row.learning)),
                times(row.relative_time),
                size(row.state_bytes),
                row.seeds,
            ]
            for row in self.rows
        ]
        left = {1, 7}
        width = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
        rule = [":" + "-" * (w - 1) if i in left else "-" * (w - 1) + ":" for i, w in enumerate(width)]
        lines = []
        for line in [head, rule, *body]:
            cells = [
                cell.ljust(w) if i in left else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(line, width, strict=True))
            ]
            lines.append("| " + " | ".join(cells) + " |")
        notes = [
            "Mean ± half width of the 95 % t-interval over seeds. forgetting: average, in percentage points.",
            "time: computing time relative to finetune, selection included. state: carried on besides the network.",
        ]
        if bounds := [f"{mark} {bound}, not ranked" for bound, mark in MARKS.items() if self.has(bound)]:
            notes.append("  ".join(bounds))
        if self.absent:
            notes.append(f"Without any result: {', '.join(self.absent)}.")
        if self.remarks:
            notes += ["", "Read with care:", *(f"- {remark}" for remark in self.remarks)]
        title = f"{self.benchmark}: {count(len(self.tasks), 'task')}, {count(len(self.rows), 'method')}"
        found = "\n".join([title, "", self.headline, "", *lines, "", *notes]).rstrip()
        return "\n".join([found, *self.second_ranking()]).rstrip() + "\n"

    def has(self, bound: str) -> bool:
        """Whether a row of that kind of bound is among the results."""
        return any(row.bound == bound for row in self.rows)


def build(
    out: Path,
    versions: Mapping[str, str] | None = None,
    methods: Collection[str] | None = None,
    seeds: Collection[int] | None = None,
    failed: Collection[str] = (),
) -> Summary:
    """Read the results under `out` (of these methods and seeds; None: all), write `<out>/report/`, and sum up.

    `versions` (name -> version or commit) is shown as given under "How it was run"; runs that have `failed` in this
    run, as `ewc/seed-0`, count as missing whatever an earlier one left. Raises UserError where there are no results, a
    file is damaged, results are not of one task sequence, or writing fails.
    """
    runs = read_runs(out, methods, seeds, failed)
    rows = compare(runs, seeds)
    folder = check_folder(out)
    sweep(folder, below=True)
    absent = tuple(name for name in methods or () if name not in {run.method for run in runs})
    other = "task-aware" if "class-incremental" in runs[0].scenario else "task-agnostic"
    summary = Summary(runs[0].benchmark_as_run, runs[0].tasks, rows, headline(rows), folder, absent, other)

    from flows import report_plots

    figures = report_plots.draw(summary)
    files = {f"plots/{name}.png": figure.png for name, figure in figures.items()}
    files["summary.json"] = (json.dumps(summary.metrics(), indent=2) + "\n").encode()
    files["accuracy.csv"] = long_form(runs).encode()
    files["leaderboard.md"] = summary.leaderboard().encode()
    files["index.html"] = page(summary, figures, versions or {}).encode()
    try:
        for name, content in files.items():
            write_whole(folder / name, content)
        for stale in {*report_plots.FIGURES} - {*figures}:
            (folder / "plots" / f"{stale}.png").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the report into {folder}: {error.strerror or error}. The results are untouched: "
            "free some space or make the folder writable, then run `python -m flows.report` again."
        ) from error
    return summary


OWN = {
    "index.html": b": which method keeps what it learned</title>",
    "summary.json": b'"average_accuracy"',
    "accuracy.csv": b"method,seed,task,average_accuracy",
}
"""What each of these files has where it is ours."""


def check_folder(out: Path) -> Path:
    """The report's folder; raises `UserError` where a page of somebody else stands there, which would be replaced."""
    folder = out / "report"
    there = [folder / name for name in OWN if (folder / name).is_file()]
    if there and not any(OWN[path.name] in path.read_bytes() for path in there):
        raise UserError(
            f"{there[0]}: is of no report of ours, and would be replaced; move it away, or give another --out"
        )
    return folder


# Comparing --------------------------------------------------------------------------------------------------


def compare(runs: Sequence[Run], expected: Collection[int] | None = None) -> tuple[Row, ...]:
    """One row per method, best average accuracy first; seeds that were expected, or others have, may be missing."""
    seeds = {run.seed for run in runs} | set(expected or ())
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.method, []).append(run)
    reference = mean_cost(groups.get("finetune", []), "process_seconds")
    joint = {run.seed: run.accuracy[-1] for run in groups.get("joint", [])}
    rows = [summarise(group, seeds, reference, joint) for group in groups.values()]
    rows.sort(key=lambda row: (-row.accuracy[0], row.method))
    ranks = iter(range(1, len(rows) + 1))
    return tuple(row if row.bound else replace(row, rank=next(ranks)) for row in rows)


def summarise(
    runs: Sequence[Run], seeds: set[int], reference: float | None, joint: Mapping[int, list[float | None]]
) -> Row:
    """One method over its seeds.

    `reference`: the computing time of finetune in seconds; `joint`: the accuracies of joint training by seed.
    """
    matrices = [run.accuracy for run in runs]
    process_seconds = mean_cost(runs, "process_seconds")
    phases: dict[str, list[float]] = {}
    costs = [run.cost for run in runs if run.cost]
    for cost in costs:
        for entry in cost["per_task"]:
            for phase, seconds in entry["seconds"].items():
                phases.setdefault(phase, []).append(seconds)
    return Row(
        method=runs[0].method,
        rank=None,
        bound=BOUNDS.get(runs[0].method),
        runs=tuple(runs),
        missing=tuple(sorted(seeds - {run.seed for run in runs})),
        accuracy=metrics.interval([metrics.average_accuracy(matrix) for matrix in matrices]),
        forgetting=estimate(metrics.average_forgetting(matrix) for matrix in matrices),
        learning=estimate(metrics.learning_accuracy(matrix) for matrix in matrices),
        so_far=[estimate(values) for values in zip(*map(metrics.accuracy_so_far, matrices), strict=True)],
        matrix=[
            [mean[0] if (mean := estimate(values)) else None for values in zip(*lines, strict=True)]
            for lines in zip(*matrices, strict=True)
        ],
        state_bytes=statistics.fmean(run.per_task[-1]["state_bytes"] for run in runs),
        seconds={phase: sum(seconds) / len(costs) for phase, seconds in phases.items()},
        process_seconds=process_seconds,
        peak_memory=mean_cost(runs, "peak_memory_bytes"),
        relative_time=process_seconds / reference if process_seconds and reference else None,
        measures={
            "backward transfer": estimate(metrics.backward_transfer(matrix) for matrix in matrices),
            "average incremental accuracy": estimate(metrics.average_incremental_accuracy(m) for m in matrices),
            "intransigence": estimate(intransigence(run, joint.get(run.seed)) for run in runs),
            "forward transfer": estimate(forward_transfer(run) for run in runs),
            "size efficiency": estimate(size_efficiency(run) for run in runs),
        },
        searched=[t for t in runs[0].trials if "stability" in t and t["phase"] != "plasticity"],
        other_accuracy=estimate(
            metrics.average_accuracy(run.other_accuracy) if run.other_accuracy else None for run in runs
        ),
    )


def intransigence(run: Run, joint: Sequence[float | None] | None) -> float | None:
    """Against joint training with the same seed; None without it."""
    known = [value for value in joint or () if value is not None]
    return metrics.intransigence(run.accuracy, known) if known else None


def forward_transfer(run: Run) -> float | None:
    """From what was measured before each task was learned, where that was."""
    found = [entry for entry in run.per_task if "zero_shot_accuracy" in entry]
    before = [entry["zero_shot_accuracy"] for entry in found]
    return metrics.forward_transfer(before, [entry["untrained_accuracy"] for entry in found])


def size_efficiency(run: Run) -> float | None:
    """Of all that is kept; None where the size of the network was not recorded, and where all was learned at once."""
    sizes = [entry["state_bytes"] + entry["network_bytes"] for entry in run.per_task if "network_bytes" in entry]
    return metrics.size_efficiency(sizes) if len(sizes) == len(run.tasks) else None


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean and interval of what was measured; None where nothing was."""
    measured = [value for value in values if value is not None]
    return metrics.interval(measured) if measured else None


def mean_cost(runs: Sequence[Run], field: Literal["process_seconds", "peak_memory_bytes"]) -> float | None:
    """Mean of one field of the cost files; None without any."""
    values = [value for run in runs if run.cost and (value := run.cost[field]) is not None]
    return statistics.fmean(values) if values else None


def headline(rows: Sequence[Row]) -> str:
    """Who is best, how far from the bounds, and who cannot be told apart from it."""
    bounds = {row.bound: row for row in rows if row.bound}
    ranked = [row for row in rows if not row.bound]
    if not ranked:
        return "Only the bounds have been run: " + ", ".join(f"{r.method} {percent(r.accuracy)} %" for r in rows) + "."
    best = ranked[0]
    verb = "leads with" if len(ranked) > 1 else "reaches"
    text = f"{best.method} {verb} {percent(best.accuracy, 1)} % average accuracy"
    gaps = []
    for bound in MARKS:
        if bound in bounds:
            gap = 100 * (best.accuracy[0] - bounds[bound].accuracy[0])
            gaps.append(f"{abs(gap):.1f} points {'below' if gap < 0 else 'above'} {bounds[bound].method}")
    text += (", " + listing(gaps) if gaps else "") + "."
    reach = best.accuracy[0] - (best.accuracy[1] or 0)
    near = [row.method for row in ranked[1:] if row.accuracy[0] + (row.accuracy[1] or 0) > reach]
    if best.accuracy[1] is not None and near:
        text += f" Its interval overlaps {'that' if len(near) == 1 else 'those'} of {listing(near)}."
    return text


def long_form(runs: Sequence[Run]) -> str:
    """Average accuracy so far as CSV for `dvc plots`; `task` counts the tasks learned so far."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["method", "seed", "task", "average_accuracy"])
    for run in runs:
        for task, value in enumerate(metrics.accuracy_so_far(run.accuracy), start=1):
            if value is not None:
                table.writerow([run.method, run.seed, task, round(value, 6)])
    return text.getvalue()


# Words and numbers ------------------------------------------------------------------------------------------


def percent(value: Estimate | None, digits: int = 2) -> str:
    """A share of one as "93.10 ± 0.42" per cent (or points); "–" for None."""
    if value is None:
        return "–"
    mean, half = (None if part is None else round(100 * part, digits) + 0.0 for part in value)  # + 0.0: no "-0.00"
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def share(value: float | None) -> str:
    """A share of one as per cent with one decimal; "–" for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def number(value: Any) -> str:
    """A knob's value: numbers short, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def size(value: float | None) -> str:
    """Bytes for people, in powers of 1000."""
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def duration(seconds: float | None) -> str:
    """Seconds for people."""
    if seconds is None:
        return "–"
    if seconds < 99.5:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def times(ratio: float | None) -> str:
    """A ratio as "2.4x"; "–" for None."""
    return "–" if ratio is None else f"{ratio:.1f}x"


def listing(names: Sequence[str]) -> str:
    """Names as prose: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


# The page and the command line ------------------------------------------------------------------------------


def page(summary: Summary, figures: Mapping[str, report_plots.Drawing], versions: Mapping[str, str]) -> str:
    """The report as one HTML document that needs nothing beside it."""
    from flows import report_plots
    from flows.templates import template

    runs = [run for row in summary.rows for run in row.runs]
    machines = sorted({describe(run.cost["machine"]) for run in runs if run.cost})
    filters = (percent, share, number, size, duration, times, count)
    found: str = template("report.html", *filters).render(
        summary=summary,
        rows=summary.rows,
        runs=runs,
        seeds=sorted({run.seed for run in runs}),
        machines=machines,
        total_seconds=sum(run.cost["seconds"] for run in runs if run.cost),
        versions=dict(sorted(versions.items())),
        figures={name: figure.svg for name, figure in figures.items()},
        looks=report_plots.looks(summary.rows),
        colours=report_plots.COLOURS,
        headline=summary.headline.rstrip(".").split(". ", 1),
        scale=report_plots.accuracy_scale(summary.rows),
        marks=MARKS,
        measures={name: text for name, text in MEASURES.items() if any(row.measures[name] for row in summary.rows)},
    )
    return found


def describe(machine: Mapping[str, Any]) -> str:
    """One line on the machine a run was made on."""
    parts = [machine.get("processor"), f"{machine['cores']} cores" if "cores" in machine else None]
    parts += [machine.get("platform"), f"torch {machine['torch']}" if "torch" in machine else None]
    return ", ".join(str(part) for part in [*parts, machine.get("device")] if part)


def where_to_look_next(where: Tracking) -> str:
    """The report, and the commands that open MLflow and Prefect, as a person would paste them here."""
    from flows import tracking  # which imports MLflow only when it sends something

    served = (where.uri or "").startswith("http")
    comparison = tracking.comparison_url(where.target if served else "http://127.0.0.1:5000", where)
    mlflow = [comparison] if served else [tracking.ui_command(where), f"then {comparison}"]
    if api := os.environ.get("PREFECT_API_URL"):
        prefect = [without_password(api.rstrip("/").removesuffix("/api"))]
    else:
        home = os.environ.get("PREFECT_HOME")
        settings = ["DO_NOT_TRACK=true", "PREFECT_SERVER_ANALYTICS_ENABLED=false"]
        settings += [f"PREFECT_HOME={shlex.quote(os.path.abspath(home))}"] if home else []
        python = shlex.quote(tracking.here(Path(sys.executable)))
        prefect = [" ".join([*settings, python, "-m prefect server start"])]
        prefect += ["then http://127.0.0.1:4200"]
    blocks = {"report": [str(where.out / "report" / "index.html")], "MLflow": mlflow, "Prefect": prefect}
    lines = [f"  {name if i == 0 else '':8} {line}" for name, block in blocks.items() for i, line in enumerate(block)]
    return "\n".join(["Where to look next", *lines])


def show(where: Tracking) -> str:
    """The leaderboard last written and where to look next; UserError where no report was built yet."""
    table = where.out / "report" / "leaderboard.md"
    if not table.exists():
        raise UserError(f"no report under {table.parent}: run `python -m flows.report --out {where.out}` first.")
    return table.read_text(encoding="utf-8") + "\n" + where_to_look_next(where)


def under_way(params: Params, out: Path) -> list[str]:
    """The runs that were begun with these params and have no result of them yet, though one of an earlier run."""
    from cl.keys import run_folder
    from cl.pool import runs_of

    folders = {run.name: run_folder(params, run.method, run.seed, out) for run in runs_of(params)}
    begun = {name: folder for name, folder in folders.items() if (folder / "unit.json").exists()}
    return [name for name, folder in begun.items() if not (folder / "finished.json").exists()]


def report(params: Params, out: Path, prefect: Plain, failed: Collection[str] = ()) -> None:
    """Build the report of the params' methods and seeds, less what failed or is under way; the stage as a flow."""
    from flows import provenance

    def body() -> None:
        versions = provenance.tags(out) if (out / "prepared").exists() else {}
        summary = build(out, versions, params.methods, params.seeds, {*failed, *under_way(params, out)})
        prefect.table("leaderboard", summary.table(), f"{summary.benchmark}: average accuracy over the seeds")
        page = (summary.folder / "index.html").resolve()
        prefect.link("report", page.as_uri(), "the report, on the machine that made it")
        prefect.say(f"report: {summary.folder / 'index.html'}")
        provenance.point(params, out)

    prefect.flow("report", f"report {params.benchmark.name}", [params.benchmark.name], body)


def main(argv: Sequence[str] | None = None) -> int:
    """Build the report of the methods and seeds of the params file, or print the last one's leaderboard."""
    from cl import cli
    from flows.engine import engine
    from flows.follower import tracking_of
    from flows.stage import ends_with_dvc

    ends_with_dvc()
    parser = cli.parser("flows.report", main.__doc__)
    parser.add_argument("--show", action="store_true", help="print the last leaderboard and where to look next")
    given = parser.parse_args(argv)
    params = cli.params_of(given)
    if given.show:
        print(show(tracking_of(params, given.out)))
    else:
        from flows import provenance  # which takes a moment

        provenance.recordable(given.out)
        report(params, given.out, engine())
    return 0


if __name__ == "__main__":
    from cl import cli

    finish(cli.guarded(main))
