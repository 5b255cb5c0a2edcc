"""Locks between processes, on one machine or on a disk with locks across machines; they end with the process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def alone(lock: Path, busy: Callable[[], object], *, leave: bool = True) -> Iterator[None]:
    """Hold the lock of this file, made where it is missing; `leave`: it stays afterwards, empty.

    Where another process holds it, `busy` is called, to say so or to raise, and then it is waited for. Raises
    `OSError` where the file cannot be made or the disk knows no locks.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with lock.open("ab") as file:  # which leaves its times as they are
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy()
                fcntl.flock(file, fcntl.LOCK_EX)
            if not is_at(file.fileno(), lock):
                continue  # whoever held it has removed it
            try:
                yield
            finally:
                if not leave:
                    lock.unlink(missing_ok=True)
            return


def take(descriptor: int) -> bool | None:
    """Lock an open file or folder at once; False where another has it, None where the disk knows no such locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def wait_for(descriptor: int) -> None:
    """Lock an open file or folder, if the disk knows such locks, once no other has it."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one at that path now, and not an earlier one."""
    try:
        here, there = os.fstat(descriptor), os.stat(path)
    except FileNotFoundError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
