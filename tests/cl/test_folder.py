"""Your own images: what any file becomes, which split it goes to, and what is said of those that are no images."""

import io
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from cl.data import decode, images
from cl.data.benchmarks import folder
from cl.data.images import Listing, raw_tasks
from cl.data.prepare import SPLITS, RawTask, prepare, read_manifest
from cl.data.source import Folder
from cl.errors import UserError
from cl.params import Benchmark

RAW = Path("unused")
SIZE = 4
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    made = io.BytesIO()
    image.save(made, kind, **options)
    return made.getvalue()


def pixels(path: Path, size: int) -> np.ndarray:
    """What `decode` makes of a file: (size, size, 3)."""
    memory = bytearray(3 * size * size)
    assert decode.decode_many([str(path)], size, memory) == {}
    return np.frombuffer(memory, np.uint8).reshape(size, 3, size).transpose(0, 2, 1)


def wood(width: int, height: int) -> Image.Image:
    """A picture with something everywhere, smooth enough for JPEG, and the same under no turn."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    bands = [x, y * x, (x + 2 * y) / 3]
    return Image.fromarray(np.stack([255 * band for band in bands], axis=-1).astype(np.uint8))


# One file.

PICTURE = wood(48, 36)
GREY16 = Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257)
SAME = {
    "png": (encoded(PICTURE), 0),
    "bmp": (encoded(PICTURE, "BMP"), 0),
    "webp": (encoded(PICTURE, "WEBP", lossless=True), 0),
    "tiff": (encoded(PICTURE, "TIFF", compression="tiff_lzw"), 0),
    "ppm": (encoded(PICTURE, "PPM"), 0),
    "jpeg2000": (encoded(PICTURE, "JPEG2000"), 3),
    "jpeg": (encoded(PICTURE, "JPEG", quality=98, subsampling=0), 4),
    "progressive": (encoded(PICTURE, "JPEG", quality=98, subsampling=0, progressive=True), 4),
    "cmyk": (encoded(PICTURE.convert("CMYK"), "JPEG", quality=98, subsampling=0), 6),
    "palette": (encoded(PICTURE.quantize(256)), 12),
    "gif": (encoded(PICTURE, "GIF"), 40),
    "opaque": (encoded(PICTURE.convert("RGBA")), 0),
}
SAME_GREY = {
    "grey": (encoded(PICTURE.convert("L")), 0),
    "grey-jpeg": (encoded(PICTURE.convert("L"), "JPEG", quality=98), 4),
    "grey-alpha": (encoded(PICTURE.convert("LA")), 0),
    "16-bit": (encoded(GREY16), 0),
    "16-bit-tiff": (encoded(GREY16, "TIFF"), 0),
    "16-bit-pgm": (encoded(GREY16, "PPM"), 0),
}


@pytest.mark.parametrize("kind", [*SAME, *SAME_GREY])
def test_every_kind_of_file_becomes_the_same_bytes_whatever_its_name(kind: str, tmp_path: Path) -> None:
    plain = PICTURE if kind in SAME else PICTURE.convert("L").convert("RGB")
    (tmp_path / "plain.png").write_bytes(encoded(plain))
    data, tolerance = (SAME | SAME_GREY)[kind]
    (tmp_path / "wrong.jpg").write_bytes(data)
    apart = pixels(tmp_path / "wrong.jpg", 8).astype(int) - pixels(tmp_path / "plain.png", 8)
    assert np.abs(apart).max() <= tolerance


def test_bilevel_is_black_and_white(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded(Image.new("1", (6, 6), 1)))
    assert (pixels(tmp_path / "x.png", SIZE) == 255).all()


def test_what_is_transparent_is_white_whatever_colour_lies_below(tmp_path: Path) -> None:
    half = Image.new("RGBA", (8, 8), (*RED, 0))
    half.paste((*BLUE, 255), (0, 0, 8, 4))
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([*RED, *BLUE])
    palette.paste(1, (0, 0, 8, 4))
    files = {
        "rgba.png": encoded(half),
        "palette.png": encoded(palette, transparency=0),
        "colour.png": encoded(half.convert("RGB"), transparency=RED),
        "x.gif": encoded(palette, "GIF", transparency=0),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        found = pixels(tmp_path / name, 8)
        assert (found[:4] == BLUE).all(), name
        assert (found[4:] == WHITE).all(), name


def test_the_first_picture_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (GREEN, RED)]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        (tmp_path / kind).write_bytes(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
        assert (pixels(tmp_path / kind, SIZE) == GREEN).all(), kind


@pytest.mark.parametrize("turned", [False, True])
def test_the_middle_square_is_taken(turned: bool, tmp_path: Path) -> None:
    wide = Image.new("RGB", (40, 8), RED)
    wide.paste(GREEN, (16, 0, 20, 8))
    wide.paste(BLUE, (20, 0, 24, 8))
    (tmp_path / "x").write_bytes(encoded(wide.transpose(Image.Transpose.ROTATE_270) if turned else wide))
    found = pixels(tmp_path / "x", 8)
    found = found.transpose(1, 0, 2) if turned else found
    assert (found[:, :4] == GREEN).all()
    assert (found[:, 4:] == BLUE).all()


def test_a_part_of_the_middle_is_what_scaling_and_cropping_gives(tmp_path: Path) -> None:
    for width, height in ((480, 360), (150, 250), (40, 40)):
        (tmp_path / "x").write_bytes(encoded(wood(width, height)))
        scale = 64 / min(width, height)
        whole = wood(width, height).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
        left, top = (whole.width - 56) // 2, (whole.height - 56) // 2
        expected = np.asarray(whole.crop((left, top, left + 56, top + 56)))
        found = np.frombuffer(decode.decode(str(tmp_path / "x"), 56, keep=56 / 64), np.uint8).reshape(56, 3, 56)
        assert np.abs(found.transpose(0, 2, 1).astype(int) - expected).max() <= 4


def test_scaling_down_averages_and_scaling_up_works(tmp_path: Path) -> None:
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    (tmp_path / "x").write_bytes(encoded(Image.fromarray(board)))
    assert np.abs(pixels(tmp_path / "x", 8).astype(int) - 127).max() <= 2  # without antialias: all black or white
    assert pixels(tmp_path / "x", 100).shape == (100, 100, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "XMP"])
def test_the_orientation_of_the_camera_is_applied_once(kind: str, tmp_path: Path) -> None:
    picture = wood(18, 12)
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}.get(kind, {})
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        if kind == "XMP":
            note = f'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="{orientation}"></x:xmpmeta>'
            data = encoded(picture, "WEBP", lossless=True, xmp=note.encode())
        else:
            data = encoded(picture, kind, exif=exif, **options)
        (tmp_path / "tagged").write_bytes(data)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(picture, "PNG", exif=exif))))
        (tmp_path / "upright").write_bytes(encoded(Image.fromarray(np.asarray(upright))))
        apart = pixels(tmp_path / "tagged", 6).astype(int) - pixels(tmp_path / "upright", 6)
        assert np.abs(apart).max() <= (4 if kind == "JPEG" else 1), orientation  # scaled before or after: rounding


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_that_cannot_be_read_turns_nothing(kind: str, tmp_path: Path) -> None:
    for junk in (
        b"Exif\0\0",
        b"Exif\0\0garbage, not TIFF",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0",
    ):
        (tmp_path / "junk").write_bytes(encoded(PICTURE, kind, exif=junk))
        (tmp_path / "none").write_bytes(encoded(PICTURE, kind))
        assert (pixels(tmp_path / "junk", 8) == pixels(tmp_path / "none", 8)).all(), junk


def test_a_large_photograph_decoded_small_looks_the_same(tmp_path: Path) -> None:
    large = wood(800, 600)
    (tmp_path / "x.jpg").write_bytes(encoded(large, "JPEG", quality=95))
    (tmp_path / "x.png").write_bytes(encoded(large))
    apart = pixels(tmp_path / "x.jpg", 32).astype(int) - pixels(tmp_path / "x.png", 32)
    assert np.abs(apart).max() <= 4
    (tmp_path / "x.jpg").write_bytes(encoded(large, "JPEG", quality=95)[:-200])
    with pytest.raises(decode.BadImage, match="truncated"):
        decode.decode(str(tmp_path / "x.jpg"), 32)


BAD = {
    **{f"cut {name}": data[: len(data) * 3 // 4] for name, (data, _) in (SAME | SAME_GREY).items()},
    "empty": b"",
    "text": b"not an image at all\n",
    "float": encoded(Image.new("F", (6, 6), 0.5), "TIFF"),
    "postscript": encoded(PICTURE, "EPS"),
    "bomb": encoded(Image.new("L", (35, 35))),
    "larger bomb": encoded(Image.new("L", (80, 80))),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_picture_is_bad_with_a_reason(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 34 * 34 if "bomb" in kind else 10**6)
    (tmp_path / "x.jpg").write_bytes(BAD[kind])
    memory = bytearray(3 * SIZE**2)
    faults = decode.decode_many([str(tmp_path / "x.jpg")], SIZE, memory)
    words = {
        "empty": "an empty file",
        "text": "not a picture",
        "float": "32-bit",
        "postscript": "not a picture",
        "bomb": "more than 1156 pixels",
        "larger bomb": "more than 1156 pixels",
    }
    assert words.get(kind, "") in faults[0]
    assert str(tmp_path) not in faults[0]  # the manifest names paths from the root only


@pytest.mark.timeout(20)
def test_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(decode.BadImage, match="a pipe or a device, not a file"):
        decode.decode(str(tmp_path / "x.png"), SIZE)
    with pytest.raises(OSError, match="not a file"):
        Folder(tmp_path).read("x.png")


def test_a_file_the_machine_keeps_back_is_not_a_bad_image(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decode.decode_many([str(tmp_path / "gone.jpg")], SIZE, bytearray(3 * SIZE**2))


# A tree of them. Each image is of one colour, which says which file it was.

Tree = dict[str, int]


def colour(path: str) -> tuple[int, int, int]:
    return (sum(map(ord, path)) % 251, len(path), sum(i * ord(c) for i, c in enumerate(path)) % 249)


def plant(root: Path, tree: Tree) -> Path:
    """Make so many images in each folder."""
    for place, count in tree.items():
        (root / place).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            name = f"{place}/{number:02d}.png"
            (root / name).write_bytes(encoded(Image.new("RGB", (5, 5), colour(name))))
    return root


TREE: Tree = {"animals/cat": 10, "animals/dog": 10, "animals/eel": 7, "plants/oak": 5, "plants/elm": 3}


def read(root: Path, **options: Any) -> list[RawTask]:
    made = Benchmark(name="folder", path=str(root), image_size=SIZE, **options)
    return list(folder.tasks(made, RAW))


def placed(task: RawTask) -> dict[str, set[tuple[int, int, int, int]]]:
    """Per split its images, each as its colour and its label."""
    found = {}
    for split, (pictures, labels) in task.splits.items():
        assert pictures.dtype == np.uint8
        assert pictures.shape == (len(labels), 3, SIZE, SIZE)
        found[split] = {
            (*map(int, picture[:, 0, 0]), int(label)) for picture, label in zip(pictures, labels, strict=True)
        }
        assert len(found[split]) == len(labels)
    return found


def expected(paths: Iterable[str], label: int) -> set[tuple[int, int, int, int]]:
    return {(*colour(path), label) for path in paths}


def test_tasks_classes_and_splits_of_a_tree(tmp_path: Path) -> None:
    animals, plants = read(plant(tmp_path, TREE))
    assert (animals.name, animals.classes) == ("animals", ["cat", "dog", "eel"])
    assert (plants.name, plants.classes) == ("plants", ["elm", "oak"])
    counts = {split: np.bincount(labels).tolist() for split, (_, labels) in animals.splits.items()}
    assert counts == {"train": [6, 6, 5], "validation": [2, 2, 1], "test": [2, 2, 1]}
    counts = {split: np.bincount(labels).tolist() for split, (_, labels) in plants.splits.items()}
    assert counts == {"train": [1, 3], "validation": [1, 1], "test": [1, 1]}
    everything = set.union(*placed(animals).values())
    assert everything == set.union(
        *(
            expected([f"animals/{name}/{i:02d}.png" for i in range(TREE[f"animals/{name}"])], label)
            for label, name in enumerate(animals.classes)
        )
    )
    assert len(everything) == 27  # so no image is in two splits


def test_what_is_added_elsewhere_moves_nothing(tmp_path: Path) -> None:
    before = {task.name: placed(task) for task in read(plant(tmp_path, TREE))}
    plant(tmp_path, {"birds/owl": 4, "birds/emu": 4, "plants/ash": 5})
    after = {task.name: placed(task) for task in read(tmp_path)}
    assert after["animals"] == before["animals"]
    for split in SPLITS:  # the class ash came first: the labels of the others are one more, their images the same
        assert {(*rgb, label + 1) for *rgb, label in before["plants"][split]} <= after["plants"][split]
    plant(tmp_path, {"animals/cat": 11})
    moved = {task.name: placed(task) for task in read(tmp_path)}["animals"]
    assert sum(len(after["animals"][split] - moved[split]) for split in SPLITS) <= 2
    other = {task.name: placed(task) for task in read(tmp_path, seed=1)}["animals"]
    assert other != moved


def test_order_and_number_of_tasks(tmp_path: Path) -> None:
    root = plant(tmp_path, {f"{task}/{name}": 3 for task in "abc" for name in "xy"})
    assert [task.name for task in read(root, tasks=2)] == ["a", "b"]
    assert [task.name for task in read(root, order=["c", "a"])] == ["c", "a"]
    assert [task.name for task in read(root, order=["c", "a"], tasks=1)] == ["c"]
    for options, words in (
        ({"order": ["a", "d"]}, "benchmark.order: no task 'd' in .*; there are: a, b, c"),
        ({"order": ["a", "b", "a"]}, "benchmark.order: 'a' stands twice; .*: a, b, c"),
        ({"tasks": 4}, "benchmark.tasks: .* has 3 tasks to learn, not 4"),
    ):
        with pytest.raises(UserError, match=words):
            read(root, **options)


def test_a_cap_takes_some_of_the_same_training_images(tmp_path: Path) -> None:
    root = plant(tmp_path, {"t/x": 20, "t/y": 20})
    whole, capped = (placed(read(root, train_per_class=cap)[0]) for cap in (None, 2))
    assert {split: len(found) for split, found in capped.items()} == {"train": 4, "validation": 6, "test": 8}
    assert capped["train"] < whole["train"]
    assert (capped["validation"], capped["test"]) == (whole["validation"], whole["test"])


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_task_may_bring_its_splits(name: str, tmp_path: Path) -> None:
    root = plant(tmp_path, {f"t/{split}/{c}": n for split, n in (("train", 4), (name, 2), ("test", 3)) for c in "xy"})
    (task,) = read(root)
    for split, place, count in (("train", "train", 4), ("validation", name, 2), ("test", "test", 3)):
        wanted = [expected([f"t/{place}/{c}/{i:02d}.png" for i in range(count)], label) for label, c in enumerate("xy")]
        assert placed(task)[split] == wanted[0] | wanted[1]


def test_validation_is_taken_from_train_where_a_task_brings_none(tmp_path: Path) -> None:
    root = plant(tmp_path, {"t/train/x": 10, "t/train/y": 2, "t/test/x": 1, "t/test/y": 1})
    (task,) = read(root)
    counts = {split: np.bincount(labels).tolist() for split, (_, labels) in task.splits.items()}
    assert counts == {"train": [8, 1], "validation": [2, 1], "test": [1, 1]}
    for share, held in ((0.01, 1), (0.4, 4), (0.99, 9)):
        labels = {split: labels for split, (_, labels) in read(root, validation_share=share)[0].splits.items()}
        assert np.bincount(labels["validation"]).tolist() == [held, 1]
        assert np.bincount(labels["train"]).tolist() == [10 - held, 1]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert read(plant(tmp_path, {"vehicles/train": 3, "vehicles/bus": 3}))[0].classes == ["bus", "train"]


def test_hidden_files_and_known_junk_are_passed_over(tmp_path: Path) -> None:
    root = plant(tmp_path, {"t/x": 3, "t/y": 3, "__MACOSX/z": 0, ".hidden": 0})
    for name in ("README.txt", "t/.DS_Store", "t/x/Thumbs.db", "t/x/.directory", "t/y/desktop.ini"):
        (root / name).write_text("junk")
    (task,) = read(root)
    assert sum(len(labels) for _, labels in task.splits.values()) == 6


def test_bins_and_the_like_are_no_tasks_and_no_classes(tmp_path: Path) -> None:
    root = plant(tmp_path, {"t/x": 3, "t/y": 3, "u/train/x": 3, "u/train/y": 3, "u/test/x": 3, "u/test/y": 3})
    for name in (
        *("#recycle", "@Recycle", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "found.000", "LOST.DIR"),
        *("lost+found", "__pycache__", ".Trash-1000", ".AppleDouble", "Temporary Items"),
    ):
        for place in ("", "t", "t/x", "u", "u/train"):
            (root / place / name).mkdir()
            (root / place / name / "a file.txt").write_text("thrown away")
    assert [(task.name, task.classes) for task in read(root)] == [("t", ["x", "y"]), ("u", ["x", "y"])]


@pytest.mark.parametrize("mark", [".work/params.json", "prepared/manifest.json"])
def test_what_a_run_left_among_the_tasks_is_passed_over_and_said(mark: str, tmp_path: Path) -> None:
    root = plant(tmp_path, {"t/x": 3, "t/y": 3})
    (root / "out" / mark).parent.mkdir(parents=True)
    (root / "out" / mark).write_text("{}")
    (root / "out/results/ewc").mkdir(parents=True)
    lines: list[str] = []
    assert [task.name for task in folder.tasks(options(root), RAW, lines.append)] == ["t"]
    assert lines == [f"{root}: out passed over: results of a run, not images"]
    folder.fingerprint(options(root), RAW)


COMPOSED, APART = "caf\u00e9", "cafe\u0301"


def test_an_accent_is_the_same_however_it_is_spelled(tmp_path: Path) -> None:
    """In a task, a class and a file; in a split and in another; in the order that is asked for."""
    found = []
    for one, other in ((COMPOSED, COMPOSED), (APART, APART), (COMPOSED, APART), (APART, COMPOSED)):
        root = tmp_path / str(len(found))
        tree = {f"{one}/{split}/{name}": 9 for split, name in (("train", one), ("test", other))}
        plant(root, {**tree, f"{one}/train/cafz": 5, f"{one}/test/cafz": 5, f"{other}s/{one}": 4, f"{other}s/b": 4})
        for number in range(9):  # the same picture under either name
            (root / one / "train" / one / f"{number:02d}.png").rename(root / one / "train" / one / f"{one}{number}.png")
        for place in sorted(root.rglob("*.png")):
            name = unicodedata.normalize("NFC", place.relative_to(root).as_posix())
            place.write_bytes(encoded(Image.new("RGB", (5, 5), colour(name))))
        tasks = read(root, order=[f"{other}s", one])
        assert [(task.name, task.classes) for task in tasks] == [
            (f"{COMPOSED}s", ["b", COMPOSED]),
            (COMPOSED, ["cafz", COMPOSED]),
        ]
        found.append([placed(task) for task in tasks])
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize("places", [["{}/x"], ["t/{}"], ["t/train/{}", "t/test/{}"]])
def test_two_folders_of_one_name_are_refused(places: list[str], tmp_path: Path) -> None:
    root = plant(tmp_path, {place.format(name): 3 for place in places for name in (COMPOSED, APART)})
    with pytest.raises(UserError, match=rf"two folders are called {COMPOSED}, spelled in two ways; make them one"):
        read(root)


def test_names_that_differ_in_capital_letters(tmp_path: Path) -> None:
    """As letters do, whose folders may be called a and A."""
    lines: list[str] = []
    root = plant(tmp_path / "root", {"t/a": 3, "t/A": 3, "t/b": 3})
    (task,) = folder.tasks(options(root), RAW, lines.append)
    assert task.classes == ["A", "a", "b"]
    assert lines == [f"{root}/t: the classes A, a differ in capital letters alone; they count as different"]
    root = plant(tmp_path / "other", {f"t/train/{name}": 3 for name in ("x", "Good")})
    plant(root, {f"t/test/{name}": 3 for name in ("x", "good")})
    with pytest.raises(UserError, match=r"its test folder lacks Good, which .* have \(it has good: write them in one"):
        read(root)


def test_any_name_that_a_file_can_have(tmp_path: Path) -> None:
    fox, long = tmp_path / "root/🦊 & co", "x" * 255
    plant(tmp_path / "root", {f"{fox.name}/{name}": 3 for name in ("\U0001f468\u200d\U0001f52c", long, "'\"$(ls)")})
    for name in ("a\nb.png", "y" * 255, "-rf", "%s {0}.png", " .png"):
        (fox / long / name).write_bytes(encoded(PICTURE))
    manifest = read_manifest(prepare(options(fox.parent), RAW, tmp_path / "out", say=lambda line: None).parent)
    assert [task["name"] for task in manifest["tasks"]] == [fox.name]
    assert sum(split["samples"] for split in manifest["tasks"][0]["splits"].values()) == 14
    (fox / long / "a\nb.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"/a\\nb\.png \(an empty file\)"):
        read(fox.parent)
    (fox / ("z" * 255)).write_bytes(b"")
    with pytest.raises(UserError, match=r"co: z{60}\.\.\. \(255 characters\) where only folders"):
        read(fox.parent)


def test_a_folder_that_is_one_task_is_recognised(tmp_path: Path) -> None:
    root = plant(tmp_path / "screws", {"good": 3, "bent": 3})
    with pytest.raises(
        UserError, match=r"screws holds class folders \(bent, good\), so it looks like one task"
    ) as caught:
        read(root)
    assert f"give its parent, benchmark.path={tmp_path}, " in str(caught.value)
    assert [task.name for task in read(tmp_path)] == ["screws"]
    root = plant(tmp_path / "nuts", {f"{split}/{name}": 3 for split in ("train", "test") for name in "ab"})
    with pytest.raises(UserError, match=r"nuts holds the splits test, train, so it looks like one task"):
        read(root)


def test_names_in_any_script_and_links(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", {"Tiere/Känguru": 3, "Tiere/猫": 3})
    elsewhere = plant(tmp_path / "elsewhere", {"x": 3})
    (root / "Tiere/Link zu ж").symlink_to(elsewhere / "x")
    (root / "Tiere/猫/00.png").rename(tmp_path / "moved.png")
    (root / "Tiere/猫/写真 1.png").symlink_to(tmp_path / "moved.png")
    manifest = read_manifest(prepare(options(root), RAW, tmp_path / "out", say=lambda line: None).parent)
    assert manifest["tasks"][0]["classes"] == ["Känguru", "Link zu ж", "猫"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: root.rename(root.with_name("elsewhere")), "benchmark.path: .*root cannot be read .*No such file"),
        (lambda root: plant(root, {"t/empty": 0}), "t/empty: a class without images"),
        (lambda root: plant(root, {"t/few": 2}), "t: class few has 2 images; to be split it needs 3"),
        (lambda root: plant(root, {"t": 1}), r"t: 00\.png where only folders of classes should be; benchmark\.path"),
        (lambda root: plant(root, {"t/x/deeper": 1}), r"t/x: deeper where the images .* should be; .*<class>/<image>"),
        (lambda root: plant(root, {"u/only": 3}), "u: 1 class; a task needs two"),
        (lambda root: plant(root, {"u": 0}), "u: no class folders"),
        (lambda root: plant(root, {"t/train/x": 3, "t/test/x": 3}), "t: x, y beside test, train; a task has class"),
        (lambda root: plant(root, {"u/train/x": 3, "u/train/y": 3}), "u: a train folder alone; .* train and test"),
        (lambda root: plant(root, {f"u/{s}/x": 3 for s in ("train", "val", "validation", "test")}), "keep one"),
        (lambda root: plant(root, {"u/train/x": 3, "u/train/y": 3, "u/test/x": 3}), "u: its test folder lacks y"),
        (lambda root: plant(root, {"u/train/x": 3, "u/test/x": 3, "u/test/y": 3}), "u: its train folder lacks y"),
        (lambda root: plant(root, {"u/train/x": 3, "u/train/y": 1, "u/test/x": 1, "u/test/y": 1}), "y has 1 image;"),
        (lambda root: (root / "t/x/link.png").symlink_to(root / "nowhere"), "link.png: neither a file nor a folder"),
        (lambda root: os.mkfifo(root / "t/x/pipe"), "pipe: neither a file nor a folder"),
        (lambda root: os.mknod(root / "t/x/s", stat.S_IFSOCK), "x/s: neither a file nor a folder"),
        (lambda root: (root / "t/x/zero.png").symlink_to("/dev/zero"), "zero.png: neither a file nor a folder"),
        (lambda root: (root / "t/x/again").symlink_to("again"), r"t/x/again.* \(.*loop|Too many levels"),
        (lambda root: (root / "t/x/up").symlink_to(root), "t/x: up where the images of a class should be"),
        (lambda root: (root / "t/x/y.jpg").mkdir(), r"t/x: y\.jpg where the images of a class should be"),
        (lambda root: (root / "t/x").rename(root / "t/x\nz"), r"t: the name 'x\\nz' holds a line break"),
        (lambda root: (root / "t/a\tb").write_bytes(b""), r"t: a\\tb where only folders"),
        (lambda root: (root / "t/x/00.png").rename(os.fsdecode(os.fsencode(root) + b"/t/x/\xff.png")), "not UTF-8"),
    ],
)
def test_a_wrong_tree_is_named(spoil: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    root = plant(tmp_path / "root", {"t/x": 3, "t/y": 3})
    folder.fingerprint(options(root), RAW)
    spoil(root)
    with pytest.raises(UserError, match=words):
        folder.fingerprint(options(root), RAW)


def test_a_root_that_is_none(tmp_path: Path) -> None:
    file = plant(tmp_path, {"x": 1}) / "x/00.png"
    for path, words in (
        (None, "benchmark.path: .* needs it"),
        (str(tmp_path / "x"), "benchmark.path: no folders in"),
        (str(file), "benchmark.path: .*00.png cannot be read .*[Nn]ot a dir"),
    ):
        with pytest.raises(UserError, match=words):
            list(folder.tasks(Benchmark(name="folder", path=path), RAW))


# Bad images.


def options(root: Path, **more: Any) -> Benchmark:
    return Benchmark(name="folder", path=str(root), image_size=SIZE, **more)


def test_bad_images_are_refused_all_at_once(tmp_path: Path) -> None:
    root = plant(tmp_path, TREE)
    spoilt = [f"animals/cat/{number:02d}.png" for number in range(6)] + ["plants/oak/00.png"]
    for name in spoilt:
        (root / name).write_bytes(b"")
    with pytest.raises(UserError) as caught:
        read(root)
    message = str(caught.value)
    assert message.startswith(f"7 of 35 files in {root} are no usable images: ")
    assert sum(f"{name} (an empty file)" in message for name in spoilt) == images.SHOWN
    assert "and 2 more; mend or delete them, or leave them out with benchmark.on_bad_image=skip" in message
    with pytest.raises(UserError, match="no usable images"):
        prepare(options(root), RAW, tmp_path / "out", say=lambda line: None)
    assert not (tmp_path / "out").exists()


def test_bad_images_are_skipped_and_named_in_the_manifest(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", TREE)
    whole = placed(read(root)[0])
    spoilt = {"animals/cat/01.png": b"text", "animals/dog/03.png": (root / "animals/dog/03.png").read_bytes()[:40]}
    for name, data in spoilt.items():
        (root / name).write_bytes(data)
    lines: list[str] = []
    (task, _) = folder.tasks(options(root, on_bad_image="skip"), RAW, lines.append)
    left = placed(task)
    gone = expected(["animals/cat/01.png"], 0) | expected(["animals/dog/03.png"], 1)
    assert left == {split: files - gone for split, files in whole.items()}  # and the others stay where they were
    assert lines == ["animals: skipped 2 bad images; manifest.json names them"]
    out = prepare(options(root, on_bad_image="skip"), RAW, tmp_path / "out", say=lambda line: None).parent
    entries = read_manifest(out)["tasks"]
    assert [fault["path"] for fault in entries[0]["skipped"]] == sorted(spoilt)
    assert entries[0]["skipped"][0]["reason"] == "not a picture of a known format"
    assert entries[1]["skipped"] == []
    # What is left was closed up to the file that numpy writes, and nothing lies beside it.
    splits = [split for entry in entries for split in entry["splits"].values()]
    listed = {split[kind]["path"] for split in splits for kind in ("images", "labels")}
    found = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    assert found == {"manifest.json", "task-000", "task-001", *listed}
    for split, (pictures, _) in task.splits.items():
        whole_file = io.BytesIO()
        np.save(whole_file, np.array(pictures))
        assert (out / entries[0]["splits"][split]["images"]["path"]).read_bytes() == whole_file.getvalue()


def test_a_split_without_a_good_image_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"text")
    with pytest.raises(UserError, match=r"1 of 1 files in .* x\.png \(not a picture"):
        list(raw_tasks(tmp_path, [Listing("t", ["x"], {"train": [("x.png", 0)]})], SIZE, "refuse"))


def test_a_split_that_loses_a_class_is_refused(tmp_path: Path) -> None:
    root = plant(tmp_path, {"t/x": 3, "t/y": 3})
    for name in ("00", "01", "02"):
        (root / f"t/y/{name}.png").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"task t: no usable train image of class y is left \(3 bad ones skipped: t/y/0"
    ):
        read(root, on_bad_image="skip")


# The processes.


def test_the_arrays_hold_channels_rows_and_columns(tmp_path: Path) -> None:
    root = plant(tmp_path, {"t/x": 1})
    (root / "t/x/00.png").write_bytes(encoded(wood(8, 8)))
    (task,) = raw_tasks(root, [Listing("t", ["x"], {"train": [("t/x/00.png", 0)]})], 8, "refuse")
    assert (task.splits["train"][0][0] == np.asarray(wood(8, 8)).transpose(2, 0, 1)).all()


def test_many_batches_in_many_processes_come_out_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plant(tmp_path, {"t/x": 60, "t/y": 60})
    (root / "t/x/17.png").write_bytes(b"")
    monkeypatch.setattr(images, "BATCH", 7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(3))
    files = [(f"t/{name}/{number:02d}.png", number) for name in "xy" for number in range(60)]
    listing = Listing("t", [str(number) for number in range(60)], {"train": files})
    (task,) = raw_tasks(root, [listing], 5, "skip")
    good = [(path, label) for path, label in files if path != "t/x/17.png"]
    pictures, labels = task.splits["train"]
    assert [tuple(picture[:, 2, 2].tolist()) for picture in pictures] == [colour(path) for path, _ in good]
    assert labels.tolist() == [label for _, label in good]


def test_a_file_that_vanishes_is_an_error_even_where_bad_images_are_skipped(tmp_path: Path) -> None:
    root = plant(tmp_path, {"t/x": 1})
    listing = Listing("t", ["x"], {"train": [("t/x/00.png", 0), ("t/x/gone.png", 0)]})
    with pytest.raises(UserError, match=r"gone\.png: cannot be read \(No such file or directory\)"):
        list(raw_tasks(root, [listing], SIZE, "skip"))


def test_a_disk_that_fills_while_images_are_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plant(tmp_path / "root", {"t/x": 30, "t/y": 30})
    monkeypatch.setattr(images, "BATCH", 2)  # so that what the processes share stays below the limit
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # no file may grow beyond: as on a full disk
    try:
        with pytest.raises(UserError, match=r"\.npy: cannot be written \(File too large\); earlier results are intact"):
            prepare(options(root), RAW, tmp_path / "out", say=lambda line: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_a_process_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plant(tmp_path, {"t/x": 3, "t/y": 3})
    (tmp_path / "dies.py").write_text("raise SystemExit('out of luck')")
    monkeypatch.setattr(decode, "__file__", str(tmp_path / "dies.py"))
    with pytest.raises(UserError, match=r"died between .*\.png and .*\.png \(code 1: out of luck\); .* memory"):
        read(root)


def test_nothing_runs_on_when_the_reader_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plant(tmp_path, {f"{task}/{name}": 3 for task in "abc" for name in "xy"})
    made = []
    start = images._Reader.__init__

    def noted(self: Any, *arguments: Any) -> None:
        start(self, *arguments)
        made.append(self.process)

    monkeypatch.setattr(images._Reader, "__init__", noted)
    reading = folder.tasks(options(root), RAW)
    next(reading)
    assert [process.poll() for process in made] == [None] * len(made) != []
    reading.close()  # type: ignore[attr-defined]
    assert None not in [process.poll() for process in made]


def test_long_reading_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "SAY_EVERY", 0.001)
    lines: list[str] = []
    list(folder.tasks(options(plant(tmp_path, TREE)), RAW, lines.append))
    assert lines
    assert all(line.startswith("read ") and "of 35 images in" in line for line in lines)


# Preparing.


def test_prepared_once_and_again_only_when_a_file_changes(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", {"t/x": 3, "t/y": 3, "u/x": 3, "u/y": 3})
    lines: list[str] = []

    def digests(**more: Any) -> list[str]:
        lines.clear()
        out = prepare(options(root, **more), RAW, tmp_path / "out", say=lines.append).parent
        return [json.dumps(task["splits"]) for task in read_manifest(out)["tasks"]]

    first = digests()
    assert digests() == first
    assert "already" in lines[-1]
    os.utime(root / "t/x/00.png", ns=(1, 1))
    assert digests() == first  # made again, to the same bytes
    assert "already" not in lines[-1]
    (root / "README").write_text("beside the tasks")
    digests()
    assert "already" in lines[-1]
    plant(root, {"v/x": 3, "v/y": 3})
    assert digests()[:2] == first
    assert "already" not in lines[-1]
    digests(tasks=2)
    plant(root, {"v/x": 4})  # of a task that is not asked for
    assert digests(tasks=2) == first
    assert "already" in lines[-1]
    (root / "u/y/01.png").unlink()
    with pytest.raises(UserError, match="class y has 2 images"):
        digests(tasks=2)


def exchanged(one: Path, other: Path) -> None:
    one.rename(one.with_name("between"))
    other.rename(one)
    one.with_name("between").rename(other)


def rewritten(path: Path) -> None:
    """Other pixels in the same file, and the old date on it."""
    status = path.stat()
    path.write_bytes(encoded(Image.new("RGB", (5, 5), WHITE), "BMP"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: exchanged(root / "t/x", root / "t/y"),
        lambda root: exchanged(root / "t", root / "u"),
        lambda root: exchanged(root / "t/x/00.bmp", root / "t/y/00.bmp"),
        lambda root: exchanged(root / "t/x/00.bmp", root / "t/x/01.bmp"),
        lambda root: rewritten(root / "t/x/00.bmp"),
        lambda root: shutil.copy2(root / "t/x/00.bmp", root / "t/y/00.bmp"),
    ],
)
def test_a_change_that_leaves_sizes_and_times_is_noticed(change: Callable[[Path], Any], tmp_path: Path) -> None:
    """Sizes are the same, as in BMP, and so are times, as where all comes from one archive."""
    root = tmp_path / "root"
    for place in ("t/x", "t/y", "u/x", "u/y"):
        (root / place).mkdir(parents=True)
        for number in range(3):
            name = root / f"{place}/{number:02d}.bmp"
            name.write_bytes(encoded(Image.new("RGB", (5, 5), colour(f"{place}{number}")), "BMP"))
    for path in root.rglob("*"):
        os.utime(path, ns=(10**18, 10**18))

    def digests(out: Path) -> list[str]:
        manifest = read_manifest(prepare(options(root), RAW, out, say=lambda line: None).parent)
        return [json.dumps(task["splits"]) for task in manifest["tasks"]]

    before = digests(tmp_path / "out")
    change(root)
    after = digests(tmp_path / "out")
    assert after != before
    assert after == digests(tmp_path / "anew")


def test_a_folder_moved_away_and_back_is_not_read_again(tmp_path: Path) -> None:
    root, lines = plant(tmp_path / "root", {"t/x": 3, "t/y": 3}), list[str]()
    prepare(options(root), RAW, tmp_path / "out", say=lines.append)
    root.rename(tmp_path / "moved")
    (tmp_path / "moved").rename(root)
    prepare(options(root), RAW, tmp_path / "out", say=lines.append)
    assert "already" in lines[-1]


def test_a_copy_is_prepared_to_the_same_bytes(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", {"t/x": 5, "t/y": 5})
    shutil.copytree(root, tmp_path / "copy")
    found = [
        [task["digest"] for task in read_manifest(prepare(options(tmp_path / name), RAW, out, print).parent)["tasks"]]
        for name, out in (("root", tmp_path / "out"), ("copy", tmp_path / "out"), ("copy", tmp_path / "out2"))
    ]
    assert found[0] == found[1] == found[2]
    assert (tmp_path / "out/manifest.json").read_bytes() == (tmp_path / "out2/manifest.json").read_bytes()


def test_a_folder_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plant(tmp_path / "root", {"t/x": 3, "t/y": 3, "u/x": 3, "u/y": 3})
    original = folder.tasks

    def disturbed(*arguments: Any) -> Any:
        reading = original(*arguments)
        yield next(reading)
        exchanged(root / "t/x", root / "t/y")
        yield from reading

    monkeypatch.setattr(folder, "tasks", disturbed)
    with pytest.raises(UserError, match=r"root: the files changed while they were read; run the same command again"):
        prepare(options(root), RAW, tmp_path / "out", say=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_the_default_size_and_the_surveys_numbers(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", {"t/x": 3, "t/y": 3})
    out = prepare(Benchmark(name="folder", path=str(root)), RAW, tmp_path / "out", say=lambda line: None).parent
    manifest = read_manifest(out)
    assert manifest["input_shape"] == [3, 32, 32]
    assert (manifest["scale"], manifest["mean"]) == (255.0, [0.485, 0.456, 0.406])
    assert manifest["deviation"] == [0.229, 0.224, 0.225]


def test_no_torch_is_needed_and_the_decoder_needs_nothing_of_ours() -> None:
    heavy = "import cl.data.benchmarks.folder, sys; assert 'torch' not in sys.modules"
    light = "import sys; sys.path.insert(0, 'cl/data'); import decode; assert not {'cl', 'numpy'} & set(sys.modules)"
    for code in (heavy, light):
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(images.__file__).parents[2])
