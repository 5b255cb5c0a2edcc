"""What methods cost: accuracy against time and storage, and where the time goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from cl.metrics import front
from flows.report.drawing import style, tag
from flows.report.labels import label_points
from flows.report.looks import BAR, DASHES, MUTED, PHASES, looks
from flows.report.rows import Row
from flows.report.summary import Summary
from flows.report.words import duration, percent, size


def budget(summary: Summary) -> Figure:
    """Average accuracy against processor time, and against the state carried on; and what no other method beats."""
    figure = Figure(figsize=(9.6, 4.6))
    figure.subplots_adjust(left=0.065, right=0.985, top=0.95, bottom=0.115, wspace=0.1)
    left, right = figure.subplots(1, 2, sharey=True)
    left.set_ylabel("average accuracy (%)")
    timed = [row for row in summary.rows if row.process_seconds]
    stored = [row for row in summary.rows if row.bound != "upper bound"]  # it carries no state, but needs all data
    panels: tuple[tuple[Axes, list[Row], Callable[[Row], float], Callable[[float], str], str], ...] = (
        (left, timed, lambda row: row.process_seconds or 0.0, duration, "processor time"),
        (right, stored, lambda row: row.state_bytes, size, "state carried on"),
    )
    points = [spread(axes, summary, rows, cost, told, label) for axes, rows, cost, told, label in panels]
    figure.draw_without_rendering()  # only then axes have their limits, which decide where names collide
    for (axes, *_, label), of_axes in zip(panels, points, strict=True):
        axes.set_xlabel(label)
        label_points(axes, of_axes, looks(summary.methods))
    return figure


def spread(
    axes: Axes,
    summary: Summary,
    rows: list[Row],
    cost: Callable[[Row], float],
    told: Callable[[float], str],
    label: str,
) -> dict[str, tuple[float, float]]:
    """Each method at its cost and accuracy; a line joins the ranked methods that none other beats in both."""
    table = looks(summary.methods)
    positive = [cost(row) for row in rows if cost(row) > 0]
    smallest = min(positive, default=1.0)
    if len(positive) < len(rows):
        axes.set_xscale("symlog", linthresh=smallest / 2, linscale=0.6)
    else:
        axes.set_xscale("log")
    points = {row.method: (cost(row), 100 * row.accuracy[0]) for row in rows}
    ranked = [row.method for row in rows if not row.bound]
    kept = front([(-points[method][0], points[method][1]) for method in ranked])
    steps = sorted(points[ranked[place]] for place in kept)
    axes.step(
        *zip(*steps, strict=True), where="post", color=MUTED, linewidth=0.8, linestyle=DASHES[1]
    ) if steps else None
    for row in rows:
        spot = axes.plot(*points[row.method], **style(table[row.method], 8))[0]
        spot.set_clip_on(False)
        tag(row.method, spot, tips=[f"{row.method}: {percent(row.accuracy, 1)} %, {told(cost(row))} of {label}"])
    axes.margins(0.1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: told(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    return points


def cost(summary: Summary) -> Figure:
    """Processor time by phase of the protocol, peak memory, and what is carried from task to task."""
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
    left.set_title("processor time by phase (s)", pad=18)
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
