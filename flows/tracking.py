"""What MLflow shows of a run: a replica of our own result files, brought up to date by `Tracker.sync`.

The files of a unit (one method with one seed) are the truth. A sync compares them with what was already sent
and sends the rest, so it can be repeated, interrupted or missed at will: a tracking server that is down, slow
or gone costs no training, and what it missed follows at the end of the run or with the next one. A ledger
beside the units, `<out>/.work/tracking.json`, says what was sent where.

In MLflow a unit is one run, `ewc/seed-0`, with a nested run per task, `ewc/seed-0/permutation-03`. Metrics
are stepped by the number of tasks learned, those of the selection by trial. The experiment's page, as it
opens, lists and charts the units with the tasks folded away; `comparison_url` leads to a curated comparison.

This is the only file that imports MLflow, and it does so only when there is something to send.
"""

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import re
import shlex
import sqlite3
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cl import metrics
from cl.errors import UserError
from cl.files import making, sweep, write_whole
from flows.results import OTHERWISE

Json = dict[str, Any]

TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
# For MLflow; whoever set them before knows better. No retries: MLflow would repeat a request whose answer got
# lost and so make a run twice, while the next sync looks first at what is there.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    TIMEOUT: "4",  # seconds
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
SYNC_SECONDS, CLOSE_SECONDS = 5.0, 60.0  # after so long with a slow server the rest is left for later
METRICS, PAIRS = 1000, 100  # what MLflow takes at most in one request: metrics; parameters or tags
KEY_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6000, 8000
FILES = ("result.json", "trials.json", "cost.json")
STATUS = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
MARKER = "average_accuracy"  # stored with the last metrics of a task: where it is, the task was logged
VIEW = "compare"  # name of the curated comparison
SHOWN = "tags.comparison = 'current' and attributes.status != 'FAILED' and attributes.status != 'KILLED'"
PARALLEL = ("seconds", "state_bytes", "average_forgetting", "average_accuracy")  # the last one colours the lines
NIGHTLY = " nightly"  # ends the name of an experiment whose runs are by night
COLUMNS = ("average_accuracy", "average_forgetting", "seconds", "peak_memory_bytes", "state_bytes")


@dataclass(frozen=True)
class Tracking:
    """Where a run is shown: the `tracking` section of params.yaml, and the output folder."""

    out: Path  # holds the units and the ledger in `.work`, the embedded database in `mlflow`
    uri: str | None  # of an MLflow tracking server; None: SQLite in `<out>/mlflow`
    experiment: str
    shared: Path | None = None  # where the embedded database is instead, with the runs of other output folders
    retry_seconds: float = 60.0  # how long a server that failed is left alone

    @property
    def folder(self) -> Path:
        """Where the embedded database and its artifacts are."""
        return (self.shared or self.out / "mlflow").resolve()

    @property
    def database(self) -> Path:
        """The embedded database."""
        return self.folder / "mlflow.db"

    @property
    def groups(self) -> tuple[str, ...]:
        """The tags that runs are shown by."""
        return ("night", "method") if self.experiment.endswith(NIGHTLY) else ("method",)

    @property
    def address(self) -> str:
        """Where MLflow's clients find it."""
        return self.uri or f"sqlite:///{self.database}"

    @property
    def target(self) -> str:
        """Name of the place that is sent to: without passwords, and the same after the project was moved."""
        if self.uri is None:
            return "embedded"
        return without_password(self.uri)


class Tracker:
    """Keeps MLflow up to date with the units of a run; threads may share it.

    `tags` say where the run comes from (git.commit, dvc.data, data.sha256, ...); `params` is params.yaml,
    nested or flattened with dots, and of its `methods` a unit shows its own. Both are written when the unit's
    run is made. Nothing is raised for trouble with MLflow: one line on standard error says what is wrong.
    """

    def __init__(self, tracking: Tracking, tags: Mapping[str, str], params: Mapping[str, object]) -> None:
        self._tracking = tracking
        self._tags = dict(tags)
        self._params = _flatten(params)
        self._ledger = _Ledger(tracking)
        self._server = _Server(tracking)
        self._owned: dict[str, IO[str]] = {}
        self._retry_at = 0.0
        self._warned = False
        self._mutex = threading.Lock()

    def sync(self, unit: Path, *, finished: bool = False, failed: str | None = None) -> bool:
        """Send what MLflow does not have yet of a unit's folder, `<out>/.work/<method>/seed-<s>/<key>`.

        To be called now and then, for instance after each task, and at the end: `finished` ends its run as
        finished, `failed` as failed with that reason as the tag `error`. Returns whether MLflow is up to date,
        also where nothing had to be sent. Where it is not, the rest follows with a later sync, at `close` or
        with the next run.
        """
        name = "/".join(unit.resolve().parts[-3:])
        state = "failed" if failed is not None else "finished" if finished else "running"
        with self._mutex, self._harmless(name):
            entry = self._ledger.units().get(name)
            if entry and entry["current"] and entry["error"] == failed and self._is_sent(entry):
                # Whoever takes up a unit need not know that it was finished long ago.
                same = state == entry["state"] or (state == "running" and entry["state"] == "finished")
                if same:
                    return True
            self._ledger.note(name, unit, state, failed)
            # Not owned: another process is just sending what a killed one left of this unit.
            if self._own(name) and time.monotonic() >= self._retry_at:
                self._send(name, time.monotonic() + SYNC_SECONDS)
                return True
        return False

    def close(self) -> None:
        """Try once more to send all that is pending, of this and of earlier runs, and say what could not be.

        A unit that its process neither finished nor failed ends as killed; its run is continued by whoever
        takes it up again.
        """
        unsent: list[str] = []
        with self._mutex, self._harmless("this run"):
            units = self._ledger.units()
            for name in sorted(units, key=lambda name: name not in self._owned):  # our own ones first
                running = units[name]["state"] == "running"
                if not running and self._is_sent(units[name]):
                    continue
                if self._own(name):  # otherwise its process is alive and sees to it
                    unsent.append(name)
                    if running:
                        self._ledger.update(name, state="killed")
            deadline = time.monotonic() + CLOSE_SECONDS
            while unsent:
                self._send(unsent[0], deadline)
                del unsent[0]
        for lock in self._owned.values():
            lock.close()
        self._owned.clear()
        if unsent:
            some = ", ".join(name.rpartition("/")[0] for name in unsent[:5])
            more = f" and {len(unsent) - 5} more" if len(unsent) > 5 else ""
            _say(f"not sent to MLflow ({self._tracking.target}): {some}{more}; the next run sends it")

    @contextlib.contextmanager
    def _harmless(self, what: str) -> Iterator[None]:
        """Whatever fails with MLflow (network, database, version) must not cost training: say it once."""
        try:
            yield
        except Exception as error:
            self._server.forget()
            self._retry_at = time.monotonic() + self._tracking.retry_seconds
            if not self._warned:
                _say(
                    f"MLflow ({self._tracking.target}) is not up to date with {what}: {_root(error)}; "
                    "training goes on, what is missing is sent later"
                )
            self._warned = True

    def _is_sent(self, entry: Json) -> bool:
        """Whether MLflow has a unit as it is now; not so when the embedded database is gone."""
        if self._tracking.uri is None and not self._tracking.database.exists():
            return False
        return bool(entry["sent"] == [_digest(self._ledger.folder(entry)), entry["state"], entry["current"]])

    def _own(self, name: str) -> bool:
        """Whether this process may speak for the unit. The kernel frees the lock of a process that died."""
        if name not in self._owned:
            lock = _lock_file(self._ledger.locks / name.replace("/", " "))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return False
            self._owned[name] = lock
        return True

    def _send(self, name: str, deadline: float) -> None:
        """Bring a unit's run and its nested runs up to date, in an order in which it may stop anywhere.

        What is there already is asked of the server: a process that was killed noted nothing down.
        """
        server = self._server
        self._ledger.connected(*server.connect())
        entry = self._ledger.units()[name]
        unit = _Unit(name, self._ledger.folder(entry), live=entry["state"] == "running")
        mark = self._ledger.mark(name)
        found = server.find(mark)
        run = next((run for run in found if run.data.tags["unit"] == mark), None)
        if run is None and not unit.files and entry["state"] in ("finished", "killed"):
            self._ledger.drop(name)  # its files are gone, or were never written
            return
        tags = unit.tags | {"comparison": "current" if entry["current"] else "superseded"}
        if entry["error"] is not None:
            tags["error"] = entry["error"]
        logged: set[int] = set()
        if run is None:
            run = server.create(unit.label, unit.start, self._tags | tags | {"unit": mark})
        else:
            logged = server.steps(run, MARKER)
        began = run.info.start_time
        params = unit.params | {key: value for key, value in self._params.items() if unit.wants(key)}
        server.log(run, began, params={k: v for k, v in params.items() if k not in run.data.params})
        parent = {"mlflow.parentRunId": run.info.run_id}
        nested = {r.data.tags["unit"]: r for r in found if r.data.tags.items() >= parent.items()}
        for task in unit.tasks:
            if task.step in logged:
                continue
            if time.monotonic() > deadline and self._tracking.uri is not None:
                raise TimeoutError("the server is slow")
            tags_of_task = unit.tags | parent | {"task": task.name, "unit": f"{mark}/{task.name}"}
            task_run = nested.get(tags_of_task["unit"])
            if task_run is None:
                task_run = server.create(f"{unit.label}/{task.name}", began + task.start, tags_of_task)
            if task_run.info.status != "FINISHED":  # it may have been interrupted
                server.log(task_run, began + task.end, task.facts, task.params)
                server.status(task_run, "FINISHED", began + task.end)
            server.log(run, began + task.end, {task.step: task.progress})
        if entry["sent"] is None or entry["sent"][0] != unit.digest:
            server.artifacts(run, unit.artifacts())
        if entry["error"] is None and "error" in run.data.tags:
            server.client.delete_tag(run.info.run_id, "error")
        server.log(run, began, tags=tags)
        server.status(run, STATUS[entry["state"]], unit.end if unit.files else run.info.end_time or unit.end)
        sent = [unit.digest, entry["state"], entry["current"]]
        self._ledger.update(name, run=run.info.run_id, sent=sent)


def server_command(tracking: Tracking, port: int = 5000) -> list[str]:
    """The command that serves the embedded database on the loopback address, with the fewest processes."""
    words = [here(Path(sys.executable)), "-m", "mlflow", "server", "--workers", "1"]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    words += ["--backend-store-uri", tracking.uri or f"sqlite:///{here(tracking.database)}"]
    if tracking.uri is None:
        words += ["--artifacts-destination", here(tracking.folder / "artifacts")]
    return words


def ui_command(tracking: Tracking) -> str:
    """The shell command that shows the database of `tracking` in a browser; a password is for the reader to put in."""
    environment = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true"
    return f"{environment} {without_password(shlex.join(server_command(tracking)))}"


def ensure(tracking: Tracking) -> None:
    """Make the experiment and its curated comparison, and the embedded database, where they are not there yet."""
    connected(tracking)


def connected(tracking: Tracking) -> tuple[Any, str]:
    """MLflow's client, and the id of the experiment, which is there afterwards. Raises whatever fails."""
    server = _Server(tracking)
    experiment, created = server.connect()
    _Ledger(tracking).connected(experiment, created)
    return server.client, experiment


def run_of(tracking: Tracking, unit: Path) -> str | None:
    """Id of the run of a unit's folder, `<out>/.work/<method>/seed-<s>/<key>`; None where nothing was sent of it."""
    entry = _Ledger(tracking).units().get("/".join(unit.resolve().parts[-3:]))
    return None if entry is None or entry["run"] is None else str(entry["run"])


def comparison_url(base: str, tracking: Tracking) -> str:
    """Address of the curated comparison on the MLflow server at `base`, such as http://127.0.0.1:5000.

    Leads to the list of experiments as long as nothing was sent.
    """
    experiment = _Ledger(tracking).experiment()
    view = f"viewStateShareKey={VIEW}&compareRunsMode=CHART&workflowType=machine_learning"
    return f"{base.rstrip('/')}/#/experiments" + (f"/{experiment}/runs?{view}" if experiment else "")


def record(
    tracking: Tracking, name: str, values: Mapping[str, float], tags: Mapping[str, str], texts: Mapping[str, str]
) -> None:
    """Log a run that is no unit, such as a whole night: once, however often it is tried. Raises whatever fails."""
    server, now = _Server(tracking), int(1000 * time.time())
    server.connect()
    known = [run for run in server.find(name) if run.data.tags["unit"] == name]
    run = known[0] if known else server.create(name, now, {**tags, "unit": name})
    server.log(run, now, {0: values}, tags=tags)
    server.artifacts(run, texts)
    server.status(run, "FINISHED", now)


def run_showing(tracking: Tracking, result: Path) -> str | None:
    """Id of the run that has these very files, `<method>/seed-<s>.json` and the two beside it; None without one."""
    if tracking.uri is None and not tracking.database.exists():
        return None
    digest = _digest(result.parent, (result.name, f"{result.stem}.trials.json", f"{result.stem}.cost.json"))
    entries = _Ledger(tracking).units().values()
    return next((str(entry["run"]) for entry in entries if entry["sent"] and entry["sent"][0] == digest), None)


def tagged(tracking: Tracking, key: str, value: str) -> dict[str, str]:
    """Ids of the experiment's runs with this tag, by name, `<method>/seed-<s>`. Raises whatever fails."""
    client, experiment = connected(tracking)
    return {run.info.run_name: run.info.run_id for run in client.search_runs([experiment], f"tags.`{key}` = '{value}'")}


def tag(tracking: Tracking, tags: Mapping[str, Mapping[str, str]]) -> None:
    """Set tags on runs, by id. A server that is down must not fail what was made: one line says what is missing."""
    try:
        client, _ = connected(tracking)
        from mlflow.entities import RunTag

        for run, pairs in tags.items():
            client.log_batch(run, tags=[RunTag(key, value) for key, value in pairs.items()])
    except Exception as error:
        _say(f"MLflow ({tracking.target}) lacks DVC's hashes: {_root(error)}; `python -m flows.report` sends them")


# What the files say.


@dataclass(frozen=True)
class _Task:
    """What one learned task adds. Times in milliseconds since the unit began."""

    name: str
    step: int  # number of tasks learned with it
    start: int
    end: int
    params: dict[str, str]  # of the nested run
    facts: dict[int, dict[str, float]]  # metrics of the nested run by step: of each trial, and of the task at 0
    progress: dict[str, float]  # metrics of the unit's run, the marker first


class _Unit:
    """A unit as its folder describes it; the folder may be empty or gone where nothing was learned.

    Of a live one only those tasks count that cost.json has, too: it is the last file to be written.
    """

    def __init__(self, name: str, folder: Path, live: bool) -> None:
        method, seed, _ = name.split("/")
        self.label = f"{method}/{seed}"
        self.digest = _digest(folder)
        self.files = [folder / file for file in FILES if (folder / file).exists()]
        self.result, self.trials, self.cost = (_load(folder / file) for file in FILES)
        self.params = {"method": method, "seed": seed.removeprefix("seed-")}
        self.tags = dict(self.params)
        if self.result:
            self.tags["benchmark"] = self.result["benchmark"]
        self.tags |= {f"machine.{key}": str(value) for key, value in self.cost.get("machine", {}).items()}
        written = [file.stat().st_mtime for file in self.files] or [time.time()]
        self.end = int(1000 * max(written))  # milliseconds since the epoch
        self.start = self.end - int(1000 * self.cost.get("seconds", 0))
        self.tasks = self._tasks(live) if self.result else []

    def wants(self, key: str) -> bool:
        """Whether this key of params.yaml concerns the unit: all but the knobs of other methods."""
        return not key.startswith("methods.") or key.startswith(f"methods.{self.params['method']}.")

    def _tasks(self, live: bool) -> list[_Task]:
        matrix, names = self.result["accuracy"], _metric_names(self.result["tasks"])
        rows = [row for row, values in enumerate(matrix) if any(value is not None for value in values)]
        costs = {cost["task"]: cost for cost in self.cost.get("per_task", [])}
        left = [entry["task"] for entry in self.result["per_task"]]
        tasks: list[_Task] = []
        for row, entry in zip(rows, self.result["per_task"], strict=True):
            name = left.pop(0)
            knobs = {f"knob.{key}": value for key, value in entry["knobs"].items()}
            seen = matrix[: row + 1]
            forgetting, learning = metrics.average_forgetting(seen), metrics.learning_accuracy(seen)
            # In this order MLflow shows and offers them.
            progress = {MARKER: metrics.average_accuracy(seen)}
            progress |= _numbers({"average_forgetting": forgetting, "learning_accuracy": learning})
            progress |= _numbers({"average_incremental_accuracy": metrics.average_incremental_accuracy(seen)})
            progress |= {
                f"average_{kind}": metrics.average_accuracy(self.result[kind][: row + 1])
                for kind in OTHERWISE
                if kind in self.result
            }
            facts = {"test_accuracy": progress[MARKER] if learning is None else matrix[row][row]}
            start = end = tasks[-1].end if tasks else 0
            if name not in costs and live:
                break
            if name in costs:
                # The whole cost so far is the total less what came later: it ends at the total of the file.
                later = [costs[task] for task in left if task in costs]
                progress["seconds"] = self.cost["seconds"] - sum(sum(cost["seconds"].values()) for cost in later)
                progress["step_seconds"] = self.cost["step_seconds"] - sum(cost["step_seconds"] for cost in later)
                end = max(start, int(1000 * progress["seconds"]))
                facts["seconds"] = sum(costs[name]["seconds"].values())
                facts |= _numbers(costs[name])
                facts |= {f"phase_seconds/{phase}": value for phase, value in costs[name]["seconds"].items()}
                if not left:  # known of the process as a whole only
                    progress["peak_memory_bytes"] = self.cost["peak_memory_bytes"]
            facts |= _numbers(entry | knobs)
            progress |= _numbers(entry | knobs)
            progress |= {f"accuracy/{key}": a for key, a in zip(names, matrix[row], strict=True) if a is not None}
            params = _flatten({"task": name, "learning_rate": entry["learning_rate"]} | knobs)
            points = self._trials(name)
            points[0] = facts | points.get(0, {})
            tasks.append(_Task(name, row + 1, start, end, params, points, progress))
        return tasks

    def _trials(self, task: str) -> dict[int, dict[str, float]]:
        """What the selection tried for a task, as metrics like `stability.accuracy`, by trial."""
        steps: dict[int, dict[str, float]] = {}
        for trial in self.trials.get("trials", []):
            if trial["task"] == task:
                tried = {key: trial[key] for key in ("accuracy", "threshold", "learning_rate")}
                tried |= {f"knob.{key}": value for key, value in trial["knobs"].items()}
                values = {f"{trial['phase']}.{key}": value for key, value in _numbers(tried).items()}
                steps.setdefault(trial["trial"], {}).update(values)
        return steps

    def artifacts(self) -> dict[str, str]:
        """Texts to keep with the run, by file name: our own files, and what MLflow can show as a table."""
        texts = {file.name: file.read_text("utf-8") for file in self.files}
        if self.result:
            tasks = self.result["tasks"]
            rows = [[task, *row] for task, row in zip(tasks, self.result["accuracy"], strict=True)]
            texts["accuracy.csv"] = _csv([["after learning", *tasks], *rows])
        if trials := self.trials.get("trials"):
            columns = [key for key in trials[0] if key != "knobs"]
            rows = [[*(t[key] for key in columns), json.dumps(t["knobs"], sort_keys=True)] for t in trials]
            texts["trials.csv"] = _csv([[*columns, "knobs"], *rows])
        return texts


# What was sent.


class _Ledger:
    """What was sent of which unit, shared by all processes of an output folder.

    Of each target and experiment: the experiment's id there and when it was made, and by unit `path`,
    `state`, `error`, `current` (nothing newer has the same method and seed), `run` (its id) and `sent` (digest
    of the files, `state` and `current`, as last sent completely).
    """

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking
        self._path = tracking.out / ".work" / "tracking.json"
        self.locks = tracking.out / ".work" / "tracking.locks"

    def units(self) -> dict[str, Json]:
        """Every unit by name, `<method>/seed-<s>/<key>`."""
        return dict(self._section(self._read())["units"])

    def mark(self, name: str) -> str:
        """What finds a unit in MLflow; where others may run the same, it says whose it is."""
        alone = self._tracking.uri is None and self._tracking.shared is None
        return name if alone else f"{self._read()['id']}:{name}"

    def experiment(self) -> str | None:
        """Id of the experiment, None before the first contact."""
        value = self._section(self._read())["experiment"]
        return None if value is None else str(value)

    def folder(self, entry: Json) -> Path:
        """Where the files of a unit are; noted relative to the output folder, which may have been moved."""
        return self._tracking.out.resolve() / str(entry["path"])

    def note(self, name: str, folder: Path, state: str, error: str | None) -> None:
        """Remember what is to be sent. This unit becomes the current one of its method and seed."""
        path, out = folder.resolve(), self._tracking.out.resolve()
        where = str(path.relative_to(out) if path.is_relative_to(out) else path)
        with self._edit() as section:
            entry = section["units"].setdefault(name, {"run": None, "sent": None})
            for other in section["units"]:
                if other.rpartition("/")[0] == name.rpartition("/")[0]:
                    section["units"][other]["current"] = False
            entry |= {"path": where, "state": state, "error": error, "current": True}

    def connected(self, experiment: str, created: int) -> None:
        """Note which experiment is sent to; another one than before has nothing of what was sent."""
        known = self._section(self._read())
        if (known["experiment"], known["created"]) != (experiment, created):
            with self._edit() as section:
                section |= {"experiment": experiment, "created": created}
                for entry in section["units"].values():
                    entry |= {"run": None, "sent": None}

    def update(self, name: str, **changes: object) -> None:
        """Change some fields of a unit."""
        with self._edit() as section:
            section["units"][name] |= changes

    def drop(self, name: str) -> None:
        """Forget a unit."""
        with self._edit() as section:
            del section["units"][name]

    def _section(self, data: Json) -> Json:
        key = f"{self._tracking.target} {self._tracking.experiment}"
        section: Json = data["targets"].setdefault(key, {"experiment": None, "created": None, "units": {}})
        return section

    def _read(self) -> Json:
        return _load(self._path) or {"schema": 1, "id": uuid.uuid4().hex, "targets": {}}

    @contextlib.contextmanager
    def _edit(self) -> Iterator[Json]:
        with _locked(self.locks / "ledger"):
            data = self._read()
            yield self._section(data)
            write_whole(self._path, json.dumps(data, indent=1).encode())


# MLflow.


class _Server:
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
            with _locked(self._tracking.folder / ".lock") if embedded else contextlib.nullcontext():
                self._experiment = self._open()
        return self._experiment.experiment_id, self._experiment.creation_time

    def _open(self) -> Any:
        for key, value in ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        artifacts = None
        if self._tracking.uri is None:
            if not self._tracking.database.exists():
                _create_database(self._tracking.database)
            artifacts = (self._tracking.folder / "artifacts").as_uri()
        self.client = MlflowClient(tracking_uri=self._tracking.address)
        name = self._tracking.experiment
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            try:
                self.client.create_experiment(name, artifact_location=artifacts)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # then another process was faster
                    raise
            experiment = self.client.get_experiment_by_name(name)
        if experiment.lifecycle_stage != "active":
            raise UserError(f"experiment {name} was deleted in MLflow: restore it or set tracking.experiment")
        if artifacts is not None and experiment.artifact_location != artifacts:
            _relocate(self._tracking.database, experiment.artifact_location, artifacts)
        view_key, view = f"mlflow.sharedViewState.{VIEW}", json.dumps(_view(self._tracking.groups))
        if experiment.tags.get(view_key) != view:
            self.client.set_experiment_tag(experiment.experiment_id, view_key, view)
        return experiment

    def find(self, mark: str) -> list[Any]:
        """The runs of a unit, nested ones too, by their tag `unit`; deleted ones are not found."""
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
            self.client.log_text(run.info.run_id, text, name)

    def status(self, run: Any, status: str, end: int) -> None:
        """End a run at `end`, in milliseconds since the epoch, or let it go on."""
        if status != "RUNNING":
            self.client.set_terminated(run.info.run_id, status, end)
        elif run.info.status != "RUNNING":
            self.client.update_run(run.info.run_id, status)


def _create_database(path: Path) -> None:
    """Make the embedded database, whole or not at all.

    A process that meets a database half made dies of it, and so would every later one if it stayed like that.
    """
    from mlflow.store.db import utils

    sweep(path.parent, [path.name], sure=True)  # somebody may have been killed here
    with making(path) as part:  # a folder, as SQLite keeps journals beside the file
        new = part / path.name
        database: Any = utils
        engine = database.create_sqlalchemy_engine(f"sqlite:///{new}")
        database._initialize_tables(engine)
        engine.dispose()
        with contextlib.closing(sqlite3.connect(new)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # stays with the file: readers and a writer at once
        new.replace(path)


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

    The units by these tags, means over seeds: who keeps the most, and what it costs in time and memory.
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


# Small things.


def _say(message: str) -> None:
    print(f"tracking: {message}", file=sys.stderr, flush=True)


def without_password(text: str) -> str:
    """A text without the user names and passwords that addresses in it may hold."""
    return re.sub(r"(?<=//)[^/@\s]*@", "", text)


def _root(error: BaseException) -> str:
    """What an error comes from, on one line of reasonable length, without a password that an address may hold."""
    while not isinstance(error, UserError) and (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    text = without_password(" ".join(str(error).split()))
    return text[:300] if isinstance(error, UserError) else f"{type(error).__name__}: {text[:300]}"


def _digest(folder: Path, files: Sequence[str] = FILES) -> str:
    """Sha256 over the files of a unit."""
    digest = hashlib.sha256()
    for path in (folder / file for file in files):
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.exists() else b"none")
    return digest.hexdigest()


def _load(path: Path) -> Json:
    """A JSON file, empty where there is none."""
    try:
        value: Json = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is damaged: delete it, it will be written anew") from error
    return value


def here(path: Path) -> str:
    """A path as seen from the current folder, where it is inside."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    return {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested settings as MLflow's parameters: `training.epochs` -> `70`."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[_clean(f"{prefix}{key}")] = text[:PARAM_LENGTH]
    return flat


def _clean(key: str, length: int = KEY_LENGTH) -> str:
    """A name that MLflow takes for a parameter or, in part, for a metric."""
    return re.sub(r"[^\w.\- :]", "_", key)[:length].strip(". ") or "_"


def _metric_names(tasks: Sequence[str]) -> list[str]:
    """Names of tasks as parts of a metric's name; unlike ones stay unlike."""
    names = [_clean(task, KEY_LENGTH - 50) for task in tasks]
    return names if len(set(names)) == len(names) else [f"{i:03d} {name}" for i, name in enumerate(names, 1)]


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _lock_file(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", encoding="utf-8")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with _lock_file(path) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
