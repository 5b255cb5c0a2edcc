"""What a method declares of itself, read from its source: nothing is imported, so torch is not needed.

`cl.register.method_class` has the class itself. tests/cl/test_imports.py checks that the two agree.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cl.imports import path_of

BASE = ("cl.method", "Method")
Name = tuple[str, str]
"""Of a class: its module, and what it is called there."""


def declared(method: str, attribute: str) -> Any:
    """The value of a class attribute of `cl/methods/<method>.py`, by default that of the class it inherits from.

    Raises `KeyError` where nothing declares it, or not by a constant.
    """
    for found in _ancestry(_own(f"cl.methods.{method}")):
        if attribute in (constants := _constants(found)):
            return constants[attribute]
    raise KeyError(f"{method}: {attribute}")


def docstring(path: Path) -> str:
    """Of a module, from its file."""
    return ast.get_docstring(_parsed(path, path.stat().st_mtime_ns)) or ""


def _own(module: str) -> Name:
    """The method that the file itself defines."""
    classes = [(module, node.name) for node in _tree(module).body if isinstance(node, ast.ClassDef)]
    return next(name for name in classes if BASE in list(_ancestry(name))[1:])


def _ancestry(name: Name) -> Iterator[Name]:
    """The class and those it inherits from, the nearest first."""
    yield name
    module, called = name
    tree = _tree(module)
    imported = {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == called:
            for base in (ast.unparse(base) for base in node.bases):
                of = imported.get(base, (module, base))
                if path_of(of[0]).is_file():
                    yield from _ancestry(of)


def _constants(name: Name) -> dict[str, Any]:
    (node,) = (n for n in _tree(name[0]).body if isinstance(n, ast.ClassDef) and n.name == name[1])
    found: dict[str, Any] = {}
    for line in node.body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
            found |= {ast.unparse(target): line.value.value for target in line.targets}
        elif isinstance(line, ast.AnnAssign) and isinstance(line.value, ast.Constant):
            found[ast.unparse(line.target)] = line.value.value
    return found


def _tree(module: str) -> ast.Module:
    path = path_of(module)
    return _parsed(path, path.stat().st_mtime_ns)


@functools.cache
def _parsed(path: Path, changed: int) -> ast.Module:
    del changed  # a file that was edited is read again
    return ast.parse(path.read_bytes())
