"""The few requests that are made of MLflow, each with a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cl.errors import UserError
from cl.locks import alone
from cl.redact import without_password
from flows.deadline import within
from flows.tracking.database import check_database, create_database, relocate
from flows.tracking.datasets import Dataset
from flows.tracking.notes import experiment_tags
from flows.tracking.run_files import KEY_LENGTH
from flows.tracking.settings import Tracking
from flows.tracking.view import VIEW, curated

TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
"""How long MLflow waits for the next byte."""
# For MLflow; what the user has set stays. No retries: MLflow would repeat a request whose answer was lost, and so make
# a run twice, while the next sync first looks at what is there.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    TIMEOUT: "4",  # seconds
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
UPLOAD_TIMEOUT = "120"
"""The same while models are uploaded."""
REQUEST_SECONDS = 8.0
"""For a whole request; where the user has set `TIMEOUT`, twice that."""
BYTES_PER_SECOND = 50_000
"""A request with files may take longer: so many bytes of them count as a second."""
METRICS, PAIRS = 1000, 100
"""What MLflow takes at most in one request: metrics; parameters or tags."""
TAG_LENGTH = 8000
DEFAULT = "0"
"""Id of the experiment that MLflow makes in a new database. Marked as deleted, it is not made again: MLflow makes it
where there is no experiment at all, deleted ones included."""


class _InTime:
    """MLflow's client, with a deadline of so many seconds for every request; None: without one."""

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
            except Exception as error:  # MLflow does not understand the answer
                nonsense = f"{type(error).__name__}: {error}"
            raise ConnectionError(f"something other than an MLflow server answers ({nonsense})")

        return asked


class Server:
    """The few requests that are made of MLflow. Here a run is an MLflow run, as MLflow returned it."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking
        self._experiment: Any = None
        self.client: Any = None

    def forget(self) -> None:
        """Connect anew at the next contact."""
        self._experiment = None

    def connect(self) -> tuple[str, int]:
        """Id of the experiment and when it was made (milliseconds since the epoch); made where missing."""
        if self._experiment is None:
            embedded = self._tracking.uri is None  # one process at a time, as the database may have to be made
            lock = alone(self._tracking.folder / ".lock", lambda: None) if embedded else contextlib.nullcontext()
            with lock:
                self._experiment = self._open()
        return self._experiment.experiment_id, self._experiment.creation_time

    def _open(self) -> Any:
        for key, value in ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        artifacts, made = None, False
        if self._tracking.uri is None:
            if made := not self._tracking.has_database:
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
            raise ConnectionError("something other than an MLflow server answers")
        if made:  # nobody logs to the experiment that MLflow itself begins with; it comes back with "restore"
            self.client.delete_experiment(DEFAULT)
        if experiment.lifecycle_stage != "active":
            raise UserError(f"experiment {name} was deleted in MLflow: restore it or set tracking.experiment")
        if artifacts is not None and experiment.artifact_location != artifacts:
            relocate(self._tracking.database, experiment.artifact_location, artifacts)
        identity, view = experiment.experiment_id, json.dumps(curated(self._tracking.groups))
        wanted = {
            key: v for key, v in experiment_tags(identity).items() if key not in experiment.tags
        }  # the user's stay
        if experiment.tags.get(f"mlflow.sharedViewState.{VIEW}") != view:
            wanted[f"mlflow.sharedViewState.{VIEW}"] = view
        for key, value in wanted.items():
            self.client.set_experiment_tag(identity, key, value)
        return experiment

    def find(self, mark: str) -> list[Any]:
        """The MLflow runs of a run, nested ones too, by their tag `unit`; deleted ones are not found."""
        experiments = [self._experiment.experiment_id]
        return list(self.client.search_runs(experiments, f"tags.unit LIKE '{mark}%'", max_results=10_000))

    def create(self, name: str, start: int, tags: Mapping[str, str]) -> Any:
        """A new run that began at `start`, in milliseconds since the epoch."""
        if "git.commit" in tags:
            tags = {**tags, "mlflow.source.git.commit": tags["git.commit"]}  # MLflow's column "Version"
        tags = {key[:KEY_LENGTH]: value[:TAG_LENGTH] for key, value in tags.items()}
        return self.client.create_run(self._experiment.experiment_id, start_time=start, tags=tags, run_name=name)

    def learns_from(self, run: Any, data: Dataset) -> None:
        """Note which data a run learns from; noted twice, it is there once."""
        from mlflow.entities import Dataset as Noted
        from mlflow.entities import DatasetInput, InputTag

        noted = Noted(data.name, data.digest, "local", data.source, data.schema, data.profile)
        self.client.log_inputs(run.info.run_id, [DatasetInput(noted, [InputTag("mlflow.data.context", "training")])])

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
            with tempfile.TemporaryDirectory() as folder:  # it goes away whatever becomes of the request
                path = Path(folder, name)
                path.write_text(text, encoding="utf-8")
                self.file(run, path)

    def file(self, run: Any, path: Path, folder: str | None = None) -> None:
        """Store a file under its name, in a folder of the artifacts."""
        self.client.carrying(path.stat().st_size).log_artifact(run.info.run_id, str(path), folder)

    def status(self, run: Any, status: str, end: int) -> None:
        """Set the status of a run; unless it is RUNNING, the run ended at `end`, in milliseconds since the epoch."""
        if status != "RUNNING":
            self.client.set_terminated(run.info.run_id, status, end)
        elif run.info.status != "RUNNING":
            self.client.update_run(run.info.run_id, status)


def _request_seconds() -> float:
    """How long a whole request may take."""
    given = os.environ.get(TIMEOUT)
    return REQUEST_SECONDS if given in (None, ENVIRONMENT[TIMEOUT], UPLOAD_TIMEOUT) else 2 * float(str(given))


@contextlib.contextmanager
def uploading() -> Iterator[None]:
    """Within this block MLflow waits as long as an upload may take. A time that the user has set stays."""
    for key, value in ENVIRONMENT.items():  # MLflow reads some of these when it is imported
        os.environ.setdefault(key, value)
    before = os.environ[TIMEOUT]
    if before == ENVIRONMENT[TIMEOUT]:
        os.environ[TIMEOUT] = UPLOAD_TIMEOUT
    try:
        yield
    finally:
        os.environ[TIMEOUT] = before


def troubles() -> tuple[type[Exception], ...]:
    """The errors that MLflow raises where a server, a network or a database is at fault."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, sqlite3.Error, OSError


def said_of(error: BaseException) -> str:
    """The cause of an error, on one line of reasonable length, without a password that an address may hold."""
    while not isinstance(error, UserError) and (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    text = without_password(" ".join(str(error).split()))[:300]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
