"""Small runs and toy tasks, so that a test says only what it is about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cl.data import Split, Task, load
from cl.data.prepare import Format
from cl.data.task import Normalise
from cl.keys import run_key
from cl.learner import Learner
from cl.nets import MultiHead
from cl.params import Params, Training
from cl.resume import Run
from cl.run import learn
from cl.trainable import Trainable

CPU = torch.device("cpu")
OFF = {"enabled": False}
"""No selection."""
SHORT: dict[str, dict[str, Any]] = {
    "ebll": {"code_sizes": [3], "reconstruction": [0.1], "code_epochs": 2},
    "dgr": {"generator_epochs": 2},
    "expert_gate": {"gate_epochs": 2},
    "packnet": {"retrain_epochs": 2},
    "vcl": {"test_samples": 2},
    "vcl_coreset": {"test_samples": 2},
}
"""Knobs that keep a method from taking long, and leave nothing out that it does."""
REPOSITORY = Path(__file__).parents[2]
RUN_DEPENDENT = (".cost.json", ".studies.log")
"""Published files that may differ from run to run."""


def params_for(method: str, knobs: dict[str, Any] | None = None, **sections: Any) -> Params:
    """A run of seconds: a tiny MLP, few epochs, two learning rates; a narrow margin, so that attempts fail."""
    tree: dict[str, Any] = {
        "model": {"hidden": [16]},
        "training": {"epochs": 4, "batch_size": 32, "learning_rate": 0.1},
        "selection": {
            "first_task_learning_rates": [0.1, 0.05],
            "learning_rates": [0.1, 0.02],
            "drop_margin": 0.02,
            "max_attempts": 3,
        },
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return Params.model_validate({**tree, "methods": {method: knobs or {}}})


def output(folder: Path, prepared: Path) -> Path:
    """An output folder on this prepared benchmark; prepared anew, it keeps what else is in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prepared").unlink(missing_ok=True)
    (folder / "prepared").symlink_to(prepared)
    return folder


def run(params: Params, out: Path, seed: int = 0, trial_workers: int = 1) -> list[dict[str, Any]]:
    """Learn the one method of these params, and publish; returns the events."""
    events: list[dict[str, Any]] = []
    learn(params, next(iter(params.methods)), seed, out, events.append, trial_workers)
    return events


def published(out: Path) -> dict[str, bytes]:
    """Path and bytes of every published file that has to be the same in every run."""
    files = [path for room in ("results", "checkpoints") for path in sorted((out / room).rglob("*")) if path.is_file()]
    return {str(p.relative_to(out)): p.read_bytes() for p in files if not p.name.endswith(RUN_DEPENDENT)}


def learner_for(params: Params, prepared: Path, seed: int = 0) -> Learner:
    """The learner of the one method of these params."""
    return Learner(params, next(iter(params.methods)), seed, load(prepared, CPU), CPU)


def run_for(params: Params, learner: Learner, folder: Path) -> Run:
    """A run over this learner, whose events nobody hears."""
    folder.mkdir(parents=True, exist_ok=True)
    return Run(learner, folder, run_key(params, learner.name, learner.seed), lambda event: None)


def learn_tasks(learner: Learner, count: int) -> None:
    """Learn the first tasks at the learning rate and the knobs as given."""
    for task in learner.experiences[:count]:
        learner.open(task)
        rate = learner.params.training.learning_rate
        trained = learner.train("learn", 0, rate, learner.knobs, plain=False)
        learner.consolidate("learn", 0, rate, learner.knobs, trained)


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in a method's state."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for below in value.values():
            yield from tensors(below)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from tensors(below)


def same(a: Any, b: Any) -> bool:
    """Whether two states are the same, bit for bit and type for type."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def split_of(images: Tensor, labels: Tensor, index: int) -> Split:
    """A split in memory whose bytes are its numbers."""
    return Split(lambda: (images, labels, index), Normalise(Format(1.0, (0.0,), (1.0,)), CPU))


def toy_task(x: Sequence[Sequence[int]], y: Sequence[int], index: int = 0) -> Task:
    """A task of vectors of small numbers, the same in training, validation and test."""
    images = torch.tensor(x, dtype=torch.uint8).view(len(x), 1, 1, -1)
    split = split_of(images, torch.tensor(y), index)
    return Task(index, f"toy-{index}", tuple(str(c) for c in range(max(y) + 1)), split, split, split, "toy")


def linear_net(weight: Tensor, heads: int = 1) -> MultiHead:
    """x -> W x, with heads that pass W x on as the logits."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data.copy_(weight)
    net = MultiHead(nn.Sequential(nn.Flatten(), layer), len(weight))
    for _ in range(heads):
        net.add_head(len(weight), torch.Generator().manual_seed(0))
        net.heads[-1].weight.data.copy_(torch.eye(len(weight)))
        net.heads[-1].bias.data.zero_()
    return net


def mlp(inputs: int = 4, units: int = 5, classes: Sequence[int] = (3,), seed: int = 0) -> MultiHead:
    """inputs -> Linear -> ReLU -> Linear -> ReLU -> a head per task, drawn from the seed."""
    draw = torch.Generator().manual_seed(seed)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU())
    for parameter in backbone.parameters():
        parameter.data.uniform_(-1, 1, generator=draw)
    net = MultiHead(backbone, units)
    for count in classes:
        net.add_head(count, draw)
    return net


def attach(method: Trainable, net: Any, task: int = 0, **training: Any) -> Any:
    """The method on this network, as the loop would attach it."""
    method.attach(net, task, Training(**training), 0.1, (0, task, "test", 0))
    return method


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder, links followed."""
    shutil.copytree(source, target)
    return target


def dark_and_bright(index: int, side: int) -> Task:
    """Two classes, dark and bright images."""
    draw = torch.Generator().manual_seed(index)
    y = torch.arange(12) % 2
    pixels = torch.randint(3, (12, 1, side, side), generator=draw) + 3 * y.view(-1, 1, 1, 1)
    split = split_of(pixels.to(torch.uint8), y, index)
    return Task(index, f"toy-{index}", ("dark", "bright"), split, split, split, f"toy-{index}")
