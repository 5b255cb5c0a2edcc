"""The loop against a hand-written one doing the same job: `python -m benchmarks.loop`.

Both train the default network on the first task of permuted-digits by plain finetuning, for the same number of
epochs: shuffling, batches, steps, validation after every epoch, and the best epoch's weights kept. They take turns,
and the ratio is taken pair by pair.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from cl import cli
from cl.data import Task, load
from cl.data.prepare import prepare
from cl.nets import build
from cl.params import Benchmark, Model, Patience, Training
from cl.register import make
from cl.rng import generator
from cl.train import fit

EPOCHS, PAIRS = 40, 15
TRAINING = Training(epochs=EPOCHS, patience=Patience(stop_after=EPOCHS))


def ours(task: Task) -> int:
    """Steps taken by `cl.train.fit`."""
    method = make("finetune", {})
    method.net = build(Model(), (1, 8, 8), generator("network"))
    method.net.add_head(10, generator("head"))
    method.attach(method.net, 0, TRAINING, 0.05, ("benchmark",))
    return fit(method, task, ("benchmark",), learning_rate=0.05).steps


def by_hand(task: Task) -> int:
    """Steps taken by a loop as one would write it in a notebook."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    x_train, y_train, x_val, y_val = task.train.x, task.train.y, task.validation.x, task.validation.y
    best, best_accuracy, steps = None, 0.0, 0
    for _ in range(EPOCHS):
        net.train()
        for index in torch.randperm(len(x_train)).split(200):
            optimizer.zero_grad()
            F.cross_entropy(net(x_train[index]), y_train[index]).backward()
            optimizer.step()
            steps += 1
        net.eval()
        with torch.no_grad():
            accuracy = float((net(x_val).argmax(1) == y_val).float().mean())
        if accuracy > best_accuracy:
            best, best_accuracy = {name: t.clone() for name, t in net.state_dict().items()}, accuracy
    assert best is not None
    net.load_state_dict(best)
    return steps


def main() -> int:
    """Print microseconds a step of both, and the ratio."""
    argparse.ArgumentParser(prog="python -m benchmarks.loop", description=(__doc__ or "").splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "prepared"
        prepare(Benchmark(tasks=1), Path("data"), target, say=lambda line: None)
        task = load(target).tasks[0]
        pairs = []
        for turn in range(PAIRS + 1):
            cost = []
            for loop in (ours, by_hand):
                started = time.process_time()
                steps = loop(task)
                cost.append((time.process_time() - started) / steps * 1e6)
            if turn > 0:  # the first is a warm-up
                pairs.append((cost[0], cost[1]))
    ratios = [mine / plain for mine, plain in pairs]
    print(f"the loop:     {statistics.median(p[0] for p in pairs):6.0f} us a step")
    print(f"by hand:      {statistics.median(p[1] for p in pairs):6.0f} us a step")
    print(f"ratio:        {statistics.median(ratios):6.3f} (of {PAIRS} pairs {min(ratios):.3f} to {max(ratios):.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
