"""What the page's script knows of the leaderboard: who is better than whom, and the table as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from cl import metrics
from flows.report.limits import Needs
from flows.report.rows import Row, best_at_other, values_of
from flows.report.standing import beaten_by
from flows.report.summary import Summary
from flows.report.words import Estimate, difference, student


def script_data(summary: Summary, needs: Mapping[str, Needs], with_other: bool) -> dict[str, Any]:
    """The standing in the scenario and, if asked, in the `other` setting; the matrices in per cent; lines of CSV."""
    return {
        "own": standing(list(summary.rows), summary.learned, other=False),
        "other": standing(best_at_other(summary.rows), summary.other_learned, other=True) if with_other else None,
        "matrices": {
            row.method: [[None if v is None else round(100 * v, 1) for v in line] for line in row.matrix]
            for row in summary.rows
        },
        "csv": {
            "head": csv_line(["rank", *csv_cells(summary.rows[0], needs, summary)]),
            "lines": {row.method: csv_line(csv_cells(row, needs, summary).values()) for row in summary.rows},
        },
    }


def standing(rows: list[Row], learned: bool, other: bool) -> dict[str, Any]:
    """Of each method its mean, the methods that are better, and its difference to each of the ranked ones, in words."""
    by_seed = {row.method: row.by_seed(other) for row in rows}
    ranked = values_of(rows, other)
    told = {
        name: {best: told_difference(metrics.paired(own, of)) for best, of in ranked.items() if best != name}
        for name, own in by_seed.items()
    }
    means = {row.method: (row.other_accuracy if other else row.accuracy) for row in rows}
    return {
        "mean": {name: value[0] for name, value in means.items() if value},
        "beaten": beaten_by(ranked),
        "differences": {name: {**of, name: ["", ""]} for name, of in told.items()},
        "learned": learned,
    }


def told_difference(value: metrics.Difference | None) -> list[str]:
    """A difference in words, and how sure it is."""
    return [difference(value), student(value.n) if value else ""]


def csv_cells(row: Row, needs: Mapping[str, Needs], summary: Summary) -> dict[str, Any]:
    """A row by column, in full precision; accuracies and forgetting as shares of one, half widths beside them."""

    def both(name: str, value: Estimate | None) -> dict[str, float | None]:
        return {name: value[0] if value else None, f"{name}_half_width": value[1] if value else None}

    need = needs[row.method]
    return {
        "method": row.method,
        "bound": row.bound,
        **both("average_accuracy", row.accuracy),
        **both("average_forgetting", row.forgetting),
        **both("learning_accuracy", row.learning),
        **(both(f"{summary.other_setting.replace('-', '_')}_accuracy", row.other_accuracy)),
        "chance": summary.chance.accuracy if summary.chance else None,
        "processor_seconds": row.process_seconds,
        "processor_time_relative_to_finetune": row.relative_time,
        "state_bytes": row.state_bytes,
        "keeps_samples": need.samples,
        "needs_task": need.task,
        "bytes_per_task": need.growth,
        "seeds": len(row.runs),
    }


def csv_line(cells: Any) -> str:
    """One line, without its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def csv_link(summary: Summary, data: Mapping[str, Any]) -> str:
    """The whole table as an address that holds it."""
    ranks = {row.method: row.rank if row.rank and summary.learned else "" for row in summary.rows}
    lines = [f"{ranks[method]},{line}" for method, line in data["csv"]["lines"].items()]
    return "data:text/csv;charset=utf-8," + quote("\n".join([data["csv"]["head"], *lines, ""]))
