"""The report as one HTML page that needs no other file: `report.html` filled in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cl.reading import count
from flows import glossary
from flows.report import looks
from flows.report.drawing import Drawing
from flows.report.rows import Row
from flows.report.summary import MARKS, MEASURES, Summary
from flows.report.words import difference, duration, number, percent, share, size, student, times
from flows.templates import template


def page(summary: Summary, figures: Mapping[str, Drawing], versions: Mapping[str, str]) -> str:
    """The report as one HTML document that needs no other file."""
    runs = [run for row in summary.rows for run in row.runs]
    machines = sorted({describe(run.cost["machine"]) for run in runs if run.cost})
    filters = (percent, share, number, size, duration, times, count, difference, student)
    html: str = template(Path(__file__).with_name("report.html"), *filters).render(
        summary=summary,
        rows=summary.rows,
        best=first(summary.rows),
        best_at_other=first(summary.other_ranking()),
        runs=runs,
        seeds=sorted({run.seed for run in runs}),
        machines=machines,
        total_seconds=sum(run.cost["seconds"] for run in runs if run.cost),
        versions=dict(sorted(versions.items())),
        figures={name: figure.svg for name, figure in figures.items()},
        looks=looks.looks(summary.rows),
        colours=looks.COLOURS,
        headline=summary.headline.rstrip(".").split(". ", 1),
        scale=looks.accuracy_scale(summary.rows),
        marks=MARKS,
        meaning=glossary.shown,
        measures={name: text for name, text in MEASURES.items() if any(row.measures[name] for row in summary.rows)},
    )
    return html


def first(rows: Iterable[Row]) -> str:
    """The method of the first ranked row; empty where there are bounds alone."""
    return next((row.method for row in rows if not row.bound), "")


def describe(machine: Mapping[str, Any]) -> str:
    """One line on the machine on which a run was made."""
    parts = [machine.get("processor"), f"{machine['cores']} cores" if "cores" in machine else None]
    parts += [machine.get("platform"), f"torch {machine['torch']}" if "torch" in machine else None]
    return ", ".join(str(part) for part in [*parts, machine.get("device")] if part)
