"""Preparation: a benchmark's raw data become one uint8 array per task and split, with a manifest.

Needs no torch. A key of everything that went in names what is prepared, so the same options find it done.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import numpy.typing as npt

from cl.called import program
from cl.data.labels import LabelsAre, check_classes, columns_of
from cl.data.manifest import checked
from cl.errors import UserError, count
from cl.files import (
    foreign,
    from_json,
    making,
    move_aside,
    read_json,
    remove,
    sealed,
    settle,
    sha256_of,
    sweep,
    write_json,
)
from cl.locks import alone
from cl.params import Benchmark, Params
from cl.paths import expanded, outside

SCHEMA = 1
AGAIN = "prepare again (python -m flows.prepare)"
SPLITS = ("train", "validation", "test")
REDUCING = ("image_size", "train_per_class", "validation_per_class", "validation_share", "pad", "normalise")
"""Options that make a benchmark another, mostly smaller one; results say so."""
FOR_ALL = ("name", "tasks", "seed", "order", "normalise")
"""Options that mean something in every benchmark; the others are declared by those that know them."""
SECONDS_BETWEEN_LINES = 2.0
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
WORKPLACE: ContextVar[Path | None] = ContextVar("workplace", default=None)
"""The folder that is being prepared: on its disk a benchmark may make the files that `RawTask.files` names."""


Say = Callable[[str], None]


@dataclass(frozen=True)
class RawTask:
    """A task as a benchmark yields it."""

    name: str
    classes: list[str]
    splits: Mapping[str, tuple[Images, Labels]]
    """Per split: images (N, C, H, W) uint8, and labels (N,) in [0, number of classes of this task)."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What a reader of the manifest should know, for instance how many images were skipped and why."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Of a split whose images are a .npy file in `WORKPLACE` already: that file, which is moved instead of written."""


@dataclass(frozen=True)
class Format:
    """How stored bytes become numbers: (byte / scale - mean) / deviation, per channel."""

    scale: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class BenchmarkFile(Protocol):
    """What a module in `cl/data/benchmarks/` offers."""

    FORMAT: Format
    OPTIONS: frozenset[str]
    """The keys of `benchmark` that it knows, beside those of `FOR_ALL`."""
    LABELS: LabelsAre
    # SAME_NAMES = True: classes of the same name in two tasks are the same class. Without it each task has its own.

    def tasks(self, options: Benchmark, raw: Path, say: Say | None = None) -> Iterator[RawTask]:
        """Yield the tasks in the order in which they are learned; `say` shows progress."""

    def fingerprint(self, options: Benchmark, raw: Path, say: Say | None = None) -> str:
        """A string that changes with the raw data; missing data are downloaded for it."""


def benchmark_file(name: str) -> BenchmarkFile:
    """The module of the benchmark of this name."""
    return cast(BenchmarkFile, importlib.import_module(f"cl.data.benchmarks.{name.replace('-', '_')}"))


def format_of(options: Benchmark) -> Format:
    """How the benchmark's bytes become numbers."""
    usual = benchmark_file(options.name).FORMAT
    return usual if options.normalise else Format(usual.scale, (0.0,) * len(usual.mean), (1.0,) * len(usual.mean))


def prepare(options: Benchmark, raw: Path, target: Path, say: Say = print) -> Path:
    """Prepare the benchmark into `target` unless it is there already; return the manifest's path.

    The folder appears at once and whole (it is made beside and renamed), so a kill leaves nothing half done; one that
    is prepared there by another process is waited for. Raises `UserError` for data that are missing or damaged, or
    change while they are read, for an option that the benchmark does not know, for images in the target, and where
    something stands there that was not prepared.
    """
    if options.path is not None:
        outside("benchmark.path", Path(expanded(options.path)), target)
    target = Path(os.path.realpath(target)) if target.is_symlink() else target
    lock, busy = (
        target.with_name(f".{target.name}.lock"),
        f"{target}: another process is preparing there; waiting for it",
    )
    with alone(lock, lambda: say(busy), leave=False):
        return _prepare(options, raw, target, say)


def _prepare(options: Benchmark, raw: Path, target: Path, say: Say) -> Path:
    module = benchmark_file(options.name)
    check_options(options)
    manifest_path = target / "manifest.json"
    sweep(target.parent, [target.name], sure=True)
    if manifest_path.exists() and is_current(options, raw, target, say):
        say(f"prepared: {options.name} is already in {target}")
        return manifest_path
    keep_what_is_left(target, say)
    _refuse(in_the_way(target))
    started = time.monotonic()
    with making(target) as made:
        key = _key(options, raw, say)
        entries = copy_context().run(_write_all, options, raw, made, say)
        if _key(options, raw) != key:
            raise UserError(
                f"{options.path or options.name}: the files changed while they were read; run the same command again "
                "when nothing is written there any more"
            )
        numbers = format_of(options)
        shape = {tuple(entry["input_shape"]) for entry in entries}
        if len(shape) > 1:
            raise UserError(f"{options.name}: tasks differ in image shape {sorted(shape)}; set benchmark.image_size")
        manifest = {
            "schema": SCHEMA,
            "key": key,
            "benchmark": options.name,
            "options": options.model_dump(mode="json"),
            "labels": module.LABELS,
            "input_shape": list(shape.pop()),
            "scale": numbers.scale,
            "mean": list(numbers.mean),
            "deviation": list(numbers.deviation),
            "tasks": entries,
        }
        write_json(made / "manifest.json", sealed(manifest))
        _refuse(in_the_way(target))
        settle(made, target, FILES.fullmatch)
    say(f"prepared: {options.name}, {count(len(entries), 'task')} in {time.monotonic() - started:.1f} s")
    return manifest_path


def _refuse(why: str | None) -> None:
    if why is not None:
        raise UserError(why)


SHARED = re.compile(rf"manifest\.json|task-\d{{3,}}/({'|'.join(SPLITS)})-(images|labels)\.npy")
"""What a prepared folder holds of a benchmark that all seeds share."""
FILES = re.compile(rf"(seed-\d+/)?({SHARED.pattern})")
"""What it holds, also of a benchmark that each seed draws, in a folder of its own."""


def in_the_way(target: Path) -> str | None:
    """What keeps the target from being prepared, in a sentence: something there that we did not prepare."""
    away = "move it elsewhere, or give another --out"
    if not target.exists():
        return None
    if not target.is_dir():
        return f"{target}: is a file, but the prepared data need a folder there; {away}"
    stranger = foreign(target, FILES.fullmatch)
    if stranger is not None:
        return f"{stranger}: is not of the prepared data, and would be removed with them; {away}"
    if any(target.iterdir()) and not has_prepared(target):
        return f"{target}: has no manifest.json of prepared data, so it is not replaced; {away}"
    return None


def keep_what_is_left(target: Path, say: Say) -> None:
    """Move aside arrays of ours without a manifest: they cannot be trusted, and without it not be removed."""
    if is_prepared(target) or not any(target.glob("task-*/*.npy")) or foreign(target, FILES.fullmatch):
        return
    aside = move_aside(target)
    say(f"prepared: warning: {target}: its manifest.json is missing or damaged; moved to {aside.name}")


def is_prepared(folder: Path) -> bool:
    """Whether the folder has the manifest of a prepared benchmark, of this version."""
    manifest = read_json(folder / "manifest.json")
    return isinstance(manifest, dict) and manifest.get("schema") == SCHEMA and "tasks" in manifest


def has_prepared(folder: Path) -> bool:
    """Whether the folder has what was prepared for all seeds, or for each of them."""
    return any(is_prepared(place) for place in (folder, *folder.glob("seed-*")))


def remove_prepared(folder: Path, shared: bool = False) -> None:
    """Remove what was prepared there, and the folder unless there is more in it; raises `OSError`.

    `shared`: only what was prepared for all seeds together.
    """
    if is_prepared(folder) or (has_prepared(folder) and not shared):
        remove(folder, (SHARED if shared else FILES).fullmatch)


def is_current(options: Benchmark, raw: Path, target: Path, say: Say = print) -> bool:
    """Whether what is prepared there is whole, and of these options and of the raw data as they are now.

    `say` is told of damage.
    """
    try:
        manifest = read_manifest(target)
    except UserError as error:
        say(f"prepared: warning: {str(error).removesuffix(f'; {AGAIN}')}")
        return False
    if manifest["options"] != options.model_dump(mode="json"):
        return False  # said before raw data are looked at, which may have to be fetched for that
    if manifest["key"] != _key(options, raw):
        return False
    faults = damaged(target)
    if faults:
        more = f" (and {len(faults) - 1} more files)" if len(faults) > 1 else ""
        say(f"prepared: warning: {faults[0]}{more}: missing or altered")
    return not faults


def _key(options: Benchmark, raw: Path, say: Say | None = None) -> str:
    module = benchmark_file(options.name)
    of_data = module.fingerprint(options, raw, say)
    return digest([SCHEMA, options.model_dump(mode="json"), module.LABELS, of_data])


def check_options(options: Benchmark) -> None:
    """Raise `UserError` for an option that is set although the benchmark does not use it."""
    assert not options.drawn, "which seed is it?"
    known = [*FOR_ALL, *sorted(benchmark_file(options.name).OPTIONS)]
    usual = Benchmark.model_construct()
    for name in Benchmark.model_fields:
        if name not in known and getattr(options, name) != getattr(usual, name):
            raise UserError(
                f"benchmark.{name}: {options.name} has no use for it; leave it out (its keys: {', '.join(known[1:])})"
            )


def check_prepared(params: Params, folder: Path) -> None:
    """Raise `UserError` if nothing readable is prepared, or if the scenario cannot have such tasks."""
    manifest = read_manifest(folder)
    classes = {task["name"]: task["classes"] for task in manifest["tasks"]}
    check_classes(classes, params.scenario.name, manifest.get("labels", "names"))


def columns_in(manifest: Mapping[str, Any], increment: str) -> list[list[int]]:
    """For each task of a manifest, the column of each of its classes (`cl.data.labels.columns_of`)."""
    same = increment == "class" and same_names(manifest["benchmark"])
    return columns_of([task["classes"] for task in manifest["tasks"]], same)


def same_names(benchmark: str) -> bool:
    """Whether classes of the same name in two tasks of this benchmark are the same class."""
    return getattr(benchmark_file(benchmark), "SAME_NAMES", False)


def _write_all(options: Benchmark, raw: Path, folder: Path, say: Say) -> list[dict[str, Any]]:
    module = benchmark_file(options.name)
    shown = time.monotonic()
    entries: list[dict[str, Any]] = []
    WORKPLACE.set(folder)
    for index, task in enumerate(module.tasks(options, raw, say)):
        entries.append(_write(task, index, folder, format_of(options)))
        if time.monotonic() - shown > SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            counts = " + ".join(str(entries[-1]["splits"][split]["samples"]) for split in SPLITS)
            say(f"prepared: task {index + 1} {task.name}, {count(len(task.classes), 'class')}, {counts} images")
    if not entries:
        raise UserError(f"{options.name}: no tasks; check benchmark.path, benchmark.order and benchmark.tasks")
    return entries


def _write(task: RawTask, index: int, folder: Path, numbers: Format) -> dict[str, Any]:
    place = folder / f"task-{index:03d}"
    place.mkdir()
    entry: dict[str, Any] = {"name": task.name, "classes": task.classes, "splits": {}, **dict(task.notes)}
    for split in SPLITS:
        images, labels = task.splits[split]
        if len(images) == 0:
            raise UserError(f"task {task.name}: no {split} images; give it more, or its own {split} folder")
        files = {}
        for kind, array in (("images", images), ("labels", labels.astype(np.int64))):
            path = place / f"{split}-{kind}.npy"
            if kind == "images" and split in task.files:
                task.files[split].rename(path)
            else:
                _save(path, array)
            files[kind] = {
                "path": path.relative_to(folder).as_posix(),
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
        entry["splits"][split] = {"samples": len(images), **files}
        entry["input_shape"] = list(images.shape[1:])
    entry["digest"] = digest_of(entry, vars(numbers))
    return entry


def digest_of(entry: Mapping[str, Any], numbers: Mapping[str, Any]) -> str:
    """Of a task of the manifest: its name, its classes, its bytes, and how these become numbers."""
    hashes = {name: [split["images"]["sha256"], split["labels"]["sha256"]] for name, split in entry["splits"].items()}
    return digest([entry["name"], entry["classes"], hashes, numbers])


def _save(path: Path, array: Images | Labels) -> None:
    """As `np.save`, which would not say why it failed."""
    whole = np.ascontiguousarray(array)
    with writing(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(whole))
        file.write(whole.data)


@contextlib.contextmanager
def writing(path: Path, mode: str) -> Iterator[BinaryIO]:
    """Open the file to write to it; raises `UserError` where it cannot be."""
    try:
        with path.open(mode) as file:
            yield cast(BinaryIO, file)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); earlier results are intact") from None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared benchmark; raises `UserError` where there is none that is whole."""
    path = folder / "manifest.json"
    try:
        manifest = from_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: not there; run `{program('flows.compare')}` with the same options first") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {AGAIN}") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise UserError(f"{path}: not a manifest of this version; {AGAIN}")
    try:
        manifest = checked(manifest)
        numbers = {name: manifest[name] for name in ("scale", "mean", "deviation")}
        for entry in manifest["tasks"]:
            if entry["digest"] != digest_of(entry, numbers):
                raise ValueError(f"the digest of {entry['name']} is not that of what it names")
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); {AGAIN}") from None
    return manifest


def damaged(folder: Path) -> list[str]:
    """The prepared files whose bytes are not those of the manifest (missing, cut short or altered)."""
    faults = []
    for task in read_manifest(folder)["tasks"]:
        for split in task["splits"].values():
            for file in (split["images"], split["labels"]):
                path = folder / file["path"]
                if not is_whole(path, file["sha256"]):
                    faults.append(str(path))
    return faults


def is_whole(path: Path, sha256: str) -> bool:
    """Whether the file is there and has this digest."""
    return path.is_file() and sha256_of(path) == sha256


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
