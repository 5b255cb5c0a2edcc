"""The stage `train`: learn the benchmark with methods and seeds, each a process of its own. `python -m flows.train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cl import cli
from cl.data.prepare import check_prepared
from cl.errors import UserError
from cl.keys import unit_folder
from cl.live import shown
from cl.params import Params
from cl.pool import Children, Event, Hear, UnitOfWork, check_out, units_of, width
from flows import cluster, provenance
from flows.deadline import finish
from flows.engine import Plain, engine
from flows.follower import Follower
from flows.stage import ends_with_dvc


class UnitsFailed(UserError):
    """Some units have no result, and why; the others have."""

    def __init__(self, failures: dict[str, str], units: int) -> None:
        super().__init__(f"{len(failures)} of {units} units failed: {'; '.join(failures.values())}")
        self.failures = failures


def train(params: Params, out: Path, prefect: Plain, tags: Mapping[str, str] | None = None) -> None:
    """Learn every unit of the params on the prepared benchmark; what is learned already is not learned again.

    Raises `UnitsFailed` when all others are through.
    """
    check_out(out)
    check_prepared(params, out / "prepared")
    name = ", ".join(params.methods) if len(params.methods) <= 3 else f"{len(params.methods)} methods"
    labels = [params.benchmark.name, *params.methods]
    units = units_of(params)
    at_once, trial_workers = width(params, len(units))
    if params.execution.runner != "local":
        at_once, trial_workers = cluster.at_once(params.execution, len(units)), 1

    def body() -> None:
        with (
            Follower.of(params, out, {**provenance.tags(out), **(tags or {})}) as mlflow,
            shown(units, prefect.say, lines=prefect.url is not None) as show,
        ):
            _train(params, out, prefect, mlflow, show, units, at_once, trial_workers)

    prefect.flow("train", f"train {params.benchmark.name}: {name}", labels, body)


def _train(
    params: Params,
    out: Path,
    prefect: Plain,
    mlflow: Follower,
    show: Hear,
    units: list[UnitOfWork],
    at_once: int,
    trial_workers: int,
) -> None:
    def hear(unit: UnitOfWork, event: Event) -> None:
        show(unit, event)
        key = f"{unit.method}-seed-{unit.seed}".replace("_", "-")
        if event["event"] == "finished before":
            prefect.progress(key, 1.0, f"{unit.name}: finished before")
        elif event["event"] == "task":
            done, tasks = event["index"] + 1, event["tasks"]
            prefect.progress(
                key, done / tasks, f"{unit.name}: task {done}/{tasks}, {event['average_accuracy']:.1%} so far"
            )
            mlflow.look(unit_folder(params, unit.method, unit.seed, out))

    children: Children | cluster.Units
    if params.execution.runner == "local":
        children = Children(params, out, hear)
    else:
        children = cluster.Units(params, out, hear, units)

    def learn(unit: UnitOfWork) -> None:
        reason = children.run(unit, trial_workers)
        if children.stopped:  # no unit's fault
            raise KeyboardInterrupt
        folder = unit_folder(params, unit.method, unit.seed, out)
        mlflow.look(folder, finished=reason is None, failed=reason)
        if reason is not None:
            prefect.say(f"{unit.name}: failed: {reason}")
            raise UserError(f"{unit.name}: {reason}")

    try:
        found = prefect.each(units, learn, at_once, lambda unit: unit.name)
    except BaseException:
        children.stop()
        raise
    finally:
        children.close()
    failures = {unit.name: str(error) for unit, error in zip(units, found, strict=True) if error is not None}
    if failures:
        raise UnitsFailed(failures, len(units))


def main() -> int:
    """Learn the prepared benchmark with the methods and seeds of the params file."""
    ends_with_dvc()
    given = cli.parser("flows.train", main.__doc__).parse_args()
    provenance.recordable(given.out)
    train(cli.params_of(given), given.out, engine())
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
