"""The few requests that are made of MLflow, each with a deadline, and the embedded database."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cl.errors import UserError
from cl.files import making, sweep
from cl.redact import without_password
from flows.deadline import within
from flows.ledger import Tracking, locked
from flows.run_files import KEY_LENGTH

Json = dict[str, Any]

TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
"""Of a socket: what MLflow waits for the next byte."""
# For MLflow; whoever set them before knows better. No retries: MLflow would repeat a request whose answer got
# lost and so make a run twice, while the next sync looks first at what is there.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    TIMEOUT: "4",  # seconds
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
UPLOAD_TIMEOUT = "120"
"""While models are uploaded."""
REQUEST_SECONDS = 8.0
"""For a whole request; where `TIMEOUT` was set by hand, twice that."""
BYTES_PER_SECOND = 50_000
"""Files may take longer: a server that takes so much a second is not given up."""
METRICS, PAIRS = 1000, 100
"""What MLflow takes at most in one request: metrics; parameters or tags."""
TAG_LENGTH = 8000
VIEW = "compare"
"""Name of the curated comparison."""
SHOWN = "tags.comparison = 'current' and attributes.status != 'FAILED' and attributes.status != 'KILLED'"
PARALLEL = ("seconds", "state_bytes", "average_forgetting", "average_accuracy")  # the last one colours the lines
COLUMNS = ("average_accuracy", "average_forgetting", "seconds", "peak_memory_bytes", "state_bytes")


class _InTime:
    """MLflow's client, every request of which comes to its end in so many seconds; None: in its own time."""

    def __init__(self, client: Any, seconds: float | None) -> None:
        self._client, self._seconds = client, seconds

    def carrying(self, size: int) -> _InTime:
        """The same with time for so many bytes."""
        return _InTime(self._client, self._seconds and self._seconds + size / BYTES_PER_SECOND)

    def __getattr__(self, name: str) -> Any:
        request, seconds = getattr(self._client, name), self._seconds
        if seconds is None:
            return request

        def asked(*arguments: Any, **named: Any) -> Any:
            nonsense = ""
            known = troubles()
            try:
                return within(seconds, lambda: request(*arguments, **named))
            except known:
                raise
            except Exception as error:  # MLflow cannot make anything of what it was answered
                nonsense = f"{type(error).__name__}: {error}"
            raise ConnectionError(f"what answers is no MLflow server ({nonsense})")

        return asked


class Server:
    """The few requests that are made of MLflow. A run is one as MLflow returned it."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking
        self._experiment: Any = None
        self.client: Any = None

    def forget(self) -> None:
        """Look at everything anew at the next contact."""
        self._experiment = None

    def connect(self) -> tuple[str, int]:
        """Id of the experiment and when it was made (milliseconds since the epoch); made where missing."""
        if self._experiment is None:
            embedded = self._tracking.uri is None  # one process at a time, as the database may have to be made
            with locked(self._tracking.folder / ".lock") if embedded else contextlib.nullcontext():
                self._experiment = self._open()
        return self._experiment.experiment_id, self._experiment.creation_time

    def _open(self) -> Any:
        for key, value in ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        artifacts = None
        if self._tracking.uri is None:
            if not self._tracking.has_database:
                create_database(self._tracking.database)
            check_database(self._tracking.database)
            artifacts = (self._tracking.folder / "artifacts").as_uri()
        seconds = None if self._tracking.uri is None else _request_seconds()
        self.client = _InTime(MlflowClient(tracking_uri=self._tracking.address), seconds)
        name = self._tracking.experiment
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            try:
                self.client.create_experiment(name, artifact_location=artifacts)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # then another process was faster
                    raise
            experiment = self.client.get_experiment_by_name(name)
        if experiment is None or experiment.name != name:
            raise ConnectionError("what answers is no MLflow server")
        if experiment.lifecycle_stage != "active":
            raise UserError(f"experiment {name} was deleted in MLflow: restore it or set tracking.experiment")
        if artifacts is not None and experiment.artifact_location != artifacts:
            _relocate(self._tracking.database, experiment.artifact_location, artifacts)
        view_key, view = f"mlflow.sharedViewState.{VIEW}", json.dumps(_view(self._tracking.groups))
        if experiment.tags.get(view_key) != view:
            self.client.set_experiment_tag(experiment.experiment_id, view_key, view)
        return experiment

    def find(self, mark: str) -> list[Any]:
        """The runs of a run, nested ones too, by their tag `run`; deleted ones are not found."""
        experiments = [self._experiment.experiment_id]
        return list(self.client.search_runs(experiments, f"tags.unit LIKE '{mark}%'", max_results=10_000))

    def create(self, name: str, start: int, tags: Mapping[str, str]) -> Any:
        """A new run that began at `start`, in milliseconds since the epoch."""
        if "git.commit" in tags:
            tags = {**tags, "mlflow.source.git.commit": tags["git.commit"]}  # MLflow's column "Version"
        tags = {key[:KEY_LENGTH]: value[:TAG_LENGTH] for key, value in tags.items()}
        return self.client.create_run(self._experiment.experiment_id, start_time=start, tags=tags, run_name=name)

    def steps(self, run: Any, metric: str) -> set[int]:
        """The steps at which a metric was logged."""
        return {point.step for point in self.client.get_metric_history(run.info.run_id, metric)}

    def log(
        self,
        run: Any,
        when: int,
        points: Mapping[int, Mapping[str, float]] | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log metrics by step, parameters and tags; the metrics of one request are stored all or none."""
        from mlflow.entities import Metric, Param, RunTag

        steps = (points or {}).items()
        numbers = [Metric(key, value, when, step) for step, values in steps for key, value in values.items()]
        pairs = [Param(key, value) for key, value in (params or {}).items()]
        labels = [RunTag(key, value[:TAG_LENGTH]) for key, value in (tags or {}).items()]
        if len(numbers) <= METRICS and max(len(pairs), len(labels)) <= PAIRS:
            self.client.log_batch(run.info.run_id, metrics=numbers, params=pairs, tags=labels)
            return
        kinds: list[tuple[str, Sequence[object], int]]
        kinds = [("params", pairs, PAIRS), ("tags", labels, PAIRS), ("metrics", numbers, METRICS)]
        for kind, items, size in kinds:
            for i in reversed(range(0, len(items), size)):  # the first ones last: the marker is among them
                self.client.log_batch(run.info.run_id, **{kind: items[i : i + size]})

    def artifacts(self, run: Any, texts: Mapping[str, str]) -> None:
        """Store texts under their file names."""
        for name, text in texts.items():
            with tempfile.TemporaryDirectory() as folder:  # ours, so that it goes away whatever becomes of the request
                path = Path(folder, name)
                path.write_text(text, encoding="utf-8")
                self.client.carrying(path.stat().st_size).log_artifact(run.info.run_id, str(path))

    def status(self, run: Any, status: str, end: int) -> None:
        """End a run at `end`, in milliseconds since the epoch, or let it go on."""
        if status != "RUNNING":
            self.client.set_terminated(run.info.run_id, status, end)
        elif run.info.status != "RUNNING":
            self.client.update_run(run.info.run_id, status)


def create_database(path: Path) -> None:
    """Make the embedded database, whole or not at all.

    A process that meets a database half made dies of it, and so would every later one if it stayed like that.
    """
    from mlflow.store.db import utils

    sweep(path.parent, [path.name], sure=True)  # somebody may have been killed here
    for journal in ("-wal", "-shm", "-journal"):  # of a database that was moved away: SQLite would take them for ours
        if (left := path.with_name(path.name + journal)).exists():
            left.rename(left.with_name(f"{left.name}.left"))
    with making(path) as part:  # a folder, as SQLite keeps journals beside the file
        new = part / path.name
        database: Any = utils
        engine = database.create_sqlalchemy_engine(f"sqlite:///{new}")
        database._initialize_tables(engine)
        engine.dispose()
        with contextlib.closing(sqlite3.connect(new)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # stays with the file: readers and a writer at once
        new.replace(path)


def check_database(path: Path) -> None:
    """Raises `UserError` where the embedded database is damaged: MLflow itself would say so in pages of tracebacks."""
    try:
        with path.open("rb") as file:
            head = file.read(32)
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
            pages, page = int.from_bytes(head[28:32]), int.from_bytes(head[16:18])
            if pages * max(page, 2) > path.stat().st_size and not path.with_name(f"{path.name}-wal").exists():
                raise sqlite3.DatabaseError("it is cut short")
            for question in _MUST_ANSWER:
                connection.execute(question)
            if path.stat().st_size < CHECKED_BYTES:
                ((found,), *_) = connection.execute("PRAGMA quick_check(1)").fetchall()
                if found != "ok":
                    raise sqlite3.DatabaseError(" ".join(found.split()))
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
            raise  # it is locked, or the disk is full
        raise UserError(
            f"{path} is damaged ({error}); move it away, then it is made anew and filled from what is here"
        ) from None


_MUST_ANSWER = (
    "SELECT experiment_id, name FROM experiments LIMIT 1",
    "SELECT run_uuid, experiment_id FROM runs LIMIT 1",
    "SELECT version_num FROM alembic_version",
)
CHECKED_BYTES = 2**27
"""A larger database is not read through."""


def _relocate(database: Path, old: str, new: str) -> None:
    """Correct the addresses of artifacts, which are absolute, after the project was moved or copied."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        columns = {
            "experiments": "artifact_location",
            "runs": "artifact_uri",
            "logged_models": "artifact_location",
            "model_versions": "storage_location",
        }
        for table, column in columns.items():
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                (new, len(old) + 1, len(old), old),
            )


def _view(groups: Sequence[str]) -> Json:
    """The curated comparison, as MLflow 3.17 stores what its button "share view" shares.

    The runs by these tags, means over seeds: who keeps the most, and what it costs in time and memory.
    """

    def chart(kind: str, section: str, **settings: object) -> Json:
        name = f"{kind} {settings.get('metricKey', section)}"
        common = {"uuid": name, "metricSectionId": section, "deleted": False, "isGenerated": False}
        return {"type": kind, "runsCountToCompare": 100, **common, **settings}

    def axis(metric: str) -> Json:
        return {"key": metric, "type": "METRIC"}

    which, cost = "Which method", "At what cost"
    return {
        "searchFilter": SHOWN,
        "orderByKey": "metrics.`average_accuracy`",
        "orderByAsc": False,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": tag} for tag in groups],
        },
        "useGroupedValuesInCharts": True,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": [f"metrics.`{metric}`" for metric in COLUMNS],
        "isAccordionReordered": True,
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": True} for name in (which, cost)
        ],
        "compareRunCharts": [
            chart("LINE", which, metricKey="average_accuracy", selectedMetricKeys=["average_accuracy"]),
            chart("BAR", which, metricKey="average_accuracy"),
            chart("BAR", which, metricKey="average_forgetting"),
            chart("PARALLEL", which, selectedParams=[], selectedMetrics=list(PARALLEL), showAllRuns=False),
            chart("SCATTER", cost, xaxis=axis("seconds"), yaxis=axis("average_accuracy")),
            chart("BAR", cost, metricKey="seconds"),
            chart("BAR", cost, metricKey="state_bytes"),
        ],
    }


def _request_seconds() -> float:
    """How long a whole request may take."""
    given = os.environ.get(TIMEOUT)
    return REQUEST_SECONDS if given in (None, ENVIRONMENT[TIMEOUT], UPLOAD_TIMEOUT) else 2 * float(str(given))


def troubles() -> tuple[type[Exception], ...]:
    """What MLflow raises where a server, a network or a database is at fault."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, sqlite3.Error, OSError


def said_of(error: BaseException) -> str:
    """What an error comes from, on one line of reasonable length, without a password that an address may hold."""
    while not isinstance(error, UserError) and (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    text = without_password(" ".join(str(error).split()))[:300]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
