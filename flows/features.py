"""The stage `features`: a frozen backbone turns every prepared picture into a vector. `python -m flows.features`.

Unless methods learn from features (`model.name: features`, frozen), there is nothing to do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cl import cli
from cl.data.features import extract, leave_out
from cl.params import Params
from cl.pool import check_out
from flows.deadline import finish
from flows.engine.plain import Engine
from flows.engine.with_prefect import configured_engine
from flows.naming import stage_name
from flows.stage import ends_with_dvc
from flows.tracking import origin


def features(params: Params, out: Path, engine: Engine) -> None:
    """Make the features of the prepared pictures in `<out>/features`, unless they exist or are not needed."""
    if not params.model.on_features:
        return
    check_out(out)
    engine.flow(
        "features",
        stage_name(params, out, params.model.backbone),
        [params.benchmark.name, params.model.backbone, *origin.labels()],
        lambda: extract(params, out, say=engine.say),
    )


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    return cli.parser("flows.features", main.__doc__)


def main() -> int:
    """Make the features of the prepared pictures, if the params file names a frozen pretrained backbone."""
    ends_with_dvc()
    given = parser().parse_args()
    params = cli.params_of(given)
    if not params.model.on_features:
        leave_out(given.out)
        return 0
    origin.recordable(given.out)
    features(params, given.out, configured_engine())
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
