"""Which code and data a run came from, and where its results are: git, DVC and MLflow point at each other.

    python -m flows.provenance [--out DIR]

prints, by method, the hashes under which DVC keeps what is in `<out>/results` and `<out>/checkpoints`, the git commit
that records them, and the MLflow runs that show them. Those runs have the hashes as tags: `point` writes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import yaml

from cl import cli
from cl.data.prepare import digest, read_manifest
from cl.errors import UserError
from cl.params import Params
from cl.reading import Run, read_runs
from flows import tracking
from flows.deadline import finish
from flows.follower import tracking_of

LOCK, DATA = Path("dvc.lock"), Path("data.dvc")
ROOMS = ("prepared", "results", "checkpoints", "report")
"""Of the output folder, what DVC keeps."""


def tags(out: Path) -> dict[str, str]:
    """Versions of code and data, as far as they are known here.

    git.commit (with -dirty where tracked files differ from it), dvc.data (the hash in data.dvc, unless the images are
    read from elsewhere), data.sha256 (over the prepared tasks), dvc.stage and dvc.experiment (set by DVC), torch.
    Raises `UserError` where data.dvc is damaged.
    """
    manifest = read_manifest(out / "prepared")
    found = {"torch": version("torch"), "data.sha256": digest([task["digest"] for task in manifest["tasks"]])}
    commit = git_commit()
    if commit:
        found["git.commit"] = commit
    if DATA.exists() and manifest["options"].get("path") is None and (hashes := _kept(DATA)):
        found["dvc.data"] = next(iter(hashes.values()))
    for tag, variable in (("dvc.stage", "DVC_STAGE"), ("dvc.experiment", "DVC_EXP_NAME")):
        if value := os.environ.get(variable):
            found[tag] = value
    return found


def git_commit() -> str | None:
    """The commit checked out here, `-dirty` where tracked files differ; None outside git.

    Not so where only dvc.lock differs, which DVC rewrites after each stage: it says what was made, not of what.
    """
    if not Path(".git").exists():
        return None
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){LOCK}")
        return head + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def recordable(out: Path) -> None:
    """Where DVC runs this as one of its stages: raise `UserError` if it will not record what the stage is to make.

    It would say so itself, but after the work.
    """
    if "DVC_STAGE" not in os.environ:
        return
    settings = [path.read_text(encoding="utf-8") for path in Path(".dvc").glob("config*") if path.is_file()]
    if any("no_scm = true" in text for text in settings):
        return
    try:
        root = Path(_git("rev-parse", "--show-toplevel"))
        tracked = _git("ls-files", "--", *(str(out / room) for room in ROOMS)).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return
    if not out.resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{out}: leads to {out.resolve()}, out of the git repository, and DVC records nothing there; "
            f"have a folder in its place, or run python -m flows.compare --out {out}, which needs no DVC"
        )
    if tracked:
        raise UserError(
            f"{tracked[0]}: tracked by git, so DVC would refuse to keep it; run git rm -r --cached {out} and commit"
        )


def recorded(out: Path) -> dict[str, dict[str, str]]:
    """By method, the hashes `dvc.results` and `dvc.checkpoints` in dvc.lock, where that has the results as they are.

    The results are looked at and speak for the checkpoints, which may be large: DVC records the outputs of a stage
    together, and the times among the results tell every run from every other. Raises `UserError` where dvc.lock is
    damaged.
    """
    if not LOCK.exists():
        return {}
    known = {path.absolute(): md5 for path, md5 in _kept(LOCK).items()}
    found = {}
    for results in sorted((out / "results").absolute().glob("*/")):
        checkpoints = (out / "checkpoints" / results.name).absolute()
        if checkpoints in known and known.get(results) == folder_hash(results):
            found[results.name] = {"dvc.results": known[results], "dvc.checkpoints": known[checkpoints]}
    return found


def _kept(file: Path) -> dict[Path, str]:
    """The outputs in a file of DVC's, each with its hash; raises `UserError` where the file is damaged."""
    try:
        read = yaml.safe_load(file.read_bytes())
        stages = read["stages"].values() if "stages" in read else [read]
        return {Path(kept["path"]): str(kept["md5"]) for stage in stages for kept in stage.get("outs", ())}
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        remedy = f"git checkout {file} brings back the committed one"
        raise UserError(f"{file}: damaged, or half of a merge; {remedy}") from None


def folder_hash(folder: Path) -> str:
    """What DVC calls a folder: the md5 of a list of its files, each with its own md5, as JSON; and `.dir`."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    entries = [{"md5": _md5(files[name].read_bytes()), "relpath": name} for name in sorted(files)]
    return f"{_md5(json.dumps(entries, sort_keys=True).encode())}.dir"


def point(params: Params, out: Path) -> None:
    """Tag the MLflow runs of what DVC has recorded with its hashes, so that a run leads to its files.

    Where dvc.lock is damaged it says so and leaves it at that: the results do not come from there.
    """
    if not params.tracking.enabled:
        return
    try:
        hashes = {method: found for method, found in recorded(out).items() if method in params.methods}
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr)
        return
    if not hashes:
        return
    where = tracking_of(params, out)
    runs = [(tracking.run_showing(where, run.path), run.method) for run in read_runs(out, hashes, params.seeds)]
    if told := {run: hashes[method] for run, method in runs if run is not None}:
        tracking.tag(where, told)


def describe(params: Params, out: Path) -> str:
    """Where every method's results come from and where else they are, as lines for a person."""
    where = tracking_of(params, out)
    served = where.target if (where.uri or "").startswith("http") else None  # without a password
    lines = ["here"]
    if (out / "prepared").exists():
        lines += [f"  {name:16} {value}" for name, value in sorted(tags(out).items())]
    hashes = recorded(out)
    runs = read_runs(out, params.methods, params.seeds)
    for method in sorted({run.method for run in runs}):
        lines.append(method)
        if method in hashes:
            lines += [f"  {name:16} {value}" for name, value in hashes[method].items()]
            lines.append(f"  {LOCK!s:16} {_commit_with(hashes[method]['dvc.results'])}")
        else:
            lines.append(f"  {LOCK!s:16} does not have these results")
        ids = _mlflow_runs(params, where, [run for run in runs if run.method == method], hashes.get(method, {}))
        page = tracking.comparison_url(served or "http://127.0.0.1:5000", where).split("?")[0]
        lines += [f"  {seed:16} {f'{page}/{run}' if run else 'no run in this MLflow'}" for seed, run in ids.items()]
    if params.tracking.enabled and not served and where.database.exists():
        lines += ["MLflow's pages are there while this runs:", f"  {tracking.ui_command(where)}"]
    return "\n".join(lines)


def _mlflow_runs(
    params: Params, where: tracking.Tracking, runs: list[Run], hashes: dict[str, str]
) -> dict[str, str | None]:
    """By seed, the id of the run in MLflow: of what was learned here, or on a server, of what somebody else learned."""
    if not params.tracking.enabled:
        return {}
    found = {f"seed-{run.seed}": tracking.run_showing(where, run.path) for run in runs}
    if where.uri and hashes and None in found.values():
        theirs = tracking.tagged(where, "dvc.results", hashes["dvc.results"])
        found = {seed: run or theirs.get(f"{runs[0].method}/{seed}") for seed, run in found.items()}
    return found


def _commit_with(md5: str) -> str:
    """The first commit whose dvc.lock has this hash, of this branch or, where none has, of any and of experiments."""
    try:
        for history in ("HEAD", "--all"):
            found = _git("log", history, "--reverse", "--format=%h %<(60,trunc)%s", f"-S{md5}", "--", str(LOCK))
            if found:
                return f"of commit {found.splitlines()[0].strip()}"
    except (OSError, subprocess.CalledProcessError):
        return "without git"
    return f"not committed yet: git add {LOCK} && git commit"


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8", errors="replace", check=True)
    return done.stdout.strip()


def main() -> int:
    """Say where the results come from and where they are kept: git commits, DVC's hashes, MLflow's runs."""
    given = cli.parser("flows.provenance", main.__doc__).parse_args()
    print(describe(cli.params_of(given), given.out))
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
