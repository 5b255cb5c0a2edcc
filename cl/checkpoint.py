"""A model and a method's state as a checkpoint folder: tensors in safetensors, the rest in JSON. No pickle, ever."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from cl.checkpoint_files import DamagedCheckpoint, verify, write_folder
from cl.files import from_json, to_json
from cl.train import Snapshot


def save(folder: Path, snapshot: Snapshot, record: Mapping[str, Any], key: str) -> None:
    """Write a checkpoint folder, at once and whole; a load under another `key` is refused.

    Tensors that are not where the network is (stored images in main memory, beside a network on a GPU) are marked.
    """
    tensors: dict[str, Tensor] = {}
    home = next(iter(snapshot.net.values())).device.type
    outline = _outline(snapshot.state, "", tensors, home)
    if home != "cpu":
        outline["device"] = home
    files = {
        "net.safetensors": save_tensors({name: t.contiguous().cpu() for name, t in snapshot.net.items()}),
        "state.safetensors": save_tensors(tensors),
        "state.json": to_json(outline),
        "record.json": to_json(record),
    }
    write_folder(folder, files, key)


def load(folder: Path, key: str | None = None, device: torch.device | None = None) -> tuple[Snapshot, dict[str, Any]]:
    """Read a checkpoint back: (network and method state, record); raises `DamagedCheckpoint`.

    `device`: where learning continues, of the same kind as before; None: to use the model, on the CPU.
    """
    files = verify(folder, key)
    try:
        outline = from_json(files["state.json"])
        home = outline.get("device", "cpu")
        if device is not None and device.type != home:
            raise DamagedCheckpoint(f"{folder}: learned on {home}, so learning cannot continue on {device.type}")
        there = device or torch.device("cpu")
        net = {name: t.to(there) for name, t in load_tensors(files["net.safetensors"]).items()}
        state = _fill(outline, load_tensors(files["state.safetensors"]), there)
        return Snapshot(net, state), from_json(files["record.json"])
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{folder}: not a checkpoint of this version ({error})") from None


def state_bytes(value: Any) -> int:
    """Bytes of the tensors in a method's state."""
    tensors: dict[str, Tensor] = {}
    _outline(value, "", tensors)
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _outline(value: Any, path: str, tensors: dict[str, Tensor], home: str = "cpu") -> Any:
    """The value with each tensor replaced by a reference, the tensors gathered by path; `home`: the network's device.

    Raises `TypeError` for what a method's state may not hold.
    """
    if isinstance(value, Tensor):
        tensors[path] = value.detach().contiguous().cpu()
        return {"tensor": path} if value.device.type == home else {"tensor": path, "stays": True}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": [[key, _outline(below, f"{path}/{key}", tensors, home)] for key, below in value.items()]}
    if isinstance(value, list):
        return {"list": [_outline(below, f"{path}/{i}", tensors, home) for i, below in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"state{path}: {type(value).__name__} cannot be kept; a method's state is made of tensors, numbers, strings, "
        "None, lists, and dicts with string keys"
    )


def _fill(outline: Any, tensors: dict[str, Tensor], device: torch.device) -> Any:
    if not isinstance(outline, dict):
        return outline
    if "tensor" in outline:
        return tensors[outline["tensor"]].to("cpu" if outline.get("stays") else device)
    if "dict" in outline:
        return {key: _fill(below, tensors, device) for key, below in outline["dict"]}
    return [_fill(below, tensors, device) for below in outline["list"]]
