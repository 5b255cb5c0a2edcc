"""Features: a frozen backbone turns every prepared picture into a vector, once, for all methods and seeds.

The vectors are stored in `<out>/features` as the pictures are in `<out>/prepared`: an array (N, F, 1, 1) of float32 and
one of labels for each task and split, and a manifest. The key of a split is a digest of everything that decides its
vectors, so only splits whose key has changed are made anew. Only the pass itself (`cl.data.feature_pass`) needs torch.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cl import backbones
from cl.data.feature_pass import WORK, Part, join, make_chunks
from cl.data.places import draws, of_seed, place, prepared, side
from cl.data.prepare import (
    FILES,
    SCHEMA,
    SPLITS,
    Format,
    Say,
    damaged,
    digest,
    digest_of,
    in_the_way,
    is_whole,
    keep_what_is_left,
    read_manifest,
    remove_prepared,
)
from cl.errors import UserError
from cl.files import making, remove, sealed, settle, sha256_of, sweep, write_json
from cl.imports import features_code
from cl.locks import alone
from cl.params import Params

NUMBERS = {"scale": 1.0, "mean": [0.0], "deviation": [1.0]}
"""Features are not scaled or normalised when they are read."""


def numbers(params: Params) -> Format | None:
    """The normalisation for a backbone that is trained; None where the benchmark's own applies."""
    if params.model.name != "features" or params.model.frozen:
        return None
    about = backbones.backbone(params.model.backbone)
    return Format(1.0, about.mean, about.deviation)


def extract(params: Params, out: Path, say: Say = print) -> None:
    """Make the features of the prepared pictures under `out`, of each seed that has its own, unless they exist.

    A pass that was killed is continued, and ends in the same bytes. The folder appears only when it is complete. If
    another process is making it, this one waits. Raises `UserError` if the weights are missing or wrong, if the
    backbone does not take the pictures, and if a file that this project did not make is in the way.
    """
    target = out / "features"
    busy = f"{target}: another process is making the features; waiting for it"
    with alone(out / ".features.lock", lambda: say(busy), leave=False):
        for seed in draws(params):
            folders = prepared(params, out, seed), place(params, out, seed)
            _extract(of_seed(params, seed), *folders, out / ".work" / "features", say)
        if params.benchmark.drawn:
            remove_prepared(target, shared=True)


def _extract(params: Params, source: Path, target: Path, work: Path, say: Say) -> None:
    sweep(target.parent, [target.name], sure=True)
    manifest = read_manifest(source)
    about = _about(params)
    parts = _parts(manifest, about, source)
    key = _key(params, about, manifest, parts)
    if _is_current(target, key, say):
        say(f"features: those of {about['name']} are already in {target}")
        return
    keep_what_is_left(target, say)
    if (why := in_the_way(target)) is not None:
        raise UserError(why)
    _make(params, work, target, manifest, about, parts, key, say)


def features_current(params: Params, out: Path) -> bool:
    """Whether the features of the prepared pictures are complete, undamaged and of these params."""
    try:
        check_features(params, out)
    except UserError:  # before weights are looked for, which may have to be downloaded
        return False
    about = _about(params)
    for seed in draws(params):
        source = prepared(params, out, seed)
        manifest = read_manifest(source)
        key = _key(of_seed(params, seed), about, manifest, _parts(manifest, about, source))
        if not _is_current(place(params, out, seed), key, lambda line: None):
            return False
    return True


def leave_out(out: Path) -> None:
    """Write a manifest without features, because DVC expects the output of its stage to exist."""
    target = out / "features"
    with alone(out / ".features.lock", lambda: None, leave=False):
        sweep(out, [target.name], sure=True)
        if (why := in_the_way(target)) is not None:
            raise UserError(why)
        with making(target) as made:
            write_json(made / "manifest.json", sealed({"schema": SCHEMA, "tasks": [], "backbone": None}))
            settle(made, target, FILES.fullmatch)


def check_features(params: Params, out: Path) -> None:
    """Raise `UserError` unless the features to learn from exist and are of these params."""
    if not params.model.on_features:
        return
    wanted = {"name": params.model.backbone, "image_size": side(params)}
    for seed in draws(params):
        where = place(params, out, seed)
        of = read_manifest(where).get("backbone") or {}
        seen = digest([task["digest"] for task in read_manifest(prepared(params, out, seed))["tasks"]])
        if any(of.get(name) != value for name, value in wanted.items()) or of.get("pictures") != seen:
            raise UserError(
                f"{where}: these are of other pictures or another backbone; make them again: python -m flows.features"
            )


def _about(params: Params) -> dict[str, Any]:
    """Everything besides the pictures that decides the features."""
    from cl.nets.pretrained import checksum

    name = params.model.backbone
    return {"name": name, "image_size": side(params), "weights": checksum(params.model), "code": features_code()}


def _parts(manifest: Mapping[str, Any], about: Mapping[str, Any], folder: Path) -> list[Part]:
    parts = []
    for index, task in enumerate(manifest["tasks"]):
        for split in SPLITS:
            entry = task["splits"][split]
            images = entry["images"]
            key = digest([about, manifest["scale"], images["sha256"]])
            parts.append(Part(index, split, folder / images["path"], images["sha256"], entry["samples"], key))
    return parts


def _key(params: Params, about: Mapping[str, Any], manifest: Mapping[str, Any], parts: Sequence[Part]) -> str:
    options = params.benchmark.model_dump(mode="json")
    return digest([SCHEMA, about, [part.key for part in parts], manifest["key"], options])


def _is_current(target: Path, key: str, say: Say) -> bool:
    if not (target / "manifest.json").exists():
        return False
    try:
        if read_manifest(target)["key"] != key:
            return False
    except UserError:
        return False  # it is damaged, or no features were needed
    faults = damaged(target)
    if faults:
        more = f" (and {len(faults) - 1} more files)" if len(faults) > 1 else ""
        say(f"features: warning: {faults[0]}{more}: missing or altered")
    return not faults


def _make(
    params: Params,
    work: Path,
    target: Path,
    manifest: Mapping[str, Any],
    about: Mapping[str, Any],
    parts: Sequence[Part],
    key: str,
    say: Say,
) -> None:
    started = time.monotonic()
    kept = _kept(target)
    missing = list({part.key: part for part in parts if part.key not in kept}.values())
    make_chunks(params, side(params), float(manifest["scale"]), missing, work, say)
    with making(target) as made:
        entries = [
            {**task, "splits": {split: dict(task["splits"][split]) for split in SPLITS}} for task in manifest["tasks"]
        ]
        for part in parts:
            entry, folder = entries[part.task], made / f"task-{part.task:03d}"
            folder.mkdir(exist_ok=True)
            vectors, labels = folder / f"{part.split}-images.npy", folder / f"{part.split}-labels.npy"
            if part.key in kept:
                _take_over(kept[part.key], vectors)
            else:
                join(part, work, vectors)
            shutil.copyfile(part.images.with_name(labels.name), labels)
            entry["splits"][part.split] |= {
                "key": part.key,
                "images": _file(vectors, made),
                "labels": _file(labels, made),
            }
            entry["input_shape"] = list(np.load(vectors, mmap_mode="r", allow_pickle=False).shape[1:])
        for entry in entries:
            entry["digest"] = digest_of(entry, NUMBERS)
        backbone = {**about, "pictures": digest([task["digest"] for task in manifest["tasks"]])}
        written = {**manifest, **NUMBERS, "key": key, "options": params.benchmark.model_dump(mode="json")}
        written |= {"input_shape": entries[0]["input_shape"], "tasks": entries, "backbone": backbone}
        write_json(made / "manifest.json", sealed(written))
        settle(made, target, FILES.fullmatch)
    remove(work, WORK.fullmatch)
    count, there = sum(part.count for part in missing), sum(part.count for part in parts if part.key in kept)
    seconds, more = time.monotonic() - started, f", {there:,} were there" if there else ""
    say(f"features: {about['name']}, {count:,} pictures in {seconds:.1f} s{more}")


def _kept(target: Path) -> dict[str, Path]:
    """The undamaged vectors that exist already, by their keys."""
    try:
        tasks = read_manifest(target)["tasks"]
    except UserError:
        return {}
    splits = [split for task in tasks for split in task["splits"].values()]
    files = {split.get("key", ""): (target / split["images"]["path"], split["images"]["sha256"]) for split in splits}
    return {key: path for key, (path, sha256) in files.items() if is_whole(path, sha256)}


def _take_over(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # the file system has no hard links
        shutil.copyfile(old, new)


def _file(path: Path, folder: Path) -> dict[str, Any]:
    return {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
