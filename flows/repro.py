"""`dvc repro`, with a word on how far it is: `python -m flows.repro`, which `make run` calls.

While DVC works it holds a lock, so a second one is told of it here before it starts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
from pathlib import Path

from cl import cli
from cl.called import program
from cl.data.features import features_current
from cl.data.places import draws, place
from cl.data.prepare import read_manifest
from cl.errors import UserError
from cl.params import Params
from cl.pool import runs_of
from cl.status import is_prepared, status_of
from flows import plan
from flows.deadline import finish
from flows.stage import started_at

TEMPORARY = Path(".dvc/tmp")
LOCKS = TEMPORARY / "rwlock"
"""What DVC's processes read and write: under `read` and `write`, by path, their numbers and commands."""
HELD = (
    "dvc: keeps a lock while this runs. `dvc status` and `dvc repro` answer that files are busy until it has ended; "
    "`dvc metrics show`, `dvc plots show` and `unforgetting report --show` work"
)


def holders() -> dict[int, str]:
    """The processes of DVC that are at work in this folder, with their commands."""
    try:
        locks = json.loads(LOCKS.read_text(encoding="utf-8") or "{}")
    except (FileNotFoundError, ValueError):  # none, or one that is being written; then DVC itself will tell
        return {}
    entries = [*locks.get("write", {}).values(), *itertools.chain(*locks.get("read", {}).values())]
    return {entry["pid"]: entry["cmd"] for entry in entries if started_at(entry["pid"]) is not None}


def work(params: Params, out: Path) -> dict[str, float]:
    """The stages that have something to do, each with how many runs it has to learn; counted from what is there."""
    ready = all(is_prepared(params, out, seed) for seed in draws(params))
    ready = ready and (not params.model.on_features or features_current(params, out))
    left = dict.fromkeys(params.methods, 0.0)
    tasks = {seed: read_manifest(place(params, out, seed))["tasks"] for seed in draws(params)} if ready else {}
    for run in runs_of(params):
        if not ready:
            left[run.method] += 1
            continue
        state = status_of(params, run, out, tasks[run.seed if params.benchmark.drawn else draws(params)[0]])
        left[run.method] += 1 - state.learned / state.stages
    first = {} if ready else {"prepare": 0.0, "features": 0.0}
    return {**first, **{f"train@{method}": share for method, share in left.items() if share}, "report": 0.0}


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    return argparse.ArgumentParser(prog=program("flows.repro"), description=main.__doc__)


def main() -> int:
    """Bring all stages of dvc.yaml up to date, and say how far that is."""
    parser().parse_args()
    if others := holders():
        named = ", ".join(f"{command} (process {pid})" for pid, command in others.items())
        raise UserError(
            f"{LOCKS}: DVC is at work in this folder already: {named}; wait until it has ended, or end it with Ctrl-C "
            "where it runs, and start again"
        )
    dvc = shutil.which("dvc")
    if dvc is None or not Path("dvc.yaml").exists():
        raise UserError("dvc.yaml: no DVC, or no such file here; run this in the checkout, by `make run`")
    path = TEMPORARY.resolve() / "plan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    params = cli.params_of(cli.parser("flows.repro", "").parse_args([]))
    plan.write(path, work(params, Path("out")))
    print(HELD, flush=True)
    os.environ[plan.PLAN] = str(path)
    os.execv(dvc, [dvc, "repro", "--keep-going"])


if __name__ == "__main__":
    finish(cli.guarded(main))
