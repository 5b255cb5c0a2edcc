"""Files and folders that are always whole, and the JSON in them. Needs no torch."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cl.errors import UserError
from cl.locks import is_at, take, wait_for

SCHEMA = 1
SEAL = "sha256"
DEEPEST = 64
"""Levels of lists and objects in a JSON file; ours have no more than ten."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is always whole: beside it first, then renamed. The bytes follow from the value."""
    write_bytes(path, to_json(value))


def read_json(path: Path) -> Any:
    """The JSON in the file; None where there is no such file or no JSON as `from_json` takes it."""
    try:
        return from_json(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError):
        return None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file; empty where there is none."""
    content = read_json(path)
    return content if isinstance(content, dict) else {}


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is always whole: its old content or its new; raises `OSError`, and no part is left."""
    _written(path, data).close()


def write_bytes(path: Path, data: bytes) -> None:
    """As `write_whole`; raises `UserError` naming the file where it cannot be written."""
    hold(path, data).close()


def hold(path: Path, data: bytes) -> BinaryIO:
    """As `write_bytes`; the file stays locked until the returned one is closed or this process ends."""
    try:
        return _written(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); nothing finished before is lost") from None


def make_way(path: Path, warn: Callable[[str], None], folder: bool = False) -> None:
    """Move away what stands where a file (or a folder) of ours belongs; nothing is removed, and `warn` is told."""
    if not os.path.lexists(path) or (path.is_dir() if folder else path.is_file()):
        return
    aside = move_aside(path)
    warn(f"{path}: stood where {'a folder' if folder else 'a file'} of the results belongs; renamed to {aside.name}")


def move_aside(path: Path) -> Path:
    """Give what is there another name, which is returned; raises `OSError`."""
    numbered = (path.with_name(f"{path.name}.aside-{number}") for number in itertools.count(1))
    aside = next(place for place in numbered if not os.path.lexists(place))
    path.rename(aside)
    return aside


def _written(path: Path, data: bytes) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    part, descriptor = _begun(path, lambda part: os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    file = os.fdopen(descriptor, "wb")
    try:
        file.write(data)
        file.flush()
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    return file


# Folders. What is in one of ours is known by its name; nothing else is ever removed.

Ours = Callable[[str], object]
"""Whether we wrote the file of this path within a folder, with slashes."""
PASSING = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""What file managers leave in every folder that is looked at; it goes with the folder."""
TRIES = 100


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A new folder beside this one, to be filled and settled; locked as long as this process lives. Raises `OSError`.

    What was not settled is gone at the end, whatever happens.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)

    def make(part: Path) -> int:
        part.mkdir()
        return os.open(part, os.O_RDONLY)

    part, descriptor = _begun(folder, make)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(descriptor)


def settle(part: Path, folder: Path, ours: Ours) -> None:
    """Put a folder that `making` made in its place, where one of ours may stand; raises `OSError` where it cannot.

    Several processes may do this at once: the last one's folder stays.
    """
    with contextlib.suppress(FileNotFoundError):  # looked at once: another process may be moving it just now
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "a link or a file stands there; move it away", str(folder))
    for _ in range(TRIES):
        old = _beside(folder)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        try:
            part.rename(folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                old.rename(folder)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            _clear_away(old, folder, ours)  # another process was faster
        else:
            _clear_away(old, folder, ours)
            return
    raise OSError(errno.EBUSY, "other processes keep writing it", str(folder))


def _clear_away(old: Path, folder: Path, ours: Ours) -> None:
    """Remove the folder that was set aside; what came into it in the last moment goes over into the new one."""
    if not old.exists():
        return
    remove(old, ours)
    for path in old.iterdir() if old.exists() else ():
        path.rename(folder / path.name)
    with contextlib.suppress(OSError):
        old.rmdir()


def foreign(folder: Path, ours: Ours) -> Path | None:
    """The first thing in the folder that we did not write; None if there is none."""
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        for path in sorted(Path(place, name) for name in [*files, *links]):
            if path.name not in PASSING and not ours(path.relative_to(folder).as_posix()):
                return path
    return None


def remove(folder: Path, ours: Ours) -> None:
    """Remove our files from the folder, and each folder that this leaves empty, itself included; all else stays.

    Raises `OSError`, but not for what another process removes meanwhile.
    """
    if folder.is_symlink():
        return
    for place, _, files in os.walk(folder, topdown=False):
        theirs = {name for name in files if not ours(Path(place, name).relative_to(folder).as_posix())}
        for name in files if theirs <= PASSING else set(files) - theirs:
            Path(place, name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            Path(place).rmdir()


# Unfinished work lies beside its place, under a name of its own, and is locked. What a kill left is not locked.

LEFT = re.compile(r"\.(.+?)\.(\d+)(\.[0-9a-f]{8})?\.part")


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")


def _begun(path: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Make a part of this path and, if the disk knows locks, lock it; returns the part and its descriptor."""
    for _ in range(TRIES):
        part = _beside(path)
        try:
            descriptor = make(part)
        except FileNotFoundError:  # what another process took for left behind, before it was locked
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        wait_for(descriptor)
        if is_at(descriptor, part):
            return part, descriptor
        os.close(descriptor)
    raise OSError(errno.EBUSY, "other processes keep removing it", str(path))


def sweep(folder: Path, of: Collection[str] = (), *, below: bool = False, sure: bool = False) -> None:
    """Remove from the folder the parts, of these names or of all, that a kill left behind; raises nothing.

    `below`: from the folders in it too. A part whose process lives is locked, on this machine or another; where the
    disk knows no locks nothing is removed, unless the caller is `sure`, holding the lock of all who make such parts.
    """
    for place, folders, files in os.walk(folder):
        for name in [*files, *folders]:
            left = LEFT.fullmatch(name)
            if left and (not of or left[1] in of):
                _sweep(Path(place, name), None if left[3] else int(left[2]), sure)
        folders[:] = [name for name in folders if below and not LEFT.fullmatch(name)]


def _sweep(part: Path, process: int | None, sure: bool) -> None:
    """`process`: of a part of an earlier version, which locked nothing."""
    if process is None or not _lives(process):
        remove_left(part, sure=sure)


def remove_left(path: Path, *, sure: bool = False) -> bool:
    """Remove a file or a folder of ours unless it is locked, as it is while in use; returns whether it was removed.

    `sure`: also where the disk knows no locks. Raises nothing.
    """
    try:
        whole = path.is_dir()
        descriptor = os.open(path, (os.O_RDONLY if whole else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        held = take(descriptor)
        if held is False or (held is None and not sure) or not is_at(descriptor, path):
            return False
        if whole:
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def to_json(value: Any) -> bytes:
    """JSON as we write it everywhere: sorted, indented, no NaN."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def from_json(data: bytes) -> Any:
    """The value of a JSON text, which others may have edited.

    Raises `ValueError`, saying what is wrong, also for what Python alone takes: NaN, numbers too large for a float, a
    name that stands twice, text that is no Unicode, and nesting deeper than `DEEPEST`.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_named_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one)
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
            elif isinstance(one, float) and not math.isfinite(one):
                raise ValueError("a number is too large")
            elif isinstance(one, str) and not one.isascii():
                one.encode()  # half of a surrogate pair: a UnicodeEncodeError, which is a ValueError
        if not below:
            return value
        level = below
    raise ValueError("nested too deeply")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError(f"{next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)!r} stands twice")
    return mapping


# A seal: the digest of all the rest, in the object itself.


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object with the SHA-256 of all that is in it, by which `unsealed` knows it again."""
    return {**value, SEAL: hashlib.sha256(to_json(dict(value))).hexdigest()}


def unsealed(value: Any) -> dict[str, Any] | None:
    """What was sealed; None for anything else, and where anything in it is not as it was."""
    if not isinstance(value, dict):
        return None
    rest = {name: part for name, part in value.items() if name != SEAL}
    return rest if value.get(SEAL) == sealed(rest)[SEAL] else None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, which is read now, but never whole into memory; raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_unless_changed(path: Path) -> str:
    """As `sha256_of`, but a process reads a file again only if its time of change is another."""
    return _remembered(path, path.stat().st_mtime_ns)


@functools.cache
def _remembered(path: Path, changed: int) -> str:
    del changed  # a file that was replaced is read again
    return sha256_of(path)
