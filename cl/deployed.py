"""A learned model in use: pictures in; classes, probabilities and "none of these" out.

Whoever serves, exports or judges a model does it through this. It is made of the same facts, checkpoint and backbone
as a registered model (docs/models.md).
"""

from __future__ import annotations

import base64
import math
import numbers
import reprlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from torch import Tensor

from cl.calibration import Gaussians
from cl.data.decode import decode_many
from cl.data.prepare import Format
from cl.data.task import AsIs, Normalise, Split, seen_shape
from cl.errors import UserError
from cl.files import sha256_of
from cl.method import Method, add_task
from cl.nets import build
from cl.nets.pretrained import Pretrained, pretrained
from cl.params import Model, Training
from cl.register import make
from cl.rng import generator
from cl.train import Snapshot

RGB = 3
WHITE = 255
"""Of a picture's bytes; a benchmark may have fewer levels of grey (`scale` of its manifest)."""
Asked = Literal["task-aware", "task-agnostic"]
Array = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Column:
    """One class among which the model chooses."""

    task: str | None
    """The task whose class it is; None if the task is not known and all tasks have the same classes."""
    label: str
    name: str
    """Of the column: the label, or `task/label` where the classes of all tasks stand side by side."""


@dataclass(frozen=True)
class Outputs:
    """What the model says of N images."""

    scores: Tensor
    """(N, C): the method's scores."""
    nearness: Tensor
    """(N,): how near an image is to what was learned; the higher, the nearer."""


@dataclass(frozen=True)
class Calibration:
    """How scores become probabilities, and from where on an image is one of the classes."""

    numbers: Mapping[str, Any]
    """By `Asked`: `temperature`, `least_nearness` and what was measured (`cl.calibrate`)."""
    gaussians: Gaussians | None = None
    """Of the features of a frozen backbone; without them the largest score tells how near an image is."""
    seen: Mapping[str, Tensor] | None = None
    """By `Asked`: the nearness of validation images, sorted, at most `cl.calibrate.KEPT` of them."""

    @classmethod
    def read(cls, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Calibration:
        """From what `cl.calibrate.calibrated` returned."""
        parts = {field.name: tensors[field.name] for field in fields(Gaussians) if field.name in tensors}
        gaussians = Gaussians(**parts) if parts else None
        return cls(numbers, gaussians, {name: t for name, t in tensors.items() if name in numbers})

    def temperature(self, asked: Asked) -> float:
        """T of softmax(scores / T)."""
        return float(self.numbers[asked]["temperature"])

    def least(self, asked: Asked) -> float | None:
        """The nearness from which on an image is one of the classes; None if that was not asked for."""
        least = self.numbers[asked]["least_nearness"]
        return None if least is None else float(least)


class Deployed:
    """The network and the method as they were after their last task, with all that turns pictures into answers.

    It has one network, on which a method may lay its masks: one thread at a time.
    """

    def __init__(
        self,
        facts: Mapping[str, Any],
        learned: Snapshot,
        features: Pretrained | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """`features`: the frozen backbone in front of what was learned, needed for answers about pictures."""
        self.facts, self.features, self.calibration = facts, features, calibration
        self.tasks: dict[str, list[str]] = {task["name"]: task["classes"] for task in facts["tasks"]}
        self.shape: tuple[int, int, int] = tuple(facts["input_shape"])
        self.scale: float = facts["scale"]
        format = Format(facts["scale"], tuple(facts["mean"]), tuple(facts["deviation"]))
        training = Training.model_validate(facts["training"])
        crop = training.augmentation.crop
        self.normalise = Normalise(format, torch.device("cpu"), crop)
        model, seen = Model.model_validate(facts["model"]), seen_shape(list(self.shape), crop)
        if "backbone" in facts:
            self.normalise, seen = AsIs(torch.device("cpu")), facts["seen"]
        self.name: str = facts["method"]
        self.method: Method = make(self.name, facts["knobs"])
        draw = generator("overwritten by the checkpoint")
        net = self.method.wrap(build(model, seen, draw))
        net.backbone.reduced, net.increment = facts["reduced"], facts["increment"]
        columns = facts.get("columns") or [len(classes) for classes in self.tasks.values()]
        for index, own in enumerate(columns[: len(self.tasks)]):
            add_task(self.method, net, own, index, draw, ("overwritten too",))
        last = len(self.tasks) - 1
        self.method.attach(net, last, training, 0.0, (facts["seed"], last))
        learned.restore(self.method)
        net.eval()

    # What is asked.

    def task(self, value: Any) -> int | None:
        """The index of a task given by name or index; None where none is given and the method does not need it.

        Raises `UserError`.
        """
        names = list(self.tasks)
        if _missing(value):
            if self.method.needs_task_id:
                raise UserError(f"{self.name} needs the task of an image: give `task`, one of {', '.join(names)}")
            return None
        if isinstance(value, str) and value in names:
            return names.index(value)
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            for index in range(len(names)):
                if value == index:  # pandas has 1.0 for 1 where another row has no task
                    return index
        raise UserError(f"no task {reprlib.repr(value)}; there are {', '.join(names)} (or 0 to {len(names) - 1})")

    def image(self, value: Any) -> Tensor:
        """An image as it would stand in the prepared data, (C, H, W) uint8.

        `value`: a picture file as bytes or in base64, or the prepared numbers. Raises `UserError`.
        """
        if _missing(value):
            raise UserError("no `image`")
        if isinstance(value, str):
            value = from_base64(value)
        array = self._decoded(value) if isinstance(value, bytes | bytearray) else self._numbers(value)
        return torch.from_numpy(array)

    def _numbers(self, value: Any) -> Array:
        try:
            array = np.array(value)
        except ValueError:  # lists of unlike lengths
            array = np.array(None)
        if array.shape != self.shape or array.dtype.kind not in "iu" or array.min() < 0 or array.max() > self.scale:
            raise UserError(f"`image` has to be {self.shape} whole numbers from 0 to {self.scale:g}, or a picture file")
        return array.astype(np.uint8)

    def _decoded(self, data: bytes | bytearray) -> Array:
        """The picture as the preparation reads it, by the same code, which takes files."""
        size = self.shape[2]
        memory = bytearray(RGB * size * size)
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            faults = decode_many([file.name], size, memory)
        if faults:
            raise UserError(f"`image` is no usable picture: {faults[0]}")
        return self.prepared(np.frombuffer(memory, np.uint8).reshape(size, RGB, size).transpose(1, 0, 2))

    def prepared(self, array: Array) -> Array:
        """A decoded picture (3, S, S) with the channels and the grey levels of the prepared ones."""
        if self.shape[0] == 1:
            array = np.array(Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0))).convert("L"))[np.newaxis]
        levels: Array = np.rint(array * (self.scale / WHITE)).astype(np.uint8)
        return levels

    # What is answered.

    def columns(self, task: int | None) -> list[Column]:
        """The classes among which the model chooses, in the order of its scores."""
        names, net = list(self.tasks), self.method.net
        if net.increment == "domain":  # one head, and a label has a name in each task
            owner = names[task] if task is not None else None
            return [Column(owner, label, label) for label in self.tasks[names[task or 0]]]
        if task is None:  # all heads side by side; a class that came again is that of its first task
            brought = [(name, self.tasks[name][label]) for t, name in enumerate(names) for label in net.brought(t)]
            return [Column(name, label, f"{name}/{label}") for name, label in brought]
        return [Column(names[task], label, label) for label in self.tasks[names[task]]]

    def split(self, images: Tensor, task: int | None) -> Split:
        """Images (N, C, H, W) uint8 as they go through the network."""
        if self.method.net.on_features:
            assert self.features is not None
            images = self.features(images)[:, :, None, None]  # as they are prepared
        return Split(lambda: (images, torch.zeros(len(images), dtype=torch.int64), task or 0), self.normalise)

    @torch.no_grad()
    def outputs(self, split: Split, task: int | None) -> Outputs:
        """Of the images of a split, asked as of this task or, with None, without one; in chunks as at test time."""
        parts = list(self._chunks(split, task))
        return Outputs(torch.cat([part.scores for part in parts]), torch.cat([part.nearness for part in parts]))

    def _chunks(self, split: Split, task: int | None) -> Iterator[Outputs]:
        for x, _, _ in split.batches(split.chunk(self.method.training.batch_size)):
            scores = self.method.predict(x, task)
            yield Outputs(scores, self.nearness(x, scores, task))

    def nearness(self, x: Tensor, scores: Tensor, task: int | None) -> Tensor:
        """How near the network's inputs x (N, ...) with these scores (N, C) are to what was learned, (N,)."""
        gaussians = self.calibration.gaussians if self.calibration is not None else None
        if gaussians is None:
            return scores.max(1).values
        return gaussians.nearness(x.flatten(1), self._columns_of(task))

    def _columns_of(self, task: int | None) -> Tensor | slice:
        """Of this task's classes, among those of all tasks."""
        if task is None:
            return slice(None)
        net, labels = self.method.net, self.tasks[list(self.tasks)[task]]
        return net.column(torch.arange(len(labels)), task)

    def probabilities(self, scores: Tensor, task: int | None) -> Tensor:
        """softmax(scores / T), (N, C); T is 1 without a calibration."""
        if self.calibration is None:
            return scores.softmax(1)
        return (scores / self.calibration.temperature(asked(task))).softmax(1)

    def answers(self, images: Tensor, task: int | None) -> list[dict[str, Any]]:
        """For each image (N, C, H, W) uint8 its `task`, `class`, `probability` and the `probabilities` of all classes.

        Where the model has a least nearness, also `known`: whether the image is one of the classes at all.
        """
        found, columns = self.outputs(self.split(images, task), task), self.columns(task)
        least = self.calibration.least(asked(task)) if self.calibration is not None else None
        best, chances = found.scores.argmax(1).tolist(), self.probabilities(found.scores, task).tolist()
        rows = [_answer(columns, *pair) for pair in zip(best, chances, strict=True)]
        if least is not None:
            for row, nearness in zip(rows, found.nearness.tolist(), strict=True):
                row["known"] = nearness >= least
        return rows


def registered(facts: Mapping[str, Any], learned: Snapshot, files: Mapping[str, Path]) -> Deployed:
    """A registered model: what it has learned, and of the files beside its facts `backbone` and `calibration`.

    Raises `ValueError` where one of these is not the file that the model was registered with.
    """
    backbone = calibration = None
    if "backbone" in facts:
        file = _same("backbone", "the backbone's weights are not those it was registered with", facts, files)
        own = Model.model_validate({**facts["model"], "weights": str(file)})
        backbone = pretrained(own, facts["backbone"]["image_size"], facts["scale"])
    if "calibration" in facts:
        file = _same("calibration", "the calibration is not the one it was registered with", facts, files)
        calibration = Calibration.read(facts["calibration"], load_tensors(file.read_bytes()))
    return Deployed(facts, learned, backbone, calibration)


def _same(part: str, otherwise: str, facts: Mapping[str, Any], files: Mapping[str, Path]) -> Path:
    if sha256_of(files[part]) != facts[part]["file"]:
        raise ValueError(otherwise)
    return files[part]


def asked(task: int | None) -> Asked:
    """What it is called if the model is asked as of this task, or with None without one."""
    return "task-agnostic" if task is None else "task-aware"


def from_base64(value: str) -> bytes:
    """The bytes of a picture; raises `UserError`."""
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise UserError("`image` is a text that is not base64; encode the bytes of a picture") from None


def _answer(columns: Sequence[Column], best: int, chances: Sequence[float]) -> dict[str, Any]:
    named = {column.name: chance for column, chance in zip(columns, chances, strict=True)}
    return {
        "task": columns[best].task,
        "class": columns[best].label,
        "probability": chances[best],
        "probabilities": named,
    }


def _missing(value: Any) -> bool:
    """Pandas has NaN where a row leaves out what others have."""
    return value is None or (isinstance(value, float) and math.isnan(value))
