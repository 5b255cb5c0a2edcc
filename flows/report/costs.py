"""What methods cost: accuracy against time and storage, and where the time goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from cl.metrics import front
from flows.report.drawing import style, tag
from flows.report.labels import label_points
from flows.report.looks import BAR, DASHES, MUTED, PHASES, looks
from flows.report.rows import Row
from flows.report.summary import Summary
from flows.report.words import duration, percent, size

BYTES = [digit * 10.0**power for power in range(13) for digit in (1, 1.5, 2, 3, 5, 7)]
SECONDS = [digit * 10.0**power for power in (-2, -1, 0) for digit in (1, 1.5, 2, 3, 4, 5, 7)]
SECONDS += [*(10.0 * tens for tens in range(1, 6)), *(60.0 * minutes for minutes in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30))]
SECONDS += [3600.0 * hours for hours in (1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 300, 500)]
"""Round numbers of bytes, and of seconds, minutes and hours."""


def budget(summary: Summary) -> Figure:
    """Average accuracy against processor time, and against the state carried on; and what no other method beats."""
    figure = Figure(figsize=(9.6, 4.6))
    figure.subplots_adjust(left=0.065, right=0.985, top=0.95, bottom=0.115, wspace=0.1)
    left, right = figure.subplots(1, 2, sharey=True)
    left.set_ylabel("average accuracy (%)")
    timed = [row for row in summary.rows if row.process_seconds]
    stored = [row for row in summary.rows if row.bound != "upper bound"]  # it carries no state, but needs all data
    panels = (
        (left, timed, lambda row: row.process_seconds or 0.0, Cost("processor time", duration, SECONDS)),
        (right, stored, lambda row: row.state_bytes, Cost("state carried on", size, BYTES)),
    )
    points = [spread(axes, summary, rows, of_row, cost) for axes, rows, of_row, cost in panels]
    left.set_ylim(top=min(left.get_ylim()[1], 100.5))
    figure.draw_without_rendering()  # only then axes have their limits, which decide where names collide
    for (axes, *_), of_axes in zip(panels, points, strict=True):
        label_points(axes, of_axes, looks(summary.methods))
    return figure


@dataclass(frozen=True)
class Cost:
    """What an axis measures."""

    label: str
    told: Callable[[float], str]
    """A value as people read it."""
    round: Sequence[float]
    """Values that an axis may name."""


def spread(
    axes: Axes, summary: Summary, rows: list[Row], of_row: Callable[[Row], float], cost: Cost
) -> dict[str, tuple[float, float]]:
    """Each method at its cost and accuracy; a line joins the ranked methods that none other beats in both."""
    table = looks(summary.methods)
    points = {row.method: (of_row(row), 100 * row.accuracy[0]) for row in rows}
    values = [value for value, _ in points.values()]
    positive = [value for value in values if value > 0]
    if len(positive) < len(values):
        axes.set_xscale("symlog", linthresh=min(positive, default=1.0) / 2, linscale=0.6)
    else:
        axes.set_xscale("log")
    ranked = [row.method for row in rows if not row.bound]
    kept = front([(-points[method][0], points[method][1]) for method in ranked])
    steps = sorted(points[ranked[place]] for place in kept)
    axes.step(
        *zip(*steps, strict=True), where="post", color=MUTED, linewidth=0.8, linestyle=DASHES[1]
    ) if steps else None
    for row in rows:
        spot = axes.plot(*points[row.method], **style(table[row.method], 8))[0]
        spot.set_clip_on(False)
        told = f"{row.method}: {percent(row.accuracy, 1)} %, {cost.told(of_row(row))} of {cost.label}"
        tag(row.method, spot, tips=[told])
    axes.margins(0.1)
    free = len(positive) < len(values)  # some cost nothing: the others share what that leaves of the axis
    named = [0.0] * free + named_values(positive, cost.round, *((3, 1.9) if free else (5, 1.0)))
    axes.set_xticks(named, [cost.told(value).replace(".0 ", " ") for value in named])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(cost.label)
    return points


def named_values(values: Sequence[float], round_ones: Sequence[float], most: int, least: float) -> list[float]:
    """The few values that an axis names: round ones, or both ends where these are too near to each other for that.

    About `most`, of which each is at least `least` times the one before.
    """
    if not values:
        return []
    low, high, named = min(values), max(values), list[float]()
    ratio = max((high / low) ** (1 / most), least)
    for value in round_ones:
        if low <= value <= high and (not named or value >= ratio * named[-1]):
            named.append(value)
    if len(named) > 1:
        return named
    return [low, high] if high > max(least, 1.0) * low else [high]


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
