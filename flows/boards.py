"""What Prefect shows of each run while it learns: how far it is, and a table of its tasks and trials, newest first."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cl.children import RunId
from cl.events import Event
from cl.keys import run_folder
from cl.params import Params
from cl.pool import chosen_of
from flows.engine.plain import Engine
from flows.tracking.addresses import run_url, where_to_compare
from flows.tracking.settings import tracking_of

SECONDS_BETWEEN_TRIALS = 5.0
"""Trials are shown no more often than this, and with each task that is learned: many take less than a second."""


class Boards:
    """The progress and the table of each run; without a server it does nothing."""

    def __init__(self, params: Params, out: Path, runs: Sequence[RunId], engine: Engine) -> None:
        self._engine, self._where = engine, tracking_of(params, out)
        self._tracked = params.tracking.enabled
        self._runs = {run_folder(params, run.method, run.seed, out): run for run in runs} if engine.url else {}
        self._rows: dict[RunId, list[dict[str, str]]] = {}
        self._share: dict[RunId, tuple[float, str]] = {}
        self._shown: dict[RunId, float] = {}
        self._here = {run: engine.here() for run in runs}
        self._in_mlflow: dict[RunId, str] = {}
        self._lock = threading.Lock()

    def begin(self, run: RunId) -> None:
        """Note in which task run the run is under way: that of the caller."""
        self._here[run] = self._engine.here()

    def hear(self, run: RunId, event: Event) -> None:
        """Take an event of a run."""
        if self._engine.url is None:
            return
        with self._lock:
            self._note(run, event)
            late = time.monotonic() - self._shown.get(run, 0.0) > SECONDS_BETWEEN_TRIALS
            if late or event["event"] != "trial":
                self._show(run)

    def in_mlflow(self, folder: Path) -> None:
        """Link the task run of the run with this folder to its MLflow run, which is there now."""
        run = self._runs.get(folder)
        if run is not None and run not in self._in_mlflow and (url := run_url(self._where, folder)):
            with self._lock:
                self._in_mlflow[run] = url
                self._show(run)

    def close(self) -> None:
        """Show where MLflow has the runs, beside the flow run."""
        if not self._runs or not self._tracked:
            return
        links = [
            f"- [{run.name}]({url})" for run, url in sorted(self._in_mlflow.items(), key=lambda item: item[0].name)
        ]
        self._engine.page("mlflow", "\n".join([where_to_compare(self._where), "", *links]) + "\n", "the runs in MLflow")

    def _note(self, run: RunId, event: Event) -> None:
        rows = self._rows.setdefault(run, [])
        if event["event"] == "finished before":
            self._share[run] = 1.0, "finished before"
        elif event["event"] == "resumed":
            done, tasks = event["index"] + 1, event["tasks"]
            self._share[run] = done / tasks, f"goes on after task {done}/{tasks}"
        elif event["event"] == "trial":
            row = {"task": f"{event['index'] + 1}/{event['tasks']}", "what": f"{event['phase']} trial"}
            row |= {"with": _point(event["point"]), "validation accuracy": f"{event['accuracy']:.1%}"}
            rows.insert(0, row | {"average accuracy so far": ""})
        elif event["event"] == "task":
            done, tasks, average = event["index"] + 1, event["tasks"], f"{event['average_accuracy']:.1%}"
            row = {"task": f"{done}/{tasks} {event['task']}", "what": "learned"}
            row |= {"with": chosen_of({"learning rate": event["learning_rate"], **event["decayed"]})}
            row |= {"validation accuracy": f"{event['validation_accuracy']:.1%}", "average accuracy so far": average}
            rows.insert(0, row)
            self._share[run] = done / tasks, f"task {done}/{tasks}, {average} so far"

    def _show(self, run: RunId) -> None:
        self._shown[run] = time.monotonic()
        key = f"{run.method}-seed-{run.seed}".replace("_", "-")
        link = f" ([in MLflow]({url}))" if (url := self._in_mlflow.get(run)) else ""
        with self._here[run]():
            if run in self._share:
                share, said = self._share[run]
                self._engine.progress(key, share, f"{run.name}: {said}{link}")
            if rows := self._rows.get(run):
                self._engine.growing(f"{key}-trials", rows, f"{run.name}: its tasks and trials, newest first{link}")


def _point(point: Mapping[str, Any]) -> str:
    return chosen_of({name.replace("_", " "): value for name, value in point.items()})
