"""Tracking against the real MLflow: SQLite files, and servers on loopback that are killed or never answer."""

import ast
import contextlib
import csv
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bad_server import KINDS, BadServer
from cl import metrics
from cl.data.prepare import digest
from cl.errors import UserError
from flows.tracking import addresses, experiment, server
from flows.tracking import tracker as trackers
from flows.tracking.addresses import comparison_url, show_command, ui_command
from flows.tracking.database import create_database
from flows.tracking.datasets import WHOLE, Dataset, Datasets, datasets_of
from flows.tracking.experiment import ensure, record, tagged
from flows.tracking.ledger import Ledger
from flows.tracking.notes import source_tags
from flows.tracking.reported import send_report
from flows.tracking.settings import Tracking, share, tracking_of
from flows.tracking.tracker import Tracker
from tests.cl.small import params_for

ROOT = Path(__file__).parents[2]
PARAMS = {"training": {"epochs": 70}, "methods.ewc.strength": 400.0, "methods.si.strength": 1.0, "note": ""}
TAGS = {"git.commit": "abc123", "data.sha256": "f00d"}
WHOLE_PROCESS = "peak_memory_bytes"  # known at the end of a file only: not of tasks that are sent belatedly

# What a process of its own does: sync a fake, or only close.
CHILD = """
import os, signal, sys
from pathlib import Path
from flows.tracking import tracker as trackers
from flows.tracking.settings import Tracking
from flows.tracking.tracker import Tracker
out, uri, fake, how = sys.argv[1:]
if how == "finish":  # however busy the machine is
    trackers.SYNC_SECONDS = 120.0
tracker = Tracker(Tracking(Path(out), uri or None, "digits"), {}, {})
if fake:
    assert tracker.sync(Path(fake), finished=how == "finish")
if how == "die":
    os.kill(os.getpid(), signal.SIGKILL)
tracker.close()
print("mlflow" in sys.modules)
"""


class FakeRun:
    """Writes the files of a fake as training does: after each task, all that is known so far."""

    def __init__(self, out: Path, method: str = "ewc", seed: int = 0, tasks: int = 3, key: str = "k1") -> None:
        self.folder = out / ".work" / method / f"seed-{seed}" / key
        self.head: dict[str, Any] = {"schema": 1, "benchmark": "permuted-digits", "method": method, "seed": seed}
        self.names = [f"permutation-{i + 1:02d}" for i in range(tasks)]
        draw = random.Random(f"{method} {seed}")
        keep = draw.uniform(0.5, 1.0)  # share of its accuracy that a task keeps when another one is learned
        self.accuracy = [
            [0.95 * keep ** (i - j) + draw.uniform(0, 0.02) if j <= i else None for j in range(tasks)]
            for i in range(tasks)
        ]
        self.seconds = [draw.uniform(1, 3) for _ in range(tasks)]

    def learn(self, upto: int | None = None) -> Path:
        """Leave the folder as it is after that many tasks, or after all; returns it."""
        total = len(self.names)
        done = total if upto is None else upto
        nothing: list[float | None] = [None] * total
        rows = [*self.accuracy[:done], *([nothing] * (total - done))]
        self.write(rows, self.names[:done])
        return self.folder

    def learn_jointly(self) -> Path:
        """Leave the folder as it is after all tasks were learned at once; returns it."""
        total = len(self.names)
        nothing: list[float | None] = [None] * total
        self.write([*([nothing] * (total - 1)), [0.9 + 0.01 * j for j in range(total)]], ["all"])
        return self.folder

    def write(self, rows: list[list[float | None]], learned: list[str]) -> None:
        self.per_task: list[dict[str, Any]] = [
            {
                "task": name,
                "learning_rate": 0.1 / (i + 1),
                "plasticity_accuracy": 0.97,
                "threshold": 0.776,
                "knobs": {"strength": 400.0 / 2**i},
                "attempts": i + 1,
                "validation_accuracy": 0.94,
                "steps": 100 * (i + 1),
                "state_bytes": 1000 * (i + 1),
            }
            for i, name in enumerate(learned)
        ]
        self.result = self.head | {
            "tasks": self.names,
            "accuracy": rows,
            "average_accuracy": metrics.average_accuracy(rows),
            "average_forgetting": metrics.average_forgetting(rows),
            "per_task": self.per_task,
        }
        trials = [
            {
                "task": name,
                "task_index": i,
                "phase": phase,
                "trial": trial,
                "learning_rate": 0.1 / (trial + 1),
                "knobs": {} if phase == "plasticity" else {"strength": 400.0 / 2**trial},
                "accuracy": 0.9 + 0.01 * trial,
                "threshold": None if phase == "plasticity" else 0.776,
                "kept": trial == 1,
                "epochs": 30,
                "steps": 180,
            }
            for i, name in enumerate(learned)
            for phase in ("plasticity", "stability")
            for trial in range(2)
        ]
        costs = [
            {
                "task": name,
                "seconds": {"plasticity": s / 2, "stability": s / 2},
                "process_seconds": s / 3,
                "step_seconds": s / 4,
            }
            for name, s in zip(learned, self.seconds, strict=False)
        ]
        self.cost: dict[str, Any] = self.head | {
            "machine": {"platform": "Linux", "processor": "x86_64", "cores": 2, "torch": "2.15.0", "device": "cpu"},
            "seconds": 0.5 + sum(self.seconds[: len(learned)]),
            "process_seconds": 0.25 + sum(self.seconds[: len(learned)]) / 3,
            "step_seconds": sum(self.seconds[: len(learned)]) / 4,
            "peak_memory_bytes": 700_000_000 + len(learned),
            "per_task": costs,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        files = {"result": self.result, "trials": self.head | {"trials": trials}, "cost": self.cost}
        for name, content in files.items():
            (self.folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: making one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    create_database(path)
    return path


@pytest.fixture
def out(tmp_path: Path, database: Path) -> Path:
    """An output folder whose embedded database exists."""
    return furnish(tmp_path / "out", database)


def furnish(out: Path, database: Path) -> Path:
    (out / "mlflow").mkdir(parents=True)
    shutil.copy(database, out / "mlflow" / "mlflow.db")
    return out


def embedded(out: Path, **settings: Any) -> Tracking:
    return Tracking(out, None, "digits", **settings)


def tracker(out: Path, **settings: Any) -> Tracker:
    return Tracker(embedded(out, **settings), TAGS, PARAMS)


def child(out: Path, fake: Path | str = "", how: str = "", uri: str = "") -> "subprocess.Popen[str]":
    """Start a process of its own on the fake."""
    command = [sys.executable, "-c", CHILD, str(out), uri, str(fake), how]
    seconds = {"hastily": "1", "finish": "60"}.get(how)
    env = {**os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT": seconds} if seconds else None
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


def query(out: Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(out / "mlflow" / "mlflow.db")) as connection:
        return connection.execute(sql).fetchall()


def runs(out: Path) -> dict[str, str]:
    """Status by name of the runs that were not deleted; a name given twice fails."""
    rows = query(out, "SELECT name, status FROM runs WHERE lifecycle_stage = 'active'")
    names = [name for name, _ in rows]
    assert len(set(names)) == len(names), f"runs made twice: {Counter(names)}"
    return dict(rows)


def points(out: Path, where: str = "1") -> Counter[tuple[str, str, int, float]]:
    """All metrics ever logged, as (run, metric, step, value), with how often."""
    sql = f"SELECT r.name, m.key, m.step, m.value FROM metrics m JOIN runs r USING (run_uuid) WHERE {where}"
    return Counter(query(out, sql))


def tag(out: Path, name: str, key: str) -> list[str]:
    sql = f"SELECT t.value FROM tags t JOIN runs r USING (run_uuid) WHERE r.name = '{name}' AND t.key = '{key}'"
    return [value for (value,) in query(out, sql)]


def history(out: Path, run: str, key: str) -> dict[int, float]:
    return {step: value for name, metric, step, value in points(out) if (name, metric) == (run, key)}


def test_a_run_is_a_run_with_a_nested_run_per_task(out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    fake = FakeRun(out)
    track = tracker(out)
    assert track.sync(fake.learn(), finished=True)
    track.close()
    assert capfd.readouterr() == ("", "")

    client = MlflowClient(f"sqlite:///{embedded(out).database}")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"ewc/seed-0", *(f"ewc/seed-0/{name}" for name in fake.names)}
    assert {run.info.status for run in found.values()} == {"FINISHED"}

    run = found["ewc/seed-0"]
    expected = TAGS | {"method": "ewc", "seed": "0", "benchmark": "permuted-digits", "machine.cores": "2"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["over_seeds"] == "initialisation, order of samples and draws; the benchmark stays"
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.tags["mlflow.source.git.commit"] == "abc123"
    assert run.data.params == {
        "method": "ewc",
        "seed": "0",
        "training.epochs": "70",
        "methods.ewc.strength": "400.0",
        "note": "",
    }
    assert run.info.end_time - run.info.start_time == pytest.approx(1000 * fake.cost["seconds"], abs=2)
    last = fake.result["accuracy"][-1]
    facts = {f"accuracy/{name}": value for name, value in zip(fake.names, last, strict=True)}
    facts |= {key: fake.result[key] for key in ("average_accuracy", "average_forgetting")}
    facts |= {key: fake.cost[key] for key in ("step_seconds", "peak_memory_bytes")}
    facts |= {"processor_seconds": fake.cost["process_seconds"]}
    facts |= {"learning_accuracy": sum(fake.accuracy[i][i] or 0 for i in range(3)) / 3}
    facts |= {"average_incremental_accuracy": metrics.average_incremental_accuracy(fake.accuracy)}
    facts |= {key: value for key, value in fake.per_task[-1].items() if isinstance(value, int | float)}
    facts |= {"knob.strength": 100.0}
    assert run.data.metrics == pytest.approx(facts, rel=1e-12)
    assert history(out, "ewc/seed-0", "attempts") == {1: 1, 2: 2, 3: 3}
    assert history(out, "ewc/seed-0", "accuracy/permutation-02") == {2: fake.accuracy[1][1], 3: fake.accuracy[2][1]}
    assert set(history(out, "ewc/seed-0", "average_forgetting")) == {2, 3}
    seconds = history(out, "ewc/seed-0", "processor_seconds")
    assert seconds == pytest.approx({k: 0.25 + sum(fake.seconds[:k]) / 3 for k in (1, 2, 3)})

    task = found["ewc/seed-0/permutation-02"]
    assert task.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert task.data.params == {"task": "permutation-02", "learning_rate": "0.05", "knob.strength": "200.0"}
    assert task.data.metrics["test_accuracy"] == fake.accuracy[1][1]
    assert task.data.metrics["processor_seconds"] == pytest.approx(fake.seconds[1] / 3)
    assert task.data.metrics["processor_seconds/plasticity"] == pytest.approx(fake.seconds[1] / 6)
    assert "seconds" not in run.data.metrics | task.data.metrics, "time is processor time, as in the report"
    assert history(out, "ewc/seed-0/permutation-02", "plasticity.accuracy") == {0: 0.9, 1: 0.91}
    assert history(out, "ewc/seed-0/permutation-02", "stability.knob.strength") == {0: 400.0, 1: 200.0}

    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"result.json", "trials.json", "cost.json", "accuracy.csv", "trials.csv"}
    folder = embedded(out).folder / "artifacts" / run.info.run_id / "artifacts"
    for name in ("result.json", "trials.json", "cost.json"):
        assert (folder / name).read_bytes() == (fake.folder / name).read_bytes()
    head, *rows = csv.reader(io.StringIO((folder / "accuracy.csv").read_text()))
    assert head == ["after learning", *fake.names]
    assert [float(value) for value in rows[2][1:]] == last
    assert len((folder / "trials.csv").read_text().splitlines()) == 1 + 3 * 2 * 2


def data_of(*tasks: str) -> Datasets:
    """Prepared data of these tasks, as `datasets_of` reads them."""
    whole = Dataset("digits", 36 * "0", '{"uri": "out/prepared"}', "{}", "{}")
    known = {name: replace(whole, name=f"digits/{name}", digest=36 * str(k)) for k, name in enumerate(tasks, 1)}
    return lambda seed: {WHOLE: whole, **known}


def inputs(out: Path) -> Counter[tuple[str, str, str]]:
    """(run, dataset, digest) of all that was learned from, with how often it is there."""
    sql = "SELECT r.name, d.name, d.digest FROM inputs i JOIN datasets d ON i.source_id = d.dataset_uuid"
    return Counter(query(out, f"{sql} JOIN runs r ON i.destination_id = r.run_uuid"))


def test_runs_lead_to_their_data_their_command_and_their_flow_run(out: Path, prepared: dict[int, Path]) -> None:
    from mlflow import MlflowClient

    (out / "prepared").symlink_to(prepared[2])
    params = params_for("ewc")
    told = {**TAGS, **source_tags("python -m flows.compare --out out/try  # FILE: below")}
    pages = iter([None, *3 * ["http://prefect/runs/flow-run/7"]])
    fake = FakeRun(out, tasks=2)
    track = Tracker(embedded(out), told, {}, datasets_of(params, out), lambda: next(pages))
    assert track.sync(fake.learn(1))
    assert track.sync(fake.learn(2))
    manifest = json.loads((prepared[2] / "manifest.json").read_bytes())
    digests = {task["name"]: task["digest"][:36] for task in manifest["tasks"]}
    assert inputs(out) == Counter(
        [
            ("ewc/seed-0", "permuted-digits", digest([task["digest"] for task in manifest["tasks"]])[:36]),
            *((f"ewc/seed-0/{name}", f"permuted-digits/{name}", known) for name, known in digests.items()),
        ]
    )
    client = MlflowClient(f"sqlite:///{embedded(out).database}")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "viewStateShareKey=compare" in experiment.tags["mlflow.note.content"]

    def tags() -> dict[str, str]:
        runs = client.search_runs([experiment.experiment_id], "tags.unit = 'ewc/seed-0/k1'")
        return dict(runs[0].data.tags)

    assert tags()["mlflow.source.name"] == "python -m flows.compare"
    assert tags()["command"] == "python -m flows.compare --out out/try"
    assert tags()["prefect.flow_run"] == "http://prefect/runs/flow-run/7"
    assert "(http://prefect/runs/flow-run/7)" in tags()["mlflow.note.content"]
    ((run,),) = query(out, "SELECT run_uuid FROM runs WHERE name = 'ewc/seed-0'")
    client.set_tag(run, "mlflow.note.content", "mine")
    client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", "mine")
    assert track.sync(fake.folder, finished=True)
    track.close()
    ensure(embedded(out))
    assert tags()["mlflow.note.content"] == "mine"
    assert client.get_experiment(experiment.experiment_id).tags["mlflow.note.content"] == "mine"


def test_data_of_other_tasks_are_not_those_of_a_run(out: Path) -> None:
    track = Tracker(embedded(out), TAGS, PARAMS, data_of("permutation-01"))
    assert track.sync(FakeRun(out, tasks=2).learn(), finished=True)
    track.close()
    assert inputs(out) == Counter()


def test_the_report_is_a_run_with_its_figures_sent_once(out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = out / "report"
    (folder / "plots").mkdir(parents=True)
    for name in ("index.html", "leaderboard.md", "summary.json", "accuracy.csv", "plots/course.png", "plots/notes.txt"):
        (folder / name).write_text(name)

    assert send_report(embedded(out), folder, "ewc leads.", TAGS)
    assert query(out, "SELECT * FROM runs") == [], "no run of ours was sent"
    ensure(embedded(out))

    def sent() -> list[Any]:
        assert send_report(embedded(out), folder, "ewc leads.", TAGS)
        return query(out, "SELECT run_uuid, status, end_time FROM runs WHERE name = 'report'")

    ((run, status, _),) = first = sent()
    assert status == "FINISHED"
    place = embedded(out).folder / "artifacts" / run / "artifacts"
    found = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert found == {"index.html", "leaderboard.md", "summary.json", "accuracy.csv", "plots/course.png"}
    (note,) = tag(out, "report", "mlflow.note.content")
    assert note.startswith("ewc leads.")
    assert f"runs/{run}/artifacts/index.html?" in note
    assert sent() == first, "nothing has changed"
    (folder / "index.html").write_text("anew")
    assert [row[:2] for row in sent()] == [(run, "FINISHED")]
    assert (place / "index.html").read_text() == "anew"
    assert capfd.readouterr() == ("", "")
    (folder / "index.html").write_text("again")
    embedded(out).database.write_bytes(b"no database")
    assert not send_report(embedded(out), folder, "ewc leads.", TAGS)
    (line,) = capfd.readouterr().err.splitlines()
    assert "lacks the report: " in line
    assert line.endswith("`python -m flows.report` sends it")


def test_what_is_shown_with_the_runs_of_another_folder_has_a_name_of_its_own(tmp_path: Path) -> None:
    params, served, other = params_for("ewc"), tmp_path / "out/mlflow", tmp_path / "out/try"
    share(tmp_path / "out", served)
    share(other, served)
    own, shared = tracking_of(params, tmp_path / "out"), tracking_of(params, other)
    assert own == Tracking(tmp_path / "out", None, "permuted-digits")
    assert (shared.folder, shared.experiment) == (served, "permuted-digits in try")
    other.rename(tmp_path / "out/moved")
    assert tracking_of(params, tmp_path / "out/moved").folder == served


def test_tasks_learned_at_once_are_one_step_and_one_nested_run(out: Path) -> None:
    fake = FakeRun(out, "joint")
    track = tracker(out)
    assert track.sync(fake.learn_jointly(), finished=True)
    track.close()
    assert runs(out) == {"joint/seed-0": "FINISHED", "joint/seed-0/all": "FINISHED"}
    assert history(out, "joint/seed-0", "average_accuracy") == {3: fake.result["average_accuracy"]}
    assert history(out, "joint/seed-0", "accuracy/permutation-01") == {3: 0.9}
    assert history(out, "joint/seed-0", "average_forgetting") == {}
    assert history(out, "joint/seed-0/all", "test_accuracy") == {0: fake.result["average_accuracy"]}


def test_task_by_task_is_the_same_as_all_at_once(out: Path, tmp_path: Path, database: Path) -> None:
    fake = FakeRun(out)
    track = tracker(out)
    for done in (1, 2, 3):
        assert track.sync(fake.learn(done))
        assert runs(out)["ewc/seed-0"] == "RUNNING"
        assert len(runs(out)) == 1 + done
    assert track.sync(fake.folder, finished=True)
    track.close()
    once = furnish(tmp_path / "once", database)
    track = tracker(once)
    assert track.sync(FakeRun(once).learn(), finished=True)
    track.close()
    assert runs(out) == runs(once)
    ordinary = f"key != '{WHOLE_PROCESS}'"
    step_by_step, at_once = points(out, ordinary), points(once, ordinary)
    assert len(at_once) > 100
    assert {point[:3] for point in step_by_step} == {point[:3] for point in at_once}
    assert sorted(p[3] for p in step_by_step.elements()) == pytest.approx(sorted(p[3] for p in at_once.elements()))
    assert set(history(out, "ewc/seed-0", WHOLE_PROCESS)) == {1, 2, 3}
    assert set(history(once, "ewc/seed-0", WHOLE_PROCESS)) == {3}


def test_files_that_are_just_being_written_are_sent_once_they_agree(out: Path) -> None:
    fake = FakeRun(out)
    track = tracker(out)
    earlier = {name: (fake.learn(1) / name).read_bytes() for name in ("trials.json", "cost.json")}
    fake.learn(2)
    for name, content in earlier.items():  # training writes result.json first
        (fake.folder / name).write_bytes(content)
    assert track.sync(fake.folder)
    assert set(history(out, "ewc/seed-0", "attempts")) == {1}
    assert track.sync(fake.learn(2), finished=True)
    track.close()
    assert set(history(out, "ewc/seed-0", "processor_seconds")) == {1, 2}
    assert set(history(out, "ewc/seed-0/permutation-02", "stability.accuracy")) == {0, 1}


def test_a_finished_run_again_logs_nothing_and_does_not_import_mlflow(out: Path) -> None:
    fake = FakeRun(out, tasks=2)
    track = tracker(out)
    assert track.sync(fake.learn(), finished=True)
    track.close()
    before, entry = points(out), (out / ".work" / "tracking.json").read_bytes()
    for how in ("finish", ""):  # also by someone who does not know that it is finished
        process = child(out, fake.folder, how)
        assert process.communicate() == ("False\n", "")
    assert points(out) == before
    assert (out / ".work" / "tracking.json").read_bytes() == entry
    assert runs(out)["ewc/seed-0"] == "FINISHED"


def test_a_run_taken_up_after_a_kill_continues_its_run(out: Path) -> None:
    fake = FakeRun(out)
    process = child(out, fake.learn(1), "die")
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert runs(out) == {"ewc/seed-0": "RUNNING", "ewc/seed-0/permutation-01": "FINISHED"}
    track = tracker(out)
    assert track.sync(fake.learn(2))
    assert track.sync(fake.learn(3), finished=True)
    track.close()
    assert set(runs(out).values()) == {"FINISHED"}
    assert len(runs(out)) == 4
    assert set(points(out).values()) == {1}
    assert history(out, "ewc/seed-0", "attempts") == {1: 1, 2: 2, 3: 3}


def test_what_a_killed_process_left_is_sent_and_ended_by_the_next_one(out: Path) -> None:
    left = FakeRun(out, "si")
    process = child(out, left.learn(1), "die")
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    left.learn(2)  # written, but not sent
    track = tracker(out)
    assert track.sync(FakeRun(out).learn(), finished=True)
    track.close()
    assert runs(out)["si/seed-0"] == "KILLED"
    assert history(out, "si/seed-0", "attempts") == {1: 1, 2: 2}
    track = tracker(out)
    assert track.sync(left.learn(2))
    assert runs(out)["si/seed-0"] == "RUNNING"
    assert track.sync(left.learn(3), finished=True)
    track.close()
    assert runs(out)["si/seed-0"] == "FINISHED"
    assert set(points(out).values()) == {1}


def test_a_run_whose_process_is_alive_is_left_to_it(out: Path) -> None:
    alive = tracker(out)
    assert alive.sync(FakeRun(out, "si").learn(1))
    other = tracker(out)
    assert other.sync(FakeRun(out).learn(), finished=True)
    other.close()
    assert runs(out)["si/seed-0"] == "RUNNING"
    alive.close()
    assert runs(out)["si/seed-0"] == "KILLED"


def test_a_failed_run_says_why_until_it_succeeds(out: Path) -> None:
    fake = FakeRun(out)
    track = tracker(out)
    assert track.sync(fake.folder, failed="no data: run the prepare stage")  # nothing was written at all
    assert runs(out) == {"ewc/seed-0": "FAILED"}
    assert tag(out, "ewc/seed-0", "error") == ["no data: run the prepare stage"]
    assert track.sync(fake.learn(2), failed="loss is NaN " + 10_000 * "!")
    assert tag(out, "ewc/seed-0", "error")[0].startswith("loss is NaN !")
    assert runs(out)["ewc/seed-0"] == "FAILED"
    track.close()
    assert runs(out)["ewc/seed-0"] == "FAILED"
    track = tracker(out)
    assert track.sync(fake.learn(3), finished=True)
    track.close()
    assert tag(out, "ewc/seed-0", "error") == []
    assert set(runs(out).values()) == {"FINISHED"}


def test_a_task_added_to_a_finished_run_continues_its_run(out: Path) -> None:
    fake = FakeRun(out, tasks=3)
    track = tracker(out)
    assert track.sync(fake.learn(2), finished=True)
    track.close()
    track = tracker(out)
    assert track.sync(fake.learn(3), finished=True)
    track.close()
    assert len(runs(out)) == 4
    assert history(out, "ewc/seed-0", "attempts") == {1: 1, 2: 2, 3: 3}


@pytest.mark.parametrize("loss", ["run", "database"])
def test_what_is_gone_from_mlflow_is_sent_anew(out: Path, loss: str) -> None:
    from mlflow import MlflowClient

    fake, other = FakeRun(out), FakeRun(out, "si")
    track = tracker(out)
    assert track.sync(other.learn(), finished=True)
    assert track.sync(fake.learn(2))
    track.close()
    if loss == "run":
        ((run_id,),) = query(out, "SELECT run_uuid FROM runs WHERE name = 'ewc/seed-0'")
        MlflowClient(f"sqlite:///{embedded(out).database}").delete_run(run_id)
        track = tracker(out)
        assert track.sync(fake.learn(3), finished=True)
        track.close()
    else:
        shutil.rmtree(out / "mlflow")
        # MLflow keeps connections to a database of this name: only another process sees the new one.
        process = child(out, fake.learn(3), "finish")
        assert process.communicate()[1] == ""
    found = query(out, "SELECT name, status FROM runs WHERE lifecycle_stage = 'active' AND name LIKE '%/seed-0'")
    assert sorted(found) == [("ewc/seed-0", "FINISHED"), ("si/seed-0", "FINISHED")]
    alive = points(out, "r.lifecycle_stage = 'active' AND r.name = 'ewc/seed-0' AND m.key = 'attempts'")
    assert sorted(point[2] for point in alive.elements()) == [1, 2, 3]


def test_other_settings_supersede_the_earlier_run_of_a_method_and_seed(out: Path) -> None:
    first, second = FakeRun(out, key="k1"), FakeRun(out, key="k2")

    def finish(fake: FakeRun) -> dict[str, str]:
        track = tracker(out)
        assert track.sync(fake.learn(), finished=True)
        track.close()
        sql = "SELECT u.value, c.value FROM tags u JOIN tags c USING (run_uuid) WHERE u.key = 'unit'"
        return dict(query(out, f"{sql} AND c.key = 'comparison'"))

    assert finish(first) == {"ewc/seed-0/k1": "current"}
    ((run, *ended),) = query(out, "SELECT run_uuid, status, end_time FROM runs WHERE name = 'ewc/seed-0'")
    shutil.rmtree(first.folder)  # what MLflow has of it can still be told apart
    assert finish(second) == {"ewc/seed-0/k1": "superseded", "ewc/seed-0/k2": "current"}
    assert [tuple(ended)] == query(out, f"SELECT status, end_time FROM runs WHERE run_uuid = '{run}'")
    assert finish(first) == {"ewc/seed-0/k1": "current", "ewc/seed-0/k2": "superseded"}
    assert len(query(out, "SELECT * FROM runs")) == 2 * 4


def test_a_moved_project_keeps_its_runs_and_puts_artifacts_where_it_is(out: Path, tmp_path: Path) -> None:
    track = tracker(out)
    assert track.sync(FakeRun(out).learn(2))
    track.close()
    moved = tmp_path / "elsewhere"
    out.rename(moved)
    process = child(moved, FakeRun(moved).learn(3), "finish")
    assert process.communicate() == ("True\n", "")
    assert len(runs(moved)) == 4
    ((address,),) = query(moved, "SELECT artifact_uri FROM runs WHERE name = 'ewc/seed-0'")
    assert address.startswith(moved.as_uri())
    result = json.loads(Path(address.removeprefix("file://"), "result.json").read_text())
    assert len(result["per_task"]) == 3
    assert not out.exists()


def test_a_lost_answer_anywhere_doubles_nothing(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """MLflow does what it was asked for, but the answer is lost, at each request in turn."""
    import mlflow

    class Lossy(mlflow.MlflowClient):
        asked = 0
        lost: int | None = None

    def lossy(name: str) -> Any:
        def request(self: Any, *args: Any, **kwargs: Any) -> Any:
            answer = getattr(super(Lossy, self), name)(*args, **kwargs)
            Lossy.asked += 1
            if Lossy.asked == Lossy.lost:
                raise ConnectionResetError("the answer was lost")
            return answer

        return request

    requests = "search_runs create_run log_batch set_terminated log_artifact get_metric_history create_experiment"
    for name in [*requests.split(), "log_inputs", "set_experiment_tag"]:
        setattr(Lossy, name, lossy(name))
    monkeypatch.setattr(mlflow, "MlflowClient", Lossy)
    monkeypatch.setattr(server, "METRICS", 15)  # so that a task takes several requests

    def done(lost: int | None) -> tuple[Path, bool]:
        out = furnish(tmp_path / f"lost-{lost}", database)
        Lossy.asked, Lossy.lost = 0, lost
        track = Tracker(embedded(out, retry_seconds=0.0), TAGS, PARAMS, data_of("permutation-01", "permutation-02"))
        complete = track.sync(FakeRun(out, tasks=2).learn(), finished=True)
        assert complete or track.sync(FakeRun(out, tasks=2).folder, finished=True)
        track.close()
        return out, complete

    undisturbed, complete = done(None)
    assert complete
    requests_made = Lossy.asked
    assert requests_made > 15
    for lost in range(1, requests_made + 1):
        out, complete = done(lost)
        assert not complete
        assert runs(out) == runs(undisturbed)
        assert points(out) == points(undisturbed)
        assert inputs(out) == inputs(undisturbed)
        assert "the answer was lost" in capfd.readouterr().err
    assert set(points(undisturbed).values()) == {1}


def test_processes_that_start_at_once_share_a_new_database(tmp_path: Path) -> None:
    out = tmp_path / "out"
    left = out / "mlflow/.mlflow.db.4194305.0a1b2c3d.part/mlflow.db"  # by a process that was killed
    theirs = out / "mlflow/new/thesis.txt"
    for file in (left, theirs):
        file.parent.mkdir(parents=True)
        file.touch()
    fakes = [FakeRun(out, method).learn() for method in ("ewc", "si", "lwf")]
    processes = [child(out, fake, "finish") for fake in fakes]
    assert [process.communicate() for process in processes] == [("True\n", "")] * 3
    assert set(runs(out).values()) == {"FINISHED"}
    assert len(runs(out)) == 3 * 4
    assert query(out, "PRAGMA journal_mode") == [("wal",)]
    assert set(points(out).values()) == {1}
    assert theirs.exists()
    assert not list((out / "mlflow").glob(".*.part"))


def test_names_and_values_beyond_what_mlflow_takes(out: Path) -> None:
    fake = FakeRun(out, tasks=4)
    fake.names = ["cats & dogs", "cats + dogs", "../" + 290 * "x", "é"]
    track = Tracker(embedded(out), {"long": 9000 * "t"}, {"long": 9000 * "v", "odd/key!": None})
    assert track.sync(fake.learn(), finished=True)
    track.close()
    assert set(runs(out).values()) == {"FINISHED"}
    accuracies = {key for name, key, *_ in points(out) if name == "ewc/seed-0" and key.startswith("accuracy/")}
    assert len(accuracies) == 4
    assert {"accuracy/001 cats _ dogs", "accuracy/002 cats _ dogs", "accuracy/004 é"} < accuracies
    values = dict(query(out, "SELECT key, value FROM params WHERE key IN ('long', 'odd_key_')"))
    assert values == {"long": 6000 * "v", "odd_key_": "null"}


def test_a_damaged_file_costs_one_line(out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fake = FakeRun(out)
    (fake.learn() / "result.json").write_text('{"schema": 1, "acc')
    track = tracker(out, retry_seconds=0.0)
    for _ in range(3):
        assert not track.sync(fake.folder, finished=True)
    track.close()
    first, last = capfd.readouterr().err.splitlines()
    assert f"{fake.folder / 'result.json'} cannot be read" in first
    assert "delete it, and it is written anew" in first
    assert last == "tracking: not sent to MLflow (embedded): ewc/seed-0; the next run sends it"
    shutil.rmtree(fake.folder)  # nothing is left that could be sent
    tracker(out).close()
    tracker(out).close()
    assert capfd.readouterr().err == ""
    assert runs(out) == {}


@pytest.mark.parametrize("damage", ["text", "half", "pages", "other tables", "another version"])
def test_a_damaged_database_is_said_with_the_remedy(out: Path, damage: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = embedded(out).database
    if damage == "half":
        process = child(out, FakeRun(out, "si").learn(), "finish")
        assert process.communicate() == ("True\n", "")
    whole = path.read_bytes()
    wrong = {"text": b"not a database" * 1000, "half": whole[: len(whole) // 2]}
    wrong["pages"] = whole[:4096] + (len(whole) - 4096) * b"x"
    if damage in wrong:
        path.write_bytes(wrong[damage])
    elif damage == "other tables":
        path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        if damage == "other tables":
            connection.execute("CREATE TABLE experiments (note TEXT)")
        elif damage == "another version":
            connection.execute("UPDATE alembic_version SET version_num = 'of tomorrow'")
    track = tracker(out, retry_seconds=0.0)
    assert not track.sync(FakeRun(out).learn(), finished=True)
    track.close()
    first, last = [line for line in capfd.readouterr().err.splitlines() if " INFO mlflow." not in line]
    if damage == "another version":
        said = "MLflow (embedded): MlflowException: Detected out-of-date database schema"
        assert "then run 'mlflow db upgrade <database_uri>'" in first
    else:
        said = "; move it away, and it is made anew and filled from the results here"
        assert f"{path} is damaged (" in first
        assert f"{said}; training goes on" in first
    assert last == "tracking: not sent to MLflow (embedded): ewc/seed-0; the next run sends it"
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        ensure(embedded(out))
    assert "\n" not in str(caught.value)
    if damage == "half":
        path.rename(path.with_name("moved away"))
        process = child(out)
        assert process.communicate() == ("True\n", "")
        assert {run for run in runs(out) if run.endswith("/seed-0")} == {"ewc/seed-0", "si/seed-0"}
        assert set(runs(out).values()) == {"FINISHED"}


def test_an_empty_database_is_made_anew(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    (out / "mlflow" / "new").mkdir(parents=True)
    (out / "mlflow" / "new" / "thesis.txt").write_text("somebody's")
    embedded(out).database.write_bytes(b"")
    (out / "mlflow" / "mlflow.db-wal").write_bytes(b"of another database")
    track = tracker(out)
    assert track.sync(FakeRun(out).learn(), finished=True)
    track.close()
    assert "tracking: " not in capfd.readouterr().err
    assert len(runs(out)) == 4
    assert (out / "mlflow" / "new" / "thesis.txt").read_text() == "somebody's"
    assert (out / "mlflow" / "mlflow.db-wal.left").read_bytes() == b"of another database"


LEDGERS = {
    "nothing": lambda text: "",
    "null": lambda text: "null",
    "a list": lambda text: "[]",
    "no object": lambda text: "{}",
    "half": lambda text: text[: len(text) // 2],
    "deep": lambda text: "[" * 100_000,
    "another schema": lambda text: text.replace('"schema": 1', '"schema": 2'),
    "units a list": lambda text: re.sub(r'"units": \{.*\}\n  \}', '"units": []\n  }', text, flags=re.DOTALL),
    "a number for a path": lambda text: re.sub('"path": "[^"]*"', '"path": 7', text),
    "an id that is none": lambda text: re.sub('"id": "[^"]*"', '"id": "../x"', text),
}


@pytest.mark.parametrize("damage", LEDGERS)
def test_a_damaged_ledger_heals_and_makes_no_run_twice(
    out: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also on a database that others use too, where the ledger's id finds what is ours."""
    shared = {"shared": out / "mlflow"}
    ledger, fake = out / ".work" / "tracking.json", FakeRun(out)
    track = tracker(out, **shared)
    assert track.sync(FakeRun(out, "si").learn(), finished=True)
    assert track.sync(fake.learn(2))
    track.close()
    before = json.loads(ledger.read_text())
    damaged = LEDGERS[damage](ledger.read_text())
    assert damaged != ledger.read_text()
    ledger.write_text(damaged)
    comparison_url("http://127.0.0.1:5000", embedded(out, **shared))  # reads it
    track = tracker(out, **shared)
    assert track.sync(fake.learn(3), finished=True)
    assert track.sync(FakeRun(out, "si").folder, finished=True)
    track.close()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"tracking: {ledger} was damaged: it is tracking.json.damaged-")
    (aside,) = ledger.parent.glob("tracking.json.damaged-*")
    assert aside.read_text() == damaged
    assert json.loads(ledger.read_text()) == before | {"targets": json.loads(ledger.read_text())["targets"]}
    assert len(runs(out)) == 2 * 4
    assert set(runs(out).values()) == {"FINISHED"}
    assert set(points(out).values()) == {1}


def test_a_run_killed_between_two_files_ends_with_all_metrics(out: Path, tmp_path: Path, database: Path) -> None:
    """result.json has the last task, trials.json and cost.json do not; another process ends the run as killed."""
    fake = FakeRun(out)
    earlier = {name: (fake.learn(2) / name).read_bytes() for name in ("trials.json", "cost.json")}
    process = child(out, fake.folder, "die")
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    fake.learn(3)
    for name, content in earlier.items():
        (fake.folder / name).write_bytes(content)
    tracker(out).close()
    assert runs(out)["ewc/seed-0"] == "KILLED"
    track = tracker(out)
    assert track.sync(fake.folder, failed="killed by SIGKILL")
    assert track.sync(fake.learn(3), finished=True)
    track.close()
    undisturbed = furnish(tmp_path / "undisturbed", database)
    track = tracker(undisturbed)
    assert track.sync(FakeRun(undisturbed).learn(), finished=True)
    track.close()
    assert runs(out) == runs(undisturbed)
    ordinary = f"key != '{WHOLE_PROCESS}'"
    assert {p[:3] for p in points(out, ordinary)} == {p[:3] for p in points(undisturbed, ordinary)}
    assert set(points(out).values()) == {1}


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_doubled(tmp_path: Path, database: Path) -> None:
    """Also while the database is made. The moments are drawn anew each time; the failing one is in the message."""
    undisturbed = furnish(tmp_path / "undisturbed", database)
    track = tracker(undisturbed)
    assert track.sync(FakeRun(undisturbed, tasks=10).learn(), finished=True)
    track.close()
    for trial in range(4):
        out = tmp_path / f"killed-{trial}"
        fake = FakeRun(out, tasks=10).learn()
        moments = [random.uniform(0.5, 4.0) for _ in range(4)]
        for moment in moments:
            process = child(out, fake, "finish")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=moment)
            process.kill()
            process.communicate()
        process = child(out, fake, "finish")
        assert process.communicate()[1] == "", moments
        assert runs(out) == runs(undisturbed), moments
        assert points(out) == points(undisturbed), moments


def test_logging_ten_tasks_is_cheap(out: Path) -> None:
    track = tracker(out)
    assert track.sync(FakeRun(out, "si", tasks=1).learn(), finished=True)  # imports, connects
    fake = FakeRun(out, tasks=10).learn()
    before = time.process_time()
    assert track.sync(fake, finished=True)
    assert time.process_time() - before < 0.8  # it takes 0.2
    track.close()


def test_only_tracking_imports_mlflow_and_only_when_needed() -> None:
    """And the command that registers models, and the file that MLflow itself runs when it loads one."""
    tracking = {"flows/tracking/database.py", "flows/tracking/server.py"}
    serving = {f"flows/serving/{name}.py" for name in ("model_files", "registry", "source")}
    run_by_mlflow = "flows/serving/pyfunc_model.py"
    importers = set()
    for path in [*(ROOT / "cl").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]:
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "mlflow" for name in names):
                name = path.relative_to(ROOT).as_posix()
                importers.add(name)
                assert name == run_by_mlflow or node not in tree.body, f"{path} imports MLflow before it is needed"
    assert importers == {*tracking, *serving, run_by_mlflow}


# Servers.


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(out: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A server on the embedded database of `out`, started as `ui_command` says; killed at the end."""
    command = ui_command(Tracking(out, None, "")).replace("--port 5000", f"--port {port}")
    with (out / "server.log").open("ab") as log:
        server = subprocess.Popen(command, shell=True, stdout=log, stderr=log, cwd=Path.cwd(), start_new_session=True)
    try:
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            assert server.poll() is None, (out / "server.log").read_text()
            time.sleep(0.25)
        else:
            pytest.fail("the server does not come up:\n" + (out / "server.log").read_text())
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_server_killed_between_two_syncs_costs_nothing(
    tmp_path: Path, database: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    backend, out = furnish(tmp_path / "server", database), tmp_path / "out"
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    track = Tracker(Tracking(out, uri, "digits"), TAGS, PARAMS)
    fake = FakeRun(out)
    with serving(backend, port):
        assert track.sync(fake.learn(1))
    assert track.sync(fake.folder)  # nothing new: nobody is asked
    assert capfd.readouterr() == ("", "")
    before = time.monotonic()
    assert not track.sync(fake.learn(2))
    assert not track.sync(fake.learn(3), finished=True)
    assert time.monotonic() - before < 8
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"tracking: MLflow ({uri}) is not up to date with ewc/seed-0/k1: ")
    assert "Connection" in said
    assert len(said) < 300
    track.close()
    assert capfd.readouterr().err == f"tracking: not sent to MLflow ({uri}): ewc/seed-0; the next run sends it\n"
    assert runs(backend) == {"ewc/seed-0": "RUNNING", "ewc/seed-0/permutation-01": "FINISHED"}

    with serving(backend, port):
        process = child(out, FakeRun(out, "si").learn(), "finish", uri)
        assert process.communicate() == ("True\n", "")
    undisturbed = furnish(tmp_path / "undisturbed", database)
    track = tracker(undisturbed)
    for method in ("ewc", "si"):
        assert track.sync(FakeRun(undisturbed, method).learn(), finished=True)
    track.close()
    assert runs(backend) == runs(undisturbed)
    assert set(points(backend).values()) == {1}
    ordinary = f"key != '{WHOLE_PROCESS}'"
    assert {p[:3] for p in points(backend, ordinary)} == {p[:3] for p in points(undisturbed, ordinary)}
    values = [sorted(p[3] for p in points(folder, ordinary).elements()) for folder in (backend, undisturbed)]
    assert values[0] == pytest.approx(values[1])
    sql = "SELECT r.name, p.key, p.value FROM params p JOIN runs r USING (run_uuid) WHERE r.name LIKE 'ewc%'"
    assert Counter(query(backend, sql)) == Counter(query(undisturbed, sql))


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a request to MLflow imports is there: it takes seconds, but only once."""
    import mlflow

    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(mlflow.exceptions.MlflowException, match="refused"):
            mlflow.MlflowClient("http://127.0.0.1:9").get_experiment_by_name("digits")


@pytest.mark.usefixtures("no_rest", "imported")
def test_a_server_that_never_answers_does_not_stall_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    fake = FakeRun(out)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and leaves it at that
        uri = f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}"
        track = Tracker(Tracking(out, uri, "digits", retry_seconds=0.5), TAGS, PARAMS)
        before = time.monotonic()
        assert not track.sync(fake.learn(1))
        assert 3 < time.monotonic() - before < 20  # 4, on a machine that is not busy
        before = time.monotonic()
        assert not track.sync(fake.learn(2))  # not tried again so soon
        assert time.monotonic() - before < 0.5
        time.sleep(0.5)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        before = time.monotonic()
        assert not track.sync(fake.learn(3))  # tried again
        assert 1 <= time.monotonic() - before < 20
        track.close()
    first, last, *rest = capfd.readouterr().err.splitlines()
    assert "ewc/seed-0/k1: TimeoutError: timed out" in first
    assert last.endswith("ewc/seed-0; the next run sends it")
    assert not rest
    assert "secret" not in first + last + (out / ".work" / "tracking.json").read_text()


@pytest.mark.usefixtures("no_rest", "imported")
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_bad_costs_a_line_and_seconds(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(trackers, "COSTLY_SECONDS", 0.5)
    out = tmp_path / "out"
    fakes = [FakeRun(out, method).learn() for method in ("ewc", "si", "mas")]
    with BadServer(kind=kind) as bad:
        where = Tracking(out, bad.url.replace("//", "//user:se@c/ret@"), "digits")
        track = Tracker(where, TAGS, PARAMS)
        before = time.monotonic()
        for fake in fakes:
            assert not track.sync(fake, finished=True)
        track.close()
        experiment.tag(where, {"a run": {"a": "tag"}})
        for ask in (lambda: ensure(where), lambda: record(where, "night", {}, {}, {}), lambda: tagged(where, "a", "b")):
            with pytest.raises(UserError) as caught:
                ask()
            assert str(caught.value).startswith(f"MLflow ({bad.url}): ")
        assert time.monotonic() - before < 5 * 1.5
    first, second, third = capfd.readouterr().err.splitlines()
    assert first.startswith(f"tracking: MLflow ({bad.url}) is not up to date with ewc/seed-0/k1: ")
    assert first.endswith("; training goes on, what is missing is sent later")
    assert second.startswith(f"tracking: not sent to MLflow ({bad.url}): ewc/seed-0, ")
    assert third.startswith(f"tracking: MLflow ({bad.url}) lacks DVC's hashes: ")
    written = "".join(path.read_text() for path in (out / ".work").glob("tracking.*") if path.is_file())
    assert "ret" not in re.sub("retr", "", first + second + third + str(caught.value)) + written


def test_a_server_that_drips_holds_no_process(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with BadServer(kind="drips") as bad:
        process = child(out, FakeRun(out).learn(), "hastily", bad.url)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1  # it asserts that the fake was sent
    assert "TimeoutError: no complete answer within 2 s" in said


def test_what_is_said_of_an_error_holds_no_password() -> None:
    error = ConnectionError("HTTPConnection: http://user:secret@tracking.example:5000/api refused")
    assert server.said_of(error) == "ConnectionError: HTTPConnection: http://tracking.example:5000/api refused"


def test_the_command_that_is_shown_holds_no_password(out: Path) -> None:
    shown = ui_command(Tracking(out, "postgresql://user:secret@db.example/mlflow", ""))
    assert "secret" not in shown
    assert "postgresql://db.example/mlflow" in shown


def test_the_address_of_the_comparison_is_known_without_mlflow(out: Path) -> None:
    assert comparison_url("http://127.0.0.1:5000/", embedded(out)) == (
        "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"
    )
    track = tracker(out)
    assert track.sync(FakeRun(out).learn(), finished=True)
    track.close()
    assert comparison_url("http://127.0.0.1:5000", embedded(out)) == (
        "http://127.0.0.1:5000/#/experiments/1/runs"
        "?viewStateShareKey=compare&compareRunsMode=CHART&workflowType=machine_learning"
    )
    others = Tracking(out, None, "of params that have sent nothing")
    assert "/#/experiments/1/runs?" in comparison_url("http://127.0.0.1:5000", others)
    Ledger(others).connected("7", 1)  # an empty one
    assert "/#/experiments/1/runs?" in comparison_url("http://127.0.0.1:5000", others)


def test_the_shortest_command_that_shows_an_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(addresses.shutil, "which", lambda name: f"/bin/{name}")
    here, elsewhere = Tracking(Path("out"), None, ""), Tracking(Path("out/a b"), None, "")
    assert (show_command(here), show_command(elsewhere)) == ("unforgetting serve", "unforgetting serve --out 'out/a b'")
    Path("Makefile").touch()
    assert (show_command(here), show_command(elsewhere)) == ("make serve", "make serve OUT='out/a b'")
    night = Tracking(Path("out/nights/1"), None, "", shared=Path("out/mlflow"))
    assert show_command(night) == "make serve"
    for other in (Tracking(Path("out"), "sqlite:///x.db", ""), Tracking(Path("out"), None, "", shared=Path("db"))):
        assert " -m mlflow server " in show_command(other), "`serve` would not find it"


def test_a_new_database_lists_no_experiment_but_ours(tmp_path: Path) -> None:
    """MLflow is whole without the one that it begins with, and does not make it again."""
    from mlflow import MlflowClient

    for _ in range(2):
        ensure(embedded(tmp_path))
        client = MlflowClient(embedded(tmp_path).address)
        assert [found.name for found in client.search_experiments()] == [embedded(tmp_path).experiment]
    client.restore_experiment("0")  # as the user may; it then stays
    ensure(embedded(tmp_path))
    assert len(client.search_experiments()) == 2


def test_the_command_for_the_browser_is_as_seen_from_here(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(out.parent)
    command = ui_command(Tracking(Path("out"), None, ""))
    assert command.startswith("MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true ")
    assert command.endswith(
        "-m mlflow server --workers 1 --host 127.0.0.1 --port 5000 "
        "--backend-store-uri sqlite:///out/mlflow/mlflow.db --artifacts-destination out/mlflow/artifacts"
    )


@pytest.mark.browser
@pytest.mark.slow
def test_the_comparison_opens_with_every_method(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selenium import webdriver
    from selenium.webdriver.support.wait import WebDriverWait

    methods = ["finetune", "joint", "ewc"]
    track = tracker(out)
    for method in methods:
        for seed in range(2):
            fake = FakeRun(out, method, seed)
            assert track.sync(fake.learn_jointly() if method == "joint" else fake.learn(), finished=True)
    assert track.sync(FakeRun(out, "broken").learn(1), failed="loss is NaN")
    track.close()
    monkeypatch.chdir(out.parent)
    port = free_port()
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1700,1300"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with serving(out, port), contextlib.ExitStack() as stack:
        browser = webdriver.Chrome(options, service)
        stack.callback(browser.quit)

        def page(*_: object) -> str:
            return str(browser.execute_script("return document.body.innerText"))

        browser.get(comparison_url(f"http://127.0.0.1:{port}", embedded(out)))
        WebDriverWait(browser, 60).until(lambda _: "At what cost" in page() and "Group: ewc" in page())
        assert all(f"Group: {method}" in page() for method in methods)
        assert "broken" not in page()  # it failed
        assert "6 matching runs" in page()  # and no tasks among them

        # The page as it opens without our view: the runs, with the tasks folded away, and charts of them.
        browser.get("about:blank")
        browser.get(f"http://127.0.0.1:{port}/#/experiments/1/runs?compareRunsMode=CHART")
        WebDriverWait(browser, 60).until(lambda _: "ewc/seed-1 (average_accuracy)" in page())
        assert "ewc/seed-1/permutation-01" not in page()
