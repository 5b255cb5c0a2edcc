"""What a method is: the hooks it may override, the knobs it declares, and what it says it can do.

A method that overrides nothing is plain finetuning. What calls the hooks (`cl.train.fit`, and the learner around it)
knows no method's name.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from cl.data.augment import Augment
from cl.descent import Optimizer
from cl.errors import brief
from cl.knob import DECAYING, Knob, Value, checked, typed
from cl.nets.multihead import Increment
from cl.ops import cross_entropy
from cl.params import Training
from cl.rng import Key, generator
from cl.trainable import Trainable, by_rate

if TYPE_CHECKING:
    from cl.data import Split, Task
    from cl.data.task import Normalise, TaskIds
    from cl.nets import MultiHead
    from cl.train import Fit

Choosing: TypeAlias = Literal["stability-decay", "learning-rate", "consolidation-decay", "one-pass"]
"""Ways of choosing hyperparameters; `Method.selection` says what they are."""
LABEL_BYTES = 8
"""Of a stored label (int64)."""
ALL: frozenset[Increment] = frozenset({"task", "domain", "class"})


class Method(Trainable):
    """Base of all methods, and plain finetuning itself.

    The constructor only stores knobs. Whatever a method learns is an attribute whose name ends in `_`; what
    `begin_task` prepares for the trainings of a trial alone begins with `_`. No other attribute can be set.
    """

    knobs: ClassVar[dict[str, Knob]] = {}
    follows_schedule = True

    # Capabilities, declared as class attributes and asked for instead of names.
    needs_task_id: ClassVar[bool] = False
    """Inference cannot do without the task id."""
    stores_samples: ClassVar[bool] = False
    """Keeps raw training samples."""
    needs_shared_layers: ClassVar[bool] = False
    """Works on hidden layers that the tasks share, or takes them apart: heads alone leave it nothing to do."""
    takes_layers_apart: ClassVar[bool] = False
    """Replaces or connects single layers, and knows those of our own networks alone, not those of a pretrained one."""
    corrects_decay: ClassVar[bool] = False
    """Corrects in the gradient what weight decay adds to it."""
    sees_all_tasks: ClassVar[bool] = False
    """Trains once, on the union of all tasks: a bound, not a continual learner."""
    isolates_parameters: ClassVar[bool] = False
    """Earlier tasks own parameters that even plain finetuning must not touch: the plasticity search calls the
    method's hooks with `self.plain` set, instead of none."""
    shares_first_task: ClassVar[bool] = True
    """Trains the first task as plain finetuning does, so that all such methods go on from one and the same model. It is
    then trained once for all of them (`cl.first_task`)."""
    learns_from_steps: ClassVar[bool] = False
    """Gathers state in each step of a training, so it needs a training of its own."""
    exports: ClassVar[Literal["onnx", "torch", "by-task"]] = "onnx"
    """As what its inference can be exported. `onnx`: as a graph of torch or of ONNX. `torch`: not to ONNX, which lacks
    an operation that it needs. `by-task`: as both, but for one task at a time only: without the task, what it computes
    for an image depends on that image."""
    selection: ClassVar[Choosing] = "stability-decay"
    """How hyperparameters are chosen. `learning-rate`: the method itself is trained at each learning rate and
    the best is kept. `stability-decay`: the survey's two phases. `consolidation-decay`: the same, but an attempt
    goes on from the model of the plasticity search and only consolidates it (`end_task`). `one-pass`: it takes no
    gradient steps; the data are shown to it once (`observe`), with the knobs as given, so nothing is searched."""
    scenarios: ClassVar[frozenset[Increment]] = frozenset({"task"})
    """Those of task-, domain- and class-incremental learning in which it works (`cl.register.cannot` says why not)."""
    online: ClassVar[bool] = False
    """Can learn from a stream: no boundary is announced (no `begin_task`, no `end_task`), each sample is seen once."""

    # Set by the learner, beside what every trainable has.
    net: MultiHead
    plain: bool
    """This training is one of plain finetuning, for the plasticity search; only where it `isolates_parameters`."""
    fit: Callable[..., Fit]
    """Train again by the same loop: `self.fit(data, "what for", learning_rate=..., epochs=..., keep=...)` this method,
    or the `Trainable` given as the third argument. See `cl.train.fit`."""
    _shared: tuple[Any, dict[str, nn.Parameter]] | None = None
    once: Callable[[Hashable, Callable[[], Any]], Any]
    """`self.once(key, make)`: what `make()` returns, made once for all trials of a task. For what follows from the
    seed, the task and the key alone."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = {
            name: typed(value, cls.__annotations__[name])
            for name, value in vars(cls).items()
            if isinstance(value, Knob)
        }
        cls.knobs = {**cls.knobs, **own}
        for name, k in own.items():
            setattr(cls, name, k.default)
        cls.settable = Method.settable | cls.knobs.keys()

    def __init__(self, /, **knobs: Value) -> None:
        for name, value in knobs.items():
            self.__dict__[name] = self.checked(name, value, brief(name))

    @classmethod
    def checked(cls, name: str, value: Value, place: str) -> Value:
        """A knob's value in the knob's own type; raises `UserError` naming the place where it is impossible."""
        return checked(cls.knobs, cls.__name__, name, value, place)

    @classmethod
    def decays_knobs(cls) -> bool:
        """Whether the protocol's second phase is run for it."""
        return cls.selection in DECAYING

    # The hooks beside those of a training, in the order a run comes to them.

    def wrap(self, net: MultiHead) -> MultiHead:
        """Replace modules of the fresh network before anything is trained."""
        return net

    def grow(self, net: MultiHead, task: int, draw: torch.Generator) -> None:
        """Add to the network what this task needs besides its head, which is there; structure only, no data."""

    def starts_as_finetuning(self) -> bool:
        """Whether it trains the first task as plain finetuning does, with the knobs that it has."""
        return self.shares_first_task

    def trains(self, *, first: bool, online: bool) -> bool:
        """Whether it learns the next task by gradient steps; if not, it is shown the data once."""
        return self.selection != "one-pass"

    def optimizer(self, parameters: list[Tensor], learning_rate: float) -> Optimizer:
        """That of `training.optimizer`."""
        if self.training.optimizer == "sgd":
            return super().optimizer(parameters, learning_rate)
        kind = torch.optim.Adam if self.training.optimizer == "adam" else torch.optim.AdamW
        first, second = self.training.betas
        decay = self.training.weight_decay
        groups = by_rate(parameters, learning_rate)
        return kind(groups, lr=learning_rate, betas=(first, second), weight_decay=decay, foreach=True)

    def begin_task(self, data: Task) -> None:
        """Prepare for a task; the network already has its head."""

    def stiffness(self) -> float:
        """Half the largest curvature of `penalty` along one weight: lambda max(Omega) where it is quadratic.

        Asked between `begin_task` and the first step. 0: there is none, or it is not quadratic.
        """
        return 0.0

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """The loss of the task, a scalar."""
        return cross_entropy(self.net, x, y, t)

    def observe(self, x: Tensor, y: Tensor, t: TaskIds) -> None:
        """Learn from a batch without a gradient step: x (N, C, H, W), y (N,), t an int or (N,)."""
        raise NotImplementedError

    def end_task(self, data: Task) -> None:
        """Consolidate; may train again through `self.fit`."""

    def kept(self, normalise: Normalise) -> list[Split]:
        """The stored samples of each old task, for a method that stores some."""
        raise NotImplementedError

    def sample_bytes(self, pixels: int, classes: int) -> int:
        """Bytes of one stored sample: of its image (`pixels`), and of its label, one of `classes` classes."""
        return pixels + LABEL_BYTES

    # What every method has.

    @property
    def shared(self) -> dict[str, nn.Parameter]:
        """The backbone's parameters by name; gathered once a trial, as that takes a good part of a small step."""
        of = (self.net, self.net.increment, len(self.net.heads))
        if self._shared is None or self._shared[0] != of:
            self._shared = (of, self.net.shared)
        return self._shared[1]

    def view(self, images: Tensor, purpose: str) -> Tensor:
        """Stored images (N, C, H, W) uint8 as the network takes them in training, augmented anew."""
        normalise = self.data.train.normalise
        if not self.augmentation.active:
            return normalise(images)
        return normalise.numbers(Augment(self.augmentation, self.rng(f"augmentation of {purpose}"))(images))

    def attach(self, net: MultiHead, task: int, training: Training, learning_rate: float, key: Key) -> None:
        """Set the network, the task and the trial's settings; forget what was prepared for the trial before."""
        super().attach(net, task, training, learning_rate, key)
        self.plain = False

    def values(self) -> dict[str, Value]:
        """The current value of every knob, but of a younger one only where it is not the default."""
        now = {name: getattr(self, name) for name in self.knobs}
        return {name: value for name, value in now.items() if not (k := self.knobs[name]).younger or value != k.default}


def add_task(
    method: Method, net: MultiHead, classes: int | Sequence[int], index: int, head: torch.Generator, more: Key
) -> None:
    """Make the network ready for one task more: a head, drawn from `head`, and what the method needs besides.

    `classes`: as `MultiHead.add_head` takes them.
    """
    if not (net.increment == "domain" and len(net.heads)):
        net.add_head(classes, head)
    method.grow(net, index, generator(*more))
    net.tasks += 1
