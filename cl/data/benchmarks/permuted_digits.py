"""permuted-digits: the ten digits again and again, each task under a fixed permutation of the pixels of its own.

The images of a task are the same under every permutation, and so are the splits: what is in the test set of one
task is in the training set of none. The first task is unpermuted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cl.data.benchmarks import _digits
from cl.data.benchmarks._digits import FORMAT, OPTIONS, fingerprint
from cl.data.labels import LabelsAre
from cl.data.prepare import RawTask, Say
from cl.data.subsets import chosen
from cl.params import Benchmark
from cl.rng import numpy_generator

__all__ = ["FORMAT", "LABELS", "OPTIONS", "fingerprint", "tasks"]
LABELS: LabelsAre = "names"
DEFAULT_TASKS = 10


def tasks(options: Benchmark, raw: Path, say: Say | None = None) -> Iterator[RawTask]:
    """Yield `permutation-01` and so on, ten tasks of ten classes or `options.tasks`, as `options.order` says."""
    del say
    numbers = {f"permutation-{index + 1:02d}": index for index in range(max(options.tasks or 0, DEFAULT_TASKS))}
    names = chosen(list(numbers), options)
    images, labels = _digits.read(raw)
    splits = _digits.split(images, labels, options)
    classes = [str(digit) for digit in range(10)]
    for name in names:
        index, pixels = numbers[name], np.arange(64)
        if index > 0:
            pixels = numpy_generator("permuted-digits", options.seed, index).permutation(64)
        permuted = {split: (x.reshape(-1, 64)[:, pixels].reshape(-1, 1, 8, 8), y) for split, (x, y) in splits.items()}
        yield RawTask(name, classes, permuted)
