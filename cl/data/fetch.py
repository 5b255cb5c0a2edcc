"""Files from elsewhere: downloaded with resume and checksum, or named with the place to put them.

Nothing but the standard library, and no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cl.data.archive import alone, unpack
from cl.data.prepare import Say
from cl.data.progress import Progress
from cl.errors import UserError
from cl.files import read_json, sweep, to_json, write_whole
from cl.params import Benchmark
from cl.paths import expanded

__all__ = ["Remote", "fetch", "home_of", "unpack"]
DOWNLOADS = Path("downloads")
CHUNK = 2**20
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dropped."""
PAUSES = (1.0, 3.0, 9.0)
"""Seconds before each new try of a dropped connection; after as many in a row without a byte more, we give up."""
TRY_AGAIN = {408, 429, 500, 502, 503, 504}
"""HTTP statuses of faults that may pass in a moment."""


@dataclass(frozen=True)
class Remote:
    """A file that can be downloaded: its address, and its checksum."""

    url: str
    name: str
    """Under which it is kept, relative to the folder."""
    md5: str | None
    bytes: int | None = None


class _Failed(Exception):
    """The file cannot be had now; says why."""


class _Dropped(_Failed):
    """The connection ended early: worth another try."""


def home_of(options: Benchmark, name: str | None = None) -> Path:
    """The folder with the raw files: `options.path`, or one for the benchmark under `downloads/`.

    `name` is that of the data, if several benchmarks use the same.
    """
    return Path(expanded(options.path)) if options.path is not None else DOWNLOADS / (name or options.name)


def fetch(remotes: Sequence[Remote], folder: Path, say: Say | None) -> list[Path]:
    """The files, each in `folder` under its name and with the right checksum; what is not there is downloaded.

    Raises `UserError` for a file with another checksum, and for files that cannot be downloaded, all of which it names.
    """
    missing = []
    for remote in remotes:
        if _there(folder / remote.name):
            _check(folder / remote.name, remote, say)
            _sweep(folder / remote.name)
        else:
            missing.append(remote)
    if missing:
        with alone(folder, say):
            for index, remote in enumerate(missing):
                try:
                    _fetch_one(remote, folder / remote.name, say)
                except _Failed as error:
                    raise UserError(_wanted(missing[index:], folder, error)) from None
    return [folder / remote.name for remote in remotes]


def _sweep(path: Path) -> None:
    """Remove what a kill left in the last moment of a fetch."""
    part, validator = _part_of(path)
    if not part.exists():
        with contextlib.suppress(OSError):
            validator.unlink()
    sweep(path.parent, [_memo(path).name])


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _wanted(missing: Sequence[Remote], folder: Path, error: _Failed) -> str:
    sums = [f" (md5 {remote.md5})" if remote.md5 else "" for remote in missing]
    files = [f"fetch {r.url}{md5} and put it at {folder / r.name}" for r, md5 in zip(missing, sums, strict=True)]
    return (
        f"{missing[0].url}: cannot be fetched ({error}). Run this again where there is a network, or do it by hand: "
        f"{'; '.join(files)} (or set benchmark.path to the folder that has {'them' if len(files) > 1 else 'it'})"
    )


# One file.


def _fetch_one(remote: Remote, path: Path, say: Say | None) -> None:
    if path.exists():  # another process was faster
        return _check(path, remote, say)
    part, validator = _part_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if part.exists() and not validator.exists():
        raise UserError(f"{part}: is no download that can be continued; move it away, and {remote.url} is fetched")
    if say is not None:
        say(f"fetching {remote.url}")
    furthest, failures = _size(part), 0
    while True:
        try:
            _receive(remote, part, validator, say)
            break
        except _Dropped as error:
            failures = 0 if _size(part) > furthest else failures
            furthest = max(furthest, _size(part))
            if failures == len(PAUSES):
                raise
            if say is not None:
                say(f"{remote.name}: {error}; trying again in {PAUSES[failures]:.0f} s")
            time.sleep(PAUSES[failures])
            failures += 1
    try:
        _check(part, remote, say, fetched=True)
    except UserError:
        part.unlink()
        validator.unlink(missing_ok=True)
        raise
    part.rename(path)
    validator.unlink(missing_ok=True)
    if remote.md5 is not None:
        _remember(path, remote.md5)  # anew: to be renamed is a change of the file
    return None


def _part_of(path: Path) -> tuple[Path, Path]:
    """Where the file is until it is whole, and what is beside it meanwhile."""
    return path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.validator")


def _receive(remote: Remote, part: Path, validator: Path, say: Say | None) -> None:
    """Bring the part to its full length, going on where it ends if the server can."""
    start, known = _size(part), validator.read_text(encoding="utf-8") if validator.exists() else ""
    if not known and remote.md5 is None:
        start = 0  # nothing could tell a half of another version from a half of this
    headers = {"User-Agent": "unforgetting"}
    if start > 0:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": known} if known else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(remote.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and start > 0:
                if _numbers(error.headers)[1] == start:
                    return  # it was whole already
                part.unlink()
                raise _Dropped("the part downloaded so far is no part of the file") from None
        kind = _Dropped if error.code in TRY_AGAIN else _Failed
        raise kind(f"the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(error) from None
    with response:
        first, length = 0, _length(response)
        if getattr(response, "status", None) == 206:
            first = _numbers(response.headers)[0]
            if first != start:
                part.unlink()
                raise _Dropped("the server sent another part than it was asked for")
        _keep_validator(response, validator)
        with part.open("ab" if first else "wb") as file:
            _copy(response, file, remote.bytes if length is None else first + length, remote.name, say)


def _copy(response: Any, file: BinaryIO, total: int | None, name: str, say: Say | None) -> None:
    progress = Progress(f"fetching {name}", total, say, file.tell())
    while True:
        try:
            chunk = response.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Dropped(f"the connection was lost after {file.tell():,} bytes: {_reason(error)}") from None
        if not chunk:
            break
        file.write(chunk)
        progress.at(file.tell())
    if total is not None and file.tell() < total:  # `read` gives what there is, and says nothing of what is not
        raise _Dropped(f"the connection ended after {file.tell():,} of {total:,} bytes")


def _keep_validator(response: Any, validator: Path) -> None:
    """Keep what names this version of the file on the server: a strong ETag, the time of its last change, or nothing.

    The validator's mere presence says that the part beside it is ours.
    """
    etag = response.headers.get("ETag") or ""
    value = response.headers.get("Last-Modified") if not etag or etag.startswith("W/") else etag
    validator.write_text(value or "", encoding="utf-8")


def _unreachable(error: Exception) -> _Failed:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.gaierror | FileNotFoundError):
        return _Failed(_reason(reason))  # no network at all, or none that knows the name: it will not come by itself
    return _Dropped(_reason(reason))


def _reason(error: object) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _length(response: Any) -> int | None:
    length = response.headers.get("Content-Length") or ""
    return int(length) if length.isdigit() else None


def _numbers(headers: Any) -> tuple[int, int | None]:
    """The first byte (-1: none) and the whole length (None: unknown) of a `Content-Range`."""
    content_range = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range") or "")
    if content_range is None:
        return -1, None
    first, total = content_range.groups()
    return int(first) if first else -1, None if total == "*" else int(total)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# Checksums.


def _check(path: Path, remote: Remote, say: Say | None, fetched: bool = False) -> None:
    """Raise `UserError` where the file is not the one of the remote; its checksum is taken once and remembered."""
    size = path.stat().st_size
    if remote.bytes is not None and size != remote.bytes:
        fault = f"has {size:,} bytes, not {remote.bytes:,}"
    elif remote.md5 is not None and (actual := _md5(path, say)) != remote.md5:
        fault = f"its md5 is {actual}, not {remote.md5}"
    else:
        return
    if fetched:
        raise UserError(
            f"{remote.url}: the download is not the expected file ({fault}); it was deleted, so try again later"
        )
    raise UserError(f"{path}: damaged or another file ({fault}); delete it, and {remote.url} is fetched again")


def _memo(path: Path) -> Path:
    return path.with_name(f".{path.name.removesuffix('.part')}.md5.json")


def _md5(path: Path, say: Say | None) -> str:
    state, known = _state(path), read_json(_memo(path))
    if isinstance(known, dict) and {name: known.get(name) for name in state} == state and "md5" in known:
        return str(known["md5"])
    hasher = hashlib.md5(usedforsecurity=False)
    progress = Progress(f"checking {path.name}", state["bytes"], say)
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                hasher.update(chunk)
                progress.at(file.tell())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    _remember(path, hasher.hexdigest(), state)
    return hasher.hexdigest()


def _state(path: Path) -> dict[str, int]:
    """What changes when the file does, or when another takes its place."""
    status = path.stat()
    return {
        "bytes": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "changed_ns": status.st_ctime_ns,
        "number": status.st_ino,
    }


def _remember(path: Path, md5: str, state: dict[str, int] | None = None) -> None:
    """Of this state of the file (default: as it is now)."""
    with contextlib.suppress(OSError):  # a folder that may only be read: then it is taken every time
        write_whole(_memo(path), to_json((state or _state(path)) | {"md5": md5}))
