"""Accuracy within the tasks, on demand: `python -m cl.anytime --methods er,finetune --every 10`.

Measures at the end of each task miss what happens in between: the first steps on a new task may cost accuracy on old
ones, which returns by the task's end (the stability gap; De Lange et al., Continual evaluation for lifelong learning,
ICLR 2023).
This command trains the kept trial of each task once more from the checkpoint before it, which gives the same model, and
measures test accuracy every so many steps. Nothing that was chosen or reported changes.

Writes `<out>/results/<method>/seed-<s>.anytime.json`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cl import checkpoint, cli
from cl.called import program
from cl.children import RunId
from cl.data import Split, Task
from cl.errors import UserError
from cl.evaluate import accuracy
from cl.files import from_json, write_json
from cl.keys import chain_key, run_folder, run_key
from cl.metrics import largest_change, worst_case_accuracy
from cl.params import Params
from cl.pool import runs_of
from cl.register import checked, declares
from cl.rng import generator
from cl.run import learner_of
from cl.work import DamagedFile, finished

SAMPLES = 1000
"""The most test samples of a task that are looked at: a fixed random choice."""
WINDOW = 10


@dataclass(frozen=True)
class Moment:
    """What was known after one step."""

    task: int
    """Index of the task being learned."""
    step: int
    """Since the first task began."""
    accuracy: list[float]
    """On each task up to this one."""


def trace(params: Params, run: RunId, out: Path, every: int) -> list[Moment]:
    """Train the kept trial of each task again, and measure every so many steps, counted from the start of each task.

    Raises `UserError` unless the run has been learned with these params, and for a task of fewer steps than that.
    """
    if every < 1:
        raise UserError(f"--every {every}: has to be 1 step or more")
    folder = run_folder(params, run.method, run.seed, out)
    done = finished(folder)
    try:
        trials = from_json(done.read(folder, "trials.json"))["trials"] if done is not None else None
    except DamagedFile as error:
        raise UserError(f"{error}; repair it first: {program('flows.compare')}, with the same options") from None
    if trials is None:
        raise UserError(
            f"{run.name}: not learned under {out} with these params; "
            f"run `{program('flows.compare')}` with the same options first"
        )
    learner = learner_of(params, run.method, run.seed, out)
    learner.sequence = replace(learner.sequence, tasks=tuple(map(_few, learner.sequence.tasks)))
    key = run_key(params, run.method, run.seed)
    moments: list[Moment] = []
    steps_before = 0
    for index, stage in enumerate(learner.experiences):
        if index > 0:
            place = folder / f"task-{index - 1:03d}"
            before = chain_key(key, [task.digest for task in learner.experiences[:index]])
            learner.resume(index - 1, checkpoint.load(place, before, learner.device)[0])
        learner.open(stage)
        kept = next(trial for trial in trials if trial["task_index"] == index and trial["kept"])
        plain = learner.method.selection == "consolidation-decay" and kept["phase"] != "learn"
        if plain:  # what was kept is the best model of the plasticity search, consolidated
            searched = [trial for trial in trials if trial["task_index"] == index and trial["phase"] == "plasticity"]
            kept = next(trial for trial in searched if trial["learning_rate"] == kept["learning_rate"])
        judged = learner.method.judged_by == "inference" or not learner.trains
        last = steps_before

        def look(step: int, index: int = index, start: int = steps_before, judged: bool = judged) -> None:
            nonlocal last
            last = start + step
            if step % every == 0:
                old = [accuracy(learner.method, task.test, inference=True) for task in learner.sequence.tasks[:index]]
                now = accuracy(learner.method, learner.sequence.tasks[index].test, inference=judged)
                moments.append(Moment(index, last, [*old, now]))

        values = kept["knobs"] or learner.knobs
        learner.train(kept["phase"], kept["trial"], kept["learning_rate"], values, plain=plain, watch=look)
        if last - steps_before < every:
            raise UserError(f"--every {every}: {stage.name} took {last - steps_before} steps; measure more often")
        steps_before = last
    return moments


def _few(task: Task) -> Task:
    """The task with at most `SAMPLES` test samples."""
    if len(task.test) <= SAMPLES:
        return task
    chosen = torch.randperm(len(task.test), generator=generator("anytime", task.name))[:SAMPLES]
    images, y = task.test.images[chosen], task.test.y.cpu()[chosen]
    return replace(task, test=Split(lambda: (images, y, task.index), task.test.normalise))


def summary(moments: list[Moment], tasks: int) -> dict[str, float]:
    """The measures of a trace; formulas in `cl.metrics` and in docs/metrics.md."""
    measures = {"anytime_average_accuracy": statistics.fmean(statistics.fmean(moment.accuracy) for moment in moments)}
    since = [[m.accuracy[i] for m in moments if m.task > i] for i in range(tasks - 1)]
    if tasks > 1:
        measures["minimum_accuracy"] = statistics.fmean(map(min, since))
        measures["windowed_forgetting"] = statistics.fmean(largest_change(values, WINDOW) for values in since)
        measures["windowed_plasticity"] = statistics.fmean(largest_change(values, WINDOW, 1) for values in since)
    measures["worst_case_accuracy"] = worst_case_accuracy(since, moments[-1].accuracy[-1])
    return measures


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = cli.parser("cl.anytime", main.__doc__)
    made.add_argument(
        "--every", type=int, default=10, metavar="STEPS", help="measure after every so many steps; default: 10"
    )
    return made


def main() -> int:
    """Train the kept trials of finished runs once more, and measure test accuracy every few steps."""
    given = parser().parse_args()
    if given.every < 1:
        raise UserError(f"--every {given.every}: has to be 1 step or more")
    params = checked(cli.params_of(given))
    columns = f"{'run':24} {'average':>8} {'worst case':>11} {'minimum':>8} {'largest fall':>13}"
    for number, run in enumerate(runs_of(params)):
        measures = traced(params, run, given.out, given.every)
        if number == 0:
            print(columns)
        if measures is None:
            print(f"{run.name:24} learns all tasks at once")
            continue
        values = [measures["anytime_average_accuracy"], measures["worst_case_accuracy"]]
        values += [measures.get("minimum_accuracy"), measures.get("windowed_forgetting")]
        shown = [f"{value:.1%}" if value is not None else "-" for value in values]
        print(f"{run.name:24} {shown[0]:>8} {shown[1]:>11} {shown[2]:>8} {shown[3]:>13}", flush=True)
    return 0


def traced(params: Params, run: RunId, out: Path, every: int) -> dict[str, Any] | None:
    """The run's trace and its measures, written beside its results; None where all tasks were learned at once."""
    if declares(run.method, "sees_all_tasks"):
        return None
    moments = trace(params, run, out, every)
    tasks = max(moment.task for moment in moments) + 1
    head = {"schema": 1, "benchmark": params.benchmark.name, "method": run.method, "seed": run.seed, "every": every}
    traced_run = {**head, **summary(moments, tasks), "trace": [vars(moment) for moment in moments]}
    write_json(out / "results" / run.method / f"seed-{run.seed}.anytime.json", traced_run)
    return traced_run


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
