"""The schema of params.yaml: every setting, typed. An unknown key or an impossible value is a readable error.

This module does not import torch, so that the cheap stages start at once. The knobs of a method are declared in the
method's own file and checked against it by `cl.register.checked` as soon as torch is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cl.errors import UserError, brief, shown
from cl.faults import in_sentences
from cl.literal import Unclear, settled, text_only
from cl.names import method_name
from cl.overlay import Layers, Origin, label_of, path_of
from cl.paths import UserAddress, UserPath
from cl.sections import (
    LARGEST_SEED,
    MOST,
    Augmentation,
    Benchmark,
    LearningRate,
    Model,
    Patience,
    Section,
    Training,
)
from cl.yaml12 import named

__all__ = ["Augmentation", "Benchmark", "LearningRate", "Model", "Params", "Patience", "Scenario", "Training"]
__all__ += [
    "Champion",
    "Execution",
    "Knobs",
    "Report",
    "Selection",
    "Tracking",
    "bytes_of",
    "of_each_class",
    "read",
    "validate",
]
Scalar = bool | int | float | str


def _knob(value: Any) -> Any:
    """A value that some knob may have; whether this one may, its method checks."""
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, Scalar) or (isinstance(item, float) and not math.isfinite(item)):
            raise ValueError(f"has to be a finite number, true, false, a word, or a list of these, not {shown(value)}")
    return value


Knobs = dict[str, Annotated[Scalar | list[Scalar], BeforeValidator(_knob)]]


class Scenario(Section):
    """What a new task brings, whether the task of an image is given at test, and how the data come."""

    name: Literal["task", "domain", "class"] = Field(
        "task", description="task: a head for each task; domain: the same classes in each; class: new classes in each"
    )
    online: bool = Field(False, description="one pass over a stream without task boundaries")
    batch_size: int = Field(10, ge=1, le=MOST, description="samples of a stream in a step")
    unsupported: Literal["refuse", "leave-out"] = Field(
        "refuse", description="what to do with methods that the scenario rules out"
    )

    @property
    def title(self) -> str:
        """As it is shown: `online class-incremental`."""
        return f"{'online ' if self.online else ''}{self.name}-incremental"


class Selection(Section):
    """The survey's protocol: maximal plasticity search, then stability decay (De Lange et al., Algorithm 1)."""

    enabled: bool = True
    strategy: Literal["survey", "pareto"] = Field(
        "survey",
        description="pareto: after the survey's attempts, search for the Pareto front of stability and plasticity",
    )
    trials: int = Field(10, ge=0, le=MOST, description="of the Pareto search, besides the survey's attempts")
    stability_on: Literal["memory", "holdout"] = Field(
        "holdout",
        description="what a Pareto search measures stability on: stored samples, or validation data of old tasks",
    )
    first_task_learning_rates: list[LearningRate] = Field(
        [0.1, 0.05, 0.01, 0.005, 0.001], min_length=1, description="tried on the first task"
    )
    learning_rates: list[LearningRate] = Field(
        [0.01, 0.005, 0.001, 0.0005, 0.0001], min_length=1, description="tried on every other task"
    )
    drop_margin: float = Field(0.2, ge=0, le=1, description="p: an attempt is accepted at (1 - p) A*")
    decay: float = Field(0.5, gt=0, lt=1, description="alpha: a knob is multiplied by this after a failed attempt")
    max_attempts: int = Field(10, ge=1, le=MOST)
    reset_per_task: bool = Field(
        False, description="start every task from the knobs as given, not from the decayed ones"
    )

    @property
    def title(self) -> str:
        """The name of a search other than the survey's; otherwise empty."""
        if self.strategy == "survey" or not self.enabled:
            return ""
        return f"{self.strategy} search, stability on {self.stability_on}"

    @field_validator("first_task_learning_rates", "learning_rates")
    @classmethod
    def _distinct(cls, grid: list[float]) -> list[float]:
        if len(set(grid)) != len(grid):
            raise ValueError("holds the same learning rate twice")
        return sorted(grid, reverse=True)


class Execution(Section):
    """Where to run, and how much at once; changes no number."""

    workers: int | None = Field(
        None, ge=1, le=10**6, description="processes at once; null: one per core, or as many as a cluster takes"
    )
    runner: Literal["local", "dask", "ray"] = "local"
    address: str | None = Field(
        None, description="of an existing cluster; null: a small one of that kind on this machine"
    )
    gpus_per_run: float | None = Field(None, gt=0, le=10**6, description="requested from the cluster; null: none")
    runs_per_gpu: int | None = Field(
        None, ge=1, le=1000, description="processes that share one GPU; null: as many as its memory and the cores allow"
    )
    after_upgrade: Literal["anew", "continue"] = Field(
        "anew",
        description="what another version of this package or of torch has learned: learn it anew, or continue from it",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    minutes: float | None = Field(
        None, gt=0, le=10**6, description="after which a command that trains stops, to be continued; null: no limit"
    )


class Tracking(Section):
    """Where MLflow keeps its data."""

    enabled: bool = True
    uri: UserAddress | None = Field(None, description="of a tracking server; null: an SQLite database")
    folder: UserPath | None = Field(None, description="of that database; null: `mlflow` in the output folder")
    experiment: str | None = Field(None, description="name of the experiment; null: the benchmark's")


class Champion(Section):
    """The best model, as a version of a registered model in MLflow."""

    register_best: bool = Field(False, description="true: at the end of every comparison")
    name: str | None = Field(None, description="of the registered model; null: the benchmark's")
    no_task_id: bool = Field(False, description="true: without methods that need the task of an image")
    no_stored_samples: bool = Field(False, description="true: without methods that keep training images")
    known_share: float | None = Field(
        0.95, gt=0, le=1, description="of the validation images, which are to count as known; null: no `known`"
    )
    challenge: UserPath | None = Field(
        None, description="folder of new labelled pictures that decide the champion; null: the mean accuracy decides"
    )
    challenge_level: float = Field(0.05, gt=0, lt=1, description="the p-value below which a challenger has won")

    @field_validator("name")
    @classmethod
    def _usable(cls, name: str | None) -> str | None:
        if name is not None and (not name.strip() or any(letter in "/:.'%\"" for letter in name)):
            raise ValueError(f"{shown(name)} has to be text without the characters / : . ' \" %")
        return name


class Report(Section):
    """What the report looks at besides the results."""

    classes: Literal["none", "best", "all"] = Field(
        "best", description="whose final model is looked at class by class: that of the best method, or of every one"
    )
    pictures: int = Field(
        0, ge=0, le=100, description="so many test images that the model gets wrong with the highest probability"
    )


class Params(Section):
    """params.yaml as a whole."""

    benchmark: Benchmark = Benchmark()
    model: Model = Model()
    training: Training = Training()
    scenario: Scenario = Scenario()
    selection: Selection = Selection()
    memory_budget: int | str | None = Field(
        None,
        description="of every method that stores samples: how many, bytes as `40 kB`, or samples by class as "
        "`13 a class`; null: the method's own knob",
    )
    methods: dict[str, Knobs] = Field(min_length=1)
    others: dict[str, Knobs] = Field({}, exclude=True, description="knobs of methods that run only if named")
    seeds: list[Annotated[int, Field(ge=0, le=LARGEST_SEED)]] = Field([0, 1, 2], min_length=1)
    execution: Execution = Execution()
    tracking: Tracking = Tracking()
    champion: Champion = Champion()
    report: Report = Report()
    _origin: Origin = PrivateAttr(default_factory=Origin)

    def written(self, place: str) -> str:
        """A key as errors name it: `params.yaml: others.gss.subsets`, by where it was written."""
        place = self._origin.written(place)
        return f"{self._origin.of(place)}: {brief(place)}"

    def learning_rate(self, method: str) -> float:
        """Of a method if the selection is off: its own, or else that of the training."""
        own = self.methods.get(method, {}).get("learning_rate", self.training.learning_rate)
        assert isinstance(own, int | float)
        return float(own)

    @property
    def title(self) -> str:
        """The benchmark or its folder, and scenario and search if they are not the default: each has a ranking."""
        scenario = self.scenario.title if self.scenario.title != Scenario().title else ""
        drawn = self.benchmark.title
        return ", ".join(filter(None, [self.benchmark.called, drawn, scenario, self.selection.title, self.model.title]))

    @field_validator("methods", "others", mode="before")
    @classmethod
    def _known_methods(cls, methods: Any, info: ValidationInfo) -> Any:
        if methods is None and info.field_name == "others":
            return {}
        if not isinstance(methods, dict):
            raise ValueError("has to be a mapping from a method's name to its knobs")
        names = [method_name(str(name)) for name in methods]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]} stands twice")
        return {name: {} if knobs is None else knobs for name, knobs in zip(names, methods.values(), strict=True)}

    @field_validator("memory_budget", mode="before")
    @classmethod
    def _an_amount(cls, budget: Any) -> Any:
        if isinstance(budget, str):
            if of_each_class(budget) is None:
                bytes_of(budget)
        elif budget is not None and not (type(budget) is int and 1 <= budget <= MOST):
            raise ValueError(f"has to be 1 or more samples, bytes as in '40 kB', or '13 a class', not {shown(budget)}")
        return budget

    @model_validator(mode="after")
    def _boundaries_where_they_are_needed(self) -> Params:
        if self.scenario.online and self.selection.enabled:
            raise ValueError(
                "scenario.online: a stream has no boundaries at which to choose hyperparameters; "
                "set selection.enabled=false"
            )
        return self

    @model_validator(mode="after")
    def _one_training_where_its_state_is_kept(self) -> Params:
        if self.training.optimizer_state == "kept" and self.selection.enabled:
            raise ValueError(
                "training.optimizer_state: kept needs one training of each task, and the selection trains several; "
                "set selection.enabled=false"
            )
        return self

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("holds the same seed twice")
        return seeds

    @model_validator(mode="after")
    def _registry_where_it_is_used(self) -> Params:
        if self.champion.register_best and not self.tracking.enabled:
            raise ValueError("champion.register_best: needs MLflow, so tracking.enabled has to be true")
        if self.champion.register_best and self.benchmark.drawn:
            raise ValueError(
                "champion.register_best: benchmark.seed is run, so each seed has tasks of its own, and no model is the "
                "best at the same tasks; give benchmark.seed a number, or set champion.register_best=false"
            )
        return self

    @model_validator(mode="after")
    def _pictures_where_they_are_changed(self) -> Params:
        if self.model.on_features and self.training.augmentation.active:
            raise ValueError(
                "training.augmentation: the backbone is frozen and has seen each picture once, as it is; leave the "
                "augmentation out, or set model.frozen=false"
            )
        return self

    @model_validator(mode="after")
    def _path_where_it_is_read(self) -> Params:
        if self.benchmark.name == "folder" and self.benchmark.path is None:
            raise ValueError("benchmark.path: the benchmark 'folder' needs it: the root of <task>/<class>/<image>")
        return self


def of_each_class(amount: int | str) -> int | None:
    """The samples of `13 a class`; None for an amount of another kind."""
    parts = re.fullmatch(r"([1-9][0-9]{0,8}) a class", amount.strip()) if isinstance(amount, str) else None
    return int(parts[1]) if parts else None


UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def bytes_of(amount: str) -> int:
    """The bytes of `40 kB`; raises `ValueError` for what is no amount."""
    parts = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?(B|kB|MB|GB)", amount.strip())
    if parts is None or float(parts[1]) == 0:
        raise ValueError(
            f"{shown(amount)} is no amount: a number with B, kB, MB or GB, as in '40 kB', or '13 a class' for samples"
        )
    return round(float(parts[1]) * UNITS[parts[2]])


def read(
    path: Path,
    overrides: Iterable[str] = (),
    methods: Iterable[str] | None = None,
    seeds: Iterable[int] | None = None,
) -> Params:
    """Read and check params.yaml, with `key.path=value` overrides laid over it.

    A key of text takes its value as it stands, a key of numbers takes decimals, and a key of lists takes `[a, b]`.

    `methods` and `seeds` replace what the file names. Each method has its knobs from `methods` or `others` (methods
    that run only if named), otherwise those that it declares. `methods: all` names every method and leaves out those
    that the scenario rules out. A file with `extends: OTHER.yaml` is laid over that file, found from its own folder.
    Raises `UserError`, which names the file or the option, the key, and what is possible.
    """
    layers = Layers(path)
    for given in overrides:
        layers.override(given, text_only(Params, path_of(given)), label_of(given))
    if layers.everything and methods is None and "unsupported" not in (layers.tree.get("scenario") or {}):
        layers.override("scenario.unsupported=leave-out", True, label="methods: all")
    layers.choose(methods)
    if seeds is not None:
        layers.tree["seeds"], layers.laid["seeds"] = list(seeds), "--seeds"
    return validate(layers.tree, named(path), layers.laid)


def validate(tree: dict[str, Any], source: str, laid: Mapping[str, str] = MappingProxyType({})) -> Params:
    """Check a parsed params.yaml; raises `UserError` with one sentence a fault, naming its source and the key.

    The source is `source`, but for the keys of `laid`: each of these has the option or the file that set it.
    """
    origin = Origin(source, laid)
    try:
        params = Params.model_validate(settled(tree, Params))
    except Unclear as error:
        place = origin.written(".".join(error.place))
        raise UserError(f"{origin.of(place)}: {brief(place)}: {error}") from None
    except ValidationError as error:
        raise UserError(in_sentences(error, Params, origin)) from None
    params._origin = origin
    return params
