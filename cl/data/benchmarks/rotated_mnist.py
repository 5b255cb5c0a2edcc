"""rotated-mnist: the ten digits again and again, each task turned by 18 degrees more than the one before.

As Lopez-Paz and Ranzato (2017), who turn by angles between 0 and 180 degrees; ours are evenly spread and not drawn, so
that a task is the same however many are asked for. The images of a task, and their splits, are the same at every angle.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from cl.data.benchmarks import _mnist
from cl.data.benchmarks._arrays import OF_ARRAYS, changed, resized, splits_of
from cl.data.benchmarks._mnist import MNIST as FORMAT
from cl.data.benchmarks._mnist import fingerprint
from cl.data.labels import LabelsAre
from cl.data.prepare import RawTask, Say
from cl.data.subsets import chosen
from cl.errors import UserError
from cl.params import Benchmark

__all__ = ["FORMAT", "LABELS", "OPTIONS", "fingerprint", "tasks"]
OPTIONS = OF_ARRAYS
LABELS: LabelsAre = "names"
DEFAULT_TASKS = 10
STEP = 180 // DEFAULT_TASKS
"""Degrees from one task to the next."""


def tasks(options: Benchmark, raw: Path, say: Say | None = None) -> Iterator[RawTask]:
    """Yield `rotation-000`, `rotation-018` and so on: ten tasks of ten classes, or `options.tasks`, up to 20.

    The number is the angle in degrees, counter-clockwise. Raises `UserError` for more tasks than there are angles.
    """
    del raw
    count = max(options.tasks or 0, DEFAULT_TASKS)
    if count * STEP > 360:
        raise UserError(f"benchmark.tasks: rotated-mnist has {360 // STEP} angles {STEP} degrees apart, not {count}")
    angles = {f"rotation-{angle:03d}": angle for angle in range(0, count * STEP, STEP)}
    names = chosen(list(angles), options)
    data = _mnist.read("mnist", options, say)
    splits = splits_of(data, options, range(len(data.classes)))
    for name in names:
        turn = functools.partial(_turned, angle=angles[name])
        turned = changed(splits, turn) if angles[name] else splits
        yield RawTask(name, data.classes, resized(turned, options.image_size), data.notes)


def _turned(picture: Image.Image, angle: int) -> Image.Image:
    """About its middle, within its frame: the corners that turn out of it are lost, what turns in is black."""
    return picture.rotate(angle, Image.Resampling.BILINEAR)
