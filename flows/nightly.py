"""The nightly run: learn everything anew, compare with the last good night, and say in the morning what got worse.

    python -m flows.nightly [--params FILE] [--set KEY=VALUE] [--methods A,B] [--seeds 0,1] [--out DIR]

A night is a folder of its own, `<out>/nights/<time>/`, with results and report as of any run, and `night.json` and
`morning.html` besides; `<out>/nights/latest.html` is the last one's page. MLflow has it in the experiment `<benchmark>
nightly`. Ends with status 1 where something got worse beyond noise (`flows.verdict`), which fails the run in Prefect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from cl import cli
from cl.data.prepare import in_the_way, is_prepared, remove_prepared
from cl.errors import UserError
from cl.files import read_object, remove, sweep, write_json, write_whole
from cl.locks import alone
from cl.metrics import average_accuracy, average_forgetting
from cl.params import Params
from cl.reading import Run, read_runs
from flows import provenance, tracking
from flows.champion import crown
from flows.compare import named, stages
from flows.deadline import finish
from flows.engine import Plain, engine
from flows.follower import tracking_of
from flows.templates import template
from flows.train import RunsFailed
from flows.verdict import Verdict, compare_nights, peak_memory, seconds_per_step

KEPT_WHOLE = 3
"""Nights whose checkpoints are kept; of older ones the results are."""
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d")
"""The name of a night."""
RUN = r"[a-z_]+/seed-\d+"
FILE = r"(manifest|record|state)\.json|(net|state)\.safetensors"
WORK = rf"(run|finished|result|trials|cost(-\d+)?)\.json|lock|(stderr|studies)\.log|(task|candidate)-[\d-]+/({FILE})"
THINNED = {
    "checkpoints": re.compile(rf"{RUN}/task-\d+/({FILE})"),
    ".work": re.compile(rf"tracking\.json|tracking\.locks/[^/]+|{RUN}/[0-9a-f]{{16}}/({WORK})"),
}
"""What is taken from an older night, by the names that we give."""
SHOWN = 30
"""Nights in the course on the morning's page."""


class Regression(UserError):
    """Something got worse beyond noise."""


@dataclass(frozen=True)
class Night:
    """A night that has ended, as its `night.json` says."""

    folder: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """Its time."""
        return self.folder.name


class _Tasks(BaseModel):
    model_config = ConfigDict(strict=True)
    benchmark: str
    tasks: list[str]
    reduced: dict[str, int] = {}
    setting: str = ""


class _Record(BaseModel):
    """What a night reads of earlier ones."""

    model_config = ConfigDict(strict=True)
    good: bool
    sequence: _Tasks
    versions: dict[str, Any] = Field(alias="from")
    params: dict[str, Any]
    methods: dict[str, dict[str, FiniteFloat]]


def folders(home: Path) -> list[Path]:
    """The nights' folders, the oldest first; a folder of another name is somebody's own."""
    return sorted(path for path in home.glob("nights/*") if TIME.fullmatch(path.name) and path.is_dir())


def nights(home: Path, say: Callable[[str], None] = print) -> list[Night]:
    """All nights that have ended, the oldest first; `say` is told of those whose `night.json` is damaged."""
    found = []
    for path in (folder / "night.json" for folder in folders(home)):
        if not path.exists():
            continue
        record = read_object(path)
        try:
            _Record.model_validate(record)
            found.append(Night(path.parent, record))
        except ValidationError:
            say(f"{path}: damaged; this night is left out")
    return found


def last_good(
    course: Sequence[Night], sequence: Mapping[str, Any], params: Params, say: Callable[[str], None] = print
) -> tuple[Night, list[Run]] | None:
    """The latest night without failure or regression on this very sequence of tasks, with what can be read of it.

    A night whose results are damaged, or none of these methods and seeds, is passed over, and `say` is told.
    """
    for night in reversed(course):
        if night.record["good"] and _sequence(night.record) == sequence:
            try:
                return night, read_runs(night.folder, params.methods, params.seeds)
            except UserError as error:
                say(f"night {night.name}: nothing to compare with: {error}")
    return None


def _sequence(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"reduced": {}, "setting": "", **record["sequence"]}  # the first nights did not say so


def nightly(params: Params, home: Path, prefect: Plain, now: datetime) -> Verdict:
    """Run a night and judge it. Raises `Regression`, and `RunsFailed`, after the page is written."""
    out = home / "nights" / now.strftime("%Y-%m-%dT%H-%M-%S")
    with _alone(home):
        prepared = [
            f / "prepared" for f in folders(home) if is_prepared(f / "prepared") and not in_the_way(f / "prepared")
        ]
        out.mkdir(parents=True)
        if prepared:  # of the same data, or it is made anew
            prepared[-1].rename(out / "prepared")
        params = _told(params, home)
        failure: RunsFailed | None = None
        try:
            stages(params, out, prefect, {"night": out.name})
        except RunsFailed as error:
            failure = error
        verdict = _judge(params, home, out, failure, prefect)
        _thin(home)
    if failure is not None:
        raise failure
    if verdict.worse:
        raise Regression(verdict.headline)
    if params.champion.register_best:
        prefect.retried("register the champion", lambda: crown(params, out, prefect))
    return verdict


def _told(params: Params, home: Path) -> Params:
    """Where the night is tracked: all nights together, in an experiment of their own."""
    given = params.tracking
    changed = {
        "experiment": f"{given.experiment or params.title}{tracking.NIGHTLY}",
        "folder": given.folder or str(home / "mlflow"),
    }
    return params.model_copy(update={"tracking": given.model_copy(update=changed)})


def _judge(params: Params, home: Path, out: Path, failure: RunsFailed | None, prefect: Plain) -> Verdict:
    runs = read_runs(out) if any(out.glob("results/*/seed-*.json")) else []
    sequence: dict[str, Any] = {"benchmark": params.benchmark.name, "tasks": [], "reduced": {}, "setting": ""}
    if runs:
        sequence |= {"tasks": list(runs[0].tasks), "reduced": runs[0].reduced, "setting": runs[0].setting}
    course = nights(home, prefect.say)
    before, old = last_good(course, sequence, params, prefect.say) or (None, [])
    verdict = compare_nights(runs, old, failure.failures if failure else {})
    record: dict[str, Any] = {
        "schema": 1,
        "night": out.name,
        "good": verdict.good and bool(runs),
        "headline": verdict.headline,
        "compared_with": before.name if before else None,
        "sequence": sequence,
        "from": provenance.tags(out),
        "params": params.model_dump(mode="json", exclude={"tracking", "champion", "execution"}),
        "failures": verdict.failures,
        "changes": [{**vars(change), "said": change.said} for change in verdict.changes],
        "methods": {method: _means(runs, method) for method in sorted({run.method for run in runs})},
    }
    write_json(out / "night.json", record)
    page = morning(record, [*course, Night(out, record)], before)
    write_whole(out / "morning.html", page.encode())
    latest = page.replace('href="report/', f'href="{out.name}/report/')
    write_whole(home / "nights" / "latest.html", latest.encode())
    text = in_short(record)
    prefect.page("morning", text, verdict.headline[:200])
    prefect.say(f"night {out.name}: {verdict.headline}")
    prefect.say(f"the morning's page: {out / 'morning.html'}")
    if params.tracking.enabled:
        means = record["methods"].items()
        values = {f"{name}/{method}": value for method, found in means for name, value in found.items()}
        tags = {"headline": verdict.headline, "good": str(record["good"]).lower(), **record["from"]}
        texts = {"morning.html": page, "morning.md": text}
        where = tracking_of(params, out)
        try:
            prefect.retried("track the night", lambda: tracking.record(where, f"night {out.name}", values, tags, texts))
        except UserError as error:  # the verdict stands all the same
            prefect.say(f"warning: the night is not in MLflow: {error}")
    return verdict


def _means(runs: Sequence[Run], method: str) -> dict[str, float]:
    own = [run for run in runs if run.method == method]
    measures: dict[str, list[float | None]] = {
        "accuracy": [average_accuracy(run.accuracy) for run in own],
        "forgetting": [average_forgetting(run.accuracy) for run in own],
        "seconds_per_step": [seconds_per_step(run) for run in own],
        "peak_memory_bytes": [peak_memory(run) for run in own],
    }
    known = {name: [value for value in values if value is not None] for name, values in measures.items()}
    return {name: sum(values) / len(values) for name, values in known.items() if values}


def differences(record: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, tuple[Any, Any]]:
    """What went in otherwise than on the night it is compared with: by name, (then, now)."""
    if before is None:
        return {}
    then, now = ({**_flat(r["from"], "from."), **_flat(r["params"], "")} for r in (before, record))
    return {key: (then.get(key), now.get(key)) for key in sorted({*then, *now}) if then.get(key) != now.get(key)}


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def in_short(record: Mapping[str, Any]) -> str:
    """The morning in Markdown: the headline, and what changed."""
    lines = [f"# {record['night']}", "", record["headline"], ""]
    told = [change for change in record["changes"] if change["kind"] not in ("same", "noise")]
    if told:
        lines += ["| method | measure | change |", "| --- | --- | --- |"]
        lines += [f"| {c['method']} | {c['measure']} | {c['kind']}: {c['said']} |" for c in told]
    lines += [f"- {run} failed: {why}" for run, why in record["failures"].items()]
    return "\n".join(lines) + "\n"


def morning(record: Mapping[str, Any], course: Sequence[Night], before: Night | None) -> str:
    """The morning's page: one HTML document that needs nothing beside it."""
    shown = [night.record for night in course if _sequence(night.record) == _sequence(record)][-SHOWN:]
    methods = sorted(record["methods"], key=lambda name: -record["methods"][name]["accuracy"])
    found: str = template("morning.html").render(
        record=record,
        methods=methods,
        changes={(change["method"], change["measure"]): change for change in record["changes"]},
        measures=("accuracy", "forgetting", "time per step", "memory"),
        lines={name: line([r["methods"].get(name, {}).get("accuracy") for r in shown]) for name in methods},
        nights=len(shown),
        differences=differences(record, before.record if before else None),
    )
    return found


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


def _thin(home: Path) -> None:
    """Of older nights keep what is compared, not the models; and whatever somebody has put there."""
    for folder in folders(home)[:-KEPT_WHOLE]:
        remove_prepared(folder / "prepared")
        for name, found in THINNED.items():
            remove(folder / name, found.fullmatch)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Two nights at once would only slow each other down, and spoil the times of both."""
    folder = home / "nights"

    def busy() -> None:
        raise UserError(f"{folder}: another night is running; this one is not begun")

    with alone(folder / ".lock", busy):
        sweep(folder)
        yield


def main() -> int:
    """Run a night: everything anew, compared with the last good night."""
    given = cli.parser("flows.nightly", main.__doc__).parse_args()
    params = cli.params_of(given)
    prefect = engine()
    name, tags = named(params)
    now = datetime.now(UTC)
    prefect.flow("nightly", name, [*tags, "nightly"], lambda: nightly(params, given.out, prefect, now))
    return 0


if __name__ == "__main__":
    finish(cli.guarded(main))
