"""The pass: a frozen backbone turns pictures into vectors, a chunk on each core at a time.

A chunk's vectors are a file from the moment they exist, so a pass that is killed loses no more than the chunks in hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cl.data.prepare import Say, is_whole, writing
from cl.data.progress import SAY_EVERY, duration
from cl.errors import UserError
from cl.files import write_bytes
from cl.machine import choose_device, keeping_memory, processors
from cl.params import Params

if TYPE_CHECKING:
    from cl.nets.pretrained import Pretrained

CHUNK = 64
"""Pictures that are saved together; a pass that is killed loses no more of each core."""
WORK = re.compile(r"[0-9a-f]{16}/\d{8}\.vectors")
"""The file of a chunk, in `<out>/.work/features` until the pass is finished."""
DIGEST_BYTES = 32
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """A split of a task whose vectors are needed."""

    task: int
    split: str
    images: Path
    sha256: str
    count: int
    key: str
    """Digest of everything that its vectors are computed from."""

    def chunks(self, work: Path) -> dict[int, Path]:
        """The file of each chunk, by the index of its first picture."""
        return {start: work / self.key[:16] / f"{start:08d}.vectors" for start in range(0, self.count, CHUNK)}


def join(part: Part, work: Path, path: Path) -> None:
    """Join the chunks of a split into one .npy file."""
    with writing(path, "wb") as file:
        for start, chunk in part.chunks(work).items():
            data = _whole(chunk)
            if data is None:
                raise UserError(f"{chunk}: damaged since it was written; run the same command again")
            if start == 0:
                features = len(data) // (4 * min(CHUNK, part.count))
                shape = (part.count, features, 1, 1)
                np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            file.write(data)


def _whole(chunk: Path) -> bytes | None:
    """The vectors in the file of a chunk, which ends with their SHA-256; None if it is missing or damaged."""
    data = chunk.read_bytes() if chunk.is_file() else b""
    vectors, seal = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    return vectors if vectors and hashlib.sha256(vectors).digest() == seal else None


def make_chunks(params: Params, side: int, scale: float, parts: Sequence[Part], work: Path, say: Say) -> None:
    """Make the chunks that are missing, one on each core at a time.

    Args:
        params: for the backbone and its weights, the device and the number of cores.
        side: of the pictures as the backbone takes them, in pixels.
        scale: what stored bytes are divided by.
        parts: the splits whose vectors are needed.
        work: the folder of the chunks' files.
        say: shows progress.
    """
    jobs = [(part, start, path) for part in parts for start, path in part.chunks(work).items()]
    left = [job for job in jobs if _whole(job[2]) is None]
    if not left:
        return
    for part in {part.key: part for part, _, _ in left}.values():
        if not is_whole(part.images, part.sha256):
            raise UserError(f"{part.images}: missing or altered since it was prepared; python -m flows.prepare")
    from cl.nets.pretrained import pretrained

    device = choose_device(params.execution.device)
    net = pretrained(params.model, side, scale).to(device)
    arrays = {part.key: np.load(part.images, mmap_mode="r", allow_pickle=False) for part, _, _ in left}
    total = sum(part.count for part in parts)
    before = total - sum(min(CHUNK, part.count - start) for part, start, _ in left)
    progress = Progress(total, before, say)
    if before:
        say(f"features: going on; {before:,} of {total:,} pictures are done already")

    def make(job: tuple[Part, int, Path]) -> int:
        part, start, path = job
        vectors = vectors_of(net, np.array(arrays[part.key][start : start + CHUNK]))
        if not np.isfinite(vectors).all():
            raise UserError(f"model.backbone: {params.model.backbone} gives features that are not finite; take another")
        data = vectors.tobytes()
        write_bytes(path, data + hashlib.sha256(data).digest())
        return len(vectors)

    cores = 1 if device.type == "cuda" else params.execution.workers or processors()
    with keeping_memory(), threads(min(cores, len(left))) as pool:
        for count in pool.map(make, left):
            progress.add(count)


def vectors_of(net: Pretrained, images: npt.NDArray[np.uint8]) -> Vectors:
    """The features (N, F) float32 of pictures (N, C, H, W) uint8."""
    import torch

    if images.shape[1] not in (1, 3):
        raise UserError(f"model.name: features needs grey or colour pictures; these have {images.shape[1]} channels")
    vectors: Vectors = net(torch.from_numpy(images)).cpu().numpy().astype("<f4", copy=False)
    if vectors.ndim != 2:
        raise UserError(f"model.backbone: gives an array {vectors.shape[1:]} for a picture, not a vector; take another")
    return np.ascontiguousarray(vectors)


@contextlib.contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of this many threads. Each computes a chunk on one core, which is faster than one chunk on all cores.

    After an interrupt no further chunk is begun.
    """
    import torch

    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(usual)


class Progress:
    """Says every few seconds how many of the pictures are done, at which rate, and how much time is left."""

    def __init__(self, total: int, before: int, say: Say) -> None:
        self.total, self.before, self.say = total, before, say
        self.done = before
        self.started = self.said = time.monotonic()

    def add(self, count: int) -> None:
        """Count this many more pictures as done."""
        self.done += count
        now = time.monotonic()
        if now - self.said < SAY_EVERY:
            return
        self.said = now
        rate = (self.done - self.before) / (now - self.started)
        left = duration((self.total - self.done) / rate)
        self.say(f"features: {self.done:,} of {self.total:,} pictures, {rate:,.0f} a second, {left} left")
