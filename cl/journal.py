"""A journal whose lines form a chain of digests, so that every change to it is noticed.

A line is a JSON object. Its last field is the SHA-256 of the line before and of everything else in this one; readers of
the objects ignore it. All lines from the first one that does not fit are dropped, since in a journal the order counts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cl.files import make_way

FIELD = "chain"


def chained(last: str, entries: Iterable[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The entries with their digests, to be written as JSON without spaces; `last`: the digest of the line before.

    Returns the last digest, and the entries.
    """
    links = []
    for entry in entries:
        line = json.dumps(entry, separators=(",", ":")).encode()
        last = _digest(last, line[:-1])
        links.append({**entry, FIELD: last})
    return last, links


def checked(path: Path, warn: Callable[[str], None]) -> str:
    """Cut the file after its last good line, and return that line's digest; `warn` is told of damage.

    A line that a kill or a full disk cut short was never reported to anybody, so no warning is needed.
    """
    make_way(path, warn)
    if not path.exists():
        return ""
    *lines, rest = path.read_bytes().split(b"\n")
    last, good = "", 0
    for line in lines:
        link = _link(last, line)
        if link is None:
            break
        last, good = link, good + len(line) + 1
    else:
        lines = []
    if lines or _link(last, rest[:-1]) is not None:  # then the last byte was the end of a line
        warn(f"{path}: damaged; the trials after the damage are run again where they are needed")
    os.truncate(path, good)
    return last


def _digest(last: str, text: bytes) -> str:
    return hashlib.sha256(last.encode() + text).hexdigest()


def _link(last: str, line: bytes) -> str | None:
    """The digest that a line ends in; None where that is not the digest of the one before and of the line."""
    said, _, _ = line.rpartition(f',"{FIELD}":"'.encode())
    digest = _digest(last, said)
    return digest if line == said + f',"{FIELD}":"{digest}"}}'.encode() else None
