"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): 60,000 colour images of 32 x 32 pixels.

Read from the binary version of the archives: the Python one, which torchvision takes, holds pickles, and a pickle can
run what its maker pleases.
"""

from __future__ import annotations

import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from cl.data.archive import read_on
from cl.data.benchmarks import _pictures
from cl.data.benchmarks._arrays import MEND, Arrays, fingerprint_of
from cl.data.fetch import Remote, fetch, home_of
from cl.data.prepare import Format, Images, Labels, Say
from cl.errors import UserError
from cl.params import Benchmark

SIDE = 32
PIXELS = 3 * SIDE * SIDE


@dataclass(frozen=True)
class Source:
    """One of the two, and how its archive is made up."""

    name: str
    remote: Remote
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    """The file with the names of the classes, one a line, in the order of the labels."""
    labels: int
    """How many bytes of labels come before the pixels of an image; the last is the one of the class."""
    format: Format
    """Mean and deviation of each channel over the 50,000 training images."""
    pictures: _pictures.Known
    """Its digests are those of public pictures (cyizhuo/CIFAR-10-dataset, cyizhuo/CIFAR-100-dataset): they were never
    compared with the archive itself. The means and deviations of those training pictures are the ones above."""


CIFAR10 = Source(
    "cifar10",
    Remote(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
    ),
    tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    ("test_batch.bin",),
    "batches.meta.txt",
    1,
    Format(scale=255.0, mean=(0.4914, 0.4822, 0.4465), deviation=(0.2470, 0.2435, 0.2616)),
    _pictures.Known(
        "cifar10",
        "CIFAR-10",
        SIDE,
        3,
        10,
        pictures={
            "train": "55a61f79a40ece2ceda9fb5f9f7078f6ea2fc4952489cef56682bcf92cfcc260",
            "test": "325704b01eb92e1e2a6215ae6a916bb7db7de054af0c496be1c7be2e0fcfbf5f",
        },
    ),
)
CIFAR100 = Source(
    "cifar100",
    Remote(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
    ),
    ("train.bin",),
    ("test.bin",),
    "fine_label_names.txt",
    2,
    Format(scale=255.0, mean=(0.5071, 0.4865, 0.4409), deviation=(0.2673, 0.2564, 0.2762)),
    _pictures.Known(
        "cifar100",
        "CIFAR-100",
        SIDE,
        3,
        100,
        pictures={
            "train": "6d2a03c47c105e4c34d3a2ff16c2803e8df0e5d6fa0c631e46663a327aeac573",
            "test": "381b7d98ce1e9b98232a8df0db0a22992654c39ff2433270656ab8ace5a45e65",
        },
    ),
)


def fingerprint_of_source(source: Source, options: Benchmark) -> str:
    """Of its one archive, or of the pictures."""
    place = _place(source, options)
    return fingerprint_of([source.remote]) if place is None else _pictures.fingerprint(place, source.pictures)


def _place(source: Source, options: Benchmark) -> _pictures.Place | None:
    return _pictures.place_of(options, source.pictures.title, [source.remote.name])


def read(source: Source, options: Benchmark, say: Say | None) -> Arrays:
    """The data set, fetched where it is not there; raises `UserError` for an archive that is missing or damaged, and
    for pictures as `_pictures.read` does.
    """
    if (place := _place(source, options)) is not None:
        return _pictures.read(place, source.pictures, say)
    (path,) = fetch([source.remote], home_of(options, source.name), say)
    files = _files(path, {*source.train, *source.test, source.names})
    classes = files[source.names].decode().split()
    train, test = (
        _records(path, b"".join(files[name] for name in names), source.labels, len(classes))
        for names in (source.train, source.test)
    )
    return Arrays(source.name, classes, train, test)


def _files(archive: Path, wanted: set[str]) -> dict[str, bytes]:
    members = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if name in wanted and (file := tar.extractfile(member)) is not None:
                    members[name] = file.read()
            read_on(tar)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{archive}: cannot be read ({error}); {MEND}") from None
    if missing := sorted(wanted - set(members)):
        raise UserError(f"{archive}: lacks {', '.join(missing)}; {MEND}")
    return members


def _records(archive: Path, data: bytes, before: int, classes: int) -> tuple[Images, Labels]:
    """The images and labels in so many bytes: per image its labels, then its red, green and blue planes by rows."""
    count, rest = divmod(len(data), before + PIXELS)
    if count == 0 or rest:
        raise UserError(f"{archive}: cut short within an image; {MEND}")
    table = np.frombuffer(data, np.uint8).reshape(count, before + PIXELS)
    labels = table[:, before - 1].astype(np.int64)
    if labels.max() >= classes:
        raise UserError(f"{archive}: holds label {labels.max()}, but there are {classes} classes; {MEND}")
    return table[:, before:].reshape(count, 3, SIDE, SIDE), labels
