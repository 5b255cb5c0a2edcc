"""folder: your own images, in folders `<task>/<class>/<image>` under `benchmark.path`.

A task may bring its own `train`, `test` and `val` (or `validation`) folders with the classes below them; else it is
split here. Which split an image goes to follows from the benchmark's seed and the names of its task, its class and
itself: what is added elsewhere moves nothing. A class folder of the same name in two tasks is the same class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from cl.data.images import IMAGENET, OF_IMAGES, SHOWN, File, Listing, raw_tasks
from cl.data.images import fingerprint as fingerprint_of
from cl.data.labels import LabelsAre
from cl.data.prepare import SPLITS, RawTask, Say
from cl.data.source import entries, is_output
from cl.data.subsets import chosen, composed, share_of
from cl.errors import UserError, brief, count
from cl.params import Benchmark
from cl.paths import expanded
from cl.rng import seed_of

__all__ = ["FORMAT", "LABELS", "OPTIONS", "SAME_NAMES", "fingerprint", "task_folders", "tasks"]
FORMAT = IMAGENET
OPTIONS = OF_IMAGES
LABELS: LabelsAre = "names"
SAME_NAMES = True
IMAGE_SIZE = 32
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.2
"""Of what is not test, as in the survey."""
SPLIT_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
LONG = 60
"""Letters of a name in a message."""


def tasks(options: Benchmark, raw: Path, say: Say | None = None) -> Iterator[RawTask]:
    """Yield the folders of `options.path` as tasks, sorted by name or as `options.order` says.

    Images are (3, S, S), S = `options.image_size` (default 32). Raises `UserError` for a tree that is not as
    described above, naming the folder, and for bad images as `options.on_bad_image` says.
    """
    del raw
    root = _root(options)
    size = options.image_size or IMAGE_SIZE
    yield from raw_tasks(root, _listings(root, options, say), size, options.on_bad_image, say)


def fingerprint(options: Benchmark, raw: Path, say: Say | None = None) -> str:
    """Changes when a file of the chosen tasks does, or another takes its place."""
    del raw, say
    root = _root(options)
    return fingerprint_of(root, _listings(root, options))


def task_folders(root: Path) -> dict[str, str]:
    """The folder of each task, by the task's name; raises `UserError` where the root cannot be read."""
    return _called(root, _entries(root)[0])


def _root(options: Benchmark) -> Path:
    if options.path is None:
        raise UserError("benchmark.path: the benchmark 'folder' needs it: the root of <task>/<class>/<image>")
    return Path(expanded(options.path))


def _listings(root: Path, options: Benchmark, say: Say | None = None) -> list[Listing]:
    tasks = task_folders(root)
    passed = [name for name in entries(root)[0] if name not in tasks.values()]
    if passed and say is not None:
        say(f"{root}: {_some(passed)} passed over: results of a run, not images")
    if not tasks:
        raise UserError(f"benchmark.path: no folders in {root}; it has to be the root of <task>/<class>/<image>")
    if {"train", "test"} <= set(tasks) <= set(SPLIT_FOLDERS):
        raise UserError(_one_task(root, f"the splits {_some(list(tasks))}"))
    if _all_flat(root):
        raise UserError(_one_task(root, f"class folders ({_some(list(tasks))})"))
    found = [_listing(root, tasks[name], options, say) for name in chosen(list(tasks), options, where=root)]
    for listing in found:
        others = {name for other in found if other is not listing for name in other.classes}
        if len(listing.classes) < 2 and not others.intersection(listing.classes):
            raise UserError(
                f"{root / tasks[listing.name]}: 1 class; a task needs two at least to tell apart, unless another task "
                "has the class too"
            )
    return found


def _one_task(root: Path, holding: str) -> str:
    parent = root.parent if root.name else root.absolute().parent
    return (
        f"benchmark.path: {root} holds {holding}, so it looks like one task; give its parent, "
        f"benchmark.path={parent}, with a folder for each task"
    )


def _listing(root: Path, task: str, options: Benchmark, say: Say | None) -> Listing:
    splits = _split_folders(root / task)
    trees = {split: _tree(root, f"{task}/{name}") for name, split in splits.items()} or {"all": _tree(root, task)}
    classes = sorted(set().union(*trees.values()))
    for split, tree in trees.items():
        if missing := [name for name in classes if name not in tree]:
            near = sorted(name for name in tree if name.casefold() in {other.casefold() for other in missing})
            hint = f" (it has {_some(near)}: write them in one way)" if near else ""
            raise UserError(f"{root / task}: its {split} folder lacks {_some(missing)}, which other splits have{hint}")
    alike = [name for name in classes if [other.casefold() for other in classes].count(name.casefold()) > 1]
    if alike and say is not None:
        say(f"{root / task}: the classes {_some(alike)} differ in capital letters alone; they count as different")
    files: dict[str, list[File]] = {split: [] for split in SPLITS}
    for label, name in enumerate(classes):
        parts = {split: _ranked(tree[name], options.number, composed(task), name) for split, tree in trees.items()}
        place = f"{root / task}: class {name}"
        if "all" in parts:
            parts["test"], parts["train"] = _cut(parts.pop("all"), TEST_FRACTION, 3, place)
        if "validation" not in parts:
            share = options.validation_share or VALIDATION_FRACTION
            parts["validation"], parts["train"] = _cut(parts["train"], share, 2, place)
        parts["train"] = parts["train"][: options.train_per_class]
        parts["validation"] = parts["validation"][: options.validation_per_class]
        for split in SPLITS:
            files[split] += [(path, label) for path in sorted(parts[split])]
    return Listing(composed(task), classes, files)


def _all_flat(root: Path) -> bool:
    """Whether every folder holds files and no folder, as those of classes do; of two folders at least."""
    folders = _entries(root)[0]
    held = (_entries(root / name) for name in folders)
    return len(folders) > 1 and all(files and not below for below, files in held)


def _split_folders(task: Path) -> dict[str, str]:
    """The task's own split folders and what each is; none where its folders are classes (one may be called train)."""
    folders = _folders_only(task)
    given = [name for name in folders if name in SPLIT_FOLDERS]
    others = [name for name in folders if name not in SPLIT_FOLDERS]
    if others:
        if any(_entries(task / name)[0] for name in given):
            raise UserError(f"{task}: {_some(others)} beside {_some(given)}; a task has class folders or split folders")
        return {}
    if "val" in given and "validation" in given:
        raise UserError(f"{task}: both val and validation; keep one")
    if given and not {"train", "test"} <= set(given):
        raise UserError(f"{task}: a {_some(given)} folder alone; a task that brings its splits needs train and test")
    return {name: SPLIT_FOLDERS[name] for name in given}


def _tree(root: Path, folder: str) -> dict[str, list[str]]:
    """Per class its files, relative to the root; raises `UserError` for what is neither."""
    tree = {}
    for called, name in _called(root / folder, _folders_only(root / folder)).items():
        below, files = _entries(root / folder / name)
        if below:
            raise UserError(
                f"{root / folder / name}: {_some(below)} where the images of a class should be; "
                "has to be <task>/<class>/<image> or <task>/{train,val,test}/<class>/<image>"
            )
        if not files:
            raise UserError(f"{root / folder / name}: a class without images; add some or delete the folder")
        tree[called] = [f"{folder}/{name}/{file}" for file in files]
    if not tree:
        raise UserError(f"{root / folder}: no class folders; it has to hold <class>/<image>")
    return tree


def _ranked(paths: list[str], seed: int, task: str, name: str) -> list[str]:
    """The paths by a number drawn for each: one image more or less changes the split of next to no other."""
    own = seed_of("folder", seed, task, name)

    def number(path: str) -> bytes:
        return hashlib.sha256(f"{own}/{composed(path.rpartition('/')[2])}".encode()).digest()

    return sorted(paths, key=number)


def _cut(paths: list[str], fraction: float, least: int, place: str) -> tuple[list[str], list[str]]:
    if len(paths) < least:
        raise UserError(f"{place} has {count(len(paths), 'image')}; to be split it needs {least} at least; add some")
    first = share_of(len(paths), fraction)
    return paths[:first], paths[first:]


def _folders_only(folder: Path) -> list[str]:
    folders, files = _entries(folder)
    if files:
        raise UserError(
            f"{folder}: {_some(files)} where only folders of classes should be; "
            "benchmark.path has to be the root of <task>/<class>/<image>"
        )
    return folders


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """As `entries`, without what a run has put there."""
    folders, files = entries(folder)
    return [name for name in folders if not is_output(folder / name)], files


def _called(folder: Path, names: list[str]) -> dict[str, str]:
    """The folder of each name: an accented letter is the same whether a system composes it or not."""
    spellings: dict[str, str] = {}
    for name in names:
        if spellings.setdefault(composed(name), name) != name:
            raise UserError(f"{folder}: two folders are called {composed(name)}, spelled in two ways; make them one")
    return dict(sorted(spellings.items()))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(brief(name, LONG) for name in names[:SHOWN]) + more
