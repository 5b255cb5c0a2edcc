"""How often a method's answers are right."""

from __future__ import annotations

import torch

from cl.data import Split
from cl.trainable import Trainable


def accuracy(trainable: Trainable, split: Split, *, inference: bool, task_aware: bool | None = None) -> float:
    """Share of the split's samples that get their own label.

    `inference`: by `predict`, as at test time; else by the network as training has it now. `task_aware`: the choice
    is among the classes of the sample's task; else among all classes seen. None: as in the scenario.
    """
    net = trainable.net
    task_aware = net.increment == "task" if task_aware is None else task_aware
    net.eval()
    correct = []
    with torch.no_grad():
        for x, y, t in split.batches(split.chunk(trainable.training.batch_size)):
            right = y if task_aware and isinstance(t, int) else net.column(y, t)
            if inference and isinstance(t, int):
                scores = trainable.predict(x, t if task_aware else None)
            else:
                scores = net(x, t if task_aware else None)
            correct.append((scores.argmax(1) == right).sum())
    return int(torch.stack(correct).sum()) / len(split)  # a GPU is waited for here, once
