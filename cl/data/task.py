"""A prepared task as the loop sees it: images as tensors, split by split, loaded when first touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cl.data.augment import Augment, middle
from cl.data.labels import LabelsAre, columns_of
from cl.data.prepare import AGAIN, REDUCING, SPLITS, Format, digest, is_whole, read_manifest, same_names
from cl.errors import UserError
from cl.gpu import room, sent

TaskIds: TypeAlias = int | Tensor
"""The tasks of samples (N,): one task for all of them, or (N,)."""
CHUNK_BYTES, CHUNK_SAMPLES = 4 * 2**20, 1000
"""Outside training, so many samples go through a network at once: a batch, or more where images are small."""
ROOM = 4
"""A split of raw images is kept on the GPU if it fits this many times into what this process may still take there."""
RESIDENT_BYTES = 256 * 2**20
"""A split that takes no more than this as floats is converted once and kept; a larger one batch by batch."""


class Normalise:
    """Raw images (N, C, H, W) uint8 as the network takes them: float32 on the device."""

    def __init__(self, format: Format, device: torch.device, crop: int | None = None) -> None:
        self.device, self.crop = device, crop
        deviation = torch.tensor(format.deviation).view(1, -1, 1, 1)
        self.scale = (1 / (format.scale * deviation)).to(device)
        self.shift = (torch.tensor(format.mean).view(1, -1, 1, 1) / deviation).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Of the middle crop, if there is a crop."""
        return self.numbers(images if self.crop is None else middle(images, self.crop))

    def numbers(self, images: Tensor) -> Tensor:
        """Of the whole images."""
        # Convolutions run faster on images whose channels lie side by side.
        layout = torch.channels_last if images.shape[1] > 1 else torch.contiguous_format
        return sent(images, self.device).to(torch.float32, memory_format=layout) * self.scale - self.shift


class AsIs(Normalise):
    """For numbers that the network takes as they are."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.crop = device, None

    def numbers(self, images: Tensor) -> Tensor:
        """The numbers themselves."""
        return sent(images, self.device)


class Split:
    """The images and labels of one split of one task, read when first touched."""

    def __init__(self, read: Callable[[], tuple[Tensor, Tensor, TaskIds]], normalise: Normalise) -> None:
        self._read = read
        self.normalise = normalise

    @cached_property
    def _arrays(self) -> tuple[Tensor, Tensor, TaskIds]:
        return self._read()

    @property
    def images(self) -> Tensor:
        """The raw images, (N, C, H, W) uint8."""
        return self._arrays[0]

    @cached_property
    def y(self) -> Tensor:
        """The labels within the task, (N,) int64, where the network is."""
        return sent(self._arrays[1], self.normalise.device)

    @cached_property
    def labels(self) -> Tensor:
        """The same in main memory, for what the host decides."""
        return self._arrays[1].cpu()

    @property
    def t(self) -> TaskIds:
        """The task's index, or one per sample."""
        return self._arrays[2]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def _raw(self) -> Tensor:
        """The raw images, on a GPU where there is room for them."""
        device = self.normalise.device
        fits = device.type != "cpu" and self.images.nbytes < room(device) // ROOM
        return sent(self.images, device) if fits else self.images

    def pictures(self, chosen: Tensor) -> Tensor:
        """The raw images of these samples (M,), where the network is; `chosen` is in main memory."""
        return sent(self._raw[sent(chosen, self._raw.device)], self.normalise.device)

    @cached_property
    def x(self) -> Tensor:
        """All images as the network takes them, (N, C, H, W) float32; kept in memory once asked for."""
        return self.normalise(self.images)

    def chunk(self, batch_size: int) -> int:
        """How many samples pass through a network at once when nothing is learned from them."""
        size = max(1, self.images[:1].numel()) * 4
        return max(batch_size, min(CHUNK_SAMPLES, CHUNK_BYTES // size))

    def mapped(self, function: Callable[[Tensor], Tensor], size: int) -> Split:
        """The same samples with `function(x)`, of any shape (N, ...), for their images; computed once, by `size`."""
        outputs = torch.cat([function(x) for x, _, _ in self.batches(size)])
        return Split(lambda: (outputs, self.y, self.t), AsIs(self.normalise.device))

    def batches(
        self, size: int, order: Tensor | None = None, augment: Augment | None = None
    ) -> Iterator[tuple[Tensor, Tensor, TaskIds]]:
        """Batches (x, y, t) of at most `size` samples in the given order (default: as stored), the last one short.

        `augment` changes the raw images of each batch; what is no picture any more (`mapped`) cannot be augmented.
        """
        t = self.t
        if augment is None and self.images.numel() * 4 <= RESIDENT_BYTES:
            x, y = self.x, self.y
            if order is not None:  # one gather an epoch; the batches are views
                order = sent(order, self.normalise.device)
                x, y = x[order], y[order]
                t = t[order] if isinstance(t, Tensor) else t
            for start in range(0, len(y), size):
                stop = start + size
                yield x[start:stop], y[start:stop], t[start:stop] if isinstance(t, Tensor) else t
            return
        device, indices = self.normalise.device, torch.arange(len(self)) if order is None else order
        there = sent(indices, device)  # once an epoch
        here = there if self._raw.device == there.device else indices
        for chosen, on_device in zip(here.split(size), there.split(size), strict=True):
            images = sent(self._raw[chosen], device)
            x = self.normalise(images) if augment is None else self.normalise.numbers(augment(images))
            yield x, self.y[on_device], t[on_device] if isinstance(t, Tensor) else t


@dataclass(frozen=True)
class Task:
    """One task: its place in the sequence, its classes and its three splits."""

    index: int
    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    digest: str
    """SHA-256 over the prepared bytes and the classes: two tasks of the same digest are the same task."""


@dataclass(frozen=True)
class Sequence:
    """A prepared benchmark: its tasks in the order in which they are learned."""

    benchmark: str
    input_shape: tuple[int, int, int]
    tasks: tuple[Task, ...]
    reduced: Mapping[str, float] = field(default_factory=dict)
    """What the benchmark was scaled to by options, for instance image_size."""
    labels: LabelsAre = "places"
    backbone: Mapping[str, Any] = field(default_factory=dict)
    """Whose features they are: its name, the size of the pictures and its weights' checksum; empty for pictures."""
    same_names: bool = False
    """Whether classes of the same name in two tasks are the same class."""

    def columns(self, increment: str) -> list[list[int]]:
        """For each task the column of each of its classes; a class that comes again keeps its own where classes come.

        In task-incremental learning each task has columns of its own, those of its head.
        """
        return columns_of([task.classes for task in self.tasks], self.same_names and increment == "class")


def load(
    folder: Path, device: torch.device | None = None, crop: int | None = None, numbers: Format | None = None
) -> Sequence:
    """Open a prepared benchmark; nothing but the manifest is read until a split is touched.

    `crop`: the network sees squares of this side, cut out of the images. `numbers`: the mean and deviation by which the
    grey levels, in [0, 1], are normalised; default the benchmark's. Raises `UserError` where the manifest, or
    later an array, is missing or damaged.
    """
    manifest = read_manifest(folder)
    format = Format(manifest["scale"], tuple(manifest["mean"]), tuple(manifest["deviation"]))
    if numbers is not None:
        format = Format(format.scale, numbers.mean, numbers.deviation)
    normalise = Normalise(format, device or torch.device("cpu"), crop)
    tasks = []
    for index, entry in enumerate(manifest["tasks"]):
        splits = {name: Split(_reader(folder, split, index), normalise) for name, split in entry["splits"].items()}
        tasks.append(
            Task(
                index,
                entry["name"],
                tuple(entry["classes"]),
                splits["train"],
                splits["validation"],
                splits["test"],
                entry["digest"],
            )
        )
    given = {name: manifest["options"].get(name) for name in REDUCING}
    reduced = {name: value for name, value in given.items() if value is not None}
    shape, labels = seen_shape(manifest["input_shape"], crop), manifest.get("labels", "names")
    backbone = manifest.get("backbone") or {}
    same = same_names(manifest["benchmark"])
    return Sequence(manifest["benchmark"], shape, tuple(tasks), reduced, labels, backbone, same)


def seen_shape(shape: list[int], crop: int | None) -> tuple[int, int, int]:
    """(C, H, W) as the network sees it; raises `UserError` where the crop is larger than the images."""
    channels, height, width = shape
    if crop is not None and crop > min(height, width):
        raise UserError(
            f"training.augmentation.crop: {crop} is more than the {height}x{width} pixels of the images; "
            "make it smaller, or benchmark.image_size larger"
        )
    return (channels, crop or height, crop or width)


def _reader(folder: Path, split: dict[str, dict[str, str]], index: int) -> Callable[[], tuple[Tensor, Tensor, int]]:
    def read() -> tuple[Tensor, Tensor, int]:
        images, labels = (_array(folder / split[kind]["path"], split[kind]["sha256"]) for kind in ("images", "labels"))
        return torch.from_numpy(images), torch.from_numpy(labels), index

    return read


def _array(path: Path, sha256: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The array in the file; each process reads all of it once, to see that it is what was prepared."""
    if not is_whole(path, sha256):
        raise UserError(f"{path}: missing, cut short or altered since it was prepared; {AGAIN}")
    # Copy-on-write: torch wants writable memory, and nobody's write may reach the file.
    array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = np.load(path, mmap_mode="c", allow_pickle=False)
    return array


def held(images: Tensor, y: Tensor, index: int, normalise: Normalise) -> Split:
    """Samples of the task of this index that a method has kept: images (K, C, H, W) uint8, labels y (K,)."""
    return Split(lambda: (images.cpu(), y.cpu(), index), normalise)


def joined(tasks: tuple[Task, ...]) -> Task:
    """All tasks as one, for training that sees everything at once; `t` is then one index per sample."""

    def split(name: str) -> Split:
        parts: list[Split] = [getattr(task, name) for task in tasks]

        def read() -> tuple[Tensor, Tensor, Tensor]:
            device = parts[0].normalise.device
            t = [torch.full((len(part),), task.index) for part, task in zip(parts, tasks, strict=True)]
            images = torch.cat([part.images for part in parts])
            return images, torch.cat([part.y for part in parts]), sent(torch.cat(t), device)

        return Split(read, parts[0].normalise)

    classes = tuple(f"{task.name}/{name}" for task in tasks for name in task.classes)
    train, validation, test = (split(name) for name in SPLITS)
    return Task(len(tasks) - 1, "all", classes, train, validation, test, digest([task.digest for task in tasks]))
