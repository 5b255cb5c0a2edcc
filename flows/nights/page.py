"""The morning's page of a night, and the same in short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.nights.history import Night, sequence_of
from flows.templates import template

SHOWN = 30
"""So many nights at most are in the curves of the page."""
DIFFERENCES = 10
"""So many inputs that differ are named in short."""


def morning(record: Mapping[str, Any], course: Sequence[Night], before: Night | None) -> str:
    """The morning's page: one HTML document that needs no other file."""
    shown = [night.record for night in course if sequence_of(night.record) == sequence_of(record)][-SHOWN:]
    methods = sorted(record["methods"], key=lambda name: -record["methods"][name]["accuracy"])
    page: str = template(Path(__file__).with_name("morning.html")).render(
        record=record,
        methods=methods,
        changes={(change["method"], change["measure"]): change for change in record["changes"]},
        measures=("accuracy", "forgetting", "time per step", "memory"),
        lines={name: line([r["methods"].get(name, {}).get("accuracy") for r in shown]) for name in methods},
        nights=len(shown),
        differences=differences(record, before.record if before else None),
    )
    return page


def differences(record: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, tuple[Any, Any]]:
    """Which settings and versions differ from the night it is compared with: by name, (then, now)."""
    if before is None:
        return {}
    then, now = ({**_flat(r["from"], "from."), **_flat(r["params"], "")} for r in (before, record))
    return {key: (then.get(key), now.get(key)) for key in sorted({*then, *now}) if then.get(key) != now.get(key)}


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def line(values: Sequence[float | None], width: int = 120, height: int = 26) -> list[tuple[float, float]]:
    """Points of a small curve over the nights, scaled to its own range; a night without a value is left out."""
    known = [(index, value) for index, value in enumerate(values) if value is not None]
    if not known:
        return []
    low, high = min(v for _, v in known), max(v for _, v in known)
    span = max(high - low, 0.01)  # a hundredth of accuracy is the least that fills the height
    middle = (low + high) / 2
    step = width / max(len(values) - 1, 1)
    return [(round(i * step, 1), round(height / 2 - (v - middle) / span * (height - 6), 1)) for i, v in known]


def in_short(record: Mapping[str, Any], before: Mapping[str, Any] | None, page: str) -> str:
    """The morning's page in short, in Markdown: the headline, what changed, and which inputs differ.

    `before`: the night that it is compared with; `page`: the address of the whole page.
    """
    compared = f"Compared with {record['compared_with']}. " if record["compared_with"] else ""
    lines = [f"# {record['night']}", "", record["headline"], "", f"{compared}[The morning's page]({page})", ""]
    to_tell = [change for change in record["changes"] if change["kind"] not in ("same", "noise")]
    if to_tell:
        lines += ["| method | measure | change |", "| --- | --- | --- |"]
        lines += [f"| {c['method']} | {c['measure']} | {c['kind']}: {c['said']} |" for c in to_tell]
    lines += [f"- {run} failed: {why}" for run, why in record["failures"].items()]
    differ = list(differences(record, before).items())
    lines += ["", "Inputs that differ:", ""] if differ else []
    lines += [f"- `{name}`: {then} → {now}" for name, (then, now) in differ[:DIFFERENCES]]
    lines += [f"- and {len(differ) - DIFFERENCES} more"] if len(differ) > DIFFERENCES else []
    return "\n".join(lines) + "\n"
