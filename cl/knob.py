"""What a knob is: a hyperparameter that a method declares once, in its own class."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from cl.errors import UserError, shown
from cl.names import closest

Scalar: TypeAlias = bool | int | float | str
Value: TypeAlias = Scalar | list[Any]
Decay: TypeAlias = Callable[[float, float], float]
"""(value, alpha) to the value after one failed attempt."""
DECAYING = ("stability-decay", "consolidation-decay")
"""The ways of choosing hyperparameters (`Method.selection`) in which knobs decay."""
TYPES = {"bool": bool, "int": int, "float": float, "str": str}


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
    younger: bool = False
    """It came later: what is written leaves it out at its default, so that older results stay equal."""

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
            choices = f", one of {', '.join(map(repr, self.choices))}, in quotes" if self.choices else ""
            raise UserError(f"{name}: has to be of type {self.type.__name__}{choices}, not {shown(value)}")
        if self.choices is not None and value not in self.choices:
            raise UserError(f"{name}: has to be one of {', '.join(self.choices)}, not {shown(value)}")
        assert not isinstance(value, list)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name}: has to be a finite number, not {shown(value)}")
        if self.range is not None and not (isinstance(value, int | float) and self.range[0] <= value <= self.range[1]):
            raise UserError(f"{name}: has to lie between {self.range[0]:g} and {self.range[1]:g}, not {shown(value)}")
        return value


def knob(
    default: Value,
    *,
    decay: Decay | None = None,
    range: tuple[float, float] | None = None,
    choices: tuple[str, ...] | None = None,
    help: str = "",
    younger: bool = False,
) -> Any:
    """Declare a hyperparameter: ``strength: float = knob(400.0, decay=shrink, range=(0, 1e9), help="lambda")``.

    That one line feeds the check of params.yaml, the decay phase, the trials, MLflow's parameters and the page of the
    method. Knobs with a `decay` trade stability for plasticity and decay in the order they are declared; `range`
    bounds what a user may give, not how far the decay goes. A knob that a method gets after its first results is
    `younger`.
    """
    return Knob(default, decay, range, choices, help, younger=younger)


def checked(knobs: Mapping[str, Knob], owner: str, name: str, value: Value, place: str) -> Value:
    """The value of one of these knobs in the knob's own type; raises `UserError`, which names the place.

    `owner`: the class that they belong to.
    """
    if name not in knobs:
        raise UserError(f"{place}: {owner} has no such knob; {closest(name, knobs)}")
    return knobs[name].check(place, value)


def typed(declared: Knob, annotation: str) -> Knob:
    """The knob with the type that its annotation names: `float`, or `list[float]` where it has many values."""
    name = annotation.removeprefix("list[").removesuffix("]")
    return dataclasses.replace(declared, type=TYPES[name], many=name != annotation)
