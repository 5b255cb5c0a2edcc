"""The report's figures, each drawn once and saved twice: PNG as a file, SVG to stand inside the page.

The SVG's text stays text, and its colours become the page's variables: it follows the light or dark scheme.
What belongs to one method carries `data-method`, by which the page follows a method through all figures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cl.metrics import front
from flows.report.drawing import (
    Drawing,
    canvas,
    panels,
    plot_line,
    save,
    style,
    tag,
    task_axis,
    task_ticks,
    write_cells,
)
from flows.report.labels import iso_line, label_ends, label_points
from flows.report.looks import BAR, DASHES, HEAT, INK, MUTED, PHASES, STYLE, looks
from flows.report.summary import Summary

FIGURES = ("average", "curves", "matrices", "tradeoff", "cost", "fronts")


def draw(summary: Summary) -> dict[str, Drawing]:
    """All figures of a comparison by name; `cost` where there are cost files, `fronts` where there was a search."""
    plots: dict[str, Callable[[Summary], Figure]] = {}
    plots |= {"average": average, "curves": curves, "matrices": matrices, "tradeoff": tradeoff}
    if any(row.seconds for row in summary.rows):
        plots["cost"] = cost
    if any(row.searched for row in summary.rows):
        plots["fronts"] = fronts
    drawings = {}
    for name, plot in plots.items():
        with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
            drawings[name] = save(plot(summary), name)
    return drawings


def average(summary: Summary) -> Figure:
    """Average accuracy over the tasks learned so far, against their number."""
    figure, axes = canvas(4.4, left=0.55, right=1.3, top=0.15, bottom=0.5)
    T = len(summary.tasks)
    table, ends = looks(summary.rows), {}
    always = len(summary.rows) <= 4  # more bands would hide each other: the page then shows them one by one
    extent: list[float] = []
    for row in reversed(summary.rows):
        look = table[row.method]
        points = [(k, 100 * v[0], 100 * (v[1] or 0)) for k, v in enumerate(row.so_far, start=1) if v]
        x, mean, half = zip(*points, strict=True)
        low, high = ([m + sign * h for m, h in zip(mean, half, strict=True)] for sign in (-1, 1))
        extent += [*low, *high] if always else mean
        plot_line(axes, row.method, look, x, mean)
        if len(x) > 1:
            band = axes.fill_between(x, low, high, color=look.colour, alpha=0.16, linewidth=0)
            band.set_gid(f"{'method' if always else 'band'}:{row.method}")
        ends[row.method] = mean[-1]
    task_axis(axes, T, "tasks learned")
    axes.set_ylabel("average accuracy so far (%)")
    pad = max(0.05 * (max(extent) - min(extent)), 0.5)
    axes.set_ylim(min(extent) - pad, min(max(extent) + pad, 100.5))
    label_ends(axes, T, ends, table)
    return figure


def curves(summary: Summary) -> Figure:
    """One panel per task: its accuracy from the moment it was learned to the end of the sequence."""
    T, table = len(summary.tasks), looks(summary.rows)
    columns = 5
    lines, legend_height = -(-T // columns), 0.19 * -(-len(summary.rows) // 4)
    figure, grid = panels(lines, columns, 1.75, bottom=legend_height + 0.6, left=0.53, gap=(0.1, 0.3), share=True)
    for task, axes in enumerate(grid):
        if task >= T:
            axes.set_axis_off()
            continue
        for row in reversed(summary.rows):
            steps = [i for i in range(task, T) if row.matrix[i][task] is not None]
            values = [100 * (row.matrix[i][task] or 0) for i in steps]
            plot_line(axes, row.method, table[row.method], [i + 1 for i in steps], values, size=3.5)
        axes.set_title(f"task {task + 1}")
        lowest = task + columns >= T
        task_axis(axes, T, "tasks learned" if lowest else "", most=5)
        axes.tick_params(labelbottom=lowest)
    middle = (figure.subplotpars.bottom + figure.subplotpars.top) / 2  # of the panels: a long legend is below
    figure.supylabel("accuracy on the task (%)", fontsize=8, color=MUTED, x=0.004, y=middle)
    handles = []
    for row in summary.rows:
        alone = table[row.method].marker == "*"
        forgotten = f"{round(100 * row.forgetting[0], 2) + 0.0:.2f}" if row.forgetting else "n/a"  # no "-0.00"
        handle = Line2D([], [], **style(table[row.method], 9 if alone else 4))
        handle.set_label(f"{row.method}  {100 * row.accuracy[0]:.2f} ({forgotten})")
        if alone:
            handle.set_linestyle("none")
        handles.append(handle)
    legend = figure.legend(handles=handles, loc="lower left", ncols=4, bbox_to_anchor=(0.045, 0))
    for row, mark, text in zip(summary.rows, legend.legend_handles, legend.get_texts(), strict=True):
        tag(row.method, mark, text)
    return figure


def matrices(summary: Summary) -> Figure:
    """The accuracy matrix of each method, mean over seeds: rows = after task i, columns = on task j."""
    T = len(summary.tasks)
    columns = 4
    lines = -(-len(summary.rows) // columns)
    figure, grid = panels(lines, columns, 2.35, bottom=0.85, left=0.38, gap=(0.14, 0.26))
    low = min(100 * v for row in summary.rows for line in row.matrix for v in line if v is not None)
    low = min(low // 5 * 5, 95.0)
    ticks = task_ticks(T)
    for axes in grid[len(summary.rows) :]:
        axes.set_axis_off()
    for row, axes in zip(summary.rows, grid, strict=False):
        cells = [[float("nan") if v is None else 100 * v for v in line] for line in row.matrix]
        mesh = axes.pcolormesh(cells, cmap=HEAT, vmin=low, vmax=100)
        axes.set(xlim=(0, T), ylim=(T, 0), title=f"{row.method}  {100 * row.accuracy[0]:.1f}")
        axes.set_xticks([t - 0.5 for t in ticks], [str(t) for t in ticks])
        axes.set_yticks([t - 0.5 for t in ticks], [str(t) for t in ticks])
        axes.tick_params(length=0, pad=1, labelsize=6.5)
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        if T <= 12:
            write_cells(axes, row.matrix, low)
    first_of_last_line = grid[(lines - 1) * columns]
    first_of_last_line.set_ylabel("after task", labelpad=1)
    first_of_last_line.set_xlabel("accuracy on task", labelpad=1)
    height = figure.get_figheight()
    place = figure.add_axes((0.35, 0.42 / height, 0.3, 0.09 / height))
    bar = figure.colorbar(mesh, cax=place, orientation="horizontal")
    bar.outline.set_visible(False)
    bar.set_label("test accuracy (%), mean over seeds", labelpad=1)
    return figure


def tradeoff(summary: Summary) -> Figure:
    """Stability against plasticity; each diagonal joins the points of one average accuracy."""
    figure, axes = canvas(5.0, left=0.6, right=0.15, top=0.25, bottom=0.5)
    table, T = looks(summary.rows), len(summary.tasks)
    axes.set_xlabel("learning accuracy: each task right after learning it (%)  →  plastic")
    axes.set_ylabel("average forgetting (points)  →  stable")
    points: dict[str, tuple[float, float]] = {}
    for row in summary.rows:
        if row.learning and row.forgetting:
            (x, dx), (y, dy) = ([100 * (v or 0) for v in value] for value in (row.learning, row.forgetting))
            look = table[row.method]
            bars = axes.errorbar(x, y, xerr=dx, yerr=dy, color=look.colour, elinewidth=0.8, alpha=0.55)
            spot = axes.plot(x, y, **style(look, 8))[0]
            tag(row.method, spot, *bars.lines[2])
            points[row.method] = (x, y)
    if not points:
        where: dict[str, Any] = {"ha": "center", "color": MUTED, "transform": axes.transAxes}
        axes.text(0.5, 0.5, "This figure needs a method that learns at least two tasks one after the other.", **where)
        axes.set_axis_off()
        return figure
    axes.margins(0.12)
    # Intervals of two seeds may reach beyond what an accuracy can be.
    left, right = (min(max(edge, -5.0), 105.0) for edge in axes.get_xlim())
    low, high = (min(max(edge, -105.0), 105.0) for edge in axes.get_ylim())
    axes.set(xlim=(left, right), ylim=(high, low))  # upwards is less forgetting
    kept = (T - 1) / T
    across = right - left + kept * (high - low)
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50) if across / s <= 9)
    first = (left - kept * high) // step + 1
    for k in range(int(across / step) + 1):
        if 0 <= (level := (first + k) * step) <= 100:  # the axes hold the intervals, so they may reach beyond
            iso_line(axes, level, kept, "", color=MUTED, linewidth=0.6, linestyle=(0, (1, 3)))
    for row in summary.rows:
        if row.bound == "upper bound" and not row.learning:
            iso_line(axes, 100 * row.accuracy[0], kept, row.method, color=INK, linewidth=1, linestyle=DASHES[1])
    label_points(axes, points, table)
    return figure


def fronts(summary: Summary) -> Figure:
    """A row of panels for each method, one panel a task: plasticity and stability of all trials, and their front."""
    rows = [row for row in summary.rows if row.searched]
    tasks = task_ticks(max(len(summary.tasks) - 1, 1), most=4)
    figure, grid = panels(len(rows), len(tasks), 1.9, bottom=0.55, left=0.62, gap=(0.22, 0.42))
    table = looks(summary.rows)
    for place, axes in enumerate(grid):
        row, task = rows[place // len(tasks)], tasks[place % len(tasks)]
        colour = table[row.method].colour
        trials = [trial for trial in row.searched if trial["task_index"] == task]
        if not trials:
            axes.set_axis_off()
            continue
        points = [(100 * trial["accuracy"], 100 * trial["stability"]) for trial in trials]
        best = sorted(points[number] for number in front(points))
        axes.plot(*zip(*best, strict=True), color=colour, linewidth=1, alpha=0.7)
        for trial, (x, y) in zip(trials, points, strict=True):
            attempt = trial["phase"] == "stability"
            fill = colour if (x, y) in best else "none"
            axes.plot(x, y, "D" if attempt else "o", markersize=4, color=colour, markerfacecolor=fill, clip_on=False)
        for n in [n for n, trial in enumerate(trials) if trial["phase"] == "stability"][-1:]:  # the survey's
            axes.plot(*points[n], "*", markersize=11, color=INK, clip_on=False)
        for n in [n for n, trial in enumerate(trials) if trial["kept"]][:1]:
            axes.plot(*points[n], "o", markersize=11, color=INK, markerfacecolor="none", clip_on=False)
        for threshold in [trial["threshold"] for trial in trials if trial["threshold"] is not None][:1]:
            axes.axvline(100 * threshold, color=MUTED, linewidth=0.8, linestyle=DASHES[1])
        axes.margins(0.12)
        axes.set_title(f"{row.method}, task {task + 1}")
        if place // len(tasks) == len(rows) - 1:
            axes.set_xlabel("plasticity: new task (%)")
        if place % len(tasks) == 0:
            axes.set_ylabel("stability:\nold tasks (%)")
    return figure


def cost(summary: Summary) -> Figure:
    """Time by phase of the protocol, peak memory, and what is carried from task to task."""
    rows = [row for row in summary.rows if row.seconds][::-1]
    places = range(len(rows))
    height = 0.27 * len(rows) + 0.97
    figure = Figure(figsize=(9.6, height))
    figure.subplots_adjust(left=0.105, right=0.985, top=1 - 0.55 / height, bottom=0.42 / height, wspace=0.14)
    left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=[2.2, 1, 1])
    ends = [0.0] * len(rows)
    for i, phase in enumerate(dict.fromkeys(phase for row in rows[::-1] for phase in row.seconds)):
        seconds = [row.seconds.get(phase, 0.0) for row in rows]
        left.barh(places, seconds, left=ends, color=PHASES[i % len(PHASES)], height=0.55, label=phase)
        ends = [a + b for a, b in zip(ends, seconds, strict=True)]
    left.set_yticks(places, [row.method for row in rows])
    left.set_title("time by phase (s)", pad=18)
    left.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=6, handlelength=0.9, borderpad=0.2)
    memory = [(row.peak_memory or 0) / 1e6 for row in rows]
    state = [row.state_bytes / 1e3 for row in rows]
    middle.barh(places, memory, color=BAR, height=0.55)
    middle.set_title("peak memory (MB)")
    right.barh(places, state, color=BAR, height=0.55)
    right.set_title("state carried on (kB)")
    for axes, values, form in (
        (left, ends, "{:.1f}"),
        (middle, memory, "{:,.0f}"),
        (right, state, "{:,.0f}"),
    ):
        for place, value in zip(places, values, strict=True):
            note: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 7}
            axes.annotate(form.format(value), (value, place), (3, 0), **note)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.14, y=0.01)
    return figure
