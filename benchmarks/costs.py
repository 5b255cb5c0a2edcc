"""What each method costs, beside the survey's cost table (De Lange et al. 2021, Table 9): `python -m benchmarks.costs`.

Every method learns a sequence of synthetic images (what is measured does not depend on what they show), each in a
process of its own, one after another, on one thread. The last task is what is measured: its training from `begin_task`
to `end_task`, and then the test on all tasks. Why the two columns differ where they do is in docs/costs.md.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from cl import cli
from cl.checkpoint import state_bytes
from cl.data import Sequence as TaskSequence
from cl.data import Split, Task
from cl.data.prepare import Format
from cl.data.task import Normalise
from cl.errors import UserError
from cl.learner import Learner
from cl.machine import choose_device, machine, resident
from cl.names import names_in
from cl.nets import build
from cl.params import Model, Params, validate
from cl.register import method_class
from cl.rng import generator
from cl.selection import Knobs
from cl.train import Snapshot

SHAPE = (3, 32, 32)
CLASSES = 20
VALIDATION, TEST = 50, 100
"""Samples a task."""
WHOLE_TENSORS = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}
"""The C library is to give every freed tensor back to the system; else the peak also holds what it keeps in store."""
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""It is to keep all of it; else it depends on chance how often the same pages are fetched from the system again."""
FIELDS = ("memory_training", "memory_test", "time_training", "time_test")


@dataclass(frozen=True)
class Published:
    """A row of the survey's table; the numbers are relative to the smallest of their column."""

    memory_training: float
    memory_test: float
    time_training: float
    time_test: float
    agnostic: bool
    privacy: bool
    storage: str


PUBLISHED = {
    "icarl": Published(1.24, 1.00, 5.63, 45.61, True, True, "M + R"),
    "gem": Published(1.07, 1.29, 10.66, 3.64, True, True, "T M + R"),
    "lwf": Published(1.07, 1.10, 1.29, 1.86, True, False, "M"),
    "ebll": Published(1.53, 1.08, 2.24, 1.34, True, False, "M + T A"),
    "si": Published(1.09, 1.05, 1.13, 1.61, True, False, "3 M"),
    "ewc": Published(1.09, 1.05, 1.11, 1.88, True, False, "2 M"),
    "mas": Published(1.09, 1.05, 1.16, 1.88, True, False, "2 M"),
    "mean_imm": Published(1.01, 1.03, 1.09, 1.18, True, False, "T M"),
    "mode_imm": Published(1.01, 1.03, 1.24, 1.00, True, False, "2 T M"),
    "packnet": Published(1.00, 1.94, 2.66, 2.40, False, False, "T M bits"),
    "hat": Published(1.21, 1.17, 1.00, 2.06, False, False, "T U"),
}
KEY = "M: the backbone; R: the replay memory; A: an autoencoder; U: a mask's units; T: the tasks seen"


@dataclass(frozen=True)
class Scale:
    """How large the runs are."""

    tasks: int
    samples: int
    batch_size: int
    epochs: int
    memory_per_task: int
    net: str
    device: str
    given: Knobs
    """What the command line says of knobs, for every method that has them."""

    def params(self, method: str, epochs: int) -> Params:
        """Selection plays no part; no training ends early."""
        training = {
            "epochs": epochs,
            "batch_size": self.batch_size,
            "learning_rate": 0.01,
            "patience": {"stop_after": epochs},
        }
        return validate({"model": {"name": self.net}, "training": training, "methods": {method: {}}}, "benchmark")

    def knobs(self, method: str, epochs: int) -> Knobs:
        """The method's declared knobs; memories of one and the same size; trainings inside a method to scale."""
        declared = {name: knob.default for name, knob in method_class(method).knobs.items()}
        scaled: Knobs = {
            "memory_per_task": self.memory_per_task,
            "memory_budget": self.memory_per_task * self.tasks,
            # The reference code's timing mode: all trainings of equal length, one autoencoder.
            "retrain_epochs": epochs,
            "code_epochs": epochs,
            "code_sizes": [100],
            "reconstruction": [0.01],
        }
        scaled |= self.given
        return declared | {name: value for name, value in scaled.items() if name in declared}


@dataclass(frozen=True)
class Measured:
    """One process's findings."""

    seconds_training: float
    seconds_end: float
    """Of those, in `end_task`."""
    seconds_test: float
    bytes_training: int
    bytes_test: int
    bytes_working: int
    """The method's state while it trains the last task."""
    stored: list[int]
    """The bytes of its state after each task."""
    samples_stored: list[int]
    """Of those, in raw images."""
    machine: dict[str, Any]


# One process.


def synthetic(
    tasks: int, samples: int, test: int, device: torch.device, shape: tuple[int, int, int] = SHAPE
) -> TaskSequence:
    """A sequence of tasks of noise, a little brighter from class to class, in memory."""
    normalise = Normalise(Format(255.0, (0.5,) * shape[0], (0.25,) * shape[0]), device)
    draw = generator("costs")

    def split(index: int, count: int) -> Split:
        y = torch.arange(count) % CLASSES
        noise = torch.randint(0, 128, (count, *shape), generator=draw)
        images = (noise + y.view(-1, 1, 1, 1) * (128 // CLASSES)).to(torch.uint8)
        return Split(lambda: (images, y, index), normalise)

    classes = tuple(str(c) for c in range(CLASSES))
    made = []
    for index in range(tasks):
        name, train, validation = f"noise-{index + 1}", split(index, samples), split(index, VALIDATION)
        made.append(Task(index, name, classes, train, validation, split(index, test), name))
    return TaskSequence("noise", shape, tuple(made))


class Memory:
    """Peak memory above what there was when this was made: resident memory on the CPU, allocated on a GPU; bytes."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        gc.collect()
        self.before = torch.cuda.memory_allocated() if self.cuda else resident("VmRSS")

    def reset(self) -> None:
        """Forget the peak so far. Raises `UserError` where the system cannot."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            return
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError as error:
            raise UserError(
                f"/proc/self/clear_refs: {error.strerror}; the peak of the memory can be measured on Linux or on a GPU"
            ) from None

    def peak(self) -> int:
        """Since the last reset."""
        return (torch.cuda.max_memory_allocated() if self.cuda else resident("VmHWM")) - self.before


def learn(learner: Learner, stage: Task, scale: Scale, epochs: int) -> tuple[float, float, int]:
    """Learn a task: seconds of training, of `end_task`, and the bytes of the method's state between them.

    Raises `UserError` where the training ends before its last epoch.
    """
    learner.params = scale.params(learner.name, epochs)
    rate, knobs = learner.params.training.learning_rate, scale.knobs(learner.name, epochs)
    learner.open(stage)
    started = now(learner.device)
    trained = learner.train("learn", 0, rate, knobs, plain=False)
    training = now(learner.device) - started
    if trained.epochs != epochs and learner.trains:
        raise UserError(
            f"{learner.name}: ended after {trained.epochs} of {epochs} epochs, by a loss that is not finite or by the "
            "method's own patience, so its time means nothing; give it fewer --epochs"
        )
    working = state_bytes(learner.method.state())
    started = now(learner.device)
    learner.consolidate("learn", 0, rate, knobs, trained)
    return training, now(learner.device) - started, working


def now(device: torch.device) -> float:
    """Seconds: of this process on the CPU, of the clock on a GPU when it has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def measure(method: str, scale: Scale, epochs: int) -> Measured:
    """Learn the sequence, every task but the last for one epoch, and measure the last one."""
    torch.set_num_threads(1)
    device = choose_device(scale.device)
    _warm_up(method, scale, device)
    sequence = synthetic(scale.tasks, scale.samples, TEST, device)
    for task in sequence.tasks:
        for split in (task.train, task.validation, task.test):
            assert split.x is not None  # the data are in memory before, the same for all
    memory = Memory(device)
    learner = Learner(scale.params(method, epochs), method, 0, sequence, device)
    stored, in_samples = [], []
    for stage in learner.experiences:
        memory.reset()
        training, end, working = learn(learner, stage, scale, epochs if stage is learner.experiences[-1] else 1)
        stored.append(state_bytes(learner.method.state()))
        in_samples.append(images_bytes(learner.method.state()))
    bytes_training = memory.peak()
    learner.base = Snapshot({}, {})  # what the loop keeps to train again
    gc.collect()
    memory.reset()
    learner.test()
    bytes_test = memory.peak()
    tests = []
    for _ in range(3):
        started = now(device)
        learner.test()
        tests.append(now(device) - started)
    return Measured(
        seconds_training=training + end,
        seconds_end=end,
        seconds_test=statistics.median(tests),
        bytes_training=bytes_training,
        bytes_test=bytes_test,
        bytes_working=working,
        stored=stored,
        samples_stored=in_samples,
        machine=machine(device),
    )


def _warm_up(method: str, scale: Scale, device: torch.device) -> None:
    """Learn a tiny sequence, so that what is loaded and compiled once is not counted."""
    learner = Learner(scale.params(method, 1), method, 0, synthetic(2, 2 * CLASSES, CLASSES, device), device)
    for stage in learner.experiences:
        learn(learner, stage, scale, 1)
    learner.test()


def images_bytes(value: Any) -> int:
    """Bytes of the raw images in a method's state."""
    if isinstance(value, torch.Tensor):
        return value.numel() if value.dtype == torch.uint8 and value.shape[1:] == SHAPE else 0
    below: Iterable[Any] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(images_bytes, below))


# All of them.


def run(method: str, what: str, scale: Scale) -> Measured:
    """Measure a method in a process of its own; `what` is memory or time. Raises `UserError` where it fails."""
    settings = WHOLE_TENSORS if what == "memory" else KEPT_MEMORY
    command = [sys.executable, "-m", "benchmarks.costs", "--one", json.dumps([method, what, asdict(scale)])]
    done = subprocess.run(command, env=os.environ | settings, stdout=subprocess.PIPE, encoding="utf-8")
    if done.returncode:
        raise UserError(f"{method}: measuring its {what} ended with status {done.returncode}; the lines above say why")
    return Measured(**json.loads(done.stdout))


def one(text: str) -> None:
    """The body of such a process."""
    method, what, fields = json.loads(text)
    scale = Scale(**fields)
    epochs = min(2, scale.epochs) if what == "memory" else scale.epochs
    print(json.dumps(asdict(measure(method, scale, epochs))))


@dataclass(frozen=True)
class Row:
    """A method: its process for memory, and those for time."""

    method: str
    memory: Measured
    times: list[Measured]

    @property
    def values(self) -> dict[str, float]:
        """By field: bytes, and median seconds."""
        training, test = (
            statistics.median(getattr(m, name) for m in self.times) for name in ("seconds_training", "seconds_test")
        )
        return dict(zip(FIELDS, (self.memory.bytes_training, self.memory.bytes_test, training, test), strict=True))


def table(rows: Sequence[Row], scale: Scale) -> str:
    """The survey's table with what was measured here, then what that is made of."""
    compared = [row for row in rows if row.method in PUBLISHED] or list(rows)
    least = {name: min(row.values[name] for row in compared) for name in FIELDS}
    titles = ["memory, training", "memory, test", "time, training", "time, test"]
    lines = [
        "Figures are relative to the smallest of their column among the survey's methods. In parentheses: published."
    ]
    facts = ["task-agnostic", "keeps samples", "storage after T tasks", "published"]
    lines += ["", *heading(["method", *titles, *facts])]
    for row in sorted(
        rows, key=lambda row: list(PUBLISHED).index(row.method) if row.method in PUBLISHED else len(PUBLISHED)
    ):
        theirs, cls = PUBLISHED.get(row.method), method_class(row.method)
        cells = [row.method]
        for name in FIELDS:
            published = f" ({getattr(theirs, name):.2f})" if theirs else ""
            cells.append(f"{row.values[name] / least[name]:.2f}{published}")
        said = (theirs.agnostic, theirs.privacy) if theirs else (None, None)
        cells += [yes(not cls.needs_task_id, said[0]), yes(cls.stores_samples, said[1])]
        cells += [formula(row.memory, scale), theirs.storage if theirs else ""]
        lines.append(line(cells))
    lines += ["", f"{KEY}.", "", "The measured values:", ""]
    titles = ["method", "memory, training", "test", "time, training", "of it in `end_task`", "test", "spread of times"]
    lines += heading([*titles, "state after each task (kB)", "state in training (kB)"])
    for row in rows:
        values, ends = row.values, [m.seconds_end / m.seconds_training for m in row.times]
        cells = [row.method, *(f"{values[name] / 2**20:.1f} MiB" for name in FIELDS[:2])]
        cells += [f"{values['time_training']:.2f} s", f"{statistics.median(ends):.0%}", f"{values['time_test']:.3f} s"]
        cells.append(f"{spread([m.seconds_training for m in row.times]):.0%}")
        cells += [", ".join(f"{b / 1000:.0f}" for b in row.memory.stored), f"{row.memory.bytes_working / 1000:.0f}"]
        lines.append(line(cells))
    return "\n".join(lines)


def line(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def heading(titles: Sequence[str]) -> list[str]:
    """The first two lines of a Markdown table."""
    return [line(titles), "|" + "---|" * len(titles)]


def yes(here: bool, published: bool | None) -> str:
    """`yes (yes)`: here, and published where it is."""
    words = {True: "yes", False: "no"}
    return words[here] + ("" if published is None else f" ({words[published]})")


def spread(values: Sequence[float]) -> float:
    """Largest less smallest, as a share of the median."""
    return (max(values) - min(values)) / statistics.median(values)


def formula(measured: Measured, scale: Scale) -> str:
    """`2.00 M + T 0.50 M`: the state after T tasks, as what is constant and what each task adds."""
    net = build(Model.model_validate({"name": scale.net}), SHAPE, generator("size"))
    M = sum(p.numel() * p.element_size() for p in net.parameters())
    R = scale.memory_per_task * scale.tasks * SHAPE[0] * SHAPE[1] * SHAPE[2]
    rest = [all_of_it - images for all_of_it, images in zip(measured.stored, measured.samples_stored, strict=True)]
    terms = []
    for sizes, unit, name in ((rest, M, "M"), (measured.samples_stored, R, "R")):
        growth = int(statistics.median(b - a for a, b in itertools.pairwise(sizes))) if sizes[1:] else 0
        constant = sizes[-1] - growth * len(sizes)
        for factor, size in (("", constant), ("T ", growth)):
            if abs(size) >= unit / 100:
                terms.append(f"{factor}{size / unit:.2f} {name}")
            elif abs(size) >= 50:
                terms.append(f"{factor}{size / 1000:.1f} kB")
    return " + ".join(terms) or "0"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.costs", description=(__doc__ or "").split("\n")[0])
    made.add_argument("--methods", metavar="A,B", help="default: every method")
    made.add_argument("--tasks", type=cli.positive, default=5)
    made.add_argument("--samples", type=cli.positive, default=200, help="training images in each task; default 200")
    made.add_argument("--batch-size", type=cli.positive, default=25)
    made.add_argument("--epochs", type=cli.positive, default=10, help="epochs of the last task; default 10")
    made.add_argument(
        "--memory-per-task", type=cli.positive, default=48, help="images of each task in replay memories; default 48"
    )
    made.add_argument("--net", choices=("small", "base", "wide", "deep"), default="small")
    made.add_argument(
        "--knob",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a YAML value for all methods with this knob, such as estimator=batch-sum; can be given several times",
    )
    made.add_argument(
        "--rounds",
        type=cli.positive,
        default=2,
        help="how often each method is timed, each time in a process of its own; default 2",
    )
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    made.add_argument("--one", help=argparse.SUPPRESS)
    return made


def _knob(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    if not any(name in method_class(method).knobs for method in names_in("methods")):
        raise UserError(f"--knob {text}: no method has a knob {name!r}; write it as estimator=batch-sum")
    try:
        return name, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        raise UserError(f"--knob {text}: not a YAML value") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a process to standard error, and the tables. Raises `UserError`."""
    options = vars(parser().parse_args(arguments))
    text, names, rounds, given = (options.pop(name) for name in ("one", "methods", "rounds", "knob"))
    if text:
        one(text)
        return 0
    if options["samples"] < CLASSES:
        raise UserError(
            f"--samples {options['samples']}: a task has {CLASSES} classes, so give it as many images or more"
        )
    scale = Scale(**options, given=dict(map(_knob, given)))
    if choose_device(scale.device).type != "cuda" and not Path("/proc/self/clear_refs").exists():
        raise UserError("the peak of the memory can be measured on Linux or on a GPU; this machine has neither")
    methods = cli.methods_of(names)
    memory: dict[str, Measured] = {}
    times: dict[str, list[Measured]] = {method: [] for method in methods}
    for number in range(rounds + 1):
        for method in methods:
            measured = run(method, "time" if number else "memory", scale)
            if number:
                times[method].append(measured)
                said = f"training {measured.seconds_training:.2f} s, test {measured.seconds_test:.3f} s"
            else:
                memory[method] = measured
                said = f"training {measured.bytes_training / 2**20:.1f} MiB, test {measured.bytes_test / 2**20:.1f} MiB"
            print(f"{f'time {number}/{rounds}' if number else 'memory'}, {method}: {said}", file=sys.stderr, flush=True)
    where = memory[methods[0]].machine
    size = " x ".join(map(str, SHAPE))
    print(f"{where['processor']}, {where['device']}, one thread, torch {where['torch']}.")
    print(
        f"{scale.tasks} tasks of {CLASSES} classes, {scale.samples} training images {size} each; net {scale.net},",
        end=" ",
    )
    print(f"batches of {scale.batch_size}, {scale.epochs} epochs; replay memories of", end=" ")
    print(f"{scale.memory_per_task * scale.tasks} images. A training inside a method (PackNet's after", end=" ")
    print(f"pruning, EBLL's one autoencoder) has {scale.epochs} epochs too, as in the timing mode of the", end=" ")
    print("survey's code.")
    print(f"Knobs: the declared ones{''.join(f', {name}={value}' for name, value in scale.given.items())}.\n")
    print(table([Row(method, memory[method], times[method]) for method in methods], scale))
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
