"""Atomic saves and verified loads of JSON files and of checkpoint folders. No pickle, ever."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from cl.errors import UserError
from cl.train import Snapshot

SCHEMA = 1


class DamagedCheckpoint(UserError):
    """A checkpoint's file is missing, altered, or not of this run; the message names it."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is always whole: beside it first, then renamed. The bytes follow from the value."""
    write_bytes(path, _json(value))


def read_json(path: Path) -> Any:
    """The JSON in the file; None where there is no such file or no JSON in it."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is always whole; raises `UserError` naming it where it cannot be written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror}); nothing finished before is lost") from None


def save(folder: Path, snapshot: Snapshot, record: dict[str, Any], key: str) -> None:
    """Write a checkpoint folder: tensors in safetensors, the rest in JSON, and a manifest with the SHA-256 of each.

    `key` names everything that went in; a load under another key is refused. The folder appears at once and whole.
    """
    tensors: dict[str, Tensor] = {}
    outline = _outline(snapshot.state, "", tensors)
    files = {
        "net.safetensors": save_tensors({name: t.contiguous().cpu() for name, t in snapshot.net.items()}),
        "state.safetensors": save_tensors(tensors),
        "state.json": _json(outline),
        "record.json": _json(record),
    }
    manifest = {
        "schema": SCHEMA,
        "key": key,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, data in {**files, "manifest.json": _json(manifest)}.items():
            (part / name).write_bytes(data)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(f"{folder}: cannot be written ({error.strerror}); earlier checkpoints are whole") from None


def verify(folder: Path, key: str | None = None) -> dict[str, bytes]:
    """The checkpoint's files, by name, after checking every hash.

    Raises `DamagedCheckpoint` naming the file that is missing, altered or of another run.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        hashes, found_key = manifest["files"], manifest["key"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DamagedCheckpoint(f"{path}: missing or damaged") from None
    if key is not None and found_key != key:
        raise DamagedCheckpoint(f"{path}: of another run (its key is {str(found_key)[:12]}..., not {key[:12]}...)")
    files = {}
    for name, expected in hashes.items():
        try:
            files[name] = (folder / name).read_bytes()
        except OSError:
            raise DamagedCheckpoint(f"{folder / name}: missing or unreadable") from None
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise DamagedCheckpoint(f"{folder / name}: damaged (its sha256 is not the manifest's)")
    return files


def load(folder: Path, key: str | None = None, device: torch.device | None = None) -> tuple[Snapshot, dict[str, Any]]:
    """Read a checkpoint back: (network and method state, record); raises `DamagedCheckpoint`."""
    files = verify(folder, key)
    device = device or torch.device("cpu")
    try:
        net = {name: t.to(device) for name, t in load_tensors(files["net.safetensors"]).items()}
        tensors = {name: t.to(device) for name, t in load_tensors(files["state.safetensors"]).items()}
        state = _fill(json.loads(files["state.json"]), tensors)
        return Snapshot(net, state), json.loads(files["record.json"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedCheckpoint(f"{folder}: not a checkpoint of this version ({error})") from None


def state_bytes(value: Any) -> int:
    """Bytes of the tensors in a method's state."""
    tensors: dict[str, Tensor] = {}
    _outline(value, "", tensors)
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _outline(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The value with each tensor replaced by a reference, the tensors gathered by path.

    Raises `TypeError` for what a method's state may not hold.
    """
    if isinstance(value, Tensor):
        tensors[path] = value.detach().contiguous().cpu()
        return {"tensor": path}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": [[key, _outline(below, f"{path}/{key}", tensors)] for key, below in value.items()]}
    if isinstance(value, list):
        return {"list": [_outline(below, f"{path}/{i}", tensors) for i, below in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"state{path}: {type(value).__name__} cannot be kept; a method's state is made of tensors, numbers, strings, "
        "None, lists, and dicts with string keys"
    )


def _fill(outline: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(outline, dict):
        return outline
    if "tensor" in outline:
        return tensors[outline["tensor"]]
    if "dict" in outline:
        return {key: _fill(below, tensors) for key, below in outline["dict"]}
    return [_fill(below, tensors) for below in outline["list"]]
