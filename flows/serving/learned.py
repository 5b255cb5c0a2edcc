"""A model of a comparison, put to use from its checkpoint, and calibrated on the comparison's data."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl.called import program
from cl.data import features
from cl.data.places import place, side
from cl.data.prepare import columns_in, read_manifest
from cl.errors import UserError
from cl.files import read_object
from cl.keys import chain, parts_of
from cl.params import Params
from cl.reading import RunResult, read_run
from cl.register import declares

if TYPE_CHECKING:
    from cl.deployed import Deployed


@dataclass(frozen=True)
class Calibrated:
    """What was found on validation data, and what test data say of it."""

    numbers: dict[str, Any]
    """See `cl.calibrate.calibrated`."""
    tensors: dict[str, Any]
    unknown: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of the same method after the first half of the tasks: how well it refuses the others (`cl.calibrate.unknown`)."""
    half: int = 0
    """How many tasks that half has."""

    @property
    def file(self) -> bytes:
        """The tensors as a safetensors file."""
        from safetensors.torch import save

        return save(self.tensors)

    @property
    def tags(self) -> dict[str, str]:
        """The main numbers as tags of a version in MLflow."""
        found = {}
        for asked in ("task-agnostic", "task-aware"):
            for name in ("temperature", "ece_before", "ece_after") if asked in self.numbers else ():
                found[f"{asked}.{name}"] = str(self.numbers[asked][name])
            if asked in self.unknown:
                found[f"{asked}.unknown_auroc"] = str(self.unknown[asked]["auroc"])
        return found


def facts_of(params: Params, out: Path, run: RunResult) -> dict[str, Any]:
    """What is needed besides the checkpoint to rebuild and use the model."""
    import torch

    from cl.data.task import seen_shape
    from cl.nets import build
    from cl.nets.precision import is_reduced
    from cl.rng import generator

    manifest, learned_from = read_manifest(out / "prepared"), read_manifest(place(params, out, run.seed))
    seen = seen_shape(learned_from["input_shape"], params.training.augmentation.crop)
    net = build(params.model, seen, generator("only its shape"))
    own = features.numbers(params)
    more: dict[str, Any] = {} if own is None else {"mean": list(own.mean), "deviation": list(own.deviation)}
    if params.model.on_features:
        more = {"backbone": learned_from["backbone"], "seen": list(seen)}
    columns = columns_in(manifest, params.scenario.name)
    if sum(map(len, columns)) > len({column for task in columns for column in task}):  # a class came again
        more["columns"] = columns
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
        **more,
    }


def checkpoint_of(params: Params, folder: Path) -> tuple[Path, RunResult, int]:
    """Output folder, run and place in the sequence of `OUT/checkpoints/METHOD/seed-S/task-K`.

    Raises `UserError` unless these params have learned it.
    """
    found = re.fullmatch(r".*/checkpoints/(\w+)/seed-(\d+)/task-(\d+)", folder.resolve().as_posix())
    if found is None:
        raise UserError(f"{folder}: is no checkpoint; give a folder such as out/checkpoints/ewc/seed-0/task-9")
    method, seed, index = found[1], int(found[2]), int(found[3])
    out = folder.resolve().parents[3]
    if method not in params.methods:
        raise UserError(f"{folder}: {method} is not among the methods of the params; add --methods {method}")
    key = key_of(params, out, method, seed, index)
    if key is None or read_object(folder / "manifest.json").get("key") != key:
        raise UserError(
            f"{folder}: is not there, or was learned with other params, data or code; give the options that it was "
            "learned with (--params, --set)"
        )
    return out, read_run(out / "results" / method / f"seed-{seed}.json", method, seed), index


def key_of(params: Params, out: Path, method: str, seed: int, index: int) -> str | None:
    """The key of the checkpoint after the experience of this index, of these params, data and code; None: no such."""
    tasks = [task["digest"] for task in read_manifest(place(params, out, seed))["tasks"]]
    keys = chain(parts_of(params, method, seed), tasks, declares(method, "sees_all_tasks"))
    return keys[index] if index < len(keys) else None


def deployed(params: Params, out: Path, run: RunResult, index: int, *, pictures: bool = True) -> Deployed:
    """The model after the experience of this index, without a calibration.

    `pictures`: whether it will be asked about pictures, so that it needs the frozen backbone. Raises `UserError` where
    the checkpoint is damaged.
    """
    from cl import checkpoint
    from cl.checkpoint_files import DamagedCheckpoint
    from cl.deployed import Deployed
    from cl.nets.pretrained import pretrained

    facts = facts_of(params, out, run)
    if not declares(run.method, "sees_all_tasks"):
        facts = {**facts, "tasks": facts["tasks"][: index + 1], "knobs": run.per_task[index]["knobs"]}
    folder = out / "checkpoints" / run.method / f"seed-{run.seed}" / f"task-{index}"
    try:
        learned = checkpoint.load(folder)[0]
    except DamagedCheckpoint as error:
        raise UserError(f"{error}; learn it again: {program('flows.compare')} --methods {run.method}") from None
    backbone = pretrained(params.model, side(params), facts["scale"]) if pictures and params.model.on_features else None
    return Deployed(facts, learned, backbone)


def calibrate(params: Params, out: Path, run: RunResult, model: Deployed) -> Calibrated:
    """Calibrate the model, which has learned the first tasks of the run, and measure how it meets unknown classes.

    The unknown classes are those of the later tasks, for the same method and seed after half of the model's tasks.
    """
    from cl.calibrate import calibrated, unknown
    from cl.data import load

    kept = params.champion.known_share
    crop, own = params.training.augmentation.crop, features.numbers(params)
    tasks = load(place(params, out, run.seed), crop=crop, numbers=own).tasks[: len(model.tasks)]
    numbers, tensors = calibrated(model, tasks, kept)
    half = (len(tasks) + 1) // 2
    earlier = out / "checkpoints" / run.method / f"seed-{run.seed}" / f"task-{half - 1}"
    whole = half < len(tasks) and not declares(run.method, "sees_all_tasks")
    key = key_of(params, out, run.method, run.seed, half - 1)
    if kept is None or not whole or read_object(earlier / "manifest.json").get("key") != key:
        return Calibrated(numbers, tensors)
    young = deployed(params, out, run, half - 1, pictures=False)
    calibrated(young, tasks[:half], kept)
    return Calibrated(numbers, tensors, unknown(young, tasks), half)
