"""tiny-imagenet from small archives and folders in its real layout."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cl.data import load
from cl.data.benchmarks import tiny_imagenet
from cl.data.prepare import SPLITS, prepare, read_manifest
from cl.errors import UserError
from cl.params import Benchmark
from tests.conftest import RAW

CLASSES = 40
TOP = "tiny-imagenet-200/"


def wnid(number: int) -> str:
    """In an order that is not the sorted one."""
    return f"n{(number * 7919) % 100_000_000:08d}"


def jpeg(level: int) -> bytes:
    file = io.BytesIO()
    mode = "L" if level % 3 == 0 else "RGB"  # some of the real ones are grey
    Image.new(mode, (64, 64), level if mode == "L" else (level,) * 3).save(file, "JPEG", quality=95)
    return file.getvalue()


def files(classes: int = CLASSES, train: int = 10) -> dict[str, bytes]:
    """Images of class c are of the grey level 4 c."""
    found = {
        "wnids.txt": "".join(f"{wnid(c)}\n" for c in range(CLASSES)).encode(),
        "words.txt": "".join(f"{wnid(c)}\tclass {c // 2 * 2}, other name\n" for c in range(CLASSES)).encode(),
    }
    lines = []
    for c in range(classes):
        found |= {f"train/{wnid(c)}/images/{wnid(c)}_{i}.JPEG": jpeg(4 * c) for i in range(train)}
        found[f"train/{wnid(c)}/{wnid(c)}_boxes.txt"] = b""
        for i in range(2):
            found[f"val/images/val_{2 * c + i}.JPEG"] = jpeg(4 * c)
            lines.append(f"val_{2 * c + i}.JPEG\t{wnid(c)}\t0\t0\t62\t62\n")
    return {**found, "val/val_annotations.txt": "".join(lines).encode()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w") as made:
        for name, data in files().items():
            made.writestr(TOP + name, data)
    return path


def made(target: Path, path: Path, **options: Any) -> dict[str, Any]:
    prepare(Benchmark(name="tiny-imagenet", path=str(path), **options), RAW, target, lambda line: None)
    return read_manifest(target)


def test_tasks_are_cut_in_the_order_of_the_list_and_labels_are_sorted(archive: Path, tmp_path: Path) -> None:
    manifest = made(tmp_path / "p", archive)
    assert [task["name"] for task in manifest["tasks"]] == ["tiny-01", "tiny-02"]
    counts = [{split: task["splits"][split]["samples"] for split in SPLITS} for task in manifest["tasks"]]
    assert counts == [{"train": 160, "validation": 40, "test": 40}] * 2
    for index, task in enumerate(load(tmp_path / "p").tasks):
        numbers = sorted(range(20 * index, 20 * index + 20), key=wnid)
        for split in (task.train, task.validation, task.test):
            levels = split.images.float().mean((1, 2, 3)) / 4
            assert [round(level) for level in levels.tolist()] == [numbers[label] for label in split.y.tolist()]
        # Two classes of the same name are told apart by their ids.
        assert task.classes[0] == f"class {numbers[0] // 2 * 2} ({wnid(numbers[0])})"
        assert len(set(task.classes)) == 20


def test_the_folder_that_was_in_the_archive_gives_the_same(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as stored:
        stored.extractall(tmp_path)
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as smaller:
        for name, data in files().items():
            smaller.writestr(TOP + name, data)
    digests = [
        [task["digest"] for task in made(tmp_path / name, path)["tasks"]]
        for name, path in (("a", archive), ("b", tmp_path), ("c", tmp_path / TOP), ("d", packed))
    ]
    assert digests[0] == digests[1] == digests[2] == digests[3]


def test_no_cut_order_or_size_moves_an_image(archive: Path, tmp_path: Path) -> None:
    class_of = {}
    for name, options in {
        "whole": {},
        "cut": {"classes_per_task": 5},
        "reversed": {"order": ["tiny-02", "tiny-01"]},
        "one": {"tasks": 1, "order": ["tiny-02"]},
        "share": {"validation_share": 0.5},
    }.items():
        listings = tiny_imagenet._listings(
            tiny_imagenet.source(archive), Benchmark(name="tiny-imagenet", path=str(archive), **options)
        )
        class_of[name] = {split: {path for task in listings for path, _ in task.splits[split]} for split in SPLITS}
        assert len(listings) == {"whole": 2, "cut": 8, "reversed": 2, "one": 1, "share": 2}[name]
    assert class_of["whole"] == class_of["cut"] == class_of["reversed"]
    assert all(class_of["one"][split] < class_of["whole"][split] for split in SPLITS)
    assert class_of["share"]["test"] == class_of["whole"]["test"]
    assert len(class_of["share"]["validation"]) == len(class_of["share"]["train"]) == CLASSES * 5
    every = [path for split in SPLITS for path in class_of["whole"][split]]
    assert len(every) == len(set(every)) == CLASSES * 12


def test_caps_keep_the_first_that_were_drawn(archive: Path, tmp_path: Path) -> None:
    manifest = made(tmp_path / "p", archive, tasks=1, train_per_class=3, validation_per_class=1, image_size=16)
    samples = {split: manifest["tasks"][0]["splits"][split]["samples"] for split in SPLITS}
    assert samples == {"train": 60, "validation": 20, "test": 40}
    assert manifest["input_shape"] == [3, 16, 16]
    assert load(tmp_path / "p").reduced == {"image_size": 16, "train_per_class": 3, "validation_per_class": 1}
    assert load(tmp_path / "p").tasks[0].train.images.dtype.itemsize == np.uint8().itemsize


def test_the_surveys_orders(tmp_path: Path) -> None:
    made_of = {f"train/{wnid(c)}/images/{wnid(c)}_{i}.JPEG": b"" for c in range(200) for i in range(2)}
    made_of["wnids.txt"] = "".join(f"{wnid(c)}\n" for c in range(200)).encode()
    made_of["words.txt"] = b""
    made_of["val/val_annotations.txt"] = "".join(f"val_{c}.JPEG\t{wnid(c)}\n" for c in range(200)).encode()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for name, data in made_of.items():
            packed.writestr(TOP + name, data)
    hard = [5, 7, 10, 2, 9, 8, 6, 4, 3, 1]
    for order, numbers in ((None, list(range(1, 11))), ("hard-to-easy", hard), ("easy-to-hard", hard[::-1])):
        options = Benchmark(name="tiny-imagenet", order=order)
        found = tiny_imagenet._listings(tiny_imagenet.source(tmp_path / "x.zip"), options)
        assert [task.name for task in found] == [f"tiny-{number:02d}" for number in numbers]
        for task, number in zip(found, numbers, strict=True):
            assert task.classes == sorted(wnid(c) for c in range(20 * number - 20, 20 * number))
    options = Benchmark(name="tiny-imagenet", classes_per_task=5)
    assert len(tiny_imagenet._listings(tiny_imagenet.source(tmp_path / "x.zip"), options)) == 40


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": 3}, "2 tasks to learn, not 3"),
        ({"order": "by-colour"}, r"no order 'by-colour'; known orders: hard-to-easy, easy-to-hard"),
        ({"order": ["tiny-07"]}, "no task 'tiny-07'"),
        ({"classes_per_task": 5, "order": "hard-to-easy"}, "no order 'hard-to-easy'; list the tasks"),
    ],
)
def test_what_cannot_be_is_named(archive: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        made(tmp_path / "p", archive, **options)


def test_a_part_of_the_classes_does_for_its_tasks(tmp_path: Path) -> None:
    path = tmp_path / "half.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in files(classes=20).items():
            packed.writestr(TOP + name, data)
    assert len(made(tmp_path / "p", path, tasks=1)["tasks"]) == 1
    with pytest.raises(UserError, match=r"task tiny-02 has no images of n\d+.* and 15 more; take other tasks"):
        made(tmp_path / "q", path)


def test_a_picture_that_the_archive_lacks_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for name, data in files().items():
            if name != "val/images/val_3.JPEG":
                packed.writestr(TOP + name, data)
    with pytest.raises(UserError, match=r"val_3\.JPEG: cannot be read \(not in the archive\)"):
        made(tmp_path / "p", tmp_path / "x.zip", on_bad_image="skip")


def test_damage_in_the_archive_is_named(archive: Path, tmp_path: Path) -> None:
    data = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as packed:
        entry = packed.getinfo(f"{TOP}train/{wnid(1)}/images/{wnid(1)}_4.JPEG")
    data[entry.header_offset + 200] ^= 0xFF
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(data)
    with pytest.raises(UserError, match=rf"{wnid(1)}_4.JPEG \(damaged in the archive"):
        made(tmp_path / "p", damaged)
    manifest = made(tmp_path / "p", damaged, on_bad_image="skip")
    assert [fault["path"].rpartition("/")[2] for fault in manifest["tasks"][0]["skipped"]] == [f"{wnid(1)}_4.JPEG"]
    (tmp_path / "cut.zip").write_bytes(data[:1000])
    with pytest.raises(UserError, match=r"cut\.zip: cannot be read as a zip archive"):
        made(tmp_path / "q", tmp_path / "cut.zip")
    with pytest.raises(UserError, match=r"not there; set benchmark\.path"):
        made(tmp_path / "q", tmp_path / "gone.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no wnids\.txt"):
        made(tmp_path / "q", tmp_path / "empty")


def unpacked(root: Path) -> Path:
    for name, data in files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_what_a_file_manager_leaves_behind_moves_no_image(archive: Path, tmp_path: Path) -> None:
    root = unpacked(tmp_path / "root")
    for name in (".DS_Store", f"._{wnid(0)}_1.JPEG"):
        (root / "train" / wnid(0) / "images" / name).write_bytes(b"junk")
    found = [made(tmp_path / "p", path, tasks=1)["tasks"][0]["digest"] for path in (root, archive)]
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["wnids.txt", "words.txt", "val/val_annotations.txt"])
def test_a_list_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    root = unpacked(tmp_path / "root")
    (root / name).write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=rf"root: {name} cannot be read \(.*invalid start byte"):
        made(tmp_path / "p", root)
    (root / name).unlink()
    with pytest.raises(UserError, match=rf"root: (no )?{name} "):
        made(tmp_path / "p", root)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for other in ("wnids.txt", "words.txt", "val/val_annotations.txt"):
            if other != name:
                packed.writestr(TOP + other, files()[other])
    with pytest.raises(UserError, match=rf"x\.zip: (no |.*/){name} "):
        made(tmp_path / "p", tmp_path / "x.zip")


def test_a_line_without_a_class_is_named(tmp_path: Path) -> None:
    root = unpacked(tmp_path / "root")
    with (root / "val/val_annotations.txt").open("a") as file:
        file.write("val_79.JPEG\n")
    with pytest.raises(UserError, match=r"root: val_annotations\.txt: 'val_79\.JPEG' names no class"):
        made(tmp_path / "p", root)


def test_an_archive_of_the_same_size_and_time_is_another(tmp_path: Path) -> None:
    """Two classes' pictures exchanged, as long as each other, and one date for all."""
    path, found = tmp_path / "x.zip", []
    for left, right in ((b"left", b"rite"), (b"rite", b"left")):
        made_of = (
            files()
            | {f"train/{wnid(0)}/images/{wnid(0)}_0.JPEG": left}
            | {f"train/{wnid(1)}/images/{wnid(1)}_0.JPEG": right}
        )
        with zipfile.ZipFile(tmp_path / "new.zip", "w") as packed:
            for name, data in made_of.items():
                packed.writestr(zipfile.ZipInfo(TOP + name), data)
        os.utime(tmp_path / "new.zip", ns=(10**18, 10**18))
        (tmp_path / "new.zip").rename(path)
        found.append(tiny_imagenet.fingerprint(Benchmark(name="tiny-imagenet", path=str(path)), RAW))
    assert found[0] != found[1]
