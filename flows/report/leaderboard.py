"""The leaderboard: as Markdown, and as the rows of a table artifact."""

from __future__ import annotations

from typing import Any

from cl.errors import count
from flows.report.rows import Row, first_ranked
from flows.report.summary import MARKS, Summary
from flows.report.words import difference, percent, size, times

TO_THE_BEST = (
    "to the best: average accuracy minus that of the best method with the same seed, in percentage points.",
    "≈: the interval of that difference contains 0, so these seeds do not tell the two methods apart.",
)
ONE_SEED = "One seed each (n = 1, no interval): nothing tests whether methods differ."
RANKS = "rank: one more than the number of methods that are better by a paired test over the seeds, so some share one."


def leaderboard(summary: Summary) -> str:
    """The leaderboard as Markdown, aligned so that it reads as well in a terminal."""
    head = ["rank", "method", "average accuracy %", "to the best", "forgetting", "learning accuracy %"]
    head += ["time", "state", "seeds"]
    body = [
        [
            place(row, summary.learned),
            row.method,
            percent(row.accuracy),
            to_best(row, summary.best, summary.learned),
            *map(percent, (row.forgetting, row.learning)),
            times(row.relative_time),
            size(row.state_bytes),
            row.seeds,
        ]
        for row in summary.rows
    ]
    left = {1, 8}
    width = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    rule = [":" + "-" * (w - 1) if i in left else "-" * (w - 1) + ":" for i, w in enumerate(width)]
    lines = []
    for line in [head, rule, *body]:
        cells = [
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, width, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    several = any(len(row.runs) > 1 for row in summary.rows)
    compared = summary.best is not None and len(summary.rows) > 1
    notes = [
        f"Mean ± half width of the 95 % t-interval over n seeds ({summary.of_intervals})." if several else ONE_SEED,
        f"over seeds: {summary.over_seeds}.",
        *TO_THE_BEST[: 2 if several else 1] * compared,
        *[RANKS] * (compared and several),
        "forgetting: average, in percentage points.",
        "time: processor time relative to finetune, selection included. state: what is carried on besides the network.",
    ]
    if summary.chance is not None:
        notes.append(f"chance: {100 * summary.chance.accuracy:.1f} %, the average accuracy of always the same answer.")
        if near := [row.method for row in summary.rows if summary.near_chance(row)]:
            notes.append(f"Near chance: {', '.join(near)}.")
    if bounds := [f"{mark} {bound}, not ranked" for bound, mark in MARKS.items() if summary.has(bound)]:
        notes.append("  ".join(bounds))
    if summary.absent:
        notes.append(f"Without any result: {', '.join(summary.absent)}.")
    notes = [f"- {note}" for note in notes]  # as Markdown, one line each
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
    best = first_ranked(rows)
    told = {row.method: to_best(row, best, summary.other_learned, other=True) for row in rows}
    wide = max(16, *map(len, told.values()))
    lines = [
        f"The same models, {summary.other_setting}:",
        "",
        f"| rank | {'method'.ljust(width)} | average accuracy % | {'to the best':>{wide}} |",
    ]
    lines.append(f"| ---: | :{'-' * (width - 1)} | -----------------: | {'-' * (wide - 1)}: |")
    for row in rows:
        mark = place(row, summary.other_learned, other=True)
        cells = f"{percent(row.other_accuracy):>18} | {told[row.method]:>{wide}}"
        lines.append(f"| {mark:>4} | {row.method.ljust(width)} | {cells} |")
    if aware_only := [row.method for row in summary.rows if row.other_accuracy is None]:
        lines += ["", f"Left out, as they need the task of an image: {', '.join(aware_only)}."]
    return ["", *lines]


def place(row: Row, learned: bool, other: bool = False) -> str:
    """The rank of a row, or the mark of a bound; "–" where nothing was `learned`, so that ranks mean nothing."""
    if row.bound:
        return MARKS[row.bound]
    return str(row.other_rank if other else row.rank) if learned else "–"


def to_best(row: Row, best: Row | None, learned: bool, other: bool = False) -> str:
    """The difference of a row to the best one, in the `other` setting or in the scenario's."""
    return (
        ("best" if learned else "highest") if row is best else difference(row.other_to_best if other else row.to_best)
    )


def table(summary: Summary) -> list[dict[str, Any]]:
    """The leaderboard as rows of short values, for a table artifact."""
    return [
        {
            "rank": row.bound or place(row, summary.learned),
            "method": row.method,
            "average accuracy %": percent(row.accuracy),
            "to the best": to_best(row, summary.best, summary.learned),
            "forgetting": percent(row.forgetting),
            "time": times(row.relative_time),
            "state": size(row.state_bytes),
            "seeds": row.seeds,
        }
        for row in summary.rows
    ]
