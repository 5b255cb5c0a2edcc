"""Numbers and names as people read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cl.metrics import Difference, quantile

Estimate = tuple[float, float | None]  # mean over seeds, half width of the 95 % interval (None: one seed)


def percent(value: Estimate | None, digits: int = 2) -> str:
    """A share of one as "93.10 ± 0.42" per cent (or points); "–" for None."""
    if value is None:
        return "–"
    mean, half = (None if part is None else round(100 * part, digits) + 0.0 for part in value)  # + 0.0: no "-0.00"
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def difference(value: Difference | None) -> str:
    """A difference in points as "≈ -0.98 ± 1.20"; ≈ where the interval contains 0, "–" for None."""
    if value is None:
        return "–"
    return ("≈ " if value.tied else "") + percent((value.mean, value.half))


def student(n: int) -> str:
    """The number of seeds of an interval, and the t that it was made with: "n = 3, t = 4.30"."""
    return f"n = {n}, t = {quantile(n):.2f}" if n > 1 else f"n = {n}, no interval"


def formula(text: str) -> str:
    """A formula with its indices, as in `a_{T,j}`, set below the line."""
    from markupsafe import Markup, escape  # comes with Jinja, which `--show` does not need

    return Markup(re.sub(r"_\{([^}]*)\}|_(\w)", lambda found: f"<sub>{found[1] or found[2]}</sub>", escape(text)))


def share(value: float | None) -> str:
    """A share of one as per cent with one decimal; "–" for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def number(value: Any) -> str:
    """A knob's value: numbers short, anything else as it is; "–" for None."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def size(value: float | None) -> str:
    """Bytes in a unit that suits their number, in powers of 1000."""
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def duration(seconds: float | None) -> str:
    """Seconds, or minutes and hours where there are many."""
    if seconds is None:
        return "–"
    if seconds < 99.5:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def times(ratio: float | None) -> str:
    """A ratio as "2.4x", or as "0.03x" if it would be 0.0 so; "–" for None."""
    if ratio is None:
        return "–"
    return f"{ratio:.1f}x" if ratio >= 0.05 else f"{ratio:.2g}x"


def yes(value: float | None) -> str:
    """Whether there is something: "yes" or "no", "–" for None."""
    return "–" if value is None else "yes" if value else "no"


def listing(names: Sequence[str]) -> str:
    """Names as prose: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
