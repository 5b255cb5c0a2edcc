"""The whole comparison: prepare the benchmark, train all runs in parallel, report. `python -m flows.compare`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from cl import cli
from cl.errors import UserError
from cl.limit import Limit, Unfinished, how_far
from cl.params import Params, read
from cl.register import checked
from flows.champion import crown_best
from flows.deadline import finish
from flows.engine.plain import Engine
from flows.engine.with_prefect import configured_engine
from flows.features import features
from flows.naming import named
from flows.prepare import prepare
from flows.report.build import check_folder, report
from flows.report.show import show
from flows.report.summary import Summary
from flows.servers import link_to
from flows.tracking.addresses import comparison_url, pages, where_to_compare
from flows.tracking.settings import tracking_of
from flows.train import RunsFailed, train


def stages(
    params: Params, out: Path, engine: Engine, tags: Mapping[str, str] | None = None, limit: Limit | None = None
) -> str:
    """Prepare, train and report; `tags` are added to the MLflow runs. Returns the report's headline.

    Where runs fail, or are stopped by the limit or by SIGTERM, the others are reported all the same; then `RunsFailed`,
    `Unfinished` or `Terminated` is raised. The limit is by default that of the params from now on.
    """
    limit = limit or Limit(params.execution.minutes)
    check_folder(out)
    prepare(params, out, engine)
    features(params, out, engine)
    failure: RunsFailed | Unfinished | cli.Terminated | None = None
    without: Collection[str] = ()
    headline = ""
    try:
        train(params, out, engine, tags, limit)
    except (RunsFailed, Unfinished) as error:
        failure, without = error, error.failures
    except cli.Terminated as end:
        far = how_far(params, out)
        failure, without = end, far.left
        engine.say(str(far))
    try:
        headline = tell(params, out, engine, report(params, out, engine, without))
        print(show(tracking_of(params, out), params))
    except UserError:  # there is nothing to report, and why is known
        if failure is None:
            raise
    if failure is not None:
        raise failure
    return headline


def tell(params: Params, out: Path, engine: Engine, summary: Summary) -> str:
    """Tell Prefect of the result in the log and the message of the whole comparison; returns the headline."""
    where = tracking_of(params, out)
    page, base = link_to(summary.folder / "index.html"), pages(where) if params.tracking.enabled else None
    table = (summary.folder / "leaderboard.md").read_text(encoding="utf-8")
    engine.note("\n".join([table, f"report: {page}", *([f"MLflow: {comparison_url(base, where)}"] if base else [])]))
    links = [f"[the report]({page})", *([where_to_compare(where)] if params.tracking.enabled else [])]
    body = table.replace(f"{summary.headline}\n\n", "", 1)  # the headline is the description
    engine.page("result", "\n".join([*(f"- {link}" for link in links), "", body]), summary.headline)
    engine.outcome(summary.headline)
    return summary.headline


def compare(params: Params, out: Path, engine: Engine, limit: Limit | None = None) -> str:
    """Run all stages and, where the params say so, register the best model.

    Returns the report's headline and, after it, what was decided of the model.
    """
    headline = stages(params, out, engine, limit=limit)
    whole = " ".join(filter(None, (headline, crown_best(params, out, engine))))
    engine.outcome(whole)
    return whole


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    return cli.parser("flows.compare", main.__doc__, trains=True)


def main() -> int:
    """Compare methods on a benchmark by the survey's protocol: prepare, train, report."""
    began = time.monotonic()
    given = parser().parse_args()
    params = cli.params_of(given)
    limit = Limit(params.execution.minutes, began)
    params = checked(params)
    engine = configured_engine()
    name, tags = named(params, read(given.params), given.out)
    engine.flow("compare", name, tags, lambda: compare(params, given.out, engine, limit))
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
