"""Image files become tasks: many are decoded at once, in processes beside this one, straight into one file a split.

A benchmark of image files says which file belongs where (`Listing`); `raw_tasks` does the rest. Needs no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import mmap
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from cl.data import decode
from cl.data.prepare import WORKPLACE, Format, Images, Labels, RawTask, Say, writing
from cl.data.source import source
from cl.errors import UserError, count, plain
from cl.machine import processors

IMAGENET = Format(scale=255.0, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
"""How the survey normalises every set of photographs (its dataset preparation; ImageNet's statistics)."""
MIDDLE = 224 / 256
"""What the survey keeps of the shorter side of its larger photographs: scaled to 256 pixels, the middle 224."""
OF_IMAGES = frozenset(
    {"path", "image_size", "on_bad_image", "train_per_class", "validation_per_class", "validation_share"}
)
"""The keys of `benchmark` that any benchmark of image files knows."""
RECIPE = 2
"""Of `decode`: another number where the same file becomes other bytes, so that what is prepared is made anew."""
BATCH = 128
BATCH_BYTES = 2**22
"""A process is given so many images at a time, or so few that they take no more than these bytes."""
SHOWN = 5
SAY_EVERY = 5.0
"""Seconds between two lines of progress."""

File = tuple[str, int]
"""A path relative to the benchmark's root, with slashes, and the label within the task."""


@dataclass(frozen=True)
class Listing:
    """A task while its images are still files."""

    name: str
    classes: list[str]
    splits: Mapping[str, Sequence[File]]


@dataclass(frozen=True)
class Bad:
    """A file that is no picture we can use."""

    path: str
    reason: str


Splits = Mapping[str, tuple[Images, Labels]]


def raw_tasks(
    root: Path,
    listings: Sequence[Listing],
    size: int,
    on_bad_image: Literal["refuse", "skip"],
    say: Say | None = None,
    keep: float = 1.0,
) -> Iterator[RawTask]:
    """Read the listed files as (N, 3, size, size) uint8 RGB, task by task; see `decode.decode` for what is done.

    `root` is a folder or a zip archive. Bad images are left out and named in the task's notes, or, with `refuse`, all
    of them are found before `UserError` is raised; it is raised too for a class of which too little is left, and for a
    file that the machine does not hand over. `keep` is the share of the shorter side that the middle square has.
    The arrays are files (`RawTask.files`), which are deleted in the end unless moved by then.
    """
    bad: list[Bad] = []
    total = sum(len(files) for listing in listings for files in listing.splits.values())
    with (
        tempfile.TemporaryDirectory(dir=WORKPLACE.get()) as folder,
        _Readers(root, Path(folder), size, total, say, keep) as readers,
    ):
        reading = [readers.start(listing) for listing in listings[:1]]
        for index, listing in enumerate(listings):
            # While the caller writes this task, the next is read.
            reading += [readers.start(after) for after in listings[index + 1 : index + 2]]
            files, splits, skipped = readers.finish(reading.pop(0))
            bad += skipped
            if bad and on_bad_image == "refuse":
                continue  # only to name all that is bad at once
            _check_classes(listing, splits, skipped)
            if skipped and say is not None:
                say(f"{listing.name}: skipped {count(len(skipped), 'bad image')}; manifest.json names them")
            notes = {"skipped": [vars(fault) for fault in skipped]}
            yield RawTask(listing.name, listing.classes, splits, notes, files)
    if bad and on_bad_image == "refuse":
        raise UserError(
            f"{len(bad)} of {total} files in {root} are no usable images: {_named(bad)}; "
            "mend or delete them, or leave them out with benchmark.on_bad_image=skip"
        )


def fingerprint(root: Path, listings: Sequence[Listing]) -> str:
    """Names the listed files by path, split, label and state (`Folder.states`), without reading them."""
    hasher = hashlib.sha256(json.dumps([RECIPE, [[task.name, task.classes] for task in listings]]).encode())
    lists = [(split, files) for listing in listings for split, files in listing.splits.items()]
    place = source(root)
    with _readable(root):
        for split, files in lists:
            states = place.states([path for path, _ in files])
            lines = (f"{split}\0{label}\0{path}\0{state}\n" for (path, label), state in zip(files, states, strict=True))
            hasher.update("".join(lines).encode(errors="surrogateescape"))
    return hasher.hexdigest()


def _check_classes(listing: Listing, splits: Splits, skipped: Sequence[Bad]) -> None:
    for split, (_, labels) in splits.items():
        for label in sorted(set(range(len(listing.classes))) - set(labels.tolist())):
            raise UserError(
                f"task {listing.name}: no usable {split} image of class {listing.classes[label]} is left "
                f"({len(skipped)} bad ones skipped: {_named(skipped)}); mend them or add others"
            )


def _named(bad: Sequence[Bad]) -> str:
    more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return ", ".join(f"{plain(fault.path)} ({fault.reason})" for fault in bad[:SHOWN]) + more


@contextlib.contextmanager
def _readable(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{plain(os.fsdecode(error.filename or root))}: cannot be read ({error.strerror}); mend that or remove it"
        ) from None


def write_header(file: BinaryIO, count: int, size: int) -> None:
    """Write the head of a .npy file of so many images; numpy leaves room for any count, so its length is fixed."""
    shape = (count, 3, size, size)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


@dataclass(frozen=True)
class _Reading:
    """A split on its way: the jobs fill the .npy file from `start` on, each with so many images."""

    files: Sequence[File]
    path: Path
    start: int
    step: int
    jobs: list[Future[dict[int, str]]]


class _Readers:
    """Processes that decode, as many as there are cores, and a thread to wait for each."""

    def __init__(self, root: Path, folder: Path, size: int, total: int, say: Say | None, keep: float) -> None:
        self.root, self.size, self.total, self.say = root, size, total, say
        self.source, self.paths = source(root), (folder / f"{number}.npy" for number in itertools.count())
        self.done, self.started, self.said = 0, time.monotonic(), time.monotonic()
        self.batch = max(1, min(BATCH, BATCH_BYTES // (3 * size * size)))
        count = max(1, min(processors(), total // self.batch))
        self._all = [_Reader(root, self.batch, size, keep) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Reader] = queue.SimpleQueue()
        for reader in self._all:
            self._idle.put(reader)
        self._threads = ThreadPoolExecutor(count)

    def __enter__(self) -> _Readers:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._all:
            reader.process.kill()  # idle, or (after an error, or Ctrl-C) at work that nobody waits for any more
        self._threads.shutdown(cancel_futures=True)
        for reader in self._all:
            reader.close()

    def start(self, listing: Listing) -> dict[str, _Reading]:
        """Begin to read a task, once those before it are read."""
        return {split: self._start(files) for split, files in listing.splits.items()}

    def _start(self, files: Sequence[File]) -> _Reading:
        names = [path for path, _ in files]
        path = next(self.paths)
        with writing(path, "wb") as file:
            write_header(file, len(names), self.size)
            start = file.tell()
        step = max(1, min(self.batch, len(names) // (4 * len(self._all))))  # smaller where there is little to share out
        jobs = [
            self._threads.submit(self._read, names[first : first + step], path, start + first * 3 * self.size**2)
            for first in range(0, len(names), step)
        ]
        return _Reading(files, path, start, step, jobs)

    def _read(self, names: Sequence[str], path: Path, place: int) -> dict[int, str]:
        """Decode these images into the file, at that place."""
        reader = self._idle.get()
        try:
            images, faults = reader.decode_many(names, self.source.places(names))
            with writing(path, "r+b") as file:
                file.seek(place)
                file.write(images.data)
            return faults
        finally:
            self._idle.put(reader)

    def finish(self, task: Mapping[str, _Reading]) -> tuple[dict[str, Path], Splits, list[Bad]]:
        """The files of each split and their arrays, without the bad images, and these."""
        splits, bad = {}, []
        for split, reading in task.items():
            faults = self._faults(reading)
            kept = [index for index in range(len(reading.files)) if index not in faults]
            if faults:
                self._close_up(reading, kept)
            labels = np.array([reading.files[index][1] for index in kept], dtype=np.int64)
            splits[split] = np.load(reading.path, mmap_mode="r", allow_pickle=False), labels
            bad += [Bad(reading.files[index][0], reason) for index, reason in faults.items()]
        files = {split: reading.path for split, reading in task.items()}
        return files, splits, sorted(bad, key=lambda fault: fault.path)

    def _close_up(self, reading: _Reading, kept: Sequence[int]) -> None:
        """Keep only these images in the file."""
        length = 3 * self.size**2
        with writing(reading.path, "r+b") as file:
            for place, index in enumerate(kept):
                if place != index:
                    file.seek(reading.start + index * length)
                    image = file.read(length)
                    file.seek(reading.start + place * length)
                    file.write(image)
            file.truncate(reading.start + len(kept) * length)
            file.seek(0)
            write_header(file, len(kept), self.size)

    def _faults(self, reading: _Reading) -> dict[int, str]:
        faults: dict[int, str] = {}
        for number, job in enumerate(reading.jobs):
            with _readable(self.root):
                unreadable = job.result()
            faults.update({number * reading.step + index: reason for index, reason in unreadable.items()})
            self.done += min(reading.step, len(reading.files) - number * reading.step)
            now = time.monotonic()
            if self.say is not None and now - self.said >= SAY_EVERY:
                self.said = now
                self.say(f"read {self.done:,} of {self.total:,} images in {now - self.started:,.0f} s")
        return faults


def _nameless_file() -> int:
    """The descriptor of a file in memory, or on the disk where the system has no files in memory (macOS)."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("images")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class _Reader:
    """A process that runs `decode.serve`: no process with threads is forked, no main module imported twice."""

    def __init__(self, root: Path, count: int, size: int, keep: float) -> None:
        shared = _nameless_file()
        os.truncate(shared, count * 3 * size * size)
        self.size, self.memory = size, mmap.mmap(shared, 0)
        command = [sys.executable, "-P", decode.__file__, str(shared), str(size), str(root), str(keep)]
        self.complaints = tempfile.TemporaryFile()  # noqa: SIM115 - of libtiff, mostly, which nobody needs to see
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            pass_fds=[shared],
            encoding="utf-8",
        )
        os.close(shared)

    def decode_many(self, names: Sequence[str], places: Sequence[decode.Place | None]) -> tuple[Images, dict[int, str]]:
        """The images, and why some are bad, by index; raises `UserError` where the process dies of it."""
        requests, answers = self.process.stdin, self.process.stdout
        assert requests is not None
        assert answers is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead then, and gives no answer either
            print(json.dumps([names, places]), file=requests, flush=True)
        line = answers.readline()
        if not line.endswith("\n"):
            code = self.process.wait()
            self.complaints.seek(0)
            last = self.complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise UserError(
                f"a process that reads images died between {names[0]} and {names[-1]} (code {code}: {last}); "
                "is there enough memory? If it dies at the same files again, remove the one at fault"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise OSError(*answer["error"])
        # Row by row, red, green and blue: taking these apart is faster here than in Pillow.
        rows = np.frombuffer(self.memory, np.uint8).reshape(-1, self.size, 3, self.size)[: len(names)]
        channels_first = np.ascontiguousarray(rows.transpose(0, 2, 1, 3))
        return channels_first, {int(index): reason for index, reason in answer["faults"].items()}

    def close(self) -> None:
        """Give back what the process held, once it was killed."""
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.complaints):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
