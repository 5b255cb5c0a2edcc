"""Learn a whole sequence of tasks with one method and one seed: per task select, train, evaluate, checkpoint.

This is a run. It can be killed at any moment; started again it goes on from the last finished task and the
last finished trial, and ends in the same bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cl import checkpoint
from cl.data import Sequence, Task, joined
from cl.data.prepare import one_label_space
from cl.errors import UserError
from cl.files import DamagedCheckpoint, ForeignCheckpoint, remove_checkpoint, write_json
from cl.keys import chain_key
from cl.machine import machine, peak_memory
from cl.method import Method, accuracy, add_task, cannot, make, unbounded
from cl.methods.finetune import Finetune
from cl.metrics import average_accuracy, average_forgetting
from cl.nets import build, load_weights
from cl.nets.precision import is_reduced
from cl.params import Params, Training, bytes_of
from cl.rng import generator
from cl.selection import (
    Front,
    Knobs,
    Ledger,
    Outcome,
    Study,
    Trial,
    best_learning_rate,
    decay_until_accepted,
    most_stable,
)
from cl.train import Fit, Snapshot, fit
from cl.work import FINISHED, cost_of, finish, keep_cost

Say = Callable[[dict[str, Any]], None]
Pool = Callable[..., "Future[Outcome]"]
"""Starts a trial elsewhere: (stage, name of the method of `Run` that runs it, its arguments)."""
JOURNAL = "studies.log"


@dataclass
class Clock:
    """Seconds by phase, and those spent in training steps."""

    seconds: dict[str, float] = field(default_factory=dict)
    step_seconds: float = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add what the body takes to this phase."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


@dataclass(frozen=True)
class Learned:
    """How a task was learned."""

    trials: list[Trial]
    kept: Trial
    validation_accuracy: float
    """Of the kept model after consolidation, by the method's inference."""
    plasticity_accuracy: float | None
    threshold: float | None
    attempts: int
    next_knobs: Knobs


@dataclass(frozen=True)
class Job:
    """A trial of which several may run at once: the method of `Run` that runs it, with its arguments."""

    number: int
    point: Mapping[str, Any]
    work: str
    arguments: tuple[Any, ...]
    shown: Knobs
    space: Mapping[str, Any] | None = None
    notes: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Searched:
    """What the plasticity search of a stage has found, from which the attempts set out."""

    index: int
    knobs: Knobs
    """That the stage started with."""
    winner: int
    learning_rate: float
    trained: Outcome
    """The best trial: its number, its learning rate and what came of it."""
    threshold: float


class Learner:
    """One method on one sequence: the network, the method's state, and the trials on the task at hand.

    Everything a trial does follows from (params, method, seed, task, phase, trial, learning rate, knobs) and the
    model of the task before, so that any process can run it.
    """

    def __init__(self, params: Params, method: str, seed: int, sequence: Sequence, device: torch.device) -> None:
        self.params, self.name, self.seed, self.device = params, method, seed, device
        self.sequence = sequence
        if (why := cannot(method, params.scenario)) is not None:
            raise UserError(why)
        self.method = make(method, params.methods.get(method, {}))
        self.knobs: Knobs = self.method.values() | within_budget(
            method, self.method, params.memory_budget, sequence, params.scenario.name
        )
        self.method = make(method, self.knobs)
        if params.scenario.name == "domain":
            one_label_space({task.name: task.classes for task in sequence.tasks}, sequence.labels)
        net = build(params.model, sequence.input_shape, generator(seed, "network"))
        load_weights(net.backbone, params.model)
        self.method.net = self.method.wrap(net).to(device)
        self.method.net.increment = params.scenario.name
        self.method.net.backbone.reduced = is_reduced(params.training.precision, net, device)
        self.base = Snapshot.of(self.method)

    @functools.cached_property
    def stages(self) -> tuple[Task, ...]:
        """What is learned in turn: the tasks, or all of them at once."""
        return (joined(self.sequence.tasks),) if self.method.sees_all_tasks else self.sequence.tasks

    @property
    def training(self) -> Training:
        """How tasks are trained; a stream is seen once, in batches of its own."""
        if not self.params.scenario.online:
            return self.params.training
        return self.params.training.model_copy(update={"epochs": 1, "batch_size": self.params.scenario.batch_size})

    @property
    def boot(self) -> bool:
        """Whether nothing has been learned yet."""
        return self.method.sees_all_tasks or self.task.index == 0

    def open(self, task: Task) -> None:
        """Give the network the task's head and remember the model every trial starts from."""
        self.task = task
        self._make_ready(task.index)
        self.base = Snapshot.of(self.method)

    def _make_ready(self, index: int) -> None:
        """Give the network all it needs for the tasks up to this one."""
        net, seed = self.method.net, self.seed
        while net.tasks <= index:
            number, classes = net.tasks, len(self.sequence.tasks[net.tasks].classes)
            add_task(self.method, net, classes, number, generator(seed, "head", number), (seed, "growth", number))

    def resume(self, index: int, snapshot: Snapshot) -> None:
        """Go back to the model as it was after the stage of this index."""
        self._make_ready(self.stages[index].index)
        snapshot.restore(self.method)

    def attach(self, method: Method, phase: str, trial: int, learning_rate: float) -> tuple[int | str, ...]:
        """Tell the method where it is, and give it the loop for trainings of its own; return the trial's key."""
        key = (self.seed, self.task.index, phase, trial)
        method.attach(self.method.net, self.task.index, self.training, learning_rate, key)
        method.data = self.task

        def own_fit(data: Task, purpose: str, learner: Method | None = None, **settings: Any) -> Fit:
            if learner is not None:
                learner.attach(learner.net, self.task.index, self.training, settings["learning_rate"], key)
            found = fit(learner or method, data, (*key, purpose), **settings)
            # What became of a learner of its own (an autoencoder) is for the method to say.
            self.extra.append(found if learner is None else dataclasses.replace(found, diverged=False))
            return found

        method.fit = own_fit
        self.extra: list[Fit] = []
        return key

    def zero_shot(self) -> dict[str, float]:
        """Test accuracy on the task at hand before it is learned, and that of a network which learned nothing.

        They mean something where the classes are those of the tasks before; elsewhere, and for the first task, empty.
        """
        if self.params.scenario.name != "domain" or self.boot:
            return {}
        self.attach(self.method, "zero-shot", 0, 0.0)
        untrained = Learner(self.params, "finetune", self.seed, self.sequence, self.device)
        untrained.open(self.sequence.tasks[0])
        untrained.attach(untrained.method, "zero-shot", 0, 0.0)
        learners = {"zero_shot_accuracy": self, "untrained_accuracy": untrained}
        return {name: accuracy(one.method, self.task.test, inference=True) for name, one in learners.items()}

    def train(
        self,
        phase: str,
        trial: int,
        learning_rate: float,
        knobs: Knobs,
        *,
        plain: bool,
        watch: Callable[[int], None] | None = None,
    ) -> Outcome:
        """Train from the model of the task before; leaves the trained model in place, not yet consolidated.

        `plain`: by plain finetuning, within what the method leaves free to it. `watch`: see `cl.train.fit`.
        """
        self.base.restore(self.method)
        self._set(knobs)
        learner = self.method
        if plain and not learner.isolates_parameters:
            learner = Finetune()
        key = self.attach(learner, phase, trial, learning_rate)
        learner.plain = plain
        if not self.params.scenario.online:
            learner.begin_task(self.task)
        instability = instability_of(learner, learning_rate)
        keep: Literal["best", "last"] = "last" if self.params.scenario.online or self._classes_come else "best"
        found = fit(learner, self.task, key, learning_rate=learning_rate, keep=keep, watch=watch)
        reached = found.accuracy
        if keep == "last" and not found.diverged:
            judged = learner.judged_by == "inference"
            reached = accuracy(learner, self.task.validation, inference=judged, task_aware=self._task_aware)
        return Outcome(
            reached,
            found.epochs,
            found.steps,
            found.step_seconds,
            diverged=found.diverged,
            instability=instability,
        )

    @property
    def _classes_come(self) -> bool:
        """Whether new classes are learned beside old ones.

        The new task's validation data then say nothing of when to stop: they are answered best in the moment when
        everything is taken for a new class. So all epochs are run, the last is kept, and validation accuracy is that
        within the task's own classes.
        """
        return self.params.scenario.name == "class" and not self.method.sees_all_tasks

    @property
    def _task_aware(self) -> bool | None:
        return True if self._classes_come else None

    def consolidate(self, phase: str, trial: int, learning_rate: float, knobs: Knobs, trained: Outcome) -> Outcome:
        """End the task on the trained model; the accuracy is then that of the method's inference."""
        self._set(knobs)
        self.attach(self.method, phase, trial, learning_rate)
        if not self.params.scenario.online:
            self.method.end_task(self.task)
        found = accuracy(self.method, self.task.validation, inference=True, task_aware=self._task_aware)
        diverged = trained.diverged or any(f.diverged for f in self.extra)
        return Outcome(
            0.0 if diverged else found,
            trained.epochs + sum(f.epochs for f in self.extra),
            trained.steps + sum(f.steps for f in self.extra),
            trained.step_seconds + sum(f.step_seconds for f in self.extra),
            self._stability() if self.searches_front else None,
            diverged,
            trained.instability,
        )

    @property
    def searches_front(self) -> bool:
        """Whether stability is weighed too: there are old tasks, and the params ask for it."""
        decays = self.method.selection != "learning-rate"
        return bool(self.params.selection.title) and decays and not self.boot

    def _stability(self) -> float:
        """Mean accuracy on the old tasks: on what the method keeps of them, or on their validation data."""
        if self.params.selection.stability_on == "holdout":
            old = [task.validation for task in self.sequence.tasks[: self.task.index]]
        else:
            old = self.method.kept(self.task.train.normalise)
            if not old:
                raise UserError(f"methods.{self.name}: keeps no sample of an old task to see stability on; keep more")
        return statistics.fmean(accuracy(self.method, split, inference=True) for split in old)

    def chance(self) -> float:
        """The validation accuracy of always naming the most frequent class, of the task where that is known."""
        split = self.task.validation
        y, t = split.y, split.t
        task_aware = self._task_aware or self.params.scenario.name == "task"
        if not task_aware:
            y, t = self.method.net.column(y, t), 0
        groups = [y[t == task] for task in t.unique()] if isinstance(t, Tensor) else [y]
        return sum(int(group.bincount().max()) for group in groups) / len(split)

    def _set(self, knobs: Knobs) -> None:
        for name, value in knobs.items():
            setattr(self.method, name, value)

    def test(self, task_aware: bool | None = None) -> list[float]:
        """Test accuracy on every task up to this one; by default task-aware where the scenario is."""
        seen = self.sequence.tasks[: self.task.index + 1]
        return [accuracy(self.method, task.test, inference=True, task_aware=task_aware) for task in seen]

    def test_other(self) -> list[float] | None:
        """The task-agnostic accuracy where the scenario is task-aware, and the other way round.

        None where that is the same, or cannot be.
        """
        task_aware = self.params.scenario.name == "task"
        if self.params.scenario.name == "domain" or (task_aware and self.method.needs_task_id):
            return None
        return self.test(not task_aware)


class Run:
    """A learner with its folder: checkpoints, journal of trials, and results as far as they have come."""

    def __init__(self, learner: Learner, folder: Path, key: str, say: Say, pool: Pool | None = None) -> None:
        self.learner, self.folder, self.key, self.say, self.pool = learner, folder, key, say, pool
        self.params = learner.params
        self.records: list[dict[str, Any]] = []
        self.costs: list[dict[str, Any] | None] = []
        """Of each task learned; None where what was noted is lost."""
        self.peak_memory = 0
        self.ledger = Ledger(folder / JOURNAL, self._warn)
        self.in_place: tuple[int, str, int] | None = None
        """Stage, phase and number of the trial whose model the learner has."""

    @classmethod
    def searcher(cls, learner: Learner, key: str, folder: Path, index: int) -> Run:
        """A run in another process, its learner at the stage of this index, for trials of the plasticity search."""
        run = cls.__new__(cls)
        run.learner, run.folder, run.key, run.params = learner, folder, key, learner.params
        if getattr(learner, "task", None) is not learner.stages[index]:
            if index > 0:
                place = folder / f"task-{index - 1:03d}"
                learner.resume(index - 1, checkpoint.load(place, run.chain_key(index - 1), learner.device)[0])
            learner.open(learner.stages[index])
        return run

    def chain_key(self, stage: int) -> str:
        """Names everything that went into the model after this stage: the run, and the data up to here."""
        return chain_key(self.key, [task.digest for task in self.learner.stages[: stage + 1]])

    def run(self) -> None:
        """Learn what is not learned yet; afterwards the folder holds what is published, and finished.json.

        Without cost.json where what a task cost is lost: a sum would be too low.
        """
        learner = self.learner
        knobs = dict(learner.knobs)
        for index, stage in enumerate(learner.stages):
            place = self.folder / f"task-{index:03d}"
            if not self._resume(index, place):
                (self.folder / FINISHED).unlink(missing_ok=True)  # its results are soon those of the tasks so far
                if self.params.selection.reset_per_task:
                    knobs = dict(learner.knobs)
                clock = Clock()
                started = time.process_time()
                learner.open(stage)
                zero_shot = learner.zero_shot()
                learned = self._learn(index, knobs, clock)
                with clock.phase("evaluate"):
                    row, other = learner.test(), learner.test_other()
                record = self._record(stage, learned, row, other)
                record["per_task"] |= zero_shot
                if remarks := self._remarks(learned):
                    record["per_task"]["remarks"] = remarks
                cost = {
                    "task": stage.name,
                    "seconds": clock.seconds,
                    "process_seconds": time.process_time() - started,
                    "step_seconds": clock.step_seconds,
                }
                self.peak_memory = max(peak_memory(), self.peak_memory)
                keep_cost(self.folder, index, cost, self.peak_memory)  # first: a task that is learned has its cost
                checkpoint.save(place, Snapshot.of(learner.method), record, self.chain_key(index))
                self.records.append(record)
                self.costs.append(cost)
                self._drop_candidates(index)
                so_far = self._write_results()
                self.say(
                    {
                        "event": "task",
                        "index": index,
                        "tasks": len(learner.stages),
                        "average_accuracy": so_far,
                        "decayed": self._decayed(record["per_task"]["knobs"]),
                        **record["per_task"],
                    }
                )
            knobs = self.records[-1]["next_knobs"]
        self._write_results()
        finish(self.folder, [task.digest for task in learner.sequence.tasks], len(learner.stages))

    def _resume(self, index: int, place: Path) -> bool:
        if not place.exists():
            return False
        try:
            snapshot, record = checkpoint.load(place, self.chain_key(index), self.learner.device)
        except ForeignCheckpoint:  # of these params, so of other data
            if not self.learner.method.sees_all_tasks:  # which is to be expected where a task has come
                self._warn(f"the data up to task {index + 1} are not those it was learned from; learning it again")
            return False
        except DamagedCheckpoint as error:
            self._warn(f"{error}: refused; learning task {index + 1} again")
            return False
        self._drop_candidates(index)  # a kill may have come between
        self.learner.resume(index, snapshot)
        self.records.append(record)
        self.say({"event": "resumed", "index": index, "tasks": len(self.learner.stages)})
        cost, peak = cost_of(self.folder, index) or (None, 0)
        if cost is None:
            place = self.folder / f"cost-{index:03d}.json"
            self._warn(f"{place}: missing or damaged; as what task {index + 1} cost is lost, there is no cost.json")
        self.costs.append(cost)
        self.peak_memory = max(peak, self.peak_memory)
        return True

    def _warn(self, message: str) -> None:
        self.say({"event": "warning", "message": message})

    # One task.

    def _learn(self, index: int, knobs: Knobs, clock: Clock) -> Learned:
        selection, method = self.params.selection, self.learner.method
        if not selection.enabled:
            return self._learn_as_given(index, knobs, clock)
        grid = selection.first_task_learning_rates if self.learner.boot else selection.learning_rates
        own = method.selection == "learning-rate" or (self.learner.boot and method.shares_first_task)
        with clock.phase("plasticity"):
            outcomes = self._plasticity(index, grid, knobs, own=own)
        eta, best = best_learning_rate(outcomes)
        winner = grid.index(eta)
        threshold = (1 - selection.drop_margin) * best
        searched = [Trial("plasticity", i, lr, knobs if own else {}, None, outcomes[lr]) for i, lr in enumerate(grid)]
        with clock.phase("stability"):
            if own:
                self._restore_candidate(index, winner, eta, knobs, own=True)
                final = self.learner.consolidate("plasticity", winner, eta, knobs, outcomes[eta])
                cost = dataclasses.replace(final, accuracy=outcomes[eta].accuracy)
                searched[winner] = dataclasses.replace(searched[winner], outcome=cost)
                learned = Learned(searched, searched[winner], final.accuracy, best, threshold, 1, knobs)
            else:
                found = Searched(index, knobs, winner, eta, outcomes[eta], threshold)
                attempts, next_knobs = self._stability(found)
                tried = [
                    Trial("stability", i, eta, values, threshold, came) for i, (values, came) in enumerate(attempts)
                ]
                kept = tried[-1]
                if self.learner.searches_front:
                    tried += self._front(found, tried)
                    best_of = most_stable([trial.outcome for trial in tried], threshold)
                    kept = kept if best_of is None else tried[best_of]
                if self.in_place != (index, kept.phase, kept.trial):  # after a kill, or as a later trial was no better
                    self.attempt(found, kept.phase, kept.trial, kept.knobs)
                accepted = kept.outcome.accuracy
                learned = Learned(searched + tried, kept, accepted, best, threshold, len(tried), next_knobs)
        clock.step_seconds = sum(trial.outcome.step_seconds for trial in learned.trials)
        return learned

    def _learn_as_given(self, index: int, knobs: Knobs, clock: Clock) -> Learned:
        """Selection off: one training at the learning rate and the knobs as given."""
        learning_rate, learner = self.params.training.learning_rate, self.learner
        study = self._study(index, "learn")
        point: Knobs = {"learning_rate": learning_rate, **knobs}
        with clock.phase("learn"):
            trial = study.begin(0, point)
            trained = learner.train("learn", 0, learning_rate, knobs, plain=False)
            outcome = study.end(trial, learner.consolidate("learn", 0, learning_rate, knobs, trained))
        clock.step_seconds = outcome.step_seconds
        kept = Trial("learn", 0, learning_rate, knobs, None, outcome)
        return Learned([kept], kept, outcome.accuracy, None, None, 1, knobs)

    def _plasticity(self, index: int, grid: list[float], knobs: Knobs, *, own: bool) -> dict[float, Outcome]:
        """Maximal plasticity search: every learning rate once, from the model of the task before."""
        study = self._study(index, "plasticity")
        jobs = []
        for number, lr in enumerate(grid):
            point: Knobs = {"learning_rate": lr}
            jobs.append(Job(number, point, "search", (index, number, lr, knobs, own), point))
        return dict(zip(grid, self._all(study, index, "plasticity", jobs), strict=True))

    def _all(self, study: Study, index: int, phase: str, jobs: list[Job]) -> list[Outcome]:
        """The outcomes of the trials, those not known yet run: at once, where there are processes for that."""
        missing = [job for job in jobs if study.known(job.number) is None]
        if self.pool is None or len(missing) < 2:
            for job in missing:
                run = functools.partial(getattr(self, job.work), *job.arguments)
                self._tell(phase, index, job.shown, study.run(job.number, job.point, run, job.space, job.notes))
        else:
            trials = [study.begin(job.number, job.point, job.space) for job in missing]
            futures = [self.pool(index, job.work, job.arguments) for job in missing]
            for job, trial, future in zip(missing, trials, futures, strict=True):
                self._tell(phase, index, job.shown, study.end(trial, future.result(), job.notes))
        return [found for job in jobs if (found := study.known(job.number)) is not None]

    def search(self, index: int, number: int, learning_rate: float, knobs: Knobs, own: bool) -> Outcome:
        """One trial of the plasticity search; keeps its model where the task may go on from it."""
        outcome = self.learner.train("plasticity", number, learning_rate, knobs, plain=not own)
        if own or self.learner.method.selection == "consolidation-decay":
            checkpoint.save(
                self._candidate(index, number),
                Snapshot.of(self.learner.method),
                asdict(outcome),
                self.chain_key(index),
            )
        return outcome

    def _stability(self, found: Searched) -> tuple[list[tuple[Knobs, Outcome]], Knobs]:
        """Stability decay."""
        study = self._study(found.index, "stability")

        def try_out(number: int, values: Knobs) -> Outcome:
            notes = {"threshold": found.threshold, "learning_rate": found.learning_rate}
            train = functools.partial(self.attempt, found, "stability", number, values)
            outcome = study.run(number, values, train, notes=notes)
            self._tell("stability", found.index, self._decayed(values), outcome)
            return outcome

        declared = self.learner.method.knobs
        return decay_until_accepted(found.knobs, declared, self.params.selection, found.threshold, try_out)

    def _front(self, found: Searched, tried: list[Trial]) -> list[Trial]:
        """More points of what the method can have of stability and of plasticity, beside the survey's attempts."""
        study = self._study(found.index, "pareto", objectives=2)
        search = Front(study, self.learner.knobs, self.learner.method.knobs, self.params.selection)
        for number, trial in enumerate(tried):
            search.enter(number, trial.knobs, trial.outcome)
        eta, more = found.learning_rate, []
        end = len(tried) + self.params.selection.trials
        for start in range(len(tried), end, Front.ROUND):
            numbers = range(start, min(start + Front.ROUND, end))
            jobs = []
            for number, point in zip(numbers, search.round(numbers, self.learner.seed, found.index), strict=True):
                values = search.knobs(point)
                work = ("attempt", (found, "pareto", number, values), self._decayed(values))
                jobs.append(Job(number, point, *work, search.space, {"learning_rate": eta, "knobs": values}))
            outcomes = self._all(study, found.index, "pareto", jobs)
            for job, outcome in zip(jobs, outcomes, strict=True):
                more.append(Trial("pareto", job.number, eta, job.arguments[-1], found.threshold, outcome))
        return more

    def attempt(self, found: Searched, phase: str, number: int, values: Knobs) -> Outcome:
        """Train with these knobs, or take the plasticity search's model, and consolidate; leaves the model in place."""
        learner, eta = self.learner, found.learning_rate
        self.in_place = (found.index, phase, number)
        if learner.method.selection == "consolidation-decay":
            self._restore_candidate(found.index, found.winner, eta, found.knobs, own=False)
            before = Outcome(found.trained.accuracy, 0, 0, 0.0, diverged=found.trained.diverged)
        else:
            before = learner.train(phase, number, eta, values, plain=False)
        return learner.consolidate(phase, number, eta, values, before)

    def _study(self, index: int, phase: str, objectives: int = 1) -> Study:
        return self.ledger.study(index, phase, self.chain_key(index), objectives)

    def _tell(self, phase: str, index: int, point: Knobs, outcome: Outcome) -> None:
        tried = {"phase": phase, "index": index, "tasks": len(self.learner.stages), "point": point}
        self.say({"event": "trial", **tried, "accuracy": outcome.accuracy})

    def _decayed(self, values: Knobs) -> Knobs:
        """Of a method's knobs those that the selection decides on."""
        return {name: values[name] for name, knob in self.learner.method.knobs.items() if knob.decay is not None}

    def _candidate(self, index: int, number: int) -> Path:
        return self.folder / f"candidate-{index:03d}-{number:02d}"

    def _restore_candidate(self, index: int, number: int, learning_rate: float, knobs: Knobs, *, own: bool) -> None:
        """Put the model of a plasticity trial in place; make it again where it is lost."""
        try:
            snapshot, _ = checkpoint.load(self._candidate(index, number), self.chain_key(index), self.learner.device)
        except DamagedCheckpoint:
            self.search(index, number, learning_rate, knobs, own)
        else:
            snapshot.restore(self.learner.method)

    def _drop_candidates(self, index: int) -> None:
        for folder in self.folder.glob(f"candidate-{index:03d}-*"):
            remove_checkpoint(folder)

    # What is reported.

    def _record(self, stage: Task, learned: Learned, row: list[float], other: list[float] | None) -> dict[str, Any]:
        kept = learned.kept
        return {
            "accuracy": row,
            "other_accuracy": other,
            "next_knobs": learned.next_knobs,
            "per_task": {
                "task": stage.name,
                "learning_rate": kept.learning_rate,
                "plasticity_accuracy": learned.plasticity_accuracy,
                "threshold": learned.threshold,
                "knobs": kept.knobs,
                "attempts": learned.attempts,
                "validation_accuracy": learned.validation_accuracy,
                "steps": sum(trial.outcome.steps for trial in learned.trials),
                "state_bytes": checkpoint.state_bytes(self.learner.method.state()),
                "network_bytes": checkpoint.state_bytes(dict(self.learner.method.net.state_dict())),
            },
            "trials": [
                {
                    "task": stage.name,
                    "task_index": stage.index,
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
        kept, found, chance = learned.kept.outcome, learned.validation_accuracy, self.learner.chance()
        if kept.diverged:
            unstable = kept.instability is not None and kept.instability >= 1
            remedy = "a lower strength" if unstable else "lower learning rates or less weight decay"
            return [f"the training that was kept diverged; it needs {remedy}"]
        if found <= chance + math.sqrt(chance * (1 - chance) / len(self.learner.task.validation)):
            named = f"{100 * found:.1f} % on validation data, and naming one class alone gives {100 * chance:.1f} %"
            return [f"nothing was learned: {named}"]
        return []

    def _write_results(self) -> float:
        """Write result.json, trials.json and cost.json as far as things are; return the average accuracy."""
        learner = self.learner
        names = [task.name for task in learner.sequence.tasks]
        matrix = self._matrix("accuracy")
        head = {
            "schema": 1,
            "benchmark": learner.sequence.benchmark,
            "method": learner.name,
            "seed": learner.seed,
        }
        result: dict[str, Any] = {
            **head,
            "scenario": self.params.scenario.title,
            "tasks": names,
            "accuracy": matrix,
            "average_accuracy": average_accuracy(matrix),
            "average_forgetting": average_forgetting(matrix),
            "per_task": [record["per_task"] for record in self.records],
        }
        if self.params.selection.title:
            result["search"] = self.params.selection.title
        if learner.sequence.reduced:
            result["reduced"] = dict(learner.sequence.reduced)
        if self.records[0]["other_accuracy"] is not None:
            name = "task_agnostic_accuracy" if self.params.scenario.name == "task" else "task_aware_accuracy"
            result[name] = self._matrix("other_accuracy")
        write_json(self.folder / "result.json", result)
        trials = [trial for record in self.records for trial in record["trials"]]
        write_json(self.folder / "trials.json", {**head, "trials": trials})
        costs = [cost for cost in self.costs if cost is not None]
        if len(costs) < len(self.costs):
            (self.folder / "cost.json").unlink(missing_ok=True)
        else:
            write_json(
                self.folder / "cost.json",
                {
                    **head,
                    "machine": machine(learner.device),
                    "precision": "bfloat16" if learner.method.net.backbone.reduced else "float32",
                    "seconds": sum(sum(cost["seconds"].values()) for cost in costs),
                    "process_seconds": sum(cost["process_seconds"] for cost in costs),
                    "step_seconds": sum(cost["step_seconds"] for cost in costs),
                    "peak_memory_bytes": max(peak_memory(), self.peak_memory),
                    "per_task": costs,
                },
            )
        accuracy_so_far: float = result["average_accuracy"]
        return accuracy_so_far

    def _matrix(self, field: str) -> list[list[float | None]]:
        """A row for each task, filled as far as things are; learned at once, the last row alone."""
        count = len(self.learner.sequence.tasks)
        # A record holds what was there to test, whatever tasks come later: so a task more changes none of them.
        rows = [record[field] + [None] * (count - len(record[field])) for record in self.records]
        empty: list[list[float | None]] = [[None] * count] * (count - len(rows))
        return empty + rows if self.learner.method.sees_all_tasks else rows + empty


def _present(outcome: Outcome) -> dict[str, Any]:
    """What only some trials have."""
    values = {name: getattr(outcome, name) for name in ("stability", "instability")}
    found = {name: value for name, value in values.items() if value is not None}
    return found | ({"diverged": True} if outcome.diverged else {})


def instability_of(method: Method, learning_rate: float) -> float | None:
    """`Outcome.instability` of a training that is about to begin."""
    found = learning_rate * method.stiffness() / (1 + method.training.momentum)
    return found if 0 < found < math.inf else None


def within_budget(name: str, method: Method, budget: int | str | None, sequence: Sequence, increment: str) -> Knobs:
    """The knob that holds a method to the memory that all are given, in samples; none where it keeps no samples.

    Raises `UserError` where it keeps so many of each task, or where the budget holds not one.
    """
    if budget is None or not method.stores_samples or method.sees_all_tasks:
        return {}
    if (why := unbounded(name)) is not None:
        raise UserError(why)
    counts = [len(task.classes) for task in sequence.tasks]
    classes = sum(counts) if increment == "class" else max(counts)
    each = method.sample_bytes(math.prod(sequence.tasks[0].train.images.shape[1:]), classes)
    count = bytes_of(budget) // each if isinstance(budget, str) else budget
    if count < 1:
        raise UserError(f"memory_budget: {budget} hold no sample of {name}, of {each} bytes each; raise it")
    return {"memory_budget": count}
