"""The leaderboard: as Markdown, and as the rows of a table artifact."""

from __future__ import annotations

from typing import Any

from cl.reading import count
from flows.report.summary import MARKS, Summary
from flows.report.words import percent, size, times


def leaderboard(summary: Summary) -> str:
    """The leaderboard as Markdown, aligned so that it reads as well in a terminal."""
    head = ["rank", "method", "average accuracy %", "forgetting", "learning accuracy %"]
    head += ["time", "state", "seeds"]
    body = [
        [
            str(row.rank or MARKS[row.bound or ""]),
            row.method,
            *map(percent, (row.accuracy, row.forgetting, row.learning)),
            times(row.relative_time),
            size(row.state_bytes),
            row.seeds,
        ]
        for row in summary.rows
    ]
    left = {1, 7}
    width = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    rule = [":" + "-" * (w - 1) if i in left else "-" * (w - 1) + ":" for i, w in enumerate(width)]
    lines = []
    for line in [head, rule, *body]:
        cells = [
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, width, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [
        "Mean ± half width of the 95 % t-interval over seeds. forgetting: average, in percentage points.",
        "time: computing time relative to finetune, selection included. state: what is carried on besides the network.",
    ]
    if bounds := [f"{mark} {bound}, not ranked" for bound, mark in MARKS.items() if summary.has(bound)]:
        notes.append("  ".join(bounds))
    if summary.absent:
        notes.append(f"Without any result: {', '.join(summary.absent)}.")
    if summary.remarks:
        notes += ["", "Read with care:", *(f"- {remark}" for remark in summary.remarks)]
    title = f"{summary.benchmark}: {count(len(summary.tasks), 'task')}, {count(len(summary.rows), 'method')}"
    first = "\n".join([title, "", summary.headline, "", *lines, "", *notes]).rstrip()
    return "\n".join([first, *second_ranking(summary)]).rstrip() + "\n"


def second_ranking(summary: Summary) -> list[str]:
    """The same models in the other setting, as lines of Markdown: another scenario, so another ranking."""
    rows = summary.other_ranking()
    if not rows:
        return []
    width = max(len(name) for name in ["method", *(row.method for row in rows)])
    ranks = iter(range(1, len(rows) + 1))
    lines = [
        f"The same models, {summary.other_setting}:",
        "",
        f"| rank | {'method'.ljust(width)} | average accuracy % |",
    ]
    lines.append(f"| ---: | :{'-' * (width - 1)} | -----------------: |")
    for row in rows:
        mark = MARKS[row.bound] if row.bound else str(next(ranks))
        lines.append(f"| {mark:>4} | {row.method.ljust(width)} | {percent(row.other_accuracy):>18} |")
    if aware_only := [row.method for row in summary.rows if row.other_accuracy is None]:
        lines += ["", f"Left out, as they need the task of an image: {', '.join(aware_only)}."]
    return ["", *lines]


def table(summary: Summary) -> list[dict[str, Any]]:
    """The leaderboard as rows of short values, for a table artifact."""
    return [
        {
            "rank": row.rank or row.bound or "",
            "method": row.method,
            "average accuracy %": percent(row.accuracy),
            "forgetting": percent(row.forgetting),
            "time": times(row.relative_time),
            "state": size(row.state_bytes),
            "seeds": row.seeds,
        }
        for row in summary.rows
    ]
