"""Data sets that come as arrays: their splits, cut into tasks of some classes each, at the size wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from cl.data.fetch import Remote
from cl.data.prepare import Images, Labels, RawTask, digest
from cl.data.repetition import cut_again, repeated
from cl.data.subsets import chosen, first_of_each, stratified
from cl.errors import UserError
from cl.params import Benchmark
from cl.rng import numpy_generator

VALIDATION_FRACTION = 0.2
"""Of each class's training images, as in the survey."""
OF_ARRAYS = frozenset({"path", "image_size", "train_per_class", "validation_per_class", "validation_share", "pad"})
"""The keys of `benchmark` that any of them knows."""
OF_SPLITS = OF_ARRAYS | {"classes_per_task", "repetition"}
"""Those that a data set split by classes knows."""
SHUFFLED = "shuffled"
"""An order that every split data set has."""
MEND = "delete it, and it is downloaded again"
Splits = dict[str, tuple[Images, Labels]]


@dataclass(frozen=True)
class Arrays:
    """A data set as its makers publish it: images (N, C, H, W) uint8, labels (N,) in [0, number of classes)."""

    name: str
    classes: list[str]
    train: tuple[Images, Labels]
    test: tuple[Images, Labels]
    notes: Mapping[str, Any] = field(default_factory=dict)
    """`RawTask.notes` of each task made of it."""


def fingerprint_of(remotes: Sequence[Remote]) -> str:
    """Names the files by their checksums, which `fetch` holds them to; so none has to be there or to be read."""
    return digest([remote.md5 for remote in remotes])


def splits_of(data: Arrays, options: Benchmark, classes: Sequence[int]) -> Splits:
    """Train, validation and test of these classes, the first of them with label 0, padded, but not scaled.

    Validation is drawn from the seed once for the whole data set, however it is cut into tasks.
    """
    images, labels = data.train
    share = options.validation_share or VALIDATION_FRACTION
    rest, validation = stratified(labels, share, data.name, options.seed, "validation")
    members = {
        "train": first_of_each(rest[np.isin(labels[rest], classes)], labels, options.train_per_class),
        "validation": first_of_each(
            validation[np.isin(labels[validation], classes)], labels, options.validation_per_class
        ),
    }
    splits = {split: (images[index], _placed(labels[index], classes)) for split, index in members.items()}
    index = np.flatnonzero(np.isin(data.test[1], classes))
    splits["test"] = data.test[0][index], _placed(data.test[1][index], classes)
    if options.pad is None:
        return splits
    frame = ((0, 0), (0, 0), (options.pad, options.pad), (options.pad, options.pad))
    return {split: (np.pad(images, frame), labels) for split, (images, labels) in splits.items()}


def cut(classes: int, options: Benchmark, usual: int) -> dict[str, Sequence[int]]:
    """The classes of each task, `options.classes_per_task` (default `usual`) a task.

    Classes come in their order, and tasks are called `classes-<first>-<last>`. With the order `shuffled`, they come in
    one drawn from `options.seed`, and the name of a task lists its classes. Raises `UserError` for a cut that leaves a
    remainder, and for an order or a number of tasks that cannot be. With `options.repetition`, see `cut_again`.
    """
    size = options.classes_per_task or usual
    if options.repetition:
        return {name: [c for c, _ in own] for name, own in cut_again(classes, size, options).items()}
    if classes % size:
        known = ", ".join(str(number) for number in range(2, classes + 1) if classes % number == 0)
        raise UserError(f"benchmark.classes_per_task: {classes} classes make no tasks of {size} each; take {known}")
    width = len(str(classes - 1))
    starts = range(0, classes, size)
    parts: dict[str, Sequence[int]] = {
        f"classes-{first:0{width}d}-{first + size - 1:0{width}d}": range(first, first + size) for first in starts
    }
    if options.order == SHUFFLED:
        drawn = numpy_generator(options.name, options.seed, "order of the classes").permutation(classes).tolist()
        groups = [drawn[first : first + size] for first in starts]
        parts = {"-".join(["classes", *(f"{c:0{width}d}" for c in group)]): group for group in groups}
    return {name: parts[name] for name in chosen(list(parts), options, {SHUFFLED: list(parts)})}


def cut_tasks(data: Arrays, options: Benchmark, parts: Mapping[str, Sequence[int]]) -> Iterator[RawTask]:
    """Yield a task for each part of the classes."""
    if options.repetition:
        again = cut_again(len(data.classes), len(next(iter(parts.values()))), options)
        whole = resized(splits_of(data, options, range(len(data.classes))), options.image_size)
        yield from repeated(whole, data.classes, again, options, data.notes)
        return
    for name, part in parts.items():
        splits = splits_of(data, options, part)
        names = [data.classes[c] for c in part]
        yield RawTask(name, names, resized(splits, options.image_size), data.notes)


def resized(splits: Splits, size: int | None) -> Splits:
    """The images `size` pixels wide and high: bilinear, and with antialias where they get smaller."""
    wanted = (size or 0, size or 0)
    if size is None or all(images.shape[2:] == wanted for images, _ in splits.values()):
        return splits
    return changed(splits, lambda picture: picture.resize(wanted, Image.Resampling.BILINEAR))


def changed(splits: Splits, change: Callable[[Image.Image], Image.Image]) -> Splits:
    """Each channel of each image as `change` makes it."""
    return {split: (_each_channel(images, change), labels) for split, (images, labels) in splits.items()}


def _each_channel(images: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    planes = images.reshape(-1, *images.shape[2:])
    height, width = np.asarray(change(Image.fromarray(np.zeros_like(planes, shape=planes.shape[1:])))).shape
    made: Images = np.empty((len(planes), height, width), np.uint8)
    for index, plane in enumerate(planes):
        made[index] = np.asarray(change(Image.fromarray(plane)))
    return made.reshape(*images.shape[:2], height, width)


def _placed(labels: Labels, classes: Sequence[int]) -> Labels:
    """Each label's place among the classes."""
    place = np.zeros(max(classes) + 1, labels.dtype)
    place[list(classes)] = np.arange(len(classes))
    placed: Labels = place[labels]
    return placed
