"""recogseq: eight sets of pictures for object recognition as tasks: flowers, scenes, birds, cars, aircraft, actions,
letters and house numbers.

Sets, sizes and order as in De Lange et al. 2021: each set's own training pictures train, half of its test pictures are
validation and the other half the test. Each set lies in a folder of its own; what is not there is fetched.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cl.data.benchmarks._recogseq import PARTS, READERS, Named
from cl.data.benchmarks._recogseq_places import NEEDED, NOWHERE, find, remotes
from cl.data.decode import middle_square
from cl.data.fetch import fetch, home_of, unpack
from cl.data.images import IMAGENET, OF_IMAGES, SHOWN, File, Listing, raw_tasks, write_header
from cl.data.images import fingerprint as fingerprint_of
from cl.data.labels import LabelsAre
from cl.data.prepare import WORKPLACE, RawTask, Say, digest, writing
from cl.data.subsets import chosen
from cl.errors import UserError
from cl.params import Benchmark
from cl.rng import numpy_generator

__all__ = ["FORMAT", "LABELS", "OPTIONS", "fingerprint", "tasks"]
FORMAT = IMAGENET
OPTIONS = OF_IMAGES - {"validation_share"}
LABELS: LabelsAre = "names"
IMAGE_SIZE = 224


def tasks(options: Benchmark, raw: Path, say: Say | None = None) -> Iterator[RawTask]:
    """Yield the sets in the survey's order, or as `options.order` lists them; only what is chosen has to be there.

    `options.path` is the folder that holds the sets' folders; null: what is missing is fetched. Images are
    (3, S, S), S = `options.image_size` (default 224). Raises `UserError` for what is missing or damaged, and for bad
    images as `options.on_bad_image` says.
    """
    del raw
    size = options.image_size or IMAGE_SIZE
    for name, folder in _folders(options, say).items():
        listing = _listing(name, folder, options)
        if name in PARTS:
            yield from _of_parts(folder, listing, size)
        else:
            yield from raw_tasks(folder, [listing], size, options.on_bad_image, say)


def _of_parts(folder: Path, listing: Listing, size: int) -> Iterator[RawTask]:
    """The task, its images written one by one: those of svhn would take 20 GB of memory at 256 pixels."""
    splits, made = {}, {}
    with tempfile.TemporaryDirectory(dir=WORKPLACE.get()) as place:
        for split, files in listing.splits.items():
            made[split] = Path(place, f"{split}.npy")
            with writing(made[split], "wb") as file:
                write_header(file, len(files), size)
                for picture in PARTS[listing.name](folder, [path for path, _ in files]):
                    file.write(np.asarray(middle_square(picture, size)).transpose(2, 0, 1).tobytes())
            labels = np.array([label for _, label in files], dtype=np.int64)
            splits[split] = np.load(made[split], mmap_mode="r", allow_pickle=False), labels
        yield RawTask(listing.name, listing.classes, splits, files=made)


def fingerprint(options: Benchmark, raw: Path, say: Say | None = None) -> str:
    """Changes when a picture of the chosen sets does, or another takes its place."""
    del raw
    fingerprints = []
    for name, folder in _folders(options, say).items():
        listing = _listing(name, folder, options)
        files = {
            split: [(path.partition("#")[0], label) for path, label in listing.splits[split]]
            for split in listing.splits
        }
        fingerprints.append([fingerprint_of(folder, [Listing(name, listing.classes, files)]), dict(listing.splits)])
    return digest(fingerprints)


def _folders(options: Benchmark, say: Say | None = None) -> dict[str, Path]:
    """The folders of the chosen sets, in order; what cannot be fetched is reported before anything is."""
    names = chosen(list(READERS), options)
    first = sorted(names, key=lambda name: options.path is None and name not in NOWHERE)
    folders = {name: _folder(name, options, say) for name in first}
    return {name: folders[name] for name in names}


def _folder(name: str, options: Benchmark, say: Say | None = None) -> Path:
    """The folder of a set, with all that it needs."""
    folder = home_of(options) / name
    missing = [what for what in NEEDED[name] if find(folder, what) is None]
    known = remotes(name) if missing else {}
    wanted = list(dict.fromkeys(known[what] for what in missing if what in known))
    for file in fetch([r for r in wanted if options.path is None or (folder / r.name).exists()], folder, say):
        if file.suffix in (".tar", ".tgz", ".gz"):
            unpack(file, folder / file.name.partition(".")[0], say)
    missing = [what for what in missing if find(folder, what) is None]
    if missing:
        source = " and ".join(remote.url for remote in wanted) or "whoever has a copy: no address is known any more"
        raise UserError(
            f"{folder}: no {', '.join(missing)} there, nor in the folders below; it comes from {source} "
            "(docs/benchmarks/recogseq.md). Or leave the task out with benchmark.order"
        )
    return folder


def _listing(name: str, folder: Path, options: Benchmark) -> Listing:
    training, test = (
        _drawn(pictures, "recogseq", options.seed, name, split)
        for split, pictures in zip(("train", "test"), READERS[name](folder, options.number), strict=True)
    )
    classes = sorted(training | test)
    if lacking := [label for label in classes if label not in training or len(test.get(label, [])) < 2]:
        raise UserError(
            f"{folder}: of {', '.join(lacking[:SHOWN])} the lists have no training picture, or fewer than two for "
            "validation and the test; fetch them again"
        )
    # Class after class in turn to the test and to validation: halves to within one picture, of all and of each class.
    held = [picture for files in test.values() for picture in files]
    validation = _by_class(held[1::2])
    splits = {
        "train": [picture for files in training.values() for picture in files[: options.train_per_class]],
        "validation": [picture for files in validation.values() for picture in files[: options.validation_per_class]],
        "test": held[::2],
    }
    return Listing(name, classes, {split: _files(pictures, classes) for split, pictures in splits.items()})


def _drawn(pictures: Named, *key: int | str) -> dict[str, Named]:
    """The pictures by class, in each in an order drawn by a generator of the key."""
    draw = numpy_generator(*key)
    members = _by_class(sorted(pictures))
    return {name: [files[index] for index in draw.permutation(len(files))] for name, files in sorted(members.items())}


def _by_class(pictures: Named) -> dict[str, Named]:
    members: dict[str, Named] = {}
    for picture in pictures:
        members.setdefault(picture[1], []).append(picture)
    return members


def _files(pictures: Named, classes: list[str]) -> list[File]:
    labels = {name: label for label, name in enumerate(classes)}
    return sorted((path, labels[name]) for path, name in pictures)
