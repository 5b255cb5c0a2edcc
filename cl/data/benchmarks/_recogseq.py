"""Readers of the eight sets of recogseq, each in the layout it is published in: which picture is of which class.

A reader is given the folder of the set and the benchmark's seed and returns the training and the test pictures. A
picture is a path relative to the folder; where it is a part of a file, what follows `#` says which part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from cl.data.benchmarks._recogseq_places import place
from cl.data.source import entries
from cl.errors import UserError, count
from cl.rng import numpy_generator

Named = list[tuple[str, str]]
"""Pictures, each with the name of its class."""
ACTIONS = (
    "jumping",
    "phoning",
    "playinginstrument",
    "reading",
    "ridingbike",
    "ridinghorse",
    "running",
    "takingphoto",
    "usingcomputer",
    "walking",
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
FIRST_LETTER = 11
"""Number of the folder of A; those before are the digits."""
LETTERS_HELD = (580 + 570) / (6850 + 580 + 570)
"""Share of the letters that the survey keeps for validation and test."""


def flowers(folder: Path, seed: int) -> tuple[Named, Named]:
    """Oxford Flowers 102 (Nilsback and Zisserman 2008); train and val are the training pictures, as in the survey."""
    del seed
    classes = _matrix(folder, "imagelabels.mat", "labels")
    images = place(folder, "jpg")

    def named(*sets: str) -> Named:
        numbers = np.concatenate([_matrix(folder, "setid.mat", name) for name in sets]).tolist()
        return [(f"{images}/image_{number:05d}.jpg", f"{classes[number - 1]:03d}") for number in numbers]

    return named("trnid", "valid"), named("tstid")


def scenes(folder: Path, seed: int) -> tuple[Named, Named]:
    """MIT Indoor Scenes (Quattoni and Torralba 2009): two lists of <class>/<image>."""
    del seed
    images = place(folder, "Images")

    def named(name: str) -> Named:
        paths = [path for (path,) in _rows(folder, name, 1)]
        return [(f"{images}/{path}", path.partition("/")[0]) for path in paths]

    return named("TrainImages.txt"), named("TestImages.txt")


def birds(folder: Path, seed: int) -> tuple[Named, Named]:
    """Caltech-UCSD Birds-200-2011 (Wah et al. 2011): numbered images; 1 for training, 0 for the test."""
    del seed
    images = place(folder, "images")
    paths, training = (dict(_rows(folder, name, 2)) for name in ("images.txt", "train_test_split.txt"))
    classes = dict(_rows(folder, "image_class_labels.txt", 2))
    if not paths.keys() == training.keys() == classes.keys():
        raise UserError(f"{folder}: images.txt and the lists beside it are not of the same images; fetch them again")

    def named(flag: str) -> Named:
        numbers = [number for number in paths if training[number] == flag]
        return [(f"{images}/{paths[number]}", f"{int(classes[number]):03d}") for number in numbers]

    return named("1"), named("0")


def cars(folder: Path, seed: int) -> tuple[Named, Named]:
    """Stanford Cars (Krause et al. 2013), as in torchvision: two folders of images with their annotations."""
    del seed
    classes = _matrix(folder, "cars_meta.mat", "class_names")

    def named(images: str, annotations: str) -> Named:
        records, path = _matrix(folder, annotations, "annotations"), place(folder, images)
        return [(f"{path}/{record['fname']}", str(classes[record["class"] - 1])) for record in records]

    return named("cars_train", "cars_train_annos.mat"), named("cars_test", "cars_test_annos_withlabels.mat")


def aircraft(folder: Path, seed: int) -> tuple[Named, Named]:
    """FGVC-Aircraft (Maji et al. 2013), its 100 variants."""
    del seed
    images = place(folder, "images")

    def named(name: str) -> Named:
        return [(f"{images}/{number}.jpg", variant) for number, variant in _rows(folder, name, 2)]

    return named("images_variant_trainval.txt"), named("images_variant_test.txt")


def actions(folder: Path, seed: int) -> tuple[Named, Named]:
    """VOC 2012 Actions (Everingham et al. 2012): every person with one action, or with none of the ten (other).

    Training are the people of the train lists, test those of val. A picture is the person's box, in pixels.
    """
    del seed
    lists, notes, images = (place(folder, name) for name in ("ImageSets", "Annotations", "JPEGImages"))

    def named(split: str) -> Named:
        doing: dict[tuple[str, str], list[str]] = {}
        for action in ACTIONS:
            for image, number, flag in _rows(folder, f"{lists}/Action/{action}_{split}.txt", 3):
                doing.setdefault((image, number), []).extend([action] if flag == "1" else [])
        # Who does two things at once would be of two classes.
        people = {person: "".join(actions) or "other" for person, actions in doing.items() if len(actions) < 2}
        return [
            (f"{images}/{image}.jpg#{_box(folder / notes / f'{image}.xml', int(number))}", action)
            for (image, number), action in people.items()
        ]

    return named("train"), named("val")


def letters(folder: Path, seed: int) -> tuple[Named, Named]:
    """Chars74K (de Campos et al. 2009), the letters in photographs of English that its authors call good.

    They come without a split: of each letter the share of the survey's test and validation is drawn, two at least.
    """
    images = f"{place(folder, 'GoodImg')}/Bmp"
    training: Named = []
    test: Named = []
    for number, letter in enumerate(LETTERS, FIRST_LETTER):
        sample = f"{images}/Sample{number:03d}"
        names = entries(folder / sample)[1] if (folder / sample).is_dir() else []
        if len(names) < 3:
            raise UserError(
                f"{folder / sample}: {count(len(names), 'image')} of {letter}; it needs three, fetch them again"
            )
        drawn = [(f"{sample}/{name}", letter) for name in numpy_generator("letters", seed, letter).permutation(names)]
        held = max(2, round(LETTERS_HELD * len(names)))
        test += drawn[:held]
        training += drawn[held:]
    return training, test


def svhn(folder: Path, seed: int) -> tuple[Named, Named]:
    """Street View House Numbers (Netzer et al. 2011), cropped digits; the digit 0 is labelled 10 there."""
    del seed

    def named(name: str) -> Named:
        path = place(folder, name)
        return [(f"{path}#{number}", str(digit % 10)) for number, digit in enumerate(_matrix(folder, name, "y"))]

    return named("train_32x32.mat"), named("test_32x32.mat")


def people(folder: Path, pictures: Sequence[str]) -> Iterator[Image.Image]:
    """The pictures of `actions`, one after the other."""
    for picture in pictures:
        path, _, box = picture.partition("#")
        try:
            with Image.open(folder / path) as photograph:
                left, top, right, bottom = map(int, box.split(","))
                yield photograph.convert("RGB").crop((left, top, right, bottom))
        except OSError as error:  # Pillow's errors of a damaged picture are of this kind too
            raise UserError(f"{folder / path}: cannot be read ({error}); unpack the archive again") from None


def digits(folder: Path, pictures: Sequence[str]) -> Iterator[Image.Image]:
    """The pictures of `svhn`, one after the other."""
    arrays: dict[str, Any] = {}
    for picture in pictures:
        path, _, number = picture.partition("#")
        if path not in arrays:
            arrays[path] = _matrix(folder, path, "X")
        yield Image.fromarray(arrays[path][..., int(number)])


READERS: Mapping[str, Callable[[Path, int], tuple[Named, Named]]] = {
    reader.__name__: reader for reader in (flowers, scenes, birds, cars, aircraft, actions, letters, svhn)
}
"""In the survey's order."""
PARTS: Mapping[str, Callable[[Path, Sequence[str]], Iterator[Image.Image]]] = {"actions": people, "svhn": digits}
"""How pictures are read that are no files of their own."""


def _rows(folder: Path, name: str, columns: int) -> list[list[str]]:
    path = folder / place(folder, name)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch it again") from None
    rows = [line.split(maxsplit=columns - 1) for line in lines if line.strip()]
    for row in rows:
        if len(row) != columns:
            raise UserError(f"{path}: a line of {columns} parts expected, not {' '.join(row)!r}; fetch it again")
    return [[part.strip() for part in row] for row in rows]


def _matrix(folder: Path, name: str, variable: str) -> Any:
    """A variable of a MATLAB file, without axes of length one."""
    from scipy.io import loadmat

    path = folder / place(folder, name)
    try:
        return np.atleast_1d(loadmat(path, variable_names=[variable], squeeze_me=True)[variable])
    except Exception as error:  # damaged bytes raise whatever the reader's arithmetic runs into
        raise UserError(f"{path}: {variable} cannot be read from it ({error!r}); fetch it again") from None


def _box(path: Path, number: int) -> str:
    """Left, top, right and bottom of an annotation's object, as Pillow counts; VOC counts from 1, ends included."""
    try:
        box = ElementTree.parse(path).getroot().findall("object")[number - 1].find("bndbox")
        assert box is not None
        left, top, right, bottom = (round(float(box.findtext(side, ""))) for side in ("xmin", "ymin", "xmax", "ymax"))
    except (OSError, ElementTree.ParseError, IndexError, AssertionError, ValueError) as error:
        raise UserError(f"{path}: no box of object {number} ({error!r}); unpack the archive again") from None
    return f"{left - 1},{top - 1},{right},{bottom}"
