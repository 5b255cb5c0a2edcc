"""The confusion of classes as a picture."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from cl.errors import brief
from flows.report.looks import HEAT, PAPER, STYLE
from flows.serving.judgement import Judgement

NAMED = 60
"""With more classes than that, their names would be too small to be read."""
WRITTEN = 20
"""With more classes than that, so would the numbers in the cells."""
LETTERS = 24


def draw(found: Judgement) -> bytes:
    """A PNG: rows are classes, columns what their pictures were taken for, a colour the share of the row."""
    rows, columns = list(found.confusion), found.labels
    shares = [[count / max(1, sum(line)) for count in line] for line in found.confusion.values()]
    side = min(14.0, max(4.0, 0.28 * len(columns) + 1.8))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(side, side * (len(rows) + 6) / (len(columns) + 6)), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=False)
        axes.pcolormesh(shares, cmap=HEAT, vmin=0, vmax=1)
        axes.invert_yaxis()
        axes.set_xlabel("the model's answer")
        axes.set_ylabel("class")
        axes.set_title(f"{100 * found.accuracy:.1f} % of {found.count:,} pictures are right")
        small: dict[str, Any] = {"fontsize": 7}
        if len(columns) <= NAMED:
            axes.set_xticks(
                [k + 0.5 for k in range(len(columns))], [brief(n, LETTERS) for n in columns], rotation=90, **small
            )
            axes.set_yticks([k + 0.5 for k in range(len(rows))], [brief(n, LETTERS) for n in rows], **small)
        if len(columns) <= WRITTEN:
            for i, line in enumerate(found.confusion.values()):
                for j, count in enumerate(line):
                    colour = "#ffffff" if shares[i][j] > 0.55 else "#1c2b39"
                    if count:
                        axes.text(j + 0.5, i + 0.5, str(count), ha="center", va="center", fontsize=6, color=colour)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=160, facecolor=PAPER, metadata={"Software": None})
    return png.getvalue()
