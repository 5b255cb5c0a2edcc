"""The report's figures, each drawn once and saved twice: PNG as a file, SVG to stand inside the page.

The SVG's text stays text, and its colours become the page's variables: it follows the light or dark scheme.
What belongs to one method carries `data-method`, by which the page follows a method through all figures.
"""

from __future__ import annotations

from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cl.errors import count
from cl.metrics import front
from flows.report.costs import budget, cost
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
)
from flows.report.heat import matrices
from flows.report.labels import iso_line, label_ends, label_points
from flows.report.looks import DASHES, INK, MUTED, STYLE, looks, shows_chance, within
from flows.report.summary import Summary
from flows.report.words import percent

FIGURES = ("average", "curves", "matrices", "tradeoff", "budget", "cost", "fronts")


def draw(summary: Summary) -> dict[str, Drawing]:
    """All figures by name, without those that have nothing to show.

    `curves` and `matrices` need two tasks, `tradeoff` a method that learned them one after the other, `budget` and
    `cost` cost files, `fronts` a search.
    """
    plots: dict[str, Callable[[Summary], Figure]] = {"average": average}
    if len(summary.tasks) > 1:
        plots |= {"curves": curves, "matrices": matrices}
    if any(row.forgetting for row in summary.rows):
        plots["tradeoff"] = tradeoff
    if any(row.seconds for row in summary.rows):
        plots |= {"budget": budget, "cost": cost}
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
    table, ends = looks(summary.methods), {}
    always = len(summary.rows) <= 4  # more bands would hide each other: the page then shows them one by one
    extent: list[float] = []
    for row in reversed(summary.rows):
        look = table[row.method]
        points = [(k, 100 * v[0], 100 * (v[1] or 0)) for k, v in enumerate(row.so_far, start=1) if v]
        x, mean, half = zip(*points, strict=True)
        low, high = ([m + sign * h for m, h in zip(mean, half, strict=True)] for sign in (-1, 1))
        extent += [*low, *high] if always else mean
        told = [f"{row.method}, {count(k, 'task')} learned: {percent(row.so_far[k - 1], 1)} %" for k in x]
        plot_line(axes, row.method, look, x, mean, told)
        if len(x) > 1:
            band = axes.fill_between(x, low, high, color=look.colour, alpha=0.16, linewidth=0)
            band.set_gid(f"{'method' if always else 'band'}:{row.method}")
        ends[row.method] = mean[-1]
    task_axis(axes, T, "tasks learned")
    axes.set_ylabel("average accuracy so far (%)")
    guess = [100 * value for value in summary.chance_so_far]
    if guess and shows_chance(guess[-1] / 100, min(extent), max(extent)):
        axes.plot(range(1, T + 1), guess, color=MUTED, linewidth=1, linestyle=DASHES[2])
        axes.annotate("chance", (1, guess[0]), (-2, -9), textcoords="offset points", color=MUTED)
        extent += guess[-1:]
    pad = max(0.05 * (max(extent) - min(extent)), 0.5)
    axes.set_ylim(min(extent) - pad, min(max(extent) + pad, 100.5))
    label_ends(axes, T, ends, table)
    return figure


def curves(summary: Summary) -> Figure:
    """One panel per task: its accuracy from the moment it was learned to the end of the sequence."""
    T, table = len(summary.tasks), looks(summary.methods)
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
            told = [
                f"{row.method}, task {task + 1} after {count(i + 1, 'task')}: {value:.1f} %"
                for i, value in zip(steps, values, strict=True)
            ]
            plot_line(axes, row.method, table[row.method], [i + 1 for i in steps], values, told, size=3.5)
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


def tradeoff(summary: Summary) -> Figure:
    """Stability against plasticity; each diagonal joins the points of one average accuracy."""
    figure, axes = canvas(5.0, left=0.6, right=0.15, top=0.25, bottom=0.5)
    table, T = looks(summary.methods), len(summary.tasks)
    axes.set_xlabel("learning accuracy: each task right after learning it (%)  →  plastic")
    axes.set_ylabel("average forgetting (points)  →  stable")
    points: dict[str, tuple[float, float]] = {}
    for row in summary.rows:
        if row.learning and row.forgetting:
            (x, dx), (y, dy) = ([100 * (v or 0) for v in value] for value in (row.learning, row.forgetting))
            look = table[row.method]
            bars = axes.errorbar(x, y, xerr=dx, yerr=dy, color=look.colour, elinewidth=0.8, alpha=0.55)
            spot = axes.plot(x, y, **style(look, 8))[0]
            tag(row.method, *bars.lines[2])
            told = f"{row.method}: learned {percent(row.learning, 1)} %, forgotten {percent(row.forgetting, 1)} points"
            tag(row.method, spot, tips=[told])
            points[row.method] = (x, y)
    axes.margins(0.12)
    across, up = zip(*points.values(), strict=True)
    # Nor do they go far beyond what an accuracy, and a difference of two, can be.
    left, right = (min(max(edge, -5.0), 105.0) for edge in within(across, axes.get_xlim()))
    low, high = (min(max(edge, -105.0), 105.0) for edge in within(up, axes.get_ylim()))
    axes.set(xlim=(left, right), ylim=(high, low))  # upwards is less forgetting
    kept = (T - 1) / T
    levels = right - left + kept * (high - low)
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50) if levels / s <= 9)
    first = (left - kept * high) // step + 1
    for k in range(int(levels / step) + 1):
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
    table = looks(summary.methods)
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
