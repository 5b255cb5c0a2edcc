"""Archives, unpacked once, and by one process at a time. Nothing but the standard library."""

from __future__ import annotations

import contextlib
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from cl import locks
from cl.data.prepare import Say
from cl.data.progress import Progress
from cl.errors import UserError
from cl.files import making, sweep


class _Refused(Exception):
    """No archive, or none that we unpack; says why."""


CHUNK = 2**20
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
"""What reading a damaged archive raises; `RuntimeError` where it is encrypted or packed in a way not known here."""


@contextlib.contextmanager
def alone(folder: Path, say: Say | None) -> Iterator[None]:
    """Hold the folder's lock, so that no two processes write the same file; raises `UserError` if that fails."""

    def busy() -> None:
        if say is not None:
            say(f"{folder}: another process is at work there; waiting for it")

    try:
        with locks.alone(folder / ".lock", busy):
            yield
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be written ({error.strerror or error})") from None


def unpack(archive: Path, folder: Path, say: Say | None) -> Path:
    """Unpack a zip or a tar file (also compressed) into `folder`, unless that is there; it appears at once and whole.

    Raises `UserError` for an archive that is damaged or would write elsewhere.
    """
    if folder.exists():
        return folder
    with alone(folder.parent, say):
        if folder.exists():  # another process was faster
            return folder
        sweep(folder.parent, [folder.name], sure=True)
        try:
            with making(folder) as part:
                with archive.open("rb") as file:
                    _extract(file, part, Progress(f"unpacking {archive.name}", archive.stat().st_size, say))
                part.rename(folder)
        except (*DAMAGED, _Refused) as error:
            raise UserError(f"{archive}: cannot be unpacked ({error}); delete it and fetch it again") from None
        except OSError as error:
            if error.errno is not None:
                raise UserError(f"{error.filename or folder}: cannot be written ({error.strerror})") from None
            raise UserError(f"{archive}: cannot be unpacked ({error}); delete it and fetch it again") from None
    return folder


def _extract(file: BinaryIO, folder: Path, progress: Progress) -> None:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as zipped:
            for name in zipped.namelist():
                _check(name)
                zipped.extract(name, folder)
                progress.at(file.tell())
        return
    file.seek(0)
    try:
        tarred = tarfile.open(fileobj=file)  # noqa: SIM115 - closed below
    except tarfile.ReadError:  # whose message names every kind of compression there is
        raise _Refused("neither a zip nor a tar archive, or cut short") from None
    with tarred as tar:
        for member in tar:
            _untar(tar, member, folder)
            progress.at(file.tell())
        read_on(tar)


def _untar(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Files and folders alone, and nothing of a member but its name and bytes; early Pythons 3.11 have no filter."""
    _check(member.name)
    place = folder / member.name
    if member.isdir():
        place.mkdir(parents=True, exist_ok=True)
        return
    content = tar.extractfile(member) if member.isreg() else None
    if content is None:
        raise _Refused(f"{member.name!r} is neither a file nor a folder")
    place.parent.mkdir(parents=True, exist_ok=True)
    with content, place.open("wb") as file:
        shutil.copyfileobj(content, file, CHUNK)


def _check(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise _Refused(f"{name!r} would be written outside the folder")


def read_on(tar: tarfile.TarFile) -> None:
    """Read behind the last member, to the end, where gzip and xz keep the checksum of it all."""
    assert tar.fileobj is not None
    while tar.fileobj.read(CHUNK):
        pass
