"""From which code and data results come, and under which hashes DVC keeps them: what git and DVC say."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import yaml

from cl.data.places import draws, place, prepared
from cl.data.prepare import digest, read_manifest
from cl.errors import UserError
from cl.params import Params
from cl.reading import read_runs
from flows.tracking import experiment
from flows.tracking.settings import tracking_of

LOCK, DATA = Path("dvc.lock"), Path("data.dvc")
ROOMS = ("prepared", "features", "results", "checkpoints", "report")
"""The folders in the output folder that DVC keeps."""


def tags(out: Path, params: Params | None = None) -> dict[str, str]:
    """The versions of code and data, as far as they are known here.

    git.commit (with -dirty where tracked files differ from it), dvc.data (the hash in data.dvc, unless the images are
    read from elsewhere), data.sha256 (over the prepared tasks, of all seeds where each has its own), dvc.stage and
    dvc.experiment (set by DVC), torch; of params with features that are there: backbone, and backbone.sha256, the
    checksum of its weights. Raises `UserError` where data.dvc is damaged.
    """
    folders = [out / "prepared"] if params is None else [prepared(params, out, seed) for seed in draws(params)]
    there = [folder for folder in folders if (folder / "manifest.json").exists()] or folders[:1]
    manifests = [read_manifest(folder) for folder in there]
    digests = [task["digest"] for manifest in manifests for task in manifest["tasks"]]
    known = {"torch": version("torch"), "data.sha256": digest(digests)}
    if params is not None and params.model.on_features:
        made = (place(params, out, seed) for seed in draws(params))
        for of in [read_manifest(room)["backbone"] for room in made if (room / "manifest.json").exists()][:1]:
            known |= {"backbone": of["name"], "backbone.sha256": of["weights"]}
    commit = git_commit()
    if commit:
        known["git.commit"] = commit
    if DATA.exists() and manifests[0]["options"].get("path") is None and (hashes := _kept(DATA)):
        known["dvc.data"] = next(iter(hashes.values()))
    for tag, variable in (("dvc.stage", "DVC_STAGE"), ("dvc.experiment", "DVC_EXP_NAME")):
        if value := os.environ.get(variable):
            known[tag] = value
    return known


@cache
def labels() -> tuple[str, ...]:
    """The same in short, as tags for Prefect: `git:` and the commit, and in a stage of DVC `dvc:` and its name."""
    stage = os.environ.get("DVC_STAGE")
    return (f"git:{(git_commit() or 'unversioned')[:12]}", *([f"dvc:{stage}"] if stage else []))


def git_commit() -> str | None:
    """The commit checked out here, with `-dirty` where tracked files differ from it; None outside git.

    dvc.lock alone makes nothing dirty: DVC rewrites it after each stage, and it says what was made, not of what.
    """
    if not Path(".git").exists():
        return None
    try:
        head = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){LOCK}")
        return head + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def recordable(out: Path) -> None:
    """In a stage of DVC, raise `UserError` if DVC would refuse to record what the stage makes.

    DVC itself would say so only after the work.
    """
    if "DVC_STAGE" not in os.environ:
        return
    settings = [path.read_text(encoding="utf-8") for path in Path(".dvc").glob("config*") if path.is_file()]
    if any("no_scm = true" in text for text in settings):
        return
    try:
        root = Path(git("rev-parse", "--show-toplevel"))
        tracked = git("ls-files", "--", *(str(out / room) for room in ROOMS)).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return
    if not out.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{out}: leads to {out.resolve()}, out of the git repository, and DVC records nothing there; "
            f"put a folder in its place, or run python -m flows.compare --out {out}, which needs no DVC"
        )
    if tracked:
        raise UserError(
            f"{tracked[0]}: tracked by git, so DVC would refuse to keep it; run git rm -r --cached {out} and commit"
        )


def recorded(out: Path) -> dict[str, dict[str, str]]:
    """By method, the hashes `dvc.results` and `dvc.checkpoints` in dvc.lock, where the results are those it records.

    Only the results are compared, since checkpoints may be large: DVC records the outputs of a stage together, and the
    times among the results differ from run to run. Raises `UserError` where dvc.lock is damaged.
    """
    if not LOCK.exists():
        return {}
    known = {path.absolute(): md5 for path, md5 in _kept(LOCK).items()}
    hashes = {}
    for results in sorted((out / "results").absolute().glob("*/")):
        checkpoints = (out / "checkpoints" / results.name).absolute()
        if checkpoints in known and known.get(results) == folder_hash(results):
            hashes[results.name] = {"dvc.results": known[results], "dvc.checkpoints": known[checkpoints]}
    return hashes


def _kept(file: Path) -> dict[Path, str]:
    """The outputs in a file of DVC, each with its hash; raises `UserError` where the file is damaged."""
    try:
        read = yaml.safe_load(file.read_bytes())
        stages = read["stages"].values() if "stages" in read else [read]
        return {Path(kept["path"]): str(kept["md5"]) for stage in stages for kept in stage.get("outs", ())}
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        remedy = f"git checkout {file} brings back the committed one"
        raise UserError(f"{file}: damaged, or in the middle of a merge; {remedy}") from None


def folder_hash(folder: Path) -> str:
    """The hash that DVC gives a folder: the md5 of a list of its files with their md5, as JSON; and `.dir`."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    entries = [{"md5": _md5(files[name].read_bytes()), "relpath": name} for name in sorted(files)]
    return f"{_md5(json.dumps(entries, sort_keys=True).encode())}.dir"


def point(params: Params, out: Path) -> None:
    """Give the MLflow runs of what DVC has recorded its hashes as tags, so that a run leads to its files.

    Where dvc.lock is damaged, a warning says so and no more: the results do not come from there.
    """
    if not params.tracking.enabled:
        return
    try:
        hashes = {method: both for method, both in recorded(out).items() if method in params.methods}
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr)
        return
    if not hashes:
        return
    where = tracking_of(params, out)
    runs = [(experiment.run_showing(where, run.path), run.method) for run in read_runs(out, hashes, params.seeds)]
    if tags_of_run := {run: hashes[method] for run, method in runs if run is not None}:
        experiment.tag(where, tags_of_run)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def git(*arguments: str) -> str:
    """What git answers; raises `OSError` without git, `CalledProcessError` where it refuses."""
    done = subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8", errors="replace", check=True)
    return done.stdout.strip()
