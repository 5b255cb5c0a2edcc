"""What decides a run's bytes, the keys that are made of it, and which checkpoints hold for them.

The name of a run's work folder is a key of everything that decides its bytes, except the data; `unit.json` in the
folder lists it. The key of a checkpoint names the data of the tasks up to it as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cl.checkpoint_files import DamagedCheckpoint, verify, write_folder
from cl.data.places import place
from cl.data.prepare import digest, read_manifest
from cl.files import read_object, sha256_unless_changed
from cl.imports import code_of
from cl.names import PACKAGE
from cl.params import Params
from cl.register import declares
from cl.renamed import with_new_keys
from cl.work import RUN, copy_cost

UPGRADES = ("code.", "torch")
"""Parts that an upgrade of this package or of torch changes, and the user did not."""


def parts_of(params: Params, method: str, seed: int) -> dict[str, Any]:
    """Everything that decides a run's bytes, by name, but for the data (each checkpoint names those itself)."""
    sections = ("model", "training", "selection")
    return {
        "code": _code(method),
        "torch": version("torch"),
        **{section: getattr(params, section).model_dump(mode="json") for section in sections},
        "scenario": params.scenario.model_dump(exclude={"unsupported"}),
        "methods": {method: {name: _plain(value) for name, value in params.methods[method].items()}},
        "memory_budget": params.memory_budget,
        **_weights(params),
        "seed": seed,
        **({"benchmark": params.benchmark.title} if params.benchmark.drawn else {}),  # its result says so
        "device": params.execution.device,
    }


def _code(method: str) -> dict[str, str]:
    """SHA-256 of each file that decides a run of the method."""
    return {file: hashlib.sha256((PACKAGE / file).read_bytes()).hexdigest() for file in code_of(method)}


def _plain(value: Any) -> Any:
    """A knob however it is written: 400 for 400.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _weights(params: Params) -> dict[str, str]:
    """What is in the file that the network starts from, where it starts from one."""
    path = Path(params.model.weights or "")
    return {"weights": sha256_unless_changed(path)} if path.is_file() else {}


def run_key(params: Params, method: str, seed: int) -> str:
    """The digest of `parts_of`."""
    return digest(parts_of(params, method, seed))


def first_task_key(params: Params, method: str, seed: int, decides: Sequence[str]) -> str:
    """Names what decides the trials of the first task, if the method shares them with plain finetuning.

    `decides`: what else does, such as the data.
    """
    parts = parts_of(params, method, seed)
    apart = {"methods", "memory_budget", "selection", "benchmark"}
    return digest(
        [{name: part for name, part in parts.items() if name not in apart} | {"code": _code("finetune")}, *decides]
    )


def run_folder(params: Params, method: str, seed: int, out: Path) -> Path:
    """Where the run keeps its checkpoints and its journal of trials while it runs, and afterwards."""
    return out / ".work" / method / f"seed-{seed}" / run_key(params, method, seed)[:16]


def shared_folder(out: Path) -> Path:
    """Where the trials are that several runs have in common; no method has this name."""
    return out / ".work" / "first-task"


def chain_key(key: str, stages: Sequence[str]) -> str:
    """Names all that went into a model: the run of this key, and the data of what it has learned, by their digests."""
    return digest([key, list(stages)])


def chain(parts: Mapping[str, Any], tasks: Sequence[str], at_once: bool) -> list[str]:
    """The key of the checkpoint after each stage: the run's parts, and the digests of the tasks up to there."""
    stages = [digest(list(tasks))] if at_once else list(tasks)
    key = digest(parts)
    return [chain_key(key, stages[: index + 1]) for index in range(len(stages))]


def learned(folder: Path, keys: Sequence[str]) -> int:
    """How many checkpoints of the folder, from the first on, have these keys."""
    for index, key in enumerate(keys):
        if read_object(folder / f"task-{index:03d}" / "manifest.json").get("key") != key:
            return index
    return len(keys)


def earlier(folder: Path) -> Iterator[Path]:
    """Work folders of the same method and seed in which something was learned, the latest first."""
    others = [path.parent for path in folder.parent.glob(f"*/{RUN}") if path.parent != folder]
    yield from sorted((p for p in others if (p / "task-000").exists()), key=lambda p: -p.stat().st_mtime)


def noted(folder: Path) -> dict[str, Any]:
    """The parts of the run of this work folder, as noted there; empty where the note is missing or damaged."""
    parts = read_object(folder / RUN)
    return parts if digest(parts).startswith(folder.name) else {}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two runs' parts, in words."""
    a, b = _flat(with_new_keys(dict(before))), _flat(now)
    names = [name for name in sorted({*a, *b}) if a.get(name) != b.get(name)]
    unset = "as declared"
    return [f"{n} changed" if n.startswith("code.") else f"{n}: {a.get(n, unset)} -> {b.get(n, unset)}" for n in names]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def adopt(params: Params, method: str, seed: int, out: Path) -> int:
    """Take over the checkpoints of this run that another version of the code, or of torch, has learned.

    Everything else that decides its bytes has to be the same, and the data of the tasks. What comes of it need not be
    what this version would have learned from the start, which is why it is only done when asked for
    (`execution.after_upgrade: continue`). Returns how many tasks were taken over.
    """
    at_once = declares(method, "sees_all_tasks")
    parts = parts_of(params, method, seed)
    folder = run_folder(params, method, seed, out)
    tasks = [task["digest"] for task in read_manifest(place(params, out, seed))["tasks"]]
    keys = chain(parts, tasks, at_once)
    if learned(folder, keys) > 0:
        return 0
    for other in earlier(folder):
        theirs = noted(other)
        if any(not said.startswith(UPGRADES) for said in differences(theirs, parts)):
            continue
        old = chain(theirs, tasks, at_once)
        count = learned(other, old)
        for index in range(count):
            name = f"task-{index:03d}"
            try:
                write_folder(folder / name, verify(other / name, old[index]), keys[index])
            except DamagedCheckpoint:
                return index
            copy_cost(other, folder, index)
        if count:
            return count
    return 0
