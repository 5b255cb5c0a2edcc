"""Where a model to be used comes from: the registry, or a checkpoint of a comparison."""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl.called import program
from cl.checkpoint_files import DamagedCheckpoint
from cl.errors import UserError, count
from cl.files import from_json
from cl.params import Params
from flows.serving.learned import calibrate, checkpoint_of, deployed
from flows.serving.model_files import ALIAS
from flows.tracking.experiment import refused
from flows.tracking.server import ENVIRONMENT
from flows.tracking.settings import Tracking, tracking_of

if TYPE_CHECKING:
    from cl.deployed import Deployed


@dataclass(frozen=True)
class Used:
    """A model, and what it is called."""

    model: Deployed
    said: str
    card: str
    """In Markdown; of a checkpoint, one line."""


def add_options(made: argparse.ArgumentParser) -> None:
    """The options that say which model."""
    made.add_argument(
        "--model",
        metavar="NAME@ALIAS",
        help="a registered model, also as NAME/VERSION; default: the champion of these params",
    )
    made.add_argument(
        "--checkpoint", metavar="FOLDER", help="instead a checkpoint, as out/checkpoints/ewc/seed-0/task-9"
    )


def used(params: Params, given: argparse.Namespace) -> Used:
    """The model that the options name; raises `UserError` where it is not there, damaged, or of other params."""
    if given.model is not None and given.checkpoint is not None:
        raise UserError("--model and --checkpoint name two models; give one of them")
    if given.checkpoint is None:
        return registered(
            tracking_of(params, given.out), given.model or f"{params.champion.name or params.title}@{ALIAS}"
        )
    folder = Path(given.checkpoint)
    out, run, index = checkpoint_of(params, folder)
    model = deployed(params, out, run, index)
    from cl.deployed import Calibration

    found = calibrate(params, out, run, model)
    model.calibration = Calibration.read(found.numbers, found.tensors)
    said = f"{run.method}, seed {run.seed}, after {len(model.tasks)} of {len(run.tasks)} tasks ({folder})"
    return Used(model, said, f"{said}\n")


def registered(tracking: Tracking, name: str) -> Used:
    """A registered model, `NAME@ALIAS` or `NAME/VERSION`.

    Raises `UserError` where MLflow has no such model, or its files are damaged.
    """
    for key, value in ENVIRONMENT.items():  # MLflow reads some of these when it is imported
        os.environ.setdefault(key, value)
    if tracking.uri is None and not tracking.has_database:
        raise UserError(
            f"{tracking.database}: is not there, so no model is registered; register one "
            f"({program('flows.champion')} with the same options), or name a checkpoint (--checkpoint)"
        )
    import mlflow
    from mlflow.exceptions import MlflowException

    with refused(tracking), tempfile.TemporaryDirectory() as temporary:
        mlflow.set_tracking_uri(tracking.address)
        try:
            folder = mlflow.artifacts.download_artifacts(f"models:/{name}", dst_path=temporary)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise UserError(
                f"MLflow ({tracking.target}) has no model {name}; register one: {program('flows.champion')} "
                "with the same options"
            ) from None
        return _read(Path(folder), name)


def _read(folder: Path, name: str) -> Used:
    """The files of a registered model, whichever version of this project wrote them."""
    import yaml

    from cl import checkpoint
    from cl.deployed import registered as read_model

    try:
        described = yaml.safe_load((folder / "MLmodel").read_text("utf-8"))
        artifacts = described["flavors"]["python_function"]["artifacts"]
        files: dict[str, Path] = {key: folder / entry["path"] for key, entry in artifacts.items()}
        facts: dict[str, Any] = from_json(files["facts"].read_bytes())
        model = read_model(facts, checkpoint.load(files["checkpoint"])[0], files)
        card = files["model_card"].read_text("utf-8")
    except (DamagedCheckpoint, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{name}: damaged, or not a model of this project ({error}); register it again") from None
    said = f"{name} ({facts['method']}, seed {facts['seed']}, {count(len(model.tasks), 'task')})"
    return Used(model, said, card)
