"""Keeps MLflow up to date with the runs: sends what it does not have yet of their files."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from cl.locks import take
from flows.tracking.datasets import WHOLE, Datasets
from flows.tracking.ledger import STATES, Json, Ledger
from flows.tracking.notes import PREFECT, noted
from flows.tracking.run_files import MARKER, RunFiles, digest_of, flatten
from flows.tracking.server import Server, said_of
from flows.tracking.settings import Tracking

SYNC_SECONDS, CLOSE_SECONDS = 5.0, 60.0
"""How long a slow server is sent to at most, in a sync and at the end; the rest follows later."""
LONGEST_WAIT_SECONDS = 900.0
"""The longest wait before a server that fails again and again is asked again."""
COSTLY_SECONDS = 2.0
"""A server that took so long to fail is not asked again at the end of the run."""
STATUS = {state: state.upper() for state in STATES}
"""What MLflow calls the states."""


class Tracker:
    """Keeps MLflow up to date with the runs of an output folder; threads may share it.

    `tags` say where the runs come from (git.commit, dvc.data, data.sha256, ...); `params` is params.yaml, nested or
    flattened with dots, and of its `methods` a run shows its own. Both are written when the MLflow run of a run is
    made. `datasets` are the data that runs learn from; `flow_run` is the address of the flow run in Prefect, asked for
    at each sync, as it may become known late. Nothing is raised for trouble with MLflow: one line on standard error
    says what is wrong.
    """

    def __init__(
        self,
        tracking: Tracking,
        tags: Mapping[str, str],
        params: Mapping[str, object],
        datasets: Datasets = lambda seed: {},
        flow_run: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._tracking = tracking
        self._tags = dict(tags)
        self._params = flatten(params)
        self._datasets, self._flow_run = datasets, flow_run
        self._source = {key: value for key, value in self._tags.items() if key.startswith("mlflow.")}
        self._ledger = Ledger(tracking)
        self._server = Server(tracking)
        self._owned: dict[str, BinaryIO] = {}
        self._failures, self._retry_at = 0, 0.0
        self._costly = self._warned = False
        self._mutex = threading.Lock()

    def sync(self, run: Path, *, finished: bool = False, failed: str | None = None) -> bool:
        """Send what MLflow does not have yet of a run's folder, `<out>/.work/<method>/seed-<s>/<key>`.

        To be called now and then, for instance after each task, and at the end: `finished` ends its MLflow run as
        finished, `failed` as failed with that reason as the tag `error`. Returns whether MLflow is up to date, also
        where nothing had to be sent. Where it is not, the rest follows with a later sync, at `close` or the next time.
        """
        name = "/".join(run.resolve().parts[-3:])
        state = "failed" if failed is not None else "finished" if finished else "running"
        with self._mutex, self._harmless(name):
            entry = self._ledger.runs().get(name)
            if entry and entry["current"] and entry["error"] == failed and self._is_sent(entry):
                # A caller that takes up a run need not know that it was finished long ago.
                same = state == entry["state"] or (state == "running" and entry["state"] == "finished")
                if same:
                    return True
            self._ledger.note(name, run, state, failed)
            # Where the run is not ours, another process is sending what a killed one left of it.
            if self._own(name) and time.monotonic() >= self._retry_at:
                self._send(name, time.monotonic() + SYNC_SECONDS)
                self._failures, self._costly = 0, False
                return True
        return False

    def close(self) -> None:
        """Try once more to send all that is pending, also of earlier processes, and say what could not be.

        A run that its process neither finished nor failed ends as killed; whoever takes the run up again continues its
        MLflow run.
        """
        unsent: list[str] = []
        with self._mutex, self._harmless("this run"):
            runs = self._ledger.runs()
            for name in sorted(runs, key=lambda name: name not in self._owned):  # our own ones first
                running = runs[name]["state"] == "running"
                if not running and self._is_sent(runs[name]):
                    continue
                if self._own(name):  # otherwise the process that owns it is alive, and sends it
                    unsent.append(name)
                    if running:
                        self._ledger.update(name, state="killed")
            deadline = time.monotonic() + CLOSE_SECONDS
            while unsent and not self._costly:
                self._send(unsent[0], deadline)
                del unsent[0]
        for lock in self._owned.values():
            lock.close()
        self._owned.clear()
        if unsent:
            some = ", ".join(name.rpartition("/")[0] for name in unsent[:5])
            more = f" and {len(unsent) - 5} more" if len(unsent) > 5 else ""
            say(f"not sent to MLflow ({self._tracking.target}): {some}{more}; the next run sends it")

    @contextlib.contextmanager
    def _harmless(self, what: str) -> Iterator[None]:
        """Let training go on whatever fails with MLflow (network, database, version); the first failure is said."""
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            self._server.forget()
            now = time.monotonic()
            wait = self._tracking.retry_seconds * 2**self._failures
            self._retry_at = now + min(wait, max(LONGEST_WAIT_SECONDS, self._tracking.retry_seconds))
            self._failures += 1
            self._costly = now - began > COSTLY_SECONDS and self._tracking.uri is not None
            if not self._warned:
                place, why = self._tracking.target, said_of(error)
                later = "training goes on, what is missing is sent later"
                say(f"MLflow ({place}) is not up to date with {what}: {why}; {later}")
            self._warned = True

    def _is_sent(self, entry: Json) -> bool:
        """Whether MLflow has a run as it is now; not so when the embedded database is gone."""
        if self._tracking.uri is None and not self._tracking.has_database:
            return False
        return bool(entry["sent"] == [digest_of(self._ledger.folder(entry)), entry["state"], entry["current"]])

    def _own(self, name: str) -> bool:
        """Whether this process has the lock of the run, and so may send it; the kernel frees that of a dead process."""
        if name not in self._owned:
            path = self._ledger.locks / name.replace("/", " ")
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.open("ab")
            if not take(lock.fileno()):
                lock.close()
                return False
            self._owned[name] = lock
        return True

    def _send(self, name: str, deadline: float) -> None:
        """Bring a run's MLflow run and the nested ones up to date, in an order in which it may stop anywhere.

        The server itself says what is there already: a process that was killed has noted nothing.
        """
        server = self._server
        experiment, created = server.connect()
        self._ledger.connected(experiment, created)
        entry = self._ledger.runs()[name]
        # The files of a finished run are whole; any other run may have ended between two of them.
        local = RunFiles(name, self._ledger.folder(entry), live=entry["state"] != "finished")
        mark = self._ledger.mark(name)
        there = server.find(mark)
        run = next((run for run in there if run.data.tags["unit"] == mark), None)
        if run is None and not local.files and entry["state"] in ("finished", "killed"):
            self._ledger.drop(name)  # its files are gone, or were never written
            return
        tags = local.tags | {"comparison": "current" if entry["current"] else "superseded"}
        if entry["error"] is not None:
            tags["error"] = entry["error"]
        if flow_run := self._flow_run():
            tags[PREFECT] = flow_run
        tags |= noted(tags, {} if run is None else run.data.tags, experiment)
        logged: set[int] = set()
        if run is None:
            run = server.create(local.label, local.start, self._tags | tags | {"unit": mark})
        else:
            logged = server.steps(run, MARKER)
        data = local.data(self._datasets)
        if WHOLE in data and not (run.inputs and run.inputs.dataset_inputs):
            server.learns_from(run, data[WHOLE])
        began = run.info.start_time
        params = local.params | {key: value for key, value in self._params.items() if local.wants(key)}
        server.log(run, began, params={k: v for k, v in params.items() if k not in run.data.params})
        parent = {"mlflow.parentRunId": run.info.run_id}
        nested = {r.data.tags["unit"]: r for r in there if r.data.tags.items() >= parent.items()}
        for task in local.tasks:
            if task.step in logged:
                continue
            if time.monotonic() > deadline and self._tracking.uri is not None:
                raise TimeoutError("the server is slow")
            tags_of_task = self._source | local.tags | parent | {"task": task.name, "unit": f"{mark}/{task.name}"}
            task_run = nested.get(tags_of_task["unit"])
            if task_run is None:
                task_run = server.create(f"{local.label}/{task.name}", began + task.start, tags_of_task)
            if task_run.info.status != "FINISHED":  # it may have been interrupted
                if known := data.get(task.name, data.get(WHOLE)):
                    server.learns_from(task_run, known)
                server.log(task_run, began + task.end, task.facts, task.params)
                server.status(task_run, "FINISHED", began + task.end)
            server.log(run, began + task.end, {task.step: task.progress})
        if entry["sent"] is None or entry["sent"][0] != local.digest:
            server.artifacts(run, local.artifacts())
        if entry["error"] is None and "error" in run.data.tags:
            server.client.delete_tag(run.info.run_id, "error")
        server.log(run, began, tags=tags)
        server.status(run, STATUS[entry["state"]], local.end if local.files else run.info.end_time or local.end)
        sent = [local.digest, entry["state"], entry["current"]]
        self._ledger.update(name, run=run.info.run_id, sent=sent)


def say(message: str) -> None:
    """Show a line on standard error, as one of tracking."""
    print(f"tracking: {message}", file=sys.stderr, flush=True)
