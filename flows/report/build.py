"""The stage `report`: reads the results of the methods and seeds, and writes `<out>/report/`.

It reads `<out>/results/<method>/seed-<s>.json` (and `.trials.json`, `.cost.json` beside it, where there are any) and
writes `index.html`, `leaderboard.md`, `summary.json`, `accuracy.csv`, `dvc/*.json` and `plots/*.png`. The same results
give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from cl.called import program
from cl.chance import Chance, chance, counts_of
from cl.errors import UserError
from cl.files import sweep, write_whole
from cl.keys import run_folder
from cl.names import names_in
from cl.params import Params
from cl.pool import runs_of
from cl.reading import RunResult, read_runs, task_names
from flows.engine.plain import Engine
from flows.naming import stage_name
from flows.report.headline import headline
from flows.report.leaderboard import leaderboard, table
from flows.report.made import command, made_of
from flows.report.rows import Row, compare
from flows.report.summary import Summary, long_form
from flows.servers import link_to
from flows.tracking import origin
from flows.tracking.notes import source_tags
from flows.tracking.reported import send_report
from flows.tracking.settings import tracking_of


def report(params: Params, out: Path, engine: Engine, failed: Collection[str] = ()) -> Summary:
    """The stage: report the methods and seeds of the params, without the runs that failed or are not finished."""

    def body() -> Summary:
        versions = origin.tags(out, params) if (out / "prepared").exists() else {}
        without = {*failed, *under_way(params, out)}
        summary = build(out, versions, params.methods, params.seeds, without, params, engine.say)
        engine.table("leaderboard", table(summary), f"{summary.benchmark}: average accuracy over the seeds")
        page = summary.folder / "index.html"
        engine.link("report", link_to(page), "the report, on the machine that made it")
        engine.say(f"report: {page}")
        engine.outcome(summary.headline)
        tags = {**versions, **source_tags(command(out)), "benchmark": summary.benchmark}
        where = tracking_of(params, out)
        if params.tracking.enabled and send_report(where, summary.folder, summary.headline, tags):
            origin.point(params, out)
        return summary

    return engine.flow("report", stage_name(params, out), [params.benchmark.name, *origin.labels()], body)


def build(
    out: Path,
    versions: Mapping[str, str] | None = None,
    methods: Collection[str] | None = None,
    seeds: Collection[int] | None = None,
    failed: Collection[str] = (),
    params: Params | None = None,
    say: Callable[[str], None] = print,
) -> Summary:
    """Read the results under `out` (of these methods and seeds; None: all), write `<out>/report/`, and sum up.

    `versions` (name -> version or commit) is shown as given under "How it was run". Runs that have `failed` this time,
    as `ewc/seed-0`, count as missing, even if files of an earlier time are left. With `params` the page also says when
    and by which command it was made, and shows final models class by class, of which `say` tells. Raises UserError
    where there are no results, a file is damaged, results are not of one task sequence, or writing fails.
    """
    runs = read_runs(out, methods, seeds, failed)
    rows = compare(runs, seeds)
    folder = check_folder(out)
    sweep(folder, below=True)
    absent = tuple(name for name in methods or () if name not in {run.method for run in runs})
    summary = _summed_up(out, runs, rows, absent, params)

    from flows.report.classes import classes, drawn  # matplotlib takes a moment to import
    from flows.report.figures import draw
    from flows.report.page import page

    models = classes(params, out, summary, say) if params is not None else []
    figures = {**draw(summary), **drawn(models)}
    made = made_of(params, out, (run.path for run in runs), summary.crownable) if params is not None else None
    files = {f"plots/{name}.png": figure.png for name, figure in figures.items()}
    files["summary.json"] = to_json(summary.metrics())
    files |= {f"{FOR_DVC}/{name}.json": to_json(values) for name, values in summary.short_metrics().items()}
    files["accuracy.csv"] = long_form(runs).encode()
    files["leaderboard.md"] = leaderboard(summary).encode()
    files["index.html"] = page(summary, figures, versions or {}, made, models).encode()
    try:
        _write(folder, files)
    except OSError as error:
        raise UserError(
            f"cannot write the report into {folder}: {error.strerror or error}. The results are untouched: "
            f"free some space or make the folder writable, then run `{program('flows.report')}` again."
        ) from error
    return summary


def _summed_up(
    out: Path, runs: Sequence[RunResult], rows: tuple[Row, ...], absent: tuple[str, ...], params: Params | None
) -> Summary:
    first = runs[0]
    other = "task-aware" if "class-incremental" in first.scenario else "task-agnostic"
    of: Chance | None = None
    of_other: Chance | None = None
    so_far: tuple[float, ...] = ()
    if counts := counts_of_tasks(out, first):
        of, of_other = (chance(counts, first.scenario, other) for other in (False, True))
        so_far = tuple(chance(counts[:k], first.scenario).accuracy for k in range(1, len(counts) + 1))
    benchmark = first.benchmark_as_run
    if params is not None and params.benchmark.name == first.benchmark:  # a folder's own name
        benchmark = params.benchmark.called + benchmark.removeprefix(first.benchmark)
    told, folder = headline(rows, of), out / "report"
    return Summary(benchmark, task_names(runs), rows, told, folder, absent, other, of, of_other, so_far)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write these files, and remove figures and small files of methods that an earlier report had."""
    from flows.report.classes import CONFUSION
    from flows.report.figures import FIGURES

    for name, content in files.items():
        write_whole(folder / name, content)
    ours = {*FIGURES, *(f"{CONFUSION}{name}" for name in names_in("methods"))}
    earlier = [folder / "plots" / f"{name}.png" for name in ours]
    for file in (*earlier, *(folder / FOR_DVC).glob("*.json")):
        if file.relative_to(folder).as_posix() not in files:
            file.unlink(missing_ok=True)


def counts_of_tasks(out: Path, run: RunResult) -> list[list[int]] | None:
    """The test images of each class, by task; None where the data of these runs are not prepared there."""
    counts = counts_of(out / "prepared" / f"seed-{run.seed}" if run.drawn else out / "prepared")
    return list(counts.values()) if counts and tuple(counts) == run.tasks else None


def to_json(values: Mapping[str, object]) -> bytes:
    """As the report's files have it."""
    return (json.dumps(values, indent=2) + "\n").encode()


FOR_DVC = "dvc"
"""The folder with a small file for each method, which is a row of `dvc metrics show`."""
OWN = {
    "index.html": b": which method keeps what it learned</title>",
    "summary.json": b'"average_accuracy"',
    "accuracy.csv": b"method,seed,task,average_accuracy",
}
"""What each of these files contains where it is ours."""


def check_folder(out: Path) -> Path:
    """The report's folder; raises `UserError` where the report would replace a file that is not ours."""
    folder = out / "report"
    there = [folder / name for name in OWN if (folder / name).is_file()]
    if there and not any(OWN[path.name] in path.read_bytes() for path in there):
        raise UserError(f"{there[0]}: is no file of the report, and would be replaced; move it, or give another --out")
    return folder


def under_way(params: Params, out: Path) -> list[str]:
    """The runs that were begun with these params and are not finished; a result of such a run is of other params."""
    folders = {run.name: run_folder(params, run.method, run.seed, out) for run in runs_of(params)}
    begun = {name: folder for name, folder in folders.items() if (folder / "unit.json").exists()}
    return [name for name, folder in begun.items() if not (folder / "finished.json").exists()]
