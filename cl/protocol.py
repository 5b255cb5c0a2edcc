"""The survey's protocol on one task: maximal plasticity search, stability decay, and the search for a front.

De Lange et al. 2021, Algorithm 1. This module decides which trials run and which is kept. `cl.selection` has the rules
for that, and `cl.trials` says what a trial does.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cl.events import Say
from cl.selection import (
    Front,
    Knobs,
    Outcome,
    Study,
    StudyJournal,
    Trial,
    best_learning_rate,
    decay_until_accepted,
    most_stable,
)
from cl.trials import AttemptJob, Job, Searched, SearchJob, Trials

Pool: TypeAlias = Callable[[Job], "Future[tuple[Outcome, float]]"]
"""Starts a trial in another process; gives its outcome, and its processor time in seconds."""


@dataclass
class Clock:
    """Seconds by phase, and those spent in training steps."""

    seconds: dict[str, float] = field(default_factory=dict)
    step_seconds: float = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time that the body takes to this phase."""
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
class _Planned:
    """A trial that is to be run, as the Optuna study and the reader see it."""

    number: int
    job: Job
    point: Mapping[str, Any]
    shown: Knobs
    space: Mapping[str, Any] | None = None
    notes: Mapping[str, Any] | None = None


class Protocol:
    """How hyperparameters are chosen for each task in turn; the kept model is left in the learner."""

    def __init__(self, trials: Trials, journal: StudyJournal, say: Say, pool: Pool | None = None) -> None:
        self.trials, self.journal, self.say, self.pool = trials, journal, say, pool
        self.beside = 0.0
        """Processor time of all trials in other processes so far, in seconds."""
        self.learner = trials.learner
        self.params = trials.learner.params

    def learn(self, index: int, knobs: Knobs, clock: Clock) -> Learned:
        """Learn the learner's current task, starting from these knobs."""
        if not self.learner.trains:
            return self._learn_as_given(index, None, knobs, clock)
        if not self.params.selection.enabled:
            return self._learn_as_given(index, self.params.learning_rate(self.learner.name), knobs, clock)
        method, is_first = self.learner.method, self.learner.is_first
        own = not method.decays_knobs() or (is_first and method.starts_as_finetuning())
        with clock.phase("plasticity"):
            outcomes = self._plasticity(index, knobs, own=own)
        eta, best = best_learning_rate(outcomes)
        threshold = (1 - self.params.selection.drop_margin) * best
        searched = Searched(index, knobs, list(outcomes).index(eta), eta, outcomes[eta], threshold)
        tried = [
            Trial("plasticity", number, rate, knobs if own else {}, None, outcome)
            for number, (rate, outcome) in enumerate(outcomes.items())
        ]
        with clock.phase("stability"):
            learned = self._kept(searched, tried, best) if own else self._decided(searched, tried, best)
        clock.step_seconds = sum(trial.outcome.step_seconds for trial in learned.trials)
        return learned

    def _kept(self, searched: Searched, tried: list[Trial], best: float) -> Learned:
        """The search was by the method itself: its best model is consolidated."""
        winner, eta, knobs = searched.winner, searched.learning_rate, searched.knobs
        self.trials.restore_candidate(SearchJob(searched.index, winner, eta, knobs, own=True))
        final = self.learner.consolidate("plasticity", winner, eta, knobs, searched.trained)
        cost = dataclasses.replace(final, accuracy=searched.trained.accuracy)
        tried[winner] = dataclasses.replace(tried[winner], outcome=cost)
        return Learned(tried, tried[winner], final.accuracy, best, searched.threshold, 1, knobs)

    def _decided(self, searched: Searched, tried: list[Trial], best: float) -> Learned:
        """Attempts with the method, from the most stable on; of a front, the most stable that reaches the threshold."""
        eta, threshold = searched.learning_rate, searched.threshold
        outcomes, next_knobs = self._stability(searched)
        attempts = [
            Trial("stability", number, eta, knobs, threshold, outcome)
            for number, (knobs, outcome) in enumerate(outcomes)
        ]
        kept = attempts[-1]
        if self.learner.searches_front:
            attempts += self._front(searched, attempts)
            best_of = most_stable([trial.outcome for trial in attempts], threshold)
            kept = kept if best_of is None else attempts[best_of]
        # The model in place is another after a kill, or where a later trial was no better.
        if self.trials.in_place != (searched.index, kept.phase, kept.trial):
            AttemptJob(searched, kept.phase, kept.trial, kept.knobs).run(self.trials)
        return Learned(tried + attempts, kept, kept.outcome.accuracy, best, threshold, len(attempts), next_knobs)

    def _learn_as_given(self, index: int, learning_rate: float | None, knobs: Knobs, clock: Clock) -> Learned:
        """Nothing to search: one training at the learning rate, where there is one, and the knobs as given."""
        learner, study = self.learner, self._study(index, "learn")
        point: Knobs = knobs if learning_rate is None else {"learning_rate": learning_rate, **knobs}
        with clock.phase("learn"):
            trial = study.begin(0, point)
            trained = learner.train("learn", 0, learning_rate, knobs, plain=False)
            outcome = study.end(trial, learner.consolidate("learn", 0, learning_rate, knobs, trained))
        clock.step_seconds = outcome.step_seconds
        kept = Trial("learn", 0, learning_rate, knobs, None, outcome)
        return Learned([kept], kept, outcome.accuracy, None, None, 1, knobs)

    def _plasticity(self, index: int, knobs: Knobs, *, own: bool) -> dict[float, Outcome]:
        """Maximal plasticity search: every learning rate once, from the model of the task before."""
        selection = self.params.selection
        grid = selection.first_task_learning_rates if self.learner.is_first else selection.learning_rates
        study = self._study(index, "plasticity")
        planned = []
        for number, rate in enumerate(grid):
            point: Knobs = {"learning_rate": rate}
            planned.append(_Planned(number, SearchJob(index, number, rate, knobs, own), point, point))
        return dict(zip(grid, self._all(study, "plasticity", planned), strict=True))

    def _all(self, study: Study, phase: str, planned: Sequence[_Planned]) -> list[Outcome]:
        """The outcomes of the trials. Those not known yet are run, at once where there are processes for that."""
        missing = [one for one in planned if study.known(one.number) is None]
        if self.pool is None or len(missing) < 2:
            self.trials.train_shared([one.job for one in missing])
            for one in missing:
                run = functools.partial(one.job.run, self.trials)
                self._tell(phase, one.job.index, one.shown, study.run(one.number, one.point, run, one.space, one.notes))
        else:
            begun = [study.begin(one.number, one.point, one.space) for one in missing]
            futures = [self.pool(one.job) for one in missing]
            for one, trial, future in zip(missing, begun, futures, strict=True):
                outcome, seconds = future.result()
                self.beside += seconds
                self._tell(phase, one.job.index, one.shown, study.end(trial, outcome, one.notes))
        return [known for one in planned if (known := study.known(one.number)) is not None]

    def _stability(self, searched: Searched) -> tuple[list[tuple[Knobs, Outcome]], Knobs]:
        """Stability decay."""
        study = self._study(searched.index, "stability")

        def try_out(number: int, knobs: Knobs) -> Outcome:
            notes = {"threshold": searched.threshold, "learning_rate": searched.learning_rate}
            train = functools.partial(AttemptJob(searched, "stability", number, knobs).run, self.trials)
            outcome = study.run(number, knobs, train, notes=notes)
            self._tell("stability", searched.index, self.learner.decaying(knobs), outcome)
            return outcome

        declared = self.learner.method.knobs
        return decay_until_accepted(searched.knobs, declared, self.params.selection, searched.threshold, try_out)

    def _front(self, searched: Searched, attempts: list[Trial]) -> list[Trial]:
        """More points on the method's trade-off of stability and plasticity, besides the survey's attempts."""
        study = self._study(searched.index, "pareto", objectives=2)
        search = Front(study, self.learner.knobs, self.learner.method.knobs, self.params.selection)
        for number, trial in enumerate(attempts):
            search.enter(number, trial.knobs, trial.outcome)
        eta = searched.learning_rate
        more: list[Trial] = []
        end = len(attempts) + self.params.selection.trials
        for start in range(len(attempts), end, Front.ROUND):
            numbers = range(start, min(start + Front.ROUND, end))
            points = search.round(numbers, self.learner.seed, searched.index)
            tried = [search.knobs(point) for point in points]
            planned = [
                _Planned(
                    number,
                    AttemptJob(searched, "pareto", number, knobs),
                    point,
                    self.learner.decaying(knobs),
                    search.space,
                    {"learning_rate": eta, "knobs": knobs},
                )
                for number, point, knobs in zip(numbers, points, tried, strict=True)
            ]
            outcomes = self._all(study, "pareto", planned)
            for number, knobs, outcome in zip(numbers, tried, outcomes, strict=True):
                more.append(Trial("pareto", number, eta, knobs, searched.threshold, outcome))
        return more

    def _study(self, index: int, phase: str, objectives: int = 1) -> Study:
        return self.journal.study(index, phase, self.trials.chain_key(index), objectives)

    def _tell(self, phase: str, index: int, point: Knobs, outcome: Outcome) -> None:
        self.say(
            {
                "event": "trial",
                "phase": phase,
                "index": index,
                "tasks": len(self.learner.experiences),
                "point": point,
                "accuracy": outcome.accuracy,
            }
        )
