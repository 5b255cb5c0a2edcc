"""Folders of images as people have them: two shades of grey in every format, and all that lies about beside them."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SHADES = {"dark": 40, "light": 220}
"""The classes of every task, and how bright all their pictures are."""
SIDE = 16
FEW = 6
BINS = (
    "$RECYCLE.BIN", "#recycle", "lost+found", "@eaDir", "__pycache__", ".Trash-1000", "System Volume Information",
    "@Recycle", ".thumbnails", "__MACOSX", "RECYCLER",
)  # fmt: skip
JUNK = (
    "Thumbs.db",
    "desktop.ini",
    ".DS_Store",
    "._0.png",
    "readme.txt",
    "0.png~",
    "0.png.part",
    "checksums.md5",
    "Icon\r",
)
NAMES = (
    " ",
    "a\nb",
    "-x",
    "#2",
    "é",
    "e\u0301",
    "日本",
    "x" * 250,
    "a'b\"c",
    "\udcff",
    "..a",
    "%s",
    "{0}",
    "a,b",
    "a:b",
    "~",
    "NUL",
    "train",
    "test",
    "val",
)


def tiff(level: int, draw: random.Random) -> bytes:
    """An uncompressed TIFF of this grey: 4 to 16 bits, white or black zero, either byte order, grey or RGB."""
    order = draw.choice("<>")
    bits, white_is_zero = draw.choice([4, 8, 12, 16]), draw.random() < 0.5
    samples = 1 if white_is_zero or bits in (4, 12) else draw.choice([1, 3])
    most = 2**bits - 1
    value = round(level / 255 * most)
    value = most - value if white_is_zero else value
    if bits == 16:
        row = struct.pack(f"{order}H", value) * SIDE * samples
    elif bits == 8:
        row = bytes([value]) * SIDE * samples
    else:
        text = f"{value:0{bits}b}" * SIDE
        row = bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    data = row * SIDE
    photometric = 2 if samples == 3 else 0 if white_is_zero else 1
    # Tag, type (3: two bytes, 4: four), value; three bit depths do not fit in an entry, and stand before the data.
    entries = [(256, 3, SIDE), (257, 3, SIDE), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 0)]
    entries += [(277, 3, samples), (278, 3, SIDE), (279, 4, len(data))]
    start = 8 + 2 + 12 * len(entries) + 4
    depths = struct.pack(f"{order}HHH", bits, bits, bits) if samples == 3 else b""
    body = b""
    for tag, kind, number in entries:
        if tag == 273:
            number = start + len(depths)
        if tag == 258 and samples == 3:
            body += struct.pack(f"{order}HHII", tag, kind, 3, start)
        elif kind == 3:
            body += struct.pack(f"{order}HHIHH", tag, kind, 1, number, 0)
        else:
            body += struct.pack(f"{order}HHII", tag, kind, 1, number)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + body + b"\0\0\0\0" + depths + data


FORMATS = (
    "png", "jpg", "bmp", "gif", "webp", "tif", "ppm", "png16", "palette", "rgba", "cmyk", "jp2", "turned",
)  # fmt: skip


def picture(level: int, draw: random.Random, kind: str) -> tuple[str, bytes]:
    """A picture of this brightness in one of the formats, and the ending of its name."""
    grey = Image.new("L", (draw.choice([SIDE, 3 * SIDE, 40]), SIDE), level)
    file = io.BytesIO()
    if kind == "tif":
        return "tif", tiff(level, draw)
    if kind == "png16":
        Image.fromarray(np.full((SIDE, SIDE), level * 257, np.uint16)).save(file, "PNG")
        return "png", file.getvalue()
    if kind == "palette":
        grey.convert("P").save(file, "PNG")
        return "png", file.getvalue()
    if kind == "rgba":
        grey.convert("RGBA").save(file, draw.choice(["PNG", "WEBP", "TIFF"]))
        return "png", file.getvalue()
    if kind == "cmyk":
        grey.convert("RGB").convert("CMYK").save(file, draw.choice(["JPEG", "TIFF"]))
        return "jpg", file.getvalue()
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = draw.randrange(0, 10)
        grey.save(file, "JPEG", exif=exif)
        return "JPG", file.getvalue()
    form = {"jpg": "JPEG", "jp2": "JPEG2000"}.get(kind, kind.upper())
    (grey if kind in ("gif", "bmp", "ppm", "png", "jpg", "jp2") else grey.convert("RGB")).save(file, form)
    return kind, file.getvalue()


def tree(root: Path, draw: random.Random) -> list[Path]:
    """Two tasks of two classes, with split folders or without; returns the class folders."""
    splits = draw.choice([[""], [""], [""], ["train", "test"], ["train", "val", "test"]])
    # A few formats each, as not every TIFF can be read, and one that cannot is a tree refused.
    formats = draw.sample(FORMATS, 3)
    classes = [root / task / split / name for task in ("t1", "t2") for split in splits for name in SHADES]
    for place in classes:
        place.mkdir(parents=True)
        for number in range(FEW):
            ending, data = picture(SHADES[place.name], draw, draw.choice(formats))
            (place / f"{number}.{ending}").write_bytes(data)
    return classes


def broken(data: bytes, draw: random.Random) -> bytes:
    """A picture that is none any more, or is a strange one."""
    how = draw.randrange(6)
    if how == 0:
        return data[: draw.randrange(len(data))]
    if how == 1:
        return b""
    if how == 2:
        return draw.randbytes(draw.choice([1, 100, 5000]))
    if how == 3:
        return data + draw.randbytes(100)
    damaged = bytearray(data)
    for _ in range(draw.choice([1, 3, 20])):
        damaged[draw.randrange(min(len(damaged), 400))] = draw.randrange(256)
    return bytes(damaged)


def bomb() -> bytes:
    """A PNG of a few hundred bytes that says it has ten milliards of pixels."""
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    return bytes(data)


def mishap(root: Path, classes: list[Path], draw: random.Random) -> tuple[str, bool]:
    """One more thing in the tree; what, and whether the classes still are as bright as they say."""
    place = draw.choice([path for path in classes if path.exists()] or [root])
    above = draw.choice([place, place, place.parent, root])
    pictures = sorted(path for path in place.glob("*") if path.is_file()) if place.exists() else []

    def spoil() -> str:
        path = draw.choice(pictures)
        path.write_bytes(draw.choice([broken(path.read_bytes(), draw), bomb()]))
        return f"{path.name} of {place.name} is broken"

    def fifo() -> str:
        path = above / draw.choice(["9.png", "pipe", "t3"])
        os.mkfifo(path)
        return f"a FIFO {path.relative_to(root)}"

    def link() -> str:
        path = above / draw.choice(["9.png", "t3", "third"])
        path.symlink_to(draw.choice(["nowhere", ".", "..", "/dev/zero", "/dev/null", "/dev/tty", str(root)]))
        return f"{path.relative_to(root)} links to {os.readlink(path)}"

    def empty() -> str:
        path = above / draw.choice(["t3", "third", "a/b/c"])
        path.mkdir(parents=True)
        return f"an empty folder {path.relative_to(root)}"

    def bin_() -> str:
        path = above / draw.choice(BINS)
        path.mkdir()
        (path / "deleted.png").write_bytes(pictures[0].read_bytes() if pictures else b"")
        return f"a bin {path.relative_to(root)}"

    def junk() -> str:
        path = above / draw.choice(JUNK)
        path.write_bytes(b"junk")
        return f"junk {path.relative_to(root)!a}"

    def renamed() -> str:
        path = draw.choice([place.parent, place, *pictures[:1]])
        if path == root:
            return "nothing"
        path.rename(path.with_name(draw.choice(NAMES)))
        return f"{path.name} has another name"

    def accents() -> str:
        for index, path in enumerate(place for place in classes if place.name == "dark" and place.exists()):
            path.rename(path.with_name(unicodedata.normalize(("NFC", "NFD")[index % 2], "café")))
        return "dark is café, composed and decomposed"

    def gone() -> str:
        shutil.rmtree(draw.choice([place, place.parent]))
        return f"{place.relative_to(root)} is gone, or its parent"

    def out() -> str:
        (root / "out" / "prepared").mkdir(parents=True)
        return "an out folder among the tasks"

    ways: list[tuple[Callable[[], str], bool]] = [
        (fifo, True), (link, True), (empty, True), (bin_, True), (junk, True), (renamed, False), (accents, False),
        (gone, False), (out, True),
    ]  # fmt: skip
    if pictures:
        ways += [(spoil, False)] * 4
    way, true = draw.choice(ways)
    try:
        return way(), true
    except OSError as error:  # such a thing is there already, or cannot be made on this disk
        return f"no {way.__name__.strip('_')} ({error.strerror})", False


def brightness(prepared: Path, manifest: dict[str, object]) -> list[str]:
    """How the prepared classes are not as bright as their pictures."""
    faults = []
    tasks = manifest["tasks"]
    assert isinstance(tasks, list)
    for task in tasks:
        for name, split in task["splits"].items():
            images = np.load(prepared / split["images"]["path"], allow_pickle=False)
            labels = np.load(prepared / split["labels"]["path"], allow_pickle=False)
            for label, shade in enumerate(task["classes"]):
                means = images[labels == label].reshape(int((labels == label).sum()), -1).mean(1)
                off = [value for value in means if shade in SHADES and abs(value - SHADES[shade]) > 8]
                if off:
                    faults.append(f"{task['name']} {name}: a {shade} picture ({SHADES[shade]}) is {off[0]:.0f}")
    return faults[:2]
