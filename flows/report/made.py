"""When and by which command a report was made, and of which params."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from cl import cli
from cl.params import Params
from cl.redact import without_password


@dataclass(frozen=True)
class Made:
    """What a reader needs to get the same results again, beside the commit."""

    date: str
    """When the last of the results was written."""
    command: str
    params: str
    """As YAML, without passwords."""


def made_of(params: Params, out: Path, paths: Iterable[Path]) -> Made:
    """Of this process, and of the results in these files."""
    last = max(path.stat().st_mtime for path in paths)
    date = datetime.fromtimestamp(last, UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False)
    return Made(date, without_password(command(out)), without_password(text))


def command(out: Path) -> str:
    """The command of this process, where a person can give it; else the one that does the same with the params."""
    if typed := next(iter(cli.called_as.values()), None):
        return shlex.join([*typed.split(), *sys.argv[1:]])
    given = sys.orig_argv
    if "-m" in given[:-1] and (name := given[given.index("-m") + 1]).startswith("flows."):
        return shlex.join(["python", "-m", name, *sys.argv[1:]])
    return f"python -m flows.compare --params FILE --out {shlex.quote(str(out))}  # FILE: the params below"
