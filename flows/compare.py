"""The whole comparison: prepare the benchmark, train all runs in parallel, report. `python -m flows.compare`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from cl import cli
from cl.errors import UserError
from cl.limit import Limit, Unfinished, how_far
from cl.params import Params
from flows.champion import crown_best
from flows.deadline import finish
from flows.engine.plain import Engine
from flows.engine.with_prefect import configured_engine
from flows.features import features
from flows.prepare import prepare
from flows.report.build import check_folder, report
from flows.report.show import show
from flows.tracking import origin
from flows.tracking.settings import tracking_of
from flows.train import RunsFailed, train


def stages(
    params: Params, out: Path, engine: Engine, tags: Mapping[str, str] | None = None, limit: Limit | None = None
) -> None:
    """Prepare, train and report; `tags` are added to the MLflow runs.

    Where runs fail, or are stopped by the limit or by SIGTERM, the others are reported all the same; then `RunsFailed`,
    `Unfinished` or `Terminated` is raised. The limit is by default that of the params from now on.
    """
    limit = limit or Limit(params.execution.minutes)
    check_folder(out)
    prepare(params, out, engine)
    features(params, out, engine)
    failure: RunsFailed | Unfinished | cli.Terminated | None = None
    without: Collection[str] = ()
    try:
        train(params, out, engine, tags, limit)
    except (RunsFailed, Unfinished) as error:
        failure, without = error, error.failures
    except cli.Terminated as end:
        far = how_far(params, out)
        failure, without = end, far.left
        engine.say(str(far))
    try:
        report(params, out, engine, without)
        print(show(tracking_of(params, out)))
    except UserError:  # there is nothing to report, and why is known
        if failure is None:
            raise
    if failure is not None:
        raise failure


def compare(params: Params, out: Path, engine: Engine, limit: Limit | None = None) -> str:
    """Run all stages and, where the params say so, register the best model; returns what was decided of it."""
    stages(params, out, engine, limit=limit)
    return crown_best(params, out, engine)


def named(params: Params) -> tuple[str, list[str]]:
    """The name and the tags under which Prefect shows a comparison of these params."""
    commit = origin.git_commit() or "unversioned"
    name = f"{params.title}: {len(params.methods)} methods, {len(params.seeds)} seeds"
    return name, [params.benchmark.name, f"git:{commit[:12]}"]


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    return cli.parser("flows.compare", main.__doc__, trains=True)


def main() -> int:
    """Compare methods on a benchmark by the survey's protocol: prepare, train, report."""
    began = time.monotonic()
    given = parser().parse_args()
    params = cli.params_of(given)
    limit = Limit(params.execution.minutes, began)
    from cl.register import checked  # imports torch, so after the cheap checks

    params = checked(params)
    engine = configured_engine()
    engine.flow("compare", *named(params), lambda: compare(params, given.out, engine, limit))
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
