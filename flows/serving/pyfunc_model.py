"""A learned model as MLflow serves it: images and their tasks in, classes and probabilities out.

MLflow runs this file when it loads the model ("models from code"), so nothing is pickled: what was learned is the
checkpoint's safetensors and JSON. It needs `cl` alone, of which the model holds a copy, and nothing of `flows`.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import math
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd  # type: ignore[import-untyped]
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import scoring_server
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image

from cl import checkpoint
from cl.checkpoint_files import DamagedCheckpoint
from cl.deployed import from_base64, registered
from cl.errors import UserError
from cl.files import from_json

AGAIN = "register the model again: python -m flows.champion"
SENTENCE = 500
"""The answer to a request that is refused has so many characters at most."""
MEGABYTES, PIXELS = "UNFORGETTING_REQUEST_MEGABYTES", "UNFORGETTING_REQUEST_PIXELS"
"""Environment variables: the most bytes (in 10^6) of a request, and the most pixels of all its pictures together."""
MOST = {MEGABYTES: 32, PIXELS: 100_000_000}


class Classifier(PythonModel):
    """Answers with one row an image: `task`, `class`, its `probability`, and the `probabilities` of all classes.

    Where the model has a least nearness, `known` says whether the image is one of the classes at all. A row of the
    input holds `image` - a picture file (PNG, JPEG, ...) as bytes or in base64, or numbers (C, H, W) as in the prepared
    data - and `task`, a name or an index from 0, which may be left out where the method allows.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Rebuild the network and the method; the checkpoint's files are checked against their hashes.

        Raises `MlflowException` where what the model is made of is damaged.
        """
        self.limits = {name: limit(name) for name in MOST}
        files = {name: Path(path) for name, path in context.artifacts.items()}
        try:
            learned, facts = checkpoint.load(files["checkpoint"])[0], from_json(files["facts"].read_bytes())
            self.deployed = registered(facts, learned, files)
        except DamagedCheckpoint as error:
            raise MlflowException(f"{error}; {AGAIN}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, UserError) as error:
            what = f"{files['facts']}: damaged, or not of the checkpoint beside it ({error})"
            raise MlflowException(f"{what}; {AGAIN}") from None
        # The server answers each request in a thread of its own, and a method may lay its masks on the one network.
        self.lock = threading.Lock()
        answer_in_a_sentence()
        refuse_what_is_too_large(self.limits[MEGABYTES])

    @property
    def name(self) -> str:
        """Of the method."""
        return self.deployed.name

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
        with self.lock:
            tasks = [_of_row(number, self.deployed.task, row.get("task")) for number, row in enumerate(rows)]
            self._few_enough(rows)
            images = [_of_row(number, self.deployed.image, row.get("image")) for number, row in enumerate(rows)]
            for task in dict.fromkeys(tasks):
                chosen = [number for number, own in enumerate(tasks) if own == task]
                of_task = self.deployed.answers(torch.stack([images[number] for number in chosen]), task)
                for number, answer in zip(chosen, of_task, strict=True):
                    answers[number] = answer
        return answers

    def _few_enough(self, rows: list[dict[str, Any]]) -> None:
        """Refuse pictures of too many pixels before any of them is decoded; few bytes can hold very many."""
        most, total = self.limits[PIXELS], 0
        for number, row in enumerate(rows):
            total += pixels(_of_row(number, _bytes_of, row.get("image")))
            if total > most:
                raise _refused(number, f"the pictures up to here have more than {most} pixels ({PIXELS}); send fewer")


def limit(name: str) -> int:
    """What the environment variable says, or else the default; raises `MlflowException` for what is no number."""
    given = os.environ.get(name, str(MOST[name]))
    if not given.isdecimal() or int(given) < 1:
        raise MlflowException(f"{name}: {given!r} is no whole number above 0", error_code=INVALID_PARAMETER_VALUE)
    return int(given)


def _bytes_of(image: Any) -> Any:
    return from_base64(image) if isinstance(image, str) else image


def pixels(image: Any) -> int:
    """Of a picture file, by what stands at its beginning; 0 for what is none, which is refused later for what it is."""
    if not isinstance(image, bytes | bytearray):
        return 0
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return math.prod(opened.size)
    except Exception:  # whatever Pillow's arithmetic runs into; the decoder says in words what is wrong
        return 0


def _of_row(number: int, read: Callable[[Any], Any], value: Any) -> Any:
    try:
        return read(value)
    except UserError as error:
        raise _refused(number, str(error)) from None


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


def refuse_what_is_too_large(megabytes: int) -> None:
    """Make MLflow's server in this process read no more of a request than that, and answer 413 in a sentence.

    By itself it reads into memory whatever is sent.
    """
    caught: Callable[..., Any] = scoring_server._async_catch_mlflow_exception
    if hasattr(caught, "__wrapped__"):
        return
    most = megabytes * 10**6
    body = {
        "error_code": "BAD_REQUEST",
        "message": f"the request has more than {megabytes} megabytes ({MEGABYTES}); send fewer or smaller pictures",
    }

    @functools.wraps(caught)
    def catching(answer: Callable[[Any], Awaitable[Any]]) -> Any:
        async def limited(request: Any) -> Any:
            from fastapi.responses import Response

            parts, length = [], 0
            async for part in request.stream():
                length += len(part)
                if length > most:
                    return Response(json.dumps(body), status_code=413, media_type="application/json")
                parts.append(part)
            request._body = b"".join(parts)  # where `body()` of Starlette finds what was read
            return await answer(request)

        return caught(functools.wraps(answer)(limited))

    scoring_server._async_catch_mlflow_exception = catching


def _refused(row: int, why: str) -> MlflowException:
    return MlflowException(f"row {row}: {why}", error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(Classifier())
