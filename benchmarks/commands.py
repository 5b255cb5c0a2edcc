"""The commands that pages print, each read as its program reads it: `python -m benchmarks.commands [PAGE...]`.

Lists the commands of each page in their order, and below a command what its program would refuse: a module, option,
value, setting, method, study, target of make, extra of pip. Nothing is run, so data need not be there. Commands of
other programs (git, mlflow, ...) are not listed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from cl import cli
from cl.errors import UserError
from cl.listing import about
from flows.unforgetting import COMMANDS

CODE = re.compile(
    r"^```\w*\n(?P<block>.*?)^```|^    (?P<line>.*?)$|(?P<ticks>`+)(?P<quoted>.+?)(?P=ticks)", re.M | re.S
)
COMMENT = re.compile(r"# *(?P<line>.*)")
"""Where code stands in a page, and in a file of settings."""
COMMAND = re.compile(
    r"(?:(?<![\w/'-])(?P<ours>python -m|unforgetting)|(?:^|\$ +|&& +)(?:\w+=\S+ +)*(?P<tool>make|dvc|pip))"
    r" +(?P<words>[a-z-](?:(?! [|>] | && | with |;).)*)"
)
NOT_OURS = ("http.server", "pip", "pytest", "venv")
"""Modules that `python -m` runs in our pages."""
STANDS_FOR = {"NAME": "ewc", "elastic_anchor": "ewc", "FILE": "params.yaml", "N": "1"}
"""Words of the pages that stand for others; elastic_anchor is what CONTRIBUTING.md makes."""
PLACEHOLDER = re.compile(rf"\b({'|'.join(STANDS_FOR)})\b")
FRAGMENT = "flows.compare"
"""The command whose options stand alone in the pages."""


class Printed(NamedTuple):
    """A command as a page prints it."""

    program: str
    """What is typed first; "" where a page names options alone."""
    words: tuple[str, ...]

    @property
    def line(self) -> str:
        """As it can be typed."""
        return " ".join((self.program, *map(shlex.quote, self.words))).strip()


def code_in(text: str, found: re.Pattern[str] = CODE) -> Iterator[str]:
    """What a page quotes, on one line each, and the lines of its blocks of code, in their order."""
    for match in found.finditer(re.sub(r"\\\n\s*", "", text)):
        groups = match.groupdict()
        if groups.get("quoted"):
            yield " ".join(groups["quoted"].split())
        for line in (groups.get("block") or groups.get("line") or "").splitlines():
            yield from re.findall(r"`([^`]+)`", line) or [line]


def of_line(line: str) -> Iterator[Printed]:
    """The commands of a line of code."""
    for match in COMMAND.finditer(line):
        words = shlex.split(match["words"], comments=True)
        yield Printed(match["ours"] or match["tool"], tuple(word for word in words if word != "..."))
    if line.startswith("--"):
        yield Printed("", tuple(word for word in shlex.split(line) if word != "..."))


def fault(command: Printed) -> str | None:
    """What its program would refuse; None if it would start."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            READERS[command.program]([PLACEHOLDER.sub(lambda match: STANDS_FOR[match[0]], w) for w in command.words])
    except UserError as error:
        return str(error)
    except SystemExit as ended:
        return (said.getvalue().strip().splitlines() or [""])[-1] if ended.code else None
    return None


@functools.cache
def _parser(module: str) -> argparse.ArgumentParser:
    """Of one of our commands; raises `UserError`."""
    path = Path(*module.split("."))
    if path.is_dir():
        module = f"{module}.__main__"
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"there is no module {error.name}") from None
    if not hasattr(found, "main"):
        raise UserError(f"{module} is no command")
    made: argparse.ArgumentParser = getattr(found, "parser", argparse.ArgumentParser)()
    return made


def _module(words: Sequence[str]) -> None:
    module, *arguments = words
    if module in NOT_OURS:
        return _pip(arguments) if module == "pip" else None
    made = _parser(module)
    if not arguments:  # a page may speak of a command without what it has to be given
        return None
    given = made.parse_args(arguments)
    if hasattr(given, "overrides"):
        cli.params_of(given)
    elif isinstance(methods := getattr(given, "methods", None), str):
        cli.methods_of(methods)
    if module == "cl.listing" and given.name:
        about(given.kind, given.name)
    return None


def _unforgetting(words: Sequence[str]) -> None:
    name, *arguments = words
    if name.startswith("--"):
        if name not in ("--help", "--version", "--completion"):
            raise UserError(f"unforgetting has no option {name}")
    elif name not in COMMANDS:
        raise UserError(f"unforgetting has no command {name}")
    else:
        _module([COMMANDS[name].module, *COMMANDS[name].first, *arguments])


def _options(words: Sequence[str]) -> None:
    """Options without their command: those of a comparison are read with their values, of others only the names."""
    with contextlib.suppress(SystemExit):
        cli.params_of(_parser(FRAGMENT).parse_args(words))
        return
    for word in words:
        if word.startswith("--") and word.partition("=")[0] not in _every_option():
            raise UserError(f"no command has the option {word}")
    return


@functools.cache
def _every_option() -> set[str]:
    ours = {
        match
        for path in Path().glob("[bcf]*/**/*.py")
        for match in re.findall(r'"(--[a-z-]+)"', path.read_text("utf-8"))
    }
    return ours | set(ELSEWHERE)


ELSEWHERE = ("--build-arg", "--local", "--only-changed", "--requeue", "--signal")
"""Options of podman, DVC and SLURM that pages name alone."""


def _make(words: Sequence[str]) -> None:
    text = Path("Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^[a-z-]+(?=:)|^[A-Z_]+(?= *[:?]?=)|(?<=\$\()[A-Z_]+(?=\))", text, re.M))
    for word in words:
        if word.partition("=")[0] not in known:
            raise UserError(f"the Makefile has no {word}")


def _pip(words: Sequence[str]) -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words:
        package, _, extras = word.rstrip("]").partition("[")
        if unknown := [e for e in extras.split(",") if extras and e not in project["optional-dependencies"]]:
            raise UserError(f"pyproject.toml has no extra {', '.join(unknown)}")
        if package.endswith(".whl") and not package.startswith(f"{project['name']}-{project['version']}-"):
            raise UserError(f"the wheel of version {project['version']} has another name")


def _dvc(words: Sequence[str]) -> None:
    from dvc.cli import DvcParserError
    from dvc.cli.parser import get_main_parser

    try:
        get_main_parser().parse_args(words)
    except DvcParserError:
        raise UserError(f"dvc does not take {' '.join(words)}") from None


READERS: dict[str, Callable[[Sequence[str]], None]] = {
    "": _options,
    "python -m": _module,
    "unforgetting": _unforgetting,
    "make": _make,
    "dvc": _dvc,
    "pip": _pip,
}


def pages() -> list[str]:
    """Those that git knows; the changelog names commands of the past, and the model card is a template."""
    tracked = subprocess.run(["git", "ls-files", "*.md"], capture_output=True, encoding="utf-8", check=True).stdout
    return [name for name in tracked.split() if name not in ("CHANGELOG.md", "flows/serving/model_card.md")]


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.commands", description=(__doc__ or "").splitlines()[0])
    made.add_argument("pages", nargs="*", metavar="PAGE", help="default: every page")
    return made


def main() -> int:
    """List them; ends with 1 where one would be refused."""
    refused = False
    for page in parser().parse_args().pages or pages():
        commands = dict.fromkeys(c for line in code_in(Path(page).read_text(encoding="utf-8")) for c in of_line(line))
        print(f"\n{page}: {len(commands)}")
        for command in commands:
            why = fault(command)
            refused |= why is not None
            print(f"  {command.line}" + (f"\n      error: {why}" if why is not None else ""))
    return int(refused)


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
