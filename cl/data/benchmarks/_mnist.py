"""MNIST (LeCun, Cortes and Burges, 1998) and Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017), in the format of MNIST.

Torchvision knows where their files are, and their checksums.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from cl.data.benchmarks import _pictures
from cl.data.benchmarks._arrays import MEND, Arrays, fingerprint_of
from cl.data.fetch import Remote, fetch, home_of
from cl.data.prepare import Format, Images, Labels, Say
from cl.errors import UserError
from cl.params import Benchmark

MNIST = Format(scale=255.0, mean=(0.1307,), deviation=(0.3081,))
FASHION = Format(scale=255.0, mean=(0.2860,), deviation=(0.3530,))
"""Mean and deviation of the grey levels of all 60,000 training images."""
UNSIGNED_BYTE = 8
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
"""The makers' files, unpacked."""
Name = Literal["mnist", "fashion-mnist"]
CLASSES: dict[Name, list[str]] = {
    "mnist": [str(digit) for digit in range(10)],
    "fashion-mnist": [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ],
}


def _digests(train: _pictures.Part, test: _pictures.Part) -> dict[str, str]:
    """The MD5 of each of `FILES`, if these are the arrays in it."""
    arrays = (train[0][:, 0], train[1].astype(np.uint8), test[0][:, 0], test[1].astype(np.uint8))
    found = {}
    for file, array in zip(FILES, arrays, strict=True):
        sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
        data = bytes([0, 0, UNSIGNED_BYTE, array.ndim]) + sides + array.tobytes()
        found[file] = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return found


PICTURES: dict[Name, _pictures.Known] = {
    "mnist": _pictures.Known(
        "mnist",
        "MNIST",
        28,
        1,
        CLASSES["mnist"],
        _digests,
        {
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
        {
            "train": "3655811c0e1223700a4714a92a51f55bd215ed7dc1fa2baa4326a2b58042d82d",
            "test": "634538fb34c5277fce98470b8b285d1e8419eb87f328da42ef1faf690d2c3911",
        },
    ),
    "fashion-mnist": _pictures.Known(
        "fashion-mnist",
        "Fashion-MNIST",
        28,
        1,
        CLASSES["fashion-mnist"],
        _digests,
        {
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
    ),
}
"""The MD5s of the unpacked files are in many public programs that load these data sets. Those of MNIST came out again
from the pictures of rasbt/mnist-pngs, in the order of their numbers."""


def remotes(name: Name) -> list[Remote]:
    """The four files of the data set."""
    from torchvision import datasets  # here, because it loads torch

    source = datasets.MNIST if name == "mnist" else datasets.FashionMNIST
    return [Remote(source.mirrors[0] + file, file, md5) for file, md5 in source.resources]


def fingerprint(options: Benchmark, raw: Path, say: Say | None = None) -> str:
    """Of MNIST."""
    del raw, say
    return fingerprint_of_data("mnist", options)


def fingerprint_of_data(name: Name, options: Benchmark) -> str:
    """By the checksums of the four files, or by the pictures."""
    place = _place(name, options)
    return fingerprint_of(remotes(name)) if place is None else _pictures.fingerprint(place, PICTURES[name])


def _place(name: Name, options: Benchmark) -> _pictures.Place | None:
    return _pictures.place_of(options, PICTURES[name].title, [f"{file}.gz" for file in FILES])


def read(name: Name, options: Benchmark, say: Say | None) -> Arrays:
    """The data set, fetched where it is not there; raises `UserError` for files that are missing or damaged, and for
    pictures as `_pictures.read` does.
    """
    if (place := _place(name, options)) is not None:
        return _pictures.read(place, PICTURES[name], say)
    paths = fetch(remotes(name), home_of(options, name), say)
    files = {path.name.partition("-idx")[0]: path for path in paths}  # train-images, ..., t10k-labels
    classes = CLASSES[name]
    train, test = (_pairs(files[f"{part}-images"], files[f"{part}-labels"], len(classes)) for part in ("train", "t10k"))
    return Arrays(name, classes, train, test)


def _pairs(images_path: Path, labels_path: Path, classes: int) -> tuple[Images, Labels]:
    images, labels = _idx(images_path, 3), _idx(labels_path, 1)
    if len(images) != len(labels):
        raise UserError(f"{labels_path}: {len(labels)} labels for {len(images)} images in {images_path.name}; {MEND}")
    if labels.size and labels.max() >= classes:
        raise UserError(f"{labels_path}: holds label {labels.max()}, but there are {classes} classes; {MEND}")
    return images[:, None], labels.astype(np.int64)


def _idx(path: Path, dimensions: int) -> Images:
    """The array in a gzipped file of the format: two zeros, type, number of dimensions, each as 32 bits, bytes."""
    try:
        with gzip.open(path) as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); {MEND}") from None
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(data[place : place + 4], "big") for place in range(4, start, 4)]
    if data[:4] != bytes([0, 0, UNSIGNED_BYTE, dimensions]) or len(data) != start + math.prod(shape):
        raise UserError(f"{path}: not an array of {dimensions} dimensions in MNIST's format; {MEND}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
