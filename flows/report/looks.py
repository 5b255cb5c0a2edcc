"""How methods and figures look: colours, markers, lines, and matplotlib's settings."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.markers import MarkerStyle

from flows.report.rows import BOUNDS
from flows.report.words import Estimate

# CSS variable -> (light, dark). PNG files are light. Text may have the colour of any but paper, card, line and bar: its
# contrast to paper and card is 4.5 or more, as WCAG 2.1 (1.4.3) asks. Eight hues so dark are not all told apart with
# every colour blindness, so a method also has a marker and a line of its own.
COLOURS = {
    "paper": ("#fdfcfa", "#14181d"),
    "card": ("#ffffff", "#1a2027"),
    "ink": ("#1b2530", "#e8e6e1"),
    "muted": ("#5d6874", "#9aa5b1"),
    "line": ("#d9d6cf", "#323a44"),
    "bar": ("#9fb4c4", "#66819a"),
    "accent": ("#2a6f8f", "#7fc0dc"),
    "good": ("#0a7a5c", "#3fc9a0"),
    "bad": ("#b34700", "#f28a4b"),
    "hue-0": ("#1a6de1", "#8dbdfa"),
    "hue-1": ("#8b5a1d", "#dc935e"),
    "hue-2": ("#127e56", "#46e699"),
    "hue-3": ("#b324a1", "#d06ec3"),
    "hue-4": ("#7d6b00", "#f1c451"),
    "hue-5": ("#3d29cc", "#7381f0"),
    "hue-6": ("#0f7795", "#7cd7eb"),
    "hue-7": ("#922733", "#db6366"),
}
PAPER, INK, MUTED, LINE, BAR = (COLOURS[name][0] for name in ("paper", "ink", "muted", "line", "bar"))
MARKERS = "os^DvPXp<>d"  # 11 of them beside 8 hues: 88 methods before a pair repeats
KNOWN = (
    *("derpp", "ebll", "er", "ewc", "gem", "hat", "icarl", "lwf", "mas", "mean_imm", "mode_imm", "packnet"),
    *("r_fm", "r_pm", "si", "a_gem", "cope", "dgr", "expert_gate", "fecam", "gss", "ncm", "online_ewc"),
    *("progressive_nets", "pseudo_rehearsal", "ranpac", "riemannian_walk", "slda", "vcl", "vcl_coreset"),
)
"""The methods in the order in which they get their looks: a new one goes to the end, so that no other changes."""
DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.5)), (0, (1, 1)))
PHASES = (BAR, "#2a6f8f", "#d8b26a", "#b7a7c9", "#8fb59b", "#c99a92")
HEAT = LinearSegmentedColormap.from_list("heat", ["#fffdfa", "#fde3c8", "#f9b27c", "#ee8250"])
"""Points lost; so light that dark text can be read on all of it. In the dark scheme they stay as they are."""
GAIN, ON_HEAT = "#bfe3d0", "#1c2b39"
"""Points gained, and text on these."""
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


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """The look of each method, which depends on nothing but its name: it is the same in all figures and comparisons."""
    return {method: look_of(method) for method in methods}


def look_of(method: str) -> Look:
    """How a method is drawn everywhere."""
    bound = BOUNDS.get(method)
    if bound:
        hue, marker, dash = ("ink", "*", "solid") if bound == "upper bound" else ("muted", "o", DASHES[1])
        return Look(hue, marker, dash, glyph(marker))
    hues = [name for name in COLOURS if name.startswith("hue")]
    free = len(hues) * len(MARKERS) - len(KNOWN)
    i = KNOWN.index(method) if method in KNOWN else len(KNOWN) + zlib.crc32(method.encode()) % free
    marker = MARKERS[i % len(MARKERS)]
    return Look(hues[i % len(hues)], marker, DASHES[i // len(hues) % len(DASHES)], glyph(marker))


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


def accuracy_scale(values: Iterable[Estimate], chance: float | None = None) -> tuple[float, float]:
    """Both ends, in per cent, of an axis that holds these accuracies, and chance where it is not far.

    It holds the intervals as far as the accuracies keep the larger part of it.
    """
    estimates = list(values)
    ends = [100 * (mean + sign * (half or 0)) for mean, half in estimates for sign in (-1, 1)]
    low, high = within([100 * mean for mean, _ in estimates], (min(ends), max(ends)))
    if chance is not None and shows_chance(chance, low, high):
        low = min(low, 100 * chance)
    step = 1 if high - low < 8 else 5
    low, high = max(0.0, low // step * step), min(100.0, -(-high // step) * step)
    return (low, high) if low < high else (low - step, high)


def within(points: Iterable[float], ends: tuple[float, float]) -> tuple[float, float]:
    """The ends of an axis that has the points in its larger part: intervals of few seeds may reach far beyond them."""
    points = list(points)
    reach = max(0.4 * (max(points) - min(points)), 2.0)
    return max(ends[0], min(points) - reach), min(ends[1], max(points) + reach)


def shows_chance(chance: float, low: float, high: float) -> bool:
    """Whether an axis from low to high per cent may be made longer for chance: not if the rest becomes small."""
    return 100 * chance > low - 0.5 * max(high - low, 5.0)
