"""The flows that a Prefect server can start: prefect.yaml deploys them. A flow's parameters are the fields of its form.

The fields are filled in from params.yaml as it was when the flows were deployed (`make serve` does that); `settings`
sets any other key of that file.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, runtime
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from cl.errors import Stopped, UserError
from cl.machine import processors
from cl.names import names_in
from cl.params import Params, read
from cl.paths import option
from cl.register import checked
from flows import compare as comparison
from flows import nightly as nights
from flows.engine.plain import Engine
from flows.engine.with_prefect import configured_engine
from flows.naming import named
from flows.report import build as reports
from flows.servers import shown_folder
from flows.tracking.settings import share

FILE = Path("params.yaml")
ALL = "all"


def _choices(name: str, values: list[str]) -> Any:
    members: Any = {value: value for value in values}
    return Enum(name, members, type=str)


Method: Any = _choices("Method", [ALL, *names_in("methods")])
Benchmark: Any = _choices("Benchmark", [stem.replace("_", "-") for stem in names_in("data/benchmarks")])

usual = read(FILE)
"""What the form is filled in with."""
BENCHMARK = Benchmark(usual.benchmark.name)
TASKS = ALL if usual.benchmark.tasks is None else str(usual.benchmark.tasks)
METHODS = [Method(name) for name in usual.methods]
SETTINGS: list[str] = []
WORKERS = usual.execution.workers or processors()
Number = Annotated[int, Field(ge=1)]
Tasks = Annotated[str, Field(pattern=rf"^({ALL}|[1-9][0-9]*)$")] | Number
"""The form sends text, and `prefect deployment run --param tasks=3` a number."""


def chosen(
    benchmark: Any = None,
    tasks: str | int | None = None,
    methods: Any = None,
    epochs: int | None = None,
    workers: int | None = None,
    seeds: list[int] | None = None,
    settings: list[str] | None = None,
    **others: Any,
) -> Params:
    """params.yaml, changed by what the form gives; raises `UserError` for values that cannot be."""
    del others
    overrides = [f"benchmark.name={Benchmark(benchmark).value}"] if benchmark is not None else []
    overrides += [f"benchmark.tasks={'null' if tasks == ALL else tasks}"] if tasks is not None else []
    overrides += [f"training.epochs={epochs}"] if epochs is not None else []
    overrides += [f"execution.workers={workers}"] if workers is not None else []
    names = [Method(method).value for method in methods] if methods else None
    if names and ALL in names:
        names, overrides = names_in("methods"), ["scenario.unsupported=leave-out", *overrides]
    return checked(read(FILE, [*overrides, *(settings or [])], names, seeds or None))


def run_name() -> str:
    """The name of this flow run, as `permuted-digits: 17 methods; 3 seeds`, from its parameters."""
    given = runtime.flow_run.parameters
    try:
        name = named(chosen(**given), read(FILE), option("out")(given["out"]))[0]
    except UserError:  # the flow run itself fails because of it, and can say why
        return "refused"
    if runtime.flow_run.flow_name == "nightly":
        return f"{nights.night_of(runtime.flow_run.scheduled_start_time or datetime.now(UTC))}: {name}"
    return name


def _run(body: Callable[[Params, Path, Engine], str], given: dict[str, Any], *tags: str) -> Any:
    """Run a stage or all of them, as the form says; what came of it is the message of the flow run's last state.

    Where `make serve` shows MLflow's database of another output folder, the runs go there too. An error that the user
    can mend is a state with its sentence; of an exception Prefect would print a traceback more, and another message.
    """
    try:
        params, folder = chosen(**given), option("out")(given["out"])
        if (shown := shown_folder()) is not None:
            share(folder, shown)
        with configured_engine() as engine:
            engine.tag([*named(params, read(FILE), folder)[1], *tags])
            return Completed(message=body(params, folder, engine))
    except Stopped as end:
        return Cancelled(message=str(end))
    except UserError as error:
        return Failed(message=str(error))


@flow(name="compare", flow_run_name=run_name, persist_result=False)
def compare(
    benchmark: Benchmark = BENCHMARK,
    tasks: Tasks = TASKS,
    methods: list[Method] = METHODS,
    epochs: Number = usual.training.epochs,
    seeds: list[int] = usual.seeds,
    workers: Number = WORKERS,
    settings: list[str] = SETTINGS,
    out: str = "out",
) -> Any:
    """Compare methods on a benchmark by the survey's protocol: prepare, train, report.

    Args:
        benchmark: Which tasks, and from which data.
        tasks: How many of its tasks: a number, or all.
        methods: Which methods are compared, each with its knobs in params.yaml; all: all that the scenario allows.
        epochs: At most so many on each task.
        seeds: Every method is run with each of these.
        workers: So many runs at once. This changes no number.
        settings: Any other key of params.yaml, as KEY.PATH=VALUE, for instance scenario.name=class.
        out: The output folder, relative to the project's folder. What is finished there is not done again.
    """
    return _run(comparison.compare, locals())


@flow(name="nightly", flow_run_name=run_name, persist_result=False)
def nightly(
    benchmark: Benchmark = BENCHMARK,
    tasks: Tasks = TASKS,
    methods: list[Method] = METHODS,
    epochs: Number = usual.training.epochs,
    seeds: list[int] = usual.seeds,
    workers: Number = WORKERS,
    settings: list[str] = SETTINGS,
    out: str = "out",
) -> Any:
    """Learn everything anew and compare with the last good night; fails where something got worse beyond noise.

    Args:
        benchmark: Which tasks, and from which data.
        tasks: How many of its tasks: a number, or all.
        methods: Which methods are compared, each with its knobs in params.yaml; all: all that the scenario allows.
        epochs: At most so many on each task.
        seeds: Every method is run with each of these, and nights are compared seed by seed.
        workers: So many runs at once. This changes no number.
        settings: Any other key of params.yaml, as KEY.PATH=VALUE, for instance scenario.name=class.
        out: The output folder. Each night is a folder in its `nights`.
    """

    def night(params: Params, home: Path, engine: Engine) -> str:
        return nights.nightly(params, home, engine, datetime.now(UTC)).headline

    return _run(night, locals(), "nightly")


@flow(name="add-task", flow_run_name=run_name, persist_result=False)
def add_task(
    tasks: Tasks = ALL,
    benchmark: Benchmark = BENCHMARK,
    methods: list[Method] = METHODS,
    epochs: Number = usual.training.epochs,
    seeds: list[int] = usual.seeds,
    workers: Number = WORKERS,
    settings: list[str] = SETTINGS,
    out: str = "out",
) -> Any:
    """Learn the tasks that have been added: what was learned before is not learned again.

    Args:
        tasks: How many tasks there are now: a number, or all tasks of the benchmark or of its folder.
        benchmark: Which tasks, and from which data.
        methods: Which methods learn them, each with its knobs in params.yaml; all: every one that the scenario allows.
        epochs: At most so many on each task. Another number than before makes a run learn anew.
        seeds: With which seeds.
        workers: So many runs at once. This changes no number.
        settings: Any other key of params.yaml, as KEY.PATH=VALUE. One that differs from before makes a run learn anew.
        out: The output folder with the results so far.
    """
    return _run(comparison.compare, locals())


@flow(name="report", flow_run_name=run_name, persist_result=False)
def report(
    methods: list[Method] = METHODS,
    seeds: list[int] = usual.seeds,
    settings: list[str] = SETTINGS,
    out: str = "out",
) -> Any:
    """Build the leaderboard and the report page from what has been learned.

    Args:
        methods: Which methods; all: every one that the scenario allows.
        seeds: Which seeds.
        settings: Any key of params.yaml, as KEY.PATH=VALUE.
        out: The output folder with the results.
    """

    def page(params: Params, folder: Path, engine: Engine) -> str:
        return comparison.tell(params, folder, engine, reports.report(params, folder, engine))

    return _run(page, locals())
