"""split-digits: the ten digits in five tasks of two classes each. Easy: most methods end near 0.99."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cl.data.benchmarks import _digits
from cl.data.benchmarks._digits import FORMAT, fingerprint
from cl.data.prepare import RawTask, Say
from cl.errors import UserError
from cl.params import Benchmark

__all__ = ["FORMAT", "fingerprint", "tasks"]


def tasks(options: Benchmark, raw: Path, say: Say | None = None) -> Iterator[RawTask]:
    """Yield the tasks 0-1, 2-3, 4-5, 6-7, 8-9; raises `UserError` where more than five are asked for."""
    del say
    if (options.tasks or 5) > 5:
        raise UserError(f"benchmark.tasks: split-digits has five tasks, not {options.tasks}")
    images, labels = _digits.read(raw)
    for first in range(0, 2 * (options.tasks or 5), 2):
        chosen = np.isin(labels, (first, first + 1))
        splits = _digits.split(images[chosen], labels[chosen] - first, options)
        yield RawTask(f"digits-{first}-{first + 1}", [str(first), str(first + 1)], splits)
