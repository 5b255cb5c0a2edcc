"""The report as one HTML page that needs no other file: `report.html` and its `parts/`, filled in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl.declared import docstring
from cl.errors import count
from cl.imports import path_of
from cl.names import names_in
from flows import glossary
from flows.report import looks
from flows.report.board import csv_link, script_data
from flows.report.classes import ClassByClass
from flows.report.drawing import Drawing
from flows.report.headline import shared
from flows.report.limits import LIMITS, asks_other, cards, needs_of, offered
from flows.report.made import Made
from flows.report.rows import first_ranked
from flows.report.summary import MARKS, MEASURES, Summary
from flows.report.words import difference, duration, formula, number, percent, share, size, student, times, yes
from flows.templates import template

CHECKOUT = Path(__file__).parents[2]


def page(
    summary: Summary,
    figures: Mapping[str, Drawing],
    versions: Mapping[str, str],
    made: Made | None = None,
    models: Sequence[ClassByClass] = (),
) -> str:
    """The report as one HTML document that needs no other file."""
    runs = [run for row in summary.rows for run in row.runs]
    machines = sorted({describe(run.cost["machine"]) for run in runs if run.cost})
    filters = (percent, share, formula, number, size, duration, times, count, difference, student, shared, yes)
    needs, others = needs_of(summary), summary.other_ranking()
    limits = offered(summary, needs)
    with_other = bool(others) and asks_other(summary, limits)
    best, best_at_other = summary.best, first_ranked(others)
    data = script_data(summary, needs, with_other)
    of_others = [row.other_accuracy for row in others if with_other and row.other_accuracy]
    told = {
        "own": ([row.accuracy for row in summary.rows], summary.chance),
        "other": (of_others, summary.other_chance),
    }
    html: str = template(Path(__file__).with_name("report.html"), *filters).render(
        summary=summary,
        rows=summary.rows,
        ranked=[row for row in summary.rows if not row.bound],
        best=best.method if best else "",
        best_at_other=best_at_other.method if best_at_other else "",
        runs=runs,
        seeds=sorted({run.seed for run in runs}),
        machines=machines,
        total_seconds=sum(run.cost["process_seconds"] or 0.0 for run in runs if run.cost),
        versions={name_of(version): versions[version] for version in sorted(versions)},
        made=made,
        models=models,
        figures={name: figure.svg for name, figure in figures.items()},
        looks=looks.looks(summary.methods),
        colours=looks.COLOURS,
        headline=summary.headline.rstrip(".").split(". ", 1),
        scales={
            kind: looks.accuracy_scale(of, chance.accuracy if chance else None)
            for kind, (of, chance) in told.items()
            if of
        },
        marks=MARKS,
        meaning=glossary.shown,
        measures={name: text for name, text in MEASURES.items() if any(row.measures[name] for row in summary.rows)},
        needs=needs,
        limits=limits,
        all_limits=LIMITS,
        with_other=with_other,
        cards=list(cards(summary, needs)),
        about={method: about(method, summary.folder) for method in summary.methods},
        data=data,
        csv_link=csv_link(summary, data),
    )
    return html


VERSIONS = {
    "data.sha256": "data, SHA-256",
    "dvc.data": "data, in DVC",
    "dvc.stage": "stage of DVC",
    "dvc.experiment": "experiment of DVC",
    "git.commit": "git commit of the report",
    "torch": "torch of the report",
    "backbone.sha256": "backbone, SHA-256",
}


def name_of(version: str) -> str:
    """What the page calls one of the versions of code and data."""
    return VERSIONS.get(version, version)


@dataclass(frozen=True)
class About:
    """A method in a sentence, and where its page is."""

    said: str
    source: str
    page: str
    link: str | None
    """From the report to the page, where both are in the same checkout."""


def about(method: str, folder: Path) -> About:
    """What the method's file says of it; `folder`: of the report."""
    page = f"docs/methods/{method}.md"
    link = None
    if (CHECKOUT / page).is_file() and folder.resolve().is_relative_to(CHECKOUT):
        link = os.path.relpath(CHECKOUT / page, folder.resolve())
    if method not in names_in("methods"):  # results of another version
        return About("This version of the project does not have it.", "", "", None)
    said, _, source = docstring(path_of(f"cl.methods.{method}")).partition("\n\n")
    return About(" ".join(said.split()), " ".join(source.partition("\n\n")[0].split()), page, link)


def describe(machine: Mapping[str, Any]) -> str:
    """One line on the machine on which a run was made."""
    parts = [machine.get("processor"), f"{machine['cores']} cores" if "cores" in machine else None]
    parts += [machine.get("platform"), f"torch {machine['torch']}" if "torch" in machine else None]
    return ", ".join(str(part) for part in [*parts, machine.get("device")] if part)
