"""Benchmarks made of MNIST, Fashion-MNIST and CIFAR, from small files in the formats of the real ones.

Every image says what it is: its first bytes are its label and its number among all of the file.
"""

import dataclasses
import gzip
import hashlib
import importlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from cl.data import load
from cl.data.benchmarks import _cifar, _mnist, permuted_mnist, rotated_mnist
from cl.data.prepare import SPLITS, RawTask, benchmark_file, prepare, read_manifest
from cl.errors import UserError
from cl.params import Benchmark
from cl.rng import numpy_generator
from tests.cl.small import CPU

RAW = Path("unused")
PER_CLASS = {"train": 10, "test": 3}
SPLIT = ["split-mnist", "split-fashion-mnist", "split-cifar10", "split-cifar100"]
WHOLE = ["permuted-mnist", "rotated-mnist"]
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def pictures(classes: int, per_class: int, shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images in shuffled order of class; the first three values of each are its label and its number."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.repeat(np.arange(classes, dtype=np.uint8), per_class))
    images = draw.integers(0, 256, (len(labels), *shape), np.uint8)
    flat = images.reshape(len(labels), -1)
    flat[:, 0] = labels
    flat[:, 1], flat[:, 2] = np.divmod(np.arange(len(labels)), 256)
    return images, labels


def idx(array: np.ndarray) -> bytes:
    sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sides + array.tobytes(), mtime=0)


def mnist_files(seed: int) -> dict[str, bytes]:
    files = {}
    for number, (part, count) in enumerate(zip(("train", "t10k"), PER_CLASS.values(), strict=True)):
        images, labels = pictures(10, count, (28, 28), seed + number)
        files[f"{part}-images-idx3-ubyte.gz"] = idx(images)
        files[f"{part}-labels-idx1-ubyte.gz"] = idx(labels)
    return files


def cifar_files(classes: int) -> dict[str, bytes]:
    files = {}
    for part, count in PER_CLASS.items():
        images, labels = pictures(classes, count, (3, 32, 32), classes)
        records = [labels[:, None], images.reshape(len(labels), -1)]
        if classes == 100:
            records.insert(0, labels[:, None] // 5)
        table = np.concatenate(records, axis=1)
        if classes == 100:
            files[f"{part}.bin"] = table.tobytes()
        elif part == "test":
            files["test_batch.bin"] = table.tobytes()
        else:
            for number, rows in enumerate(np.array_split(table, 5), start=1):
                files[f"data_batch_{number}.bin"] = rows.tobytes()
    if classes == 100:
        files["fine_label_names.txt"] = "".join(f"fine_{number}\n" for number in range(100)).encode()
        files["coarse_label_names.txt"] = "".join(f"coarse_{number}\n" for number in range(20)).encode()
    else:
        files["batches.meta.txt"] = b"".join(b"kind_%d\n" % number for number in range(10)) + b"\n"
    return files


def packed(files: dict[str, bytes], folder: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, data in {"readme.html": b"<html>", **files}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files can be fetched from."""
    root = tmp_path_factory.mktemp("published")
    for name, files in (("mnist", mnist_files(1)), ("fashion-mnist", mnist_files(3))):
        (root / name).mkdir()
        for file, data in files.items():
            (root / name / file).write_bytes(data)
    (root / "cifar-10-binary.tar.gz").write_bytes(packed(cifar_files(10), "cifar-10-batches-bin"))
    (root / "cifar-100-binary.tar.gz").write_bytes(packed(cifar_files(100), "cifar-100-binary"))
    return root


@pytest.fixture(autouse=True)
def elsewhere(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small files in place of the real ones; downloads go below the test's own folder."""
    monkeypatch.chdir(tmp_path)
    for name, source in (("mnist", datasets.MNIST), ("fashion-mnist", datasets.FashionMNIST)):
        files = [(file, md5((published / name / file).read_bytes())) for file, _ in source.resources]
        monkeypatch.setattr(source, "resources", files)
        monkeypatch.setattr(source, "mirrors", [f"{(published / name).as_uri()}/"])
    for number in (10, 100):
        of = importlib.import_module(f"cl.data.benchmarks.split_cifar{number}")
        source = getattr(_cifar, f"CIFAR{number}")
        path = published / source.remote.name
        remote = dataclasses.replace(source.remote, url=path.as_uri(), md5=md5(path.read_bytes()))
        monkeypatch.setattr(of, f"CIFAR{number}", dataclasses.replace(source, remote=remote))


def made(name: str, **options: Any) -> list[RawTask]:
    return list(benchmark_file(name).tasks(Benchmark(name=name, **options), RAW))


def written(images: np.ndarray) -> tuple[list[int], list[int]]:
    """What the images say of themselves: labels, and numbers."""
    flat = images.reshape(len(images), -1).astype(int)
    return flat[:, 0].tolist(), (256 * flat[:, 1] + flat[:, 2]).tolist()


# Every image where it belongs.


@pytest.mark.parametrize("name", SPLIT)
def test_split_by_class(name: str) -> None:
    tasks = made(name)
    classes = 100 if name == "split-cifar100" else 10
    size = 10 if classes == 100 else 2
    assert len(tasks) == classes // size
    numbers: dict[str, list[int]] = {"train": [], "test": []}
    for index, task in enumerate(tasks):
        first = index * size
        for split, per_class in (("train", 8), ("validation", 2), ("test", 3)):
            images, labels = task.splits[split]
            assert images.dtype == np.uint8
            assert images.shape == (size * per_class, *((3, 32, 32) if "cifar" in name else (1, 28, 28)))
            assert labels.dtype == np.int64
            assert np.bincount(labels).tolist() == [per_class] * size, "stratified"
            said, own = written(images)
            assert said == (labels + first).tolist()
            assert own == sorted(own), "in the order of the file"
            numbers["test" if split == "test" else "train"] += own
    for part, per_class in PER_CLASS.items():
        assert sorted(numbers[part]) == list(range(per_class * classes)), "each image once"
    assert tasks[0].name == ("classes-00-09" if classes == 100 else "classes-0-1")
    assert tasks[-1].name == ("classes-90-99" if classes == 100 else "classes-8-9")


def test_the_classes_have_their_names() -> None:
    expected = {
        "split-mnist": [str(digit) for digit in range(10)],
        "split-fashion-mnist": FASHION,
        "split-cifar10": [f"kind_{number}" for number in range(10)],
        "split-cifar100": [f"fine_{number}" for number in range(100)],
    }
    for name, names in expected.items():
        assert [kind for task in made(name) for kind in task.classes] == names
    for name in WHOLE:
        assert made(name, tasks=1)[0].classes == expected["split-mnist"]


def test_colours_rows_and_columns(published: Path) -> None:
    """The first image of the first task in the file, plane by plane."""
    with tarfile.open(published / "cifar-10-binary.tar.gz") as tar:
        file = tar.extractfile("cifar-10-batches-bin/test_batch.bin")
        assert file is not None
        records = np.frombuffer(file.read(), np.uint8).reshape(-1, 3073)
    record = next(record for record in records if record[0] <= 1)
    image = made("split-cifar10", tasks=1)[0].splits["test"][0][0]
    assert image[0, 0].tolist() == record[1:33].tolist(), "the first row of red"
    assert image[1, 0].tolist() == record[1025:1057].tolist(), "of green"
    assert image[2, 31, 31] == record[3072]


@pytest.mark.parametrize("name", SPLIT)
def test_other_cuts_leave_every_image_in_its_split(name: str) -> None:
    def members(**options: Any) -> dict[str, list[int]]:
        tasks = made(name, **options)
        return {split: sorted(n for task in tasks for n in written(task.splits[split][0])[1]) for split in SPLITS}

    usual = members()
    assert members(classes_per_task=5) == usual
    assert len(made(name, classes_per_task=5)) == len(usual["train"]) // 8 // 5
    assert members(seed=1) != usual
    with pytest.raises(UserError, match=r"benchmark\.classes_per_task: 100? classes make no tasks of 3 each; take 2, "):
        made(name, classes_per_task=3)


@pytest.mark.parametrize("name", SPLIT)
def test_classes_come_again_with_other_images(name: str) -> None:
    usual, again = made(name), made(name, classes_per_task=5, repetition=2)
    classes = [label for task in usual for label in task.classes]
    assert len(again) == 2 * len(classes) // 5
    for split in SPLITS:
        said = [written(task.splits[split][0]) for task in again]
        for task, (numbers, _) in zip(again, said, strict=True):
            assert [classes[c] for c in numbers] == [task.classes[label] for label in task.splits[split][1]]
        images = sorted(n for _, own in said for n in own)
        assert images == sorted(n for task in usual for n in written(task.splits[split][0])[1])


def test_tasks_in_the_order_and_number_asked_for() -> None:
    tasks = made("split-cifar100", classes_per_task=20, order=["classes-80-99", "classes-00-19"])
    assert [task.name for task in tasks] == ["classes-80-99", "classes-00-19"]
    assert set(written(tasks[0].splits["test"][0])[0]) == set(range(80, 100))
    assert [task.name for task in made("split-mnist", tasks=2)] == ["classes-0-1", "classes-2-3"]
    assert [task.name for task in made("permuted-mnist", order=["permutation-03", "permutation-01"])] == [
        "permutation-03",
        "permutation-01",
    ]
    assert [task.name for task in made("rotated-mnist", order=["rotation-036"])] == ["rotation-036"]
    for name in (*SPLIT, *WHOLE):
        with pytest.raises(UserError, match=r"benchmark\.order: no task 'other'"):
            made(name, order=["other"])
    with pytest.raises(UserError, match=r"benchmark\.tasks: split-mnist has 5 tasks to learn, not 6"):
        made("split-mnist", tasks=6)
    assert not (Path("downloads") / "cifar10").exists(), "what cannot be is found before anything is fetched"


@pytest.mark.parametrize("name", SPLIT)
def test_classes_in_an_order_drawn_from_the_seed(name: str) -> None:
    tasks, again, other = (made(name, order="shuffled", seed=seed) for seed in (3, 3, 4))
    assert [task.name for task in tasks] == [task.name for task in again] != [task.name for task in other]
    usual = [kind for task in made(name) for kind in task.classes]
    kinds = [kind for task in tasks for kind in task.classes]
    assert sorted(kinds) == sorted(usual)
    assert kinds != usual
    whole: dict[str, list[int]] = {split: [] for split in SPLITS}
    for task in tasks:
        members = [usual.index(kind) for kind in task.classes]
        assert task.name.split("-")[1:] == [f"{c:0{len(str(len(usual) - 1))}d}" for c in members]
        for split in SPLITS:
            images, labels = task.splits[split]
            said, own = written(images)
            assert said == [members[label] for label in labels], "each image has its class's place as its label"
            whole[split] += own
    for split in SPLITS:
        assert sorted(whole[split]) == sorted(n for t in made(name, seed=3) for n in written(t.splits[split][0])[1])


@pytest.mark.parametrize(("name", "channels"), [("split-mnist", 1), ("split-cifar10", 3)])
def test_pixels_between_0_and_1(name: str, channels: int, tmp_path: Path) -> None:
    for normalise in (False, True):
        options = Benchmark(name=name, tasks=1, normalise=normalise)
        prepare(options, RAW, tmp_path / str(normalise), say=lambda line: None)
        manifest = read_manifest(tmp_path / str(normalise))
        plain = (manifest["mean"], manifest["deviation"]) == ([0.0] * channels, [1.0] * channels)
        assert plain is not normalise
        assert ("normalise" in manifest["options"]) is not normalise, "as before there was that option"
        assert load(tmp_path / str(normalise), CPU).reduced == ({} if normalise else {"normalise": False})
    split = load(tmp_path / "False", CPU).tasks[0].train
    assert (split.x == split.images.float() * (1 / 255)).all()
    assert split.x.max() <= 1


def test_the_cap_is_on_training_images_only() -> None:
    whole, capped = (made("split-mnist", tasks=1, train_per_class=cap)[0] for cap in (None, 3))
    assert np.bincount(capped.splits["train"][1]).tolist() == [3, 3]
    assert set(written(capped.splits["train"][0])[1]) < set(written(whole.splits["train"][0])[1])
    for split in ("validation", "test"):
        assert (capped.splits[split][0] == whole.splits[split][0]).all()


@pytest.mark.parametrize(("share", "held"), [(0.001, 1), (0.25, 2), (0.3, 3), (0.999, 9)])
def test_the_share_for_validation(share: float, held: int) -> None:
    (task, *_) = made("split-mnist", validation_share=share)
    counts = {split: np.bincount(labels).tolist() for split, (_, labels) in task.splits.items()}
    assert counts == {"train": [10 - held] * 2, "validation": [held] * 2, "test": [3, 3]}


# Permutations and rotations.


def test_permutations() -> None:
    tasks = made("permuted-mnist", tasks=3)
    assert [task.name for task in tasks] == ["permutation-01", "permutation-02", "permutation-03"]
    whole = made("split-mnist", classes_per_task=10)[0]
    for index, task in enumerate(tasks):
        order = np.arange(784)
        if index > 0:
            order = numpy_generator("permuted-mnist", 0, index).permutation(784)
        for split in SPLITS:
            images, labels = whole.splits[split]
            assert (task.splits[split][0].reshape(-1, 784) == images.reshape(-1, 784)[:, order]).all()
            assert (task.splits[split][1] == labels).all()
    more = made("permuted-mnist", tasks=12)
    assert len(made("permuted-mnist")) == 10
    assert (more[2].splits["test"][0] == tasks[2].splits["test"][0]).all()
    assert len({task.splits["test"][0].tobytes() for task in more}) == 12


def test_permutations_of_the_size_wanted() -> None:
    tasks = made("permuted-mnist", tasks=2, image_size=8)
    order = numpy_generator("permuted-mnist", 0, 1).permutation(64)
    first, second = (task.splits["train"][0].reshape(-1, 64) for task in tasks)
    assert (second == first[:, order]).all()


@pytest.mark.parametrize("name", ["permuted-mnist", "rotated-mnist", "split-mnist"])
def test_padded_before_anything_else(name: str, tmp_path: Path) -> None:
    framed, plain = ([task.splits["test"][0] for task in made(name, tasks=2, pad=pad)] for pad in (2, None))
    assert framed[0].shape == framed[1].shape == (len(framed[0]), 1, 32, 32)
    assert (framed[0][:, :, 2:-2, 2:-2] == plain[0]).all()
    assert framed[0].sum() == plain[0].sum(), "the frame is black"
    if name == "permuted-mnist":
        order = numpy_generator("permuted-mnist", 0, 1).permutation(32 * 32)
        assert (framed[1].reshape(-1, 32 * 32) == framed[0].reshape(-1, 32 * 32)[:, order]).all()
    options = Benchmark(name=name, tasks=2, pad=2, validation_share=0.1)
    prepare(options, RAW, tmp_path / "a", say=lambda line: None)
    assert load(tmp_path / "a", CPU).reduced == {"validation_share": 0.1, "pad": 2}


def test_rotations() -> None:
    tasks = made("rotated-mnist")
    assert [task.name for task in tasks] == [f"rotation-{angle:03d}" for angle in range(0, 180, 18)]
    whole = made("split-mnist", classes_per_task=10)[0]
    for angle, task in zip(range(0, 180, 18), tasks, strict=True):
        for split in SPLITS:
            images, labels = whole.splits[split]
            turned = np.asarray(Image.fromarray(images[0, 0]).rotate(angle, Image.Resampling.BILINEAR))
            assert (task.splits[split][0][0, 0] == turned).all()
            assert (task.splits[split][1] == labels).all()
    assert (tasks[0].splits["test"][0] == whole.splits["test"][0]).all()


def test_the_turn_is_counter_clockwise() -> None:
    tasks = made("rotated-mnist", tasks=20)
    upright, half = tasks[0].splits["test"][0], tasks[10].splits["test"][0]
    assert tasks[10].name == "rotation-180"
    assert (half == upright[:, :, ::-1, ::-1]).all()
    quarter = rotated_mnist._turned(Image.fromarray(upright[0, 0]), 90)
    assert (np.asarray(quarter) == np.rot90(upright[0, 0])).all()


def test_no_angle_twice() -> None:
    with pytest.raises(UserError, match=r"benchmark\.tasks: rotated-mnist has 20 angles 18 degrees apart, not 21"):
        made("rotated-mnist", tasks=21)


# Sizes.


@pytest.mark.parametrize("name", ["split-mnist", "rotated-mnist", "split-cifar10"])
def test_resized(name: str) -> None:
    native, small = (made(name, tasks=2, image_size=size)[1].splits["test"][0] for size in (None, 16))
    assert small.shape == (len(native), native.shape[1], 16, 16)
    for place in (0, -1):
        expected = Image.fromarray(native[place, -1]).resize((16, 16), Image.Resampling.BILINEAR)
        assert (small[place, -1] == np.asarray(expected)).all()
    assert (made(name, tasks=2, image_size=native.shape[-1])[1].splits["test"][0] == native).all()


# Preparing.


@pytest.mark.parametrize("name", [*SPLIT, *WHOLE])
def test_prepared_to_the_same_bytes_and_known_again(name: str, tmp_path: Path) -> None:
    lines: list[str] = []
    contents: list[dict[str, bytes]] = []
    for target in (tmp_path / "a", tmp_path / "b"):
        np.random.seed(len(contents))
        prepare(Benchmark(name=name, tasks=2), RAW, target, say=lines.append)
        contents.append({str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()})
    assert contents[0] == contents[1]
    assert sum(line.startswith("fetching ") for line in lines) == (1 if "cifar" in name else 4), "only the first time"
    assert len(load(tmp_path / "a", CPU).tasks) == 2
    manifest = read_manifest(tmp_path / "a")
    assert manifest["scale"] == 255
    assert len(manifest["mean"]) == len(manifest["deviation"]) == manifest["input_shape"][0]
    prepare(Benchmark(name=name, tasks=2), RAW, tmp_path / "a", say=lines.append)
    assert "already" in lines[-1]


def test_the_three_of_mnist_share_their_files() -> None:
    for name in ("split-mnist", *WHOLE):
        made(name, tasks=1)
    assert [path.name for path in Path("downloads").iterdir()] == ["mnist"]


def test_prepared_anew_when_the_files_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*SPLIT, *WHOLE]:
        of, options = benchmark_file(name), Benchmark(name=name)
        before = of.fingerprint(options, RAW)
        assert before == of.fingerprint(Benchmark(name=name, seed=1), RAW)
        if "cifar" in name:
            number = name.removeprefix("split-cifar")
            source = getattr(of, f"CIFAR{number}")
            other = dataclasses.replace(source, remote=dataclasses.replace(source.remote, md5="0" * 32))
            monkeypatch.setattr(of, f"CIFAR{number}", other)
        else:
            source = datasets.FashionMNIST if "fashion" in name else datasets.MNIST
            monkeypatch.setattr(source, "resources", [*source.resources[:3], (source.resources[3][0], name)])
        assert of.fingerprint(options, RAW) != before


def test_files_of_your_own_folder(published: Path) -> None:
    for name, path in (("split-mnist", published / "mnist"), ("split-cifar10", published)):
        assert len(made(name, path=str(path))) == 5
    assert not Path("downloads").exists()


def test_without_a_network_all_four_files_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["file:///nowhere/"])
    with pytest.raises(UserError) as caught:
        made("split-mnist")
    for file, checksum in datasets.MNIST.resources:
        line = f"fetch file:///nowhere/{file} (md5 {checksum}) and put it at {Path('downloads/mnist') / file}"
        assert line in str(caught.value)


# Damage that has the right checksum after all (or no checksum could see).


def spoilt(monkeypatch: pytest.MonkeyPatch, file: str, data: bytes) -> None:
    """MNIST with another content of one file, which counts as the right one."""
    made("split-mnist")
    (Path("downloads/mnist") / file).write_bytes(data)
    files = [(name, md5(data) if name == file else checksum) for name, checksum in datasets.MNIST.resources]
    monkeypatch.setattr(datasets.MNIST, "resources", files)


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
PLAIN = bytes([0, 0, 8, 1]) + (100).to_bytes(4, "big") + bytes(100)


@pytest.mark.parametrize(
    ("file", "data", "words"),
    [
        (LABELS, PLAIN, "cannot be read .*Not a gzip"),
        (LABELS, gzip.compress(PLAIN)[:-12], "cannot be read .*ended before"),
        (LABELS, gzip.compress(PLAIN[:-1]), "not an array of 1 dimensions"),
        (LABELS, gzip.compress(b""), "not an array of 1 dimensions"),
        (LABELS, gzip.compress(b"\0\0\x0d\1" + PLAIN[4:]), "not an array of 1 dimensions"),
        (IMAGES, gzip.compress(PLAIN), "not an array of 3 dimensions"),
        (LABELS, idx(np.zeros(99, np.uint8)), r"99 labels for 100 images in train-images-idx3-ubyte\.gz"),
        (LABELS, idx(np.full(100, 10, np.uint8)), "holds label 10, but there are 10 classes"),
    ],
    ids=["plain", "cut", "short", "empty", "other type", "other shape", "other length", "other label"],
)
def test_a_damaged_file_of_mnist(file: str, data: bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt(monkeypatch, file, data)
    with pytest.raises(UserError, match=rf"downloads/mnist/{file}: {words}.*; delete it, and it is downloaded again"):
        made("split-mnist")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda files: files.pop("data_batch_3.bin"), r"lacks data_batch_3\.bin"),
        (lambda files: files.update({"test_batch.bin": files["test_batch.bin"][:-1]}), "cut short within an image"),
        (lambda files: files.update({"test_batch.bin": b""}), "cut short within an image"),
        (lambda files: files.update({"batches.meta.txt": b"a\nb\n"}), "holds label 9, but there are 2 classes"),
        (lambda data: data[:-1000], "cannot be read .*ended before"),
        (lambda data: data[:9000] + bytes(9) + data[9009:], "cannot be read .*CRC check failed"),
    ],
    ids=["file gone", "cut within an image", "empty", "other label", "cut", "changed"],
)
def test_a_damaged_archive_of_cifar(spoil: Callable[[Any], Any], words: str, tmp_path: Path) -> None:
    files = cifar_files(10)
    whole = packed(files, "cifar-10-batches-bin")
    if words.startswith("cannot be read"):
        data = spoil(whole)
    else:
        spoil(files)
        data = packed(files, "cifar-10-batches-bin")
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(data)
    remote = dataclasses.replace(_cifar.CIFAR10.remote, md5=None)
    source = dataclasses.replace(_cifar.CIFAR10, remote=remote)
    with pytest.raises(UserError, match=rf"cifar-10-binary\.tar\.gz: {words}.*; delete it, and it is downloaded again"):
        _cifar.read(source, Benchmark(name="split-cifar10", path=str(tmp_path)), None)


def test_a_file_with_another_checksum_is_refused(published: Path, tmp_path: Path) -> None:
    Path("downloads/cifar10").mkdir(parents=True)
    Path("downloads/cifar10/cifar-10-binary.tar.gz").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"downloads/cifar10/cifar-10-binary\.tar\.gz: damaged or another file \(its md5"
    ):
        made("split-cifar10")


# What the real ones are, and what it takes to read them.


def test_the_real_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for name in ("mnist", "fashion-mnist"):
        remotes = _mnist.remotes(name)
        assert {remote.name.partition("-idx")[0] for remote in remotes} == {
            f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images", "labels")
        }
        assert all(remote.url.startswith("http") and remote.url.endswith(f"/{remote.name}") for remote in remotes)
        assert all(len(remote.md5 or "") == 32 for remote in remotes)
    assert list(datasets.FashionMNIST.classes) == FASHION
    for source, python in ((_cifar.CIFAR10, datasets.CIFAR10), (_cifar.CIFAR100, datasets.CIFAR100)):
        assert source.remote.url == python.url.replace("python", "binary")
        assert source.remote.md5 != python.tgz_md5
        assert len(source.remote.md5 or "") == 32


def test_no_torch_is_needed_to_start() -> None:
    names = ", ".join(f"cl.data.benchmarks.{name.replace('-', '_')}" for name in (*SPLIT, *WHOLE))
    code = f"import {names}, sys; assert not {{'torch', 'torchvision'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(permuted_mnist.__file__).parents[3])
