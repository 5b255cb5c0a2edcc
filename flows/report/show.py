"""The last leaderboard, and where to look next. It is asked for after every run, so it imports little."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from cl.called import program
from cl.errors import UserError
from cl.files import read_object
from cl.params import Params
from cl.redact import without_password
from flows.report.made import options
from flows.report.steps import steps, told
from flows.servers import Server, known
from flows.tracking.addresses import comparison_url, show_command, soon, start_command
from flows.tracking.settings import Tracking

PREFECT = "http://127.0.0.1:4200"
"""Where `serve` starts it."""
LEAST_COLUMNS = 3
"""Of a table: rank, method, accuracy."""


def show(where: Tracking, params: Params | None = None) -> str:
    """The last leaderboard, where to look next and, with params, what to do next.

    Raises `UserError` where no report was built yet.
    """
    file = where.out / "report" / "leaderboard.md"
    if not file.exists():
        raise UserError(f"no report under {file.parent}: run `{program('flows.report')} --out {where.out}` first.")
    table = file.read_text(encoding="utf-8")
    if sys.stdout.isatty():
        table = narrowed(table, shutil.get_terminal_size().columns)
    parts = [table, where_to_look_next(where, tracked=params is None or params.tracking.enabled)]
    if params is not None and (given := options()) is not None:
        parts.append("\n" + told(list(steps(params, where.out, learned(file.with_name("summary.json")), given))))
    return "\n".join(parts)


def learned(summary: Path) -> bool:
    """Whether a model of the last report is worth using: some method has a rank there."""
    entries = read_object(summary).values() if summary.exists() else []
    return any(isinstance(entry, dict) and "rank" in entry for entry in entries)


def narrowed(text: str, columns: int) -> str:
    """A text in so many columns of a terminal: tables without their last columns if need be, other lines wrapped."""
    wrapped = functools.partial(textwrap.fill, width=columns, break_on_hyphens=False)
    tables = [list(lines) if of_table else "\n".join(map(wrapped, lines)) for of_table, lines in _blocks(text)]
    return "\n".join(part if isinstance(part, str) else _narrow(part, columns) for part in tables)


def _blocks(text: str) -> Iterator[tuple[bool, Iterator[str]]]:
    return itertools.groupby(text.split("\n"), lambda line: line.startswith("|"))


def _narrow(lines: list[str], columns: int) -> str:
    cells = [line.strip("|").split("|") for line in lines]
    widths = itertools.accumulate((len(cell) + 1 for cell in cells[0]), initial=1)
    fitting = max(sum(width <= columns for width in widths) - 1, LEAST_COLUMNS)
    if fitting >= len(cells[0]):
        return "\n".join(lines)
    left_out = ", ".join(cell.strip() for cell in cells[0][fitting:])
    note = textwrap.fill(f"(too narrow for: {left_out})", columns)
    return "\n".join([*(f"|{'|'.join(row[:fitting])}|" for row in cells), note])


def where_to_look_next(where: Tracking, *, tracked: bool = True) -> str:
    """The report, and MLflow and Prefect: their addresses where they run, otherwise the command that starts them.

    `tracked`: whether MLflow has the runs.
    """
    unknown = []
    try:
        running = known()
    except UserError as error:  # no reason to fail a comparison
        running, unknown = {}, [f"  ({error})"]
    start = start_command(where.out)
    blocks = {"report": [str(where.out / "report" / "index.html")]}
    if not tracked:
        pass
    elif (where.uri or "").startswith("http"):
        blocks["MLflow"] = [comparison_url(where.target, where)]
    elif "mlflow" in running and _shows(running["mlflow"], where):
        blocks["MLflow"] = [comparison_url(running["mlflow"].address, where)]
    else:
        blocks["MLflow"] = [show_command(where), f"then {comparison_url(soon(where), where)}"]
    if api := os.environ.get("PREFECT_API_URL"):
        blocks["Prefect"] = [without_password(api.rstrip("/").removesuffix("/api"))]
    elif "prefect" in running:
        blocks["Prefect"] = [running["prefect"].address]
    else:
        blocks["Prefect"] = [start, f"then {PREFECT}"]
    lines = [
        f"    {line}" if i else f"  {name:8} {line}" for name, block in blocks.items() for i, line in enumerate(block)
    ]
    return "\n".join(["Where to look next", *lines, *unknown])


def _shows(mlflow: Server, where: Tracking) -> bool:
    """Whether that server has the database of these runs."""
    return bool(mlflow.shows) and Path(mlflow.shows).resolve() == where.folder.resolve()
