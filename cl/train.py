"""The one training loop, for every method. It can be read from top to bottom, and it names no method."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cl.data import Task
from cl.data.augment import Augment
from cl.descent import Moments, go_on, remembered
from cl.evaluate import accuracy
from cl.method import Method
from cl.nets import Dropout
from cl.ops import Quadratic
from cl.rng import Key, generator
from cl.trainable import Trainable

LIMIT = 1e4
"""Loss and penalty of a training that diverges pass this on their way to infinity, also where a lower learning rate
catches them before they are there. The survey's code gives some of its methods up at this number too."""


@dataclass(frozen=True)
class Fit:
    """What came of one training."""

    accuracy: float
    """Best validation accuracy of an epoch, in [0, 1]; the model is that epoch's. 0 if the last epoch was kept, and if
    the training diverged."""
    epochs: int
    steps: int
    step_seconds: float
    """Processor time spent in training steps (drawing a batch, forward, backward, update), in seconds."""
    diverged: bool = False
    """Loss, penalty or weights were not finite or left all bounds after an epoch."""


@dataclass(frozen=True)
class Snapshot:
    """The network's tensors and all of a trainable's state, copied."""

    net: dict[str, Tensor]
    state: dict[str, Any]

    @staticmethod
    def of(trainable: Trainable) -> Snapshot:
        """A copy of what the trainable is now."""
        return Snapshot({k: v.clone() for k, v in trainable.net.state_dict().items()}, copy_state(trainable.state()))

    def restore(self, trainable: Trainable) -> None:
        """Put the copy back; the snapshot stays whole for another time."""
        trainable.net.load_state_dict(self.net)
        trainable.load_state(copy_state(self.state))


def copy_state(value: Any) -> Any:
    """A deep copy of a state (tensors detached, containers rebuilt)."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copy_state(below) for key, below in value.items()}
    if isinstance(value, list):
        return [copy_state(below) for below in value]
    return copy.copy(value)


def fit(
    trainable: Trainable,
    data: Task,
    key: Key,
    *,
    learning_rate: float,
    epochs: int | None = None,
    may_stay: bool = False,
    keep: Literal["best", "last"] | None = None,
    watch: Callable[[int], None] | None = None,
    moments: Moments | None = None,
) -> Fit:
    """Train the attached trainable's network on one task; end with the epoch of the best validation accuracy.

    As in the survey's code, the learning rate is multiplied by `patience.factor` after `patience.drop_after` epochs in
    a row without a better validation accuracy, and training ends after more than `patience.stop_after`. Ties are no
    improvement, and an epoch at accuracy 0 is never the best. If no epoch is, the model goes back to where it started,
    at accuracy 0. All this is the schedule `plateau`, the default of `training.schedule`. With another one the learning
    rate follows it step by step, and the last step's model is kept.

    A training has diverged if, after an epoch, a weight is not finite, or if loss and penalty together are not finite
    or stand more than `LIMIT` above where they began. It ends there. The model is then that of the best epoch before,
    but the accuracy is 0: what an unstable training reached on its way is no result.

    Args:
        trainable: attached to its network; its hooks are called as `cl.trainable` says.
        data: the task; validation data decide on the best epoch, test data are not touched.
        key: for the order of the samples and the masks of dropout; the epoch's number is appended.
        learning_rate: to start with.
        epochs: at most this many; default `training.iterations` steps, or `training.epochs` where it is not set.
        may_stay: the model as it stands competes with the epochs, where the best is kept.
        keep: last: all epochs are run and the last is kept, or the model as it was if the training diverges; no
            validation data are used. Default: best, or last with a schedule other than `plateau`.
        watch: called after every step with the number of steps so far; may look at the trainable, but change nothing.
        moments: what the optimizer goes on from; afterwards, what it remembers. None: it begins anew.
    """
    training = trainable.training
    patience = trainable.patience or training.patience
    planned = trainable.follows_schedule and training.schedule != "plateau"
    keep = keep or ("last" if planned else "best")
    parameters: list[Tensor] = [p for p in trainable.net.parameters() if p.requires_grad]
    optimizer = trainable.optimizer(parameters, learning_rate)
    if moments is not None:
        go_on(optimizer, trainable.net, moments)
    changes = trainable.augmentation
    dropouts = [layer for layer in trainable.net.modules() if isinstance(layer, Dropout)]
    judged = trainable.judged_by == "inference"
    best, diverged = Snapshot.of(trainable), False
    best_accuracy = accuracy(trainable, data.validation, inference=judged) if may_stay and keep == "best" else 0.0
    trainable.data = data
    per_epoch = -(-len(data.train) // training.batch_size)
    total = (epochs or training.epochs) * per_epoch if epochs or not training.iterations else training.iterations
    rates = [group["lr"] for group in optimizer.param_groups]
    stale = steps = epoch = 0
    loss = penalty = began = None
    step_seconds = 0.0
    for epoch in range(-(-total // per_epoch)):
        if stale > patience.stop_after:
            break
        if stale == patience.drop_after:
            for group in optimizer.param_groups:
                group["lr"] *= patience.factor
        trainable.net.train()
        trainable.epoch, trainable.step = epoch, 0
        trainable.steps_per_epoch = min(per_epoch, total - steps)  # the last of so many iterations may be cut short
        started = time.process_time()
        order = torch.randperm(len(data.train), generator=generator(*key, epoch))
        order = order[: trainable.steps_per_epoch * training.batch_size]
        augment = Augment(changes, generator(*key, "augmentation", epoch)) if changes.active else None
        for x, y, t in data.train.batches(training.batch_size, order, augment):
            for number, layer in enumerate(dropouts):
                layer.draw_from(*key, "dropout", number, epoch, trainable.step)
            trainable.indices = order[trainable.step * training.batch_size :][: training.batch_size]
            x, y, t = trainable.batch(x, y, t)
            loss = trainable.loss(x, y, t)
            optimizer.zero_grad()
            loss.backward()
            trainable.on_grad()
            penalty = trainable.penalty()
            if penalty is not None:
                penalty.backward()
            if began is None:
                began = _sum(loss, penalty)
            if planned:
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * training.factor((steps + trainable.step) / total)
            optimizer.step()
            trainable.on_step(x, y, t)
            trainable.step += 1
            if watch is not None:
                watch(steps + trainable.step)
                trainable.net.train()
        step_seconds += time.process_time() - started
        steps += trainable.step
        assert loss is not None
        assert began is not None
        weights = torch.stack(torch._foreach_norm(parameters)).sum()
        if not (weights.isfinite() & (_sum(loss, penalty) - began <= LIMIT)):
            epoch += 1
            diverged = True
            break
        if keep == "last":
            continue
        reached = accuracy(trainable, data.validation, inference=judged)
        if reached > best_accuracy:
            best, best_accuracy, stale = Snapshot.of(trainable), reached, 0
        else:
            stale += 1
    else:
        epoch += 1
    if keep == "best" or diverged:
        best.restore(trainable)
    if moments is not None:
        moments.update(remembered(optimizer, trainable.net))
    return Fit(0.0 if diverged else best_accuracy, epoch, steps, step_seconds, diverged)


@torch.no_grad()
def show(method: Method, data: Task, key: Key, watch: Callable[[int], None] | None = None) -> Fit:
    """Show the attached method the training data once, in the order of a first epoch, without a gradient step.

    Images are not augmented, and the network answers as at test. Takes `key` and `watch` as `fit` does.
    """
    method.net.eval()
    method.data = data
    started = time.process_time()
    order = torch.randperm(len(data.train), generator=generator(*key, 0))
    size = method.training.batch_size
    for number, (x, y, t) in enumerate(data.train.batches(size, order), start=1):
        method.indices = order[(number - 1) * size :][:size]
        method.observe(x, y, t)
        if watch is not None:
            watch(number)
    return Fit(0.0, 1, 0, time.process_time() - started)


def _sum(loss: Tensor, penalty: Tensor | Quadratic | None) -> Tensor:
    return loss.detach() if penalty is None else loss.detach() + penalty.detach()
