"""R-FM: finetuning with replay from a memory that is full from the first task on, shared by the tasks seen so far.

The baseline of De Lange et al., A continual learning survey, TPAMI 2021, section 6.1.
"""

from __future__ import annotations

from cl.errors import UserError
from cl.knob import knob
from cl.rehearsal import Rehearsal


class RFM(Rehearsal):
    """Every one of t tasks keeps memory_budget / t samples, rounded down."""

    memory_budget: int = knob(4500, range=(1, 1e9), help="samples kept over all tasks together")

    def slots(self, tasks: int) -> int:
        """An equal share. Raises `UserError` where it is less than one sample."""
        if self.memory_budget < tasks:
            raise UserError(
                f"methods.r_fm.memory_budget: {self.memory_budget} samples cannot hold one of each of the {tasks} "
                "tasks seen; raise it"
            )
        return self.memory_budget // tasks

    def capacity(self) -> int:
        """The whole memory, also where rounding or cutting leaves some of it empty."""
        return self.memory_budget
