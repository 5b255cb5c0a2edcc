"""MNIST, Fashion-MNIST and CIFAR from folders of pictures, small ones made of the same arrays as the makers' files."""

import dataclasses
import gzip
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cl.data.benchmarks import _cifar, _mnist, split_cifar100
from cl.data.benchmarks._pictures import unordered
from cl.data.prepare import RawTask, benchmark_file, prepare, read_manifest
from cl.errors import UserError
from cl.params import Benchmark
from tests.cl.test_array_benchmarks import idx, pictures

RAW = Path("unused")
Part = tuple[np.ndarray, np.ndarray]


def written(root: Path, parts: dict[str, Part], names: Any, number: Callable[[str, int], str]) -> Path:
    """A folder of pictures; `number` is the name of a picture by its part and index."""
    for part, (images, labels) in parts.items():
        for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            place = root / part / names[label] / f"{number(part, index)}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image if image.ndim == 2 else image.transpose(1, 2, 0)).save(place)
    return root


def after_the_others(part: str, index: int) -> str:
    """The numbers of rasbt/mnist-pngs, whose test pictures come after the 60,000 for training."""
    return str(index + (60000 if part == "test" else 0))


@pytest.fixture
def arrays() -> dict[str, Part]:
    """So many that by name 10 would come before 2."""
    return {"train": pictures(10, 3, (28, 28), 1), "test": pictures(10, 2, (28, 28), 2)}


@pytest.fixture
def mnist(tmp_path: Path, arrays: dict[str, Part], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of pictures; beside it, in `makers`, the files with the same arrays, which count as the real ones."""
    published = {}
    (tmp_path / "makers").mkdir()
    for part, name in (("train", "train"), ("test", "t10k")):
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays[part], strict=True):
            data = idx(array)
            (tmp_path / "makers" / f"{name}-{kind}-ubyte.gz").write_bytes(data)
            published[f"{name}-{kind}-ubyte"] = hashlib.md5(gzip.decompress(data)).hexdigest()
    known = dataclasses.replace(_mnist.PICTURES["mnist"], published=published, pictures=None)
    monkeypatch.setitem(_mnist.PICTURES, "mnist", known)
    return written(tmp_path / "pngs", arrays, "0123456789", after_the_others)


def made(name: str, path: Path, say: Any = None, **options: Any) -> list[RawTask]:
    return list(benchmark_file(name).tasks(Benchmark(name=name, path=str(path), **options), RAW, say))


def same(one: list[RawTask], other: list[RawTask]) -> bool:
    return [(task.name, task.classes) for task in one] == [(task.name, task.classes) for task in other] and all(
        (mine == theirs).all()
        for a, b in zip(one, other, strict=True)
        for split in a.splits
        for mine, theirs in zip(a.splits[split], b.splits[split], strict=True)
    )


def zipped(folder: Path, archive: Path, top: str) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"{top}README.md", "Pictures.")
        for path in folder.rglob("*.png"):
            file.write(path, f"{top}{path.relative_to(folder)}")
    return archive


@pytest.mark.parametrize("name", ["split-mnist", "permuted-mnist", "rotated-mnist"])
def test_as_the_makers_files(name: str, mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remotes = [
        dataclasses.replace(remote, md5=hashlib.md5((tmp_path / "makers" / remote.name).read_bytes()).hexdigest())
        for remote in _mnist.remotes("mnist")
    ]
    monkeypatch.setattr(_mnist, "remotes", lambda name: remotes)
    theirs, lines = made(name, tmp_path / "makers", tasks=2), []
    ours = made(name, mnist, lines.append, tasks=2)
    assert same(ours, theirs)
    assert all(task.notes["pictures"]["as_known"] for task in ours)
    assert {task.notes["pictures"]["order"] for task in ours} == {"official"}
    assert lines == [
        f"prepared: {mnist}: 30 pictures for training and 20 for the test, all those of MNIST; their order: official"
    ]
    for top in ("", "mnist-pngs-main/") if name == "split-mnist" else ():
        assert same(made(name, zipped(mnist, tmp_path / f"{len(top)}.zip", top), tasks=2), theirs)


def test_another_picture_is_warned_of_and_noted(mnist: Path, tmp_path: Path) -> None:
    options, lines = Benchmark(name="split-mnist", path=str(mnist)), []
    (entry, *_) = read_manifest(prepare(options, RAW, tmp_path / "a", say=lambda line: None).parent)["tasks"]
    assert entry["pictures"]["as_known"]
    next((mnist / "train" / "0").iterdir()).write_bytes(next((mnist / "test" / "0").iterdir()).read_bytes())
    (entry, *_) = read_manifest(prepare(options, RAW, tmp_path / "a", say=lines.append).parent)["tasks"]
    assert entry["pictures"]["as_known"] is False
    assert entry["pictures"]["order"] == "by number"
    assert any("warning" in line and "not those of MNIST (the digests differ)" in line for line in lines)


def test_where_names_are_no_numbers_nothing_is_said_of_the_order(mnist: Path, arrays: Any, tmp_path: Path) -> None:
    plain = written(tmp_path / "named", arrays, "0123456789", lambda part, index: f"picture {index:02d}")
    ranks = {
        part: [(labels[:index] == labels[index]).sum() for index in range(len(labels))]
        for part, (_, labels) in arrays.items()
    }
    twice = written(tmp_path / "twice", arrays, "0123456789", lambda part, index: str(ranks[part][index]))
    for folder in (plain, twice):
        notes = made("split-mnist", folder)[0].notes["pictures"]
        assert (notes["as_known"], notes["order"]) == (None, "by class and name")
        assert notes["sha256"] == made("split-mnist", mnist)[0].notes["pictures"]["sha256"]


def test_the_order_counts_in_no_digest() -> None:
    images, labels = pictures(10, 3, (1, 28, 28), 1)
    assert unordered((images, labels)) == unordered((images[::-1], labels[::-1]))
    assert unordered((images, labels)) != unordered((images, (labels + 1) % 10))


def test_clothes_by_their_names_or_numbers(arrays: Any, tmp_path: Path) -> None:
    spelled = ["T-shirt_top", "trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "ankle-boot"]
    one, other = (
        made("split-fashion-mnist", written(tmp_path / names[0], arrays, names, after_the_others), classes_per_task=10)
        for names in (spelled, "0123456789")
    )
    assert same(one, other)
    assert one[0].classes == _mnist.CLASSES["fashion-mnist"]


def test_a_hundred_classes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"train": pictures(100, 2, (3, 32, 32), 1), "test": pictures(100, 1, (3, 32, 32), 2)}
    names = [f"kind {number:02d}" for number in range(100)]
    root = written(tmp_path / "pngs", arrays, names, lambda part, index: f"{names[index % 7]}_s_{index:06d}")
    found = {part: unordered(arrays[part]) for part in arrays}
    known = dataclasses.replace(_cifar.CIFAR100.pictures, pictures=found)
    monkeypatch.setattr(split_cifar100, "CIFAR100", dataclasses.replace(_cifar.CIFAR100, pictures=known))
    tasks = made("split-cifar100", root)
    assert tasks[3].classes == names[30:40]
    assert tasks[3].notes["pictures"] == {"as_known": True, "order": "by class and name", "sha256": found}
    images, labels = arrays["test"]
    for label in range(10):
        ours = tasks[3].splits["test"][0][tasks[3].splits["test"][1] == label]
        assert (ours == images[labels == 30 + label]).all()
    (root / "train" / "kind 07").rename(root / "train" / "kind 7")
    with pytest.raises(UserError, match=r"have 101 class folders .*, but CIFAR-100 has 100 classes"):
        made("split-cifar100", root)


def test_other_sizes_are_scaled_and_said(mnist: Path) -> None:
    for path in mnist.rglob("*.png"):
        Image.open(path).resize((14, 14)).save(path)
    lines: list[str] = []
    assert made("split-mnist", mnist, lines.append)[0].splits["test"][0].shape[1:] == (1, 28, 28)
    assert sum("14x14 pixels, but MNIST has 28x28; such pictures are scaled" in line for line in lines) == 2


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: emptied(root / "test" / "7"), r"no pictures of MNIST's 7 in test/<class>; add them"),
        (lambda root: (root / "train" / "x").mkdir() or (root / "train/x/1.png").touch(), "x is no class of MNIST"),
        (lambda root: (root / "train" / "list.csv").touch(), r"train/list\.csv stands where train/<class>/<picture>"),
        (
            lambda root: (root / "train/0/a/b").mkdir(parents=True) or (root / "train/0/a/b/1.png").touch(),
            "stands where",
        ),
        (
            lambda root: (root / "train/0/70000.png").write_bytes(b"no"),
            r"1 files .* \(not a picture of a known format\)",
        ),
        (
            lambda root: Image.new("RGB", (28, 28), "red").save(root / "train/0/70000.png"),
            r"coloured pictures \(train/0/70000\.png\), but those of MNIST are grey",
        ),
        (lambda root: (root / "train").rename(root / "training"), "holds neither pictures of MNIST .* nor the makers'"),
    ],
    ids=["class gone", "other class", "file above", "too deep", "no picture", "coloured", "neither"],
)
def test_what_cannot_be_is_refused(spoil: Callable[[Path], Any], words: str, mnist: Path) -> None:
    spoil(mnist)
    with pytest.raises(UserError, match=words):
        made("split-mnist", mnist)


def test_a_file_that_is_no_archive_of_pictures(tmp_path: Path, mnist: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("train/0/1.png", "")
    (tmp_path / "other.tar").write_bytes(b"x")
    for name in ("other.zip", "other.tar"):
        with pytest.raises(UserError, match="holds neither pictures of MNIST"):
            made("split-mnist", tmp_path / name)


@pytest.mark.parametrize("there", ["nothing", "empty", "begun"])
def test_the_makers_files_are_fetched_into_a_folder_without_any(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remotes = [dataclasses.replace(remote, url="file:///nowhere/file") for remote in _mnist.remotes("mnist")]
    monkeypatch.setattr(_mnist, "remotes", lambda name: remotes)
    if there != "nothing":
        (tmp_path / "home").mkdir()
    if there == "begun":
        for suffix in ("", ".validator"):
            (tmp_path / "home" / f"{remotes[0].name}.part{suffix}").touch()
    with pytest.raises(UserError, match="file:///nowhere/file: cannot be fetched"):
        made("split-mnist", tmp_path / "home")
