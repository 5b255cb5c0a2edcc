"""`python -m cl`: prepare, learn, compare - the whole comparison without any orchestrator or tracker."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from cl import cli
from cl.data.prepare import check_prepared, prepare
from cl.errors import UserError
from cl.files import read_object
from cl.live import shown
from cl.metrics import interval
from cl.params import Params
from cl.pool import RunId, check_out, explain, run_all, runs_of


def run(params: Params, out: Path) -> dict[str, str]:
    """Prepare the benchmark, learn every run and print the table; returns the failures."""
    from cl.register import checked

    check_out(out, params.benchmark)
    params = checked(params)
    prepare(params.benchmark, cli.RAW, out / "prepared", say=_say)
    check_prepared(params, out / "prepared")
    runs = runs_of(params)
    with shown(runs, _say) as hear:
        failures = run_all(params, out, runs, hear)
    print(table(params, out, failures))
    return failures


def table(params: Params, out: Path, failed: Collection[str] = ()) -> str:
    """The methods by average accuracy, mean and 95 % interval over the seeds, as text.

    A run that `failed`, as `ewc/seed-0`, has no result, whatever an earlier run left.
    """
    rows = []
    for method in params.methods:
        learned = [seed for seed in params.seeds if RunId(method, seed).name not in failed]
        paths = [out / "results" / method / f"seed-{seed}.json" for seed in learned]
        results = [averages(path) for path in paths if path.exists()]
        if results:
            mean, half = interval([accuracy for accuracy, _ in results])
            lost = [forgetting for _, forgetting in results if forgetting is not None]
            rows.append((mean, half, sum(lost) / len(lost) if lost else None, len(results), method))
    width = max(len(name) for name in ["method", *params.methods])
    lines = [f"{'method':<{width}} {'accuracy':>8} {'+-':>6} {'forgetting':>11} {'seeds':>6}"]
    for mean, half, forgotten, count, method in sorted(rows, reverse=True, key=lambda row: row[0]):
        spread = f"{half:6.1%}" if half is not None else f"{'':>6}"
        kept = f"{forgotten:11.1%}" if forgotten is not None else f"{'-':>11}"
        lines.append(f"{method:<{width}} {mean:8.1%} {spread} {kept} {count:>6}")
    return "\n".join(lines)


def averages(path: Path) -> tuple[float, float | None]:
    """Average accuracy and forgetting of a result file; raises `UserError` where that does not say them."""
    found = read_object(path)
    accuracy, forgetting = found.get("average_accuracy"), found.get("average_forgetting")
    if not isinstance(accuracy, float | int) or not isinstance(forgetting, float | int | None):
        raise UserError(f"{path}: damaged; run the same command again, which puts it right")
    return accuracy, forgetting


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """Compare methods on a benchmark by the survey's protocol, on this machine alone."""
    given = cli.parser("cl", main.__doc__).parse_args()
    failures = run(cli.params_of(given), given.out)
    if failures:
        raise UserError(f"{len(failures)} of the runs failed: {explain(failures)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
