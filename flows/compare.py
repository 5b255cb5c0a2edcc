"""The whole comparison: prepare, learn everything in parallel, report. `python -m flows.compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cl import cli
from cl.errors import UserError
from cl.params import Params
from flows import provenance
from flows.champion import crown
from flows.deadline import finish
from flows.engine import Plain, engine
from flows.follower import tracking_of
from flows.prepare import prepare
from flows.report import check_folder, report, show
from flows.train import RunsFailed, train


def stages(params: Params, out: Path, prefect: Plain, tags: Mapping[str, str] | None = None) -> None:
    """Prepare, train (tracked with these tags too) and report.

    Where runs fail the others are reported all the same; then it raises `RunsFailed`.
    """
    check_folder(out)
    prepare(params, out, prefect)
    failure: RunsFailed | None = None
    try:
        train(params, out, prefect, tags)
    except RunsFailed as error:
        failure = error
    try:
        report(params, out, prefect, failure.failures if failure else ())
        print(show(tracking_of(params, out)))
    except UserError:  # nothing to report is no news where the reason is known
        if failure is None:
            raise
    if failure is not None:
        raise failure


def compare(params: Params, out: Path, prefect: Plain) -> None:
    """All stages and, where the params say so, the best model registered."""
    stages(params, out, prefect)
    if params.champion.register_best:
        prefect.retried("register the champion", lambda: crown(params, out, prefect))


def named(params: Params) -> tuple[str, list[str]]:
    """How a run of these params is shown: its name, and its tags."""
    commit = provenance.git_commit() or "unversioned"
    name = f"{params.title}: {len(params.methods)} methods, {len(params.seeds)} seeds"
    return name, [params.benchmark.name, f"git:{commit[:12]}"]


def main() -> int:
    """Compare methods on a benchmark by the survey's protocol: prepare, train, report."""
    given = cli.parser("flows.compare", main.__doc__).parse_args()
    params = cli.params_of(given)
    from cl.register import checked  # imports torch, so after the cheap checks

    params = checked(params)
    prefect = engine()
    prefect.flow("compare", *named(params), lambda: compare(params, given.out, prefect))
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
