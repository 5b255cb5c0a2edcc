"""The command: `python -m flows.report`. (`flows.report` says what is written.)"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cl import cli
from flows.deadline import finish
from flows.report.show import show
from flows.stage import ends_with_dvc
from flows.tracking.settings import tracking_of

# What takes a moment to import is imported where it is needed: `--show` has to answer at once.


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = cli.parser("flows.report", main.__doc__)
    made.add_argument("--show", action="store_true", help="print the last leaderboard and where to look next")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Build the report of the methods and seeds of the params file, or with --show print the last leaderboard."""
    ends_with_dvc()
    given = parser().parse_args(argv)
    params = cli.params_of(given)
    if given.show:
        print(show(tracking_of(params, given.out), params))
    else:
        from flows.engine.with_prefect import configured_engine
        from flows.report.build import report
        from flows.tracking.origin import recordable

        recordable(given.out)
        report(params, given.out, configured_engine())
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
