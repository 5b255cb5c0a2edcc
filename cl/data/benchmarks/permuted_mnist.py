"""permuted-mnist: the ten digits again and again, each task under a fixed permutation of the pixels of its own.

As Goodfellow et al. (2014) made it: the images of a task, and their splits, are the same under every permutation.
The first task is unpermuted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cl.data.benchmarks import _mnist
from cl.data.benchmarks._arrays import OF_ARRAYS, resized, splits_of
from cl.data.benchmarks._mnist import MNIST as FORMAT
from cl.data.benchmarks._mnist import fingerprint
from cl.data.labels import LabelsAre
from cl.data.prepare import Images, RawTask, Say
from cl.data.subsets import chosen
from cl.params import Benchmark
from cl.rng import numpy_generator

__all__ = ["FORMAT", "LABELS", "OPTIONS", "fingerprint", "tasks"]
OPTIONS = OF_ARRAYS
LABELS: LabelsAre = "names"
DEFAULT_TASKS = 10


def tasks(options: Benchmark, raw: Path, say: Say | None = None) -> Iterator[RawTask]:
    """Yield `permutation-01` and so on, ten tasks of ten classes or `options.tasks`, as `options.order` says."""
    del raw
    numbers = {f"permutation-{index + 1:02d}": index for index in range(max(options.tasks or 0, DEFAULT_TASKS))}
    names = chosen(list(numbers), options)
    data = _mnist.read("mnist", options, say)
    splits = resized(splits_of(data, options, range(len(data.classes))), options.image_size)
    for name in names:
        permuted = {split: (_permuted(x, options.number, numbers[name]), y) for split, (x, y) in splits.items()}
        yield RawTask(name, data.classes, permuted, data.notes)


def _permuted(images: Images, seed: int, index: int) -> Images:
    if index == 0:
        return images
    pixels = images.reshape(len(images), -1)
    order = numpy_generator("permuted-mnist", seed, index).permutation(pixels.shape[1])
    return pixels[:, order].reshape(images.shape)
