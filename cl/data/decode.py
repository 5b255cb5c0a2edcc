"""One image file as a square of RGB bytes, and the process that does it for many at a time (see `cl.data.images`).

It imports only Pillow, nothing of this project and no numpy, so such a process is ready in a tenth of a second.
"""

from __future__ import annotations

import errno
import functools
import io
import json
import mmap
import os
import queue
import signal
import stat
import struct
import sys
import threading
import warnings
import zipfile
import zlib
from collections.abc import Sequence

from PIL import ExifTags, Image, ImagePalette, TiffImagePlugin, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""Still pictures only: some other readers of Pillow start programs (EPS) or fetch parts from elsewhere."""
MAX_BYTES = 2**30
MEMBER, HEADER = b"PK\x03\x04", 30
"""What a member of a zip archive begins with, and how many bytes stand before its name; the last four of them are the
lengths of its name and of its extra field."""
WHITE = (255, 255, 255, 255)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture upright, by its EXIF orientation (Exif 2.32, tag 0x0112)."""


ORIENTED = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
"""Where Pillow may find an orientation; that of a TIFF it has applied already."""
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""What a TIFF begins with."""
WHITE_IS_ZERO, UNSIGNED, APART, NO_SUBSAMPLING, CMYK_INKS = 0, 1, 2, (1, 1), 1
"""Of the tags PhotometricInterpretation, SampleFormat, PlanarConfiguration, YCbCrSubSampling, InkSet (TIFF 6.0)."""
WHOLE_RANGE = (0, 255, 128, 255, 128, 255)
"""ReferenceBlackWhite of YCbCr whose samples use all 8 bits."""
PNG_DEPTH = 24
"""Where in a PNG its bits per sample stand."""
NO_WHITE = "signed, floating-point or 32-bit samples, which do not say how bright white is; save it with 8 or 16 bits"
Place = tuple[int, int, int]
"""Of a member of a zip archive that is not packed: where it begins, how many bytes it has, and their CRC-32."""


class BadImage(Exception):
    """The file can be read, but it holds no picture that we can use; the message says why."""


class Archive:
    """A zip archive, of which the places of some members may be known."""

    def __init__(self, path: str) -> None:
        self.file = open(path, "rb")  # noqa: SIM115 - for as long as the process runs
        self.places: dict[str, Place | None] = {}

    @functools.cached_property
    def members(self) -> zipfile.ZipFile:
        """Its table of contents; to read that of a large archive takes a good part of a second."""
        return zipfile.ZipFile(self.file)


def decode(path: str, size: int, archive: Archive | None = None, keep: float = 1.0) -> bytes:
    """The upright middle square of a picture, scaled to size x size: row by row, each its red, green and blue bytes.

    The square's side is `keep` times the shorter side of the picture.
    The picture is a file, or a member of an archive. Raises `BadImage` for bytes that are no usable picture, `OSError`
    where the machine does not hand the bytes over.
    """
    data = _read(path) if archive is None else _unpacked(path, archive)
    if not data:
        raise BadImage("an empty file" if data == b"" else f"more than {MAX_BYTES} bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if keep * min(image.size) >= 4 * size:
            # A JPEG can be decoded at a half, a quarter or an eighth; twice the side wanted is left to scale down.
            image.draft(None, (round(2 * size / keep),) * 2)
        _mend_or_refuse(image, data)
        image.load()
        return middle_square(image, size, keep).tobytes("raw", "RGB;L")
    except BadImage:
        raise
    except MemoryError:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), path) from None
    except UnidentifiedImageError:
        known = "a TIFF of a kind that cannot be read (its bits, colours or compression)"
        raise BadImage(known if data.startswith(TIFFS) else "not a picture of a known format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:  # Pillow's decoders meet damaged bytes with whatever their arithmetic runs into
        raise BadImage(f"damaged: {error}" if isinstance(error, OSError) else f"damaged: {error!r}") from None


def _read(path: str) -> bytes | None:
    with open(path, "rb", buffering=0, opener=_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("a pipe or a device, not a file")
        return file.read() if status.st_size <= MAX_BYTES else None


def _at_once(path: str, flags: int) -> int:
    """Open without waiting, as a pipe would have us do until somebody writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _unpacked(name: str, archive: Archive) -> bytes | None:
    place = archive.places.get(name)
    if place and (data := _stored(archive.file.fileno(), *place)):
        return data
    try:
        entry = archive.members.getinfo(name)
        return archive.members.read(entry) if entry.file_size <= MAX_BYTES else None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise BadImage(f"damaged in the archive: {error}") from None


def _stored(archive: int, start: int, length: int, checksum: int) -> bytes | None:
    """The bytes of a member that is not packed, several times as fast as the library; None: leave it to that."""
    header = os.pread(archive, HEADER, start)
    if length > MAX_BYTES or len(header) < HEADER or not header.startswith(MEMBER):
        return None
    names = sum(struct.unpack_from("<HH", header, HEADER - 4))
    data = os.pread(archive, length, start + HEADER + names)
    return data if zlib.crc32(data) == checksum else None


def middle_square(image: Image.Image, size: int, keep: float = 1.0) -> Image.Image:
    """The upright middle square of a loaded image, scaled to size x size, as RGB; its side is `keep` of the shorter."""
    square = _eight_bits(image)
    if square.size != (size, size) or keep < 1:
        width, height = square.size
        side = keep * min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        # Pillow's bilinear filter widens as it scales down (antialias). Crop and scale in one pass.
        box = (left, top, left + side, top + side)
        square = square.resize((size, size), Image.Resampling.BILINEAR, box)
    if square.mode == "RGBA":
        square = Image.alpha_composite(Image.new("RGBA", square.size, WHITE), square)
    if square.mode != "RGB":
        square = square.convert("RGB")
    turn = TURNS.get(_orientation(image))
    # Turned last, when it is small: the middle square of a picture turned is its middle square, turned.
    return square if turn is None else square.transpose(turn)


def _mend_or_refuse(image: Image.Image, data: bytes) -> None:
    """Mend, before the pixels are read, what Pillow takes amiss; raises `BadImage` for what it would read wrongly."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image)
        colours = image.tag_v2.get(ExifTags.Base.ColorMap, ())
        if image.mode in ("P", "PA") and max(colours) < 256:  # old programs wrote 8 bits, not the standard's 16
            image.palette = ImagePalette.raw("RGB;L", bytes(colours))
    elif image.format == "PNG" and image.mode != "P" and "transparency" in image.info:
        depth = data[PNG_DEPTH]
        if depth == 16:
            raise BadImage("one 16-bit colour stands for transparency; save it with an alpha channel")
        if image.mode == "L":  # whose samples Pillow spreads over 8 bits, but not the one that is transparent
            image.info["transparency"] = image.info["transparency"] * 255 // (2**depth - 1)
    elif image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        raise BadImage("CMYK without Adobe's mark, which says whether 0 or 255 is full ink; save it as RGB")


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    tags, packed = image.tag_v2, image.info["compression"] != "raw"
    if ExifTags.Base.PhotometricInterpretation not in tags:
        raise BadImage("a TIFF that does not say whether 0 is black or white")
    if set(tags.get(ExifTags.Base.SampleFormat, ())) - {UNSIGNED}:
        raise BadImage(NO_WHITE)
    extra = ExifTags.Base.ExtraSamples in tags
    if tags.get(ExifTags.Base.PlanarConfiguration) == APART and tags.get(ExifTags.Base.SamplesPerPixel, 1) > 1:
        readable = image.mode in ("RGB", "CMYK") or (image.mode == "RGBA" and extra)
        if not readable or not (packed or set(tags[ExifTags.Base.BitsPerSample]) == {8}):
            raise BadImage("a TIFF that stores its channels apart; save it with the channels of a pixel together")
    if image.mode == "YCbCr" and (  # not packed, as libtiff makes RGB of those
        tags.get(ExifTags.Base.YCbCrSubSampling) != NO_SUBSAMPLING
        or tuple(tags.get(ExifTags.Base.ReferenceBlackWhite, WHOLE_RANGE)) != WHOLE_RANGE
    ):
        raise BadImage("uncompressed YCbCr with subsampling or a reduced range; save it as RGB")
    if image.mode == "CMYK" and tags.get(ExifTags.Base.InkSet, CMYK_INKS) != CMYK_INKS:
        raise BadImage("inks that are not CMYK; save it as RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image in a mode that can be scaled: L, RGB, CMYK, or RGBA where it knows transparency."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _upper_bits(image)
    if image.mode in ("I", "F"):
        raise BadImage(NO_WHITE)
    if image.mode == "La":
        image = image.convert("LA")
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema()[1] == 0:
        return image.convert("RGB")  # written without alpha: no program shows it as transparent everywhere
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _upper_bits(image: Image.Image) -> Image.Image:
    """The upper 8 of up to 16 bits. Pillow brings those of PNG, PPM and JPEG 2000 to 16, not those of a TIFF."""
    scale, offset = 1 / 256, 0.0
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2[ExifTags.Base.BitsPerSample][0]
        scale = 2.0 ** (8 - bits)
        if image.tag_v2[ExifTags.Base.PhotometricInterpretation] == WHITE_IS_ZERO:
            scale, offset = -scale, (2**bits - 1) * scale
    return image.convert("I").point(lambda sample: sample * scale + offset).convert("L")


def _orientation(image: Image.Image) -> int:
    if not ORIENTED & image.info.keys():
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, struct.error, ValueError):
        return 1  # EXIF that cannot be read turns nothing; the picture itself is whole
    return orientation if isinstance(orientation, int) else 1


def decode_many(
    paths: Sequence[str],
    size: int,
    memory: bytearray | mmap.mmap,
    archive: Archive | None = None,
    keep: float = 1.0,
) -> dict[int, str]:
    """Decode one after the other into `memory`; returns why, by index, where a picture is bad.

    Raises `OSError` as `decode` does.
    """
    faults = {}
    length = 3 * size * size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata, mostly; what they announce comes as an error too, or is harmless
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for index, path in enumerate(paths):
            try:
                memory[index * length : (index + 1) * length] = decode(path, size, archive, keep)
            except BadImage as error:
                faults[index] = str(error)
    return faults


def serve(descriptor: int, size: int, root: str, keep: float) -> None:
    """Answer requests until standard input ends, and then end at once.

    `root` is a folder, or the archive that holds the pictures.

    A request is a line of JSON, a list of paths relative to it and one of their places in the archive (or nulls); the
    answer is a line of JSON, {"faults"} or {"error": [errno, message, path]}, once the images are in the shared memory
    of that descriptor.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; we end when it closes our input
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the parent is gone: nobody is left to tell
    memory = mmap.mmap(descriptor, 0)
    archive = Archive(root) if os.path.isfile(root) else None
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=[requests], daemon=True).start()
    while True:
        paths, places = json.loads(requests.get())
        if archive is None:
            paths = [os.path.join(root, path) for path in paths]
        else:
            archive.places = dict(zip(paths, places, strict=True))
        try:
            answer: dict[str, object] = {"faults": decode_many(paths, size, memory, archive, keep)}
        except OSError as error:
            answer = {"error": [error.errno, error.strerror, error.filename]}
        print(json.dumps(answer), flush=True)


def _listen(requests: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the parent is gone, and nobody waits for what is being decoded


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
