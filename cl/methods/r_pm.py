"""R-PM: finetuning with replay from a partial memory, of which every task has the same part from the start.

The baseline of De Lange et al., A continual learning survey, TPAMI 2021, section 6.1.
"""

from __future__ import annotations

from cl.knob import knob
from cl.rehearsal import Rehearsal


class RPM(Rehearsal):
    """Every task keeps `memory_per_task` samples, however many tasks there are."""

    memory_per_task: int = knob(450, range=(0, 1e9), help="samples kept of each task")

    def slots(self, tasks: int) -> int:
        """The same for every task."""
        return self.memory_per_task

    def capacity(self) -> int:
        """The memories of the old tasks."""
        return self.memory_per_task * self.task
