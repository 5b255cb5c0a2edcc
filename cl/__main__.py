"""`python -m cl`: prepare, learn and compare, without orchestrator or tracker."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection
from pathlib import Path

from cl import cli
from cl.children import RunId
from cl.data.features import extract
from cl.data.places import check_all, draws, prepare_all, prepared
from cl.errors import UserError
from cl.limit import STOPPED, Limit, Unfinished, how_far
from cl.live import shown
from cl.metrics import average_accuracy, average_forgetting, interval
from cl.params import Params
from cl.pool import advice, check_out, explain, run_all, runs_of
from cl.reading import read_run
from cl.register import checked


def run(params: Params, out: Path, limit: Limit | None = None) -> dict[str, str]:
    """Prepare the benchmark, learn every run and print the table; returns the failures.

    Raises `Unfinished` where the limit, by default that of the params from now on, has stopped runs.
    """
    limit = limit or Limit(params.execution.minutes)
    check_out(out, params.benchmark)
    params = checked(params)
    prepare_all(params, cli.RAW, out, _say)
    check_all(params, out)
    if params.model.on_features:
        extract(params, out, _say)
    if said := advice(params, prepared(params, out, draws(params)[0])):
        _say(f"warning: {said}")
    runs = runs_of(params)
    try:
        with shown(runs, _say) as hear:
            failures = run_all(params, out, runs, hear, limit)
    except cli.Terminated:
        far = how_far(params, out)
        print(table(params, out, far.left), far, sep="\n", flush=True)
        raise
    if STOPPED in failures.values():
        failed = {name: reason for name, reason in failures.items() if reason != STOPPED}
        far = how_far(params, out, failed)
        print(table(params, out, [*failed, *far.left]), flush=True)
        raise Unfinished(limit, far, failed)
    print(table(params, out, failures), flush=True)
    return failures


def table(params: Params, out: Path, failed: Collection[str] = ()) -> str:
    """The methods by average accuracy, mean and 95 % interval over the seeds, as text.

    A run in `failed`, such as `ewc/seed-0`, has no result here, even if an earlier comparison left one.
    """
    rows = []
    for method in params.methods:
        learned = [seed for seed in params.seeds if RunId(method, seed).name not in failed]
        paths = {seed: out / "results" / method / f"seed-{seed}.json" for seed in learned}
        matrices = [read_run(path, method, seed).accuracy for seed, path in paths.items() if path.exists()]
        if matrices:
            mean, half = interval([average_accuracy(matrix) for matrix in matrices])
            lost = [value for matrix in matrices if (value := average_forgetting(matrix)) is not None]
            rows.append((mean, half, sum(lost) / len(lost) if lost else None, len(matrices), method))
    width = max(len(name) for name in ["method", *params.methods])
    lines = [f"{'method':<{width}} {'accuracy':>8} {'+-':>6} {'forgetting':>11} {'seeds':>6}"]
    for mean, half, forgotten, count, method in sorted(rows, reverse=True, key=lambda row: row[0]):
        spread = f"{half:6.1%}" if half is not None else f"{'':>6}"
        kept = f"{forgotten:11.1%}" if forgotten is not None else f"{'-':>11}"
        lines.append(f"{method:<{width}} {mean:8.1%} {spread} {kept} {count:>6}")
    return "\n".join(lines)


def _say(line: str) -> None:
    print(line, flush=True)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    return cli.parser("cl", main.__doc__, trains=True)


def main() -> int:
    """Compare methods on a benchmark by the survey's protocol, on this machine alone."""
    began = time.monotonic()
    given = parser().parse_args()
    params = cli.params_of(given)
    failures = run(params, given.out, Limit(params.execution.minutes, began))
    if failures:
        raise UserError(f"{len(failures)} of the runs failed: {explain(failures)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
