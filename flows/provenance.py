"""Which code and which data a run came from."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import yaml

from cl.data.prepare import digest, read_manifest


def tags(out: Path) -> dict[str, str]:
    """Versions of code and data, as far as they are known here.

    git.commit (with -dirty where tracked files differ from it), dvc.data (the hash in data.dvc), data.sha256 (over
    the prepared tasks), dvc.stage (set by DVC), torch.
    """
    found = {
        "torch": version("torch"),
        "data.sha256": digest([t["digest"] for t in read_manifest(out / "prepared")["tasks"]]),
    }
    commit = git_commit()
    if commit:
        found["git.commit"] = commit
    pointer = Path("data.dvc")
    if pointer.exists():
        found["dvc.data"] = str(yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]["md5"])
    if stage := os.environ.get("DVC_STAGE"):
        found["dvc.stage"] = stage
    return found


def git_commit() -> str | None:
    """The commit checked out here, `-dirty` where tracked files differ; None outside git."""
    if not Path(".git").exists():
        return None
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
