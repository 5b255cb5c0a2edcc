"""Which code and data results came from, and where they are kept: git, DVC and MLflow point at each other.

    python -m flows.provenance [--out DIR]

prints, by method, the hashes under which DVC keeps what is in `<out>/results` and `<out>/checkpoints`, the git commit
that records them, and the MLflow runs that show them. The report stage gives those MLflow runs the hashes as tags.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from cl import cli
from cl.params import Params
from cl.reading import RunResult, read_runs
from flows.deadline import finish
from flows.tracking.addresses import pages, show_command, soon
from flows.tracking.experiment import run_showing, tagged
from flows.tracking.ledger import Ledger
from flows.tracking.notes import run_path
from flows.tracking.origin import LOCK, git, recorded, tags
from flows.tracking.settings import Tracking, tracking_of


def describe(params: Params, out: Path) -> str:
    """For each method, where its results come from and where they are kept, as lines of text."""
    where = tracking_of(params, out)
    served = where.target if (where.uri or "").startswith("http") else None  # without a password
    lines = ["here"]
    if (out / "prepared").exists():
        lines += [f"  {name:16} {value}" for name, value in sorted(tags(out, params).items())]
    hashes = recorded(out)
    runs = read_runs(out, params.methods, params.seeds)
    for method in sorted({run.method for run in runs}):
        lines.append(method)
        if method in hashes:
            lines += [f"  {name:16} {value}" for name, value in hashes[method].items()]
            lines.append(f"  {LOCK!s:16} {_commit_with(hashes[method]['dvc.results'])}")
        else:
            lines.append(f"  {LOCK!s:16} does not have these results")
        ids = _mlflow_runs(params, where, [run for run in runs if run.method == method], hashes.get(method, {}))
        experiment, base = Ledger(where).experiment(), pages(where) or soon(where)
        for seed, run in ids.items():
            address = f"{base}/{run_path(experiment, run)}" if experiment and run else "no run in this MLflow"
            lines.append(f"  {seed:16} {address}")
    if params.tracking.enabled and not served and where.database.exists() and pages(where) is None:
        lines += ["these pages of MLflow can be opened after:", f"  {show_command(where)}"]
    return "\n".join(lines)


def _mlflow_runs(
    params: Params, where: Tracking, runs: list[RunResult], hashes: dict[str, str]
) -> dict[str, str | None]:
    """By seed, the id of the MLflow run, on a server also of a run that somebody else has made."""
    if not params.tracking.enabled:
        return {}
    ids = {f"seed-{run.seed}": run_showing(where, run.path) for run in runs}
    if where.uri and hashes and None in ids.values():
        theirs = tagged(where, "dvc.results", hashes["dvc.results"])
        ids = {seed: own or theirs.get(f"{runs[0].method}/{seed}") for seed, own in ids.items()}
    return ids


def _commit_with(md5: str) -> str:
    """The first commit whose dvc.lock has this hash: of this branch or, where none has, of any branch or experiment."""
    try:
        for history in ("HEAD", "--all"):
            commits = git("log", history, "--reverse", "--format=%h %<(60,trunc)%s", f"-S{md5}", "--", str(LOCK))
            if commits:
                return f"of commit {commits.splitlines()[0].strip()}"
    except (OSError, subprocess.CalledProcessError):
        return "without git"
    return f"not committed yet: git add {LOCK} && git commit"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    return cli.parser("flows.provenance", main.__doc__)


def main() -> int:
    """Print where the results come from and where they are kept: git commits, DVC's hashes, MLflow runs."""
    given = parser().parse_args()
    print(describe(cli.params_of(given), given.out))
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
