"""The report in MLflow: a run `report` beside the runs it compares, with page, figures and leaderboard as artifacts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

from flows.tracking.ledger import Ledger
from flows.tracking.notes import NOTE, REPORT, artifact_path, comparison_path
from flows.tracking.server import TAG_LENGTH, Server, said_of
from flows.tracking.settings import Tracking
from flows.tracking.tracker import say

FILES = ("index.html", "leaderboard.md", "summary.json", "accuracy.csv", "plots/*.png")
SHA256 = "report.sha256"


def send_report(tracking: Tracking, folder: Path, headline: str, tags: Mapping[str, str]) -> bool:
    """Show the report in this folder in MLflow, beside runs of ours, unless that very report is there.

    Trouble with MLflow must not fail the report: one line says what is missing. Returns whether there was none.
    """
    files = [path for pattern in FILES for path in sorted(folder.glob(pattern))]
    sha256 = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()
    ledger = Ledger(tracking)
    is_there = ledger.report() == sha256 and (tracking.uri is not None or tracking.has_database)
    if is_there or ledger.experiment() is None:
        return True
    try:
        _send(tracking, ledger, folder, files, {**tags, "headline": headline, SHA256: sha256})
    except Exception as error:  # whatever MLflow, a network or a database makes of it
        why = said_of(error)
        say(f"MLflow ({tracking.target}) lacks the report: {why}; `python -m flows.report` sends it")
        return False
    return True


def _send(tracking: Tracking, ledger: Ledger, folder: Path, files: list[Path], tags: dict[str, str]) -> None:
    server, now = Server(tracking), int(1000 * time.time())
    experiment, created = server.connect()
    ledger.connected(experiment, created)
    mark = ledger.mark(REPORT)
    earlier = [run for run in server.find(mark) if run.data.tags["unit"] == mark]
    run = earlier[0] if earlier else server.create(REPORT, now, {**tags, "unit": mark})
    for path in files:
        below = path.relative_to(folder).parent.as_posix()
        server.file(run, path, None if below == "." else below)
    page = artifact_path(experiment, run.info.run_id, "index.html")
    server.log(run, now, tags={**tags, NOTE: _note(folder, tags["headline"], page, comparison_path(experiment))})
    server.status(run, "FINISHED", now)
    ledger.reported(tags[SHA256])


def _note(folder: Path, headline: str, page: str, runs: str) -> str:
    """The headline, where to look next, and the leaderboard as far as it fits."""
    table = (folder / "leaderboard.md").read_text(encoding="utf-8").replace(headline, "", 1)
    links = f"- [the whole report]({page}), with its figures beside it\n- [the runs behind it]({runs})\n"
    head = f"{headline}\n\n{links}\n"
    return head + (table if len(head) + len(table) <= TAG_LENGTH else "")
