"""The same methods here and in Avalanche (ContinualAI): `python -m benchmarks.outside`.

Both sides learn the same permuted digits, from the same initial weights, with the same optimiser, batch size and number
of epochs, and go back to the epoch of the best validation accuracy. They take turns, seed by seed, on one thread.
What a knob is called and means there is in `PAIRS`; what came of it, and who is right, in docs/outside.md. With
`--keep` the outcome of every run is kept as `KEPT`, from which docs/verification.md is made.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.metadata
import importlib.util
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from cl import cli
from cl.data import Sequence as TaskSequence
from cl.data import Task, joined, load
from cl.data.prepare import digest, prepare, read_manifest
from cl.errors import UserError
from cl.evaluate import accuracy
from cl.files import sealed, write_json
from cl.learner import Learner
from cl.method import Method
from cl.metrics import interval
from cl.nets import MultiHead, build
from cl.params import Params, Training, validate
from cl.register import make, method_class
from cl.rng import generator, seed_of
from flows.tracking.origin import git_commit

Settings: TypeAlias = dict[str, Any]
PACKAGE = "avalanche"
KEPT = Path("reproduction/avalanche/outcomes.json")
MARGIN = 0.02
"""Of a difference in accuracy that would not matter."""


@dataclass(frozen=True)
class Pair:
    """One method in both: its knobs here, and the strategy there with the same knobs in its own terms."""

    here: str
    knobs: Settings
    there: str
    """Class of `avalanche.training.supervised`."""
    translated: Callable[[Settings, Training], Settings] = lambda knobs, training: {}
    """What the strategy is constructed with."""
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy


def _ewc(knobs: Settings, training: Training) -> Settings:
    # Here F = (1/N) sum_b (sum_{i in b} g_i)^2; there F = (1/n) sum_b ((1/B) sum_{i in b} g_i)^2, n = N/B batches, so
    # F there = F here / B, the last, smaller batch aside. Neither has a factor 1/2. "online" with decay 1: the sum of
    # all tasks' F around the last weights, as here; the default, "separate", keeps an anchor for every task.
    return {"ewc_lambda": knobs["strength"] * training.batch_size, "mode": "online", "decay_factor": 1.0}


def _si(knobs: Settings, training: Training) -> Settings:
    # The penalty there has a factor 1/2. The damping is in the same place. That importance is cut at 0.001 from above,
    # and not at 0 from below, cannot be set.
    return {"si_lambda": 2 * knobs["strength"], "eps": knobs["damping"]}


def _mas(knobs: Settings, training: Training) -> Settings:
    # Both take the absolute value of batch gradients, here of sums divided by N, there of means divided by the number
    # of batches: the same, the last batch aside. Here importances of tasks add up; there they are averaged, the newest
    # with weight 1 - alpha. At 1/2 what is there after two tasks is half the sum, hence 2 lambda; but after one task it
    # is all of it, after three it is (1/4, 1/4, 1/2), and no factor makes it the sum throughout.
    return {"lambda_reg": 2 * knobs["strength"], "alpha": 0.5}


def _lwf(knobs: Settings, training: Training) -> Settings:
    # There a Kullback-Leibler divergence, here a cross-entropy: they differ by the teacher's entropy, a constant. Both
    # are means over the batch and sums over old heads, neither has the factor T^2.
    return {"alpha": knobs["strength"], "temperature": knobs["temperature"]}


def _gem(knobs: Settings, training: Training) -> Settings:
    # The quadratic programme is the same, its ridge of 0.001 too.
    return {"patterns_per_exp": knobs["memory_per_task"], "memory_strength": knobs["margin"]}


def _agem(knobs: Settings, training: Training) -> Settings:
    # There so many samples of each task, chosen as it ends; here a reservoir of all that was seen, the present task's
    # too, of which the old ones are drawn from. With five tasks a fifth of the budget a task is as many in the end. The
    # reference gradient there is of the same number of each old task, here of a uniform draw.
    return {"patterns_per_exp": knobs["memory_budget"] // 5, "sample_size": knobs["replay_batch"]}


def _replay(knobs: Settings, training: Training) -> Settings:
    # Here the loss is CE(new) + CE(old), each a mean; there one mean over new and old together. With as many old
    # samples as new ones, its default, that is half of it, which `_both_weigh_one` makes good. R-FM draws fewer old
    # samples for a step and keeps a place free for the task being learned; ER's reservoir has samples of that one too.
    return {"mem_size": knobs["memory_budget"]}


def _both_weigh_one(scores: Tensor, y: Tensor) -> Tensor:
    loss = F.cross_entropy(scores, y)
    return 2 * loss if len(y) > TRAINING.batch_size else loss


TRAINING = Training()
PAIRS = (
    Pair("finetune", {}, "Naive"),
    Pair("joint", {}, "JointTraining"),
    Pair("r_fm", {"memory_budget": 500}, "Replay", _replay, _both_weigh_one),
    Pair("ewc", {"strength": 5.0, "estimator": "batch-sum"}, "EWC", _ewc),
    Pair("si", {"strength": 0.3, "damping": 1e-3}, "SynapticIntelligence", _si),
    Pair("mas", {"strength": 0.1, "estimator": "batch-sum"}, "MAS", _mas),
    Pair("lwf", {"strength": 1.0, "temperature": 2.0}, "LwF", _lwf),
    Pair("gem", {"margin": 0.5, "memory_per_task": 50}, "GEM", _gem),
    Pair("a_gem", {"memory_budget": 250, "replay_batch": 200, "margin": 0.0}, "AGEM", _agem),
    Pair("er", {"memory_budget": 500}, "Replay", _replay, _both_weigh_one),
)


@dataclass(frozen=True)
class Outcome:
    """Test accuracy in [0, 1], the mean over all tasks after the last, and processor time in seconds of training."""

    accuracy: float
    seconds: float


def params_for(pair: Pair, tasks: int, epochs: int) -> Params:
    """The run both sides are given: a fixed number of epochs and no selection. Raises `UserError` if impossible."""
    tree = {
        "benchmark": {"tasks": tasks},
        "training": {"epochs": epochs, "patience": {"drop_after": epochs, "stop_after": epochs}},
        "selection": {"enabled": False},
        "methods": {pair.here: pair.knobs},
    }
    return validate(tree, "benchmarks.outside")


def here(pair: Pair, params: Params, tasks: TaskSequence, seed: int) -> Outcome:
    """One run by this project's loop."""
    learner = Learner(params, pair.here, seed, tasks, torch.device("cpu"))
    started = time.process_time()
    for stage in learner.experiences:
        learner.open(stage)
        rate = params.training.learning_rate
        trained = learner.train("learn", 0, rate, learner.knobs, plain=False)
        learner.consolidate("learn", 0, rate, learner.knobs, trained)
    seconds = time.process_time() - started
    return Outcome(statistics.fmean(learner.test()), seconds)


def there(pair: Pair, params: Params, tasks: TaskSequence, seed: int) -> Outcome:
    """The same run by Avalanche's loop."""
    training = params.training
    net = build(params.model, tasks.input_shape, generator(seed, "network"))
    for task in tasks.tasks:
        net.add_head(len(task.classes), generator(seed, "head", task.index))
    judge = make("finetune", {})  # both sides are validated and tested by the same lines
    judge.attach(net, 0, training, training.learning_rate, (seed,))

    together = method_class(pair.here).sees_all_tasks
    stages = (joined(tasks.tasks),) if together else tasks.tasks
    supervised = importlib.import_module(f"{PACKAGE}.training.supervised")
    strategy = getattr(supervised, pair.there)(
        model=_wide(net) if together else _multi_task(net),
        optimizer=torch.optim.SGD(net.parameters(), lr=training.learning_rate, momentum=training.momentum),
        criterion=pair.criterion,
        train_mb_size=training.batch_size,
        train_epochs=training.epochs,
        plugins=[_keep_best(judge, stages)],
        evaluator=None,
        **pair.translated(pair.knobs, training),
    )
    experiences = _experiences(tasks, net if together else None)
    random.seed(seed_of(seed))  # Avalanche draws from the global generators
    torch.manual_seed(seed_of(seed))
    started = time.process_time()
    with warnings.catch_warnings(record=True):  # Avalanche warns, every time, of calls it makes itself
        for experience in [experiences] if together else experiences:
            strategy.train(experience, reset_optimizer_state=True)  # else momentum goes on into the next task
    seconds = time.process_time() - started
    return Outcome(statistics.fmean(accuracy(judge, task.test, inference=True) for task in tasks.tasks), seconds)


def _experiences(tasks: TaskSequence, wide: MultiHead | None) -> Any:
    """The training stream: the same tensors; with `wide`, labels are columns of all heads side by side."""
    benchmarks, utils = (importlib.import_module(f"{PACKAGE}.benchmarks{name}") for name in ("", ".utils"))
    datasets = []
    for task in tasks.tasks:
        y = task.train.y if wide is None else wide.column(task.train.y, task.index)
        attributes = [
            utils.DataAttribute(y.tolist(), "targets"),
            utils.TaskLabels([task.index] * len(y)),
        ]
        dataset = utils.TaskAwareSupervisedClassificationDataset(
            [TensorDataset(task.train.x, y)], data_attributes=attributes
        )
        datasets.append(dataset)
    scenario = benchmarks.benchmark_from_datasets(train=datasets)
    return benchmarks.with_classes_timeline(benchmarks.with_task_labels(scenario)).train_stream


def _multi_task(net: MultiHead) -> Any:
    """The network as Avalanche's own multi-head networks are: features once, then the heads asked for."""
    module: Any = importlib.import_module(f"{PACKAGE}.models").MultiTaskModule

    class Heads(module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.heads = net.heads

        def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
            return self.heads[task_label](x)  # type: ignore[no-any-return]

    class Network(module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.classifier = net.backbone, Heads()

        def forward(self, x: Tensor, task_labels: Tensor | None) -> Any:
            return self.classifier(self.backbone(x), task_labels)

    return Network()


def _wide(net: MultiHead) -> Any:
    """The network without task labels: all heads side by side."""

    class Wide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)  # type: ignore[no-any-return]

    return Wide()


def _keep_best(judge: Method, stages: Sequence[Task]) -> Any:
    """A plugin that ends every task with the epoch of the best validation accuracy, as the loop here does.

    It acts before any strategy's end of a task. The path integral of synaptic intelligence goes back too.
    """
    base: Any = importlib.import_module(f"{PACKAGE}.core").SupervisedPlugin

    class KeepBest(base):  # type: ignore[misc]
        def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
            self.best, self.accuracy = self.copied(strategy), 0.0

        def copied(self, strategy: Any) -> tuple[Any, ...]:
            paths = [copy.deepcopy(p.syn_data["trajectory"]) for p in strategy.plugins if hasattr(p, "syn_data")]
            return {name: tensor.clone() for name, tensor in judge.net.state_dict().items()}, paths

        def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            task = stages[strategy.clock.train_exp_counter]
            reached = accuracy(judge, task.validation, inference=False)
            if reached > self.accuracy:
                self.best, self.accuracy = self.copied(strategy), reached
            if strategy.clock.train_exp_epochs == strategy.train_epochs - 1:  # counted from 0, and counted up later
                weights, paths = self.best
                judge.net.load_state_dict(weights)
                for plugin in (p for p in strategy.plugins if hasattr(p, "syn_data")):
                    plugin.syn_data["trajectory"] = paths.pop(0)
            strategy.model.train()

    return KeepBest()


def row(pair: Pair, mine: Sequence[Outcome], theirs: Sequence[Outcome]) -> str:
    """A line of the table; the difference is taken seed by seed."""
    differences = [b.accuracy - a.accuracy for a, b in zip(mine, theirs, strict=True)]
    mean, half = interval(differences)
    ratio = statistics.median(b.seconds / a.seconds for a, b in zip(mine, theirs, strict=True))
    cells = [
        f"{pair.here} / {pair.there}",
        percent(*interval([o.accuracy for o in mine])),
        percent(*interval([o.accuracy for o in theirs])),
        percent(mean, half, sign="+"),
        verdict(mean, half),
        f"{ratio:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def verdict(mean: float, half: float | None) -> str:
    """What the interval of a difference shows: an equivalence within `MARGIN`, a difference, both or neither."""
    if half is None:
        return "?"
    within, differs = abs(mean) + half <= MARGIN, abs(mean) > half
    if differs:
        return "within, differs" if within else "differs"
    return "same" if within else "open"


def percent(mean: float, half: float | None, sign: str = "") -> str:
    """`93.12 ± 0.40`: per cent, with the half width of the interval where there is one."""
    return f"{100 * mean:{sign}.2f}" + ("" if half is None else f" ± {100 * half:.2f}")


def parser() -> argparse.ArgumentParser:
    """The options of the command."""

    def names(text: str) -> list[str]:
        return [name.strip().replace("-", "_") for name in text.split(",")]

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    made = argparse.ArgumentParser(prog="python -m benchmarks.outside", description=(__doc__ or "").split("\n")[0])
    made.add_argument("--seeds", type=numbers, default=list(range(5)))
    made.add_argument("--tasks", type=cli.positive, default=5)
    made.add_argument("--epochs", type=cli.positive, default=25)
    made.add_argument("--methods", type=names, default=[pair.here for pair in PAIRS])
    made.add_argument("--keep", action="store_true", help=f"write what came of every run to {KEPT}")
    return made


def pairs_for(methods: Sequence[str]) -> list[Pair]:
    """The pairs to run. Raises `UserError` for an unknown name."""
    for name in methods:
        if name not in {pair.here for pair in PAIRS}:
            raise UserError(f"--methods: {name!r} is in no pair; known: {', '.join(pair.here for pair in PAIRS)}")
    return [pair for pair in PAIRS if pair.here in methods]


def both_sides(pair: Pair, tasks: TaskSequence, options: argparse.Namespace) -> tuple[list[Outcome], list[Outcome]]:
    """What comes of every seed, here and in Avalanche, with a line for each to standard error."""
    params = params_for(pair, options.tasks, options.epochs)
    mine, theirs = [], []
    for seed in options.seeds:
        mine.append(here(pair, params, tasks, seed))
        theirs.append(there(pair, params, tasks, seed))
        both = ((name, o[-1]) for name, o in (("here", mine), ("Avalanche", theirs)))
        line = ", ".join(f"{name} {100 * o.accuracy:.2f} % in {o.seconds:.1f} s" for name, o in both)
        print(f"{pair.here}, seed {seed}: {line}", file=sys.stderr, flush=True)
    return mine, theirs


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a run to standard error, and the table."""
    options = parser().parse_args(arguments)
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError("Avalanche, with which this compares, is not installed; run pip install -e '.[outside]'")
    pairs = pairs_for(options.methods)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="No loggers specified")
    commit = git_commit()
    lines, kept = [], {}
    with tempfile.TemporaryDirectory() as folder:
        warm_up = params_for(PAIRS[0], options.tasks, 1)
        prepare(warm_up.benchmark, Path("data"), Path(folder) / "prepared", say=lambda line: None)
        tasks = load(Path(folder) / "prepared")
        data = digest([task["digest"] for task in read_manifest(Path(folder) / "prepared")["tasks"]])
        for side in (here, there):  # what is paid once is not to be timed
            side(PAIRS[0], warm_up, tasks, 0)
        for pair in pairs:
            mine, theirs = both_sides(pair, tasks, options)
            lines.append(row(pair, mine, theirs))
            kept[pair.here] = {"here": [asdict(o) for o in mine], "there": [asdict(o) for o in theirs]}
    versions = {name: importlib.metadata.version(name) for name in ("avalanche-lib", "torch")}
    if options.keep:
        run = {"seeds": options.seeds, "tasks": options.tasks, "epochs": options.epochs, "versions": versions}
        write_json(KEPT, sealed({**run, "commit": commit, "data": data, "outcomes": kept}))
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"{options.tasks} tasks, {options.epochs} epochs, seeds {options.seeds}; {named}\n")
    print("| method here / there | here | Avalanche | difference | same? | time ratio |")
    print("|---|---|---|---|---|---|", *lines, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
