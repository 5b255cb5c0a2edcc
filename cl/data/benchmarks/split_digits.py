"""split-digits: the ten digits in five tasks of two classes each. Easy: most methods end near 0.99."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cl.data.benchmarks import _digits
from cl.data.benchmarks._digits import FORMAT, fingerprint
from cl.data.labels import LabelsAre
from cl.data.prepare import RawTask, Say
from cl.data.repetition import cut_again, repeated
from cl.data.subsets import chosen
from cl.params import Benchmark

__all__ = ["FORMAT", "LABELS", "OPTIONS", "SAME_NAMES", "fingerprint", "tasks"]
OPTIONS = _digits.OPTIONS | {"repetition"}
LABELS: LabelsAre = "places"
SAME_NAMES = True
DIGITS, PER_TASK = 10, 2


def tasks(options: Benchmark, raw: Path, say: Say | None = None) -> Iterator[RawTask]:
    """Yield the tasks digits-0-1 to digits-8-9, or those of `cut_again` with `options.repetition`.

    Raises `UserError` for an order or number of them that cannot be.
    """
    del say
    if options.repetition:
        again = cut_again(DIGITS, PER_TASK, options)
        names = [str(digit) for digit in range(DIGITS)]
        yield from repeated(_digits.split(*_digits.read(raw), options), names, again, options, {})
        return
    pairs = {f"digits-{first}-{first + 1}": first for first in range(0, DIGITS, PER_TASK)}
    names = chosen(list(pairs), options)
    images, labels = _digits.read(raw)
    for name in names:
        first = pairs[name]
        members = np.isin(labels, (first, first + 1))
        splits = _digits.split(images[members], labels[members] - first, options)
        yield RawTask(name, [str(first), str(first + 1)], splits)
