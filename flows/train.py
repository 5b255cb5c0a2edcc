"""The stage `train`: learn the benchmark with methods and seeds, each a process of its own. `python -m flows.train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cl import cli
from cl.data.prepare import check_prepared
from cl.errors import UserError
from cl.events import Event
from cl.keys import run_folder
from cl.live import shown
from cl.params import Params
from cl.pool import Children, Hear, RunId, check_out, runs_of, width
from flows import cluster, provenance
from flows.deadline import finish
from flows.engine import Plain, engine
from flows.follower import Follower
from flows.stage import ends_with_dvc


class RunsFailed(UserError):
    """Some runs have no result, and why; the others have."""

    def __init__(self, failures: dict[str, str], runs: int) -> None:
        super().__init__(f"{len(failures)} of {runs} runs failed: {'; '.join(failures.values())}")
        self.failures = failures


def train(params: Params, out: Path, prefect: Plain, tags: Mapping[str, str] | None = None) -> None:
    """Learn every run of the params on the prepared benchmark; what is learned already is not learned again.

    Raises `RunsFailed` when all others are through.
    """
    check_out(out)
    check_prepared(params, out / "prepared")
    name = ", ".join(params.methods) if len(params.methods) <= 3 else f"{len(params.methods)} methods"
    labels = [params.benchmark.name, *params.methods]
    runs = runs_of(params)
    at_once, trial_workers = width(params, len(runs))
    if params.execution.runner != "local":
        at_once, trial_workers = cluster.at_once(params.execution, len(runs)), 1

    def body() -> None:
        with (
            Follower.of(params, out, {**provenance.tags(out), **(tags or {})}) as mlflow,
            shown(runs, prefect.say, lines=prefect.url is not None) as show,
        ):
            _train(params, out, prefect, mlflow, show, runs, at_once, trial_workers)

    prefect.flow("train", f"train {params.benchmark.name}: {name}", labels, body)


def _train(
    params: Params,
    out: Path,
    prefect: Plain,
    mlflow: Follower,
    show: Hear,
    runs: list[RunId],
    at_once: int,
    trial_workers: int,
) -> None:
    def hear(run: RunId, event: Event) -> None:
        show(run, event)
        key = f"{run.method}-seed-{run.seed}".replace("_", "-")
        if event["event"] == "finished before":
            prefect.progress(key, 1.0, f"{run.name}: finished before")
        elif event["event"] == "task":
            done, tasks = event["index"] + 1, event["tasks"]
            prefect.progress(
                key, done / tasks, f"{run.name}: task {done}/{tasks}, {event['average_accuracy']:.1%} so far"
            )
            mlflow.look(run_folder(params, run.method, run.seed, out))

    children: Children | cluster.Runs
    if params.execution.runner == "local":
        children = Children(params, out, hear)
    else:
        children = cluster.Runs(params, out, hear, runs)

    def learn(run: RunId) -> None:
        reason = children.run(run, trial_workers)
        if children.stopped:  # no run's fault
            raise KeyboardInterrupt
        folder = run_folder(params, run.method, run.seed, out)
        mlflow.look(folder, finished=reason is None, failed=reason)
        if reason is not None:
            prefect.say(f"{run.name}: failed: {reason}")
            raise UserError(f"{run.name}: {reason}")

    try:
        found = prefect.each(runs, learn, at_once, lambda run: run.name)
    except BaseException:
        children.stop()
        raise
    finally:
        children.close()
    failures = {run.name: str(error) for run, error in zip(runs, found, strict=True) if error is not None}
    if failures:
        raise RunsFailed(failures, len(runs))


def main() -> int:
    """Learn the prepared benchmark with the methods and seeds of the params file."""
    ends_with_dvc()
    given = cli.parser("flows.train", main.__doc__).parse_args()
    provenance.recordable(given.out)
    train(cli.params_of(given), given.out, engine())
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
