"""What of each run is done, what would be learned, and why: `python -m cl.status`, which changes nothing.

A run's work folder holds `unit.json`, which names everything that decides its bytes except the data, and a checkpoint
per task, whose key names the data up to that task as well. These are compared with what the run would need now.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl import cli
from cl.called import program
from cl.children import RunId
from cl.data.features import features_current
from cl.data.places import draws, of_seed, pictures, place, prepare_all, prepared
from cl.data.prepare import is_current, read_manifest
from cl.keys import UPGRADES, chain, differences, earlier, learned, noted, parts_of, run_folder
from cl.params import Params
from cl.pool import runs_of
from cl.register import declares
from cl.work import RUN, finished

FEATURES = "features  would run, for what is new or changed; so the runs would learn anew what was learned from that"


@dataclass(frozen=True)
class Status:
    """How far a run is."""

    run: RunId
    learned: int
    """How many tasks have a checkpoint that a run would use now."""
    stages: int
    """How many tasks are learned in turn; one if all are learned at once."""
    why: str
    """Why something would be learned; empty if nothing would."""

    @property
    def would(self) -> str:
        """What a run would do."""
        if self.learned == self.stages:
            return "nothing"
        if self.stages == 1:
            return "learn all tasks"
        first = self.learned + 1
        return f"learn task {first}" if first == self.stages else f"learn tasks {first} to {self.stages}"


def status_of(params: Params, run: RunId, out: Path, tasks: Sequence[Mapping[str, Any]]) -> Status:
    """How far the run is on these prepared tasks (the manifest's entries), and why it is no further."""
    at_once = declares(run.method, "sees_all_tasks")
    parts = parts_of(params, run.method, run.seed)
    folder = run_folder(params, run.method, run.seed, out)
    keys = chain(parts, [task["digest"] for task in tasks], at_once)
    done = learned(folder, keys)
    if done == len(keys):
        return Status(run, done, len(keys), "")
    return Status(run, done, len(keys), _why(folder, parts, done, tasks, at_once))


def _why(folder: Path, parts: Mapping[str, Any], done: int, tasks: Sequence[Mapping[str, Any]], at_once: bool) -> str:
    known = finished(folder)
    if known is not None:
        before = known.tasks
        now = [task["digest"] for task in tasks]
        changed = [tasks[i]["name"] for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b]
        if changed and (at_once or done < len(before)):
            return f"the data of {changed[0]} changed" + (
                f", and of {len(changed) - 1} more" if len(changed) > 1 else ""
            )
        new = [task["name"] for task in tasks[len(before) :]]
        return f"new: {', '.join(new)}" if new else f"the checkpoint of task {done + 1} is missing or damaged"
    if (folder / RUN).exists():
        return "interrupted, continues" if done or (folder / "studies.log").exists() else "begun, nothing finished"
    told = [differences(theirs, parts) for other in earlier(folder) if (theirs := noted(other))]
    told.sort(key=len)  # the nearest first
    return "; ".join(told[0]) if told else "never run"


def table(states: Sequence[Status]) -> str:
    """One line a run: what a run would do, and why."""
    width = max(len(s.run.name) for s in states)
    would = max(len(s.would) for s in states)
    lines = [f"{s.run.name:<{width}}  {s.would:<{would}}  {s.why}".rstrip() for s in states]
    work = sum(s.learned < s.stages for s in states)
    return "\n".join([*lines, "", f"{work} of {len(states)} runs have something to learn"])


def hint(states: Sequence[Status], given: argparse.Namespace) -> str:
    """What to do with that."""
    if all(state.learned == state.stages for state in states):
        return f"the leaderboard: {program('flows.report')} with the same options and --show"
    said = f"to learn that: {program('flows.compare')} with the same options"
    page = given.out / "report" / "index.html"
    if all(reason.startswith(UPGRADES) for state in states if state.why for reason in state.why.split("; ")):
        said += "\nanother version has learned that already; to go on from it, add"
        said += " --set execution.after_upgrade=continue"
    elif page.exists() and not any(state.learned for state in states):
        said += f"\nother options learned what is under {given.out}: {page} has their command"
    return said


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    return cli.parser("cl.status", main.__doc__)


def main() -> int:
    """Show what a run would learn, and why, without learning anything."""
    given = parser().parse_args()
    params = cli.params_of(given)
    own = draws(params)
    with tempfile.TemporaryDirectory() as folder:
        there = [(prepared(params, given.out, seed) / "manifest.json").exists() for seed in own]
        folders = {seed: prepared(params, given.out, seed) for seed in own}
        if not all(is_prepared(params, given.out, seed) for seed in own):
            prepare_all(params, cli.RAW, Path(folder), lambda line: None)
            folders = {seed: prepared(params, Path(folder), seed) for seed in own}
            print("prepare   would run" + (": the benchmark's options or data changed" if all(there) else ""))
            if params.model.on_features:
                print(FEATURES)
        elif params.model.on_features:
            if features_current(params, given.out):
                folders = {seed: place(params, given.out, seed) for seed in own}
            else:
                print(FEATURES)
        tasks = {seed: read_manifest(place)["tasks"] for seed, place in folders.items()}
        by_method = sorted(runs_of(params), key=lambda run: list(params.methods).index(run.method))
        of_run = {run: tasks[run.seed] if params.benchmark.drawn else tasks[own[0]] for run in by_method}
        states = [status_of(params, run, given.out, of_run[run]) for run in by_method]
        print(table(states))
        print(hint(states, given))
    return 0


def is_prepared(params: Params, out: Path, seed: int) -> bool:
    """Whether what is prepared for this seed is of the params, and of the data as they are now."""
    folder = prepared(params, out, seed)
    return (folder / "manifest.json").exists() and is_current(pictures(of_seed(params, seed)), cli.RAW, folder)


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
