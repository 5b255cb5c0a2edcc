"""Published numbers that should come out again: the files `reproduction/targets/*.yaml`, one a table.

A file says where its numbers stand, how far off ours may be, and how many seeds ours need. It is written before the
runs, or says `stated: after`. CONTRIBUTING.md says how to add one. This module needs neither results nor torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, ValidationError, model_validator

from cl.errors import UserError, shown
from cl.faults import in_sentences
from cl.literal import Unclear, settled
from cl.names import names_in
from cl.overlay import Origin
from cl.sections import Section
from cl.yaml12 import load, named

HOME = Path("reproduction")
TARGETS = HOME / "targets"
MARKS = {
    "read": "read in the paper or in the authors' files",
    "quoted": "quoted second-hand",
    "measured": "measured beside ours",
}
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
Seeds = Annotated[int, Field(ge=2, le=1000)]
Mark: TypeAlias = Literal["read", "quoted", "measured"]


class Source(Section):
    """Where the numbers of a table stand."""

    paper: Text
    where: Text = Field(description="the table and the page")
    link: Annotated[str, Field(pattern="^https://")]
    mark: Mark = Field(description="how we know them; a row may say otherwise")
    code: Text | None = Field(None, description="the authors' repository and its commit, and what was read there")


class Table(Section):
    """What every table says."""

    title: Text
    source: Source
    about: Text = Field(description="the data and the setting, in a few sentences")
    stated: Literal["before", "after"] = Field(
        "before", description="whether tolerance and seeds were stated before our runs or after them"
    )
    seeds: Seeds = Field(description="how many ours need at least")


class Tolerance(Section):
    """How far ours may be off: the means at most `within` apart, or the 95 % intervals overlap; one is enough."""

    within: float | None = Field(None, gt=0, description="in the unit of the column")
    overlap: bool = Field(False, description="whether overlapping intervals are enough")

    @model_validator(mode="after")
    def _says_something(self) -> Tolerance:
        if self.within is None and not self.overlap:
            raise ValueError("needs within, or overlap: true")
        return self

    @property
    def title(self) -> str:
        """As the page has it: `2 or overlap`."""
        return " or ".join([*([] if self.within is None else [f"{self.within:g}"]), *["overlap"] * self.overlap])


class Column(Section):
    """One quantity of the table, from the runs of one study."""

    study: Annotated[str, Field(pattern=r"^studies/[a-z0-9-]+\.yaml$")]
    quantity: Literal["accuracy", "forgetting", "forgetting_from_best"] = "accuracy"
    spread: Literal["standard error", "standard deviation", "none"]
    seeds: Seeds | None = Field(None, description="behind the published numbers")
    tolerance: Tolerance

    @model_validator(mode="after")
    def _seeds_where_there_is_a_spread(self) -> Column:
        if self.spread != "none" and self.seeds is None:
            raise ValueError("seeds: is required where the published numbers have a spread")
        return self


class Row(Section):
    """One method of the table, or one of its variants."""

    name: Text
    method: Text
    values: dict[str, Annotated[list[float], Field(min_length=1, max_length=2)]] = Field(
        min_length=1, description="by column, the published mean and its spread: [98.64, 0.22], or [68.3] without"
    )
    mark: Mark | None = None
    apart: Name | None = Field(
        None, description="its runs are in an output folder of their own, named after the study and this"
    )
    settings: list[str] = Field([], description="what its runs were given with --set; needs `apart`")
    studies: dict[str, str] = Field({}, description="by column, a study of its own instead of the column's")
    why: dict[str, Text] = Field(
        {}, description="by column, why it disagrees, with a link to what shows it; or `open:` and what was tried"
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Row:
        if self.method not in names_in("methods"):
            raise ValueError(f"method: there is no {shown(self.method)}; known: {', '.join(names_in('methods'))}")
        if self.settings and self.apart is None:
            raise ValueError("settings: need `apart`, or the runs would be among those without them")
        for key in (*self.why, *self.studies):
            if key not in self.values:
                raise ValueError(f"{key}: is named under why or studies, but values has no such column")
        _reasons(self.why)
        return self


class Numbers(Table):
    """A published table: methods by columns."""

    kind: Literal["numbers"]
    options: list[str] = Field([], description="what every command of the table is given besides, as `--set path`")
    columns: dict[str, Column] = Field(min_length=1)
    rows: list[Row] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Numbers:
        _once("rows", [row.name for row in self.rows])
        for row in self.rows:
            for column in row.values:
                if column not in self.columns:
                    raise ValueError(f"rows: {row.name} has a value of {shown(column)}, which columns does not name")
        _once("rows", [f"{c.column.quantity} of {c.row.method} in {c.folder}" for c in self.cells()])
        return self

    def cells(self) -> list[Cell]:
        """Every published number, row by row."""
        return [
            Cell(row, name, self.columns[name], tuple(value), row.mark or self.source.mark)
            for row in self.rows
            for name, value in row.values.items()
        ]


@dataclass(frozen=True)
class Cell:
    """One published number, with where ours comes from."""

    row: Row
    name: str
    """Of the column."""
    column: Column
    value: tuple[float, ...]
    mark: Mark

    @property
    def study(self) -> Path:
        """The study that is run."""
        return Path(self.row.studies.get(self.name, self.column.study))

    @property
    def folder(self) -> str:
        """The output folder of its runs below `out`, and the folder that keeps them below `reproduction`."""
        return "-".join([self.study.stem, *([] if self.row.apart is None else [self.row.apart])])


class Ranking(Section):
    """How well our order of the methods has to agree with one of the survey's."""

    name: Text
    net: Literal["SMALL", "BASE"]
    at_least: float = Field(ge=-1, le=1, description="Kendall's tau")
    why: Text | None = None


class Order(Table):
    """The survey's table, scaled down: its accuracies cannot come out again, but the order of the methods can."""

    kind: Literal["order"]
    study: Name
    rows: list[Ranking] = Field(min_length=1)

    @model_validator(mode="after")
    def _reasons(self) -> Order:
        _reasons({row.name: row.why for row in self.rows if row.why is not None})
        return self


class Implementation(Table):
    """The same methods in another implementation, as `benchmarks.outside` kept them."""

    kind: Literal["implementation"]
    within: float = Field(
        gt=0, description="the 95 % interval of the paired difference lies within so many points of 0"
    )
    methods: list[str] = Field(min_length=1)
    why: dict[str, Text] = {}

    @model_validator(mode="after")
    def _fits(self) -> Implementation:
        for method in (*self.methods, *self.why):
            if method not in names_in("methods"):
                raise ValueError(f"methods: there is no {shown(method)}")
        _reasons(self.why)
        return self


KINDS: Mapping[str, type[Numbers] | type[Order] | type[Implementation]] = {
    "numbers": Numbers,
    "order": Order,
    "implementation": Implementation,
}


def _once(key: str, names: list[str]) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"{key}: {twice[0]} stands twice")


def _reasons(why: Mapping[str, str]) -> None:
    for place, reason in why.items():
        if "](" not in reason and not reason.startswith("open:"):
            raise ValueError(
                f"why.{place}: needs a link to what shows it, or begins with `open:` and says what was tried"
            )


def read_table(path: Path) -> Numbers | Order | Implementation:
    """What one file says; raises `UserError` naming the file, the key and what is possible."""
    tree = load(path)
    kind = tree.get("kind") if isinstance(tree, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{named(path)}: kind: has to be one of {', '.join(KINDS)}, not {shown(kind)}")
    schema = KINDS[kind]
    try:
        return schema.model_validate(settled(tree, schema))
    except Unclear as error:
        raise UserError(f"{named(path)}: {'.'.join(error.place)}: {error}") from None
    except ValidationError as error:
        raise UserError(in_sentences(error, schema, Origin(named(path)))) from None


def read_tables(folder: Path | None = None) -> dict[str, Numbers | Order | Implementation]:
    """Every table by its file's name, in the order of the names; raises `UserError`, also where there is none."""
    folder = TARGETS if folder is None else folder
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise UserError(f"{folder}: has no targets (*.yaml); the command has to be run from the project's root")
    return {path.stem: read_table(path) for path in paths}
