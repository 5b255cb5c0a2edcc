"""A prepared task as the loop sees it: images as tensors, split by split, loaded when first touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cl.data.prepare import SPLITS, Format, digest, read_manifest
from cl.errors import UserError

CHUNK_BYTES, CHUNK_SAMPLES = 4 * 2**20, 1000
"""Outside training as many samples go through a network at once: a batch, or more where images are small."""
RESIDENT_BYTES = 256 * 2**20
"""A split that takes no more than this as floats is converted once and kept; a larger one batch by batch."""


class Normalise:
    """Raw images (N, C, H, W) uint8 as the network takes them: float32 of the same shape, on the device."""

    def __init__(self, format: Format, device: torch.device) -> None:
        self.device = device
        deviation = torch.tensor(format.deviation).view(1, -1, 1, 1)
        self.scale = (1 / (format.scale * deviation)).to(device)
        self.shift = (torch.tensor(format.mean).view(1, -1, 1, 1) / deviation).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        return images.to(self.device, torch.float32) * self.scale - self.shift


class AsIs(Normalise):
    """For numbers that are what the network takes already."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, images: Tensor) -> Tensor:
        return images.to(self.device)


class Split:
    """The images and labels of one split of one task, read when first touched."""

    def __init__(self, read: Callable[[], tuple[Tensor, Tensor, int | Tensor]], normalise: Normalise) -> None:
        self._read = read
        self.normalise = normalise

    @cached_property
    def _arrays(self) -> tuple[Tensor, Tensor, int | Tensor]:
        return self._read()

    @property
    def images(self) -> Tensor:
        """The raw images, (N, C, H, W) uint8."""
        return self._arrays[0]

    @cached_property
    def y(self) -> Tensor:
        """The labels within the task, (N,) int64."""
        return self._arrays[1].to(self.normalise.device)

    @property
    def t(self) -> int | Tensor:
        """The task's index, or one per sample."""
        return self._arrays[2]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def x(self) -> Tensor:
        """All images as the network takes them, (N, C, H, W) float32; kept in memory once asked for."""
        return self.normalise(self.images)

    def chunk(self, batch_size: int) -> int:
        """Samples to pass through a network at once where nothing is learned from them."""
        size = max(1, self.images[:1].numel()) * 4
        return max(batch_size, min(CHUNK_SAMPLES, CHUNK_BYTES // size))

    def mapped(self, function: Callable[[Tensor], Tensor], size: int) -> Split:
        """The same samples with `function(x)`, of any shape (N, ...), for their images; computed once, by `size`."""
        found = torch.cat([function(x) for x, _, _ in self.batches(size)])
        return Split(lambda: (found, self.y, self.t), AsIs(self.normalise.device))

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor, int | Tensor]]:
        """Batches (x, y, t) of at most `size` samples in the given order (default: as stored), the last one short."""
        t = self.t
        if self.images.numel() * 4 <= RESIDENT_BYTES:
            x, y = self.x, self.y
            if order is not None:  # one gather an epoch; the batches are views
                order = order.to(self.normalise.device)
                x, y = x[order], y[order]
                t = t[order] if isinstance(t, Tensor) else t
            for start in range(0, len(y), size):
                stop = start + size
                yield x[start:stop], y[start:stop], t[start:stop] if isinstance(t, Tensor) else t
            return
        indices = torch.arange(len(self)) if order is None else order
        for chosen in indices.split(size):
            on_device = chosen.to(self.normalise.device)
            yield (
                self.normalise(self.images[chosen]),
                self.y[on_device],
                t[on_device] if isinstance(t, Tensor) else t,
            )


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
    """A prepared benchmark: its tasks in the order to learn them."""

    benchmark: str
    input_shape: tuple[int, int, int]
    tasks: tuple[Task, ...]


def load(folder: Path, device: torch.device | None = None) -> Sequence:
    """Open a prepared benchmark; nothing but the manifest is read until a split is touched.

    Raises `UserError` where the manifest, or later an array, is missing or damaged.
    """
    manifest = read_manifest(folder)
    format = Format(manifest["scale"], tuple(manifest["mean"]), tuple(manifest["deviation"]))
    normalise = Normalise(format, device or torch.device("cpu"))
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
    shape = manifest["input_shape"]
    return Sequence(manifest["benchmark"], (shape[0], shape[1], shape[2]), tuple(tasks))


def _reader(folder: Path, split: dict[str, dict[str, str]], index: int) -> Callable[[], tuple[Tensor, Tensor, int]]:
    def read() -> tuple[Tensor, Tensor, int]:
        images, labels = (_array(folder / split[k]["path"], int(split[k]["bytes"])) for k in ("images", "labels"))
        return torch.from_numpy(images), torch.from_numpy(labels), index

    return read


def _array(path: Path, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    if not path.exists() or path.stat().st_size != size:
        raise UserError(f"{path}: missing or cut short; delete {path.parent.parent} and prepare again")
    # Copy-on-write: torch wants writable memory, and nobody's write may reach the file.
    array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = np.load(path, mmap_mode="c", allow_pickle=False)
    return array


def joined(tasks: tuple[Task, ...]) -> Task:
    """All tasks as one, for training that sees everything at once; `t` is then one index per sample."""

    def split(name: str) -> Split:
        parts: list[Split] = [getattr(task, name) for task in tasks]

        def read() -> tuple[Tensor, Tensor, Tensor]:
            device = parts[0].normalise.device
            t = [torch.full((len(part),), task.index) for part, task in zip(parts, tasks, strict=True)]
            images = torch.cat([part.images for part in parts])
            return images, torch.cat([part.y for part in parts]), torch.cat(t).to(device)

        return Split(read, parts[0].normalise)

    classes = tuple(f"{task.name}/{name}" for task in tasks for name in task.classes)
    train, validation, test = (split(name) for name in SPLITS)
    return Task(len(tasks) - 1, "all", classes, train, validation, test, digest([task.digest for task in tasks]))
