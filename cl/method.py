"""The protocol every method obeys: ten optional hooks, knobs declared once, state that ends in an underscore.

A method that overrides nothing is plain finetuning. The loop (`cl.train.fit`) calls the hooks; it knows no
method's name and saves and restores every attribute that ends in `_`, so that a method never has to.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from cl.data.augment import Augment
from cl.errors import UserError, brief, shown
from cl.nets.multihead import Increment
from cl.ops import cross_entropy
from cl.params import Augmentation, Params, Patience, Scenario, Training, closest, method_name
from cl.rng import Key, generator

if TYPE_CHECKING:
    from cl.data import Split, Task
    from cl.data.task import Normalise
    from cl.nets import MultiHead
    from cl.train import Fit

Scalar: TypeAlias = bool | int | float | str
Value: TypeAlias = Scalar | list[Any]
TYPES = {"bool": bool, "int": int, "float": float, "str": str}
LABEL_BYTES = 8
"""Of a stored label (int64)."""
Decay: TypeAlias = Callable[[float, float], float]
TaskIds: TypeAlias = int | Tensor


def shrink(value: float, alpha: float) -> float:
    """The survey's decay of a knob: alpha times its value."""
    return alpha * value


@dataclass(frozen=True)
class Knob:
    """A declared hyperparameter of a method; `name`, `type` and `many` come from the class it stands in."""

    default: Value
    decay: Decay | None = None
    range: tuple[float, float] | None = None
    choices: tuple[str, ...] | None = None
    help: str = ""
    type: type = float
    many: bool = False
    """A list of values of that type, all of which are tried: the grid of a training inside the method."""

    def check(self, name: str, value: Value) -> Value:
        """The value in the knob's own type; raises `UserError` where it is impossible."""
        if not self.many:
            return self._check(name, value)
        if not isinstance(value, list) or not value:
            raise UserError(f"{name}: has to be a list of one or more values, not {shown(value)}")
        return [self._check(name, item) for item in value]

    @property
    def alternatives(self) -> list[Scalar]:
        """What a switch (a knob of named choices, or of yes and no) can be set to instead of its default."""
        if self.type is bool:
            return [not self.default]
        return [choice for choice in self.choices or () if choice != self.default]

    def _check(self, name: str, value: Value) -> Scalar:
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 10**300 else math.inf
        if type(value) is not self.type:
            raise UserError(f"{name}: has to be of type {self.type.__name__}, not {shown(value)}")
        if self.choices is not None and value not in self.choices:
            raise UserError(f"{name}: has to be one of {', '.join(self.choices)}, not {shown(value)}")
        assert not isinstance(value, list)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name}: has to be a finite number, not {shown(value)}")
        if self.range is not None and not (isinstance(value, int | float) and self.range[0] <= value <= self.range[1]):
            raise UserError(f"{name}: has to lie in {self.range[0]:g} to {self.range[1]:g}, not {shown(value)}")
        return value


def knob(
    default: Value,
    *,
    decay: Decay | None = None,
    range: tuple[float, float] | None = None,
    choices: tuple[str, ...] | None = None,
    help: str = "",
) -> Any:
    """Declare a hyperparameter: ``strength: float = knob(400.0, decay=shrink, range=(0, 1e9), help="lambda")``.

    That one line feeds the check of params.yaml, the decay phase, the trials, MLflow's parameters and the page of the
    method. Knobs with a `decay` trade stability for plasticity and decay in the order they are declared; `range`
    bounds what a user may give, not how far the decay goes.
    """
    return Knob(default, decay, range, choices, help)


def _typed(declared: Knob, annotation: str) -> Knob:
    name = annotation.removeprefix("list[").removesuffix("]")
    return dataclasses.replace(declared, type=TYPES[name], many=name != annotation)


class Method:
    """Base of all methods, and plain finetuning itself.

    The constructor only stores knobs. What the loop tells a method (`net`, `task`, ...) is set by `attach`;
    whatever a method learns must be an attribute whose name ends in `_`: those are its state, made of tensors,
    numbers, strings, None, lists and dicts with string keys. What `begin_task` prepares for the trainings of a trial
    alone begins with `_`: it is no part of the state, and gone with the next trial.
    """

    knobs: ClassVar[dict[str, Knob]] = {}

    # Capabilities, declared as class attributes and asked for instead of names.
    needs_task_id: ClassVar[bool] = False
    """Inference cannot do without the task id."""
    stores_samples: ClassVar[bool] = False
    """Keeps raw training samples."""
    sees_all_tasks: ClassVar[bool] = False
    """Trains once, on the union of all tasks: a bound, not a continual learner."""
    isolates_parameters: ClassVar[bool] = False
    """Earlier tasks own parameters that even plain finetuning must not touch: in the plasticity search the hooks
    run with `self.plain` set, instead of giving way to plain finetuning."""
    shares_first_task: ClassVar[bool] = True
    """Trains the first task as plain finetuning does, so that all such methods go on from one and the same model."""
    selection: ClassVar[Literal["stability-decay", "learning-rate", "consolidation-decay"]] = "stability-decay"
    """How hyperparameters are chosen. `learning-rate`: the method itself is trained at each learning rate and
    the best is kept. `stability-decay`: the survey's two phases. `consolidation-decay`: the same, but an attempt
    goes on from the model of the plasticity search and only consolidates it (`end_task`)."""

    scenarios: ClassVar[frozenset[Increment]] = frozenset({"task"})
    """In which of task-, domain- and class-incremental learning it can be used (`cannot` says why not)."""
    online: ClassVar[bool] = False
    """Can learn from a stream: told of no boundary (no `begin_task`, no `end_task`), it sees every sample once."""
    judged_by: ClassVar[Literal["network", "inference"]] = "network"
    """Whose accuracy an epoch has: the network's as it is trained, or `predict`'s, where the heads learn nothing."""

    patience: ClassVar[Patience | None] = None
    """A training schedule of its own, where the published method has one; None: that of params.yaml."""

    # Set by the loop.
    net: MultiHead
    task: int
    plain: bool
    training: Training
    learning_rate: float
    epoch: int
    step: int
    steps_per_epoch: int
    fit: Callable[..., Fit]
    data: Task
    """What is being trained on; the method itself may look at no more of it than the samples of the steps so far."""
    indices: Tensor
    """Which of `data.train` are in the batch of this step, (N,): so its images as they are stored can be had."""
    _key: Key
    _draws: dict[str, torch.Generator]
    _set_by_loop: ClassVar = {
        "net",
        "task",
        "plain",
        "training",
        "learning_rate",
        "epoch",
        "step",
        "steps_per_epoch",
        "fit",
        "data",
        "indices",
    }

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = {
            name: _typed(value, cls.__annotations__[name])
            for name, value in vars(cls).items()
            if isinstance(value, Knob)
        }
        cls.knobs = {**cls.knobs, **own}
        for name, k in own.items():
            setattr(cls, name, k.default)

    def __init__(self, /, **knobs: Value) -> None:
        for name, value in knobs.items():
            self.__dict__[name] = self.checked(name, value, brief(name))

    @classmethod
    def checked(cls, name: str, value: Value, place: str) -> Value:
        """A knob's value in the knob's own type; raises `UserError` naming the place where it is impossible."""
        if name not in cls.knobs:
            raise UserError(f"{place}: {cls.__name__} has no such knob; {closest(name, cls.knobs)}")
        return cls.knobs[name].check(place, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name.endswith("_") or name.startswith("_") or name in self.knobs or name in self._set_by_loop):
            raise AttributeError(f"{type(self).__name__}.{name}: what a method learns has to end in '_' to be kept")
        object.__setattr__(self, name, value)

    @property
    def augmentation(self) -> Augmentation:
        """What is done to the images of a training."""
        return self.training.augmentation

    # The ten hooks, in the order the loop comes to them.

    def wrap(self, net: MultiHead) -> MultiHead:
        """Replace modules of the fresh network before anything is trained."""
        return net

    def grow(self, net: MultiHead, task: int, draw: torch.Generator) -> None:
        """Give the network what it needs for this task besides a head, which it has; only its structure, no data."""

    def begin_task(self, data: Task) -> None:
        """Prepare for a task; the network already has its head."""

    def batch(self, x: Tensor, y: Tensor, t: TaskIds) -> tuple[Tensor, Tensor, TaskIds]:
        """What this step trains on, given the current task's batch: x (N, C, H, W), y (N,), t an int or (N,)."""
        return x, y, t

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """The loss of the task, a scalar."""
        return cross_entropy(self.net, x, y, t)

    def on_grad(self) -> None:
        """The gradients of `loss`, and of nothing else, are in `.grad`."""

    def penalty(self) -> Tensor | None:
        """A scalar whose gradient is added after `on_grad`, apart from the loss's; or None."""
        return None

    def on_step(self, x: Tensor, y: Tensor, t: TaskIds) -> None:
        """The parameters have moved; x, y, t are what the step trained on."""

    def end_task(self, data: Task) -> None:
        """Consolidate; may train again through `self.fit`."""

    def predict(self, x: Tensor, t: int | None = None) -> Tensor:
        """Scores (N, classes of task t), or over all classes seen where t is None; changes nothing."""
        return self.net(x, t)  # type: ignore[no-any-return]

    # What every method has.

    def stiffness(self) -> float:
        """Half the largest curvature of `penalty` along one weight: lambda max(Omega) where it is quadratic.

        Asked between `begin_task` and the first step. 0: there is none, or it is not quadratic.
        """
        return 0.0

    def kept(self, normalise: Normalise) -> list[Split]:
        """The stored samples of each old task, for a method that stores some."""
        raise NotImplementedError

    def sample_bytes(self, pixels: int, classes: int) -> int:
        """What one stored sample takes: an image of so many bytes, and its label, one of so many classes."""
        return pixels + LABEL_BYTES

    def view(self, images: Tensor, purpose: str) -> Tensor:
        """Stored images (N, C, H, W) uint8 as the network takes them in training, augmented anew."""
        normalise = self.data.train.normalise
        if not self.augmentation.active:
            return normalise(images)
        return normalise.numbers(Augment(self.augmentation, self.rng(f"augmentation of {purpose}"))(images))

    def optimizer(self, parameters: list[Tensor], learning_rate: float) -> torch.optim.Optimizer:
        """What takes the steps: stochastic gradient descent with momentum, as in the survey."""
        return torch.optim.SGD(  # not fused: that fails where a head gets its first gradient later than others
            parameters,
            lr=learning_rate,
            momentum=self.training.momentum,
            weight_decay=self.training.weight_decay,
            foreach=True,
        )

    @property
    def shared(self) -> dict[str, nn.Parameter]:
        """The backbone's parameters by name."""
        return self.net.shared

    def rng(self, purpose: str) -> torch.Generator:
        """The trial's generator for this purpose, keyed by (seed, task, phase, trial, purpose)."""
        if purpose not in self._draws:
            self._draws[purpose] = generator(*self._key, purpose)
        return self._draws[purpose]

    def attach(self, net: MultiHead, task: int, training: Training, learning_rate: float, key: Key) -> None:
        """Tell the method where it is; called by the loop before the hooks of a trial."""
        for name in [name for name in vars(self) if name.startswith("_")]:
            delattr(self, name)
        self.net, self.task, self.training = net, task, training
        self.learning_rate, self._key, self._draws, self.plain = learning_rate, key, {}, False
        self.epoch = self.step = self.steps_per_epoch = 0

    def state(self) -> dict[str, Any]:
        """What the method has learned: every instance attribute that ends in `_`."""
        return {name: value for name, value in vars(self).items() if name.endswith("_") and name[0] != "_"}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Replace what the method has learned."""
        for name in self.state():
            delattr(self, name)
        for name, value in state.items():
            setattr(self, name, value)

    def values(self) -> dict[str, Value]:
        """The current value of every knob."""
        return {name: getattr(self, name) for name in self.knobs}


def method_class(name: str) -> type[Method]:
    """The class in `cl/methods/<name>.py`: the one subclass of `Method` that the file itself defines.

    A name that begins with an underscore is a helper's.
    """
    module = importlib.import_module(f"cl.methods.{method_name(name)}")
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
        if not value.__name__.startswith("_")
    ]
    if len(own) != 1:
        raise UserError(f"{module.__file__}: has to define exactly one subclass of Method, not {len(own)}")
    return own[0]


def make(name: str, knobs: Mapping[str, Value]) -> Method:
    """The method of this name with these knobs; raises `UserError` naming `methods.<name>.<knob>`."""
    try:
        return method_class(name)(**knobs)
    except UserError as error:
        raise UserError(f"methods.{name}.{error}") from None


ALL: frozenset[Increment] = frozenset({"task", "domain", "class"})


def cannot(name: str, scenario: Scenario) -> str | None:
    """Why a method cannot be run in a scenario, by what it declares; None where it can."""
    found = method_class(name)
    if found.needs_task_id and scenario.name != "task":
        return f"{name} needs the task of an image at test, which {scenario.name}-incremental learning does not tell"
    if scenario.name not in found.scenarios:
        return f"{name} is for {listed(found.scenarios)} learning, not for {scenario.name}-incremental"
    if scenario.online and found.sees_all_tasks:
        return f"{name} learns all tasks at once, and an online stream shows them one after the other"
    if scenario.online and not found.online:
        return f"{name} does its work at the boundaries between tasks, of which an online stream tells nothing"
    return None


def unbounded(name: str) -> str | None:
    """Why one memory for all (`memory_budget`) cannot hold a method to it; None where it can, or keeps no samples."""
    found = method_class(name)
    if not found.stores_samples or found.sees_all_tasks or "memory_budget" in found.knobs:
        return None
    return f"memory_budget: {name} keeps so many samples of each task, however many tasks there are"


def listed(increments: frozenset[Increment]) -> str:
    """`task- and class-incremental`."""
    return " and ".join(f"{name}-" for name in ("task", "domain", "class") if name in increments) + "incremental"


def checked(params: Params, say: Callable[[str], None] = print) -> Params:
    """The params, their methods and knobs checked as only the methods' own files can, those that are not run too.

    A method that cannot be run in the scenario, the search or the memory asked for is left out and said, where the
    params leave such out. Raises `UserError` that names them all otherwise.
    """
    for name, knobs in {**params.others, **params.methods}.items():
        for which, value in knobs.items():
            method_class(name).checked(which, value, params.written(f"methods.{name}.{which}"))
    reasons = {name: why for name in params.methods if (why := cannot(name, params.scenario)) is not None}
    if params.memory_budget is not None:
        reasons |= {name: why for name in params.methods if (why := unbounded(name)) is not None}
    if params.selection.strategy == "pareto" and params.selection.stability_on == "memory":
        for name in params.methods:
            decays = method_class(name).selection != "learning-rate"
            if decays and not method_class(name).stores_samples:
                reasons[name] = (
                    f"{name} keeps no samples to see stability on (selection.stability_on: holdout would do)"
                )
    left = {name: knobs for name, knobs in params.methods.items() if name not in reasons}
    if not reasons:
        return params
    if params.scenario.unsupported == "refuse" or not left:
        raise UserError(f"{'; '.join(reasons.values())}; leave it out, or set scenario.unsupported=leave-out")
    for why in reasons.values():
        say(f"left out: {why}")
    return params.model_copy(update={"methods": left})


def add_task(method: Method, net: MultiHead, classes: int, index: int, head: torch.Generator, more: Key) -> None:
    """Make the network ready for one task more: a head, drawn from `head`, and what the method needs besides."""
    if not (net.increment == "domain" and len(net.heads)):
        net.add_head(classes, head)
    method.grow(net, index, generator(*more))
    net.tasks += 1


def accuracy(method: Method, split: Split, *, inference: bool, task_aware: bool | None = None) -> float:
    """Share of the split's samples given their own label.

    `inference`: by the method's `predict`, as at test time; else by the network in training as it stands. `task_aware`:
    it chooses among the classes of the sample's task; else among all classes seen. None: as the scenario is.
    """
    net = method.net
    task_aware = net.increment == "task" if task_aware is None else task_aware
    net.eval()
    correct = 0
    with torch.no_grad():
        for x, y, t in split.batches(split.chunk(method.training.batch_size)):
            right = y if task_aware and isinstance(t, int) else net.column(y, t)
            if inference and isinstance(t, int):
                scores = method.predict(x, t if task_aware else None)
            else:
                scores = net(x, t if task_aware else None)
            correct += int((scores.argmax(1) == right).sum())
    return correct / len(split)
