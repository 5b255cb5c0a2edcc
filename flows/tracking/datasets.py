"""The prepared data of a run as MLflow shows datasets, with the digests that decide what a run learns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl.data.places import prepared
from cl.data.prepare import digest, has_prepared, read_manifest
from cl.params import Params

DIGEST_LENGTH, NAME_LENGTH = 36, 500
"""What MLflow takes at most."""
WHOLE = ""
"""Names the data of all tasks together."""


@dataclass(frozen=True)
class Dataset:
    """Some prepared data, in the words of `mlflow.data`."""

    name: str
    digest: str
    """The first characters of ours: of a task as in the manifest, of all tasks the tag `data.sha256`."""
    source: str
    schema: str
    profile: str
    """How many images there are for what, as JSON."""


Datasets = Callable[[int], Mapping[str, Dataset]]
"""By task and, as `WHOLE`, of all of them: the data that a run with this seed learns from."""


def datasets_of(params: Params, out: Path) -> Datasets:
    """The data of these params, as they are prepared under `out`; none where nothing is prepared there."""
    known: dict[Path, dict[str, Dataset]] = {}

    def of(seed: int) -> Mapping[str, Dataset]:
        folder = prepared(params, out, seed)
        if folder not in known:
            known[folder] = _read(folder) if has_prepared(folder) else {}
        return known[folder]

    return of


def _read(folder: Path) -> dict[str, Dataset]:
    manifest = read_manifest(folder)
    tasks: list[dict[str, Any]] = manifest["tasks"]
    benchmark = str(manifest["benchmark"])
    found = {WHOLE: _dataset(benchmark, digest([task["digest"] for task in tasks]), folder, tasks)}
    return found | {
        task["name"]: _dataset(f"{benchmark}/{task['name']}", task["digest"], folder, [task]) for task in tasks
    }


def _dataset(name: str, sha256: str, folder: Path, tasks: list[dict[str, Any]]) -> Dataset:
    counts = {kind: sum(task["splits"][kind]["samples"] for task in tasks) for kind in tasks[0]["splits"]}
    profile = {"tasks": len(tasks)} if len(tasks) > 1 else {"classes": len(tasks[0]["classes"])}
    profile |= {f"{kind} images": count for kind, count in counts.items()}
    return Dataset(
        name=name[:NAME_LENGTH],
        digest=sha256[:DIGEST_LENGTH],
        source=json.dumps({"uri": folder.as_posix()}),
        schema=_schema(tasks[0]["input_shape"]),
        profile=json.dumps(profile),
    )


def _schema(shape: list[int]) -> str:
    """Images (N, C, H, W) and labels (N,), in MLflow's form of a schema of tensors."""
    images, labels = ("uint8", [-1, *shape]), ("int64", [-1])
    columns = ([{"type": "tensor", "tensor-spec": {"dtype": d, "shape": s}}] for d, s in (images, labels))
    features, targets = map(json.dumps, columns)
    return json.dumps({"mlflow_tensorspec": {"features": features, "targets": targets}})
