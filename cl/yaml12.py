"""YAML 1.2 of params files, read into dicts and lists whose scalars keep their text.

What a scalar without quotes stands for depends on its key, which `cl.literal` knows: `010` is a number under
`training.epochs` and a name in `benchmark.order`. Merge keys, anchors and comments are read as by DVC, which
reads the same file. Tags are refused: a text that names its own Python type has no place in settings.
"""

from __future__ import annotations

import copy
import re
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cl.errors import UserError, brief, shown

MOST_BYTES = 1_000_000
MOST_VALUES = 20_000
"""In one file, each alias counted as what it stands for: ten lines of aliases can stand for billions of values."""
DEEPEST = 20
UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that YAML does not allow, not even within quotes."""


NULLS = {"", "~", "null", "Null", "NULL"}


class Plain(str):
    """A scalar without quotes, as it is written."""


def empty(value: Any) -> bool:
    """Whether it is YAML's null."""
    return isinstance(value, Plain) and value in NULLS


def odd(text: str) -> str | None:
    """Whatever in a text other programs would read differently, in words; None if there is nothing."""
    for letter in text:
        if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp"):  # controls, surrogates, separators of lines
            return "bytes that are no UTF-8 text" if letter >= "\ud800" else f"the control character {letter!r}"
    return None


def named(path: Path) -> str:
    """A path as messages show it."""
    return brief(str(path), 300)


def load(path: Path) -> Any:
    """What is in a file; raises `UserError` naming the file, the line, and what is wrong there."""
    text = _text(path)
    try:
        return parse(text)
    except ValueError as error:
        raise UserError(f"{named(path)}: not valid YAML: {error}") from None


def _text(path: Path) -> str:
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # reading a pipe might never end
        raise UserError(f"{named(path)}: cannot be read: a pipe or a device, no file; save the settings in a file")
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UserError(
            f"{named(path)}: more than {MOST_BYTES // 1_000_000} MB, so no params file; give one with --params"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{named(path)}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def parse(text: str) -> Any:
    """What a text holds: dicts with keys of text, lists, `Plain` for scalars without quotes and `str` for the others.

    Raises `ValueError` saying what is wrong, and where.
    """
    wrong = UNPRINTABLE.search(text)
    if wrong:
        line, column = text.count("\n", 0, wrong.start()) + 1, wrong.start() - text.rfind("\n", 0, wrong.start())
        raise ValueError(f"line {line}, column {column}: the character {shown(wrong[0])} is not allowed")
    try:
        return _Document(text).value()
    except yaml.MarkedYAMLError as error:
        raise _fault(brief(error.problem or "cannot be read"), error.problem_mark) from None


class _Document:
    """One document, built from the parser's events, so that nothing is made of it before its size is known."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, yaml.SafeLoader))
        self._anchors: dict[str, Any] = {}
        self._values = 0

    def value(self) -> Any:
        next(self._events)  # the stream's beginning
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            return Plain("")
        if isinstance(start, yaml.DocumentStartEvent) and (start.version or start.tags):
            raise _fault("lines that begin with % are not read", start.start_mark)
        document = self._node(next(self._events), 0)
        next(self._events)  # the document's end
        more = next(self._events)
        if not isinstance(more, yaml.StreamEndEvent):
            raise _fault("a second document begins; the file may hold only one", more.start_mark)
        return document

    def _node(self, event: yaml.Event, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        self._count(1, depth, event)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag is not None:
            raise _fault(f"{brief(event.tag.replace('tag:yaml.org,2002:', '!!'))}: tags are not read", event.start_mark)
        if event.anchor is not None:
            self._anchors[event.anchor] = None  # nothing can stand within itself
        built: Any
        if isinstance(event, yaml.ScalarEvent):
            built = event.value if event.style else Plain(event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            built = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                built.append(self._node(item, depth + 1))
        else:
            built = self._mapping(depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = built
        return built

    def _mapping(self, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        keys = set()
        while not isinstance(key := next(self._events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent) or key.tag is not None:
                raise _fault("a key has to be a name", key.start_mark)
            if key.value in keys:
                raise _fault(f"the key {shown(key.value)} stands twice", key.start_mark)
            keys.add(key.value)
            value = self._node(next(self._events), depth + 1)
            if key.value != "<<" or key.style:
                mapping[key.value] = value
                continue
            for below in reversed(value if isinstance(value, list) else [value]):
                if not isinstance(below, dict):
                    raise _fault("<< needs a mapping or a list of mappings behind it, such as *name", key.start_mark)
                merged |= below
        return {**merged, **mapping}

    def _alias(self, event: yaml.AliasEvent, depth: int) -> Any:
        name = brief(str(event.anchor))
        if event.anchor not in self._anchors:
            raise _fault(f"*{name}: nothing above has the anchor &{name}", event.start_mark)
        anchored = self._anchors[event.anchor]
        if anchored is None:
            raise _fault(f"*{name} stands within the value that it refers to", event.start_mark)
        size, deep = _extent(anchored)
        self._count(size, depth + deep, event)
        return copy.deepcopy(anchored)  # what is laid over one of them is not meant for the others

    def _count(self, more: int, depth: int, event: yaml.Event) -> None:
        if depth > DEEPEST:
            raise _fault(f"nested more than {DEEPEST} deep", event.start_mark)
        self._values += more
        if self._values > MOST_VALUES:
            raise _fault(f"more than {MOST_VALUES} values, aliases included", event.start_mark)


def _extent(tree: Any) -> tuple[int, int]:
    """How many values a tree has, and how deep it is."""
    below = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    extents = [_extent(value) for value in below]
    return 1 + sum(size for size, _ in extents), 1 + max((deep for _, deep in extents), default=0)


def _fault(problem: str, mark: yaml.Mark | Any) -> ValueError:
    return ValueError(f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem)
