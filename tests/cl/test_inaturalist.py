"""iNaturalist 2018: which species count, how many of their images, which split they go to, and in what order."""

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cl.data.benchmarks import inaturalist
from cl.data.fetch import Remote
from cl.data.images import Listing
from cl.data.prepare import Say, prepare, read_manifest
from cl.errors import UserError
from cl.params import Benchmark

RAW = Path("unused")
SUPER = "Amphibia Animalia Arachnida Aves Fungi Insecta Mammalia Mollusca Plantae Reptilia"


def encoded(shade: int) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (6, 5), (shade, 255 - shade, 7)).save(made, "PNG")
    return made.getvalue()


def plant(root: Path, counts: dict[str, int]) -> Path:
    """Make so many images for each super-category/species, each of a shade of its own within it."""
    for place, count in counts.items():
        (root / "2018" / place).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / "2018" / place / f"{number:04d}.jpg").write_bytes(encoded(number))
    return root


def touched(root: Path, counts: dict[str, int]) -> Path:
    """As `plant`, for what looks at names alone."""
    for place, count in counts.items():
        (root / "2018" / place).mkdir(parents=True, exist_ok=True)
        for number in reversed(range(count)):
            (root / "2018" / place / f"{number:04d}.jpg").touch()
    return root


def options(root: Path | None, **more: Any) -> Benchmark:
    return Benchmark(name="inaturalist", path=None if root is None else str(root), image_size=4, **more)


def listings(root: Path, **more: Any) -> list[Listing]:
    return inaturalist._listings(root / "2018", options(root, **more))


def counts_of(listing: Listing) -> dict[str, list[int]]:
    return {split: np.bincount([label for _, label in files]).tolist() for split, files in listing.splits.items()}


def test_species_with_a_hundred_images_count_and_five_hundred_of_them_are_used(tmp_path: Path) -> None:
    touched(tmp_path, {"Fungi/20": 99, "Fungi/3": 100, "Fungi/11": 102, "Fungi/7": 108, "Fungi/12": 503})
    (tmp_path / "2018/Fungi/20/.hidden").touch()
    (listing,) = listings(tmp_path, order=["Fungi"])
    assert (listing.name, listing.classes) == ("Fungi", ["11", "12", "3", "7"])
    # 102: 71 + 10 + 20 are one too few, 108: 76 + 11 + 22 one too many; validation pays in both cases.
    assert counts_of(listing) == {
        "train": [71, 350, 70, 76],
        "validation": [9, 50, 10, 10],
        "test": [20, 100, 20, 22],
    }
    paths = [path for files in listing.splits.values() for path, _ in files]
    assert len(set(paths)) == len(paths)
    assert all(
        listing.classes[label] == path.split("/")[1] for files in listing.splits.values() for path, label in files
    )


def test_what_is_drawn_depends_on_seed_task_and_species_only(tmp_path: Path) -> None:
    touched(tmp_path / "a", {"Fungi/1": 510, "Fungi/2": 100})
    touched(tmp_path / "b", {"Fungi/2": 100, "Fungi/0": 100, "Fungi/1": 510})
    first, second = (listings(tmp_path / name, order=["Fungi"])[0] for name in "ab")
    for split, files in first.splits.items():
        assert {(path, label + 1) for path, label in files} < set(second.splits[split])
    other = listings(tmp_path / "a", order=["Fungi"], seed=1)[0]
    assert counts_of(other) == counts_of(first)
    assert other.splits != first.splits
    numbers = [path[-8:-4] for path, label in first.splits["train"] if label == 1]
    assert len(numbers) == 70
    assert numbers != [f"{number:04d}" for number in range(70)]


def test_caps_take_some_of_the_same_images(tmp_path: Path) -> None:
    touched(tmp_path, {"Fungi/1": 100, "Fungi/2": 120})
    (whole,) = listings(tmp_path, order=["Fungi"])
    (capped,) = listings(tmp_path, order=["Fungi"], train_per_class=5, validation_per_class=3)
    assert counts_of(capped) == {"train": [5, 5], "validation": [3, 3], "test": [20, 24]}
    assert set(capped.splits["train"]) < set(whole.splits["train"])
    assert set(capped.splits["validation"]) < set(whole.splits["validation"])
    assert capped.splits["test"] == whole.splits["test"]
    (shared,) = listings(tmp_path, order=["Fungi"], validation_share=0.05)
    assert counts_of(shared) == {"train": [76, 91], "validation": [4, 5], "test": [20, 24]}
    assert shared.splits["test"] == whole.splits["test"]


@pytest.mark.parametrize(
    ("order", "names"),
    [
        (None, SUPER),
        ("random", SUPER),
        ("related", "Aves Mammalia Reptilia Amphibia Animalia Fungi Mollusca Arachnida Insecta Plantae"),
        ("unrelated", "Aves Fungi Insecta Mollusca Plantae Reptilia Arachnida Mammalia Animalia Amphibia"),
        (["Reptilia", "Aves"], "Reptilia Aves"),
    ],
)
def test_orders(order: Any, names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inaturalist, "FEWEST", 10)
    touched(tmp_path, {f"{name}/{species}": 10 for name in [*SUPER.split(), "Protozoa"] for species in (1, 2)})
    assert [listing.name for listing in listings(tmp_path, order=order)] == names.split()
    assert [listing.name for listing in listings(tmp_path, order=order, tasks=2)] == names.split()[:2]


@pytest.mark.parametrize("layout", ["2018", "2018/train_val2018", "train_val2018"])
def test_images_become_tasks(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inaturalist, "FEWEST", 10)
    plant(tmp_path, {"Fungi/1": 10, "Fungi/2": 20, "Aves/5": 10, "Aves/6": 11, "Aves/7": 9})
    if layout != "2018":
        (tmp_path / "2018").rename(tmp_path / "moved")
        (tmp_path / layout).parent.mkdir(exist_ok=True)
        (tmp_path / "moved").rename(tmp_path / layout)
    made = options(tmp_path, order=["Fungi", "Aves"])
    fungi, aves = inaturalist.tasks(made, RAW)
    assert (fungi.name, fungi.classes, aves.name, aves.classes) == ("Fungi", ["1", "2"], "Aves", ["5", "6"])
    shades: dict[int, list[int]] = {0: [], 1: []}
    for images, labels in fungi.splits.values():
        assert images.shape == (len(labels), 3, 4, 4)
        for image, label in zip(images, labels, strict=True):
            assert (image[1] == 255 - image[0]).all()
            shades[int(label)].append(int(image[0, 0, 0]))
    assert {label: sorted(found) for label, found in shades.items()} == {0: list(range(10)), 1: list(range(20))}
    manifest = read_manifest(prepare(made, RAW, tmp_path / "out", say=lambda line: None).parent)
    assert manifest["tasks"][0]["splits"]["train"]["samples"] == 7 + 14


def test_the_fingerprint_follows_the_images_of_the_chosen_tasks(tmp_path: Path) -> None:
    touched(tmp_path, {f"{name}/{species}": 100 for name in ("Fungi", "Aves") for species in (1, 2)})
    made = options(tmp_path, order=["Fungi"])
    before = inaturalist.fingerprint(made, RAW)
    (tmp_path / "2018/Aves/1/0001.jpg").write_bytes(b"changed")
    assert inaturalist.fingerprint(made, RAW) == before
    (tmp_path / "2018/Fungi/1/0001.jpg").write_bytes(b"changed")
    assert inaturalist.fingerprint(made, RAW) != before


@pytest.mark.parametrize(
    ("spoil", "order", "words"),
    [
        (lambda root: (root / "2018/Aves").rename(root / "Aves"), ["Fungi", "Aves"], "no folder Aves; add it, or name"),
        (lambda root: None, None, "no folder Amphibia, Animalia, Arachnida, Insecta, Mammalia, Mollusca, Plantae, Rep"),
        (lambda root: (root / "2018").rename(root / "2019"), ["Aves"], "benchmark.path: neither 2018/<super-category>"),
        (lambda root: (root / "2018/Aves/1/0000.jpg").unlink(), ["Aves"], "Aves: 1 species with 100 images or more"),
        (lambda root: None, ["Actinopterygii"], "no task 'Actinopterygii' in inaturalist; there are: Amphibia, "),
        (lambda root: None, "hardest", "no order 'hardest'; known orders: random, related, unrelated"),
    ],
)
def test_what_is_missing_is_named(
    spoil: Callable[[Path], Any], order: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inaturalist, "fetch", None)  # with a path given nothing is fetched
    touched(tmp_path, {f"{name}/{species}": 100 for name in ("Fungi", "Aves") for species in (1, 2)})
    spoil(tmp_path)
    with pytest.raises(UserError, match=words):
        inaturalist.fingerprint(options(tmp_path, order=order), RAW)


@pytest.mark.parametrize("given", [False, True])
def test_the_archive_is_fetched_or_given_and_unpacked(
    given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inaturalist, "FEWEST", 10)
    planted = plant(tmp_path / "served", {"Fungi/1": 10, "Fungi/2": 10})
    asked: list[Remote] = []

    def fetch(remotes: Sequence[Remote], folder: Path, say: Say | None) -> list[Path]:
        asked.extend(remotes)
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / remotes[0].name, "w:gz") as tar:
            tar.add(planted / "2018", "train_val2018")
        return [folder / remotes[0].name]

    monkeypatch.setattr(inaturalist, "fetch", fetch)
    if given:
        (tmp_path / "train_val2018.tar.gz").touch()
    home = tmp_path if given else None
    (fungi,) = inaturalist.tasks(options(home, order=["Fungi"], tasks=1), RAW)
    assert len(fungi.splits["test"][1]) == 4
    inaturalist.fingerprint(options(home, order=["Fungi"]), RAW)  # finds it unpacked
    (remote,) = asked
    assert remote.url.endswith("/2018/train_val2018.tar.gz")
    assert remote.md5 == "b1c6952ce38f31868cc50ea72d066cc3"
