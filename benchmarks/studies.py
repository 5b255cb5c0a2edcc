"""How long the studies take, estimated from step rates measured now: `python -m benchmarks.studies [--device cuda]`.

A study's training steps follow from its params: tasks, training images, epochs, learning rates to try, and one attempt
of each method that decays. How fast a step is, is measured on the study's own network, image size, batch and precision.
The estimate takes every step as plain finetuning's, every training to its last epoch and every first attempt as
accepted: early stopping makes it less, costly methods and further attempts make it more. Prints a table.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from cl import cli
from cl.backbones import backbone
from cl.errors import UserError
from cl.machine import choose_device
from cl.nets import build
from cl.nets.precision import is_reduced
from cl.params import Benchmark, Params, read
from cl.register import method_class
from cl.rng import generator

STUDIES = Path("studies")
# Training images a task: as published (De Lange et al. 2021, Table 2); of the digits as prepared here; of a
# folder those of a thousand pictures in five tasks; of split MNIST a fifth of all images in each task.
IMAGES = {
    "split-digits": [231, 231, 233, 230, 226],
    "folder": [640 // 5] * 5,
    "split-mnist": [60_000 // 5] * 5,
    "permuted-mnist": [60_000] * 10,
    "inaturalist": [5319, 1388, 1192, 65897, 645, 26059, 8646, 1706, 35157, 10173],
    "recogseq": [2040, 5360, 5994, 8144, 6666, 3102, 6850, 73257],
}
SIDE = {
    "tiny-imagenet": 64,
    "inaturalist": 224,
    "recogseq": 224,
    "split-digits": 8,
    "folder": 224,
    "split-mnist": 28,
    "permuted-mnist": 28,
    "split-cifar100": 32,
}
GREY = {"split-digits", "split-mnist", "permuted-mnist"}
STEPS = {"cpu": 2, "cuda": 50}
"""Of how many steps the mean is taken at least, after one to warm up."""
SECONDS = 0.5
"""And for how long at least."""


def images(benchmark: Benchmark) -> list[int]:
    """Training images of each task. Raises `UserError` for a benchmark whose sizes are not known here."""
    if benchmark.name == "tiny-imagenet":
        classes = benchmark.classes_per_task or 20
        return [classes * (benchmark.train_per_class or 400)] * (benchmark.tasks or 200 // classes)
    if benchmark.name == "split-cifar100":
        classes = benchmark.classes_per_task or 10
        return [classes * (benchmark.train_per_class or 500)] * (benchmark.tasks or 100 // classes)
    if benchmark.name == "split-digits" and benchmark.repetition:
        count = 10 * benchmark.repetition // (benchmark.classes_per_task or 2)
        return [sum(IMAGES[benchmark.name]) // count] * count
    if benchmark.name not in IMAGES:
        raise UserError(f"the sizes of {benchmark.name} are not known here")
    return IMAGES[benchmark.name][: benchmark.tasks]


def passes(params: Params) -> int:
    """Images that go through a training step, over all methods and one seed."""
    per_task, epochs, total = images(params.benchmark), 1 if params.scenario.online else params.training.epochs, 0
    if params.training.iterations is not None and not params.scenario.online:
        per_task, epochs = [params.training.iterations * params.training.batch_size] * len(per_task), 1
    for name in params.methods:
        method = method_class(name)
        if method.selection == "one-pass":
            total += sum(per_task)
            continue
        if not params.selection.enabled:
            total += epochs * sum(per_task)
            continue
        grids = [len(params.selection.first_task_learning_rates)] + [len(params.selection.learning_rates)] * len(
            per_task[1:]
        )
        if method.sees_all_tasks:
            total += grids[0] * epochs * sum(per_task)
            continue
        # An attempt is another training, but where the search trains the method itself, or only its end is tried again.
        attempts = [0 if index == 0 and method.shares_first_task else 1 for index in range(len(per_task))]
        if method.selection != "stability-decay":
            attempts = [0] * len(per_task)
        total += sum((g + a) * epochs * n for g, a, n in zip(grids, attempts, per_task, strict=True))
    return total


def rate(params: Params, device: torch.device) -> float:
    """Images a second in training steps of plain finetuning, on one core or the GPU."""
    usual = SIDE[params.benchmark.name] + 2 * (params.benchmark.pad or 0)
    side = params.training.augmentation.crop or params.benchmark.image_size or usual
    shape = (1 if params.benchmark.name in GREY else 3, side, side)
    if params.model.on_features:
        length = backbone(params.model.backbone).features
        assert length is not None, "the studies' backbones are known"
        shape = (length, 1, 1)
    draw = generator("rate")
    net = build(params.model, shape, draw)
    net.add_head(20, draw)
    net = net.to(device).train(params.model.dropout in (None, 0.0) and params.model.name != "alexnet")
    net.backbone.reduced = is_reduced(params.training.precision, net, device)
    batch = params.scenario.batch_size if params.scenario.online else params.training.batch_size
    x = torch.rand((batch, *shape), generator=draw).to(device, memory_format=torch.channels_last)
    y = torch.randint(20, (batch,), generator=draw).to(device)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        loss = F.cross_entropy(net(x, 0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step()
    started, steps = _now(device), 0
    while steps < STEPS[device.type] or _now(device) - started < SECONDS:
        step()
        steps += 1
    return steps * batch / (_now(device) - started)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.monotonic()
    return time.process_time()


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return made


def main() -> int:
    """Print the table."""
    device = choose_device(parser().parse_args().device)
    torch.set_num_threads(1)
    print("| study | what it is for | tasks | million images | images/s | hours a seed |")
    print("| :--- | :--- | ---: | ---: | ---: | ---: |")
    known: dict[str, float] = {}
    for path in sorted(STUDIES.glob("*.yaml")):
        params = read(path)
        speed = ".".join(
            map(
                str,
                (params.model, params.benchmark.image_size, params.benchmark.name, params.training, params.scenario),
            )
        )
        if speed not in known:
            known[speed] = rate(params, device)
        about = path.read_text(encoding="utf-8").split("\n")[0].removeprefix("# ")
        total = passes(params)
        hours = total / known[speed] / 3600
        cells = [
            f"`{path.stem}`",
            about,
            str(len(images(params.benchmark))),
            f"{total / 1e6:,.0f}" if total >= 1e6 else f"{total / 1e6:.3f}",
        ]
        cells += [
            f"{known[speed]:,.0f}",
            f"{hours:,.0f}" if hours >= 2 else f"{hours:.1f}" if hours >= 0.1 else "< 0.1",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
