"""Files that are always whole, and checkpoint folders whose every byte is accounted for. Needs no torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl.errors import UserError

SCHEMA = 1


class DamagedCheckpoint(UserError):
    """A checkpoint's file is missing, altered, or not of this run; the message names it."""


class ForeignCheckpoint(DamagedCheckpoint):
    """A checkpoint that is whole, of another run."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is always whole: beside it first, then renamed. The bytes follow from the value."""
    write_bytes(path, to_json(value))


def read_json(path: Path) -> Any:
    """The JSON in the file; None where there is no such file or no JSON in it."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is always whole: its old content or its new; raises `OSError` and leaves no rest."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """As `write_whole`; raises `UserError` naming the file where it cannot be written."""
    try:
        write_whole(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); nothing finished before is lost") from None


def write_folder(folder: Path, files: Mapping[str, bytes], key: str) -> None:
    """Write a folder of files with a manifest of their SHA-256; it appears at once and whole.

    `key` names everything that went in; `verify` refuses a folder of another key.
    """
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = {"schema": SCHEMA, "key": key, "files": hashes}
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, data in {**files, "manifest.json": to_json(manifest)}.items():
            (part / name).write_bytes(data)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(f"{folder}: cannot be written ({error.strerror}); earlier checkpoints are whole") from None


def verify(folder: Path, key: str | None = None) -> dict[str, bytes]:
    """The checkpoint's files, by name, after checking every hash.

    Raises `DamagedCheckpoint` naming the file that is missing or altered, `ForeignCheckpoint` where its key is another.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        hashes, found_key = dict(manifest["files"]), manifest["key"]
        if manifest["schema"] != SCHEMA:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise DamagedCheckpoint(f"{path}: missing or damaged") from None
    if key is not None and found_key != key:
        raise ForeignCheckpoint(f"{path}: of another run (its key is {str(found_key)[:12]}..., not {key[:12]}...)")
    files = {}
    for name, expected in hashes.items():
        try:
            files[name] = (folder / name).read_bytes()
        except OSError:
            raise DamagedCheckpoint(f"{folder / name}: missing or unreadable") from None
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise DamagedCheckpoint(f"{folder / name}: damaged (its sha256 is not the manifest's)")
    return files


def to_json(value: Any) -> bytes:
    """JSON as we write it everywhere: sorted, indented, no NaN."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
