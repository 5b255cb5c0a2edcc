"""What a method declares of itself, read from its source: nothing is imported, so torch is not needed.

`cl.register.method_class` has the class itself, and `cl.register.declares` asks it where its source does not say.
tests/cl/test_imports.py checks that the two agree.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cl.imports import path_of
from cl.knob import Knob, typed

BASE = ("cl.method", "Method")
GATHERED: dict[str, Callable[[Iterable[Any]], Any]] = {"frozenset": frozenset, "tuple": tuple}
Name = tuple[str, str]
"""Of a class: its module, and what it is called there."""


def declared(method: str, attribute: str) -> Any:
    """The value of a class attribute of `cl/methods/<method>.py`, by default that of the class it inherits from.

    `knobs` are those of the class and of all it inherits from; where one decays, its rule is not read. Raises
    `KeyError` where nothing declares the attribute, or where what declares it has to be run to be known.
    """
    own = _own(f"cl.methods.{method}")
    if attribute == "knobs":
        return _knobs(own)
    if attribute == "__name__":
        return own[1]
    for found in _ancestry(own):
        if attribute in (said := _said(found)):
            return _value(said[attribute], found[0])
    raise KeyError(f"{method}: {attribute}")


def docstring(path: Path) -> str:
    """Of a module, from its file."""
    return ast.get_docstring(_parsed(path, path.stat().st_mtime_ns)) or ""


def _own(module: str) -> Name:
    """The method that the file itself defines."""
    methods = [(module, called) for called in _classes(module) if _is_method((module, called))]
    if len(methods) != 1:
        raise KeyError(module)
    return methods[0]


def _is_method(name: Name) -> bool:
    return BASE in _ancestry(name)


def _ancestry(name: Name) -> Iterator[Name]:
    """The class and those it inherits from, the nearest first."""
    yield name
    for base in _bases(name):
        yield from _ancestry(base)


def _bases(name: Name) -> Iterator[Name]:
    """The classes of this repository that it names as its bases."""
    module, called = name
    for base in map(ast.unparse, _classes(module)[called].bases):
        there, of = _imported(module).get(base, (module, base))
        if path_of(there).is_file() and of in _classes(there):
            yield there, of


def _classes(module: str) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in _tree(module).body if isinstance(node, ast.ClassDef)}


def _imported(module: str) -> dict[str, Name]:
    """By the name it has in the module: where that comes from."""
    return {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in _tree(module).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _said(name: Name) -> dict[str, ast.expr]:
    """The expressions that the class gives its attributes."""
    return _assigned(_classes(name[0])[name[1]].body)


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for line in body:
        if isinstance(line, ast.Assign):
            found |= {ast.unparse(target): line.value for target in line.targets}
        elif isinstance(line, ast.AnnAssign) and line.value is not None:
            found[ast.unparse(line.target)] = line.value
    return found


def _knobs(name: Name) -> dict[str, Knob]:
    inherited = next((_knobs(base) for base in _bases(name) if _is_method(base)), {})
    own = {}
    for line in _classes(name[0])[name[1]].body:
        called = line.value if isinstance(line, ast.AnnAssign) else None
        if isinstance(line, ast.AnnAssign) and isinstance(called, ast.Call) and ast.unparse(called.func) == "knob":
            given = {part.arg: part.value for part in called.keywords}
            values = {key or "": _value(part, name[0]) for key, part in given.items() if key != "decay"}
            default = _value(called.args[0], name[0])
            made = Knob(default, decay=_elsewhere if "decay" in given else None, **values)
            own[ast.unparse(line.target)] = typed(made, ast.unparse(line.annotation))
    return {**inherited, **own}


def _elsewhere(value: float, alpha: float) -> float:
    raise NotImplementedError("how a knob decays is in the class, not in what is read of it")


def _value(node: ast.expr, module: str) -> Any:
    """What the expression stands for in this module; raises `KeyError` where that cannot be read."""
    if isinstance(node, ast.Name):
        return _value(*_meant(node, module))
    if isinstance(node, ast.Call) and (called := ast.unparse(node.func)) in GATHERED:
        return GATHERED[called](_items(node.args[0], module) if node.args else ())
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise KeyError(ast.unparse(node)) from None


def _items(node: ast.expr, module: str) -> list[Any]:
    """What a loop over the expression goes through: of a dict its keys."""
    node, module = _meant(node, module)
    if isinstance(node, ast.Dict):
        return [_value(key, module) for key in node.keys if key is not None]
    if isinstance(node, ast.Set | ast.List | ast.Tuple):
        return [_value(item, module) for item in node.elts]
    raise KeyError(ast.unparse(node))


def _meant(node: ast.expr, module: str) -> tuple[ast.expr, str]:
    """The expression that a name stands for, and the module that assigns it; any other expression is itself."""
    while isinstance(node, ast.Name):
        here = _assigned(_tree(module).body)
        if node.id in here:
            node = here[node.id]
        else:
            module, name = _imported(module)[node.id]
            node = ast.Name(name)
    return node, module


def _tree(module: str) -> ast.Module:
    path = path_of(module)
    return _parsed(path, path.stat().st_mtime_ns)


@functools.cache
def _parsed(path: Path, changed: int) -> ast.Module:
    del changed  # a file that was edited is read again
    return ast.parse(path.read_bytes())
