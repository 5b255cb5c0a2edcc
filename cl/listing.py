"""What there is to choose from: `python -m cl.listing methods|benchmarks|studies`, and about one of them by its name.

The lists are read from the files; nothing is imported for them, so they appear at once.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from cl import cli, embedded
from cl.declared import docstring
from cl.errors import UserError
from cl.names import PACKAGE, closest, method_name, names_in
from cl.register import declares

NARROWEST = 30
"""Columns that the text gets beside the names at least."""


def first_paragraph(path: Path) -> str:
    """What a file says of itself first, on one line: of a module its docstring, of a params file its comment."""
    if path.suffix == ".py":
        text = docstring(path)
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
        text = "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    return " ".join(text.split("\n\n")[0].split())


def methods() -> dict[str, Path]:
    """The file of each method."""
    return {name: PACKAGE / "methods" / f"{name}.py" for name in names_in("methods")}


def benchmarks() -> dict[str, Path]:
    """The file of each benchmark, by its name in `benchmark.name`."""
    return {name.replace("_", "-"): PACKAGE / f"data/benchmarks/{name}.py" for name in names_in("data/benchmarks")}


def studies() -> dict[str, Path]:
    """The params file of each study, by the name that `--params` takes."""
    return {f"studies/{path.name}": path for path in embedded.studies()}


KINDS: dict[str, tuple[Callable[[], dict[str, Path]], str]] = {
    "methods": (methods, "compare some with: unforgetting run --methods A,B"),
    "benchmarks": (benchmarks, "take one with: unforgetting run --set benchmark.name=NAME"),
    "studies": (studies, "run one with: unforgetting run --params STUDY"),
}


def columns(rows: dict[str, str], width: int) -> str:
    """Names, and beside them texts that are wrapped; below the names where the width is small."""
    indent = max(map(len, rows)) + 2
    beside = width - indent >= NARROWEST
    lines = []
    for name, text in rows.items():
        wrapped = textwrap.wrap(text, max(width - (indent if beside else 4), 10), break_on_hyphens=False)
        if beside:
            first, *rest = wrapped or [""]
            lines += [f"{name:<{indent}}{first}".rstrip(), *(" " * indent + line for line in rest)]
        else:
            lines += [name, *(f"    {line}" for line in wrapped)]
    return "\n".join(lines)


def of_method(name: str) -> str:
    """What a method says of itself: the docstring of its file, its knobs, and what it needs."""
    rows = {
        f"methods.{name}.{knob}": f"{spec.help or ''} (default {spec.default})".strip()
        for knob, spec in declares(name, "knobs").items()
    }
    needs = {
        "needs the task of an image at test": declares(name, "needs_task_id"),
        "keeps training images": declares(name, "stores_samples"),
        "can learn from a stream": declares(name, "online"),
    }
    said = [f"{text}: {'yes' if holds else 'no'}" for text, holds in needs.items()]
    said.append(f"scenarios: {', '.join(sorted(declares(name, 'scenarios')))}")
    knobs = columns(rows, width()) if rows else "no knobs"
    return "\n".join([docstring(methods()[name]), "", *said, "", knobs])


def about(kind: str, name: str) -> str:
    """The text on one of a kind; raises `UserError` where there is none of that name."""
    known = KINDS[kind][0]()
    if kind == "methods":
        try:
            return of_method(method_name(name))
        except ValueError as error:
            raise UserError(str(error)) from None
    near = [key for key in known if name in (key, Path(key).stem)]
    if not near:
        raise UserError(f"unknown {kind[:-1] if kind != 'studies' else 'study'} {name}; {closest(name, known)}")
    path = known[near[0]]
    return docstring(path) if path.suffix == ".py" else path.read_text(encoding="utf-8").rstrip()


def width() -> int:
    """Columns of the terminal; 100 where the output is read by another program."""
    return shutil.get_terminal_size((100, 24)).columns


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog=cli.program("cl.listing"), description=main.__doc__)
    made.add_argument("kind", choices=KINDS)
    made.add_argument("name", nargs="?", help="say more about this one")
    return made


def main() -> int:
    """List the methods, the benchmarks or the studies, or say more about one of them."""
    given = parser().parse_args()
    if given.name is not None:
        print(about(given.kind, given.name))
        return 0
    known, hint = KINDS[given.kind]
    print(columns({name: first_paragraph(path) for name, path in known().items()}, width()))
    print(f"\n{hint}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
