"""How methods and figures look: colours, markers, lines, and matplotlib's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.markers import MarkerStyle

from flows.report.rows import Row

# CSS variable -> (light, dark). PNG files are light. The eight hues can be told apart with the common colour
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


def looks(rows: Sequence[Row]) -> dict[str, Look]:
    """A look for each method, by its place in the alphabet, so that a change of rank changes no colour."""
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


def accuracy_scale(rows: Sequence[Row]) -> tuple[float, float]:
    """Both ends, in per cent, of an axis that holds every method's average accuracy and interval."""
    low = min(100 * (row.accuracy[0] - (row.accuracy[1] or 0)) for row in rows)
    high = max(100 * (row.accuracy[0] + (row.accuracy[1] or 0)) for row in rows)
    step = 1 if high - low < 8 else 5
    low, high = max(0.0, low // step * step), min(100.0, -(-high // step) * step)
    return (low, high) if low < high else (low - step, high)
