"""How Prefect shows flow runs: names that say what is compared, and what is set otherwise than in the params file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cl.errors import count
from cl.params import Params
from flows.tracking import origin

NAMED, CHANGES = 3, 3
"""So many methods are named, and so many changed settings."""
APART = {"methods", "others", "seeds", "tracking", "execution", "champion", "report"}
"""Sections of the params that are not among the changed settings: shown otherwise, or without an effect on numbers."""


def named(params: Params, before: Params, out: Path) -> tuple[str, list[str]]:
    """The name and the tags under which Prefect shows a comparison; `before`: its params file as it stands.

    Such as `permuted-digits: ewc, si; 1 seed; epochs=20; in out/try`.
    """
    methods = list(params.methods)
    which = ", ".join(methods) if len(methods) <= NAMED else count(len(methods), "method")
    parts = [which, count(len(params.seeds), "seed")]
    parts += changes(params, before)
    parts += _where(out)
    return f"{params.title}: {'; '.join(parts)}", [params.benchmark.name, *methods, *origin.labels()]


def stage_name(params: Params, out: Path, what: str = "") -> str:
    """The name of a stage's flow run, which Prefect shows behind the stage: `permuted-digits; in out/try`."""
    return "; ".join([f"{params.title}: {what}" if what else params.title, *_where(out)])


def _where(out: Path) -> list[str]:
    return [f"in {out}"] if out != Path("out") else []


def changes(params: Params, before: Params) -> list[str]:
    """The settings that differ, as `epochs=20`; of many the first, and how many more there are."""
    now, then = (dict(_flat(of.model_dump(mode="json", exclude=APART))) for of in (params, before))
    now.pop("benchmark.name")  # in the title
    for method, knobs in params.methods.items():
        if (known := before.methods.get(method, before.others.get(method))) is not None:
            now |= {f"methods.{method}.{knob}": value for knob, value in knobs.items()}
            then |= {f"methods.{method}.{knob}": value for knob, value in known.items()}
    changed = [f"{_brief(key)}={_short(value)}" for key, value in now.items() if then.get(key) != value]
    more = [f"{count(len(changed) - CHANGES, 'more setting')}"] if len(changed) > CHANGES else []
    return changed[:CHANGES] + more


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _brief(key: str) -> str:
    """`training.epochs` as `epochs`, `methods.ewc.strength` as `ewc.strength`."""
    return key.removeprefix("methods.") if key.startswith("methods.") else key.rpartition(".")[2]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:19]}…"
