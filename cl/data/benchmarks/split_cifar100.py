"""split-cifar100: the hundred classes of CIFAR-100, in the order of their names, in ten tasks of ten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cl.data.benchmarks._arrays import OF_SPLITS, cut, cut_tasks
from cl.data.benchmarks._cifar import CIFAR100, fingerprint_of_source, read
from cl.data.labels import LabelsAre
from cl.data.prepare import RawTask, Say
from cl.params import Benchmark

__all__ = ["FORMAT", "LABELS", "OPTIONS", "SAME_NAMES", "fingerprint", "tasks"]
FORMAT = CIFAR100.format
OPTIONS = OF_SPLITS
LABELS: LabelsAre = "places"
SAME_NAMES = True
CLASSES = 100
CLASSES_PER_TASK = 10


def tasks(options: Benchmark, raw: Path, say: Say | None = None) -> Iterator[RawTask]:
    """Yield `classes-00-09` to `classes-90-99`, or as `options` cuts and orders them."""
    del raw
    parts = cut(CLASSES, options, CLASSES_PER_TASK)
    yield from cut_tasks(read(CIFAR100, options, say), options, parts)


def fingerprint(options: Benchmark, raw: Path, say: Say | None = None) -> str:
    """By the checksum of the archive, or by the pictures."""
    del raw, say
    return fingerprint_of_source(CIFAR100, options)
