"""What damages a file: random bytes, random places, and for JSON a random value of it."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Mutation = Callable[[Path, random.Random], str]
"""Damages the file; returns what it did, in words."""
OTHER_CONTENT = (b"", b"[]", b"null", b"{}", b"0", b'"text"', b"{", b"\xff\xfe\x00", b"NaN", b'{"schema": 1}', b"[[]]")
OTHER_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, float("nan"), float("inf"), 10**400, "", "text", "\ud800", [], {}, [[]], [None], {"": {}},
)  # fmt: skip


def flip(path: Path, draw: random.Random) -> str:
    """One bit."""
    data = bytearray(path.read_bytes())
    if not data:
        return replace(path, draw)
    place, bit = draw.randrange(len(data)), draw.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place} flipped"


def truncate(path: Path, draw: random.Random) -> str:
    """Some bytes of its end are gone."""
    size = path.stat().st_size
    kept = draw.choice([0, size // 2, max(size - 1, 0), draw.randrange(size + 1)])
    os.truncate(path, kept)
    return f"cut to {kept} of {size} bytes"


def zero(path: Path, draw: random.Random) -> str:
    """A stretch of zeros, as a disk gives that lost a block."""
    data = bytearray(path.read_bytes())
    start = draw.randrange(len(data) + 1)
    end = min(len(data), start + draw.choice([1, 16, 512, 4096]))
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    return f"bytes {start} to {end} zeroed"


def delete(path: Path, draw: random.Random) -> str:
    """Gone."""
    path.unlink()
    return "deleted"


def replace(path: Path, draw: random.Random) -> str:
    """Something else is in it."""
    data = draw.choice(OTHER_CONTENT)
    path.write_bytes(data)
    return f"replaced by {data!r}"


def folder(path: Path, draw: random.Random) -> str:
    """An empty folder of its name."""
    path.unlink()
    path.mkdir()
    return "replaced by an empty folder"


def double(path: Path, draw: random.Random) -> str:
    """A line stands twice."""
    lines = path.read_bytes().splitlines(keepends=True)
    if not lines:
        return replace(path, draw)
    place = draw.randrange(len(lines))
    lines.insert(place, lines[place])
    path.write_bytes(b"".join(lines))
    return f"line {place + 1} twice"


def append(path: Path, draw: random.Random) -> str:
    """Something stands after its end."""
    with path.open("ab") as file:
        file.write(draw.choice([b"x", b"\n{}", b"\0" * 512]))
    return "appended to"


def swap(path: Path, draw: random.Random) -> str:
    """It and another of its name, elsewhere in the output folder, are exchanged."""
    outs = [parent for parent in path.parents if parent.name == "out"]
    others = [other for out in outs[:1] for other in sorted(out.rglob(path.name)) if other != path and other.is_file()]
    others = [other for other in others if other.read_bytes() != path.read_bytes()]
    if not others:
        return flip(path, draw)
    other = draw.choice(others)
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)
    return f"exchanged with {other.relative_to(outs[0])}"


def number(path: Path, draw: random.Random) -> str:
    """One number of a JSON file is another, and all else as it was written."""
    try:
        tree = json.loads(path.read_bytes())
    except ValueError:
        return flip(path, draw)
    places = [(holder, key) for holder, key in leaves(tree) if _is_number(holder[key])]
    if not places:
        return value(path, draw)
    holder, key = draw.choice(places)
    was = holder[key]
    holder[key] = was + 1 if isinstance(was, int) else draw.choice([was / 2, was + 0.01, 1.0 - was])
    write(path, tree)
    return f"{key}: {was} is now {holder[key]}"


def value(path: Path, draw: random.Random) -> str:
    """Anything else stands somewhere in a JSON file; or a key is gone, or one is too many."""
    try:
        tree = json.loads(path.read_bytes())
    except ValueError:
        return flip(path, draw)
    places = list(leaves(tree, all_of_them=True))
    if not places:
        return replace(path, draw)
    holder, key = draw.choice(places)
    how = draw.randrange(4)
    if how == 0:
        del holder[key]
        said = "gone"
    elif how == 1 and isinstance(holder, list):
        holder.append(holder[key])
        said = "once more at the end"
    else:
        holder[key] = draw.choice(OTHER_VALUES)
        said = f"now {str(holder[key])[:20]!r}"
    write(path, tree)
    return f"{key} {said}"


def leaves(tree: Any, all_of_them: bool = False) -> Iterator[tuple[Any, Any]]:
    """Where values are in a tree of JSON, as (list or dict, index or key); the branches too, if asked for."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, below in list(items):
        if isinstance(below, dict | list):
            yield from leaves(below, all_of_them)
            if all_of_them:
                yield tree, key
        else:
            yield tree, key


def write(path: Path, tree: Any) -> None:
    """As the project writes JSON, so that nothing but the value differs."""
    text = json.dumps(tree, indent=1, sort_keys=True) + "\n"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


BYTES: tuple[Mutation, ...] = (flip, truncate, zero, delete, replace, folder, double, append, swap)
JSON: tuple[Mutation, ...] = (number, number, value, value, *BYTES)


def damage(path: Path, draw: random.Random) -> str:
    """Damage the file in one of the ways there are for it; returns what was done, in words."""
    ways, before = JSON if path.suffix == ".json" else BYTES, path.read_bytes()
    while True:
        said = draw.choice(ways)(path, draw)
        if not path.is_file() or path.read_bytes() != before:  # else chance put there what was there
            return said


def copy(source: Path, target: Path) -> Path:
    """A folder as it is, times too: what was prepared from files is known by them."""
    return Path(shutil.copytree(source, target, symlinks=True))
