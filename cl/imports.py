"""Which files decide a result, found by following imports; nothing is imported for it.

The code of a run is that of its method's module, of the modules that run it, and of all that these import within `cl`.
It stops at `NO_PART`: a new module counts as deciding results unless it is named there.

`python -m cl.imports` writes what follows from it into dvc.yaml: the files on which DVC's stages depend.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from cl import cli
from cl.errors import UserError
from cl.files import write_bytes
from cl.names import PACKAGE, names_in

RUNNERS = ("cl.resume", "cl.methods.finetune")
"""What every run goes through; the plasticity search of any method trains by plain finetuning."""
PASS = ("cl.data.feature_pass", "cl.nets.pretrained")
"""What turns pictures into vectors."""
PREPARED = "the data are in each checkpoint's key by digest"
NO_PART = {
    "cl.declared": "reads what the methods themselves say",
    "cl.errors": "words",
    "cl.events": "what a run tells while it learns",
    "cl.checkpoint_files": "whole folders or none, whatever is in them",
    "cl.files": "whole files or none, whatever is in them",
    "cl.imports": "which code decides, not what it does",
    "cl.keys": "names results",
    "cl.machine": "what is reported of the machine",
    "cl.names": "words",
    "cl.params": "what it reads is in the key by value",
    "cl.sections": "what it reads is in the key by value",
    "cl.work": "what of a run's folder can be believed",
    "cl.locks": "who may write, not what",
    "cl.paths": "where files are, not what is in them",
    "cl.data.labels": PREPARED,
    "cl.data.manifest": PREPARED,
    "cl.data.prepare": PREPARED,
    "cl.data.feature_pass": PREPARED,
    "cl.data.features": PREPARED,
    "cl.data.places": "where data are, not what is in them",
    "cl.data.progress": "words",
}
"""Modules that decide no result, and why; what they import is no part either unless something else imports it."""


def code_of(method: str) -> list[str]:
    """The files that decide a run of this method, as paths below `cl`, sorted."""
    modules = closure([*RUNNERS, f"cl.methods.{method}"])
    return sorted(path_of(module).relative_to(PACKAGE).as_posix() for module in modules)


def closure(roots: Iterable[str], stop: Iterable[str] = NO_PART) -> set[str]:
    """These modules and all that they import, however far; without those of `stop` and what only these import."""
    closed: set[str] = set()
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module in closed or module in stop:
            continue
        closed.add(module)
        path = path_of(module)
        waiting += imports_of(path, path.stat().st_mtime_ns)
    return closed


@functools.cache
def imports_of(path: Path, changed: int) -> tuple[str, ...]:
    """The modules of this repository that a file imports anywhere but for the type checker alone."""
    del changed  # a file that was edited is read again
    return tuple(dict.fromkeys(_imports(ast.parse(path.read_bytes()))))


def _imports(node: ast.AST) -> Iterator[str]:
    for below in ast.iter_child_nodes(node):
        if isinstance(below, ast.If) and ast.unparse(below.test) == "TYPE_CHECKING":
            yield from _imports(ast.Module(below.orelse, []))
        elif isinstance(below, ast.Import):
            yield from (alias.name for alias in below.names if _is_ours(alias.name))
        elif isinstance(below, ast.ImportFrom) and below.module is not None and _is_ours(below.module):
            # `from cl import checkpoint` names a module, `from cl.errors import UserError` what is in one.
            members = [f"{below.module}.{alias.name}" for alias in below.names]
            modules = [name for name in members if path_of(name).is_file()]
            yield from modules
            if len(modules) < len(members):
                yield below.module
        else:
            yield from _imports(below)


def _is_ours(module: str) -> bool:
    return path_of(module).is_file()


def path_of(module: str) -> Path:
    """The file of a module of this repository; it need not exist."""
    place = PACKAGE.parent.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


# What DVC is told of it.


def train_dependencies() -> list[str]:
    """The code of DVC's train stages, but for the method's own file, which each stage names by its key.

    A stage cannot ask for what its own method imports; so a method's file that another method imports counts for all.
    Such a stage costs little where nothing has changed: each run then finds its work done.
    """
    methods = names_in("methods")
    own = {name: f"methods/{name}.py" for name in methods}
    return sorted({f"cl/{file}" for name in methods for file in code_of(name) if file != own[name]})


def prepare_dependencies() -> list[str]:
    """The code of DVC's prepare stage, but for the benchmarks, which are a folder."""
    benchmarks = [f"cl.data.benchmarks.{name}" for name in names_in("data/benchmarks")]
    stop = [module for module, why in NO_PART.items() if why != PREPARED]
    files = {path_of(module) for module in closure(["cl.data.prepare", *benchmarks], stop)}
    names = {path.relative_to(PACKAGE.parent).as_posix() for path in files}
    return sorted({"cl/data/benchmarks", *(name for name in names if not name.startswith("cl/data/benchmarks/"))})


def features_dependencies() -> list[str]:
    """The code of DVC's features stage: of the backbones, of the pass, and of the folder that is written."""
    return _of_features(["cl.data.features", *PASS])


def features_code() -> str:
    """SHA-256 over the code that decides the vectors: of the backbones and of the pass."""
    hasher = hashlib.sha256()
    for name in _of_features(PASS):
        hasher.update(f"{name}\0".encode() + hashlib.sha256((PACKAGE.parent / name).read_bytes()).digest())
    return hasher.hexdigest()


def _of_features(roots: Iterable[str]) -> list[str]:
    files = {path_of(module) for module in closure(roots, set(NO_PART) - {"cl.data.features", *PASS})}
    return sorted(path.relative_to(PACKAGE.parent).as_posix() for path in files)


def with_dependencies(text: str) -> str:
    """dvc.yaml with the dependencies that follow from the code in place of those between its marks."""
    found = {"prepare": prepare_dependencies(), "features": features_dependencies(), "train": train_dependencies()}
    for name, files in found.items():
        block = re.compile(rf"( *)# code of {name}: .*\n(?:\1- cl/.*\n)*")
        if (place := block.search(text)) is None:
            raise UserError(f"dvc.yaml: has no line `# code of {name}: ...` with its dependencies below it")
        mark = place[0].partition("\n")[0]
        lines = "".join(f"{place[1]}- {file}\n" for file in files)
        text = f"{text[: place.start()]}{mark}\n{lines}{text[place.end() :]}"
    return text


def main() -> int:
    """Write the files on which DVC's stages depend into dvc.yaml, as they follow from the imports."""
    argparse.ArgumentParser(prog="python -m cl.imports", description=main.__doc__).parse_args()
    path = PACKAGE.parent / "dvc.yaml"
    before = path.read_text(encoding="utf-8")
    after = with_dependencies(before)
    if after != before:
        write_bytes(path, after.encode())
    print(f"{path.name}: {'brought up to date' if after != before else 'is up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
