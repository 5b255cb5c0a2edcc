"""What each named switch of a method changes: `python -m benchmarks.switches`.

A switch is a knob of named choices, or of yes and no: most of them choose between a paper and the survey's code.
Every method that has one runs with its defaults and with every other choice, by the whole protocol; the difference is
taken seed by seed. Resumable, as every run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cl import cli
from cl.data.places import prepare_all
from cl.errors import UserError
from cl.files import write_json
from cl.knob import Value
from cl.metrics import average_accuracy, average_forgetting, interval
from cl.names import names_in
from cl.params import read
from cl.pool import Progress, explain, run_all, runs_of
from cl.reading import RunResult, read_run
from cl.register import method_class
from cl.results import Matrix

GIVEN: dict[tuple[str, str], dict[str, Value]] = {("gem", "memory_gradient"): {"memory_per_task": 450}}
"""Knobs without which a switch has nothing to do: a memory has to be larger than a batch."""


def settings() -> list[tuple[str, str, Value]]:
    """Every (method, switch, value) to be compared with the method's default."""
    return [
        (method, name, value)
        for method in names_in("methods")
        for name, knob in method_class(method).knobs.items()
        for value in knob.alternatives
    ]


def results_of(method: str, knobs: dict[str, Any], given: argparse.Namespace) -> list[RunResult]:
    """The results of all seeds of this method with these knobs over those of the params file."""
    named = "-".join(f"{name}={value}" for name, value in knobs.items()) or "default"
    out = given.out / f"{method}-{named}"
    overrides = [*given.overrides, *(f"methods.{method}.{name}={json.dumps(value)}" for name, value in knobs.items())]
    params = read(given.params, overrides, [method], cli.seeds_of(given.seeds))
    prepare_all(params, cli.RAW, given.out, _say)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "prepared").exists():
        os.symlink("../prepared", out / "prepared")
    _say(f"{method} {named}")
    runs = runs_of(params)
    failures = run_all(params, out, runs, Progress(runs, lambda line: None))
    if failures:
        raise UserError(explain(failures))
    return [read_run(out / "results" / method / f"seed-{run.seed}.json", method, run.seed) for run in runs]


def row(method: str, name: str, value: Value, given: argparse.Namespace) -> dict[str, Any]:
    """Both sides of a switch over the seeds, in percentage points."""
    base = GIVEN.get((method, name), {})
    default = results_of(method, base, given)
    switched = results_of(method, {**base, name: value}, given)

    def points(results: list[RunResult], measure: Callable[[Matrix], float | None]) -> list[float]:
        return [100 * (measure(result.accuracy) or 0.0) for result in results]

    pairs = zip(points(switched, average_accuracy), points(default, average_accuracy), strict=True)
    return {
        "method": method,
        "switch": name,
        "default": method_class(method).knobs[name].default,
        "value": value,
        "given": base,
        "seeds": [result.seed for result in default],
        "default_accuracy": interval(points(default, average_accuracy)),
        "accuracy": interval(points(switched, average_accuracy)),
        "difference": interval([b - a for b, a in pairs]),
        "default_forgetting": interval(points(default, average_forgetting)),
        "forgetting": interval(points(switched, average_forgetting)),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| method | switch | average accuracy % | forgetting | difference in accuracy |",
        "| :--- | :--- | ---: | ---: | ---: |",
    ]
    for r in rows:
        base = "".join(f", {k} {v}" for k, v in r["given"].items())
        sides = (
            (
                f"`{r['switch']}: {_yaml(r['default'])}` (default){base}",
                r["default_accuracy"],
                r["default_forgetting"],
                None,
            ),
            (f"`{r['switch']}: {_yaml(r['value'])}`", r["accuracy"], r["forgetting"], r["difference"]),
        )
        for said, accuracy, forgetting, difference in sides:
            change = _spread(difference, "+.2f") if difference else ""
            lines.append(f"| {r['method']} | {said} | {_spread(accuracy)} | {_spread(forgetting)} | {change} |")
    return "\n".join(lines)


def _yaml(value: Value) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _spread(estimate: tuple[float, float | None], form: str = ".2f") -> str:
    mean, half = estimate
    return f"{mean:{form}}" + (f" ± {half:.2f}" if half is not None else "")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = cli.parser("benchmarks.switches", __doc__.splitlines()[0] if __doc__ else None)
    made.set_defaults(out=Path("out/switches"))
    return made


def main() -> int:
    """Run them all, print the table, and keep it as JSON for `benchmarks.pages`."""
    options = parser().parse_args()
    chosen = cli.methods_of(options.methods)
    rows = [row(method, name, value, options) for method, name, value in settings() if method in chosen]
    print(table(rows))
    write_json(options.out / "switches.json", rows)
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
