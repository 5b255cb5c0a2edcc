"""The sections of params.yaml for the data, the network and the training; torch-free.

`cl.params` has the other sections, the file as a whole, and how it is read.
"""

from __future__ import annotations

import math
import os
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from cl.backbones import BACKBONES, DEFAULT, known
from cl.errors import shown
from cl.names import closest, names_in
from cl.paths import SpelledPath, UserPath, expanded

LearningRate = Annotated[float, Field(gt=0, le=100)]
MOST = 10**9
"""The largest number of anything that is counted. More is a slip, and would overflow somewhere."""
LARGEST_SEED = 2**63 - 1
DRAWN = "drawn by each seed"
"""Said of a benchmark whose splits and permutations the seed of each run draws."""


class Section(BaseModel):
    """A section of params.yaml: immutable, and without keys that it does not declare."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
    younger: ClassVar[frozenset[str]] = frozenset()
    """Keys that came later: what is written leaves them out at their default, so that older records stay equal."""

    @model_serializer(mode="wrap")
    def _without_younger_keys(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = plain(self)
        usual = {key: type(self).model_fields[key].get_default(call_default_factory=True) for key in self.younger}
        return {k: v for k, v in written.items() if k not in usual or getattr(self, k) != usual[k]}


class Benchmark(Section):
    """Which tasks, from which data."""

    younger = frozenset({"validation_share", "pad", "normalise", "repetition"})

    name: str = "permuted-digits"
    tasks: int | None = Field(None, ge=1, le=1000, description="how many tasks of the benchmark; null: all")
    seed: int | Literal["run"] = Field(
        0, description="of the splits and of what the benchmark itself draws; run: the seed of each run"
    )
    path: SpelledPath | None = Field(None, description="root of the images, for benchmarks read from disk")
    order: str | list[str] | None = Field(
        None,
        description="an order that the benchmark knows, or the names of the tasks in the order in which to learn them",
    )
    classes_per_task: int | None = Field(None, ge=2, le=1000, description="of a split data set; null: its usual number")
    repetition: int | None = Field(
        None, ge=2, le=1000, description="of a split data set: in how many tasks each class is; null: in one"
    )
    image_size: int | None = Field(
        None, ge=4, le=1024, description="side in pixels; null: the benchmark's usual one, or the backbone's"
    )
    train_per_class: int | None = Field(None, ge=2, le=MOST, description="cap on training images a class")
    validation_per_class: int | None = Field(None, ge=1, le=MOST, description="cap on validation images a class")
    validation_share: float | None = Field(
        None, gt=0, lt=1, description="share of each class's training images kept for validation; null: the usual one"
    )
    pad: int | None = Field(None, ge=1, le=64, description="black pixels added on every side of an image, first of all")
    normalise: bool = Field(True, description="false: pixels reach the network in [0, 1], without mean and deviation")
    on_bad_image: Literal["refuse", "skip"] = "refuse"

    @field_validator("seed", mode="before")
    @classmethod
    def _number_or_run(cls, seed: Any) -> Any:
        if seed != "run" and not (type(seed) is int and 0 <= seed <= LARGEST_SEED):
            raise ValueError(f"has to be an integer from 0 to {LARGEST_SEED}, or the word run, not {shown(seed)}")
        return seed

    @property
    def drawn(self) -> bool:
        """Whether the seed of a run draws the splits and permutations too, so that each seed has a benchmark."""
        return self.seed == "run"

    @property
    def number(self) -> int:
        """The seed; a benchmark that each seed draws has a number only as that of one of them."""
        assert self.seed != "run", "cl.data.places.of_seed gives it the number of a run's seed"
        return self.seed

    @property
    def called(self) -> str:
        """Its name in titles: pictures of the user's own are called as their folder, in letters that MLflow takes."""
        if self.name != "folder" or self.path is None:
            return self.name
        folder = os.path.basename(os.path.abspath(expanded(self.path)))
        return re.sub(r"[/:.'\"%\s]+", "-", folder).strip("-") or self.name

    @property
    def title(self) -> str:
        """Keeps results whose seeds draw the benchmark too out of the ranking of all others, for which it is empty."""
        return DRAWN if self.drawn else ""

    @field_validator("order", mode="before")
    @classmethod
    def _names(cls, order: Any) -> Any:
        names = order if isinstance(order, list) else [order]
        if order is not None and not (names and all(isinstance(name, str) for name in names)):
            raise ValueError(f"has to be a name, or names in brackets, as [first, second], not {shown(order)}")
        return order

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        known = [stem.replace("_", "-") for stem in names_in("data/benchmarks")]
        if name.replace("_", "-") not in known:
            raise ValueError(f"unknown benchmark {shown(name)}; {closest(name, known)}")
        return name.replace("_", "-")


HIDDEN = {"features": [256]}
"""Default hidden layers of a network; for those not named here, the default of `Model.hidden`."""
OF_FEATURES = ("backbone", "frozen", "backbone_learning_rate")
"""Keys of `model` for `name: features` only; records of runs with other networks leave them out."""


class Model(Section):
    """The network (docs/nets.md), or the layers behind a pretrained one (docs/features.md)."""

    name: Literal["mlp", "small", "base", "wide", "deep", "alexnet", "resnet18", "features"] = "mlp"
    hidden: list[Annotated[int, Field(ge=1, le=65536)]] = Field(
        [100, 100], description="units of each hidden layer of the MLP, or behind features; []: heads alone"
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="share of hidden units left out in training; null: 0.5 in AlexNet, else none"
    )
    batch_norm: bool = Field(False, description="batch normalisation behind each convolution of a VGG net")
    initialisation: Literal["usual", "xavier", "lecun"] = Field(
        "usual",
        description="how weights before the heads are drawn; usual: by the network's own rule; else uniformly, with "
        "biases 0 and a variance of 2 / (inputs + outputs) (xavier) or 1 / inputs (lecun)",
    )
    weights: UserPath | None = Field(
        None,
        description="for alexnet and resnet18: imagenet, or the path of a file; null: random weights; for features: "
        "the path of a file; null: the backbone's own",
    )
    width: int | None = Field(
        None, ge=1, le=1024, description="for resnet18: channels of its first stage; null: 64; 20: GEM's reduced ResNet"
    )
    backbone: str = Field(DEFAULT, description="for features: the pretrained network that makes them from pictures")
    frozen: bool = Field(True, description="for features: false trains the backbone too")
    backbone_learning_rate: float = Field(
        1.0, gt=0, le=1, description="for features, if frozen is false: factor on the learning rate of the backbone"
    )

    @model_validator(mode="before")
    @classmethod
    def _as_usual_for_the_network(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        usual = {"hidden": HIDDEN.get(given.get("name", ""))} if "hidden" not in given else {}
        return {**{key: value for key, value in usual.items() if value is not None}, **given}

    @field_validator("hidden")
    @classmethod
    def _some_layers(cls, hidden: list[int], info: ValidationInfo) -> list[int]:
        if not hidden and info.data.get("name", "features") != "features":
            raise ValueError("has to hold at least one number; only model.name=features can do without hidden layers")
        return hidden

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, name: str) -> str:
        if not known(name):
            raise ValueError(f"unknown backbone {shown(name)} (timm:NAME is possible too); {closest(name, BACKBONES)}")
        return name

    @model_validator(mode="after")
    def _what_the_network_has(self) -> Model:
        if self.batch_norm and self.name in ("mlp", "alexnet", "resnet18", "features"):
            raise ValueError(f"batch_norm: is for the VGG nets (small, base, wide, deep), not for {self.name}")
        if self.dropout and self.name == "resnet18":
            raise ValueError("dropout: resnet18 has no hidden linear layer whose units could be left out")
        if self.width is not None and self.name != "resnet18":
            raise ValueError(f"width: is for resnet18, not for {self.name}")
        if self.width is not None and self.weights is not None:
            raise ValueError("width: the weights in a file are for the usual width; leave out model.width")
        if self.weights is not None and self.name not in ("alexnet", "resnet18", "features"):
            raise ValueError(f"weights: are for alexnet, resnet18 and features, not for {self.name}")
        if self.initialisation != "usual" and (
            self.weights is not None or (self.name == "features" and not self.frozen)
        ):
            raise ValueError("initialisation: the weights are read from a file; leave out model.initialisation")
        for key in OF_FEATURES if self.name != "features" else ():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: is for features, not for {self.name}; set model.name=features")
        if self.frozen and self.backbone_learning_rate != 1:
            raise ValueError("backbone_learning_rate: a frozen backbone has none; set model.frozen=false")
        return self

    @model_serializer(mode="wrap")
    def _without_what_it_has_not(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = plain(self)
        younger = {key for key in ("width", "initialisation") if written[key] == type(self).model_fields[key].default}
        without = {*(OF_FEATURES if self.name != "features" else ()), *younger}
        return {key: value for key, value in written.items() if key not in without}

    @property
    def on_features(self) -> bool:
        """Whether methods learn from the features of a frozen backbone instead of pictures."""
        return self.name == "features" and self.frozen

    @property
    def title(self) -> str:
        """Keeps results with a pretrained backbone from being ranked with others; empty without one."""
        if self.name != "features":
            return ""
        backbone = self.backbone.translate(str.maketrans(":./", "---"))  # MLflow's names hold none of these
        return f"features of {backbone}" if self.frozen else f"{backbone} finetuned"


class Patience(Section):
    """What to do after epochs without a better validation accuracy."""

    drop_after: int = Field(5, ge=1, le=MOST, description="multiply the learning rate after this many epochs in a row")
    factor: float = Field(0.1, gt=0, lt=1)
    stop_after: int = Field(10, ge=1, le=MOST, description="stop after more than this many epochs in a row")


class Augmentation(Section):
    """How training images are changed, anew in every epoch."""

    flip: bool = Field(False, description="left to right, half of the time")
    padding: int = Field(0, ge=0, le=64, description="black pixels added on every side before a crop")
    crop: int | None = Field(
        None, ge=4, le=2048, description="side of a random crop; validation and test take the middle; null: as prepared"
    )

    @property
    def active(self) -> bool:
        """Whether images are changed in training."""
        return self.flip or self.padding > 0 or self.crop is not None


Beta = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Training(Section):
    """How one task is trained, the same for every method."""

    younger = frozenset(
        {"iterations", "optimizer", "betas", "optimizer_state", "schedule", "milestones", "milestone_factor"}
    )

    epochs: int = Field(70, ge=1, le=MOST)
    iterations: int | None = Field(
        None, ge=1, le=MOST, description="steps on each task, instead of epochs; null: `epochs` counts"
    )
    batch_size: int = Field(200, ge=1, le=MOST)
    learning_rate: LearningRate = Field(0.05, description="used if the selection is off")
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    betas: list[Beta] = Field([0.9, 0.999], min_length=2, max_length=2, description="of adam and adamw")
    optimizer_state: Literal["new", "kept"] = Field(
        "new", description="momentum or moments at the start of a task; kept: those that the task before ended with"
    )
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["plateau", "constant", "step", "cosine"] = Field(
        "plateau",
        description="of the learning rate; plateau: as `patience` says, and the best epoch is kept; with the others "
        "the last step is kept, and no validation data are used in training",
    )
    milestones: list[Share] = Field(
        [0.5, 0.75], min_length=1, description="of the schedule step: shares of the training after which it drops"
    )
    milestone_factor: float = Field(0.1, gt=0, lt=1, description="of the schedule step: factor of each drop")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 for convolutions if the machine supports it"
    )
    augmentation: Augmentation = Augmentation()
    patience: Patience = Patience()

    @field_validator("milestones")
    @classmethod
    def _in_order(cls, milestones: list[float]) -> list[float]:
        if sorted(set(milestones)) != milestones:
            raise ValueError("has to hold each share once, the smallest first")
        return milestones

    @model_validator(mode="after")
    def _settings_that_are_used(self) -> Training:
        usual = type(self).model_fields
        if self.optimizer == "sgd" and self.betas != usual["betas"].default:
            raise ValueError("betas: are for adam and adamw; set training.optimizer=adam")
        for key in ("milestones", "milestone_factor"):
            if self.schedule != "step" and getattr(self, key) != usual[key].default:
                raise ValueError(
                    f"{key}: is for the schedule step, not for {self.schedule}; set training.schedule=step"
                )
        return self

    def factor(self, done: float) -> float:
        """What the learning rate is multiplied by after this share of a training's steps, in [0, 1)."""
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        if self.schedule == "step":
            return float(self.milestone_factor ** sum(done >= share for share in self.milestones))
        return 1.0
