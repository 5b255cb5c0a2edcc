"""A run in its work folder: it continues from whatever was learned, and ends in the same bytes.

It can be killed at any moment. Started again, it continues from the last finished task and trial.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from cl import checkpoint, results
from cl.checkpoint_files import DamagedCheckpoint, ForeignCheckpoint
from cl.data import Task
from cl.events import Say, warning
from cl.files import write_json
from cl.learner import Learner
from cl.machine import machine, peak_memory
from cl.protocol import Clock, Learned, Pool, Protocol
from cl.results import Head, Record, TaskCost, TaskResult, TrialResult
from cl.selection import Knobs, Outcome, StudyJournal
from cl.train import Snapshot
from cl.trials import Trials
from cl.work import FINISHED, cost_noted, finish, keep_cost

JOURNAL = "studies.log"


@dataclass(frozen=True)
class _Evaluated:
    """Test accuracy on the tasks so far."""

    row: list[float]
    other: list[float] | None
    zero_shot: dict[str, float]


class Run:
    """A learner with its folder: checkpoints, journal of trials, and results as far as they have come."""

    def __init__(
        self,
        learner: Learner,
        folder: Path,
        key: str,
        say: Say,
        pool: Pool | None = None,
        shared: Path | None = None,
    ) -> None:
        self.learner, self.folder, self.say = learner, folder, say
        self.params = learner.params
        self.trials = Trials(learner, folder, key, shared)
        self.protocol = Protocol(self.trials, StudyJournal(folder / JOURNAL, self._warn), say, pool)
        self.records: list[Record] = []
        self.costs: list[TaskCost | None] = []
        """Of each task learned; None where what was noted is lost."""
        self.peak_memory = 0

    def run(self) -> None:
        """Learn what is not learned yet; afterwards the folder holds what is published, and finished.json.

        If the cost of a task is lost, there is no cost.json: its sums would be too low.
        """
        learner = self.learner
        knobs = dict(learner.knobs)
        for index, experience in enumerate(learner.experiences):
            if not self._resumed(index):
                (self.folder / FINISHED).unlink(missing_ok=True)  # its results are soon those of the tasks so far
                if self.params.selection.reset_per_task:
                    knobs = dict(learner.knobs)
                self._learn(index, experience, knobs)
            knobs = self.records[-1]["next_knobs"]
        self._write_results()
        finish(self.folder, [task.digest for task in learner.sequence.tasks], len(learner.experiences))

    def _resumed(self, index: int) -> bool:
        """Whether this experience was learned before; the model is then as it was afterwards."""
        place = self.trials.place(index)
        if not place.exists():
            return False
        try:
            snapshot, record = checkpoint.load(place, self.trials.chain_key(index), self.learner.device)
        except ForeignCheckpoint:  # of these params, so of other data
            if not self.learner.method.sees_all_tasks:  # which is to be expected where a task has come
                self._warn(f"the data up to task {index + 1} changed since it was learned; learning it again")
            return False
        except DamagedCheckpoint as error:
            self._warn(f"{error}: refused; learning task {index + 1} again")
            return False
        self.trials.drop_candidates(index)  # a kill may have come between
        self.learner.resume(index, snapshot)
        self.records.append(record)  # type: ignore[arg-type]  # as it was written by `_learn`
        self.say({"event": "resumed", "index": index, "tasks": len(self.learner.experiences)})
        cost, peak = cost_noted(self.folder, index) or (None, 0)
        if cost is None:
            lost = self.folder / f"cost-{index:03d}.json"
            self._warn(f"{lost}: missing or damaged, so the cost of task {index + 1} is lost and there is no cost.json")
        self.costs.append(cost)
        self.peak_memory = max(peak, self.peak_memory)
        return True

    def _learn(self, index: int, experience: Task, knobs: Knobs) -> None:
        """Learn one experience, keep its checkpoint, and write the results so far."""
        learner, clock, started = self.learner, Clock(), time.process_time() + self.protocol.beside
        learner.open(experience)
        zero_shot = learner.zero_shot()
        learned = self.protocol.learn(index, knobs, clock)
        with clock.phase("evaluate"):
            evaluated = _Evaluated(learner.test(), learner.test_other(), zero_shot)
        record = self._record(experience, learned, evaluated)
        cost: TaskCost = {
            "task": experience.name,
            "seconds": clock.seconds,
            "process_seconds": time.process_time() + self.protocol.beside - started + self._borrowed(clock),
            "step_seconds": clock.step_seconds,
        }
        self.peak_memory = max(peak_memory(), self.peak_memory)
        keep_cost(self.folder, index, cost, self.peak_memory)  # first: a task that is learned has its cost
        snapshot = Snapshot.of(learner.method)
        checkpoint.save(self.trials.place(index), snapshot, record, self.trials.chain_key(index))
        self.records.append(record)
        self.costs.append(cost)
        self.trials.drop_candidates(index)
        self.say(
            {
                "event": "task",
                "index": index,
                "tasks": len(learner.experiences),
                "average_accuracy": self._write_results(),
                "decayed": learner.decaying(record["per_task"]["knobs"]),
                **record["per_task"],
            }
        )

    def _borrowed(self, clock: Clock) -> float:
        """Add to the clock what other runs have spent on trials of this one, and return the processor seconds of it."""
        if spent := self.trials.borrowed():
            clock.seconds["plasticity"] += sum(one.wall for one in spent)
        return sum(one.processor for one in spent)

    def _record(self, experience: Task, learned: Learned, evaluated: _Evaluated) -> Record:
        method, kept = self.learner.method, learned.kept
        task: TaskResult = {
            "task": experience.name,
            "learning_rate": kept.learning_rate,
            "plasticity_accuracy": learned.plasticity_accuracy,
            "threshold": learned.threshold,
            "knobs": kept.knobs,
            "attempts": learned.attempts,
            "validation_accuracy": learned.validation_accuracy,
            "steps": sum(trial.outcome.steps for trial in learned.trials),
            "state_bytes": checkpoint.state_bytes(method.state()),
            "network_bytes": checkpoint.state_bytes(dict(method.net.state_dict())),
            **evaluated.zero_shot,  # type: ignore[typeddict-item]
        }
        if remarks := self._remarks(learned):
            task["remarks"] = remarks
        return {
            "accuracy": evaluated.row,
            "other_accuracy": evaluated.other,
            "next_knobs": learned.next_knobs,
            "per_task": task,
            "trials": [
                {
                    "task": experience.name,
                    "task_index": experience.index,
                    "phase": trial.phase,
                    "trial": trial.trial,
                    "learning_rate": trial.learning_rate,
                    "knobs": trial.knobs,
                    "accuracy": trial.outcome.accuracy,
                    "threshold": trial.threshold,
                    **_present(trial.outcome),
                    "kept": trial is kept,
                    "epochs": trial.outcome.epochs,
                    "steps": trial.outcome.steps,
                }
                for trial in learned.trials
            ],
        }

    def _remarks(self, learned: Learned) -> list[str]:
        """What a reader has to know of how the task was learned: that its training diverged, or taught nothing."""
        kept, reached, chance = learned.kept.outcome, learned.validation_accuracy, self.learner.chance()
        if kept.diverged:
            unstable = kept.instability is not None and kept.instability >= 1
            remedy = "a lower strength" if unstable else "lower learning rates or less weight decay"
            return [f"the training that was kept diverged; it needs {remedy}"]
        if chance is None:
            return []
        if reached <= chance + math.sqrt(chance * (1 - chance) / len(self.learner.task.validation)):
            named = f"{100 * reached:.1f} % on validation data, and naming one class alone gives {100 * chance:.1f} %"
            return [f"nothing was learned: {named}"]
        return []

    def _write_results(self) -> float:
        """Write result.json, trials.json and cost.json so far; return the average accuracy."""
        learner, params = self.learner, self.params
        sequence = learner.sequence
        head: Head = {
            "schema": results.SCHEMA,
            "benchmark": sequence.benchmark,
            "method": learner.name,
            "seed": learner.seed,
        }
        names = [task.name for task in sequence.tasks]
        titles = params.scenario.title, params.selection.title
        drawn = params.benchmark.drawn
        result = results.result_of(head, names, self.records, *titles, sequence.reduced, learner.backbone, drawn)
        write_json(self.folder / "result.json", result)
        write_json(self.folder / "trials.json", results.trials_of(head, self.records))
        costs = [cost for cost in self.costs if cost is not None]
        if len(costs) < len(self.costs):
            (self.folder / "cost.json").unlink(missing_ok=True)
        else:
            peak = max(peak_memory(), self.peak_memory)
            reduced = learner.method.net.backbone.reduced
            write_json(self.folder / "cost.json", results.cost_of(head, costs, machine(learner.device), reduced, peak))
        return result["average_accuracy"]

    def _warn(self, message: str) -> None:
        self.say(warning(message))


def _present(outcome: Outcome) -> TrialResult:
    """What only some trials have."""
    values = {name: getattr(outcome, name) for name in ("stability", "instability")}
    present = {name: value for name, value in values.items() if value is not None}
    return present | ({"diverged": True} if outcome.diverged else {})  # type: ignore[return-value]
