"""A method that is no file yet, for instance a class in a cell of a notebook: learn all tasks with it, in this process.

There is no search, no checkpoint and no result file: `python -m cl.new_method` makes a file of it, which has all that.
"""

from __future__ import annotations

import torch

from cl.data import Sequence
from cl.learner import Learner
from cl.method import Method
from cl.params import Params
from cl.results import Matrix, matrix_of
from cl.train import Snapshot


class _Trying(Learner):
    """A learner whose method is given, not made by name."""

    def __init__(self, params: Params, method: Method, seed: int, sequence: Sequence) -> None:
        super().__init__(params, "finetune", seed, sequence, torch.device("cpu"))
        plain, self.method, self.knobs = self.method.net, method, method.values()
        method.net = method.wrap(plain)
        method.net.increment, method.net.backbone.reduced = plain.increment, plain.backbone.reduced
        self.base = Snapshot.of(method)


def learn(method: Method, params: Params, sequence: Sequence, seed: int = 0) -> Matrix:
    """The accuracy matrix [after task i][on task j] of a fresh method, with its knobs as they are.

    `sequence`: what `cl.data.load` returns. Each task is trained once, at `training.learning_rate`, as the comparison
    does with `selection.enabled=false`; so `Ewc()` reaches here just what `ewc` reaches there. Raises `UserError`.
    """
    learner = _Trying(params, method, seed, sequence)
    learner.name = type(method).__name__
    rows: list[list[float]] = []
    for task in learner.experiences:
        learner.open(task)
        rate = params.training.learning_rate if learner.trains else None
        trained = learner.train("learn", 0, rate, learner.knobs, plain=False)
        learner.consolidate("learn", 0, rate, learner.knobs, trained)
        rows.append(learner.test())
    return matrix_of(rows, len(sequence.tasks))
