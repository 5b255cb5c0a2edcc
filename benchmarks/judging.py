"""Published numbers beside ours, and a verdict on each: the rows of docs/verification.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from benchmarks import outside, reproduction
from benchmarks.packing import Packed, packed_runs, unlike
from benchmarks.targets import HOME, Cell, Column, Implementation, Numbers, Order, Tolerance
from cl.errors import UserError
from cl.files import from_json, read_json, to_json, unsealed
from cl.metrics import Matrix, average_accuracy, average_forgetting, interval, quantile
from cl.params import Params, read
from cl.reading import read_runs
from flows.report.rows import Row, compare
from flows.report.words import Estimate

Verdict: TypeAlias = Literal["agrees", "disagrees", "not run", "too few seeds", "damaged"]
SLACK = 1e-9
"""Of a comparison with a tolerance: 97.0 and 95.0 are 2 apart, whatever binary fractions make of them."""


@dataclass(frozen=True)
class Line:
    """One row of the page."""

    name: str
    column: str
    published: str
    """As the source prints it."""
    half: str
    """The half width of the published 95 % interval."""
    mark: str
    ours: str = "–"
    seeds: int = 0
    tolerance: str = ""
    verdict: Verdict = "not run"
    why: str = ""
    """Why it disagrees; of a damaged one, what is wrong."""
    commits: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    hours: float = 0.0
    runs: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def title(self) -> str:
        """As messages name it."""
        return f"{self.name}, {self.column}" if self.column else self.name

    @property
    def red(self) -> str:
        """What makes the check fail; empty where nothing does."""
        if self.verdict == "disagrees" and not self.why:
            return f"{self.title}: disagrees ({self.published} published, {self.ours} here) and nothing says why"
        if self.verdict == "too few seeds":
            return f"{self.title}: too few seeds ({self.seeds})"
        return f"{self.title}: {self.why}" if self.verdict == "damaged" else ""


def verdict(published: Estimate, ours: Estimate | None, seeds: int, needed: int, tolerance: Tolerance) -> Verdict:
    """What comes of one number: the means and half widths of the 95 % intervals, in the same unit.

    `seeds`: how many ours has, `needed`: how many it needs.
    """
    if ours is None or seeds == 0:
        return "not run"
    if seeds < needed:
        return "too few seeds"
    apart = abs(ours[0] - published[0])
    close = tolerance.within is not None and apart <= tolerance.within + SLACK
    overlap = tolerance.overlap and apart <= (published[1] or 0.0) + (ours[1] or 0.0) + SLACK
    return "agrees" if close or overlap else "disagrees"


def published(value: Sequence[float], column: Column) -> Estimate:
    """The mean and half width of the 95 % interval of what the source prints; None where it prints no spread.

    t s / sqrt(n) of a standard deviation s, t times a standard error.
    """
    if len(value) == 1 or column.spread == "none" or column.seeds is None:
        return value[0], None
    return value[0], quantile(column.seeds) * value[1] / (
        1.0 if column.spread == "standard error" else math.sqrt(column.seeds)
    )


def forgetting_from_best(matrix: Matrix) -> float | None:
    """1/(T-1) sum_{j<T} (max_{i<T} a[i][j] - a[T][j]): from the best accuracy that the task ever had.

    Source: Chaudhry et al. 2018, as A-GEM's code computes it; `cl.metrics.average_forgetting` starts from the accuracy
    right after learning. None with a single task, and where all tasks were learned at once.
    """
    *before, last = matrix
    columns = [[row[j] for row in before if row[j] is not None] for j in range(len(last) - 1)]
    if not columns or not all(columns):
        return None
    lost = [max(filter(None.__ne__, seen)) - last[j] for j, seen in enumerate(columns)]  # type: ignore[operator, type-var]
    return sum(lost) / len(lost)


def accuracy(matrix: Matrix) -> float:
    """Average accuracy in per cent."""
    return 100 * average_accuracy(matrix)


QUANTITIES: dict[str, tuple[Callable[[Matrix], float | None], int]] = {
    "accuracy": (accuracy, 2),
    "forgetting": (average_forgetting, 3),
    "forgetting_from_best": (forgetting_from_best, 3),
}
"""Each as a function of the accuracy matrix, and its decimals on the page."""


def lines_of(table: Numbers | Order | Implementation) -> list[Line]:
    """A line for each row, or for each number."""
    if isinstance(table, Numbers):
        return [of_number(cell, table) for cell in table.cells()]
    return of_order(table) if isinstance(table, Order) else of_implementation(table)


def params_of(cell: Cell, table: Numbers) -> Params:
    """What the runs of a number are learned with, by its study; raises `UserError`."""
    if not cell.study.exists():
        raise UserError(
            f"{cell.study}: there is no such study, though results of it are kept; write it, or remove them"
        )
    return read(cell.study, [*table.options, *cell.row.settings], methods=[cell.row.method])


def of_number(cell: Cell, table: Numbers) -> Line:
    """A published number beside the kept runs of its method."""
    measure, digits = QUANTITIES[cell.column.quantity]
    target = published(cell.value, cell.column)
    line = Line(
        name=cell.row.name,
        column=cell.name,
        published=" ± ".join(f"{part:.{digits}f}" for part in cell.value),
        half="–" if target[1] is None else f"{target[1]:.{digits}f}",
        mark=cell.mark,
        tolerance=cell.column.tolerance.title,
    )
    try:
        runs = packed_runs(HOME / cell.folder, cell.row.method)
        if runs:
            _as_the_study_says(runs, params_of(cell, table), cell)
        values = [value for packed in runs if (value := measure(packed.run.accuracy)) is not None]
        if len(values) < len(runs):
            raise UserError(
                f"{HOME / cell.folder}: {cell.row.method} learns all tasks at once, so it has no forgetting; take that "
                "value out of the target"
            )
    except UserError as error:
        return replace(line, verdict="damaged", why=str(error))
    if not values:
        return line
    ours = interval(values)
    said = verdict(target, ours, len(values), table.seeds, cell.column.tolerance)
    return replace(
        line,
        ours=shown(ours, digits),
        seeds=len(values),
        verdict=said,
        why=cell.row.why.get(cell.name, "") if said == "disagrees" else "",
        commits=_distinct([packed.commit or "none" for packed in runs]),
        data=_distinct([packed.data for packed in runs]),
        hours=sum(packed.hours for packed in runs),
        runs=frozenset(str(packed.run.path) for packed in runs),
    )


def _as_the_study_says(runs: Sequence[Packed], params: Params, cell: Cell) -> None:
    for packed in runs:
        if changed := unlike(packed.settings, params, packed.run):
            raise UserError(
                f"{packed.run.path}: was not learned as {cell.study} says now ({'; '.join(changed)}); run it again"
            )


def shown(value: Estimate, digits: int) -> str:
    """`93.10 ± 0.42`."""
    return f"{value[0]:.{digits}f}" + ("" if value[1] is None else f" ± {value[1]:.{digits}f}")


def _distinct(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def of_order(table: Order) -> list[Line]:
    """How well our order of the methods agrees with the survey's; the runs as `benchmarks.reproduction` kept them."""
    home = HOME / table.study
    lines = []
    rows: tuple[Row, ...] = ()
    problem = ""
    try:
        if home.exists():
            rows = compare(read_runs(home))
            made = reproduction.summary(rows, whole=True)
            if read_json(home / "summary.json") != from_json(to_json(made)):  # as it is once written
                problem = f"{home / 'summary.json'}: is not what the results beside it give"
    except UserError as error:
        problem = str(error)
    for row in table.rows:
        line = Line(row.name, row.net, "same order", "–", table.source.mark, tolerance=f"tau ≥ {row.at_least:g}")
        if problem or not rows:
            lines.append(replace(line, verdict="damaged" if problem else "not run", why=problem))
            continue
        runs = [run for of_method in rows for run in of_method.runs]
        ours = {of_method.method: reproduction.means(of_method.runs)[0] for of_method in rows}
        tau, methods = reproduction.agreement(ours, reproduction.published(row.net))
        seeds = min(len(of_method.runs) for of_method in rows)
        enough = seeds >= table.seeds
        said: Verdict = "too few seeds" if not enough else "agrees" if tau >= row.at_least - SLACK else "disagrees"
        hours = sum((run.cost["process_seconds"] if run.cost else None) or 0.0 for run in runs) / 3600
        lines.append(
            replace(
                line,
                ours=f"tau {tau:.2f} ({methods} methods)",
                seeds=seeds,
                verdict=said,
                why=(row.why or "") if said == "disagrees" else "",
                commits=("not kept",),
                data=("not kept",),
                hours=hours,
                runs=frozenset(str(run.path) for run in runs),
            )
        )
    return lines


def of_implementation(table: Implementation) -> list[Line]:
    """Each method beside the same one in Avalanche, seed by seed."""
    pairs = {pair.here: pair for pair in outside.PAIRS}
    kept, problem = None, ""
    if outside.KEPT.exists():
        kept = unsealed(read_json(outside.KEPT))
        problem = "" if kept else f"{outside.KEPT}: edited; take the committed one back, or make it again"
    lines = []
    for method in table.methods:
        name = f"{method} / {pairs[method].there}" if method in pairs else method
        line = Line(name, "", "–", "–", table.source.mark, tolerance=f"within {table.within:g}, paired")
        if not kept or method not in kept["outcomes"]:
            lines.append(replace(line, verdict="damaged" if problem else "not run", why=problem))
            continue
        of_method = kept["outcomes"][method]
        mine, theirs = ([100 * one["accuracy"] for one in of_method[side]] for side in ("here", "there"))
        differences = interval([b - a for a, b in zip(mine, theirs, strict=True)])
        said = verdict_on_difference(differences, len(mine), table.seeds, table.within)
        target = interval(theirs)
        lines.append(
            replace(
                line,
                published=f"{target[0]:.2f}",
                half="–" if target[1] is None else f"{target[1]:.2f}",
                ours=f"{shown(interval(mine), 2)} (difference {differences[0]:+.2f} ± {differences[1] or 0:.2f})",
                seeds=len(mine),
                verdict=said,
                why=table.why.get(method, "") if said == "disagrees" else "",
                commits=(kept["commit"] or "none",),
                data=(kept["data"],),
                hours=sum(one["seconds"] for side in of_method.values() for one in side) / 3600,
                runs=frozenset([method]),
            )
        )
    return lines


def verdict_on_difference(difference: Estimate, seeds: int, needed: int, within: float) -> Verdict:
    """An equivalence test: the 95 % interval of the paired difference lies within the tolerance.

    Where it contains 0 and reaches beyond the tolerance, the seeds are too few to say.
    """
    mean, half = difference
    if half is None or seeds < needed:
        return "too few seeds"
    if abs(mean) + half <= within + SLACK:
        return "agrees"
    return "disagrees" if abs(mean) > half else "too few seeds"
