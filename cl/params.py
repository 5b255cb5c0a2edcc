"""The schema of params.yaml: every knob of a run, typed; an unknown key or an impossible value is a readable error.

Torch is not imported here, so that the cheap stages start at once. The knobs of a method are declared in the
method's own file and checked against it by `cl.method.checked` as soon as torch is loaded.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cl.errors import UserError

PACKAGE = Path(__file__).parent
LearningRate = Annotated[float, Field(gt=0, le=100)]
Scalar = bool | int | float | str
Knobs = dict[str, Scalar | list[Scalar]]


def names_in(folder: str) -> list[str]:
    """The public module names of a room of this package: one method, or one benchmark, is one file."""
    return sorted(p.stem for p in (PACKAGE / folder).glob("*.py") if not p.stem.startswith("_"))


def closest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` where a known name is near, else the known names."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


class Section(BaseModel):
    """A part of params.yaml: immutable, and no key it does not declare."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Benchmark(Section):
    """Which tasks, from which data."""

    name: str = "permuted-digits"
    tasks: int | None = Field(None, ge=1, le=1000, description="how many tasks of the benchmark; null: all")
    seed: int = Field(0, ge=0, description="of the splits and of what the benchmark itself draws")
    path: str | None = Field(None, description="root of the images, for benchmarks read from disk")
    order: str | list[str] | None = Field(
        None, description="an order that the benchmark knows, or the names of the tasks in the order to learn them"
    )
    classes_per_task: int | None = Field(None, ge=2, le=1000, description="of a split data set; null: the usual")
    image_size: int | None = Field(None, ge=4, le=1024, description="side in pixels; null: the benchmark's own")
    train_per_class: int | None = Field(None, ge=2, description="cap on training images a class")
    validation_per_class: int | None = Field(None, ge=1, description="cap on validation images a class")
    on_bad_image: Literal["refuse", "skip"] = "refuse"

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        known = [stem.replace("_", "-") for stem in names_in("data/benchmarks")]
        if name.replace("_", "-") not in known:
            raise ValueError(f"unknown benchmark {name!r}; {closest(name, known)}")
        return name.replace("_", "-")


class Model(Section):
    """The network (docs/nets.md)."""

    name: Literal["mlp", "small", "base", "wide", "deep", "alexnet", "resnet18"] = "mlp"
    hidden: list[Annotated[int, Field(ge=1, le=65536)]] = Field(
        [100, 100], min_length=1, description="units of each hidden layer of the MLP"
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="share of hidden units left out in training; null: 0.5 in AlexNet, else none"
    )
    batch_norm: bool = Field(False, description="batch normalisation behind each convolution of a VGG net")
    weights: str | None = Field(
        None, description="to start from, of alexnet and resnet18: imagenet, or the path of a file; null: random ones"
    )

    @model_validator(mode="after")
    def _what_the_network_has(self) -> Model:
        if self.batch_norm and self.name in ("mlp", "alexnet", "resnet18"):
            raise ValueError(f"batch_norm: is for the VGG nets (small, base, wide, deep), not for {self.name}")
        if self.dropout and self.name == "resnet18":
            raise ValueError("dropout: resnet18 has no hidden linear layer whose units could be left out")
        if self.weights is not None and self.name not in ("alexnet", "resnet18"):
            raise ValueError(f"weights: there are some for alexnet and resnet18, not for {self.name}")
        return self


class Patience(Section):
    """What to do with epochs that bring no better validation accuracy."""

    drop_after: int = Field(5, ge=1, description="multiply the learning rate after so many in a row")
    factor: float = Field(0.1, gt=0, lt=1)
    stop_after: int = Field(10, ge=1, description="stop when more than so many in a row")


class Augmentation(Section):
    """What is done to the images of a training, anew in every epoch."""

    flip: bool = Field(False, description="left and right, half of the time")
    padding: int = Field(0, ge=0, le=64, description="black pixels on every side, before a crop")
    crop: int | None = Field(
        None, ge=4, description="side of a random crop; elsewhere the middle is taken; null: as prepared"
    )

    @property
    def active(self) -> bool:
        """Whether anything is done in training."""
        return self.flip or self.padding > 0 or self.crop is not None


class Training(Section):
    """How one task is trained, the same for every method."""

    epochs: int = Field(70, ge=1)
    batch_size: int = Field(200, ge=1)
    learning_rate: LearningRate = Field(0.05, description="used when the selection is off")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 for convolutions where the machine has it"
    )
    augmentation: Augmentation = Augmentation()
    patience: Patience = Patience()


class Scenario(Section):
    """What a new task brings, whether a network is told of which task an image is, and how the data come."""

    name: Literal["task", "domain", "class"] = Field(
        "task", description="incremental learning: each task its own head; the same classes again; classes more"
    )
    online: bool = Field(False, description="one pass over a stream that tells of no boundary between tasks")
    batch_size: int = Field(10, ge=1, description="samples of the stream in a step")
    unable: Literal["refuse", "leave-out"] = Field("refuse", description="what to do with methods that cannot")

    @property
    def title(self) -> str:
        """As it is shown: `online class-incremental`."""
        return f"{'online ' if self.online else ''}{self.name}-incremental"


class Selection(Section):
    """The survey's protocol: maximal plasticity search, then stability decay (De Lange et al., Algorithm 1)."""

    enabled: bool = True
    strategy: Literal["survey", "pareto"] = Field(
        "survey", description="pareto: beside the survey's attempts, trade stability for plasticity on a front"
    )
    trials: int = Field(10, ge=0, description="of a pareto search, on top of the survey's attempts")
    stability_on: Literal["memory", "holdout"] = Field(
        "holdout", description="a pareto search's stability: on samples the method keeps, or on old validation data"
    )
    boot_learning_rates: list[LearningRate] = Field(
        [0.1, 0.05, 0.01, 0.005, 0.001], min_length=1, description="tried on the first task"
    )
    learning_rates: list[LearningRate] = Field(
        [0.01, 0.005, 0.001, 0.0005, 0.0001], min_length=1, description="tried on every other task"
    )
    drop_margin: float = Field(0.2, ge=0, le=1, description="p: accept at (1 - p) A*")
    decay: float = Field(0.5, gt=0, lt=1, description="alpha: multiplies a knob after a failed attempt")
    max_attempts: int = Field(10, ge=1)
    reset_per_task: bool = Field(False, description="start every task from the knobs as given, not as decayed")

    @property
    def title(self) -> str:
        """Of another search than the survey's; else empty."""
        if self.strategy == "survey" or not self.enabled:
            return ""
        return f"{self.strategy} search, stability on {self.stability_on}"

    @field_validator("boot_learning_rates", "learning_rates")
    @classmethod
    def _distinct(cls, grid: list[float]) -> list[float]:
        if len(set(grid)) != len(grid):
            raise ValueError("holds the same learning rate twice")
        return sorted(grid, reverse=True)


class Execution(Section):
    """Where and how wide to run; changes no number."""

    workers: int | None = Field(None, ge=1, description="processes at once; null: one per core, or all a cluster takes")
    runner: Literal["local", "dask", "ray"] = "local"
    address: str | None = Field(None, description="of an existing cluster; null: a small one of that kind, here")
    gpus_per_unit: float | None = Field(None, gt=0, description="asked of the cluster; null: none")
    after_upgrade: Literal["anew", "continue"] = Field(
        "anew", description="what was learned by another version of this package or of torch"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Tracking(Section):
    """Where MLflow keeps what it shows."""

    enabled: bool = True
    uri: str | None = Field(None, description="of a tracking server; null: an SQLite database")
    folder: str | None = Field(None, description="of that database; null: `mlflow` in the output folder")
    experiment: str | None = Field(None, description="name of the experiment; null: the benchmark's")


class Champion(Section):
    """The model to deploy: the best one, as a version of a model in MLflow's registry."""

    register_best: bool = Field(False, description="true: at the end of every run")
    name: str | None = Field(None, description="of the registered model; null: the benchmark's")
    no_task_id: bool = Field(False, description="true: without methods that need the task of an image")
    no_stored_samples: bool = Field(False, description="true: without methods that keep training images")

    @field_validator("name")
    @classmethod
    def _usable(cls, name: str | None) -> str | None:
        if name is not None and (not name.strip() or any(letter in "/:.'%\"" for letter in name)):
            raise ValueError(f"{name!r} has to be some text without the characters / : . ' \" %")
        return name


class Params(Section):
    """params.yaml as a whole."""

    benchmark: Benchmark = Benchmark()
    model: Model = Model()
    training: Training = Training()
    scenario: Scenario = Scenario()
    selection: Selection = Selection()
    memory_budget: int | str | None = Field(
        None, description="of every method that stores samples: so many of them, or bytes as `40 kB`; null: its knob"
    )
    methods: dict[str, Knobs] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0, 1, 2], min_length=1)
    execution: Execution = Execution()
    tracking: Tracking = Tracking()
    champion: Champion = Champion()

    @property
    def title(self) -> str:
        """The benchmark, and the scenario and the search where they are not the usual ones: one ranking each."""
        scenario = self.scenario.title if self.scenario.title != Scenario().title else ""
        return ", ".join(filter(None, [self.benchmark.name, scenario, self.selection.title]))

    @field_validator("methods", mode="before")
    @classmethod
    def _known_methods(cls, methods: Any) -> Any:
        if not isinstance(methods, dict):
            raise ValueError("has to be a mapping from a method's name to its knobs")
        names = [method_name(str(name)) for name in methods]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]} stands twice")
        return {name: {} if knobs is None else knobs for name, knobs in zip(names, methods.values(), strict=True)}

    @field_validator("memory_budget")
    @classmethod
    def _an_amount(cls, budget: int | str | None) -> int | str | None:
        if isinstance(budget, str):
            bytes_of(budget)
        elif budget is not None and budget < 1:
            raise ValueError("has to be 1 or more samples, or bytes as in '40 kB'")
        return budget

    @model_validator(mode="after")
    def _boundaries_where_they_are_needed(self) -> Params:
        if self.scenario.online and self.selection.enabled:
            raise ValueError(
                "scenario.online: a stream has no boundaries at which to choose hyperparameters; "
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
        return self

    @model_validator(mode="after")
    def _path_where_it_is_read(self) -> Params:
        if self.benchmark.name == "folder" and self.benchmark.path is None:
            raise ValueError("benchmark.path: the benchmark 'folder' needs it: the root of <task>/<class>/<image>")
        return self


UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def bytes_of(amount: str) -> int:
    """The bytes of `40 kB`; raises `ValueError` for what is no amount."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(B|kB|MB|GB)", amount.strip())
    if found is None or float(found[1]) == 0:
        raise ValueError(f"{amount!r} is no amount: a number with B, kB, MB or GB, as in '40 kB'")
    return round(float(found[1]) * UNITS[found[2]])


def method_name(name: str) -> str:
    """The canonical name of a method (`mean-IMM` is `mean_imm`).

    Raises `ValueError` where there is no such method.
    """
    canonical = name.strip().lower().replace("-", "_")
    known = names_in("methods")
    if canonical not in known:
        raise ValueError(f"unknown method {name!r}; {closest(canonical, known)}")
    return canonical


def read(
    path: Path,
    overrides: Iterable[str] = (),
    methods: Iterable[str] | None = None,
    seeds: Iterable[int] | None = None,
) -> Params:
    """Read and check params.yaml, with `key.path=value` overrides (YAML values) laid over it.

    `methods` and `seeds` replace what the file names; such a method has the knobs it has under `methods` or `others`
    (methods that are run only when named), else those it declares. `methods: all` names every one there is, those that
    cannot be run in the scenario to be left out. A file with `extends: OTHER.yaml` is laid over that one, found from
    where it is itself. Raises `UserError` naming the file, the key, and what would do.
    """
    tree, laid = _tree(path), {}
    named = tree.get("methods")
    for override in overrides:
        _lay_over(tree, override)
        laid[override.partition("=")[0].strip()] = f"--set {override}"
    others = _others(tree, path)
    if tree.get("methods") == "all":
        knobs = _merged(others, named) if isinstance(named, dict) else others
        tree["methods"] = {**dict.fromkeys(names_in("methods")), **knobs}
        if "unable" not in (tree.get("scenario") or {}):
            _lay_over(tree, "scenario.unable=leave-out")
    if methods is not None:
        given = tree.get("methods") or {}
        if not isinstance(given, dict):
            raise UserError(f"{path}: methods: has to be a mapping from a method's name to its knobs")
        given = _merged(others, given)
        tree["methods"] = {}
        for name in methods:
            try:
                canonical = method_name(name)
            except ValueError as error:
                raise UserError(f"--methods: {error}") from None
            tree["methods"][canonical] = next(
                (k for n, k in given.items() if str(n).lower().replace("-", "_") == canonical), {}
            )
    if seeds is not None:
        tree["seeds"], laid["seeds"] = list(seeds), "--seeds"
    return validate(tree, str(path), laid)


def _others(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """Take out what the file says of methods that are run only when named."""
    others = tree.pop("others", None) or {}
    if not isinstance(others, dict):
        raise UserError(f"{path}: others: has to be a mapping from a method's name to its knobs")
    try:
        return {method_name(str(name)): knobs for name, knobs in others.items()}
    except ValueError as error:
        raise UserError(f"{path}: others: {error}") from None


def _tree(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's mapping, laid over the one it extends; `below` are those that extend it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        near = difflib.get_close_matches(path.name, [other.name for other in path.parent.glob("*.yaml")], n=1)
        remedy = f"did you mean {path.parent / near[0]}?" if near else "give a params file with --params"
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    try:
        tree = yaml.load(text, _StrictLoader) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {_fault(error)}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: has to be a mapping of sections (benchmark, model, training, ...)")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    below = (*below, path.resolve())
    if not isinstance(base, str) or (path.parent / base).resolve() in below:
        raise UserError(f"{path}: extends: has to be the name of a file, seen from this one, that does not extend it")
    under = _tree(path.parent / base, below)
    if tree.get("methods") == "all" and isinstance(under.get("methods"), dict):  # whose knobs go on to hold
        under["others"] = _merged(under.get("others") or {}, under.pop("methods"))
    return _merged(under, tree)


def _fault(error: yaml.YAMLError) -> str:
    """What is wrong with a text, and where, on one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, key by key down to what is no mapping."""
    both = {key: _merged(base[key], over[key]) for key in base.keys() & over.keys() if _mappings(base[key], over[key])}
    return {**base, **over, **both}


def _mappings(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


def validate(tree: dict[str, Any], source: str, laid: Mapping[str, str] = MappingProxyType({})) -> Params:
    """Check a parsed params.yaml; raises `UserError` with one sentence a fault, naming its source and the key.

    That is `source`, or for what was laid over it, by key, the option that did so.
    """
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        faults: dict[str, dict[str, None]] = {}
        for fault in error.errors():
            place = "".join(f"{part}." for part in fault["loc"])
            given = [laid[key] for key in laid if place.startswith(f"{key}.") or f"{key}.".startswith(place)]
            faults.setdefault(given[-1] if place and given else source, {})[_sentence(fault)] = None
        raise UserError("; ".join(f"{where}: {'; '.join(found)}" for where, found in faults.items())) from None


WORDS = {"too_short": "has to hold at least 1", "model_type": "has to be a section with keys of its own"}
"""What pydantic says less plainly, by the type of its fault."""


def _sentence(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        section: Any = Params
        for part in fault["loc"][:-1]:
            section = section.model_fields[part].annotation
        return f"{key}: unknown key; {closest(str(fault['loc'][-1]), section.model_fields)}"
    message = WORDS.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
    given = "" if fault["type"] in {"value_error", "missing"} else f", not {fault['input']!r}"
    return f"{key}: {message}{given}" if key else message


def _lay_over(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: has to read key.path=value, for instance training.epochs=10")
    *parents, leaf = key.strip().split(".")
    for depth, name in enumerate(parents):
        below = tree.setdefault(name, {})
        if below is None:
            below = tree[name] = {}
        if not isinstance(below, dict):
            raise UserError(f"--set {override}: {'.'.join(parents[: depth + 1])} is a value, not a section")
        tree = below
    try:
        tree[leaf] = yaml.load(value, _StrictLoader)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: not a YAML value: {_fault(error)}") from None


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.1 as everybody expects it: `1e-3` is a number, and a key given twice is an error."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool | None):
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} cannot be a key", key_node.start_mark)
        if key in mapping:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_StrictLoader.add_implicit_resolver(  # PyYAML reads 1e-3 as a string
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
