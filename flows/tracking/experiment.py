"""What other parts of the pipeline ask of the experiment in MLflow, or add to it, beside the tracker."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cl.errors import UserError
from flows.tracking.ledger import Ledger
from flows.tracking.run_files import digest_of
from flows.tracking.server import Server, said_of, troubles
from flows.tracking.settings import Tracking
from flows.tracking.tracker import say


def ensure(tracking: Tracking) -> None:
    """Make the experiment and its curated comparison, and the embedded database, where they are not there yet.

    Raises `UserError` where MLflow refuses.
    """
    with refused(tracking):
        connected(tracking)


@contextlib.contextmanager
def refused(tracking: Tracking) -> Iterator[None]:
    """Turn whatever MLflow raises into a `UserError`, in a sentence."""
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
    """Id of the MLflow run of a run's folder, `<out>/.work/<method>/seed-<s>/<key>`; None where nothing was sent."""
    entry = Ledger(tracking).runs().get("/".join(run.resolve().parts[-3:]))
    return None if entry is None or entry["run"] is None else str(entry["run"])


def run_showing(tracking: Tracking, result: Path) -> str | None:
    """Id of the MLflow run of these very files, `<method>/seed-<s>.json` and the two beside it; None without one."""
    if tracking.uri is None and not tracking.has_database:
        return None
    digest = digest_of(result.parent, (result.name, f"{result.stem}.trials.json", f"{result.stem}.cost.json"))
    entries = Ledger(tracking).runs().values()
    return next((str(entry["run"]) for entry in entries if entry["sent"] and entry["sent"][0] == digest), None)


def tagged(tracking: Tracking, key: str, value: str) -> dict[str, str]:
    """Ids of the MLflow runs with this tag, by name, `<method>/seed-<s>`.

    Raises `UserError` where MLflow refuses.
    """
    with refused(tracking):
        client, experiment = connected(tracking)
        runs = client.search_runs([experiment], f"tags.`{key}` = '{value}'")
        return {run.info.run_name: run.info.run_id for run in runs}


def tag(tracking: Tracking, tags: Mapping[str, Mapping[str, str]]) -> None:
    """Set tags on MLflow runs, by id.

    A server that is down must not fail what was made: one line says what is missing.
    """
    try:
        client, _ = connected(tracking)
        for run, pairs in tags.items():
            for key, value in pairs.items():
                client.set_tag(run, key, value)
    except Exception as error:
        why = said_of(error)
        say(f"MLflow ({tracking.target}) lacks DVC's hashes: {why}; `python -m flows.report` sends them")


def record(
    tracking: Tracking, name: str, values: Mapping[str, float], tags: Mapping[str, str], texts: Mapping[str, str]
) -> None:
    """Log an MLflow run of something other than a run, such as a whole night: once, however often it is tried.

    Raises `UserError` where MLflow refuses.
    """
    with refused(tracking):
        server, now = Server(tracking), int(1000 * time.time())
        server.connect()
        earlier = [run for run in server.find(name) if run.data.tags["unit"] == name]
        run = earlier[0] if earlier else server.create(name, now, {**tags, "unit": name})
        server.log(run, now, {0: values}, tags=tags)
        server.artifacts(run, texts)
        server.status(run, "FINISHED", now)
