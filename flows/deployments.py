"""The flows that a Prefect server can start: prefect.yaml deploys them. A flow's parameters are the fields of its form.

A field that is left empty takes its value from params.yaml; `settings` sets any other key of that file.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from prefect import flow, runtime

from cl.errors import UserError
from cl.names import names_in
from cl.params import Params, read
from cl.paths import option
from flows import compare as comparison
from flows import nightly as nights
from flows.engine.with_prefect import configured_engine
from flows.report import build as reports


def _choices(name: str, values: list[str]) -> Any:
    members: Any = {value: value for value in values}
    return Enum(name, members, type=str)


Method: Any = _choices("Method", names_in("methods"))
Benchmark: Any = _choices("Benchmark", [stem.replace("_", "-") for stem in names_in("data/benchmarks")])


def chosen(
    benchmark: Any = None,
    methods: Any = None,
    seeds: list[int] | None = None,
    settings: list[str] | None = None,
    **others: Any,
) -> Params:
    """params.yaml, changed by what the form gives; raises `UserError` for values that cannot be."""
    from cl.register import checked

    del others
    overrides = [f"benchmark.name={Benchmark(benchmark).value}"] if benchmark is not None else []
    names = [Method(method).value for method in methods] if methods else None
    return checked(read(Path("params.yaml"), [*overrides, *(settings or [])], names, seeds or None))


def run_name() -> str:
    """The name of this flow run, as `permuted-digits: 15 methods, 3 seeds`, from its parameters."""
    try:
        return comparison.named(chosen(**runtime.flow_run.parameters))[0]
    except UserError:  # the flow run itself fails because of it, and can say why
        return "refused"


@flow(name="compare", flow_run_name=run_name, persist_result=False)
def compare(
    benchmark: Benchmark | None = None,
    methods: list[Method] | None = None,
    seeds: list[int] | None = None,
    settings: list[str] | None = None,
    out: str = "out",
) -> None:
    """Compare methods on a benchmark by the survey's protocol: prepare, train, report.

    Args:
        benchmark: Which tasks, and from which data. Empty: benchmark.name of params.yaml.
        methods: Which methods are compared. Empty: those of params.yaml, each with its knobs there.
        seeds: Every method is run with each of these. Empty: the seeds of params.yaml.
        settings: Any key of params.yaml, as KEY.PATH=VALUE, for instance training.epochs=20.
        out: The output folder, relative to the project's folder. What is finished there is not done again.
    """
    with configured_engine() as engine:
        comparison.compare(chosen(benchmark, methods, seeds, settings), option("out")(out), engine)


@flow(name="nightly", flow_run_name=run_name, persist_result=False)
def nightly(
    benchmark: Benchmark | None = None,
    methods: list[Method] | None = None,
    seeds: list[int] | None = None,
    settings: list[str] | None = None,
    out: str = "out",
) -> None:
    """Learn everything anew and compare with the last good night; fails where something got worse beyond noise.

    Args:
        benchmark: Which tasks, and from which data. Empty: benchmark.name of params.yaml.
        methods: Which methods are compared. Empty: those of params.yaml, each with its knobs there.
        seeds: Every method is run with each of these, and nights are compared seed by seed. Empty: as in params.yaml.
        settings: Any key of params.yaml, as KEY.PATH=VALUE, for instance training.epochs=20.
        out: The output folder. Each night is a folder in its `nights`.
    """
    with configured_engine() as engine:
        nights.nightly(chosen(benchmark, methods, seeds, settings), option("out")(out), engine, datetime.now(UTC))


@flow(name="add-task", flow_run_name=run_name, persist_result=False)
def add_task(
    tasks: int | None = None,
    benchmark: Benchmark | None = None,
    methods: list[Method] | None = None,
    seeds: list[int] | None = None,
    settings: list[str] | None = None,
    out: str = "out",
) -> None:
    """Learn the tasks that have been added: what was learned before is not learned again.

    Args:
        tasks: How many tasks there are now (benchmark.tasks). Empty: all tasks of the benchmark or of its folder.
        benchmark: Which tasks, and from which data. Empty: benchmark.name of params.yaml.
        methods: Which methods learn them. Empty: those of params.yaml, each with its knobs there.
        seeds: With which seeds. Empty: the seeds of params.yaml.
        settings: Any key of params.yaml, as KEY.PATH=VALUE. A setting that differs from before makes a run learn anew.
        out: The output folder with the results so far.
    """
    more = [f"benchmark.tasks={'null' if tasks is None else tasks}"]
    params = chosen(benchmark, methods, seeds, [*(settings or []), *more])
    with configured_engine() as engine:
        comparison.compare(params, option("out")(out), engine)


@flow(name="report", flow_run_name=run_name, persist_result=False)
def report(
    methods: list[Method] | None = None,
    seeds: list[int] | None = None,
    settings: list[str] | None = None,
    out: str = "out",
) -> None:
    """Build the leaderboard and the report page from what has been learned.

    Args:
        methods: Which methods. Empty: those of params.yaml.
        seeds: Which seeds. Empty: those of params.yaml.
        settings: Any key of params.yaml, as KEY.PATH=VALUE.
        out: The output folder with the results.
    """
    with configured_engine() as engine:
        reports.report(chosen(None, methods, seeds, settings), option("out")(out), engine)
