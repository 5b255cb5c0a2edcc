"""The confusion of classes as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cl.errors import brief
from flows.report.looks import HEAT, MUTED, ON_HEAT, PAPER, STYLE
from flows.serving.judgement import Judgement

NAMED = 60
"""With more classes than that, their names would be too small to be read."""
WRITTEN = 20
"""With more classes than that, so would the numbers in the cells."""
LETTERS, SHORT = 24, 3
"""The longest name that is written whole, and the longest that fits beside others without being turned."""
AS_DRAWN = 6.5
"""Inches; larger figures are shown smaller, so that their letters have to be larger."""
Groups = Sequence[tuple[str, int]]
"""Tasks in their order, each with the number of its classes among the columns."""


def draw(found: Judgement, groups: Groups = ()) -> bytes:
    """A PNG of `confusion`."""
    with matplotlib.rc_context(STYLE):
        png, figure = io.BytesIO(), confusion(found, groups)
        figure.axes[0].set_title(f"{100 * found.accuracy:.1f} % of {found.count:,} pictures are right")
        figure.savefig(png, format="png", dpi=160, facecolor=PAPER, metadata={"Software": None})
    return png.getvalue()


def confusion(found: Judgement, groups: Groups = ()) -> Figure:
    """Rows are classes, columns what their pictures were taken for, a colour the share of the row.

    Lines divide the `groups`, whose names stand at the right.
    """
    rows, columns = list(found.confusion), found.labels
    shares = [[count / max(1, sum(line)) for count in line] for line in found.confusion.values()]
    side = min(14.0, max(4.0, 0.28 * len(columns) + 1.8))
    of_rows, of_columns = (_within_tasks(names, groups) for names in (rows, columns))
    beside = _room(of_rows) + _room([shortened(name) for name, _ in groups])
    size = (side + beside, side * (len(rows) + 6) / (len(columns) + 6) + _room(of_columns))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=False)
    extent = (0, len(columns), len(rows), 0)
    axes.imshow(shares, cmap=HEAT, vmin=0, vmax=1, extent=extent, aspect="auto", interpolation="none")
    axes.set_xlabel("the model's answer")
    axes.set_ylabel("class")
    larger = max(1.0, side / AS_DRAWN)  # a page shows a large figure smaller
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(8 * larger)
    if len(columns) <= NAMED:
        short = max(map(len, of_columns)) <= SHORT
        small: dict[str, Any] = {"fontsize": 7 * larger if short else 7}
        axes.set_xticks([k + 0.5 for k in range(len(columns))], of_columns, rotation=0 if short else 90, **small)
        axes.set_yticks([k + 0.5 for k in range(len(rows))], of_rows, **small)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    if len(columns) <= WRITTEN:
        for i, line in enumerate(found.confusion.values()):
            for j, count in enumerate(line):
                if count:
                    written: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6, "color": ON_HEAT}
                    axes.text(j + 0.5, i + 0.5, str(count), **written)
    _divide(axes, [(name, size) for name, size in groups if size], len(columns), len(rows), larger)
    return figure


def _within_tasks(names: Sequence[str], groups: Groups) -> list[str]:
    """Names in brief; without that of the task, as in `task/class`, where tasks are named beside them."""
    tasks = [task for task, size in groups if size]
    if len(tasks) < 2 or not all(any(name.startswith(f"{task}/") for task in tasks) for name in names):
        return [shortened(name) for name in names]
    return [shortened(name.partition("/")[2]) for name in names]


def shortened(name: str) -> str:
    """A name of at most `LETTERS`: of a longer one the start and the end, by which names are told apart."""
    told = brief(name, 10 * LETTERS)
    half = LETTERS // 2
    return told if len(told) <= LETTERS else f"{told[:half]}…{told[1 - half :]}"


def _room(names: Sequence[str]) -> float:
    """Inches for names that are longer than the usual margin."""
    return 0.055 * max(0, max(map(len, names), default=0) - LETTERS // 2)


def _divide(axes: Axes, groups: Groups, columns: int, rows: int, larger: float) -> None:
    """Mark where the classes of a task end; one task alone needs no mark."""
    if len(groups) < 2:
        return
    ends = list(accumulate(size for _, size in groups))
    for end in ends[:-1]:
        axes.plot([end, end], [0, rows], color=ON_HEAT, linewidth=0.5)
        axes.plot([0, columns], [end, end], color=ON_HEAT, linewidth=0.5)
    for (name, size), end in zip(groups, ends, strict=True):
        axes.text(1.01 * columns, end - size / 2, shortened(name), va="center", fontsize=7 * larger, color=MUTED)
    axes.set(xlim=(0, columns), ylim=(rows, 0))
