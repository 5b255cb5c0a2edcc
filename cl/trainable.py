"""What the loop trains: a network, a loss, and state that ends in an underscore.

A method is one (`cl.method`), and so is whatever a method trains beside its network: an autoencoder, a gate, a
generator. The loop (`cl.train.fit`) calls the hooks that stand here, and saves and restores the state.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from cl.descent import Descent, Optimizer
from cl.params import Augmentation, Patience, Training
from cl.rng import Key, generator

if TYPE_CHECKING:
    from cl.data import Task
    from cl.data.task import TaskIds
    from cl.ops import Quadratic


def by_rate(parameters: list[Tensor], learning_rate: float) -> list[Tensor] | list[dict[str, Any]]:
    """The parameters in groups, where some have a `rate` of their own: a share of the learning rate."""
    rates = [getattr(parameter, "rate", 1.0) for parameter in parameters]
    if all(rate == 1 for rate in rates):
        return parameters
    groups = {own: [p for p, rate in zip(parameters, rates, strict=True) if rate == own] for own in sorted({*rates})}
    return [{"params": group, "lr": rate * learning_rate} for rate, group in groups.items()]


class Trainable:
    """Base of all that `cl.train.fit` takes.

    An attribute is one of three things, told apart by its name. State ends in `_`: what was learned, made of tensors,
    numbers, strings, None, lists and dicts with string keys. What is prepared for the trainings of one trial begins
    with `_`, and is gone with the next `attach`. Everything else has to be declared in the class body.
    """

    patience: ClassVar[Patience | None] = None
    """A training schedule of its own, where the published method has one; None: that of params.yaml."""
    follows_schedule: ClassVar[bool] = False
    """Whether it is trained by `training.schedule`; if not, always by `patience`."""
    judged_by: ClassVar[Literal["network", "inference"]] = "network"
    """What measures the accuracy of an epoch: the `network` as it is trained, or `predict` (`inference`)."""

    # Set by `attach`, and by the loop as it goes on.
    net: Any
    """The network: a `MultiHead` where validation data decide on the best epoch, any module elsewhere."""
    task: int
    training: Training
    learning_rate: float
    data: Task
    """What is being trained on; no more of it may be looked at than the samples of the steps so far."""
    epoch: int
    step: int
    """Within the epoch, from 0 on."""
    steps_per_epoch: int
    indices: Tensor
    """Which samples of `data.train` are in the batch of this step, (N,), so that their stored images can be found."""
    _key: Key
    _draws: dict[str, torch.Generator]

    settable: ClassVar[frozenset[str]] = frozenset()
    """What may be set beside state and what begins with `_`: the names that the class and its bases declare."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        declared = {name: kind for above in cls.__mro__ for name, kind in inspect.get_annotations(above).items()}
        cls.settable = frozenset(name for name, kind in declared.items() if not str(kind).startswith("ClassVar"))

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name.endswith("_") or name.startswith("_") or name in self.settable):
            raise AttributeError(f"{type(self).__name__}.{name}: what a method learns has to end in '_' to be kept")
        object.__setattr__(self, name, value)

    # The hooks, in the order the loop comes to them.

    def optimizer(self, parameters: list[Tensor], learning_rate: float) -> Optimizer:
        """The optimizer; by default stochastic gradient descent with momentum, as in the survey."""
        groups = by_rate(parameters, learning_rate)
        return Descent(groups, learning_rate, self.training.momentum, self.training.weight_decay)

    @property
    def augmentation(self) -> Augmentation:
        """How training images are augmented; by default as `training.augmentation` says."""
        return self.training.augmentation

    def batch(self, x: Tensor, y: Tensor, t: TaskIds) -> tuple[Tensor, Tensor, TaskIds]:
        """What this step trains on, given the current task's batch: x (N, C, H, W), y (N,), t an int or (N,)."""
        return x, y, t

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """The loss of what this step trains on, a scalar."""
        raise NotImplementedError

    def on_grad(self) -> None:
        """Change the gradients: `.grad` holds those of `loss`, and of nothing else."""

    def penalty(self) -> Tensor | Quadratic | None:
        """A scalar whose gradient is added after `on_grad`, apart from the loss's; or None."""
        return None

    def on_step(self, x: Tensor, y: Tensor, t: TaskIds) -> None:
        """Follow up on a step: the parameters have moved; x, y, t are what it trained on."""

    def predict(self, x: Tensor, t: int | None = None) -> Tensor:
        """Scores (N, classes of task t), or over all classes seen where t is None; changes nothing."""
        return self.net(x, t)  # type: ignore[no-any-return]

    # What every trainable has.

    def rng(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        """The trial's generator for this purpose, keyed by (seed, task, phase, trial, purpose).

        On the CPU for what decides, as which samples to draw; on the network's `device` for what is only put into it.
        """
        if purpose not in self._draws:
            self._draws[purpose] = generator(*self._key, purpose, device=device)
        return self._draws[purpose]

    def attach(self, net: Any, task: int, training: Training, learning_rate: float, key: Key) -> None:
        """Set the network, the task and the trial's settings; forget what was prepared for the trial before."""
        for name in [name for name in vars(self) if name.startswith("_")]:
            delattr(self, name)
        self.net, self.task, self.training = net, task, training
        self.learning_rate, self._key, self._draws = learning_rate, key, {}
        self.epoch = self.step = self.steps_per_epoch = 0

    def state(self) -> dict[str, Any]:
        """What was learned: every instance attribute that ends in `_`."""
        return {name: value for name, value in vars(self).items() if name.endswith("_") and name[0] != "_"}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Replace what was learned."""
        for name in self.state():
            delattr(self, name)
        for name, value in state.items():
            setattr(self, name, value)
