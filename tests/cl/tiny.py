"""Sequences of tiny coloured images in memory, and networks with convolutions that learn them in a moment."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from cl import train
from cl.data import Sequence, Split, Task
from cl.learner import Learner
from cl.nets import resnet
from cl.nets.build import VGG
from tests.cl.small import CPU, SHORT, params_for, split_of

NETS: dict[str, dict[str, Any]] = {
    "vgg": {"name": "small", "dropout": 0.5, "batch_norm": True},
    "resnet": {"name": "resnet18"},
}
"""Networks with batch normalisation, and with dropout where they can have it."""
KNOBS: dict[str, dict[str, Any]] = {
    "ebll": SHORT["ebll"],
    **{name: {"features": "first-task"} for name in ("ncm", "slda", "ranpac", "fecam")},
}
"""What keeps a method from taking long, and lets those without gradients train the network at all."""


def images(tasks: int, side: int = 16) -> Sequence:
    """Tasks of noise in which the second of two classes is brighter, and of which each has a colour of its own."""
    found = []
    for index in range(tasks):
        draw = torch.Generator().manual_seed(index)

        def split(draw: torch.Generator = draw, index: int = index) -> Split:
            labels = torch.arange(12) % 2
            noise = torch.randint(0, 3, (12, 3, side, side), generator=draw)
            noise[:, index % 3] += 1
            return split_of((noise + labels.view(-1, 1, 1, 1)).to(torch.uint8), labels, index)

        found.append(Task(index, f"colour-{index}", ("dark", "bright"), split(), split(), split(), f"colour-{index}"))
    return Sequence("colours", (3, side, side), tuple(found))


def narrow(patch: pytest.MonkeyPatch) -> None:
    """Make `small` and `resnet18` narrow enough for a test; their layers are what they are.

    No narrower: without AVX-512, oneDNN's backward pass of a 1x1 convolution with stride 2 from 4 channels to 8 writes
    beyond its memory (torch 2.15).
    """
    patch.setitem(VGG, "small", ([4, "M", 6, "M"], [8, 8]))
    patch.setattr(resnet, "WIDTH", 8)


def ever_better(patch: pytest.MonkeyPatch) -> None:
    """Make every epoch count as better than those before, so that all of a training stays."""
    found = itertools.count(1)
    patch.setattr(train, "accuracy", lambda *given, **named: next(found) * 1e-6)


def learner_of(method: str, net: str, tasks: int = 2, **training: Any) -> Learner:
    """A learner of this method with one of the networks above, at two epochs a task."""
    training = {"epochs": 2, "batch_size": 5, "learning_rate": 0.05, **training}
    params = params_for(method, KNOBS.get(method), model=NETS[net], training=training)
    return Learner(params, method, 0, images(tasks), CPU)
