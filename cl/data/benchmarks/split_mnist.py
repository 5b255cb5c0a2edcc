"""split-mnist: MNIST's ten digits in five tasks of two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cl.data.benchmarks import _mnist
from cl.data.benchmarks._arrays import OF_SPLITS, cut, cut_tasks
from cl.data.benchmarks._mnist import MNIST as FORMAT
from cl.data.benchmarks._mnist import fingerprint
from cl.data.labels import LabelsAre
from cl.data.prepare import RawTask, Say
from cl.params import Benchmark

__all__ = ["FORMAT", "LABELS", "OPTIONS", "SAME_NAMES", "fingerprint", "tasks"]
OPTIONS = OF_SPLITS
LABELS: LabelsAre = "places"
SAME_NAMES = True
CLASSES = 10
CLASSES_PER_TASK = 2


def tasks(options: Benchmark, raw: Path, say: Say | None = None) -> Iterator[RawTask]:
    """Yield `classes-0-1` to `classes-8-9`, or as `options` cuts and orders them."""
    del raw
    parts = cut(CLASSES, options, CLASSES_PER_TASK)
    yield from cut_tasks(_mnist.read("mnist", options, say), options, parts)
