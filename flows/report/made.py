"""When and by which command a report was made, and of which params."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from cl.called import called_as, program
from cl.params import Params
from cl.redact import without_password
from flows.report.steps import Step, steps


@dataclass(frozen=True)
class Made:
    """What a reader needs to get the same results again, beside the commit."""

    date: str
    """When the last of the results was written."""
    command: str
    params: str
    """As YAML, without passwords."""
    steps: tuple[Step, ...] = ()
    """What a reader may do next."""


def made_of(params: Params, out: Path, paths: Iterable[Path], learned: bool) -> Made:
    """Of this process, and of the results in these files; `learned`: whether a model of them is worth using."""
    last = max(path.stat().st_mtime for path in paths)
    date = datetime.fromtimestamp(last, UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False)
    found = tuple(Step(one.title, without_password(one.command)) for one in steps(params, out, learned, options()))
    return Made(date, without_password(command(out)), without_password(text), found)


def typed() -> str | None:
    """The command of this process without its options; None where no person can give it."""
    if known := next(iter(called_as.values()), None):
        return known
    given = sys.orig_argv
    if "-m" in given[:-1] and (name := given[given.index("-m") + 1]).startswith("flows."):
        return f"python -m {name}"
    return None


def options() -> list[str] | None:
    """The options of this process, where a comparison or its report was asked for by a person; else None."""
    compares = typed() in {program("flows.compare"), program("flows.report")}
    return sys.argv[1:] if compares else None


def whole_line() -> str | None:
    """The command of this process with its options; None where no person can give it."""
    known = typed()
    return shlex.join([*known.split(), *sys.argv[1:]]) if known else None


def command(out: Path) -> str:
    """The command of this process, where a person can give it; else the one that does the same with the params."""
    return (
        whole_line() or f"python -m flows.compare --params FILE --out {shlex.quote(str(out))}  # FILE: the params below"
    )
