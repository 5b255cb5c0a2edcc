"""Paths as users write them, and the addresses that are made of them: all of them are read here, in one way.

`~` is the home folder. An empty text is no path: otherwise a variable that is not set would mean the current folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from cl.errors import UserError

HOME_IN_ADDRESS = re.compile(r"(?:(sqlite(?:\+\w+)?|file):/{0,3})?(~.*)", re.DOTALL)
"""An address of a file that begins with `~`, as `sqlite:///~/mlflow.db`; or that path alone."""


def expanded(text: str) -> str:
    """The path as it is written, but for `~` or `~name` at its start; raises `ValueError` for what can be no path."""
    if not text.strip():
        raise ValueError("is empty; give a path, or leave it out")
    if "\0" in text:
        raise ValueError(f"{text!r}: holds the character NUL, which no path can")
    if not text.startswith("~"):
        return text
    whole_path = os.path.expanduser(text)
    if whole_path.startswith("~"):
        name = text.partition("/")[0]
        raise ValueError(f"{text!r}: there is no home folder {name}; write ./{text} for a file of that name")
    return whole_path


def spelled(text: str) -> str:
    """The same text, to be expanded where it is used; raises `ValueError` as `expanded`."""
    expanded(text)
    return text


def address(uri: str) -> str:
    """An address in which `~` at the start of a file's path is the home folder; raises `ValueError`."""
    home = HOME_IN_ADDRESS.fullmatch(uri)
    if home is None:
        return spelled(uri)
    scheme, path = home[1], expanded(home[2])
    if scheme is None:
        return path
    return f"{scheme}://{'' if scheme == 'file' else '/'}{path}"


UserPath = Annotated[str, AfterValidator(expanded)]
"""A path in params, expanded as soon as it is read: two spellings of one file are one setting."""
SpelledPath = Annotated[str, AfterValidator(spelled)]
"""A path in params that is kept as it is written, and expanded where it is used: it is the same in every home."""
UserAddress = Annotated[str, AfterValidator(address)]


def option(name: str) -> Callable[[str], Path]:
    """A function that makes the path of the option of this name, for argparse; it raises `UserError`."""

    def path(text: str) -> Path:
        try:
            return Path(expanded(text))
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None

    return path


def outside(name: str, source: Path, *targets: Path) -> None:
    """Raise `UserError` where what is read, named `name`, is in a folder that is written."""
    real = Path(os.path.realpath(source))
    for target in targets:
        written = Path(os.path.realpath(target))
        if real == written or written in real.parents:
            raise UserError(
                f"{name}: {source} is in {target}, which is written anew; move it out of there, or give another --out"
            )


def apart(name: str, source: Path, *targets: Path) -> None:
    """As `outside`, and where a folder that is written is in what is read."""
    outside(name, source, *targets)
    real = Path(os.path.realpath(source))
    for target in targets:
        if real in Path(os.path.realpath(target)).parents:
            raise UserError(
                f"{name}: {source} holds {target}, which would be taken for a part of it; give an --out outside of it"
            )
