"""The survey's choice of hyperparameters (maximal plasticity search, then stability decay), and the Pareto search.

De Lange et al. 2021, Algorithm 1, decides on the current task's validation data alone. The Pareto front is that of
stability and plasticity, the two objectives of one Optuna study. Every trial belongs to an Optuna study in a journal
file, from which a run that was killed knows what it has tried already.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from cl.journal import chained, checked
from cl.knob import Knob, Scalar, Value
from cl.metrics import front
from cl.params import Selection
from cl.rng import seed_of

optuna.logging.set_verbosity(optuna.logging.WARNING)
Knobs = dict[str, Value]
ROUNDING = 1e-9
"""(1 - 0.2) * 0.75 is a hair above 0.6 in binary; an accuracy equal to the threshold is accepted."""


@dataclass(frozen=True)
class Outcome:
    """What came of one trial."""

    accuracy: float
    """Validation accuracy in [0, 1]."""
    epochs: int
    steps: int
    step_seconds: float
    stability: float | None = None
    """Mean accuracy on the old tasks in [0, 1], where a front is searched for."""
    diverged: bool = False
    """The training diverged; the accuracy is 0, whatever the model that is left in place would reach."""
    instability: float | None = None
    """r = eta lambda max(Omega) / (1 + mu) of a quadratic penalty, as the training began; None: there was none.

    Descent at rate eta with momentum mu on h theta^2 / 2 is stable while eta h < 2 (1 + mu) (Polyak 1964); the penalty
    alone has h = 2 lambda Omega. So from r = 1 on, the weight that is held most is thrown further with every step.
    """


@dataclass(frozen=True)
class Trial:
    """One trial as it is reported."""

    phase: str
    """plasticity, stability, pareto, or learn (nothing was searched)."""
    trial: int
    learning_rate: float | None
    """None: no gradient steps were taken."""
    knobs: Knobs
    threshold: float | None
    outcome: Outcome


class Decay:
    """The order in which knobs decay after failed attempts, as in the survey's code.

    With one knob, that knob is decayed. With several, each is decayed alone in turn, from the reference values; then
    all of them, which makes the new reference. (Algorithm 1 of the paper decays all of them at once.)
    """

    def __init__(self, knobs: Knobs, declared: Mapping[str, Knob], alpha: float) -> None:
        self.knobs = dict(knobs)
        self._declared = {name: knob.decay for name, knob in declared.items() if knob.decay is not None}
        self._alpha = alpha
        self._reference = dict(knobs)
        self._next = 0

    def step(self) -> None:
        """Decay once: `knobs` are the values to try next."""
        names = list(self._declared)
        alone = len(names) > 1 and self._next < len(names)
        self.knobs = dict(self._reference)
        for name in [names[self._next]] if alone else names:
            decay = self._declared[name]
            assert decay is not None
            value = self._reference[name]
            assert isinstance(value, float)
            self.knobs[name] = decay(value, self._alpha)
        if alone:
            self._next += 1
        else:
            self._reference, self._next = dict(self.knobs), 0


class StudyJournal:
    """The Optuna studies of one run in its journal file, one per task and phase. `warn` is called for damage to it."""

    def __init__(self, path: Path, warn: Callable[[str], None] = warnings.warn) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The run's own lock keeps others out, so a lock file found here was left behind by a kill.
        Path(f"{path}.lock").unlink(missing_ok=True)
        last = checked(path, warn)
        try:
            self._storage = _storage(path, last)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            warn(f"{path}: this version of Optuna cannot read it ({error}); its trials are run again")
            path.unlink()
            self._storage = _storage(path, "")

    def study(self, task: int, phase: str, key: str, objectives: int = 1) -> Study:
        """The study of this task and phase, as far as it has come; `key` names the data and all else it depends on."""
        name = f"task-{task:03d}/{phase} {key[:8]}"
        study = optuna.create_study(
            storage=self._storage,
            sampler=_Listed(),
            study_name=name,
            directions=["maximize"] * objectives,
            load_if_exists=True,
        )
        return Study(study)


class Study:
    """The Optuna study of one phase of one task: numbered trials at given points, each at most once."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._done: dict[int, Outcome] = {}
        for trial in study.get_trials(deepcopy=False):
            if trial.state == TrialState.COMPLETE:
                self._done[trial.user_attrs["number"]] = Outcome(**trial.user_attrs["outcome"])
            elif not trial.state.is_finished():  # the process that ran it was killed
                study.tell(trial.number, state=TrialState.FAIL)

    def known(self, number: int) -> Outcome | None:
        """The outcome of the trial of this number, where it has been run."""
        return self._done.get(number)

    def before(self, number: int) -> list[FrozenTrial]:
        """The finished trials of lower numbers, in their order."""
        done = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
        by_number = {trial.user_attrs["number"]: trial for trial in done}
        return [by_number[earlier] for earlier in range(number)]

    def begin(
        self, number: int, point: Mapping[str, Any], space: Mapping[str, BaseDistribution] | None = None
    ) -> optuna.Trial:
        """Open the trial of this number at this point; `space`: what it was searched in."""
        sampler = self._study.sampler
        assert isinstance(sampler, _Listed)
        sampler.point = {name: str(value) if isinstance(value, list) else value for name, value in point.items()}
        trial = self._study.ask(dict(space or {name: _distribution(value) for name, value in sampler.point.items()}))
        trial.set_user_attr("number", number)
        return trial

    def end(self, trial: optuna.Trial, outcome: Outcome, notes: Mapping[str, Any] | None = None) -> Outcome:
        """Close the trial with its outcome; `notes` are shown with it (threshold, learning rate)."""
        trial.set_user_attr("outcome", asdict(outcome))
        for name, value in (notes or {}).items():
            trial.set_user_attr(name, value)
        values = [outcome.accuracy, outcome.stability or 0.0]
        self._study.tell(trial, values[: len(self._study.directions)])
        self._done[trial.user_attrs["number"]] = outcome
        return outcome

    def run(
        self,
        number: int,
        point: Mapping[str, Any],
        train: Callable[[], Outcome],
        space: Mapping[str, BaseDistribution] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """The outcome of the trial of this number: the known one, or that of training now."""
        known = self.known(number)
        if known is not None:
            return known
        trial = self.begin(number, point, space)
        return self.end(trial, train(), notes)


def best_learning_rate(outcomes: Mapping[float, Outcome]) -> tuple[float, float]:
    """(eta*, A*): the learning rate of the highest accuracy; among equals the first, which is the largest."""
    best, highest = 0.0, -1.0
    for learning_rate, outcome in outcomes.items():
        if outcome.accuracy > highest:
            best, highest = learning_rate, outcome.accuracy
    return best, highest


def accepted(outcome: Outcome, threshold: float) -> bool:
    """Whether an attempt is good enough: it reached the threshold, and its training did not diverge."""
    return not outcome.diverged and outcome.accuracy >= threshold - ROUNDING


def decay_until_accepted(
    start: Knobs,
    declared: Mapping[str, Knob],
    selection: Selection,
    threshold: float,
    attempt: Callable[[int, Knobs], Outcome],
) -> tuple[list[tuple[Knobs, Outcome]], Knobs]:
    """The second phase: attempts from the most stable knobs on, until one reaches the threshold.

    A method without a knob that decays has one attempt. Reaching the threshold exactly is enough.

    Returns:
        The attempts with their knobs, the last of which is kept even if none was accepted, and the knobs from which the
        next task starts: the kept ones, or after `max_attempts` failures these decayed once more, as in the survey.
    """
    decay = Decay(start, declared, selection.decay)
    attempts: list[tuple[Knobs, Outcome]] = []
    decays = any(knob.decay is not None for knob in declared.values())
    for number in range(selection.max_attempts if decays else 1):
        tried = dict(decay.knobs)
        attempts.append((tried, attempt(number, tried)))
        if accepted(attempts[-1][1], threshold):
            return attempts, tried
        if decays:
            decay.step()
            if decay.knobs == tried:  # at zero already: nothing is left to give up
                break
    return attempts, dict(decay.knobs)


class Front:
    """The Pareto search for plasticity and stability: an Optuna study of two objectives.

    Each decaying knob is searched as u, the number of times that it is decayed from the given value: alpha^u takes the
    place of alpha, with u a real number from -3 (more stable than given) to `max_attempts`. Points are proposed in
    rounds of a fixed size from the outcomes of earlier rounds, so it does not matter how many of a round run at once.
    """

    ROUND = 4
    MORE_STABLE = 3.0

    def __init__(self, study: Study, start: Knobs, declared: Mapping[str, Knob], selection: Selection) -> None:
        self.study, self._start, self._alpha = study, dict(start), selection.decay
        self._declared = {name: knob for name, knob in declared.items() if knob.decay is not None}
        self.space: dict[str, BaseDistribution] = {
            name: FloatDistribution(-self.MORE_STABLE, selection.max_attempts) for name in self._declared
        }

    def enter(self, number: int, knobs: Knobs, outcome: Outcome) -> None:
        """Enter a trial from elsewhere, at the nearest point of the searched space."""
        point = {name: self._decays(name, knobs[name]) for name in self._declared}
        self.study.run(number, point, lambda: outcome, self.space, {"knobs": knobs})

    def round(self, numbers: range, *key: int | str) -> list[Knobs]:
        """The knobs to try as the trials of these numbers; drawn by the key and what earlier trials have found."""
        points = []
        earlier = self.study.before(numbers.start)
        for number in numbers:
            sampler = optuna.samplers.TPESampler(seed=seed_of(*key, number) % 2**32, n_startup_trials=self.ROUND)
            aside = optuna.create_study(sampler=sampler, directions=["maximize", "maximize"])
            aside.add_trials(earlier)
            points.append(aside.ask(self.space).params)
        return points

    def knobs(self, point: Mapping[str, Any]) -> Knobs:
        """The knobs at a point of the search."""
        return self._start | {name: self._decayed(name, u) for name, u in point.items()}

    def _decayed(self, name: str, u: float) -> float:
        knob, value = self._declared[name], self._start[name]
        assert knob.decay is not None
        assert isinstance(value, float)
        decayed = knob.decay(value, self._alpha**u)
        low, high = knob.range or (-math.inf, math.inf)
        return float(min(max(decayed, low), high))

    def _decays(self, name: str, value: Value) -> float:
        """The u whose value is nearest, by halving: a decay is monotone."""
        low, high = -self.MORE_STABLE, float(self.space[name].high)  # type: ignore[attr-defined]
        falls = self._decayed(name, low) > self._decayed(name, high)
        assert isinstance(value, float)
        for _ in range(50):
            middle = (low + high) / 2
            if (self._decayed(name, middle) > value) == falls:
                low = middle
            else:
                high = middle
        return (low + high) / 2


def most_stable(outcomes: Sequence[Outcome], threshold: float) -> int | None:
    """The most stable point of the front that reaches the threshold (the first of equal ones); None if none does."""
    points = [(outcome.accuracy, outcome.stability or 0.0) for outcome in outcomes]
    good = [number for number in front(points) if accepted(outcomes[number], threshold)]
    return max(good, key=lambda number: outcomes[number].stability or 0.0, default=None)


class _Listed(optuna.samplers.BaseSampler):
    """Samples the point it was told."""

    point: dict[str, Scalar]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.point[param_name]


class _Chained(JournalFileBackend):
    """Optuna's journal file, with the digests of `cl.journal` in it; `last`: that of the last line."""

    def __init__(self, path: Path, last: str) -> None:
        super().__init__(str(path), JournalFileOpenLock(str(path)))
        self._last = last

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        last, entries = chained(self._last, logs)
        super().append_logs(entries)
        self._last = last


def _storage(path: Path, last: str) -> JournalStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return JournalStorage(_Chained(path, last))


def _distribution(value: Scalar) -> BaseDistribution:
    if isinstance(value, float):
        return FloatDistribution(-1e15, 1e15)
    return CategoricalDistribution([value])
