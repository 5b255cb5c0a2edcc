"""Every way in which a file can hold the same picture: it comes out as bright as it is, or is refused with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cl.data.decode import BadImage, decode

Array = npt.NDArray[Any]
SIZE = 8
DRAW = np.random.default_rng(0)
GREY, ALPHA, OTHER = DRAW.integers(0, 256, (3, SIZE, SIZE)).astype(np.uint8)
RGB = np.stack([GREY, ALPHA, OTHER], -1)
PALETTE = DRAW.integers(0, 256, (256, 3))
WIDE = GREY.astype(np.uint16) << 8 | 77
"""The same grey levels with 16 bits."""


# Files, byte by byte.


def packed(samples: Array, bits: int) -> bytes:
    """Row by row, each filled up to a whole byte, the highest bit first."""
    each = samples[:, :, None].astype(int) >> np.arange(bits)[::-1] & 1
    return np.packbits(each.astype(np.uint8).reshape(len(samples), -1), axis=1).tobytes()


def tiff(
    bits: int,
    photometric: int | None,
    data: bytes | Sequence[bytes],
    order: str = "<",
    samples: int = 1,
    zipped: bool = False,
    **tags: int | Sequence[int],
) -> bytes:
    """A TIFF of one strip, or of one for each channel. Its other tags are given by number: `t338=1`."""
    strips = [zlib.compress(part) if zipped else part for part in ([data] if isinstance(data, bytes) else data)]
    values: dict[int, Sequence[int]] = {256: [SIZE], 257: [SIZE], 258: [bits] * samples, 259: [8 if zipped else 1]}
    values |= {277: [samples], 278: [SIZE], 279: [len(strip) for strip in strips], 273: [0] * len(strips)}
    values |= {} if photometric is None else {262: [photometric]}
    values |= {int(tag[1:]): [value] if isinstance(value, int) else value for tag, value in tags.items()}

    def entry(tag: int) -> bytes:
        return struct.pack(f"{order}{len(values[tag])}{'I' if tag in (273, 279) else 'H'}", *values[tag])

    place = 8 + 2 + 12 * len(values) + 4
    places = {}
    for tag in sorted(values):
        if len(entry(tag)) > 4:
            places[tag] = place
            place += len(entry(tag))
    for index, strip in enumerate(strips):
        values[273][index] = place  # type: ignore[index]
        place += len(strip)
    head = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(values))
    for tag in sorted(values):
        inline = struct.pack(f"{order}I", places[tag]) if tag in places else entry(tag).ljust(4, b"\0")
        head += struct.pack(f"{order}HHI", tag, 4 if tag in (273, 279) else 3, len(values[tag])) + inline
    return head + bytes(4) + b"".join(entry(tag) for tag in sorted(places)) + b"".join(strips)


def png(depth: int, kind: int, rows: Sequence[bytes], **chunks: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, depth, kind, 0, 0, 0))
    head += b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def rows(samples: Array, bits: int = 8) -> list[bytes]:
    if bits > 8:
        return [row.astype(">u2").tobytes() for row in samples]
    return [row.tobytes() for row in samples] if bits == 8 else [packed(samples[i : i + 1], bits) for i in range(SIZE)]


def bmp(pixels: Array, masks: Sequence[int]) -> bytes:
    """Of 32 bits, with a mask of red, green, blue and alpha."""
    data = np.ascontiguousarray(pixels[::-1]).tobytes()
    head = struct.pack("<IiiHHIIiiII4I", 108, SIZE, SIZE, 1, 32, 3, len(data), 0, 0, 0, 0, *masks) + bytes(52)
    return b"BM" + struct.pack("<IHHI", 122 + len(data), 0, 0, 122) + head + data


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    made = io.BytesIO()
    image.save(made, kind, **options)
    return made.getvalue()


def jpeg2000(bits: int) -> bytes:
    """The grey levels with so many bits: Pillow writes 16; what is stored is the distance from the middle."""
    levels = (WIDE >> (16 - bits)).astype(int) - 2 ** (bits - 1) + 2**15
    data = bytearray(saved(Image.fromarray(levels.astype(np.uint16)), "JPEG2000", no_jp2=True))
    data[data.find(b"\xff\x51") + 40] = bits - 1
    return bytes(data)


def without_adobe(jpeg: bytes) -> bytes:
    start = jpeg.find(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def wide(samples: Array, order: str = "<") -> bytes:
    return (samples.astype(np.uint16) << 8 | 77).astype(f"{order}u2").tobytes()


def apart(pixels: Array) -> list[bytes]:
    return [np.ascontiguousarray(pixels[..., channel]).tobytes() for channel in range(pixels.shape[-1])]


def spread(samples: Array, bits: int) -> Array:
    """As 8 bits hold them: the highest of fewer is white too."""
    return samples.astype(int) * 255 // (2**bits - 1)


def on_white(pixels: Array, alpha: Array) -> Array:
    share = alpha.reshape(*alpha.shape, *[1] * (pixels.ndim - 2)) / 255
    return pixels * share + 255 * (1 - share)


WITH_ALPHA = np.concatenate([RGB, ALPHA[..., None]], -1)
MULTIPLIED = np.concatenate([(RGB * (ALPHA[..., None] / 255)).round(), ALPHA[..., None]], -1).astype(np.uint8)
GREY_ALPHA, GREY_MULTIPLIED = np.stack([GREY, ALPHA], -1), np.stack([(GREY * (ALPHA / 255)).round(), ALPHA], -1)
INK = np.concatenate([255 - RGB, 0 * GREY[..., None]], -1)
YCC = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
NO_COLOUR = np.concatenate([YCC[..., :1], np.full((SIZE, SIZE, 2), 128, np.uint8)], -1)
HALVED = np.concatenate([NO_COLOUR[y::2, x::2, :1] for y in (0, 1) for x in (0, 1)] + [NO_COLOUR[::2, ::2, 1:]], -1)
FOUR, TWO = GREY >> 4, GREY >> 6

RIGHT: dict[str, tuple[bytes, Array]] = {}
"""File and picture, by name."""
for order in "<>":
    for zipped in (False, True):
        more: dict[str, Any] = {"order": order, "zipped": zipped}
        name = f"tiff {order}{' zipped' if zipped else ''} "
        for bits in (1, 2, 4, 8):
            few, colours = GREY >> (8 - bits), PALETTE[: 2**bits].T.ravel()
            RIGHT |= {
                f"{name}grey {bits}": (tiff(bits, 1, packed(few, bits), **more), spread(few, bits)),
                f"{name}white 0 {bits}": (tiff(bits, 0, packed(2**bits - 1 - few, bits), **more), spread(few, bits)),
                f"{name}palette {bits}": (tiff(bits, 3, packed(few, bits), t320=colours << 8, **more), PALETTE[few]),
                f"{name}palette of bytes {bits}": (
                    tiff(bits, 3, packed(few, bits), t320=colours, **more),
                    PALETTE[few],
                ),
            }
        RIGHT |= {
            f"{name}grey 16": (tiff(16, 1, wide(GREY, order), **more), GREY),
            f"{name}rgb": (tiff(8, 2, RGB.tobytes(), samples=3, **more), RGB),
            f"{name}rgb 16": (tiff(16, 2, wide(RGB, order), samples=3, **more), RGB),
            f"{name}rgb apart": (tiff(8, 2, apart(RGB), samples=3, t284=2, **more), RGB),
            f"{name}rgb and more": (tiff(8, 2, WITH_ALPHA.tobytes(), samples=4, t338=0, **more), RGB),
            f"{name}alpha": (tiff(8, 2, WITH_ALPHA.tobytes(), samples=4, t338=2, **more), on_white(RGB, ALPHA)),
            f"{name}alpha 16": (tiff(16, 2, wide(WITH_ALPHA, order), samples=4, t338=2, **more), on_white(RGB, ALPHA)),
            f"{name}multiplied": (tiff(8, 2, MULTIPLIED.tobytes(), samples=4, t338=1, **more), on_white(RGB, ALPHA)),
            f"{name}grey alpha": (tiff(8, 1, GREY_ALPHA.tobytes(), samples=2, t338=2, **more), on_white(GREY, ALPHA)),
            f"{name}grey multiplied": (
                tiff(8, 1, GREY_MULTIPLIED.astype(np.uint8).tobytes(), samples=2, t338=1, **more),
                on_white(GREY, ALPHA),
            ),
            f"{name}cmyk": (tiff(8, 5, INK.tobytes(), samples=4, **more), RGB),
            f"{name}cmyk 16": (tiff(16, 5, wide(INK, order), samples=4, **more), RGB),
            f"{name}ycbcr": (tiff(8, 6, YCC.tobytes(), samples=3, t530=(1, 1), **more), RGB),
        }
        if order == "<":  # of big-endian ones Pillow knows no kind
            RIGHT |= {
                f"{name}white 0 16": (tiff(16, 0, wide(255 - GREY), **more), GREY),
                f"{name}grey 12": (tiff(12, 1, packed(WIDE >> 4, 12), **more), GREY),
            }
        if zipped:
            RIGHT |= {
                f"{name}halved colours": (tiff(8, 6, HALVED.tobytes(), samples=3, t530=(2, 2), **more), YCC[..., 0]),
                f"{name}rgb 16 apart": (
                    tiff(16, 2, [wide(RGB[..., c], order) for c in range(3)], samples=3, t284=2, **more),
                    RGB,
                ),
            }
for bits in (1, 2, 4, 8):
    few, colours = GREY >> (8 - bits), PALETTE[: 2**bits].astype(np.uint8).tobytes()
    clear = int(few[0, 0])
    RIGHT |= {
        f"png grey {bits}": (png(bits, 0, rows(few, bits)), spread(few, bits)),
        f"png grey {bits}, one clear": (
            png(bits, 0, rows(few, bits), tRNS=struct.pack(">H", clear)),
            np.where(few == clear, 255, spread(few, bits)),
        ),
        f"png palette {bits}": (png(bits, 3, rows(few, bits), PLTE=colours), PALETTE[few]),
        f"png palette {bits}, first half clear": (
            png(bits, 3, rows(few, bits), PLTE=colours, tRNS=b"\x80"),
            on_white(PALETTE[few], np.where(few == 0, 128, 255)),
        ),
    }
for most in (1, 100, 255, 256, 4095, 65535):
    kind = ">u2" if most > 255 else "u1"
    grey, colour = GREY.astype(int) * most // 255, RGB.astype(int) * most // 255
    RIGHT |= {
        f"pgm to {most}": (b"P5 8 8 %d\n" % most + grey.astype(kind).tobytes(), grey * 255 / most),
        f"ppm to {most}": (b"P6 8 8 %d\n" % most + colour.astype(kind).tobytes(), colour * 255 / most),
        f"pgm in words to {most}": (b"P2 8 8 %d\n" % most + b" ".join(b"%d" % v for v in grey.flat), grey * 255 / most),
    }
MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
BGRA = WITH_ALPHA[..., [2, 1, 0, 3]]
RIGHT |= {
    "png grey 16": (png(16, 0, rows(WIDE, 16)), GREY),
    "png rgb 16": (png(16, 2, rows(RGB.astype(np.uint16) << 8 | 77, 16)), RGB),
    "png grey alpha": (png(8, 4, rows(GREY_ALPHA)), on_white(GREY, ALPHA)),
    "png grey alpha 16": (png(16, 4, rows(GREY_ALPHA.astype(np.uint16) << 8 | 77, 16)), on_white(GREY, ALPHA)),
    "png alpha 16": (png(16, 6, rows(WITH_ALPHA.astype(np.uint16) << 8 | 77, 16)), on_white(RGB, ALPHA)),
    "pbm": (b"P4 8 8\n" + packed(GREY >> 7, 1), 255 - 255 * (GREY >> 7)),
    "bmp alpha": (bmp(BGRA, MASKS), on_white(RGB, ALPHA)),
    "bmp with an empty alpha": (bmp(BGRA * np.array([1, 1, 1, 0], np.uint8), MASKS), RGB),
    "bmp without masks": (bmp(BGRA * np.array([1, 1, 1, 0], np.uint8), (0, 0, 0, 0)), RGB),
    "jpeg cmyk": (saved(Image.fromarray(INK, "CMYK"), "JPEG", quality=100, subsampling=0), RGB),
    "gif clear": (
        saved(Image.fromarray(FOUR), "GIF", transparency=3),
        np.where(FOUR == 3, 255, FOUR),
    ),
    **{f"jpeg 2000 {bits}": (jpeg2000(bits), GREY) for bits in (9, 12, 16)},
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_brightness_is_that_of_the_picture(name: str, tmp_path: Path) -> None:
    data, wanted = RIGHT[name]
    (tmp_path / "x").write_bytes(data)
    found = np.frombuffer(decode(str(tmp_path / "x"), SIZE), np.uint8).reshape(SIZE, 3, SIZE).transpose(0, 2, 1)
    wanted = wanted if wanted.ndim == 3 else wanted[..., None]
    assert np.abs(found.astype(int) - wanted).max() <= 3


SIGNED, WHITE, APART, TIFF = (
    "signed, floating-point or 32-bit",
    "0 is black or white",
    "stores its channels apart",
    "a TIFF of a kind",
)
REFUSED = {
    "tiff, black or white": (tiff(8, None, GREY.tobytes()), WHITE),
    "tiff 16, black or white": (tiff(16, None, wide(GREY)), WHITE),
    "tiff 1, black or white": (tiff(1, None, packed(GREY >> 7, 1)), WHITE),
    "tiff signed 8": (tiff(8, 1, GREY.tobytes(), t339=2), SIGNED),
    "tiff signed 16": (tiff(16, 1, wide(GREY), t339=2), SIGNED),
    "tiff float": (tiff(32, 1, GREY.astype("<f4").tobytes(), t339=3), SIGNED),
    "tiff 32": (tiff(32, 1, GREY.astype("<u4").tobytes()), "32-bit"),
    "tiff > white 0 16": (tiff(16, 0, wide(255 - GREY, ">"), ">"), TIFF),
    "tiff > 12": (tiff(12, 1, packed(WIDE >> 4, 12), ">"), TIFF),
    "tiff white 0 12": (tiff(12, 0, packed(WIDE >> 4, 12)), TIFF),
    "tiff 10": (tiff(10, 1, packed(WIDE >> 6, 10)), TIFF),
    "tiff mask": (tiff(1, 4, packed(GREY >> 7, 1)), TIFF),
    "tiff raw of a camera": (tiff(16, 32803, wide(GREY)), TIFF),
    "tiff rgb 16 apart": (tiff(16, 2, [wide(RGB[..., c]) for c in range(3)], samples=3, t284=2), APART),
    "tiff cmyk 16 apart": (tiff(16, 5, [wide(INK[..., c]) for c in range(4)], samples=4, t284=2), APART),
    "tiff alpha apart": (tiff(8, 2, apart(WITH_ALPHA), samples=4, t284=2, zipped=True), APART),
    "tiff grey alpha apart": (tiff(8, 1, apart(GREY_ALPHA), samples=2, t284=2, t338=2, zipped=True), APART),
    "tiff lab apart": (tiff(8, 8, apart(RGB), samples=3, t284=2), APART),
    "tiff halved colours": (
        tiff(8, 6, HALVED.tobytes() + bytes(99), samples=3, t530=(2, 2)),
        "uncompressed YCbCr with",
    ),
    "tiff usual colours": (tiff(8, 6, HALVED.tobytes() + bytes(99), samples=3), "uncompressed YCbCr with"),
    "tiff other inks": (tiff(8, 5, INK.tobytes(), samples=4, t332=2), "inks that are not CMYK"),
    "png 16, one clear": (png(16, 0, rows(WIDE, 16), tRNS=struct.pack(">H", WIDE[2, 3])), "one 16-bit colour"),
    "png rgb 16, one clear": (
        png(16, 2, rows(RGB.astype(np.uint16) << 8, 16), tRNS=struct.pack(">HHH", *(RGB[2, 3].astype(int) << 8))),
        "one 16-bit colour",
    ),
    "pfm": (b"Pf 8 8 -1.0\n" + (GREY / 255).astype("<f4").tobytes(), "32-bit"),
    "jpeg cmyk of somebody": (
        without_adobe(saved(Image.fromarray(INK, "CMYK"), "JPEG", quality=100, subsampling=0)),
        "whether 0 or 255 is full ink",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_read_wrongly_is_refused(name: str, tmp_path: Path) -> None:
    data, words = REFUSED[name]
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(BadImage, match=words):
        decode(str(tmp_path / "x"), SIZE)
