"""What MLflow shows of a run: a replica of our own result files, brought up to date by `Tracker.sync`.

The files of a run (one method with one seed) are the truth. A sync compares them with what was already sent
and sends the rest, so it can be repeated, interrupted or missed at will: a tracking server that is down, slow
or gone costs no training, and what it missed follows at the end of the run or with the next one. A ledger
beside the runs, `<out>/.work/tracking.json`, says what was sent where.

In MLflow a run is one run, `ewc/seed-0`, with a nested run per task, `ewc/seed-0/permutation-03`. Metrics
are stepped by the number of tasks learned, those of the selection by trial. The experiment's page, as it
opens, lists and charts the runs with the tasks folded away; `comparison_url` leads to a curated comparison.

What the files say is read by `flows.run_files`, what was sent noted in `flows.ledger`; `flows.mlflow_server` makes the
requests. It imports MLflow, and does so only when there is something to send.
"""

from __future__ import annotations

import contextlib
import fcntl
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from cl.errors import UserError
from cl.redact import without_password
from flows.ledger import NIGHTLY as NIGHTLY
from flows.ledger import STATES, Json, Ledger, lock_file
from flows.ledger import Tracking as Tracking
from flows.mlflow_server import VIEW, Server, said_of, troubles
from flows.run_files import MARKER, Run, digest_of, flatten

SYNC_SECONDS, CLOSE_SECONDS = 5.0, 60.0
"""After so long with a slow server the rest is left for later."""
LONGEST_WAIT_SECONDS = 900.0
"""How long a server that fails again and again is left alone at most."""
COSTLY_SECONDS = 2.0
"""A server that took so long to fail is not asked again at the end of the run."""
STATUS = {state: state.upper() for state in STATES}
"""What MLflow calls the states."""


class Tracker:
    """Keeps MLflow up to date with the runs of a run; threads may share it.

    `tags` say where the run comes from (git.commit, dvc.data, data.sha256, ...); `params` is params.yaml,
    nested or flattened with dots, and of its `methods` a run shows its own. Both are written when the run's
    run is made. Nothing is raised for trouble with MLflow: one line on standard error says what is wrong.
    """

    def __init__(self, tracking: Tracking, tags: Mapping[str, str], params: Mapping[str, object]) -> None:
        self._tracking = tracking
        self._tags = dict(tags)
        self._params = flatten(params)
        self._ledger = Ledger(tracking)
        self._server = Server(tracking)
        self._owned: dict[str, IO[str]] = {}
        self._failures, self._retry_at = 0, 0.0
        self._costly = self._warned = False
        self._mutex = threading.Lock()

    def sync(self, run: Path, *, finished: bool = False, failed: str | None = None) -> bool:
        """Send what MLflow does not have yet of a run's folder, `<out>/.work/<method>/seed-<s>/<key>`.

        To be called now and then, for instance after each task, and at the end: `finished` ends its run as
        finished, `failed` as failed with that reason as the tag `error`. Returns whether MLflow is up to date,
        also where nothing had to be sent. Where it is not, the rest follows with a later sync, at `close` or
        with the next run.
        """
        name = "/".join(run.resolve().parts[-3:])
        state = "failed" if failed is not None else "finished" if finished else "running"
        with self._mutex, self._harmless(name):
            entry = self._ledger.runs().get(name)
            if entry and entry["current"] and entry["error"] == failed and self._is_sent(entry):
                # Whoever takes up a run need not know that it was finished long ago.
                same = state == entry["state"] or (state == "running" and entry["state"] == "finished")
                if same:
                    return True
            self._ledger.note(name, run, state, failed)
            # Not owned: another process is just sending what a killed one left of this run.
            if self._own(name) and time.monotonic() >= self._retry_at:
                self._send(name, time.monotonic() + SYNC_SECONDS)
                self._failures, self._costly = 0, False
                return True
        return False

    def close(self) -> None:
        """Try once more to send all that is pending, of this and of earlier runs, and say what could not be.

        A run that its process neither finished nor failed ends as killed; its run is continued by whoever
        takes it up again.
        """
        unsent: list[str] = []
        with self._mutex, self._harmless("this run"):
            runs = self._ledger.runs()
            for name in sorted(runs, key=lambda name: name not in self._owned):  # our own ones first
                running = runs[name]["state"] == "running"
                if not running and self._is_sent(runs[name]):
                    continue
                if self._own(name):  # otherwise its process is alive and sees to it
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
            _say(f"not sent to MLflow ({self._tracking.target}): {some}{more}; the next run sends it")

    @contextlib.contextmanager
    def _harmless(self, what: str) -> Iterator[None]:
        """Whatever fails with MLflow (network, database, version) must not cost training: say it once."""
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
                _say(f"MLflow ({place}) is not up to date with {what}: {why}; {later}")
            self._warned = True

    def _is_sent(self, entry: Json) -> bool:
        """Whether MLflow has a run as it is now; not so when the embedded database is gone."""
        if self._tracking.uri is None and not self._tracking.has_database:
            return False
        return bool(entry["sent"] == [digest_of(self._ledger.folder(entry)), entry["state"], entry["current"]])

    def _own(self, name: str) -> bool:
        """Whether this process may speak for the run. The kernel frees the lock of a process that died."""
        if name not in self._owned:
            lock = lock_file(self._ledger.locks / name.replace("/", " "))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return False
            self._owned[name] = lock
        return True

    def _send(self, name: str, deadline: float) -> None:
        """Bring a run's run and its nested runs up to date, in an order in which it may stop anywhere.

        What is there already is asked of the server: a process that was killed noted nothing down.
        """
        server = self._server
        self._ledger.connected(*server.connect())
        entry = self._ledger.runs()[name]
        # What is finished is whole; anything else may have ended between two files.
        local = Run(name, self._ledger.folder(entry), live=entry["state"] != "finished")
        mark = self._ledger.mark(name)
        found = server.find(mark)
        run = next((run for run in found if run.data.tags["unit"] == mark), None)
        if run is None and not local.files and entry["state"] in ("finished", "killed"):
            self._ledger.drop(name)  # its files are gone, or were never written
            return
        tags = local.tags | {"comparison": "current" if entry["current"] else "superseded"}
        if entry["error"] is not None:
            tags["error"] = entry["error"]
        logged: set[int] = set()
        if run is None:
            run = server.create(local.label, local.start, self._tags | tags | {"unit": mark})
        else:
            logged = server.steps(run, MARKER)
        began = run.info.start_time
        params = local.params | {key: value for key, value in self._params.items() if local.wants(key)}
        server.log(run, began, params={k: v for k, v in params.items() if k not in run.data.params})
        parent = {"mlflow.parentRunId": run.info.run_id}
        nested = {r.data.tags["unit"]: r for r in found if r.data.tags.items() >= parent.items()}
        for task in local.tasks:
            if task.step in logged:
                continue
            if time.monotonic() > deadline and self._tracking.uri is not None:
                raise TimeoutError("the server is slow")
            tags_of_task = local.tags | parent | {"task": task.name, "unit": f"{mark}/{task.name}"}
            task_run = nested.get(tags_of_task["unit"])
            if task_run is None:
                task_run = server.create(f"{local.label}/{task.name}", began + task.start, tags_of_task)
            if task_run.info.status != "FINISHED":  # it may have been interrupted
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
    """Make the experiment and its curated comparison, and the embedded database, where they are not there yet.

    Raises `UserError` where MLflow refuses.
    """
    with refused(tracking):
        connected(tracking)


@contextlib.contextmanager
def refused(tracking: Tracking) -> Iterator[None]:
    """Whatever fails with MLflow is raised as a `UserError`, in a sentence."""
    try:
        yield
    except UserError:
        raise
    except troubles() as error:
        raise UserError(f"MLflow ({tracking.target}): {said_of(error)}") from None


def connected(tracking: Tracking) -> tuple[Any, str]:
    """MLflow's client, and the id of the experiment, which is there afterwards. Raises whatever fails."""
    server = Server(tracking)
    experiment, created = server.connect()
    Ledger(tracking).connected(experiment, created)
    return server.client, experiment


def run_of(tracking: Tracking, run: Path) -> str | None:
    """Id of the run of a run's folder, `<out>/.work/<method>/seed-<s>/<key>`; None where nothing was sent of it."""
    entry = Ledger(tracking).runs().get("/".join(run.resolve().parts[-3:]))
    return None if entry is None or entry["run"] is None else str(entry["run"])


def comparison_url(base: str, tracking: Tracking) -> str:
    """Address of the curated comparison on the MLflow server at `base`, such as http://127.0.0.1:5000.

    Leads to the list of experiments as long as nothing was sent.
    """
    experiment = Ledger(tracking).experiment()
    view = f"viewStateShareKey={VIEW}&compareRunsMode=CHART&workflowType=machine_learning"
    return f"{base.rstrip('/')}/#/experiments" + (f"/{experiment}/runs?{view}" if experiment else "")


def record(
    tracking: Tracking, name: str, values: Mapping[str, float], tags: Mapping[str, str], texts: Mapping[str, str]
) -> None:
    """Log a run of MLflow that is none of ours, such as a whole night: once, however often it is tried.

    Raises `UserError` where MLflow refuses.
    """
    with refused(tracking):
        server, now = Server(tracking), int(1000 * time.time())
        server.connect()
        known = [run for run in server.find(name) if run.data.tags["unit"] == name]
        run = known[0] if known else server.create(name, now, {**tags, "unit": name})
        server.log(run, now, {0: values}, tags=tags)
        server.artifacts(run, texts)
        server.status(run, "FINISHED", now)


def run_showing(tracking: Tracking, result: Path) -> str | None:
    """Id of the run that has these very files, `<method>/seed-<s>.json` and the two beside it; None without one."""
    if tracking.uri is None and not tracking.has_database:
        return None
    digest = digest_of(result.parent, (result.name, f"{result.stem}.trials.json", f"{result.stem}.cost.json"))
    entries = Ledger(tracking).runs().values()
    return next((str(entry["run"]) for entry in entries if entry["sent"] and entry["sent"][0] == digest), None)


def tagged(tracking: Tracking, key: str, value: str) -> dict[str, str]:
    """Ids of the experiment's runs with this tag, by name, `<method>/seed-<s>`.

    Raises `UserError` where MLflow refuses.
    """
    with refused(tracking):
        client, experiment = connected(tracking)
        found = client.search_runs([experiment], f"tags.`{key}` = '{value}'")
        return {run.info.run_name: run.info.run_id for run in found}


def tag(tracking: Tracking, tags: Mapping[str, Mapping[str, str]]) -> None:
    """Set tags on runs, by id. A server that is down must not fail what was made: one line says what is missing."""
    try:
        client, _ = connected(tracking)
        for run, pairs in tags.items():
            for key, value in pairs.items():
                client.set_tag(run, key, value)
    except Exception as error:
        why = said_of(error)
        _say(f"MLflow ({tracking.target}) lacks DVC's hashes: {why}; `python -m flows.report` sends them")


def _say(message: str) -> None:
    print(f"tracking: {message}", file=sys.stderr, flush=True)


def here(path: Path) -> str:
    """A path as seen from the current folder, where it is inside."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
