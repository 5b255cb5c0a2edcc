"""The journal of trials: Optuna's, with a chain of digests, so that nothing is believed that is not as it was written.

Each line of it ends in the SHA-256 of the line before and of what else is in this one. Optuna, and its dashboard, pass
over that field. What follows the first line that does not fit is dropped: the order of the lines counts, since a trial
is named in them by its place among all.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from cl.files import make_way

FIELD = "chain"


def opened(path: Path, warn: Callable[[str], None]) -> JournalStorage:
    """The journal in this file, which only one process has open; what is damaged is dropped, and `warn` told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    make_way(path, warn)
    # The unit's own lock keeps others out, so a lock file found here was left behind by a kill.
    Path(f"{path}.lock").unlink(missing_ok=True)
    last = _checked(path, warn) if path.exists() else b""
    try:
        return _storage(path, last)
    except (ValueError, KeyError, TypeError, AssertionError) as error:  # what another version of Optuna wrote
        warn(f"{path}: this version of Optuna cannot read it ({error}); its trials are made again")
        path.unlink()
        return _storage(path, b"")


def _storage(path: Path, last: bytes) -> JournalStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return JournalStorage(_Chained(path, last))


def _checked(path: Path, warn: Callable[[str], None]) -> bytes:
    """Cut the file after its last good line; the digest in that.

    A line that a kill or a full disk cut short was never told to anybody, so nothing is said of it.
    """
    *lines, rest = path.read_bytes().split(b"\n")
    last, good = b"", 0
    for line in lines:
        found = _link(last, line)
        if found is None:
            break
        last, good = found, good + len(line) + 1
    else:
        lines = []
    if lines or _link(last, rest[:-1]) is not None:  # then the last byte was the end of a line
        warn(f"{path}: damaged; the trials from there on are made again where they are needed")
    os.truncate(path, good)
    return last


def _link(last: bytes, line: bytes) -> bytes | None:
    """The digest that a line ends in; None where that is not the digest of the one before and of the line."""
    said, _, _ = line.rpartition(f',"{FIELD}":"'.encode())
    digest = hashlib.sha256(last + said).hexdigest()
    return digest.encode() if line == said + f',"{FIELD}":"{digest}"}}'.encode() else None


class _Chained(JournalFileBackend):
    """Optuna's journal file, the digest added to each line."""

    def __init__(self, path: Path, last: bytes) -> None:
        super().__init__(str(path), JournalFileOpenLock(str(path)))
        self._last = last

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        last, chained = self._last, []
        for log in logs:
            line = json.dumps(log, separators=(",", ":")).encode()
            last = hashlib.sha256(last + line[:-1]).hexdigest().encode()
            chained.append({**log, FIELD: last.decode()})
        super().append_logs(chained)
        self._last = last
