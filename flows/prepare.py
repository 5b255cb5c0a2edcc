"""The stage `prepare`: raw data become one array per task and split. `python -m flows.prepare`."""

from __future__ import annotations

from pathlib import Path

from cl import cli
from cl.data.prepare import prepare as prepare_data
from cl.params import Params
from cl.pool import check_out
from flows import provenance
from flows.deadline import finish
from flows.engine import Plain, engine
from flows.stage import ends_with_dvc


def prepare(params: Params, out: Path, prefect: Plain) -> None:
    """Prepare the benchmark under `<out>/prepared`, unless it is there already."""
    check_out(out, params.benchmark)
    prefect.flow(
        "prepare",
        f"prepare {params.benchmark.name}",
        [params.benchmark.name],
        lambda: prepare_data(params.benchmark, cli.RAW, out / "prepared", say=prefect.say),
    )


def main() -> int:
    """Prepare the benchmark of the params file."""
    ends_with_dvc()
    given = cli.parser("flows.prepare", main.__doc__).parse_args()
    provenance.recordable(given.out)
    prepare(cli.params_of(given), given.out, engine())
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
