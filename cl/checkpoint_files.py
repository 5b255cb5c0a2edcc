"""Checkpoint folders: files with a manifest of their hashes, so that every byte is accounted for. Needs no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from cl.errors import UserError
from cl.files import SCHEMA, foreign, from_json, making, move_aside, read_json, remove, settle, to_json, write_whole

CHECKPOINT = ("manifest.json", "net.safetensors", "record.json", "state.json", "state.safetensors")


class DamagedCheckpoint(UserError):
    """A checkpoint's file is missing, altered, or not of this run; the message names it."""


class ForeignCheckpoint(DamagedCheckpoint):
    """The checkpoint is whole, but of another run."""


def write_folder(folder: Path, files: Mapping[str, bytes], key: str) -> None:
    """Write a folder of files with a manifest of their SHA-256; it appears at once and whole.

    `key` names everything that went in; `verify` refuses a folder of another key. If there are foreign
    files in the folder, they stay, ours are replaced one by one, and it counts as damaged until the last is replaced.
    """
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    whole = {**files, "manifest.json": to_json({"schema": SCHEMA, "key": key, "files": hashes})}
    ours = _checkpoint_files(folder).__contains__
    try:
        if not folder.is_symlink() and foreign(folder, ours) is not None:
            for name in ["manifest.json", *whole]:
                if os.path.lexists(folder / name) and not (folder / name).is_file():
                    move_aside(folder / name)
            (folder / "manifest.json").unlink(missing_ok=True)
            for name, data in whole.items():
                write_whole(folder / name, data)
            return
        with making(folder) as part:
            for name, data in whole.items():
                (part / name).write_bytes(data)
            settle(part, folder, ours)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); earlier checkpoints are intact") from None


def verify(folder: Path, key: str | None = None, only: str | None = None) -> dict[str, bytes]:
    """The checkpoint's files, by name, after checking every hash; or `only` the one of this name.

    Raises `DamagedCheckpoint` naming the file that is missing or altered, `ForeignCheckpoint` where its key is another.
    """
    path = folder / "manifest.json"
    try:
        manifest = from_json(path.read_bytes())
        hashes, found_key = {str(name): str(value) for name, value in manifest["files"].items()}, manifest["key"]
        if manifest["schema"] != SCHEMA or any(Path(name).name != name for name in hashes):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DamagedCheckpoint(f"{path}: missing or damaged") from None
    if key is not None and found_key != key:
        raise ForeignCheckpoint(f"{path}: is of another run (its key is {str(found_key)[:12]}..., not {key[:12]}...)")
    if only is not None:
        hashes = {only: hashes.get(only, "")}
    files = {}
    for name, expected in hashes.items():
        try:
            files[name] = (folder / name).read_bytes()
        except (OSError, ValueError):  # a name with a NUL in it is the latter
            raise DamagedCheckpoint(f"{folder / name}: missing or unreadable") from None
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise DamagedCheckpoint(f"{folder / name}: damaged (its sha256 is not the manifest's)")
    return files


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint's files, and the folder unless there is more in it; raises `OSError`."""
    if folder.is_dir():
        remove(folder, _checkpoint_files(folder).__contains__)


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder has the manifest of a checkpoint, and is no link."""
    manifest = read_json(folder / "manifest.json")
    return not folder.is_symlink() and isinstance(manifest, dict) and manifest.keys() == {"schema", "key", "files"}


def _checkpoint_files(folder: Path) -> set[str]:
    manifest = read_json(folder / "manifest.json")
    listed = manifest.get("files") if isinstance(manifest, dict) else None
    return {*CHECKPOINT, *(listed if isinstance(listed, dict) else ())}
