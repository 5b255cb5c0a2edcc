"""A model as MLflow has it: files with all that is needed to serve it, and a card."""

from __future__ import annotations

import base64
import hashlib
import io
import statistics
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cl import backbones, metrics
from cl.data.places import side
from cl.data.prepare import read_manifest
from cl.files import to_json
from cl.names import PACKAGE
from cl.params import Params
from flows.report.words import listing, student
from flows.serving.challenge import Challenge
from flows.serving.choice import Choice
from flows.serving.learned import Calibrated, facts_of
from flows.templates import template

ALIAS = "champion"
"""The alias of the best version of a registered model."""
REQUIREMENTS = ("mlflow", "torch", "numpy", "pillow", "pydantic", "pyyaml", "safetensors", "quadprog")
"""What the model needs where it is served: `cl` without the selection, and MLflow itself."""


def requirements(facts: Mapping[str, Any]) -> list[str]:
    """The packages that the model needs where it is served."""
    name = facts["model"].get("backbone")
    origin = backbones.backbone(name).origin if name is not None else "package"
    return [*REQUIREMENTS, *([origin] if origin != "package" else [])]


def backbone_of(params: Params) -> bytes | None:
    """The weights of the frozen backbone as a safetensors file; None where there is none."""
    if not params.model.on_features:
        return None
    from safetensors.torch import save as save_tensors

    from cl.nets.pretrained import pretrained

    net = pretrained(params.model, side(params)).net
    return save_tensors({name: tensor.contiguous() for name, tensor in net.state_dict().items()})


def example_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A valid input without anybody's data: a picture of the benchmark's mean colour, as of the first task."""
    from PIL import Image

    channels, height, width = facts["input_shape"]
    colour = tuple(round(255 * value) for value in facts["mean"])
    picture = Image.new("L" if channels == 1 else "RGB", (width, height), colour[0] if channels == 1 else colour)
    png = io.BytesIO()
    picture.save(png, "PNG")
    return {"image": base64.b64encode(png.getvalue()).decode(), "task": facts["tasks"][0]["name"]}


def save(
    folder: Path,
    choice: Choice,
    facts: Mapping[str, Any],
    card: str,
    backbone: bytes | None = None,
    calibration: Calibrated | None = None,
) -> None:
    """Write the model as an MLflow model: our files, the code that reads them, the signature and an example.

    `backbone`: the weights of the frozen one in front of what was learned (`backbone_of`).
    """
    from mlflow import pyfunc

    with tempfile.TemporaryDirectory() as temporary:
        files = {"facts": Path(temporary, "facts.json"), "model_card": Path(temporary, "model_card.md")}
        files["model_card"].write_text(card, encoding="utf-8")
        if backbone is not None:
            files["backbone"] = Path(temporary, "backbone.safetensors")
            files["backbone"].write_bytes(backbone)
            facts = {**facts, "backbone": {**facts["backbone"], "file": hashlib.sha256(backbone).hexdigest()}}
        if calibration is not None:
            files["calibration"] = Path(temporary, "calibration.safetensors")
            data = calibration.file
            files["calibration"].write_bytes(data)
            facts = {**facts, "calibration": {**calibration.numbers, "file": hashlib.sha256(data).hexdigest()}}
        files["facts"].write_bytes(to_json(facts))
        pyfunc.save_model(
            path=str(folder),
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"checkpoint": str(choice.checkpoint), **{name: str(path) for name, path in files.items()}},
            # A copy of `cl`: no package registry has it, and a model has to answer as the code that learned it.
            code_paths=[str(PACKAGE)],
            signature=_signature(calibration is not None and calibration.numbers["kept"] is not None),
            input_example=[example_of(facts)],
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in requirements(facts)],
        )


def _signature(knows: bool) -> Any:
    """What MLflow checks of a request, and says of an answer; `knows`: whether that has the column `known`."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Map

    # An image is a text or numbers, a task a name or an index. The task is optional here even where the method
    # needs it: the model then says so itself, with status 400, while MLflow would answer with 500.
    inputs = Schema([ColSpec(AnyType(), "image"), ColSpec(AnyType(), "task", required=False)])
    outputs: list[Any] = [
        ColSpec(DataType.string, "task"),
        ColSpec(DataType.string, "class"),
        ColSpec(DataType.double, "probability"),
        ColSpec(Map(DataType.double), "probabilities"),
        *([ColSpec(DataType.boolean, "known")] if knows else []),
    ]
    return ModelSignature(inputs, Schema(outputs))


def card_of(
    params: Params,
    out: Path,
    choice: Choice,
    name: str,
    tags: Mapping[str, str],
    calibration: Calibrated | None = None,
    challenge: Challenge | None = None,
) -> str:
    """The model card, in Markdown, filled in from what the run recorded."""
    from cl.register import method_class

    def percent(value: float) -> str:
        return f"{100 * value:.1f} %"

    def cell(text: object) -> str:
        return str(text).replace("|", "\\|").replace("\n", " ")

    method = method_class(choice.run.method)
    about, _, source = (sys.modules[method.__module__].__doc__ or "").strip().partition("\n")
    card: str = template(Path(__file__).with_name("model_card.md"), percent, cell, student, listing).render(
        name=name,
        alias=ALIAS,
        choice=choice,
        run=choice.run,
        average=metrics.average_accuracy(choice.run.accuracy),
        forgetting=metrics.average_forgetting(choice.run.accuracy),
        other_accuracy=metrics.average_accuracy(choice.run.other_accuracy) if choice.run.other_accuracy else None,
        scenario=params.scenario.name,
        facts=facts_of(params, out, choice.run),
        manifest=read_manifest(out / "prepared"),
        about=about,
        source=" ".join(source.split()),
        needs_task_id=method.needs_task_id,
        stores_samples=method.stores_samples,
        limits=params.champion,
        tags=tags,
        mean=statistics.fmean,
        calibration=calibration,
        challenge=challenge,
    )
    return card
