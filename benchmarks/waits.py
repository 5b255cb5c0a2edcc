"""What a step of each method waits for on a GPU: `python -m benchmarks.waits`.

Every method learns three small tasks on a device that is pretended (`benchmarks.pretend`), so no GPU is needed. Counted
is what the host does with the device from one step to the next of the same epoch, and during the evaluation of a split.
What is done once an epoch, once a trial or once a task is of no account here. Fills docs/scaling.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks import pretend
from benchmarks.pretend import KINDS, QUEUED, READ, WAITS
from benchmarks.tables import fill
from cl import cli, evaluate, learner, train
from cl.data import Sequence as TaskSequence
from cl.data import Split, Task
from cl.data.prepare import Format
from cl.data.task import Normalise
from cl.names import names_in
from cl.params import Params, validate
from cl.register import method_class
from cl.rng import generator

PAGE = Path("docs/scaling.md")
TASKS, CLASSES, BATCH, STEPS, EPOCHS = 3, 4, 8, 4, 2
"""Of the tasks that are learned: images enough for so many steps an epoch."""
LITTLE: dict[str, dict[str, Any]] = {
    "ebll": {"code_sizes": [3], "reconstruction": [0.1], "code_epochs": 2},
    "dgr": {"generator_epochs": 2, "generator_units": 8, "generator_code": 3},
    "expert_gate": {"gate_epochs": 2, "code_size": 5},
    "packnet": {"retrain_epochs": 2},
    "vcl": {"test_samples": 2},
    "vcl_coreset": {"test_samples": 2, "memory_budget": 18},
    "icarl": {"memory_budget": 24},
    "r_fm": {"memory_budget": 24},
    **{name: {"memory_per_task": 10} for name in ("gem", "r_pm")},
    **{name: {"memory_budget": 24} for name in ("er", "derpp", "gss", "cope", "a_gem")},
}
"""Knobs that keep a method from taking long."""
NEEDED = {
    "gem": "the host reads whether an old task is violated; only then it also reads the products of the gradients and "
    "solves the quadratic programme",
    "a_gem": "the optimizer leaves the heads of old tasks as they are unless the gradient is projected, so the host "
    "reads whether it is; with one head or class-incrementally all parameters have gradients, and nothing is read",
    "gss": "scores decide by lot which samples are stored; they are read for `together` new samples at once, and in "
    "the first epoch only",
}
"""Why the host has to wait in a step of these methods; nothing but numbers read back is allowed even there."""
ROUTED = {"expert_gate": "without the task of an image, its expert is read for each batch"}
"""Why more than the result is read in an evaluation."""


@dataclass
class Found:
    """What was done in the steps of one method."""

    steps: list[Counter[tuple[str, str]]] = field(default_factory=list)
    """For each step: how often an operation of a kind was asked for at a place."""
    splits: list[Counter[tuple[str, str]]] = field(default_factory=list)
    """For each evaluation of a split the same."""

    def most(self, kind: str) -> int:
        """How often at most in a step."""
        return max((sum(n for (of, _), n in step.items() if of == kind) for step in self.steps), default=0)

    def places(self, kinds: Iterable[str] = WAITS) -> list[str]:
        """Where in `cl` these kinds were asked for in a step."""
        return sorted({f"{kind} in {place}" for step in self.steps for kind, place in step if kind in kinds})

    @property
    def waits_per_split(self) -> int:
        """Of an evaluation, the most."""
        return max((sum(n for (of, _), n in split.items() if of in WAITS) for split in self.splits), default=0)


def sequence(device: torch.device) -> TaskSequence:
    """Tasks of noise, a little brighter from class to class."""
    normalise, draw = Normalise(Format(255.0, (0.5,), (0.25,)), device), generator("waits")

    def split(index: int, count: int) -> Split:
        y = torch.arange(count) % CLASSES
        images = (torch.randint(0, 99, (count, 1, 6, 6), generator=draw) + 30 * y.view(-1, 1, 1, 1)).to(torch.uint8)
        return Split(lambda: (images, y, index), normalise)

    made = [
        Task(index, name, tuple("abcd"), split(index, BATCH * STEPS), split(index, 12), split(index, 12), name)
        for index, name in enumerate(f"noise-{index}" for index in range(TASKS))
    ]
    return TaskSequence("noise", (1, 6, 6), tuple(made))


def params_of(method: str, scenario: str, *, online: bool, **sections: Any) -> Params:
    """One training a task, at one learning rate."""
    training = {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 0.05, "precision": "float32"}
    tree: dict[str, Any] = {
        "model": {"hidden": [10]},
        "scenario": {"name": scenario, "online": online, "batch_size": BATCH},
        "selection": {"enabled": False},
        "methods": {method: LITTLE.get(method, {})},
    }
    for name, section in {"training": training, **sections}.items():
        tree[name] = {**tree.get(name, {}), **section}
    return validate(tree, "benchmark")


def learned(method: str, scenario: str = "task", *, online: bool = False, **sections: Any) -> Found:
    """What the method does in its steps, and in evaluations, while it learns the tasks."""
    found, device = Found(), pretend.install()
    params = params_of(method, scenario, online=online, **sections)
    with pretend.watched() as watch, _marks(watch, found):
        one = learner.Learner(params, method, 0, sequence(device), device)
        for stage in one.experiences:
            one.open(stage)
            rate = params.training.learning_rate if one.trains else None
            one.consolidate("learn", 0, rate, one.knobs, one.train("learn", 0, rate, one.knobs, plain=False))
            one.test()
            one.test_other()
    return found


@contextlib.contextmanager
def _marks(watch: pretend.Watch, found: Found) -> Iterator[None]:
    """Within the body it is noted what belongs to which step, and to which evaluation."""

    def marked(plain: Any) -> Any:
        def loop(trainable: Any, data: Task, key: Any, *given: Any, **settings: Any) -> Any:
            epoch = None

            def mark(steps: int) -> None:
                nonlocal epoch
                seen = watch.taken()
                if epoch == trainable.epoch:
                    found.steps.append(seen)
                epoch = trainable.epoch

            return plain(trainable, data, key, **{**settings, "watch": mark})

        return loop

    def accuracy(*given: Any, **settings: Any) -> float:
        step = watch.taken()
        evaluate.accuracy(*given, **settings)  # what the method computes once a task is computed here
        watch.taken()
        reached = evaluate.accuracy(*given, **settings)
        found.splits.append(watch.taken())
        watch.seen = step
        return reached

    with contextlib.ExitStack() as stack:
        for module in (learner, train):
            stack.enter_context(patch.object(module, "accuracy", accuracy))
        for name in ("fit", "show"):
            stack.enter_context(patch.object(learner, name, marked(getattr(train, name))))
        yield


def scenarios(method: str) -> Iterator[tuple[str, bool]]:
    """The scenarios in which it works, each with and without a stream where it can learn from one."""
    of = method_class(method)
    for scenario in sorted(of.scenarios):
        yield scenario, False
        if of.online:
            yield scenario, True


def faults(method: str, found: Found) -> list[str]:
    """What the method waits for without need, in words."""
    allowed = {READ} if method in NEEDED else set()
    more = [f"{method}: {place}, in a step" for place in found.places(set(WAITS) - allowed)]
    if method not in ROUTED and found.waits_per_split > 1:
        more.append(f"{method}: an evaluation waits {found.waits_per_split} times")
    return more


def table(of_methods: dict[str, Found]) -> str:
    """A line for each method, then why some wait."""
    lines = [
        "| method | numbers read back | tensors sent | shapes | copies nobody waits for | read in an evaluation |",
        "| :--- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for method, found in of_methods.items():
        counts = [*(found.most(kind) for kind in (*WAITS, QUEUED)), found.waits_per_split]
        lines.append(f"| `{method}` | {' | '.join(str(count or '–') for count in counts)} |")
    reasons = {name: why for name, why in (NEEDED | ROUTED).items() if name in of_methods}
    for name, why in reasons.items():
        lines += ["", textwrap.fill(f"- `{name}`: {why}.", 120, subsequent_indent="  ")]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.waits", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--methods", metavar="A,B", help="these alone")
    made.add_argument("--scenario", choices=("task", "domain", "class", "all"), default="task")
    made.add_argument("--places", action="store_true", help="print where in `cl` each kind was asked for")
    made.add_argument("--json", action="store_true", help="print faults, waits and table as JSON")
    return made


def main() -> int:
    """Print the table, and write it into the page when it is of all methods."""
    given = parser().parse_args()
    chosen = cli.methods_of(given.methods) if given.methods else names_in("methods")
    of_methods: dict[str, Found] = {}
    wrong: list[str] = []
    for number, method in enumerate(chosen, start=1):
        print(f"{method} ({number} of {len(chosen)})", file=sys.stderr)
        for scenario, online in scenarios(method):
            if scenario == given.scenario or given.scenario == "all":
                found = learned(method, scenario, online=online)
                wrong += faults(method, found)
                total = of_methods.setdefault(method, Found())
                total.steps += found.steps
                total.splits += found.splits
        if given.places and method in of_methods:
            print("\n".join(f"  {place}" for place in of_methods[method].places(KINDS)))
    if given.json:
        most = {name: sum(found.most(kind) for kind in WAITS) for name, found in of_methods.items()}
        print(json.dumps({"faults": wrong, "waits": most, "table": table(of_methods)}))
        return 0
    print(table(of_methods))
    print("\n".join(wrong), file=sys.stderr)
    if not given.methods and given.scenario == "task":
        fill(PAGE, "waits", table(of_methods))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
