"""A small folder of real photographs: pieces of the two that scikit-learn comes with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

PIECES = {
    "temple": {"sky": ("china.jpg", (0, 0, 640, 120)), "roof": ("china.jpg", (150, 160, 560, 400))},
    "flower": {"bloom": ("flower.jpg", (170, 60, 470, 360)), "leaves": ("flower.jpg", (0, 0, 180, 427))},
}
"""By task and class: of which photograph, and within which box its pictures are cut out."""
SIDE = 90


def photographs() -> dict[str, Image.Image]:
    """Both, by the names of their files: a temple in China, and a flower."""
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    names = (Path(name).name for name in found.filenames)
    return {name: Image.fromarray(np.asarray(pixels)) for name, pixels in zip(names, found.images, strict=True)}


def plant(root: Path, each: int = 10, tasks: tuple[str, ...] = tuple(PIECES)) -> Path:
    """`<task>/<class>/<number>.jpg`, `each` pictures a class."""
    whole = photographs()
    for task in tasks:
        for name, (file, box) in PIECES[task].items():
            (root / task / name).mkdir(parents=True)
            for number, piece in zip(range(each), _pieces(whole[file], box), strict=False):
                piece.save(root / task / name / f"{number:02d}.jpg", quality=90)
    return root


def _pieces(picture: Image.Image, box: tuple[int, int, int, int]) -> Iterator[Image.Image]:
    draw = np.random.default_rng(0)
    left, top, right, bottom = box
    while True:
        x, y = int(draw.integers(left, right - SIDE)), int(draw.integers(top, bottom - SIDE))
        yield picture.crop((x, y, x + SIDE, y + SIDE))
