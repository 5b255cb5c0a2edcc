"""Files that are always whole, and checkpoint folders whose every byte is accounted for. Needs no torch."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cl.errors import UserError

SCHEMA = 1
SEAL = "sha256"
DEEPEST = 64
"""Levels of lists and objects in a JSON file; ours have no more than ten."""


class DamagedCheckpoint(UserError):
    """A checkpoint's file is missing, altered, or not of this run; the message names it."""


class ForeignCheckpoint(DamagedCheckpoint):
    """A checkpoint that is whole, of another run."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is always whole: beside it first, then renamed. The bytes follow from the value."""
    write_bytes(path, to_json(value))


def read_json(path: Path) -> Any:
    """The JSON in the file; None where there is no such file or no JSON as `from_json` takes it."""
    try:
        return from_json(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError):
        return None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file; empty where there is none."""
    found = read_json(path)
    return found if isinstance(found, dict) else {}


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


def make_way(path: Path, warn: Callable[[str], None], folder: bool = False) -> None:
    """Move away what is no file (or no folder) where one of ours belongs; nothing is removed, and `warn` is told."""
    if not os.path.lexists(path) or (path.is_dir() if folder else path.is_file()):
        return
    number = next(n for n in itertools.count(1) if not os.path.lexists(f"{path}.aside-{n}"))
    warn(f"{path}: in the way of {'a folder' if folder else 'a file'} of ours; moved to {path.name}.aside-{number}")
    path.rename(f"{path}.aside-{number}")


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
        raise ForeignCheckpoint(f"{path}: of another run (its key is {str(found_key)[:12]}..., not {key[:12]}...)")
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


def to_json(value: Any) -> bytes:
    """JSON as we write it everywhere: sorted, indented, no NaN."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def from_json(data: bytes) -> Any:
    """What `to_json` may have written, also by other hands.

    Raises `ValueError`, saying what is wrong, also for what Python alone takes: NaN and numbers too large for one, a
    name that stands twice, text that is no Unicode, and nesting deeper than `DEEPEST`.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_named_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one)
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
            elif isinstance(one, float) and not math.isfinite(one):
                raise ValueError("a number is too large")
            elif isinstance(one, str) and not one.isascii():
                one.encode()  # half of a surrogate pair: a UnicodeEncodeError, which is a ValueError
        if not below:
            return value
        level = below
    raise ValueError("nested too deeply")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"{next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)!r} stands twice")
    return found


# A seal: the digest of all the rest, in the object itself.


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object with the SHA-256 of all that is in it, by which `unsealed` knows it again."""
    return {**value, SEAL: hashlib.sha256(to_json(dict(value))).hexdigest()}


def unsealed(value: Any) -> dict[str, Any] | None:
    """What was sealed; None for anything else, and where anything in it is not as it was."""
    if not isinstance(value, dict):
        return None
    rest = {name: part for name, part in value.items() if name != SEAL}
    return rest if value.get(SEAL) == sealed(rest)[SEAL] else None
