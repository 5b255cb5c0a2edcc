"""The nightly comparison: learn everything anew, compare with the last good night, and say what got worse.

    python -m flows.nightly [--params FILE] [--set KEY=VALUE] [--methods A,B] [--seeds 0,1] [--out DIR] [--minutes N]

A night is a folder of its own, `<out>/nights/<time>/`, with results and report like any comparison, and also with
`night.json` and `morning.html`; `<out>/nights/latest.html` is the last one's page. MLflow has it in the experiment
`<benchmark> nightly`. The command ends with status 2 where something got worse beyond noise (`flows.nights.verdict`),
which fails the flow run in Prefect.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cl import cli
from cl.data.prepare import has_prepared, in_the_way
from cl.errors import UserError
from cl.files import sweep, write_json, write_whole
from cl.limit import Unfinished
from cl.locks import alone
from cl.metrics import average_accuracy, average_forgetting
from cl.params import Params, read
from cl.pool import runs_of
from cl.reading import RunResult, read_runs
from flows.champion import crown_best
from flows.compare import stages
from flows.deadline import finish
from flows.engine.plain import Engine
from flows.engine.with_prefect import configured_engine
from flows.naming import named
from flows.nights.history import Night, folders, last_good, nights, thin
from flows.nights.page import in_short, morning
from flows.nights.verdict import Verdict, compare_nights, peak_memory, seconds_per_step
from flows.report.made import command
from flows.servers import link_to
from flows.tracking import experiment, origin
from flows.tracking.notes import NOTE, source_tags
from flows.tracking.settings import NIGHTLY, tracking_of
from flows.train import RunsFailed


def night_of(now: datetime) -> str:
    """What a night is called: `night 2026-11-28 02:00`."""
    return f"night {now:%Y-%m-%d %H:%M}"


class Regression(UserError):
    """Something got worse beyond noise."""


def nightly(params: Params, home: Path, engine: Engine, now: datetime) -> Verdict:
    """Run a night and judge it. Raises `Regression`, and `RunsFailed`, after the page is written."""
    out = home / "nights" / now.strftime("%Y-%m-%dT%H-%M-%S")
    with _alone(home):
        before = folders(home)
        out.mkdir(parents=True)
        for room in ("prepared", "features"):  # where the data have changed since, they are prepared anew
            usable = [place for place in (folder / room for folder in before) if _usable(place)]
            if usable:
                usable[-1].rename(out / room)
        params = _with_nights_tracking(params, home)
        failure: RunsFailed | None = None
        try:
            stages(params, out, engine, {"night": out.name})
        except RunsFailed as error:
            failure = error
        except Unfinished as error:  # another night begins anew, so this one has ended without these runs
            failure = RunsFailed(error.failures, len(runs_of(params)))
        verdict = _judge(params, home, out, failure, engine)
        thin(home)
    if failure is not None:
        raise failure
    if verdict.worse:
        raise Regression(verdict.headline)
    crown_best(params, out, engine)
    return verdict


def _usable(folder: Path) -> bool:
    """Whether prepared data, or features, are there and nothing else."""
    return has_prepared(folder) and not in_the_way(folder)


def _with_nights_tracking(params: Params, home: Path) -> Params:
    """The params with all nights tracked together, in an experiment of their own."""
    given, usual = params.tracking, tracking_of(params, home)
    changed = {"experiment": f"{usual.experiment}{NIGHTLY}", "folder": given.folder or str(usual.folder)}
    return params.model_copy(update={"tracking": given.model_copy(update=changed)})


def _judge(params: Params, home: Path, out: Path, failure: RunsFailed | None, engine: Engine) -> Verdict:
    """Compare the night with the last good one, and write down, show and track what comes of it."""
    runs = read_runs(out) if any(out.glob("results/*/seed-*.json")) else []
    sequence: dict[str, Any] = {"benchmark": params.benchmark.name, "tasks": [], "reduced": {}, "setting": ""}
    if runs:
        sequence |= {"tasks": list(runs[0].tasks), "reduced": runs[0].reduced, "setting": runs[0].setting}
    earlier = nights(home, engine.say)
    before, old_runs = last_good(earlier, sequence, params, engine.say) or (None, [])
    verdict = compare_nights(runs, old_runs, failure.failures if failure else {})
    record: dict[str, Any] = {
        "schema": 1,
        "night": out.name,
        "good": verdict.good and bool(runs),
        "headline": verdict.headline,
        "compared_with": before.name if before else None,
        "sequence": sequence,
        "from": origin.tags(out, params),
        "params": params.model_dump(mode="json", exclude={"tracking", "champion", "execution", "report"}),
        "failures": verdict.failures,
        "changes": [{**vars(change), "said": change.said} for change in verdict.changes],
        "methods": {method: _means(runs, method) for method in sorted({run.method for run in runs})},
    }
    write_json(out / "night.json", record)
    page = morning(record, [*earlier, Night(out, record)], before)
    write_whole(out / "morning.html", page.encode())
    latest = page.replace('href="report/', f'href="{out.name}/report/')
    write_whole(home / "nights" / "latest.html", latest.encode())
    text = in_short(record, before.record if before else None, link_to(out / "morning.html"))
    engine.page("morning", text, verdict.headline[:200])
    engine.link("morning-page", link_to(home / "nights" / "latest.html"), "the page of the last night")
    engine.outcome(verdict.headline)
    engine.say(f"night {out.name}: {verdict.headline}")
    engine.say(f"the morning's page: {out / 'morning.html'}")
    if params.tracking.enabled:
        _track(params, out, engine, record, {"morning.html": page, "morning.md": text})
    return verdict


def _track(params: Params, out: Path, engine: Engine, record: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    """Make an MLflow run of the whole night; where MLflow refuses, one line says so, and the verdict stands."""
    means = record["methods"].items()
    values = {f"{name}/{method}": value for method, own in means for name, value in own.items()}
    tags = {"headline": record["headline"], "good": str(record["good"]).lower(), **record["from"]}
    tags |= {**source_tags(command(out)), NOTE: texts["morning.md"]}
    where, name = tracking_of(params, out), f"night {out.name}"
    try:
        engine.retried("track the night", lambda: experiment.record(where, name, values, tags, texts))
    except UserError as error:
        engine.say(f"warning: the night is not in MLflow: {error}")


def _means(runs: Sequence[RunResult], method: str) -> dict[str, float]:
    """By measure, the mean over the seeds of the method."""
    own = [run for run in runs if run.method == method]
    measures: dict[str, list[float | None]] = {
        "accuracy": [average_accuracy(run.accuracy) for run in own],
        "forgetting": [average_forgetting(run.accuracy) for run in own],
        "seconds_per_step": [seconds_per_step(run) for run in own],
        "peak_memory_bytes": [peak_memory(run) for run in own],
    }
    known = {name: [value for value in values if value is not None] for name, values in measures.items()}
    return {name: sum(values) / len(values) for name, values in known.items() if values}


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold the lock of the nights: two at once would slow each other down, and spoil the times of both."""
    folder = home / "nights"

    def busy() -> None:
        raise UserError(f"{folder}: another night is running, so this one does not start; try again when it is done")

    with alone(folder / ".lock", busy):
        sweep(folder)
        yield


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    return cli.parser("flows.nightly", main.__doc__, trains=True)


def main() -> int:
    """Learn everything anew, compare with the last good night, and say what got worse."""
    given = parser().parse_args()
    params = cli.params_of(given)
    engine = configured_engine()
    now = datetime.now(UTC)
    name, tags = named(params, read(given.params), given.out)
    name = f"{night_of(now)}: {name}"
    engine.flow("nightly", name, [*tags, "nightly"], lambda: nightly(params, given.out, engine, now))
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
