"""tiny-imagenet: 200 classes of ImageNet at 64x64 pixels, the survey's ten tasks of twenty classes.

Le and Yang, Tiny ImageNet visual recognition challenge, 2015. The tasks are consecutive classes in the order of the
archive's wnids.txt, which are the tasks of De Lange et al. 2021; labels follow the sorted ids. The official validation
images, the only others with public labels, are the test split; a fifth of each class's training images is validation.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from cl.data.fetch import Remote, fetch, home_of
from cl.data.images import IMAGENET, OF_IMAGES, SHOWN, File, Listing, raw_tasks
from cl.data.images import fingerprint as fingerprint_of
from cl.data.labels import LabelsAre
from cl.data.prepare import RawTask, Say
from cl.data.source import Archive, Folder, source
from cl.data.subsets import chosen, share_of
from cl.errors import UserError
from cl.params import Benchmark
from cl.paths import expanded
from cl.rng import numpy_generator

__all__ = ["FORMAT", "LABELS", "OPTIONS", "fingerprint", "tasks"]
FORMAT = IMAGENET
OPTIONS = OF_IMAGES | {"classes_per_task"}
LABELS: LabelsAre = "places"
ARCHIVE = Remote(
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
)
IMAGE_SIZE = LARGEST = 64
"""Pixels a side of the images as they come."""
CLASSES_PER_TASK = 20
VALIDATION_FRACTION = 0.2
HARD_TO_EASY = [5, 7, 10, 2, 9, 8, 6, 4, 3, 1]
"""The survey's order by how well its nets learned each task alone."""


def tasks(options: Benchmark, raw: Path, say: Say | None = None) -> Iterator[RawTask]:
    """Yield the tasks tiny-01, tiny-02, ... of `options.classes_per_task` (20; with 5 the survey's 40 tasks).

    `options.path` is the archive or the folder that was in it; null: the archive is fetched. `options.order` is a list
    of tasks, or `hard-to-easy` or `easy-to-hard`. Images are (3, S, S), S = `options.image_size` (default 64). Raises
    `UserError` for files that are missing, and for bad images as `options.on_bad_image` says.
    """
    del raw
    files = _files(options, say)
    size = options.image_size or IMAGE_SIZE
    yield from raw_tasks(files.root, _listings(files, options), size, options.on_bad_image, say)


def fingerprint(options: Benchmark, raw: Path, say: Say | None = None) -> str:
    """Changes when a file of the chosen tasks does."""
    del raw
    files = _files(options, say)
    return fingerprint_of(files.root, _listings(files, options))


def _files(options: Benchmark, say: Say | None = None) -> Folder:
    if options.path is not None:
        return source(Path(expanded(options.path)))
    return source(fetch([ARCHIVE], home_of(options), say)[0])


def _listings(files: Folder, options: Benchmark) -> list[Listing]:
    return _in_archive(files, options.model_dump_json()) if isinstance(files, Archive) else _found(files, options)


@functools.lru_cache(maxsize=1)
def _in_archive(files: Archive, options: str) -> list[Listing]:
    """What is in an archive stays as it is (another archive is another key), and to sort it out takes a while."""
    return _found(files, Benchmark.model_validate_json(options))


def _found(files: Folder, options: Benchmark) -> list[Listing]:
    top = _top(files)
    ids = _text(files, f"{top}wnids.txt").split()
    step = options.classes_per_task or CLASSES_PER_TASK
    cut = {f"tiny-{k + 1:02d}": sorted(ids[k * step : (k + 1) * step]) for k in range(len(ids) // step)}
    orders = {}
    if step == CLASSES_PER_TASK:
        hard = [f"tiny-{number:02d}" for number in HARD_TO_EASY]
        orders = {"hard-to-easy": hard, "easy-to-hard": hard[::-1]}
    names = chosen(list(cut), options, orders)
    train: dict[str, list[str]] = {}
    for path in files.names(f"{top}train"):
        wnid, _, rest = path.removeprefix(f"{top}train/").partition("/")
        if rest.startswith("images/"):  # beside them lies a file of boxes
            train.setdefault(wnid, []).append(path)
    test: dict[str, list[str]] = {}
    for line in _text(files, f"{top}val/val_annotations.txt").splitlines():
        image, tab, rest = line.partition("\t")
        if not tab:
            raise UserError(
                f"{files.root}: val_annotations.txt: {line!r} names no class; take it from {ARCHIVE.name} again"
            )
        wnid = rest.partition("\t")[0]
        test.setdefault(wnid, []).append(f"{top}val/images/{image}")
    words = _words(files, top)
    return [_listing(name, cut[name], train, test, words, options, files.root) for name in names]


def _top(files: Folder) -> str:
    """Where in the archive or folder the data set begins."""
    for top in ("", "tiny-imagenet-200/"):
        if files.has(f"{top}wnids.txt"):
            return top
    raise UserError(f"{files.root}: no wnids.txt in it; benchmark.path has to be {ARCHIVE.name}, or what was in it")


def _text(files: Folder, name: str) -> str:
    try:
        return files.read(name).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{files.root}: {name} cannot be read ({reason}); take it from {ARCHIVE.name} again") from None


def _words(files: Folder, top: str) -> dict[str, str]:
    """The first name of each class."""
    lines = _text(files, f"{top}words.txt").splitlines()
    return {wnid: names.partition(",")[0] for wnid, _, names in (line.partition("\t") for line in lines)}


def _listing(
    name: str,
    ids: list[str],
    train: dict[str, list[str]],
    test: dict[str, list[str]],
    words: dict[str, str],
    options: Benchmark,
    root: Path,
) -> Listing:
    if missing := [wnid for wnid in ids if wnid not in train or wnid not in test]:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise UserError(
            f"{root}: task {name} has no images of {', '.join(missing[:SHOWN])}{more}; take other tasks "
            "(benchmark.tasks, benchmark.order), or the whole data set"
        )
    splits: dict[str, list[File]] = {"train": [], "validation": [], "test": []}
    for label, wnid in enumerate(ids):
        # Drawn class by class: a cut, an order or a number of tasks moves no image to another split.
        drawn = numpy_generator("tiny-imagenet", options.seed, wnid).permutation(sorted(train[wnid])).tolist()
        count = share_of(len(drawn), options.validation_share or VALIDATION_FRACTION)
        parts = {
            "validation": drawn[:count][: options.validation_per_class],
            "train": drawn[count:][: options.train_per_class],
            "test": test[wnid],
        }
        for split, paths in parts.items():
            splits[split] += [(path, label) for path in sorted(paths)]
    # Two classes of the whole set share a first name (crane, the bird and the machine).
    names = [words.get(wnid, wnid) for wnid in ids]
    return Listing(name, [n if names.count(n) == 1 else f"{n} ({w})" for n, w in zip(names, ids, strict=True)], splits)
