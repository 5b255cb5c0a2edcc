"""inaturalist: photographs of animals, plants and fungi (iNaturalist 2018); the survey's ten super-categories as tasks.

Van Horn et al., The iNaturalist species classification and detection dataset, CVPR 2018; tasks, species, split and
orders as in De Lange et al. 2021. The classes of a task are its species with at least 100 images, of which at most
500 are used: 70 % for training, 10 % for validation, 20 % for the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cl.data.fetch import Remote, fetch, home_of, unpack
from cl.data.images import IMAGENET, MIDDLE, OF_IMAGES, File, Listing, raw_tasks
from cl.data.images import fingerprint as fingerprint_of
from cl.data.labels import LabelsAre
from cl.data.prepare import SPLITS, RawTask, Say
from cl.data.source import entries
from cl.data.subsets import chosen, share_of
from cl.errors import UserError
from cl.params import Benchmark
from cl.rng import numpy_generator

__all__ = ["FORMAT", "LABELS", "OPTIONS", "fingerprint", "tasks"]
FORMAT = IMAGENET
OPTIONS = OF_IMAGES
LABELS: LabelsAre = "names"
IMAGE_SIZE = 224
FEWEST, MOST = 100, 500
"""Images of a species: with fewer it is left out, of more so many are drawn."""
PERCENT = {"train": 70, "validation": 10, "test": 20}
VERSION, PACKED = "2018", "train_val2018"
"""The folder's name in torchvision's layout, and in the archive."""
PLACES = {
    "Amphibia": (4, 10),
    "Animalia": (5, 9),
    "Arachnida": (8, 7),
    "Aves": (1, 1),
    "Fungi": (6, 2),
    "Insecta": (9, 3),
    "Mammalia": (2, 8),
    "Mollusca": (7, 4),
    "Plantae": (10, 5),
    "Reptilia": (3, 6),
}
"""The place of each task in the survey's orders: from Aves, the largest, always on to what is most (first number) or
least (second) like the tasks before it. The order that the survey calls random is this one, the alphabet's."""
ORDERS = {
    "random": list(PLACES),
    "related": sorted(PLACES, key=lambda name: PLACES[name][0]),
    "unrelated": sorted(PLACES, key=lambda name: PLACES[name][1]),
}


def tasks(options: Benchmark, raw: Path, say: Say | None = None) -> Iterator[RawTask]:
    """Yield the super-categories as tasks; `options.order` is a list of them, or `random`, `related` or `unrelated`.

    `options.path` is the folder that holds `2018/<super-category>/<species>/<image>`; null: the archive is fetched and
    unpacked. Images are (3, S, S), S = `options.image_size` (default 224). Raises `UserError` for super-categories
    that are missing, and for bad images as `options.on_bad_image` says.
    """
    del raw
    root = _root(options, say)
    size = options.image_size or IMAGE_SIZE
    yield from raw_tasks(root, _listings(root, options), size, options.on_bad_image, say, MIDDLE)


def fingerprint(options: Benchmark, raw: Path, say: Say | None = None) -> str:
    """Changes when an image of the chosen tasks does, or another takes its place."""
    del raw
    root = _root(options, say)
    return fingerprint_of(root, _listings(root, options))


def _root(options: Benchmark, say: Say | None = None) -> Path:
    """The folder of the super-categories; the archive is unpacked where only that is there, fetched without a path."""
    home = home_of(options)
    for place in (home / VERSION, home / VERSION / PACKED, home / PACKED):
        if any((place / name).is_dir() for name in PLACES):
            return place
    from torchvision.datasets.inaturalist import DATASET_MD5, DATASET_URLS  # loads torch

    url = DATASET_URLS[VERSION]
    remote = Remote(url, url.rpartition("/")[2], DATASET_MD5[VERSION])
    if options.path is not None and not (home / remote.name).exists():
        raise UserError(f"benchmark.path: neither {VERSION}/<super-category>/<species> nor {remote.name} in {home}")
    (archive,) = fetch([remote], home, say)
    return unpack(archive, home / VERSION, say) / PACKED


def _listings(root: Path, options: Benchmark) -> list[Listing]:
    names = chosen(ORDERS["random"], options, ORDERS)
    if missing := [name for name in names if not (root / name).is_dir()]:
        raise UserError(
            f"{root}: no folder {', '.join(missing)}; add it, or name the tasks to learn in benchmark.order"
        )
    return [_listing(root, name, options) for name in names]


def _listing(root: Path, task: str, options: Benchmark) -> Listing:
    classes: list[str] = []
    caps = {"train": options.train_per_class, "validation": options.validation_per_class, "test": None}
    splits: dict[str, list[File]] = {split: [] for split in SPLITS}
    for species in entries(root / task)[0]:
        images = entries(root / task / species)[1]
        if len(images) < FEWEST:
            continue
        draw = numpy_generator("inaturalist", options.seed, task, species)
        images = [images[index] for index in draw.permutation(len(images))[:MOST]]
        for split, count in _sizes(len(images), options.validation_share).items():
            taken, images = images[:count], images[count:]
            splits[split] += [(f"{task}/{species}/{image}", len(classes)) for image in sorted(taken[: caps[split]])]
        classes.append(species)
    if len(classes) < 2:
        raise UserError(
            f"{root / task}: {len(classes)} species with {FEWEST} images or more; a task needs two at least"
        )
    return Listing(task, classes, splits)


def _sizes(images: int, share: float | None) -> dict[str, int]:
    """How many of a species' images each split gets, as the survey rounds: what does not add up costs validation one.

    Where the three together were one too few (of 102 images), two images are in no split. A share is that of
    validation in what is not for the test.
    """
    sizes = {split: round(images * PERCENT[split] / 100) for split in SPLITS}
    sizes["validation"] -= sum(sizes.values()) != images
    if share is not None:
        held = share_of(sizes["train"] + sizes["validation"], share)
        sizes |= {"train": sizes["train"] + sizes["validation"] - held, "validation": held}
    return sizes
