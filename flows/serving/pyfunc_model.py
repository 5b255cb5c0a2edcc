"""A learned model as MLflow serves it: images and their tasks in, classes and probabilities out.

MLflow runs this file when it loads the model ("models from code"), so nothing is pickled: what was learned is the
checkpoint's safetensors and JSON. It needs `cl` alone, of which the model holds a copy, and nothing of `flows`.
"""

from __future__ import annotations

import base64
import functools
import logging
import math
import numbers
import reprlib
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import scoring_server
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image
from torch import Tensor

from cl import checkpoint
from cl.checkpoint_files import DamagedCheckpoint
from cl.data.decode import decode_many
from cl.data.prepare import Format
from cl.data.task import AsIs, Normalise, Split, seen_shape
from cl.errors import UserError
from cl.files import from_json, sha256_of
from cl.method import add_task
from cl.nets import build
from cl.nets.pretrained import Pretrained, pretrained
from cl.params import Model, Training
from cl.register import make
from cl.rng import generator
from cl.train import Snapshot

AGAIN = "register the model again: python -m flows.champion"
RGB = 3
SENTENCE = 500
"""The answer to a request that is refused has so many characters at most."""
WHITE = 255
"""Of a picture's bytes; a benchmark may have fewer levels of grey (`scale` of its manifest)."""


class Classifier(PythonModel):
    """Answers with one row an image: `task`, `class`, its `probability`, and the `probabilities` of all classes.

    A row of the input holds `image` - a picture file (PNG, JPEG, ...) as bytes or in base64, or numbers (C, H, W) as
    in the prepared data - and `task`, a name or an index from 0, which may be left out where the method allows.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Rebuild the network and the method; the checkpoint's files are checked against their hashes.

        Raises `MlflowException` where what the model is made of is damaged.
        """
        facts = Path(context.artifacts["facts"])
        backbone = context.artifacts.get("backbone", "")
        try:
            learned = checkpoint.load(Path(context.artifacts["checkpoint"]))[0]
            self._build(from_json(facts.read_bytes()), learned, backbone)
        except DamagedCheckpoint as error:
            raise MlflowException(f"{error}; {AGAIN}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, UserError) as error:
            raise MlflowException(f"{facts}: damaged, or not of the checkpoint beside it ({error}); {AGAIN}") from None

    def _build(self, facts: dict[str, Any], learned: Snapshot, backbone: str) -> None:
        self.tasks: dict[str, list[str]] = {task["name"]: task["classes"] for task in facts["tasks"]}
        self.shape: tuple[int, int, int] = tuple(facts["input_shape"])
        self.scale: float = facts["scale"]
        format = Format(facts["scale"], tuple(facts["mean"]), tuple(facts["deviation"]))
        training = Training.model_validate(facts["training"])
        crop = training.augmentation.crop
        self.normalise = Normalise(format, torch.device("cpu"), crop)
        model, seen = Model.model_validate(facts["model"]), seen_shape(list(self.shape), crop)
        self.features: Pretrained | None = None
        if "backbone" in facts:
            if sha256_of(Path(backbone)) != facts["backbone"]["file"]:
                raise ValueError("the backbone's weights are not those it was registered with")
            own = model.model_copy(update={"weights": backbone})
            self.features = pretrained(own, facts["backbone"]["image_size"], self.scale)
            self.normalise, seen = AsIs(torch.device("cpu")), facts["seen"]
        self.name: str = facts["method"]
        self.method = make(self.name, facts["knobs"])
        draw = generator("overwritten by the checkpoint")
        net = self.method.wrap(build(model, seen, draw))
        net.backbone.reduced, net.increment = facts["reduced"], facts["increment"]
        columns = facts.get("columns") or [len(classes) for classes in self.tasks.values()]
        for index, own in enumerate(columns):
            add_task(self.method, net, own, index, draw, ("overwritten too",))
        last = len(self.tasks) - 1
        self.method.attach(net, last, training, 0.0, (facts["seed"], last))
        learned.restore(self.method)
        net.eval()
        # The server answers each request in a thread of its own, and a method may lay its masks on the one network.
        self.lock = threading.Lock()
        answer_in_a_sentence()

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Classify every row; raises `MlflowException` (status 400) naming the one that cannot be.

        Rows of one task go through the network together, in chunks as at test time.
        """
        rows: list[dict[str, Any]] = model_input.to_dict("records")
        if not rows:
            raise MlflowException("no rows: there is nothing to classify", error_code=INVALID_PARAMETER_VALUE)
        answers: list[dict[str, Any]] = [{}] * len(rows)
        with self.lock, torch.no_grad():
            tasks = [self._task(row.get("task"), number) for number, row in enumerate(rows)]
            images = [self._image(row.get("image"), number) for number, row in enumerate(rows)]
            for task in dict.fromkeys(tasks):
                chosen = [number for number, own in enumerate(tasks) if own == task]
                of_task = self._classify(torch.stack([images[number] for number in chosen]), task)
                for number, answer in zip(chosen, of_task, strict=True):
                    answers[number] = answer
        return answers

    def _classify(self, images: Tensor, task: int | None) -> list[dict[str, Any]]:
        if self.features is not None:
            images = self.features(images)[:, :, None, None]  # as they are prepared
        split = Split(lambda: (images, torch.zeros(len(images), dtype=torch.int64), task or 0), self.normalise)
        chunks = split.batches(split.chunk(self.method.training.batch_size))
        scores = torch.cat([self.method.predict(x, task) for x, _, _ in chunks])
        names, net = list(self.tasks), self.method.net
        columns: list[tuple[str | None, str, str]]
        if net.increment == "domain":  # one head, and a label has a name in each task
            columns = [
                (names[task] if task is not None else None, label, label) for label in self.tasks[names[task or 0]]
            ]
        elif task is None:  # all heads side by side; a class that came again is that of its first task
            brought = [(name, self.tasks[name][label]) for t, name in enumerate(names) for label in net.brought(t)]
            columns = [(name, label, f"{name}/{label}") for name, label in brought]
        else:
            columns = [(names[task], label, label) for label in self.tasks[names[task]]]
        return [self._answer(columns, best, chances) for best, chances in zip(*_ranked(scores), strict=True)]

    def _answer(
        self, columns: Sequence[tuple[str | None, str, str]], best: int, chances: list[float]
    ) -> dict[str, Any]:
        named = {name: chance for (_, _, name), chance in zip(columns, chances, strict=True)}
        return {
            "task": columns[best][0],
            "class": columns[best][1],
            "probability": chances[best],
            "probabilities": named,
        }

    def _task(self, value: Any, row: int) -> int | None:
        """The index of a task given by name or index; None where none is given and the method does not need it."""
        names = list(self.tasks)
        if _missing(value):
            if self.method.needs_task_id:
                raise _refused(row, f"{self.name} needs the task of an image: give `task`, one of {', '.join(names)}")
            return None
        if isinstance(value, str) and value in names:
            return names.index(value)
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            for index in range(len(names)):
                if value == index:  # pandas has 1.0 for 1 where another row has no task
                    return index
        raise _refused(row, f"no task {reprlib.repr(value)}; there are {', '.join(names)} (or 0 to {len(names) - 1})")

    def _image(self, value: Any, row: int) -> Tensor:
        """The image as it would stand in the prepared data: (C, H, W) uint8."""
        if _missing(value):
            raise _refused(row, "no `image`")
        if isinstance(value, str):
            try:
                value = base64.b64decode(value, validate=True)
            except ValueError:
                raise _refused(row, "`image` is a text that is not base64; encode the bytes of a picture") from None
        array = self._decoded(value, row) if isinstance(value, bytes | bytearray) else self._numbers(value, row)
        return torch.from_numpy(array)

    def _numbers(self, value: Any, row: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        try:
            array = np.array(value)
        except ValueError:  # lists of unlike lengths
            array = np.array(None)
        if array.shape != self.shape or array.dtype.kind not in "iu" or array.min() < 0 or array.max() > self.scale:
            raise _refused(
                row, f"`image` has to be {self.shape} whole numbers from 0 to {self.scale:g}, or a picture file"
            )
        return array.astype(np.uint8)

    def _decoded(self, data: bytes | bytearray, row: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The picture as the preparation reads it, by the same code, which takes files."""
        channels, _, size = self.shape
        memory = bytearray(RGB * size * size)
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            faults = decode_many([file.name], size, memory)
        if faults:
            raise _refused(row, f"`image` is no usable picture: {faults[0]}")
        array = np.frombuffer(memory, np.uint8).reshape(size, RGB, size).transpose(1, 0, 2)
        if channels == 1:
            array = np.array(Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0))).convert("L"))[np.newaxis]
        levels: np.ndarray[Any, np.dtype[np.uint8]] = np.rint(array * (self.scale / WHITE)).astype(np.uint8)
        return levels


def _missing(value: Any) -> bool:
    """Pandas has NaN where a row leaves out what others have."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _ranked(scores: Tensor) -> tuple[list[int], list[list[float]]]:
    """Of each row (N, classes) the best column, and the softmax; a method's scores need not be logits."""
    return scores.argmax(1).tolist(), scores.softmax(1).tolist()


def answer_in_a_sentence() -> None:
    """Make MLflow's server in this process say in a sentence what is wrong with a request.

    By itself it sends back the whole request or, where it cannot read it, a stack trace, or it answers with 500.
    """
    asked: Callable[..., Any] = scoring_server.invocations
    if hasattr(asked, "__wrapped__"):  # by another model in this process
        return

    @functools.wraps(asked)
    def invocations(data: Any, content_type: str | None, *others: Any) -> Any:
        if content_type is None:
            raise MlflowException("no Content-Type; it has to be application/json", error_code=BAD_REQUEST)
        try:
            return asked(data, content_type, *others)
        except MlflowException as error:
            if trace := error.json_kwargs.pop("stack_trace", None):
                logging.getLogger(__name__).error("%s", trace)
            # MLflow puts the request before the message, which it leaves in `args`; after it where it is no JSON.
            message = str(error.args[0]).rpartition("'. Error: ")[2].partition("\nInput:")[0]
            error.message = " ".join(message.split())[:SENTENCE]
            raise
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits; lists of lists of lists ...
            raise MlflowException(f"the request cannot be read: {error}", error_code=BAD_REQUEST) from None

    scoring_server.invocations = invocations


def _refused(row: int, why: str) -> MlflowException:
    return MlflowException(f"row {row}: {why}", error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(Classifier())
