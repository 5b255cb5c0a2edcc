"""The trials of one task as plain values, which any process can run, and the code that runs them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from cl import checkpoint
from cl.checkpoint_files import DamagedCheckpoint, remove_checkpoint
from cl.first_task import FirstTask, Spent
from cl.keys import chain_key
from cl.learner import Learner
from cl.selection import Knobs, Outcome
from cl.train import Snapshot


@dataclass(frozen=True)
class Searched:
    """The outcome of the plasticity search of a task, from which the attempts start."""

    index: int
    """The index of the experience, which is what is learned in one go."""
    knobs: Knobs
    """The knobs that the task started with."""
    winner: int
    learning_rate: float
    trained: Outcome
    """The best trial: its number, its learning rate and what came of it."""
    threshold: float


class Job(Protocol):
    """A trial that can be run anywhere."""

    @property
    def index(self) -> int:
        """Of its experience."""

    def run(self, trials: Trials) -> Outcome:
        """Train; leaves the model in place."""


@dataclass(frozen=True)
class SearchJob:
    """A trial of the plasticity search: one learning rate."""

    index: int
    number: int
    learning_rate: float
    knobs: Knobs
    own: bool
    """By the method itself, not by plain finetuning."""

    def run(self, trials: Trials) -> Outcome:
        """Train; the model is kept where the task may go on from it."""
        learner = trials.learner
        if (shared := trials.shared(self)) is not None:
            return shared.outcome(self)
        outcome = learner.train("plasticity", self.number, self.learning_rate, self.knobs, plain=not self.own)
        if self.own or learner.method.selection == "consolidation-decay":
            trials.keep_candidate(self.index, self.number, outcome)
        return outcome


@dataclass(frozen=True)
class AttemptJob:
    """An attempt: a training with these knobs at the search's learning rate (or just its model), and consolidation."""

    searched: Searched
    phase: str
    number: int
    knobs: Knobs

    @property
    def index(self) -> int:
        """Of its experience."""
        return self.searched.index

    def run(self, trials: Trials) -> Outcome:
        """Train and consolidate; leaves the model in place."""
        learner, searched, eta = trials.learner, self.searched, self.searched.learning_rate
        trials.in_place = (self.index, self.phase, self.number)
        if learner.method.selection == "consolidation-decay":
            trials.restore_candidate(SearchJob(self.index, searched.winner, eta, searched.knobs, own=False))
            before = Outcome(searched.trained.accuracy, 0, 0, 0.0, diverged=searched.trained.diverged)
        else:
            before = learner.train(self.phase, self.number, eta, self.knobs, plain=False)
        return learner.consolidate(self.phase, self.number, eta, self.knobs, before)


class Trials:
    """A learner with the work folder of its run: where trials are run, and models of the search kept.

    `shared`: a folder for trials that other runs go through as well; None: each run trains all of its trials.
    """

    def __init__(self, learner: Learner, folder: Path, key: str, shared: Path | None = None) -> None:
        self.learner, self.folder, self.key = learner, folder, key
        keep = functools.partial(self.keep_candidate, 0)
        self.first_task = FirstTask(learner, shared, keep) if shared is not None else None
        self.in_place: tuple[int, str, int] | None = None
        """Experience, phase and number of the attempt whose model the learner has."""
        self._at: int | None = None

    def chain_key(self, index: int) -> str:
        """Names everything that went into the model after this experience: the run, and the data up to here."""
        return chain_key(self.key, [task.digest for task in self.learner.experiences[: index + 1]])

    def place(self, index: int) -> Path:
        """Where the checkpoint of this experience is."""
        return self.folder / f"task-{index:03d}"

    def go_to(self, index: int) -> None:
        """Bring the learner to the start of this experience, from the checkpoint before it."""
        if self._at == index:
            return
        learner = self.learner
        if index > 0:
            snapshot, _ = checkpoint.load(self.place(index - 1), self.chain_key(index - 1), learner.device)
            learner.resume(index - 1, snapshot)
        learner.open(learner.experiences[index])
        self._at = index

    def _candidate(self, index: int, number: int) -> Path:
        return self.folder / f"candidate-{index:03d}-{number:02d}"

    def keep_candidate(self, index: int, number: int, outcome: Outcome) -> None:
        """Keep the model of a trial of the search."""
        snapshot = Snapshot.of(self.learner.method)
        checkpoint.save(self._candidate(index, number), snapshot, asdict(outcome), self.chain_key(index))

    def restore_candidate(self, job: SearchJob) -> None:
        """Put the model of a trial of the search in place; it is made again where it is lost."""
        if (shared := self.shared(job)) is not None and shared.restore(job):
            return
        folder = self._candidate(job.index, job.number)
        try:
            snapshot, _ = checkpoint.load(folder, self.chain_key(job.index), self.learner.device)
        except DamagedCheckpoint:
            self.learner.train("plasticity", job.number, job.learning_rate, job.knobs, plain=not job.own)
        else:
            snapshot.restore(self.learner.method)

    def shared(self, job: SearchJob) -> FirstTask | None:
        """Where the trial is kept for all runs, if they share it."""
        return self.first_task if self.first_task is not None and self.first_task.has(job) else None

    def borrowed(self) -> list[Spent]:
        """What other runs have spent on trials that were run here since this was asked last."""
        if self.first_task is None:
            return []
        spent = list(self.first_task.spent.values())
        self.first_task.spent.clear()
        return spent

    def train_shared(self, jobs: Iterable[Job]) -> None:
        """Train those of the trials that all runs share and no run is training, so that no run waits for another."""
        for job in jobs:
            if isinstance(job, SearchJob) and (shared := self.shared(job)) is not None:
                shared.train(job)

    def drop_candidates(self, index: int) -> None:
        """Remove the models of the search."""
        for folder in self.folder.glob(f"candidate-{index:03d}-*"):
            remove_checkpoint(folder)
