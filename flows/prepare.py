"""The stage `prepare`: turn the raw data into one array for each task and split. `python -m flows.prepare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from cl import cli
from cl.data.places import prepare_all
from cl.params import Params
from cl.pool import check_out
from flows.deadline import finish
from flows.engine.plain import Engine
from flows.engine.with_prefect import configured_engine
from flows.naming import stage_name
from flows.stage import ends_with_dvc
from flows.tracking import origin


def prepare(params: Params, out: Path, engine: Engine) -> None:
    """Prepare the benchmark, or that of each seed, under `<out>/prepared`, unless it is there already."""
    check_out(out, params.benchmark)
    engine.flow(
        "prepare",
        stage_name(params, out),
        [params.benchmark.name, *origin.labels()],
        lambda: prepare_all(params, cli.RAW, out, engine.say),
    )


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    return cli.parser("flows.prepare", main.__doc__)


def main() -> int:
    """Turn the raw data of the params file's benchmark into one array for each task and split."""
    ends_with_dvc()
    given = parser().parse_args()
    origin.recordable(given.out)
    prepare(cli.params_of(given), given.out, configured_engine())
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
