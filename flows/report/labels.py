"""Names beside lines and points, placed so that none covers another."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from matplotlib.axes import Axes

from flows.report.drawing import tag
from flows.report.looks import Look


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
