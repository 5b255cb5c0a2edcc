"""What figures are made of: axes, panels, lines; and a figure as PNG and as SVG for the page."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flows.report.looks import COLOURS, FONT, PAPER, Look


@dataclass(frozen=True)
class Drawing:
    """One figure in both forms."""

    png: bytes
    svg: str


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
    svg = with_tips(svg)
    used = set(re.findall(r"#([\w-]+)[\")]", svg))
    svg = re.sub(r' id="([^"]+)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg).replace(f"'{FONT}'", "var(--sans)")
    for variable, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", "\n", svg)


def with_tips(svg: str) -> str:
    """What `tag` marked, as the page finds it; its tips become titles of the marks that follow."""
    start, *groups = re.split(r'<g id="(?=(?:method|band|matrix):)', svg)
    parts = [start]
    for group in groups:
        gid, rest = group.split('"', 1)
        kind, _, said = gid.partition(":")
        method, *listed = html.unescape(said).split("|")
        tips = iter(listed)

        def titled(mark: re.Match[str], tips: Iterator[str] = tips) -> str:
            tip = next(tips, None)
            return mark[0] if tip is None else f"{mark[1]}><title>{html.escape(tip)}</title></use>"

        parts.append(f'<g class="{kind}" data-method="{method}"')
        parts.append(re.sub(r"(<use [^>]*?)/>", titled, rest) if listed else rest)
    return "".join(parts)


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


def plot_line(
    axes: Axes, method: str, look: Look, x: Sequence[int], y: Sequence[float], tips: Sequence[str], size: float = 4.5
) -> None:
    """One method's line, with a tip for each point; a star alone, where all was learned at once, is drawn larger."""
    line = axes.plot(x, y, **style(look, size * (2.2 if look.marker == "*" else 1)))[0]
    line.set_clip_on(False)
    tag(method, line, tips=tips)


def tag(method: str, *artists: Artist | None, kind: str = "method", tips: Sequence[str] = ()) -> None:
    """Mark what belongs to one method, so that the page finds it; a tip for each of its points is shown there."""
    for artist in artists:
        if artist is not None:
            artist.set_gid("|".join([f"{kind}:{method}", *tips]))


def task_ticks(T: int, most: int = 10) -> list[int]:
    """At most so many of the numbers 1..T, evenly spaced and with the last."""
    return list(range(T, 0, -T // most))[::-1]


def task_axis(axes: Axes, T: int, label: str, most: int = 10) -> None:
    """The x axis "how many tasks have been learned"."""
    axes.set_xlim(0.7, T + 0.3)
    axes.set_xticks(task_ticks(T, most))
    axes.set_xlabel(label)
    axes.grid(visible=False, axis="x")
