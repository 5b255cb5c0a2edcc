"""A folder of pictures in which classes come again: {cat, dog}, {bird, dog, fish}, {cat}."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cl.data.prepare import prepare
from cl.params import Benchmark

TREE = {"1-pets": ("cat", "dog"), "2-zoo": ("bird", "dog", "fish"), "3-cats": ("cat",)}
COLUMNS = [[0, 1], [2, 1, 3], [0]]
"""Of the classes of each task, by label: cat 0, dog 1, bird 2, fish 3."""
COLOURS = {"cat": (200, 60, 60), "dog": (60, 200, 60), "bird": (60, 60, 200), "fish": (180, 180, 60)}
SIDE = 4


def plant(root: Path, each: int = 15) -> Path:
    """`<task>/<class>/<number>.png`: noise around the colour of the class."""
    draw = np.random.default_rng(0)
    for task, classes in TREE.items():
        for name in classes:
            (root / task / name).mkdir(parents=True)
            for number in range(each):
                noise = draw.integers(-50, 50, (SIDE, SIDE, 3))
                pixels = (np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / task / name / f"{number:02d}.png")
    return root


def options(root: Path, tasks: int = 3) -> Benchmark:
    """How they are prepared."""
    return Benchmark(name="folder", path=str(root), image_size=SIDE, tasks=tasks)


def prepared(folder: Path, tasks: int = 3) -> Path:
    """Planted and prepared below the folder."""
    root = folder / "pictures"
    prepare(
        options(root if root.exists() else plant(root), tasks), folder, folder / "out" / "prepared", lambda line: None
    )
    return folder / "out" / "prepared"
