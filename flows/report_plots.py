"""The report's figures, each drawn once and saved twice: PNG as a file, SVG to stand inside the page.

The SVG's text stays text, and its colours become the page's variables: it follows the light or dark scheme.
What belongs to one method carries `data-method`, by which the page follows a method through all figures.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle

from cl.metrics import front

if TYPE_CHECKING:
    from flows.report import Row, Summary

# CSS variable -> (light, dark). PNG files are light. Eight hues that stay apart for the common colour
# blindnesses; each method also has a marker of its own and, from the ninth on, a broken line.
COLOURS = {
    "paper": ("#fdfcfa", "#14181d"),
    "ink": ("#1b2530", "#e8e6e1"),
    "muted": ("#5d6874", "#9aa5b1"),
    "line": ("#d9d6cf", "#323a44"),
    "bar": ("#9fb4c4", "#66819a"),
    "hue-0": ("#1a6de1", "#8dbdfa"),
    "hue-1": ("#8b5a1d", "#dc935e"),
    "hue-2": ("#079d5b", "#46e699"),
    "hue-3": ("#b324a1", "#d06ec3"),
    "hue-4": ("#9a920e", "#f1c451"),
    "hue-5": ("#3d29cc", "#7381f0"),
    "hue-6": ("#3c95db", "#7cd7eb"),
    "hue-7": ("#922733", "#db6366"),
}
PAPER, INK, MUTED, LINE, BAR = (COLOURS[name][0] for name in ("paper", "ink", "muted", "line", "bar"))
MARKERS = "os^DvPXp<>d"  # 11 of them beside 8 hues: 88 methods before a pair repeats
DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.5)), (0, (1, 1)))
PHASES = (BAR, "#2a6f8f", "#d8b26a", "#b7a7c9", "#8fb59b", "#c99a92")
HEAT = LinearSegmentedColormap.from_list("heat", ["#f4efe3", "#b9d8c2", "#5fa8a8", "#2a6f8f", "#173f63"])
FONT = "DejaVu Sans"  # comes with matplotlib; in the page its place is taken by the page's own
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "font.family": FONT,
    "font.size": 8,
    "axes.facecolor": "none",
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
}
for _axis in ("xtick", "ytick"):
    STYLE |= {f"{_axis}.color": LINE, f"{_axis}.labelcolor": MUTED}
    STYLE |= {f"{_axis}.major.width": 0.6, f"{_axis}.major.size": 2.5}


@dataclass(frozen=True)
class Look:
    """How one method is drawn everywhere: the name of its colour, its marker, its line style."""

    hue: str
    marker: str
    dash: Any
    glyph: str  # the marker as SVG path data, about 8 units wide around the origin

    @property
    def colour(self) -> str:
        """The light scheme's colour, as drawn."""
        return COLOURS[self.hue][0]


@dataclass(frozen=True)
class Drawing:
    """One figure in both forms."""

    png: bytes
    svg: str


FIGURES = ("average", "curves", "matrices", "tradeoff", "cost", "fronts")


def draw(summary: "Summary") -> dict[str, Drawing]:
    """All figures of a comparison by name; `cost` only with cost files, `fronts` only where some were searched for."""
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


def save(figure: Figure, name: str) -> Drawing:
    """Render to bytes that depend on nothing but the figure; bands shown on demand are in the SVG alone."""
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(svg, format="svg", transparent=True)
    for band in figure.findobj(lambda artist: (artist.get_gid() or "").startswith("band:")):
        band.set_visible(False)
    figure.savefig(png, format="png", dpi=160, facecolor=PAPER, metadata={"Software": None})
    return Drawing(png.getvalue(), inline(svg.getvalue(), name))


def inline(svg: str, name: str) -> str:
    """Make matplotlib's SVG document part of a page: no prologue, unique ids, the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view, "matplotlib wrote an SVG without a viewBox"
    svg = f'<svg {view[0]} role="img" aria-labelledby="{name}-title">' + svg[svg.index(">") + 1 :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="(method|band):([^"]+)"', r'<g class="\1" data-method="\2"', svg)
    used = set(re.findall(r"#([\w-]+)[\")]", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg).replace(f"'{FONT}'", "var(--sans)")
    for variable, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", "\n", svg)


def looks(rows: Sequence["Row"]) -> dict[str, Look]:
    """A look for each method, by its place in the alphabet so that a change of rank changes no colour."""
    hues = [name for name in COLOURS if name.startswith("hue")]
    table = {}
    for row in rows:
        if row.bound:
            hue, marker, dash = ("ink", "*", "solid") if row.bound == "upper bound" else ("muted", "o", DASHES[1])
            table[row.method] = Look(hue, marker, dash, glyph(marker))
    for i, method in enumerate(sorted(row.method for row in rows if not row.bound)):
        marker = MARKERS[i % len(MARKERS)]
        table[method] = Look(hues[i % len(hues)], marker, DASHES[i // len(hues) % len(DASHES)], glyph(marker))
    return table


def glyph(marker: str) -> str:
    """A marker as SVG path data."""
    style = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform())
    data = ""
    for points, code in path.iter_segments(simplify=False):
        letter = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}[int(code)]
        places = (f"{8 * value * (-1) ** k:.2f}" for k, value in enumerate(points))  # SVG's y points downwards
        data += letter if letter == "Z" else letter + " ".join(places)
    return data


def accuracy_scale(rows: Sequence["Row"]) -> tuple[float, float]:
    """Both ends, in per cent, of an axis that holds every method's average accuracy and interval."""
    low = min(100 * (row.accuracy[0] - (row.accuracy[1] or 0)) for row in rows)
    high = max(100 * (row.accuracy[0] + (row.accuracy[1] or 0)) for row in rows)
    step = 1 if high - low < 8 else 5
    low, high = max(0.0, low // step * step), min(100.0, -(-high // step) * step)
    return (low, high) if low < high else (low - step, high)


# The figures ------------------------------------------------------------------------------------------------


def average(summary: "Summary") -> Figure:
    """Average accuracy over the tasks learned so far, against their number."""
    figure, axes = canvas(4.4, left=0.55, right=1.3, top=0.15, bottom=0.5)
    T = len(summary.tasks)
    table, ends = looks(summary.rows), {}
    always = len(summary.rows) <= 4  # more bands than that hide each other: they show when asked for
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


def curves(summary: "Summary") -> Figure:
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


def matrices(summary: "Summary") -> Figure:
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


def tradeoff(summary: "Summary") -> Figure:
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
        axes.text(0.5, 0.5, "needs a method that learns at least two tasks one after the other", **where)
        axes.set_axis_off()
        return figure
    axes.margins(0.12)
    # Intervals of two seeds may well reach beyond what there can be.
    left, right = (min(max(edge, -5.0), 105.0) for edge in axes.get_xlim())
    low, high = (min(max(edge, -105.0), 105.0) for edge in axes.get_ylim())
    axes.set(xlim=(left, right), ylim=(high, low))  # upwards is less forgetting
    kept = (T - 1) / T
    across = right - left + kept * (high - low)
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50) if across / s <= 9)
    first = (left - kept * high) // step + 1
    for k in range(int(across / step) + 1):
        if 0 <= (level := (first + k) * step) <= 100:  # the axes, which hold the intervals, reach beyond
            iso_line(axes, level, kept, "", color=MUTED, linewidth=0.6, linestyle=(0, (1, 3)))
    for row in summary.rows:
        if row.bound == "upper bound" and not row.learning:
            iso_line(axes, 100 * row.accuracy[0], kept, row.method, color=INK, linewidth=1, linestyle=DASHES[1])
    label_points(axes, points, table)
    return figure


def fronts(summary: "Summary") -> Figure:
    """A line of panels per method, one a task: the plasticity and stability of all that was tried, and their front."""
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


def cost(summary: "Summary") -> Figure:
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


# Their parts ------------------------------------------------------------------------------------------------


def canvas(height: float, left: float, right: float, top: float, bottom: float) -> tuple[Figure, Axes]:
    """A figure with one set of axes; all in inches."""
    figure = Figure(figsize=(9.6, height))
    figure.subplots_adjust(left=left / 9.6, right=1 - right / 9.6, top=1 - top / height, bottom=bottom / height)
    return figure, figure.subplots()


def panels(
    lines: int,
    columns: int,
    size: float,
    bottom: float,
    left: float,
    gap: tuple[float, float],
    share: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of axes, line by line: a line's height and margins in inches, gaps in panels."""
    height = size * lines + bottom
    figure = Figure(figsize=(9.6, height))
    grid = figure.subplots(lines, columns, sharex=share, sharey=share, squeeze=False)
    figure.subplots_adjust(left=left / 9.6, right=0.99, top=1 - 0.25 / height, bottom=bottom / height)
    figure.subplots_adjust(wspace=gap[0], hspace=gap[1])
    return figure, list(grid.flat)


def style(look: Look, size: float) -> dict[str, Any]:
    """A method's line; a thin rim in the colour of the paper keeps markers apart where they meet."""
    rim = {"markeredgecolor": PAPER, "markeredgewidth": size / 10}
    return {"color": look.colour, "marker": look.marker, "linestyle": look.dash, "markersize": size, **rim}


def plot_line(axes: Axes, method: str, look: Look, x: Sequence[int], y: Sequence[float], size: float = 4.5) -> None:
    """One method's line; a star alone, where all was learned at once, is drawn larger."""
    line = axes.plot(x, y, **style(look, size * (2.2 if look.marker == "*" else 1)))[0]
    line.set_clip_on(False)
    tag(method, line)


def tag(method: str, *artists: Artist | None) -> None:
    """Mark what belongs to one method, for the page to find."""
    for artist in artists:
        if artist is not None:
            artist.set_gid(f"method:{method}")


def task_ticks(T: int, most: int = 10) -> list[int]:
    """At most so many of the numbers 1..T, evenly spaced, the last among them."""
    return list(range(T, 0, -T // most))[::-1]


def task_axis(axes: Axes, T: int, label: str, most: int = 10) -> None:
    """The x axis "how many tasks have been learned"."""
    axes.set_xlim(0.7, T + 0.3)
    axes.set_xticks(task_ticks(T, most))
    axes.set_xlabel(label)
    axes.grid(visible=False, axis="x")


def write_cells(axes: Axes, matrix: Sequence[Sequence[float | None]], low: float) -> None:
    """Write whole per cents into a heat map whose colours start at `low` per cent."""
    for i, line in enumerate(matrix):
        for j, value in enumerate(line):
            if value is not None:
                colour = "#ffffff" if (100 * value - low) / (100 - low) > 0.55 else "#1c2b39"
                middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 5.5, "color": colour}
                axes.text(j + 0.5, i + 0.54, f"{100 * value:.0f}", **middle)


def label_ends(axes: Axes, T: int, ends: dict[str, float], table: dict[str, Look]) -> None:
    """Name each line at its right end, moved as little as keeps the names apart and beside the axes."""
    low, high = axes.get_ylim()
    gap = min(0.042, 1 / len(ends)) * (high - low)
    names = sorted(ends, key=lambda name: (ends[name], name))
    blocks: list[list[float]] = []  # least squares with gaps: places less their gaps must not fall; merge what does
    for i, name in enumerate(names):
        blocks.append([ends[name] - i * gap])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    free = (min(max(fmean(block), low), high - (len(names) - 1) * gap) for block in blocks for _ in block)
    places = [place + i * gap for i, place in enumerate(free)]
    for name, place in zip(names, places, strict=True):
        colour = table[name].colour
        line = {
            "arrowstyle": "-",
            "color": colour,
            "linewidth": 0.5,
            "shrinkA": 1,
            "shrinkB": 4,
            "relpos": (0, 0.5),
        }
        text: dict[str, Any] = {"va": "center", "color": colour, "annotation_clip": False, "arrowprops": line}
        start = T + 0.045 * (T - 0.4)
        label = axes.annotate(f"{name} {ends[name]:.1f}", (T, ends[name]), (start, place), **text)
        tag(name, label, label.arrow_patch)


def iso_line(axes: Axes, level: float, kept: float, name: str, **line: Any) -> None:
    """All points of one average accuracy: level = learning accuracy - kept * forgetting."""
    (left, right), (low, high) = axes.get_xlim(), sorted(axes.get_ylim())
    enter, leave = max(left, level + kept * low), min(right, level + kept * high)
    if enter < leave:
        start = (enter, (enter - level) / kept)
        axes.plot([enter, leave], [start[1], (leave - level) / kept], **line)
        text: dict[str, Any] = {"fontsize": 6.5, "color": line["color"], "annotation_clip": False}
        label = f"{name} {level:.1f} %" if name else f"{level:g} %"
        axes.annotate(label, start, (4, 1), textcoords="offset points", **text)


def label_points(axes: Axes, points: dict[str, tuple[float, float]], table: dict[str, Look]) -> None:
    """Name each point at the nearest place where the name covers neither a point nor another name."""
    directions = ((0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8), (1, 0), (-1, 0), (0, 1), (0, -1))
    frame = axes.get_window_extent()
    unit = axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]  # pixels in a point
    spots = {name: axes.transData.transform(point) / unit for name, point in points.items()}
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots.values()]
    for name, (x, y) in spots.items():
        width, height = 5.0 * len(name) + 2, 9.0
        boxes = []
        for reach in (8, 13, 20, 28, 38, 50):
            for dx, dy in directions:
                start = x + dx * reach - (width if dx < 0 else 0 if dx > 0 else width / 2)
                bottom = y + dy * reach - height / 2
                boxes.append((start, bottom, start + width, bottom + height))
        inside = [box for box in boxes if frame.x0 < box[0] * unit and box[2] * unit < frame.x1]
        box = next((box for box in inside if not any(overlap(box, other) for other in taken)), boxes[0])
        taken.append(box)
        far = max(box[0] - x, x - box[2]) > 12 or max(box[1] - y, y - box[3]) > 8
        colour = table[name].colour
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkB": 5} if far else None
        text: dict[str, Any] = {"textcoords": "offset points", "color": colour, "arrowprops": line}
        label = axes.annotate(name, points[name], (box[0] + 1 - x, box[1] + 2 - y), **text)
        tag(name, label, label.arrow_patch)


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes (left, bottom, right, top) share a point."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
