"""The whole comparison: prepare, learn everything in parallel, report. `python -m flows.benchmark`."""

from __future__ import annotations

import sys
from pathlib import Path

from cl import cli
from cl.errors import UserError
from cl.params import Params
from flows import provenance
from flows.engine import Plain, engine
from flows.follower import tracking_of
from flows.prepare import prepare
from flows.report import report, show
from flows.train import train


def benchmark(params: Params, out: Path, prefect: Plain) -> None:
    """Prepare, train and report; where units fail the others are reported all the same, then it raises `UserError`."""
    commit = provenance.git_commit() or "unversioned"
    tags = [params.benchmark.name, f"git:{commit[:12]}"]

    def body() -> None:
        prepare(params, out, prefect)
        failure: UserError | None = None
        try:
            train(params, out, prefect)
        except UserError as error:
            failure = error
        try:
            report(params, out, prefect)
            print(show(tracking_of(params, out)))
        except UserError:  # nothing to report is no news where the reason is known
            if failure is None:
                raise
        if failure is not None:
            raise failure

    run_name = f"{params.benchmark.name}: {len(params.methods)} methods, {len(params.seeds)} seeds"
    prefect.flow("benchmark", run_name, tags, body)


def main() -> int:
    """Compare methods on a benchmark by the survey's protocol: prepare, train, report."""
    given = cli.parser("flows.benchmark", main.__doc__).parse_args()
    params = cli.params_of(given)
    from cl.method import check_knobs  # imports torch, so after the cheap checks

    check_knobs(params.methods)
    benchmark(params, given.out, engine())
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
