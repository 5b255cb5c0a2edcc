"""Data sets that come as arrays, read from pictures instead: `train/<class>/<picture>` and `test/<class>/<picture>`.

Many people have MNIST and CIFAR in this form, unpacked or as a zip archive. What is read is compared with what the
makers publish, and the manifest says with which outcome.
"""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cl.data.benchmarks._arrays import Arrays
from cl.data.decode import FORMATS
from cl.data.images import SHOWN, File, Listing, raw_tasks
from cl.data.images import fingerprint as fingerprint_of
from cl.data.prepare import Images, Labels, Say
from cl.data.source import Folder, entries, source
from cl.errors import UserError, count, plain
from cl.params import Benchmark
from cl.paths import expanded

PARTS = ("train", "test")
OUTCOMES = {
    True: "prepared: {root}: {counts}, all those of {title}; their order: {order}",
    False: "prepared: warning: {root}: {counts}, but they are not those of {title} (the digests differ); they are used "
    "as they are",
    None: "prepared: {root}: {counts}; no digest of {title} in this order is known, so nothing was compared",
}
"""What is said, by whether they are as published."""
Part = tuple[Images, Labels]


@dataclass(frozen=True)
class Known:
    """A data set of which pictures may be given, and what is known of it."""

    name: str
    title: str
    side: int
    channels: int
    classes: list[str] | int
    """Their names in the order of the labels; or how many there are, if that is the order of their names."""
    arrays: Callable[[Part, Part], Mapping[str, str]] | None = None
    """Digests of the arrays in their order, by the names of the makers' files; None: no such digests are known."""
    published: Mapping[str, str] | None = None
    """What `arrays` has to give for the makers' arrays."""
    pictures: Mapping[str, str] | None = None
    """What `digests` gives for each part of the whole set; None: not known."""


@dataclass(frozen=True)
class Place:
    """Where the pictures are: a folder or an archive, and where in it `train` and `test` lie."""

    files: Folder
    top: str = ""


def place_of(options: Benchmark, title: str, archives: Sequence[str]) -> Place | None:
    """Where `benchmark.path` has pictures; None where it has the makers' files, or nothing yet, so that they are
    downloaded into it.

    Raises `UserError` for a path that holds something else.
    """
    if options.path is None:
        return None
    root = Path(expanded(options.path))
    if root.is_dir():
        folders, files = map(set, entries(root))
        if set(PARTS) <= folders and not files & set(archives):
            return Place(source(root))
        if not (folders or files) or any(file.removesuffix(".part") in archives for file in files):
            return None
    elif not root.exists():
        return None
    elif zipfile.is_zipfile(root):
        packed = source(root)
        split = [name.split("/", 2)[:-1] for name in packed.names()]
        folders = {"/".join(names[:depth]) for names in split for depth in (1, 2) if len(names) >= depth}
        for top in ("", *(f"{folder}/" for folder in sorted(folders) if "/" not in folder)):
            if {f"{top}{part}" for part in PARTS} <= folders:
                return Place(packed, top)
    raise UserError(
        f"benchmark.path: {root} holds neither pictures of {title} (the folders train/<class> and test/<class>, also "
        f"in a zip archive) nor the makers' files ({', '.join(archives)}); give a path that does, or leave it out"
    )


def fingerprint(place: Place, known: Known) -> str:
    """Changes when a picture does, or another takes its place."""
    return fingerprint_of(place.files.root, [_listing(place, known)[0]])


def read(place: Place, known: Known, say: Say | None) -> Arrays:
    """The data set, its images (N, channels, side, side), in the order of the numbers that are the names of the files.

    Where the names are no numbers, or one stands twice, the order is that of classes and names. Pictures of another
    size are scaled as those of the benchmark `folder`. Raises `UserError` for folders that are not as described above,
    a class that is missing, and for files that are no pictures or, where the data set is grey, coloured ones.
    """
    listing, numbered = _listing(place, known)
    root = place.files.root
    (task,) = raw_tasks(root, [listing], known.side, "skip", say)
    if bad := task.notes["skipped"]:
        shown = [f"{plain(fault['path'])} ({fault['reason']})" for fault in bad]
        raise UserError(f"{len(bad)} files in {root} are no usable images: {_some(shown)}; mend or delete them")
    train, test = (_part(task.splits[part], listing.splits[part], known, root) for part in PARTS)
    _say_size(place, listing, known, say)
    notes = _compared(train, test, known, numbered)
    if say is not None:
        counts = f"{len(train[1]):,} pictures for training and {len(test[1]):,} for the test"
        say(OUTCOMES[notes["as_known"]].format(root=root, counts=counts, title=known.title, order=notes["order"]))
    return Arrays(known.name, listing.classes, train, test, {"pictures": notes})


# Which file is what.


def _listing(place: Place, known: Known) -> tuple[Listing, bool]:
    """The files with their labels, and whether they stand in the order of numbers."""
    trees = {part: _tree(place, part) for part in PARTS}
    classes, labels = _labels(known, sorted(set().union(*trees.values())), place.files.root)
    splits: dict[str, list[File]] = {}
    for part, tree in trees.items():
        splits[part] = [(path, labels[folder]) for folder, paths in tree.items() for path in paths]
        there = {label for _, label in splits[part]}
        if missing := [name for label, name in enumerate(classes) if label not in there]:
            raise UserError(
                f"{place.files.root}: no pictures of {known.title}'s {_some(missing)} in {place.top}{part}/<class>; "
                "add them, or take the benchmark folder for a part of the classes"
            )
    numbers = [_numbers(files) for files in splits.values()]
    numbered = None not in numbers
    for files, number in zip(splits.values(), numbers, strict=True):
        files.sort(key=functools.partial(_rank, number if numbered and number is not None else {}))
    return Listing(known.name, classes, splits), numbered


def _tree(place: Place, part: str) -> dict[str, list[str]]:
    """The files of each class folder, sorted."""
    above = f"{place.top}{part}"
    tree: dict[str, list[str]] = {}
    for path in place.files.names(above):
        folder, _, file = path.removeprefix(f"{above}/").rpartition("/")
        if not folder or "/" in folder:
            raise UserError(
                f"{place.files.root}: {plain(path)} stands where {above}/<class>/<picture> should; "
                f"move or delete {plain(file)}"
            )
        tree.setdefault(folder, []).append(path)
    return tree


def _labels(known: Known, folders: list[str], root: Path) -> tuple[list[str], dict[str, int]]:
    """The classes by name, and the label of each folder; a folder is called by the class's name or its number."""
    if isinstance(known.classes, int):
        if len(folders) != known.classes:
            raise UserError(
                f"{root}: train and test have {count(len(folders), 'class folder')} ({_some(folders)}), but "
                f"{known.title} has {known.classes} classes; make them the same, or take the benchmark folder"
            )
        numbers = all(folder.isdecimal() for folder in folders)
        names = sorted(folders, key=int) if numbers else folders
    else:
        names = known.classes
    called = {_plainly(name): label for label, name in enumerate(names)}
    called |= {str(label): label for label in range(len(names)) if not isinstance(known.classes, int)}
    if strange := [folder for folder in folders if _plainly(folder) not in called]:
        raise UserError(
            f"{root}: {_some(strange)} is no class of {known.title}; its folders are {', '.join(names)}, or 0 to "
            f"{len(names) - 1}"
        )
    return names, {folder: called[_plainly(folder)] for folder in folders}


def _plainly(name: str) -> str:
    """Letters and digits alone: `T-shirt/top` cannot be the name of a folder."""
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name


def _numbers(files: Sequence[File]) -> dict[str, int] | None:
    """The number that is the name of each file; None where some have none, or two have the same."""
    stems = {path: path.rpartition("/")[2].partition(".")[0] for path, _ in files}
    if not all(stem.isdecimal() and stem.isascii() for stem in stems.values()):
        return None
    numbers = {path: int(stem) for path, stem in stems.items()}
    return numbers if len(set(numbers.values())) == len(numbers) else None


def _rank(numbers: Mapping[str, int], file: File) -> tuple[int, int, str]:
    """By number, if there are numbers; else by class and name."""
    path, label = file
    return numbers.get(path, 0), label, path


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


# What has been read.


def _part(read: Part, files: Sequence[File], known: Known, root: Path) -> Part:
    images, labels = read
    if known.channels == 3:
        return np.array(images), labels  # what was read is a file that is deleted
    if coloured := np.flatnonzero((images != images[:, :1]).any(axis=(1, 2, 3))).tolist():
        shown = [plain(files[index][0]) for index in coloured]
        raise UserError(
            f"{root}: coloured pictures ({_some(shown)}), but those of {known.title} are grey; save them as grey"
        )
    return np.ascontiguousarray(images[:, :1]), labels


def _say_size(place: Place, listing: Listing, known: Known, say: Say | None) -> None:
    """Say that pictures are scaled, judged by the first of each part."""
    for part in PARTS if say is not None else ():
        path = listing.splits[part][0][0]
        width, height = Image.open(io.BytesIO(place.files.read(path)), formats=FORMATS).size
        if say is not None and (width, height) != (known.side, known.side):
            say(
                f"prepared: warning: {plain(path)}: {width}x{height} pixels, but {known.title} has "
                f"{known.side}x{known.side}; such pictures are scaled, and of one that is no square the middle is taken"
            )


def unordered(part: Part) -> str:
    """SHA-256 of a part, whatever its order: of the sorted SHA-256 of each image's label (a byte) and pixels."""
    images, labels = part
    each = sorted(
        hashlib.sha256(bytes([label]) + image.tobytes()).digest()
        for image, label in zip(images, labels.tolist(), strict=True)
    )
    return hashlib.sha256(b"".join(each)).hexdigest()


def _compared(train: Part, test: Part, known: Known, numbered: bool) -> dict[str, Any]:
    """For the manifest: whether this is what the makers publish, whether in their order, and digests."""
    found = {part: unordered(read) for part, read in zip(PARTS, (train, test), strict=True)}
    ordered = known.arrays is not None and known.arrays(train, test) == known.published
    comparable = known.pictures is not None or (known.published is not None and numbered)
    same = (ordered or found == known.pictures) if comparable else None
    return {
        "as_known": same,
        "order": "official" if ordered else "by number" if numbered else "by class and name",
        "sha256": found,
    }
