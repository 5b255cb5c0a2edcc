"""The best model of a finished comparison, registered in MLflow and ready to be served: `python -m flows.champion`.

The rule: of the methods that are continual learners and that the user's limits allow, the one with the highest mean
average accuracy over the seeds (equal: the one named first); of it the seed whose final model has the best mean
validation accuracy over the tasks (equal: the lower seed). A test accuracy never picks a seed.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cl import cli, metrics
from cl.data.prepare import digest, read_manifest
from cl.errors import UserError
from cl.files import read_json, to_json
from cl.params import PACKAGE, Params
from cl.standing import chain
from cl.unit import parts_of, unit_folder
from flows import provenance
from flows.follower import tracking_of
from flows.results import Run, read_run
from flows.tracking import ENVIRONMENT, Tracking, connected, run_of

ALIAS = "champion"
SCORE, SEQUENCE, CHECKPOINT = "mean_average_accuracy", "data.sha256", "checkpoint.sha256"
"""Tags of a registered model: what the rule compares, what it was learned from, and which model it is."""
DESCRIPTION_LENGTH = 5000
"""MLflow's column for the description of a version holds no more."""
REQUIREMENTS = ("mlflow", "torch", "numpy", "pillow", "pydantic", "pyyaml", "safetensors", "quadprog")
"""What the model needs where it is served: `cl` without the selection, and MLflow itself."""
UPLOAD_SECONDS = "120"


@dataclass(frozen=True)
class Limits:
    """What the methods may ask for where the model will be used."""

    no_task_id: bool = False
    no_stored_samples: bool = False

    def against(self, method: str) -> str | None:
        """Why a method cannot be deployed; None where it can."""
        from cl.method import method_class

        found = method_class(method)
        if found.sees_all_tasks:
            return "learns all tasks at once, so is no continual learner"
        if self.no_task_id and found.needs_task_id:
            return "needs the task id (--no-task-id)"
        if self.no_stored_samples and found.stores_samples:
            return "stores training samples (--no-stored-samples)"
        return None


@dataclass(frozen=True)
class Choice:
    """A model that was picked, and what it was picked by."""

    run: Run
    checkpoint: Path
    means: dict[str, float]
    """Mean average accuracy over the seeds of every method that was allowed, the best first."""
    excluded: dict[str, str]
    """Why the other methods were not."""
    half_width: float | None
    """Of the 95 % interval of the chosen method's mean; None with a single seed."""
    validation: dict[int, list[float]]
    """By seed: validation accuracy of the chosen method's final model on each task."""
    method_given: bool
    seed_given: bool
    """The user named it, whatever the rule says."""

    @property
    def score(self) -> float:
        """What models are compared by."""
        return self.means[self.run.method]


def choose(params: Params, out: Path, limits: Limits, method: str | None = None, seed: int | None = None) -> Choice:
    """Pick by the rule among the methods and seeds of the params; `method` and `seed` are the user's own choice.

    Raises `UserError` where results are missing or not of these params, data and code, and where nothing is left.
    """
    excluded = {name: why for name in params.methods if (why := limits.against(name)) is not None}
    allowed = [name for name in params.methods if name not in excluded]
    if not allowed:
        raise UserError(f"no method is left: {'; '.join(f'{name} {why}' for name, why in excluded.items())}")
    if method is not None and method not in allowed:
        raise UserError(f"--method {method}: {excluded.get(method) or 'is not among the methods of the params'}")
    if seed is not None and seed not in params.seeds:
        raise UserError(f"--seed {seed}: is not among the seeds of the params ({', '.join(map(str, params.seeds))})")
    places = {(name, s): _checkpoint(params, out, name, s) for name in allowed for s in params.seeds}
    if missing := [f"{name}/seed-{s}" for (name, s), place in places.items() if place is None]:
        raise UserError(
            f"not learned under {out} with these params, data and code: {', '.join(missing)}; learn them with "
            "`python -m flows.benchmark` and the same options (what is there stays), or leave them out (--methods)"
        )
    runs = {
        (name, s): read_run(out / "results" / name / f"seed-{s}.json", name, s)
        for name in allowed
        for s in params.seeds
    }
    accuracies = {name: [metrics.average_accuracy(runs[name, s].accuracy) for s in params.seeds] for name in allowed}
    ranked = sorted(allowed, key=lambda name: -statistics.fmean(accuracies[name]))
    best = method or ranked[0]
    validation = {s: _validation(params, out, best, s) for s in sorted(params.seeds)}
    chosen = max(validation, key=lambda s: statistics.fmean(validation[s])) if seed is None else seed
    place = places[best, chosen]
    assert place is not None
    means = {name: statistics.fmean(accuracies[name]) for name in ranked}
    half_width = metrics.interval(accuracies[best])[1]
    given = (method is not None, seed is not None)
    return Choice(runs[best, chosen], place, means, excluded, half_width, validation, *given)


def _checkpoint(params: Params, out: Path, method: str, seed: int) -> Path | None:
    """The published model after the last task; None where it is missing or of other params, data or code."""
    tasks = [task["digest"] for task in read_manifest(out / "prepared")["tasks"]]
    folder = out / "checkpoints" / method / f"seed-{seed}" / f"task-{len(tasks) - 1}"
    key = chain(parts_of(params, method, seed), tasks, at_once=False)[-1]
    return folder if (read_json(folder / "manifest.json") or {}).get("key") == key else None


def _validation(params: Params, out: Path, method: str, seed: int) -> list[float]:
    """Validation accuracy of the final model on each task: result files have only that right after learning."""
    import torch

    from cl import checkpoint
    from cl.data import load
    from cl.method import accuracy
    from cl.sequence import Learner

    place = _checkpoint(params, out, method, seed)
    assert place is not None
    learner = Learner(params, method, seed, load(out / "prepared"), torch.device("cpu"))
    learner.resume(len(learner.stages) - 1, checkpoint.load(place)[0])
    learner.method.training = params.training
    return [accuracy(learner.method, task.validation, inference=True) for task in learner.stages]


# The model as files.


def facts_of(params: Params, out: Path, run: Run) -> dict[str, Any]:
    """What has to be known besides the checkpoint to rebuild and use the model."""
    manifest = read_manifest(out / "prepared")
    return {
        **{key: manifest[key] for key in ("benchmark", "input_shape", "scale", "mean", "deviation")},
        "tasks": [{key: task[key] for key in ("name", "classes")} for task in manifest["tasks"]],
        "method": run.method,
        "knobs": run.per_task[-1]["knobs"],
        "seed": run.seed,
        "model": params.model.model_dump(mode="json"),
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


def card_of(params: Params, out: Path, choice: Choice, limits: Limits, name: str, tags: Mapping[str, str]) -> str:
    """The model card, in Markdown: all of it from the run's own record."""
    import jinja2

    from cl.method import method_class

    found = method_class(choice.run.method)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    about, _, source = (sys.modules[found.__module__].__doc__ or "").strip().partition("\n")
    return environment.get_template("model_card.md").render(
        name=name,
        alias=ALIAS,
        choice=choice,
        run=choice.run,
        average=metrics.average_accuracy(choice.run.accuracy),
        forgetting=metrics.average_forgetting(choice.run.accuracy),
        facts=facts_of(params, out, choice.run),
        manifest=read_manifest(out / "prepared"),
        about=about,
        source=" ".join(source.split()),
        needs_task_id=found.needs_task_id,
        stores_samples=found.stores_samples,
        limits=limits,
        tags=tags,
        mean=statistics.fmean,
    )


# MLflow's registry.


def register(params: Params, out: Path, choice: Choice, limits: Limits, name: str, tracking: Tracking) -> str:
    """Log and register the model unless it is registered already, and move the alias where it is better.

    Returns what was decided, in a sentence. Raises whatever fails.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client, experiment = connected(tracking)
    mlflow.set_tracking_uri(tracking.address)  # a new version of a model asks for the model there, whatever the client
    run = choice.run
    source = run_of(tracking, unit_folder(params, run.method, run.seed, out))
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
        card = card_of(params, out, choice, limits, name, tags)
        number = _log(client, experiment, source, name, choice, facts_of(params, out, run), card, tags)
    held = client.get_registered_model(name).aliases.get(ALIAS)
    champion = client.get_model_version(name, str(held)) if held else None
    digests = [task["digest"] for task in read_manifest(out / "prepared")["tasks"]]
    barred = limits.against(champion.tags["method"]) if champion else None
    moves, why = decide(champion.tags if champion else None, str(held), barred, tags, number, digests)
    if moves:
        client.set_registered_model_alias(name, ALIAS, number)
    return f"{name} version {number} ({run.method}, seed {run.seed}): {why}"


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
        client.log_model_artifacts(logged.model_id, str(folder))
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
    barred: str | None,
    new: Mapping[str, str],
    number: str,
    digests: list[str],
) -> tuple[bool, str]:
    """Whether the alias moves from the version `held` with the tags `champion` to the new one, and why.

    `barred`: why the user's limits rule the champion out. `digests`: of the new model's tasks in order; its own
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
            "give this sequence a registered model of its own (--name)."
        )
    if learned < len(digests):
        return True, f"knows {len(digests)} tasks, {was} only the first {learned}, so this becomes {ALIAS}."
    if barred is not None:
        return True, f"{was} {barred}, so this becomes {ALIAS}."
    mine, theirs = float(new[SCORE]), float(champion[SCORE])
    compared = f"mean average accuracy {mine:.4f} against {theirs:.4f} of {was}"
    if mine > theirs:
        return True, f"{compared}, so this becomes {ALIAS}."
    return False, f"{compared}, so {was} stays {ALIAS}."


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = cli.parser("flows.champion", main.__doc__)
    made.add_argument("--method", help="take this one instead of the best")
    made.add_argument("--seed", type=int, help="take this one instead of the best on validation data")
    made.add_argument("--name", help="of the registered model; default: the benchmark's")
    made.add_argument("--no-task-id", action="store_true", help="the task of an image will not be known")
    made.add_argument("--no-stored-samples", action="store_true", help="no training sample may be in the model")
    return made


def main() -> int:
    """Register the best model of a finished comparison in MLflow; it becomes `champion` where it is better."""
    given = parser().parse_args()
    params = cli.params_of(given)
    if not params.tracking.enabled:
        raise UserError("tracking.enabled: is false, so there is no MLflow to register a model in; set it to true")
    if given.name is not None and (not given.name.strip() or re.search(r"[/:.'%\"]", given.name)):
        raise UserError(f"--name {given.name}: has to be without the characters / : . ' \" %")
    from cl.method import check_knobs  # imports torch, so after the cheap checks
    from cl.params import method_name

    check_knobs(params.methods)
    try:
        method = given.method and method_name(given.method)
    except ValueError as error:
        raise UserError(f"--method: {error}") from None
    # As for tracking, but for an upload that takes its time. MLflow reads some of it when it is imported.
    for key, value in (ENVIRONMENT | {"MLFLOW_HTTP_REQUEST_TIMEOUT": UPLOAD_SECONDS}).items():
        os.environ.setdefault(key, value)
    limits = Limits(given.no_task_id, given.no_stored_samples)
    choice = choose(params, given.out, limits, method, given.seed)
    name, tracking = given.name or params.benchmark.name, tracking_of(params, given.out)
    from mlflow.exceptions import MlflowException

    try:
        print(register(params, given.out, choice, limits, name, tracking))
    except MlflowException as error:
        text = re.sub(r"(?<=//)[^/@\s]*@", "", " ".join(error.message.split()))  # its address may hold a password
        raise UserError(f"MLflow ({tracking.target}): {text[:300]}") from None
    # Without the password that an address may hold; the embedded database as seen from here.
    place = tracking.target if tracking.uri else f"sqlite:///{os.path.relpath(tracking.database)}"
    print(f"serve it: MLFLOW_TRACKING_URI={place} mlflow models serve -m models:/{name}@{ALIAS} --env-manager local")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
