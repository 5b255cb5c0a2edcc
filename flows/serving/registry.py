"""The versions of a model in MLflow's registry, and which of them is the champion."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl.data.prepare import digest, read_manifest
from cl.errors import UserError, count
from cl.files import read_json
from cl.keys import run_folder
from cl.names import method_name
from cl.params import Params
from flows.serving.challenge import Challenge, challenge
from flows.serving.choice import Choice, barred
from flows.serving.learned import Calibrated, calibrate, deployed, facts_of
from flows.serving.model_files import ALIAS, backbone_of, card_of, save
from flows.serving.source import registered
from flows.tracking import origin
from flows.tracking.experiment import connected, refused, run_of
from flows.tracking.settings import Tracking

SCORE, SEQUENCE, CHECKPOINT = "mean_average_accuracy", "data.sha256", "checkpoint.sha256"
"""Tags of a registered model: the number compared, the tasks it learned, and which model it is."""
KNOWN = "known_share"
"""Tag: what share of the validation images is to be known (`champion.known_share`)."""
ABOUT = """Models that have learned {} task by task. The version with the alias `{}` is the best so far; its page says
how good it is, how it was chosen and how to call it."""
DESCRIPTION_LENGTH = 5000
"""MLflow's column for the description of a version holds no more."""


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
    mlflow.set_tracking_uri(tracking.address)  # MLflow looks there for the model of a new version, whatever the client
    run, name = choice.run, params.champion.name or params.title
    source = run_of(tracking, run_folder(params, run.method, run.seed, out))
    tags = {
        "benchmark": run.benchmark,
        "method": run.method,
        "seed": str(run.seed),
        SCORE: repr(choice.score),
        CHECKPOINT: digest(read_json(choice.checkpoint / "manifest.json")),
        KNOWN: repr(params.champion.known_share),
        **origin.tags(out, params),
        **({"run_id": source} if source else {}),
    }
    try:
        client.create_registered_model(name, description=ABOUT.format(run.benchmark, ALIAS))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    held = client.get_registered_model(name).aliases.get(ALIAS)
    champion = client.get_model_version(name, str(held)) if held else None
    if champion is not None and not _ours(champion.tags):
        raise UserError(
            f"champion.name: version {held} of {name} in MLflow ({tracking.target}) is {ALIAS}, and was not registered "
            "from here, so there is nothing to compare with; give another name, or remove its alias"
        )
    known = client.search_model_versions(f"name = '{name}'")
    same = [v for v in known if all(v.tags.get(key) == tags[key] for key in (SCORE, CHECKPOINT, KNOWN))]
    number = str(same[0].version) if same else ""
    against = f"{name}/{held}" if champion is not None and params.champion.challenge and number != str(held) else None
    match = None
    if not number or against:
        calibration, match = _examined(params, out, choice, tracking, against)
        tags |= {**calibration.tags, **({} if match is None else match.tags)}
        card = card_of(params, out, choice, name, tags, calibration, match)
        if number:
            _challenged(client, name, number, card, match)
        else:
            facts = facts_of(params, out, run)
            number = _log(client, experiment, name, choice, (facts, card, backbone_of(params), calibration), tags)
    digests = [task["digest"] for task in read_manifest(out / "prepared")["tasks"]]
    ruled_out = barred(champion.tags["method"], params.champion) if champion else None
    moves, why = decide(champion.tags if champion else None, str(held), ruled_out, tags, number, digests, match)
    if choice.near_chance and held != number:
        moves, why = False, f"mean average accuracy {choice.score:.4f} is near chance, so this does not become {ALIAS}."
        why = why if match is None else f"{match.said}; {why}"
    if moves:
        client.set_registered_model_alias(name, ALIAS, number)
    drifted = match.drifted if match is not None else None
    note = "" if drifted is None else f" {drifted.said[0].upper()}{drifted.said[1:]}."
    return f"{name} version {number} ({run.method}, seed {run.seed}): {why}{note}"


def _examined(
    params: Params, out: Path, choice: Choice, tracking: Tracking, against: str | None
) -> tuple[Calibrated, Challenge | None]:
    """The model's calibration, and what came of its challenge to the version `against`, if there is one."""
    from cl.deployed import Calibration

    run = choice.run
    model = deployed(params, out, run, len(run.tasks) - 1, pictures=against is not None)
    calibration = calibrate(params, out, run, model)
    if against is None or params.champion.challenge is None:
        return calibration, None
    model.calibration = Calibration.read(calibration.numbers, calibration.tensors)
    aware = params.scenario.name == "task" and not params.champion.no_task_id
    held = registered(tracking, against).model
    folder = Path(params.champion.challenge)
    return calibration, challenge(model, held, folder, params.champion.challenge_level, aware)


def _challenged(client: Any, name: str, number: str, card: str, match: Challenge | None) -> None:
    """Note a new challenge at a version that is registered already."""
    for key, value in (match.tags if match is not None else {}).items():
        client.set_model_version_tag(name, number, key, value)
    client.update_model_version(name, number, _short(card))


def _ours(tags: Mapping[str, str]) -> bool:
    """Whether a registered model has the tags that `decide` reads, as `_register` writes them."""
    try:
        method_name(tags["method"])
        return {"seed", SEQUENCE} <= set(tags) and math.isfinite(float(tags[SCORE]))
    except (KeyError, ValueError):
        return False


def _short(card: str) -> str:
    """The card as the description of a version."""
    more = "\n\n(Cut here: the whole card is the artifact model_card.md.)\n"
    return card if len(card) <= DESCRIPTION_LENGTH else card[: DESCRIPTION_LENGTH - len(more)] + more


def _log(
    client: Any,
    experiment: str,
    name: str,
    choice: Choice,
    parts: tuple[dict[str, Any], str, bytes | None, Calibrated],
    tags: dict[str, str],
) -> str:
    """Store the model with the run that learned it, and make it a version of the registered model; its number.

    `parts`: its facts, card, backbone and calibration.
    """
    from mlflow.entities import LoggedModelOutput

    (facts, card, backbone, calibration), source = parts, tags.get("run_id")
    knobs = {f"knob.{key}": json.dumps(value) for key, value in facts["knobs"].items()}
    logged = client.create_logged_model(
        experiment,
        name=f"{choice.run.method}-seed-{choice.run.seed}",
        source_run_id=source,
        tags=tags,
        params={"method": choice.run.method, "seed": str(choice.run.seed), **knobs},
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "model")
        save(folder, choice, facts, card, backbone, calibration)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        client.carrying(size).log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    if source is not None:
        client.log_outputs(source, [LoggedModelOutput(logged.model_id, 0)])
    created = client.create_model_version(
        name,
        f"models:/{logged.model_id}",
        run_id=source,
        tags=tags,
        description=_short(card),
        model_id=logged.model_id,
    )
    return str(created.version)


def decide(
    champion: Mapping[str, str] | None,
    held: str,
    ruled_out: str | None,
    new: Mapping[str, str],
    number: str,
    digests: list[str],
    match: Challenge | None = None,
) -> tuple[bool, str]:
    """Whether the alias moves from the version `held` with the tags `champion` to the new one, and why.

    `ruled_out`: why the user's limits rule the champion out. `digests`: of the new model's tasks in order; they tell
    whether the champion has learned the same tasks, or the first of them. `match`: what came of a challenge, which then
    decides unless the champion is ruled out.
    """
    if champion is None:
        return True, f"is the first, so this becomes {ALIAS}."
    if held == number:
        return False, f"is {ALIAS} already."
    was = f"version {held} ({champion['method']}, seed {champion['seed']})"
    if match is not None and ruled_out is None:
        return match.won, f"{match.said}, so {'this becomes' if match.won else f'{was} stays'} {ALIAS}."
    if CHECKPOINT in new and new[CHECKPOINT] == champion.get(CHECKPOINT):
        return True, f"is the model of {was} with another share of known images, so this becomes {ALIAS}."
    learned = next((n for n in range(1, len(digests) + 1) if digest(digests[:n]) == champion[SEQUENCE]), None)
    if learned is None:
        return False, (
            f"{was} has learned other tasks and cannot be compared, so it stays {ALIAS}; "
            "give this sequence a registered model of its own (champion.name)."
        )
    if learned < len(digests):
        return True, f"knows {count(len(digests), 'task')}, {was} only the first {learned}, so this becomes {ALIAS}."
    if ruled_out is not None:
        return True, f"{was} {ruled_out}, so this becomes {ALIAS}."
    mine, theirs = float(new[SCORE]), float(champion[SCORE])
    compared = f"mean average accuracy {mine:.4f} against {theirs:.4f} of {was}"
    if mine > theirs:
        return True, f"{compared}, so this becomes {ALIAS}."
    return False, f"{compared}, so {was} stays {ALIAS}."
