"""What there is to choose from: `python -m cl.listing methods|benchmarks|studies`, and about one of them by its name.

The lists are read from the files; nothing is imported for them, so they appear at once.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from cl import cli, embedded
from cl.called import called_as, program
from cl.declared import docstring
from cl.errors import UserError, shown
from cl.names import PACKAGE, closest, method_name, names_in
from cl.register import declares

NARROWEST = 45
"""Columns that the text gets beside the names at least."""
WIDEST = 100
"""Columns of a line of prose at most."""


def first_paragraph(path: Path) -> str:
    """What a file says of itself first, on one line: of a module its docstring, of a params file its first line."""
    if path.suffix == ".py":
        said = " ".join(docstring(path).split("\n\n")[0].split())
        said = said.removeprefix(f"{path.stem.replace('_', '-')}: ")  # of a benchmark, beside whose name it stands
        first, _, rest = said.partition(" ")
        return said if first != first.lower() else f"{first.capitalize()} {rest}"  # iCaRL stays as it is
    return path.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("#").strip()


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
    "methods": (methods, "more about one: unforgetting methods NAME\ncompare some: unforgetting run --methods A,B"),
    "benchmarks": (
        benchmarks,
        "more about one: unforgetting benchmarks NAME\ntake one: unforgetting run --set benchmark.name=NAME",
    ),
    "studies": (studies, "print one: unforgetting studies NAME\nrun one: unforgetting run --params STUDY"),
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


def prose(text: str) -> str:
    """Paragraphs, in lines as long as the terminal has columns; one that begins with spaces as it stands."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        part if "\n " in f"\n{part}" else textwrap.fill(part, min(width(), WIDEST)) for part in paragraphs
    )


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
    bounds = ",".join(bound for bound in ("finetune", "joint") if bound != name)
    tried = f"try it: unforgetting run --methods {name},{bounds} --out out/{name}"
    return "\n".join([prose(docstring(methods()[name])), "", *said, "", knobs, "", tried])


def of_benchmark(name: str) -> str:
    """What a benchmark says of itself, and the settings that it reads."""
    options = import_module(f"cl.data.benchmarks.{name.replace('-', '_')}").OPTIONS
    settings = "settings: " + ", ".join(f"benchmark.{option}" for option in sorted(options))
    tried = f"take it: unforgetting run --set benchmark.name={name} --out out/{name}"
    return "\n".join([prose(docstring(benchmarks()[name])), "", *textwrap.wrap(settings, width()), "", tried])


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
        meant = closest(name, [Path(key).stem for key in known])
        raise UserError(f"unknown {kind[:-1] if kind != 'studies' else 'study'} {shown(name)}; {meant}")
    return of_benchmark(near[0]) if kind == "benchmarks" else known[near[0]].read_text(encoding="utf-8").rstrip()


def width() -> int:
    """Columns of the terminal; 100 where the output is read by another program."""
    return shutil.get_terminal_size((100, 24)).columns


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    typed = called_as.get("cl.listing")  # which says the kind already
    made = argparse.ArgumentParser(
        prog=program("cl.listing"),
        description=f"List the {typed.split()[-1]}, or say more about one." if typed else main.__doc__,
        usage=f"{typed} [--help] [NAME]" if typed else None,
    )
    made.add_argument("kind", choices=KINDS, help=argparse.SUPPRESS if typed else None)
    made.add_argument("name", nargs="?", metavar="NAME", help="say more about this one")
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
