"""The first task, trained once for all methods that train it as plain finetuning does (`Method.shares_first_task`).

These methods go through the same plasticity search on it, from the same network, in the same order of samples: the
search ends in the same bytes. So its trials are kept in a folder that all runs of an output folder share. The run that
comes first trains them, and the others find them by a key of everything that decides them.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.backends import cpu

from cl import checkpoint
from cl.checkpoint_files import DamagedCheckpoint
from cl.keys import first_task_key
from cl.locks import alone
from cl.nets.pretrained import digest_of
from cl.selection import Outcome
from cl.train import Snapshot

if TYPE_CHECKING:
    from cl.learner import Learner
    from cl.trials import SearchJob


class Elsewhere(Exception):
    """Another run is training this trial."""


@dataclass(frozen=True)
class Spent:
    """What another run has spent on a trial, in seconds. It belongs to the cost of each run that uses the trial."""

    processor: float
    wall: float


class FirstTask:
    """The shared trials of the first task, as one run sees them.

    Args:
        learner: that of the run.
        folder: that of all runs.
        keep: keeps the model of a trial in the run's own folder, given its number and outcome.
    """

    def __init__(self, learner: Learner, folder: Path, keep: Callable[[int, Outcome], None]) -> None:
        self.learner, self._all, self._keep = learner, folder, keep
        self.spent: dict[int, Spent] = {}
        """By trial, for those that another run has trained."""
        self._own: dict[int, Outcome] = {}
        """By trial, for those that this run has trained."""

    def has(self, job: SearchJob) -> bool:
        """Whether this trial is one that other runs train too."""
        method = self.learner.method
        alike = method.starts_as_finetuning() and not method.sees_all_tasks and not self.learner.params.scenario.online
        return job.index == 0 and job.own and alike and self.learner.trains

    def train(self, job: SearchJob) -> None:
        """Train the trial, unless a run has trained it or is training it."""
        with contextlib.suppress(Elsewhere), self._alone(job, wait=False):
            if self._load(job) is None:
                self._train(job)

    def outcome(self, job: SearchJob) -> Outcome:
        """What came of the trial. It is trained now if no run has trained it."""
        if (own := self._own.get(job.number)) is not None:
            return own
        began = time.monotonic()
        with self._alone(job, wait=True):
            waited = time.monotonic() - began
            if (found := self._load(job)) is None:
                return self._train(job)
        record = found[1]
        self.spent[job.number] = Spent(record["process_seconds"], max(0.0, record["seconds"] - waited))
        return Outcome(**record["outcome"])

    def restore(self, job: SearchJob) -> bool:
        """Leave the trial's model in the learner, with the method's state after this training.

        False if that state is not to be had without training. What others have spent on the trial then counts no more.
        """
        if self.learner.method.learns_from_steps:
            self.spent.pop(job.number, None)
            return False
        with self._alone(job, wait=True):
            if (found := self._load(job)) is None:
                return False
        self.learner.begin("plasticity", job.number, job.learning_rate, job.knobs)
        self.learner.method.net.load_state_dict(found[0].net)
        return True

    def _train(self, job: SearchJob) -> Outcome:
        started, wall = time.process_time(), time.monotonic()
        outcome = self.learner.train("plasticity", job.number, job.learning_rate, job.knobs, plain=False)
        record = {
            "outcome": asdict(outcome),
            "process_seconds": time.process_time() - started,
            "seconds": time.monotonic() - wall,
        }
        net = Snapshot(Snapshot.of(self.learner.method).net, {})
        checkpoint.save(self._place(job), net, record, self._trial_key(job))
        if self.learner.method.learns_from_steps:
            self._keep(job.number, outcome)
        self._own[job.number] = outcome
        return outcome

    def _load(self, job: SearchJob) -> tuple[Snapshot, dict[str, Any]] | None:
        with contextlib.suppress(DamagedCheckpoint):
            return checkpoint.load(self._place(job), self._trial_key(job), self.learner.device)
        return None

    @contextlib.contextmanager
    def _alone(self, job: SearchJob, *, wait: bool) -> Iterator[None]:
        """Hold the trial; raises `Elsewhere` where another run does and this one does not wait."""

        def busy() -> None:
            if not wait:
                raise Elsewhere

        place = self._place(job)
        with alone(place.with_name(f"{place.name}.lock"), busy):
            yield

    def _place(self, job: SearchJob) -> Path:
        return self._folder / f"trial-{job.number:02d}"

    def _trial_key(self, job: SearchJob) -> str:
        return f"{self._key} {job.number} {job.learning_rate!r}"

    @property
    def _folder(self) -> Path:
        return self._all / self._key[:16]

    @functools.cached_property
    def _key(self) -> str:
        """Names everything that decides the trials. Among it is the network that they start from, by its bytes."""
        decides = [digest_of(self.learner.base.net), self.learner.experiences[0].digest, cpu.get_cpu_capability()]
        return first_task_key(self.learner.params, self.learner.name, self.learner.seed, decides)
