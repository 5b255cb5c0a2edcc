"""MNIST (LeCun, Cortes and Burges, 1998) and Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017), in the format of MNIST.

Torchvision knows where their files are, and their checksums.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from cl.data.benchmarks._arrays import MEND, Arrays, fingerprint_of
from cl.data.fetch import Remote, fetch, home_of
from cl.data.prepare import Format, Images, Labels, Say
from cl.errors import UserError
from cl.params import Benchmark

MNIST = Format(scale=255.0, mean=(0.1307,), deviation=(0.3081,))
FASHION = Format(scale=255.0, mean=(0.2860,), deviation=(0.3530,))
"""Mean and deviation of the grey levels of all 60,000 training images."""
UNSIGNED_BYTE = 8
Name = Literal["mnist", "fashion-mnist"]


def remotes(name: Name) -> list[Remote]:
    """The four files of the data set."""
    from torchvision import datasets  # here, because it loads torch

    source = datasets.MNIST if name == "mnist" else datasets.FashionMNIST
    return [Remote(source.mirrors[0] + file, file, md5) for file, md5 in source.resources]


def fingerprint(options: Benchmark, raw: Path, say: Say | None = None) -> str:
    """Of MNIST."""
    del options, raw, say
    return fingerprint_of(remotes("mnist"))


def read(name: Name, options: Benchmark, say: Say | None) -> Arrays:
    """The data set, fetched where it is not there; raises `UserError` for files that are missing or damaged."""
    paths = fetch(remotes(name), home_of(options, name), say)
    files = {path.name.partition("-idx")[0]: path for path in paths}  # train-images, ..., t10k-labels
    classes = [str(digit) for digit in range(10)]
    if name == "fashion-mnist":
        from torchvision.datasets import FashionMNIST

        classes = list(FashionMNIST.classes)
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
