"""Where image files come from: a folder, or a zip archive that stays packed."""

from __future__ import annotations

import errno
import functools
import os
import unicodedata
import zipfile
from collections.abc import Sequence
from pathlib import Path

from cl.data.decode import Place
from cl.errors import UserError, plain

JUNK = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx"),
    *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000", "lost.dir", "lost+found"),
    *("#recycle", "@recycle", "@eadir", "#snapshot", "@tmp"),
    *("network trash folder", "temporary items", "__pycache__"),
}
"""What Windows, macOS, Linux, network drives and Python leave behind, in lower case; passed over, as is a name with a
dot in front."""
OURS = (".work", "prepared/manifest.json")
"""What an output folder holds, one or the other."""


def state_of(path: str | Path) -> str:
    """A value that changes when the file changes or another takes its place, without reading it; raises `OSError`."""
    status = os.stat(path)
    return f"{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0{status.st_ino}"


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is left behind by a system, and no data."""
    return name.startswith(".") or name.lower() in JUNK


def is_output(folder: Path) -> bool:
    """Whether an earlier comparison has put its results there."""
    return any((folder / name).exists() for name in OURS)


def entries(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the folders and of the files in a folder, each sorted, without what is hidden or known junk.

    Raises `UserError` for what is neither, for a name that is not UTF-8, and for the name of a folder, which will stand
    in tables, that holds a line break or the like.
    """
    folders, files = [], []
    try:
        with os.scandir(folder) as scan:
            for entry in scan:
                if is_junk(entry.name):
                    continue
                if any("\ud800" <= letter <= "\udfff" for letter in entry.name):
                    raise UserError(f"{folder}: the name {entry.name!a} is not UTF-8; rename it")
                if entry.is_dir():
                    if any(unicodedata.category(letter) == "Cc" for letter in entry.name):
                        raise UserError(f"{folder}: the name {entry.name!a} holds a line break or the like; rename it")
                    folders.append(entry.name)
                elif entry.is_file():
                    files.append(entry.name)
                else:
                    raise UserError(f"{plain(entry.path)}: neither a file nor a folder (a dangling link?); remove it")
    except OSError as error:
        place = plain(os.fsdecode(error.filename or folder))
        raise UserError(f"benchmark.path: {place} cannot be read ({error.strerror})") from None
    return sorted(folders), sorted(files)


class Folder:
    """The files below a folder, by their paths relative to it, with slashes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self, folder: str = "") -> list[str]:
        """All files below, sorted."""
        listed = []
        for place, _, files in os.walk(self.root / folder):
            below = Path(place).relative_to(self.root).as_posix()
            listed += [file if below == "." else f"{below}/{file}" for file in files if not is_junk(file)]
        return sorted(listed)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.root / name).is_file()

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises `OSError`."""
        if not self.has(name) and (self.root / name).exists():  # a pipe, which would keep us waiting
            raise OSError(errno.EINVAL, "not a file", f"{self.root}/{name}")
        return (self.root / name).read_bytes()

    def states(self, names: Sequence[str]) -> list[str]:
        """For each file what changes when it does, without reading it; raises `OSError`.

        The time of the last change to the bytes can be set, and is the same for all that comes from one archive; that
        of the last change to the file cannot. The number of the file tells which one it is where folders changed names.
        """
        return [state_of(f"{self.root}/{name}") for name in names]

    def places(self, names: Sequence[str]) -> list[Place | None]:
        """Where in an archive each file lies as it is; None: nowhere."""
        return [None for _ in names]


class Archive(Folder):
    """The files in a zip archive, as if it were unpacked where it is."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        try:
            self._archive = zipfile.ZipFile(root)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{root}: cannot be read as a zip archive ({error}); fetch it again") from None

    def names(self, folder: str = "") -> list[str]:
        """All files below, sorted."""
        start = f"{folder}/" if folder else ""
        return sorted(
            entry.filename
            for entry in self._archive.infolist()
            if not entry.is_dir()
            and entry.filename.startswith(start)
            and not is_junk(entry.filename.rpartition("/")[2])
        )

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self._archive.NameToInfo

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises `OSError` where it is not there or not what was packed."""
        try:
            return self._archive.read(name)
        except (KeyError, zipfile.BadZipFile) as error:
            raise OSError(0, str(error), f"{self.root}/{name}") from None

    def states(self, names: Sequence[str]) -> list[str]:
        """For each file its length and checksum, as the archive lists them; raises `OSError`."""
        entries = [self._entry(name) for name in names]
        return [f"{entry.file_size}\0{entry.CRC:08x}" for entry in entries]

    def places(self, names: Sequence[str]) -> list[Place | None]:
        """Where each file lies that is not packed; None: it is. Raises `OSError`."""
        entries = [self._entry(name) for name in names]
        return [
            (entry.header_offset, entry.file_size, entry.CRC)
            if entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits
            else None
            for entry in entries
        ]

    def _entry(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._archive.getinfo(name)
        except KeyError:
            raise OSError(errno.ENOENT, "not in the archive", f"{self.root}/{name}") from None


def source(root: Path) -> Folder:
    """The folder, or the archive where `root` is a file; raises `UserError` where it is neither."""
    if root.is_file():
        return _archive(root, state_of(root))
    if not root.is_dir():
        raise UserError(f"{root}: not there; set benchmark.path to a folder or a zip archive")
    return Folder(root)


@functools.lru_cache(maxsize=1)
def _archive(root: Path, state: str) -> Archive:
    """The archive, opened once: reading the table of contents of a large one takes a good part of a second."""
    del state  # one that was replaced is opened again
    return Archive(root)
