"""The stage `train`: learn the benchmark with each method and seed, every run in a process of its own.

python -m flows.train
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

from cl import cli
from cl.children import Children, Hear, RunId
from cl.data.features import check_features
from cl.data.places import check_all, draws, prepared
from cl.errors import Stopped, UserError, count
from cl.events import Event
from cl.keys import run_folder
from cl.limit import STOPPED, Limit, Unfinished, how_far
from cl.live import shown
from cl.params import Params
from cl.pool import advice, check_out, runs_of, width
from flows import cluster
from flows.boards import Boards
from flows.deadline import finish
from flows.engine.plain import Engine
from flows.engine.with_prefect import configured_engine
from flows.naming import stage_name
from flows.report.made import command
from flows.stage import ends_with_dvc
from flows.tracking import origin
from flows.tracking.follower import Follower
from flows.tracking.notes import source_tags


class RunsFailed(UserError):
    """Some runs failed: `failures` says why, by run. The other runs have a result."""

    def __init__(self, failures: dict[str, str], runs: int) -> None:
        super().__init__(f"{len(failures)} of {runs} runs failed: {'; '.join(failures.values())}")
        self.failures = failures


def train(
    params: Params, out: Path, engine: Engine, tags: Mapping[str, str] | None = None, limit: Limit | None = None
) -> None:
    """Train every run of the params on the prepared benchmark; what is learned already is not learned again.

    Raises `RunsFailed` where runs failed, once all others are done; `Unfinished` where the limit, by default that of
    the params from now on, has stopped runs.
    """
    limit = limit or Limit(params.execution.minutes)
    check_out(out)
    check_all(params, out)
    check_features(params, out)
    name = ", ".join(params.methods) if len(params.methods) <= 3 else f"{len(params.methods)} methods"
    labels = [params.benchmark.name, *params.methods, *origin.labels()]
    runs = runs_of(params)
    at_once, trial_workers = width(params, len(runs))
    if params.execution.runner != "local":
        at_once, trial_workers = cluster.at_once(params.execution, len(runs)), 1

    def body() -> None:
        if said := advice(params, prepared(params, out, draws(params)[0])):
            engine.say(f"warning: {said}")
        boards = Boards(params, out, runs, engine)
        noted = {**origin.tags(out, params), **source_tags(command(out)), **(tags or {})}
        try:
            with (
                Follower.of(params, out, noted, engine.page_of_flow_run(), boards.in_mlflow) as mlflow,
                shown(runs, engine.say, lines=engine.url is not None) as show,
            ):
                _train(params, out, engine, (mlflow, boards, show), runs, (at_once, trial_workers), limit)
        finally:
            boards.close()
        engine.outcome(f"{count(len(runs), 'run')} finished")

    engine.flow("train", stage_name(params, out, name), labels, body)


def _train(
    params: Params,
    out: Path,
    engine: Engine,
    listeners: tuple[Follower, Boards, Hear],
    runs: list[RunId],
    width: tuple[int, int],
    limit: Limit,
) -> None:
    mlflow, boards, show = listeners
    folders = {run: run_folder(params, run.method, run.seed, out) for run in runs}

    def hear(run: RunId, event: Event) -> None:
        show(run, event)
        boards.hear(run, event)
        if event["event"] == "task":
            mlflow.look(folders[run])

    at_once, trial_workers = width
    children: Children | cluster.Runs
    if params.execution.runner == "local" or limit.over:  # then nothing is trained, and no cluster is needed
        children = Children(params, out, hear)
    else:
        children = cluster.Runs(params, out, hear, runs)

    def learn(run: RunId) -> None:
        boards.begin(run)
        reason = children.run(run, trial_workers)
        if reason == STOPPED:  # no run's fault
            if not limit.over:
                raise KeyboardInterrupt
            raise Stopped(f"{run.name}: stopped at the limit; the same command goes on from here")
        mlflow.look(folders[run], finished=reason is None, failed=reason)
        if reason is not None:
            engine.say(f"{run.name}: failed: {reason}")
            raise UserError(f"{run.name}: {reason}")

    try:
        with limit.ends(children.stop):
            of = params.benchmark.name
            outcomes = engine.each(runs, learn, at_once, lambda run: run.name, lambda run: [of, run.method])
    except BaseException:
        children.stop()
        raise
    finally:
        children.close()
    ended = {run.name: error for run, error in zip(runs, outcomes, strict=True) if error is not None}
    failures = {name: str(error) for name, error in ended.items() if not isinstance(error, Stopped)}
    if len(failures) < len(ended):
        raise Unfinished(limit, how_far(params, out, failures), failures)
    if failures:
        raise RunsFailed(failures, len(runs))


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    return cli.parser("flows.train", main.__doc__, trains=True)


def main() -> int:
    """Train the methods and seeds of the params file on the prepared benchmark."""
    began = time.monotonic()
    ends_with_dvc()
    given = parser().parse_args()
    origin.recordable(given.out)
    params = cli.params_of(given)
    train(params, given.out, configured_engine(), limit=Limit(params.execution.minutes, began))
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
