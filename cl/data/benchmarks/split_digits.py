"""split-digits: the ten digits, usually in five tasks of two classes each. Easy: most methods end near 0.99."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cl.data.benchmarks import _digits
from cl.data.benchmarks._digits import FORMAT, fingerprint
from cl.data.labels import LabelsAre
from cl.data.prepare import RawTask, Say
from cl.data.repetition import cut_again, repeated
from cl.data.subsets import chosen
from cl.errors import UserError
from cl.params import Benchmark

__all__ = ["FORMAT", "LABELS", "OPTIONS", "SAME_NAMES", "fingerprint", "tasks"]
OPTIONS = _digits.OPTIONS | {"classes_per_task", "repetition"}
LABELS: LabelsAre = "places"
SAME_NAMES = True
DIGITS = 10
PER_TASK = 2


def tasks(options: Benchmark, raw: Path, say: Say | None = None) -> Iterator[RawTask]:
    """Yield the tasks digits-0-1 to digits-8-9, or as `options` cuts and orders them.

    Raises `UserError` for a cut that leaves a remainder, and for an order or number of tasks that cannot be.
    """
    del say
    size = options.classes_per_task or PER_TASK
    if options.repetition:
        again = cut_again(DIGITS, size, options)
        digits = [str(digit) for digit in range(DIGITS)]
        yield from repeated(_digits.split(*_digits.read(raw), options), digits, again, options, {})
        return
    if DIGITS % size:
        raise UserError(f"benchmark.classes_per_task: {DIGITS} digits make no tasks of {size} each; take 2, 5 or 10")
    parts = {f"digits-{first}-{first + size - 1}": first for first in range(0, DIGITS, size)}
    names = chosen(list(parts), options)
    images, labels = _digits.read(raw)
    for name in names:
        first = parts[name]
        members = (labels >= first) & (labels < first + size)
        splits = _digits.split(images[members], labels[members] - first, options)
        yield RawTask(name, [str(first + label) for label in range(size)], splits)
