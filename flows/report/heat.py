"""The accuracy matrices as heat maps, coloured by what was forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from flows.report.drawing import panels, tag, task_ticks
from flows.report.looks import GAIN, HEAT, LINE, ON_HEAT
from flows.report.summary import Summary

Matrix = Sequence[Sequence[float | None]]
COLUMNS = 4


def matrices(summary: Summary) -> Figure:
    """The accuracy matrix of each method, mean over seeds: rows = after task i, columns = on task j.

    A number is the accuracy, and a colour the points lost since the task was learned. The scale ends at the most that
    any method lost, and it is a square root, so that a few points are seen beside a method that lost all.
    """
    T = len(summary.tasks)
    lines = -(-len(summary.rows) // COLUMNS)
    figure, grid = panels(lines, COLUMNS, 2.35, bottom=0.85, left=0.38, gap=(0.14, 0.26))
    lost = {row.method: lost_points(row.matrix) for row in summary.rows}
    most = max([1.0, *(value for matrix in lost.values() for line in matrix for value in line if value is not None)])
    norm = PowerNorm(0.5, vmin=0, vmax=most)
    heat = HEAT.with_extremes(under=GAIN)
    ticks = task_ticks(T)
    for axes in grid[len(summary.rows) :]:
        axes.set_axis_off()
    for row, axes in zip(summary.rows, grid, strict=False):
        cells = [[float("nan") if v is None else v for v in line] for line in lost[row.method]]
        mesh = axes.pcolormesh(cells, cmap=heat, norm=norm, edgecolors=LINE, linewidth=0.3)
        tag(row.method, mesh, kind="matrix")
        axes.set(xlim=(0, T), ylim=(T, 0), title=f"{row.method}  {100 * row.accuracy[0]:.1f}")
        axes.set_xticks([t - 0.5 for t in ticks], [str(t) for t in ticks])
        axes.set_yticks([t - 0.5 for t in ticks], [str(t) for t in ticks])
        axes.tick_params(length=0, pad=1, labelsize=6.5)
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        if T <= 12:
            write_cells(axes, row.matrix)
    first_of_last_line = grid[(lines - 1) * COLUMNS]
    first_of_last_line.set_ylabel("after task", labelpad=1)
    first_of_last_line.set_xlabel("accuracy on task", labelpad=1)
    height = figure.get_figheight()
    place = figure.add_axes((0.3, 0.42 / height, 0.4, 0.09 / height))
    bar = figure.colorbar(mesh, cax=place, orientation="horizontal", extend="min")
    bar.outline.set_visible(False)
    bar.set_label("points lost since the task was learned (green: gained); mean over seeds", labelpad=1)
    return figure


def lost_points(matrix: Matrix) -> list[list[float | None]]:
    """How many points each accuracy is below that right after learning; of tasks learned at once, nothing is lost."""
    at_once = matrix[0][0] is None
    lost: list[list[float | None]] = []
    for line in matrix:
        told: list[float | None] = []
        for task, value in enumerate(line):
            learned = value if at_once else matrix[task][task]
            known = value is not None and learned is not None
            # Rounded as people read it: no green for a gain that is none.
            told.append(round(100 * (learned - value), 1) + 0.0 if known else None)  # type: ignore[operator]
        lost.append(told)
    return lost


def write_cells(axes: Axes, matrix: Matrix) -> None:
    """Write whole per cents into a heat map."""
    for i, line in enumerate(matrix):
        for j, value in enumerate(line):
            if value is not None:
                middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 5.5, "color": ON_HEAT}
                axes.text(j + 0.5, i + 0.54, f"{100 * value:.0f}", **middle)
