"""What a method adds to a step as tasks come: `python -m benchmarks.steps`.

The default network learns ten tasks of noise of the size of permuted-digits. Steps of task 2 and of task 10 of every
method are measured in turn with those of finetuning, on one core; the figures are medians of the ratios, round by
round. For methods that compute gradients on stored samples, what they add is given in backward passes of a batch, for
each old task.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.costs import heading, line, synthetic
from cl import cli
from cl.learner import Learner
from cl.machine import keeping_memory
from cl.ops import cross_entropy
from cl.params import Params, read, validate
from cl.selection import Outcome

SHAPE, TASKS, SAMPLES = (1, 8, 8), 10, 2000
METHODS = "ewc,si,mas,online_ewc,mean_imm,lwf,r_pm,gem"
CPU = torch.device("cpu")


def params_of(method: str) -> Params:
    """The knobs and batches of the default comparison; five epochs, at a learning rate that does no harm."""
    knobs = dict(read(Path("params.yaml"), methods=[method]).methods[method])
    return validate({"training": {"epochs": 5, "learning_rate": 1e-3}, "methods": {method: knobs}}, "benchmark")


class Steps:
    """A method that has learned the tasks before this one (counted from 1), and learns it again and again."""

    def __init__(self, method: str, task: int) -> None:
        self.learner = Learner(params_of(method), method, 0, synthetic(TASKS, SAMPLES, 20, CPU, SHAPE), CPU)
        for stage in self.learner.experiences[: task - 1]:
            self.learner.open(stage)
            self.learner.consolidate("learn", 0, 1e-3, self.learner.knobs, self._train(0))
        self.learner.open(self.learner.experiences[task - 1])
        self.trial = 0

    def _train(self, trial: int) -> Outcome:
        return self.learner.train("learn", trial, 1e-3, self.learner.knobs, plain=False)

    def seconds(self) -> float:
        """Processor time of a step, the mean over a training."""
        self.trial += 1
        done = self._train(self.trial)
        return done.step_seconds / done.steps

    def backward_seconds(self) -> float:
        """Of a backward pass of finetuning's loss on a batch, the mean over an epoch."""
        net, data = self.learner.method.net.train(), self.learner.task.train
        total, count = 0.0, 0
        for x, y, t in data.batches(self.learner.training.batch_size):
            loss = cross_entropy(net, x, y, t)
            net.zero_grad()
            started = time.process_time()
            loss.backward()
            total, count = total + time.process_time() - started, count + 1
        return total / count


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--methods", metavar="A,B", default=METHODS, help=f"default: {METHODS}")
    made.add_argument("--rounds", type=cli.positive, default=15, help="default: 15")
    return made


def main() -> int:
    """Print the table."""
    given = parser().parse_args()
    torch.set_num_threads(1)
    methods = ["finetune", *cli.methods_of(given.methods)]
    last = TASKS
    with keeping_memory():
        steps = {(method, task): Steps(method, task) for method in methods for task in (2, last)}
        rounds: list[dict[tuple[str, int], float]] = []
        backward: list[float] = []
        for number in range(given.rounds + 1):
            found = {key: one.seconds() for key, one in steps.items()}
            passed = steps["finetune", last].backward_seconds()
            if number:  # the first is a warm-up
                rounds.append(found)
                backward.append(passed)
            print(f"round {number} of {given.rounds}", file=sys.stderr, flush=True)

    print("\n".join(heading(["method", "task 2", "task 10", "task 10 / task 2", "backward passes for each old task"])))
    for method in methods:
        early = statistics.median(found[method, 2] / found["finetune", 2] for found in rounds)
        late = statistics.median(found[method, last] / found["finetune", last] for found in rounds)
        growth = statistics.median(found[method, last] / found[method, 2] for found in rounds)
        more = statistics.median(
            (found[method, last] - found["finetune", last]) / passed / (last - 1)
            for found, passed in zip(rounds, backward, strict=True)
        )
        print(line([f"`{method}`", f"{early:.2f}", f"{late:.2f}", f"{growth:.2f}", f"{more:.2f}"]))
    plain = statistics.median(found["finetune", last] for found in rounds)
    print(
        f"\nA step of finetuning takes {1e6 * plain:.0f} us, its backward pass {1e6 * statistics.median(backward):.0f}."
    )
    print(f"\nTasks 2 and 10: a step in units of finetuning's on the same task. {len(rounds)} rounds, one core.")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
