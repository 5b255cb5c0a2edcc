"""How often Expert Gate gives a test image to its own task's expert: `python -m benchmarks.routing`.

It learns split-digits and permuted-digits by the whole protocol and then asks the gates, image by image. Resumable, as
every run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from cl import checkpoint, cli
from cl.data import load
from cl.data.places import place, prepare_all
from cl.errors import UserError
from cl.learner import Learner
from cl.methods.expert_gate import ExpertGate
from cl.metrics import average_accuracy, interval
from cl.params import Params, read
from cl.pool import Progress, explain, run_all, runs_of
from cl.reading import read_run

METHOD = "expert_gate"
BENCHMARKS = ("split-digits", "permuted-digits")
CPU = torch.device("cpu")


def rate(params: Params, seed: int, out: Path) -> float:
    """Mean over the tasks of the share of test images that their own gate reconstructs best, after the last task."""
    learner = Learner(params, METHOD, seed, load(place(params, out, seed), CPU), CPU)
    last = len(learner.experiences) - 1
    learner.resume(last, checkpoint.load(out / "checkpoints" / METHOD / f"seed-{seed}" / f"task-{last}")[0])
    method = learner.method
    assert isinstance(method, ExpertGate)
    with torch.no_grad():
        right = [method.route(task.test.x) == task.index for task in learner.experiences]
    return sum(float(routed.float().mean()) for routed in right) / len(right)


def row(benchmark: str, given: argparse.Namespace) -> str:
    """A line of the table, in per cent over the seeds."""
    out = given.out / benchmark
    params = read(given.params, [f"benchmark.name={benchmark}", *given.overrides], [METHOD], cli.seeds_of(given.seeds))
    out.mkdir(parents=True, exist_ok=True)
    prepare_all(params, cli.RAW, out, _say)
    runs = runs_of(params)
    if failures := run_all(params, out, runs, Progress(runs, _say)):
        raise UserError(explain(failures))
    results = [read_run(out / "results" / METHOD / f"seed-{seed}.json", METHOD, seed) for seed in params.seeds]
    columns = [
        [rate(params, seed, out) for seed in params.seeds],
        [average_accuracy(result.accuracy) for result in results],
        [average_accuracy(result.other_accuracy or []) for result in results],
    ]
    return f"| {benchmark} | {' | '.join(_spread(values) for values in columns)} |"


def _spread(values: list[float]) -> str:
    mean, half = interval([100 * value for value in values])
    return f"{mean:.2f}" + (f" ± {half:.2f}" if half is not None else "")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = cli.parser("benchmarks.routing", __doc__.splitlines()[0] if __doc__ else None)
    made.set_defaults(out=Path("out/routing"))
    return made


def main() -> int:
    """Learn both and print the table."""
    given = parser().parse_args()
    rows = [row(benchmark, given) for benchmark in BENCHMARKS]
    head = ["| benchmark | own expert % | task-aware accuracy % | task-agnostic |", "| :--- | ---: | ---: | ---: |"]
    print("\n".join([*head, *rows]))
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
