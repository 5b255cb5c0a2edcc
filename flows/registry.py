"""Models as MLflow has them: files with all that is needed to serve them, a card, and versions in its registry."""

from __future__ import annotations

import base64
import io
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cl import metrics
from cl.data.prepare import digest, read_manifest
from cl.errors import UserError
from cl.files import read_json, to_json
from cl.keys import run_folder
from cl.params import PACKAGE, Params, method_name
from cl.reading import Run
from flows import provenance
from flows.choice import Choice, barred
from flows.templates import template
from flows.tracking import Tracking, connected, refused, run_of

ALIAS = "champion"
SCORE, SEQUENCE, CHECKPOINT = "mean_average_accuracy", "data.sha256", "checkpoint.sha256"
"""Tags of a registered model: what the rule compares, what it was learned from, and which model it is."""
DESCRIPTION_LENGTH = 5000
"""MLflow's column for the description of a version holds no more."""
REQUIREMENTS = ("mlflow", "torch", "numpy", "pillow", "pydantic", "pyyaml", "safetensors", "quadprog")
"""What the model needs where it is served: `cl` without the selection, and MLflow itself."""


def facts_of(params: Params, out: Path, run: Run) -> dict[str, Any]:
    """What has to be known besides the checkpoint to rebuild and use the model."""
    import torch

    from cl.data.task import seen_shape
    from cl.nets import build
    from cl.nets.precision import is_reduced
    from cl.rng import generator

    manifest = read_manifest(out / "prepared")
    seen = seen_shape(manifest["input_shape"], params.training.augmentation.crop)
    net = build(params.model, seen, generator("only its shape"))
    return {
        **{key: manifest[key] for key in ("benchmark", "input_shape", "scale", "mean", "deviation")},
        "tasks": [{key: task[key] for key in ("name", "classes")} for task in manifest["tasks"]],
        "method": run.method,
        "knobs": run.per_task[-1]["knobs"],
        "seed": run.seed,
        "model": params.model.model_dump(mode="json") | {"weights": None},  # the checkpoint has them
        "reduced": is_reduced(params.training.precision, net, torch.device("cpu")),
        "increment": params.scenario.name,
        "training": params.training.model_dump(mode="json"),
    }


def example_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """An input that works and shows nobody's data: a picture of the benchmark's mean colour, of the first task."""
    from PIL import Image

    channels, height, width = facts["input_shape"]
    colour = tuple(round(255 * value) for value in facts["mean"])
    picture = Image.new("L" if channels == 1 else "RGB", (width, height), colour[0] if channels == 1 else colour)
    png = io.BytesIO()
    picture.save(png, "PNG")
    return {"image": base64.b64encode(png.getvalue()).decode(), "task": facts["tasks"][0]["name"]}


def save(folder: Path, choice: Choice, facts: Mapping[str, Any], card: str) -> None:
    """Write the model as an MLflow model: our files, the code that reads them, the signature and an example."""
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Map

    with tempfile.TemporaryDirectory() as temporary:
        files = {"facts": Path(temporary, "facts.json"), "model_card": Path(temporary, "model_card.md")}
        files["facts"].write_bytes(to_json(facts))
        files["model_card"].write_text(card, encoding="utf-8")
        # An image is a text or numbers, a task a name or an index. The task is optional here even where the method
        # needs it: the model then says so itself, with status 400, while MLflow would answer with 500.
        inputs = Schema([ColSpec(AnyType(), "image"), ColSpec(AnyType(), "task", required=False)])
        outputs = Schema(
            [
                ColSpec(DataType.string, "task"),
                ColSpec(DataType.string, "class"),
                ColSpec(DataType.double, "probability"),
                ColSpec(Map(DataType.double), "probabilities"),
            ]
        )
        pyfunc.save_model(
            path=str(folder),
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"checkpoint": str(choice.checkpoint), **{name: str(path) for name, path in files.items()}},
            # A copy of `cl`: it is in no registry, and a model answers as the code that learned it did.
            code_paths=[str(PACKAGE)],
            signature=ModelSignature(inputs, outputs),
            input_example=[example_of(facts)],
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
        )


def card_of(params: Params, out: Path, choice: Choice, name: str, tags: Mapping[str, str]) -> str:
    """The model card, in Markdown: all of it from the run's own record."""
    from cl.register import method_class

    def percent(value: float) -> str:
        return f"{100 * value:.1f} %"

    def cell(text: object) -> str:
        return str(text).replace("|", "\\|").replace("\n", " ")

    found = method_class(choice.run.method)
    about, _, source = (sys.modules[found.__module__].__doc__ or "").strip().partition("\n")
    card: str = template("model_card.md", percent, cell).render(
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
        needs_task_id=found.needs_task_id,
        stores_samples=found.stores_samples,
        limits=params.champion,
        tags=tags,
        mean=statistics.fmean,
    )
    return card


def register(params: Params, out: Path, choice: Choice, tracking: Tracking) -> str:
    """Log and register the model unless it is registered already, and move the alias where it is better.

    Returns what was decided, in a sentence. Raises `UserError` where MLflow refuses.
    """
    with refused(tracking):
        return _register(params, out, choice, tracking)


def _register(params: Params, out: Path, choice: Choice, tracking: Tracking) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    client, experiment = connected(tracking)
    mlflow.set_tracking_uri(tracking.address)  # a new version of a model asks for the model there, whatever the client
    run, name = choice.run, params.champion.name or params.title
    source = run_of(tracking, run_folder(params, run.method, run.seed, out))
    tags = {
        "benchmark": run.benchmark,
        "method": run.method,
        "seed": str(run.seed),
        SCORE: repr(choice.score),
        CHECKPOINT: digest(read_json(choice.checkpoint / "manifest.json")),
        **provenance.tags(out),
        **({"run_id": source} if source else {}),
    }
    try:
        client.create_registered_model(name, description=f"Continual learners of {run.benchmark}: docs/models.md.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.search_model_versions(f"name = '{name}'")
    same = [v for v in known if all(v.tags.get(key) == tags[key] for key in (SCORE, CHECKPOINT))]
    if same:
        number = str(same[0].version)
    else:
        card = card_of(params, out, choice, name, tags)
        number = _log(client, experiment, source, name, choice, facts_of(params, out, run), card, tags)
    held = client.get_registered_model(name).aliases.get(ALIAS)
    champion = client.get_model_version(name, str(held)) if held else None
    digests = [task["digest"] for task in read_manifest(out / "prepared")["tasks"]]
    if champion is not None and not _ours(champion.tags):
        raise UserError(
            f"champion.name: version {held} of {name} in MLflow ({tracking.target}) is {ALIAS}, and was not registered "
            "from here, so there is nothing to compare by; take another name, or take the alias from it"
        )
    ruled_out = barred(champion.tags["method"], params.champion) if champion else None
    moves, why = decide(champion.tags if champion else None, str(held), ruled_out, tags, number, digests)
    if moves:
        client.set_registered_model_alias(name, ALIAS, number)
    return f"{name} version {number} ({run.method}, seed {run.seed}): {why}"


def _ours(tags: Mapping[str, str]) -> bool:
    """Whether a registered model has what `decide` reads, as `_register` writes it."""
    try:
        method_name(tags["method"])
        return {"seed", SEQUENCE} <= set(tags) and math.isfinite(float(tags[SCORE]))
    except (KeyError, ValueError):
        return False


def _log(
    client: Any,
    experiment: str,
    source: str | None,
    name: str,
    choice: Choice,
    facts: Mapping[str, Any],
    card: str,
    tags: Mapping[str, str],
) -> str:
    """Store the model with the run that learned it, and make it a version of the registered model; its number."""
    from mlflow.entities import LoggedModelOutput

    knobs = {f"knob.{key}": json.dumps(value) for key, value in facts["knobs"].items()}
    logged = client.create_logged_model(
        experiment,
        name=f"{choice.run.method}-seed-{choice.run.seed}",
        source_run_id=source,
        tags=dict(tags),
        params={"method": choice.run.method, "seed": str(choice.run.seed), **knobs},
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "model")
        save(folder, choice, facts, card)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        client.carrying(size).log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    if source is not None:
        client.log_outputs(source, [LoggedModelOutput(logged.model_id, 0)])
    more = "\n\n(Cut here: the whole card is the artifact model_card.md.)\n"
    short = card if len(card) <= DESCRIPTION_LENGTH else card[: DESCRIPTION_LENGTH - len(more)] + more
    found = client.create_model_version(
        name,
        f"models:/{logged.model_id}",
        run_id=source,
        tags=dict(tags),
        description=short,
        model_id=logged.model_id,
    )
    return str(found.version)


def decide(
    champion: Mapping[str, str] | None,
    held: str,
    ruled_out: str | None,
    new: Mapping[str, str],
    number: str,
    digests: list[str],
) -> tuple[bool, str]:
    """Whether the alias moves from the version `held` with the tags `champion` to the new one, and why.

    `ruled_out`: why the user's limits rule the champion out. `digests`: of the new model's tasks in order; its own
    sequence and the earlier states of it are told by them.
    """
    if champion is None:
        return True, f"is the first, so this becomes {ALIAS}."
    if held == number:
        return False, f"is {ALIAS} already."
    was = f"version {held} ({champion['method']}, seed {champion['seed']})"
    learned = next((n for n in range(1, len(digests) + 1) if digest(digests[:n]) == champion[SEQUENCE]), None)
    if learned is None:
        return False, (
            f"{was} has learned other tasks and cannot be compared, so it stays {ALIAS}; "
            "give this sequence a registered model of its own (champion.name)."
        )
    if learned < len(digests):
        return True, f"knows {len(digests)} tasks, {was} only the first {learned}, so this becomes {ALIAS}."
    if ruled_out is not None:
        return True, f"{was} {ruled_out}, so this becomes {ALIAS}."
    mine, theirs = float(new[SCORE]), float(champion[SCORE])
    compared = f"mean average accuracy {mine:.4f} against {theirs:.4f} of {was}"
    if mine > theirs:
        return True, f"{compared}, so this becomes {ALIAS}."
    return False, f"{compared}, so {was} stays {ALIAS}."
