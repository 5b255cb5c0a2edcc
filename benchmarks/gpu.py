"""What a step of each method costs on a GPU, or on one core: `python -m benchmarks.gpu [--device cuda]`.

Every method learns three tasks of noise, of pictures of 64 x 64, with the nets SMALL and BASE. The steps of the last
task are measured in turn with those of a hand-written loop that trains the same net by plain stochastic gradient
descent. What is measured is kept in `<out>/steps.json`, so the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.costs import CLASSES, Memory, heading, line, now, synthetic
from benchmarks.tables import fill
from cl import cli
from cl.data import Task
from cl.errors import UserError
from cl.files import read_json, write_json
from cl.learner import Learner
from cl.machine import choose_device, keeping_memory, machine
from cl.names import names_in
from cl.nets import build
from cl.nets.precision import is_reduced
from cl.params import Params, read, validate
from cl.paths import option
from cl.register import method_class
from cl.rng import generator
from cl.run import _settle

PAGE = Path("docs/costs.md")
STUDY = Path("studies/tiny-imagenet.yaml")
"""Where the knobs of its methods are from; the others have those they declare."""
SHAPE, NETS, TASKS, PAIRS = (3, 64, 64), ("small", "base"), 3, 5
WARM = 2
"""Steps before the first that counts."""
NOT_RUN = "Not measured on a GPU yet."


@dataclass(frozen=True)
class Scale:
    """How large the steps are, and how many."""

    batch: int
    together: int
    """Steps that are timed at once, in each of `PAIRS` turns."""
    memory: int
    """Images that methods keep of each task."""
    matrix: int
    """Side of the matrices whose product shows the peak."""

    @property
    def steps(self) -> int:
        """Of a training."""
        return WARM + PAIRS * self.together


SCALES = {"cuda": Scale(200, 5, 450, 8192), "cpu": Scale(10, 1, 20, 1024)}


def params_of(method: str, net: str, scale: Scale) -> Params:
    """One epoch, at a learning rate that keeps noise from doing harm; memories of the scale."""
    declared = {name: knob.default for name, knob in method_class(method).knobs.items()}
    short = {"code_sizes": [100], "reconstruction": [0.01], "code_epochs": 1, "generator_epochs": 1, "gate_epochs": 1}
    sized: dict[str, Any] = {
        "memory_per_task": scale.memory,
        "memory_budget": scale.memory * TASKS,
        "retrain_epochs": 1,
        **short,
    }
    knobs = declared | dict(read(STUDY, methods=[method]).methods[method])
    knobs |= {name: value for name, value in sized.items() if name in declared}
    training = {"epochs": 1, "batch_size": scale.batch, "learning_rate": 1e-4}
    return validate({"model": {"name": net}, "training": training, "methods": {method: knobs}}, "benchmark")


class ByHand:
    """The same net, trained as one would write it in a notebook, on images that are on the device."""

    def __init__(self, net: str, task: Task, scale: Scale, device: torch.device) -> None:
        params = params_of("finetune", net, scale)
        self.net = build(params.model, SHAPE, generator("by hand"))
        self.net.add_head(CLASSES, generator("head by hand"))
        self.net.to(device).train()
        self.net.backbone.reduced = is_reduced(params.training.precision, self.net, device)
        self.images, self.y, self.batch = task.train.images.to(device), task.train.y, scale.batch
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-4, momentum=0.9)
        self.normalise, self.done = task.train.normalise, 0

    def step(self) -> None:
        """One batch."""
        start = self.done * self.batch % (len(self.y) - self.batch + 1)
        x = self.normalise(self.images[start : start + self.batch])
        self.optimizer.zero_grad()
        with torch.enable_grad():  # also where it takes turns with a method without gradients
            F.cross_entropy(self.net(x, 0), self.y[start : start + self.batch]).backward()
        self.optimizer.step()
        self.done += 1


@dataclass
class Turns:
    """Watches a training, and lets the loop by hand take as many steps after each few of its own."""

    by_hand: ByHand
    together: int
    device: torch.device
    pairs: list[tuple[float, float]] = field(default_factory=list)
    """Seconds a step: of the method, by hand."""
    began: float = 0.0

    def __call__(self, steps: int) -> None:
        """After each step."""
        if steps == WARM:
            self.began = now(self.device)
        elif steps > WARM and (steps - WARM) % self.together == 0:
            mine = now(self.device) - self.began
            started = now(self.device)
            for _ in range(self.together):
                self.by_hand.step()
            self.pairs.append((mine / self.together, (now(self.device) - started) / self.together))
            self.began = now(self.device)


def measured(method: str, net: str, scale: Scale, device: torch.device) -> dict[str, Any]:
    """What a step of the last task takes. Raises `UserError` where the method cannot work with the net."""
    sequence = synthetic(TASKS, scale.batch * scale.steps, scale.batch, device, SHAPE)
    params = params_of(method, net, scale)
    learner = Learner(params, method, 0, sequence, device)
    rate = params.training.learning_rate
    for stage in learner.experiences[:-1]:
        learner.open(stage)
        kept = rate if learner.trains else None
        learner.consolidate(
            "learn", 0, kept, learner.knobs, learner.train("learn", 0, kept, learner.knobs, plain=False)
        )
    learner.open(learner.experiences[-1])
    kept = rate if learner.trains else None
    found: dict[str, Any] = {}
    memory = Memory(device)
    memory.reset()
    learner.train("memory", 0, kept, learner.knobs, plain=False)
    found["bytes"] = memory.peak()
    found["flops"] = _flops(lambda watch: learner.train("flops", 0, kept, learner.knobs, plain=False, watch=watch))
    turns = Turns(ByHand(net, sequence.tasks[-1], scale, device), scale.together, device)
    for _ in range(WARM):
        turns.by_hand.step()
    with keeping_memory():
        learner.train("time", 0, kept, learner.knobs, plain=False, watch=turns)
    found["seconds"] = statistics.median(mine for mine, _ in turns.pairs)
    found["by_hand"] = statistics.median(plain for _, plain in turns.pairs)
    found["ratio"] = statistics.median(mine / plain for mine, plain in turns.pairs)
    return found


def _flops(train: Callable[[Callable[[int], None]], Any]) -> int:
    """Of a step in the middle of an epoch; twice the multiplications of convolutions and matrix products."""
    totals: list[int] = []
    with FlopCounterMode(display=False) as counter:
        train(lambda steps: totals.append(counter.get_total_flops()))
    return totals[WARM] - totals[WARM - 1]


def peak(scale: Scale, device: torch.device, kind: torch.dtype) -> float:
    """Operations a second in a large matrix product, the best of some: the peak that can be had."""
    a = torch.rand(scale.matrix, scale.matrix, generator=generator("peak")).to(device, kind)
    best = 0.0
    for _ in range(10):
        started = now(device)
        a @ a
        best = max(best, 2 * scale.matrix**3 / (now(device) - started))
    return best


def table(kept: Mapping[str, Any]) -> str:
    """What was measured, a line for each net and method."""
    if not kept.get("steps"):
        return NOT_RUN
    where = kept["machine"]
    titles = [
        "net",
        "method",
        "ms a step",
        "by hand",
        "ratio",
        "images/s",
        "memory",
        "GFLOP a step",
        "share of the peak",
    ]
    lines = [*heading(titles)]
    for key in sorted(kept["steps"], key=lambda key: (not key.startswith("small"), key)):
        (net, method), found, seconds = key.split(), kept["steps"][key], kept["steps"][key]["seconds"]
        cells = [net, f"`{method}`", f"{1e3 * seconds:.3g}", f"{1e3 * found['by_hand']:.3g}"]
        cells += [
            f"{found['ratio']:.2f}",
            f"{kept['batch'] / found['seconds']:,.0f}",
            f"{found['bytes'] / 2**20:,.0f} MiB",
        ]
        cells += [f"{found['flops'] / 1e9:,.3g}", f"{found['flops'] / found['seconds'] / kept['peak']:.0%}"]
        lines.append(line(cells))
    note = (
        f"{where['processor']}, torch {where['torch']}, {kept['kind']}; batches of {kept['batch']}, memories of "
        f"{kept['memory']} images a task. Peak of a matrix product: {kept['peak'] / 1e12:,.3g} TFLOP/s."
    )
    return "\n".join([*lines, "", *textwrap.wrap(note, 120)])


def _begun(path: Path, scale: Scale, device: torch.device) -> dict[str, Any]:
    """What was kept of the same measurement on the same machine, else a new begin."""
    net = build(params_of("finetune", NETS[0], scale).model, SHAPE, generator("kind"))
    kind = torch.bfloat16 if is_reduced("auto", net, device) else torch.float32
    fresh = {
        "machine": {name: machine(device)[name] for name in ("processor", "torch", "device")},
        "kind": str(kind).removeprefix("torch."),
        "batch": scale.batch,
        "memory": scale.memory,
    }
    kept: dict[str, Any] = read_json(path) if path.exists() else {}
    if {name: kept.get(name) for name in fresh} == fresh:
        return kept
    return {**fresh, "peak": peak(scale, device, kind), "steps": {}}


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    made.add_argument("--methods", metavar="A,B", help="these alone; default: all")
    made.add_argument("--nets", metavar="A,B", default=",".join(NETS), help=f"default: {','.join(NETS)}")
    made.add_argument("--out", type=option("--out"), default=Path("out/gpu"), help="default: out/gpu")
    made.add_argument("--minutes", type=float, default=math.inf, help="begin no further method after so many")
    made.add_argument("--page", action="store_true", help="write the table into docs/costs.md")
    return made


def main() -> int:
    """Measure what is not measured yet, and print the table."""
    given = parser().parse_args()
    began, path = time.monotonic(), given.out / "steps.json"
    _settle()
    device = choose_device(given.device)
    scale = SCALES[device.type]
    kept = _begun(path, scale, device)
    wanted = [
        f"{net} {method}"
        for net in given.nets.split(",")
        for method in (cli.methods_of(given.methods) if given.methods else names_in("methods"))
    ]
    for number, key in enumerate(wanted, start=1):
        if key in kept["steps"]:
            continue
        if time.monotonic() - began > 60 * given.minutes:
            print(f"stopped after {given.minutes:g} minutes; the same command goes on from here", file=sys.stderr)
            break
        net, method = key.split()
        print(f"{key} ({number} of {len(wanted)})", file=sys.stderr, flush=True)
        try:
            kept["steps"][key] = measured(method, net, scale, device)
        except (UserError, torch.OutOfMemoryError) as error:
            print(f"{key}: left out: {error}", file=sys.stderr)
            continue
        write_json(path, kept)
    print(table(kept))
    if given.page:
        fill(PAGE, "gpu", table(kept))
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
