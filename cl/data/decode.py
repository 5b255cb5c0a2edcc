"""One image file as a square of RGB bytes, and the process that does it for many at a time (see `cl.data.images`).

Imports nothing of this project, so that such a process is at work in a quarter of a second.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import signal
import struct
import sys
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

Images = npt.NDArray[np.uint8]
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""Still pictures only: some other readers of Pillow start programs (EPS) or fetch parts from elsewhere."""
MAX_BYTES = 2**30
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


class BadImage(Exception):
    """The file is there and can be read, but what it holds is not a picture we can use; the message says why."""


def decode(path: str, size: int) -> Images:
    """The upright middle square of a picture, scaled to (size, size, 3) uint8 RGB.

    Raises `BadImage` for bytes that are no usable picture, `OSError` where the machine does not hand the bytes over.
    """
    with open(path, "rb", buffering=0) as file:
        data = file.read() if os.fstat(file.fileno()).st_size <= MAX_BYTES else None
    if not data:
        raise BadImage("an empty file" if data == b"" else f"more than {MAX_BYTES} bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if min(image.size) >= 4 * size:
            # A JPEG can be decoded at a half, a quarter or an eighth; twice the side wanted is left to scale down.
            image.draft(None, (2 * size, 2 * size))
        image.load()
        return _square(image, size)
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage("not a picture of a known format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:  # Pillow's decoders meet damaged bytes with whatever their arithmetic runs into
        raise BadImage(f"damaged: {error}" if isinstance(error, OSError) else f"damaged: {error!r}") from None


def _square(image: Image.Image, size: int) -> Images:
    source: Image.Image = image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        source = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise BadImage("32-bit samples, of which nobody knows the white; save it with 8 or 16 bits")
    elif image.has_transparency_data:
        source = image.convert("RGBA")
    elif image.mode not in ("L", "RGB", "CMYK"):
        source = image.convert("RGB")
    if source.size != (size, size):
        width, height = source.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        # Pillow's bilinear filter widens as it scales down (antialias). Crop and scale in one pass.
        box = (left, top, left + side, top + side)
        source = source.resize((size, size), Image.Resampling.BILINEAR, box)
    if source.mode == "RGBA":
        source = Image.alpha_composite(Image.new("RGBA", source.size, WHITE), source)
    if source.mode != "RGB":
        source = source.convert("RGB")
    turn = TURNS.get(_orientation(image))
    if turn is not None:  # last, on the small square: a middle square turned is the middle square of the turned
        source = source.transpose(turn)
    return np.asarray(source)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, struct.error, ValueError, TypeError, KeyError, EOFError):
        return 1  # EXIF that cannot be read turns nothing; the picture itself is whole
    return orientation if isinstance(orientation, int) else 1


def decode_many(paths: Sequence[str], images: Images) -> dict[int, str]:
    """Decode into `images`, (len(paths), 3, size, size); returns why, by index, where a picture is bad.

    Raises `OSError` as `decode` does.
    """
    faults = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata, mostly; what they announce comes as an error too, or is harmless
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for index, path in enumerate(paths):
            try:
                images[index] = decode(path, images.shape[-1]).transpose(2, 0, 1)
            except BadImage as error:
                faults[index] = str(error)
    return faults


def serve(descriptor: int, count: int, size: int) -> None:
    """Answer requests until standard input ends.

    A request is a line of JSON, a list of at most `count` paths; the answer is a line of JSON, {"faults"} or
    {"error": [errno, message, path]}, once the images are in the shared memory of that descriptor.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; we end when it closes our input
    images = shared(descriptor, count, size)
    for line in sys.stdin:
        paths = json.loads(line)
        try:
            answer: dict[str, object] = {"faults": decode_many(paths, images[: len(paths)])}
        except OSError as error:
            answer = {"error": [error.errno, error.strerror, error.filename]}
        print(json.dumps(answer), flush=True)


def shared(descriptor: int, count: int, size: int) -> Images:
    """The file of that descriptor as an array (count, 3, size, size) that several processes see."""
    memory = mmap.mmap(descriptor, count * 3 * size * size)
    return np.frombuffer(memory, np.uint8).reshape(count, 3, size, size)


if __name__ == "__main__":
    serve(*(int(argument) for argument in sys.argv[1:]))
