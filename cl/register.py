"""The register of methods: each by its name, the scenarios it can run in, and the check of its knobs.

What a method declares is read from its source, so that a command which only checks it does not wait for torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cl import knob
from cl.declared import declared
from cl.errors import UserError
from cl.knob import DECAYING, Knob, Value
from cl.names import method_name
from cl.params import Model, Params, Scenario, Training, of_each_class

if TYPE_CHECKING:
    from cl.method import Method
    from cl.nets.multihead import Increment

OF_TRAINING = {"learning_rate": Knob(0.05, range=(1e-9, 100.0))}
"""What may stand beside the knobs of any method: settings of the training, for this method alone."""


def method_class(name: str) -> type[Method]:
    """The class in `cl/methods/<name>.py`: the one subclass of `Method` that the file itself defines."""
    from cl.method import Method

    module = importlib.import_module(f"cl.methods.{method_name(name)}")
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise UserError(f"{module.__file__}: has to define exactly one subclass of Method, not {len(own)}")
    return own[0]


def declares(name: str, attribute: str) -> Any:
    """The value of a class attribute of this method; its class is loaded only where its source does not say."""
    try:
        return declared(method_name(name), attribute)
    except (KeyError, SyntaxError):
        return getattr(method_class(name), attribute)


def decays_knobs(name: str) -> bool:
    """Whether the protocol's second phase is run for this method."""
    return declares(name, "selection") in DECAYING


def make(name: str, knobs: Mapping[str, Value]) -> Method:
    """The method of this name with these knobs; raises `UserError` naming `methods.<name>.<knob>`."""
    try:
        return method_class(name)(**{which: value for which, value in knobs.items() if which not in OF_TRAINING})
    except UserError as error:
        raise UserError(f"methods.{name}.{error}") from None


def cannot(name: str, scenario: Scenario) -> str | None:
    """Why a method cannot run in a scenario, by what it declares; None if it can."""
    if declares(name, "needs_task_id") and scenario.name != "task":
        return f"{name} needs the task of an image at test, which {scenario.name}-incremental learning does not give"
    if scenario.name not in (scenarios := declares(name, "scenarios")):
        return f"{name} is for {listed(scenarios)} learning, not for {scenario.name}-incremental"
    if scenario.online and declares(name, "sees_all_tasks"):
        return f"{name} learns all tasks at once, and an online stream shows them one after the other"
    if scenario.online and not declares(name, "online"):
        return f"{name} does its work at the boundaries between tasks, which an online stream does not announce"
    return None


def unfit(name: str, model: Model) -> str | None:
    """Why a method cannot work on a network; None where it can."""
    if declares(name, "needs_shared_layers") and not model.hidden and model.on_features:
        return f"{name} works on hidden layers that the tasks share, and there are none; set model.hidden=[256]"
    if declares(name, "takes_layers_apart") and model.name == "features" and not model.frozen:
        return f"{name} replaces single layers, which it cannot in a pretrained network; set model.frozen=true"
    return None


def unstable(name: str, training: Training) -> str | None:
    """Why a method cannot be trained so; None where it can."""
    if training.optimizer == "adamw" and training.weight_decay and declares(name, "corrects_decay"):
        return (
            f"{name} corrects weight decay in the gradient, and adamw applies it elsewhere; set training.optimizer=adam"
        )
    return None


def _pictured(params: Params) -> None:
    """Raise `UserError` for a method that would change pictures where only their features are seen."""
    if not params.model.on_features:
        return
    for name, knobs in params.methods.items():
        method = make(name, knobs)
        method.training = params.training
        if method.augmentation.active:
            raise UserError(
                f"{params.written(f'methods.{name}')}: changes pictures in training, and a frozen backbone has seen "
                "each once, as it is; switch that off, or set model.frozen=false"
            )


def unbounded(name: str, budget: int | str) -> str | None:
    """Why the one `memory_budget` for all cannot bound a method's memory; None where it can, or there is no memory."""
    knobs = declares(name, "knobs")
    if not declares(name, "stores_samples") or declares(name, "sees_all_tasks") or "memory_budget" in knobs:
        return None
    if of_each_class(budget) is not None and "memory_per_task" in knobs:
        return None
    return (
        f"memory_budget: {name} keeps a fixed number of samples of each task, however many tasks there are"
        f"{'; a budget such as 13 a class can hold it' if 'memory_per_task' in knobs else ''}"
    )


def listed(increments: frozenset[Increment]) -> str:
    """`task- and class-incremental`."""
    return " and ".join(f"{name}-" for name in ("task", "domain", "class") if name in increments) + "incremental"


def checked(params: Params, say: Callable[[str], None] = print) -> Params:
    """The params, once the knobs of all methods, run or not, are checked against the methods' own files.

    A method that cannot be run in the scenario, the search or the memory asked for is left out, and `say` is told, if
    `scenario.unsupported` is leave-out; otherwise this raises `UserError`, naming them all.
    """
    for name, knobs in {**params.others, **params.methods}.items():
        for which, value in knobs.items():
            place = params.written(f"methods.{name}.{which}")
            if which not in OF_TRAINING:
                knob.checked(declares(name, "knobs"), declares(name, "__name__"), which, value, place)
            elif params.selection.enabled:
                raise UserError(f"{place}: the selection chooses the learning rate; set selection.enabled=false")
            else:
                OF_TRAINING[which].check(place, value)
    reasons = {name: why for name in params.methods if (why := cannot(name, params.scenario)) is not None}
    reasons |= {name: why for name in params.methods if (why := unfit(name, params.model)) is not None}
    reasons |= {name: why for name in params.methods if (why := unstable(name, params.training)) is not None}
    if params.memory_budget is not None:
        reasons |= {name: why for name in params.methods if (why := unbounded(name, params.memory_budget))}
    if params.selection.strategy == "pareto" and params.selection.stability_on == "memory":
        for name in params.methods:
            if decays_knobs(name) and not declares(name, "stores_samples"):
                reasons[name] = (
                    f"{name} keeps no samples on which to measure stability (set selection.stability_on=holdout)"
                )
    _pictured(params)
    left = {name: knobs for name, knobs in params.methods.items() if name not in reasons}
    if not reasons:
        return params
    if params.scenario.unsupported == "refuse" or not left:
        raise UserError(f"{'; '.join(reasons.values())}; leave it out, or set scenario.unsupported=leave-out")
    for why in reasons.values():
        say(f"left out: {why}")
    return params.model_copy(update={"methods": left})
