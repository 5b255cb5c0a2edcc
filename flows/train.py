"""The stage `train`: learn the benchmark with methods and seeds, each a process of its own. `python -m flows.train`."""

from __future__ import annotations

import sys
from pathlib import Path

from cl import cli
from cl.data.prepare import read_manifest
from cl.errors import UserError
from cl.params import Params
from cl.pool import Children, Event, Progress, UnitOfWork, check_out, units_of, width
from cl.unit import unit_folder
from flows import provenance
from flows.engine import Plain, engine
from flows.follower import Follower


def train(params: Params, out: Path, prefect: Plain) -> None:
    """Learn every unit of the params on the prepared benchmark; what is learned already is not learned again.

    Raises `UserError`, when all others are through, saying which units failed and why.
    """
    check_out(out)
    read_manifest(out / "prepared")
    name = ", ".join(params.methods) if len(params.methods) <= 3 else f"{len(params.methods)} methods"
    tags = [params.benchmark.name, *params.methods]
    units = units_of(params)
    at_once, trial_workers = width(params, len(units))

    def body() -> None:
        _train(params, out, prefect, units, at_once, trial_workers)

    prefect.flow("train", f"train {params.benchmark.name}: {name}", tags, body, at_once)


def _train(
    params: Params, out: Path, prefect: Plain, units: list[UnitOfWork], at_once: int, trial_workers: int
) -> None:
    show = Progress(units, prefect.say)
    with Follower.of(params, out, provenance.tags(out)) as mlflow:

        def hear(unit: UnitOfWork, event: Event) -> None:
            show(unit, event)
            if event["event"] == "task":
                mlflow.look(unit_folder(params, unit.method, unit.seed, out))

        children = Children(params, out, hear)

        def learn(unit: UnitOfWork) -> None:
            reason = children.run(unit, trial_workers)
            if children.stopped:  # an interrupt: no unit's fault
                return
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
    failures = [str(error) for error in found if error is not None]
    if failures:
        raise UserError(f"{len(failures)} of {len(units)} units failed: {'; '.join(failures)}")


def main() -> int:
    """Learn the prepared benchmark with the methods and seeds of the params file."""
    given = cli.parser("flows.train", main.__doc__).parse_args()
    train(cli.params_of(given), given.out, engine())
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
