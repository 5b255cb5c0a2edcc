"""The stages as flows on a real Prefect server, and without one.

The server is one per session: with several testers, `--dist loadfile` keeps these tests on one of them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cl.errors import TRY_AGAIN
from tests.flows.conftest import ENDLESS, REPOSITORY, Finished, Started, environment, learned, options, published, run

UP_SECONDS = 180
Json = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A Prefect server on loopback."""

    url: str

    def rows(self, kind: str) -> list[Json]:
        """All flow runs, task runs or artifacts, the oldest first."""
        return sorted(self.ask(f"/{kind}/filter", {}), key=lambda row: str(row["created"]))

    def ask(self, path: str, body: Json) -> list[Json]:
        """Ask for a list."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode(), headers, method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return list(json.load(answer))

    def row(self, kind: str, identity: str) -> Json:
        """One flow, by its id."""
        with urllib.request.urlopen(f"{self.url}/{kind}/{identity}", timeout=30) as answer:
            return dict(json.load(answer))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"PREFECT_HOME": str(home), "PREFECT_SERVER_API_HOST": "127.0.0.1", "PREFECT_SERVER_API_PORT": str(port)}
    # Not the option --port: the UI would look for the server elsewhere.
    command = [sys.executable, "-m", "prefect", "server", "start"]
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment(**settings), stdout=log, stderr=log, cwd=home, start_new_session=True
        )
    try:
        found = Server(f"http://127.0.0.1:{port}/api")
        deadline = time.monotonic() + UP_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{found.url}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                said = (home / "server.log").read_text()
                assert process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.25)
        yield found
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(frozen=True)
class Seen:
    """A command's end and what the server knows of it."""

    done: subprocess.CompletedProcess[str]
    flows: dict[str, Json]
    """Flow runs by the name of the flow."""
    tasks: list[Json]
    artifacts: list[Json]


def see(server: Server, home: Path, arguments: list[str]) -> Seen:
    """Run the comparison with the server configured."""
    before = {kind: {row["id"] for row in server.rows(kind)} for kind in ("flow_runs", "task_runs", "artifacts")}
    # On a busy machine the server may take long to answer.
    env = {"PREFECT_API_URL": server.url, "PREFECT_HOME": str(home), "PREFECT_API_REQUEST_TIMEOUT": "60"}
    done = run("flows.compare", arguments, env=env)
    assert "warning: the Prefect server" not in done.stdout
    # Events of task runs reach the server a moment after the run: it is asked until all are in.
    deadline = time.monotonic() + 30
    while True:
        new = {kind: [row for row in server.rows(kind) if row["id"] not in ids] for kind, ids in before.items()}
        ends = {"COMPLETED", "FAILED", "CANCELLED"}
        ended = all(row["state_type"] in ends for row in new["task_runs"] + new["flow_runs"])
        if (ended and new["task_runs"]) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    flows = {server.row("flows", row["flow_id"])["name"]: row for row in new["flow_runs"]}
    assert len(flows) == len(new["flow_runs"])
    return Seen(done, flows, new["task_runs"], new["artifacts"])


@pytest.fixture(scope="module")
def good(server: Server, finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, Path]:
    """ewc is learned anew, finetune was finished before."""
    folder = tmp_path_factory.mktemp("good")
    out = folder / "out"
    finished.copy(out)
    for path in sorted((out / ".work/ewc").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    return see(server, folder / "home", options(out=out)), out


def test_the_stages_are_flows(good: tuple[Seen, Path]) -> None:
    seen, out = good
    assert seen.done.returncode == 0, seen.done.stderr
    assert "Traceback" not in seen.done.stderr
    assert {name: row["state_name"] for name, row in seen.flows.items()} == dict.fromkeys(
        ("compare", "prepare", "train", "report"), "Completed"
    )
    assert {name: row["name"] for name, row in seen.flows.items()} == {
        "compare": f"permuted-digits: finetune, ewc; 2 seeds; tasks=2; train_per_class=10; hidden=[16]; "
        f"3 more settings; in {out}",
        "prepare": f"permuted-digits; in {out}",
        "train": f"permuted-digits: finetune, ewc; in {out}",
        "report": f"permuted-digits; in {out}",
    }
    assert all({"permuted-digits", "finetune", "ewc"} <= set(row["tags"]) for row in seen.flows.values())
    assert all([tag for tag in row["tags"] if tag.startswith("git:")] for row in seen.flows.values())
    parents = {row["parent_task_run_id"] is not None for name, row in seen.flows.items() if name != "compare"}
    assert parents == {True}, "the stages stand below the comparison"


def test_the_runs_are_tasks(good: tuple[Seen, Path]) -> None:
    seen, _ = good
    runs = [row for row in seen.tasks if row["flow_run_id"] == seen.flows["train"]["id"]]
    assert {row["name"]: row["state_name"] for row in runs} == dict.fromkeys(
        [f"{method}/seed-{seed}" for method in ("finetune", "ewc") for seed in (0, 1)], "Completed"
    )
    for row in runs:
        assert sorted(row["tags"]) == sorted(["permuted-digits", row["name"].partition("/")[0]])


def test_the_leaderboard_is_an_artifact(good: tuple[Seen, Path]) -> None:
    seen, out = good
    (table,) = (row for row in seen.artifacts if row["key"] == "leaderboard")
    assert table["type"] == "table"
    assert table["flow_run_id"] == seen.flows["report"]["id"]
    found = json.loads(table["data"])
    summary = json.loads((out / "report/summary.json").read_bytes())
    assert {row["method"] for row in found} == set(summary)
    for row in found:
        assert row["average accuracy %"].startswith(f"{100 * summary[row['method']]['average_accuracy']:.2f}")
    (link,) = (row for row in seen.artifacts if row["key"] == "report")
    assert (out / "report/index.html").resolve().as_uri() in link["data"], "out of this folder nothing serves it"


def test_the_comparison_itself_tells_the_result(server: Server, good: tuple[Seen, Path]) -> None:
    seen, out = good
    whole = seen.flows["compare"]
    table = (out / "report/leaderboard.md").read_text()
    headline = whole["state"]["message"]
    assert headline
    assert headline in table
    (line,) = server.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [whole["id"]]}}})
    assert line["message"].startswith(table.strip())
    (result,) = (row for row in seen.artifacts if row["key"] == "result")
    assert result["flow_run_id"] == whole["id"]
    assert "| ewc" in result["data"]
    assert seen.flows["train"]["state"]["message"] == "4 runs finished"


def test_a_run_has_a_table_of_its_tasks_and_trials(good: tuple[Seen, Path]) -> None:
    seen, _ = good
    tables = {row["key"]: row for row in seen.artifacts if row["key"].endswith("-trials")}
    assert set(tables) == {f"ewc-seed-{s}-trials" for s in (0, 1)}, "nothing is tried of what is finished"
    for row in tables.values():
        found = json.loads(row["data"])
        assert [line["task"] for line in found if line["what"] == "learned"] == [
            f"{k}/2 permutation-0{k}" for k in (2, 1)
        ]
        assert {line["what"] for line in found} == {"learned", "plasticity trial", "stability trial"}
        assert row["task_run_id"] is not None


def test_each_run_has_a_progress_that_ends_at_the_end(good: tuple[Seen, Path]) -> None:
    seen, _ = good
    found = {row["key"]: row for row in seen.artifacts if row["type"] == "progress"}
    assert set(found) == {f"{m}-seed-{s}" for m in ("finetune", "ewc") for s in (0, 1)}
    for key, row in found.items():
        assert row["data"] == 100
        assert row["task_run_id"] is not None
        said = "finished before" if key.startswith("finetune") else "task 2/2, "
        assert row["description"].startswith(f"{key.replace('-seed', '/seed')}: {said}")


def test_the_bytes_are_the_same_with_a_server(good: tuple[Seen, Path], finished: Finished) -> None:
    seen, out = good
    assert learned(seen.done.stdout + seen.done.stderr) == [(f"ewc/seed-{s}", f"{k}/2") for s in (0, 1) for k in (1, 2)]
    assert published(out) == published(finished.out)
    assert (out / "report/leaderboard.md").read_text() in seen.done.stdout


def test_a_run_that_fails_is_a_failed_task_in_a_failed_flow(server: Server, finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    arguments = options("methods.icarl.memory_budget=1", out=out, methods="icarl,ewc", seeds="0")
    seen = see(server, tmp_path / "home", arguments)
    assert seen.done.returncode == 2
    errors = [line for line in seen.done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "icarl/seed-0" in errors[0]
    states = {name: (row["state_name"], row["state"]["message"] or "") for name, row in seen.flows.items()}
    assert {name: state for name, (state, _) in states.items()} == {
        "compare": "Failed",
        "prepare": "Completed",
        "train": "Failed",
        "report": "Completed",
    }
    for name in ("compare", "train"):
        assert "icarl/seed-0" in states[name][1]
        assert "memory_budget" in states[name][1]
    runs = {row["name"]: row["state_name"] for row in seen.tasks if row["flow_run_id"] == seen.flows["train"]["id"]}
    assert runs == {"icarl/seed-0": "Failed", "ewc/seed-0": "Completed"}


def test_what_a_limit_of_time_stops_is_cancelled(server: Server, finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    given = options("methods.ewc.strength=7", "execution.minutes=0.00001", out=out, seeds="0")
    seen = see(server, tmp_path / "home", given)
    assert seen.done.returncode == TRY_AGAIN
    assert {name: row["state_name"] for name, row in seen.flows.items()} == {
        "compare": "Cancelled",
        "prepare": "Completed",
        "train": "Cancelled",
        "report": "Completed",
    }
    assert "1 of 2 runs are finished" in seen.flows["compare"]["state"]["message"]
    runs = {row["name"]: row["state_name"] for row in seen.tasks if row["flow_run_id"] == seen.flows["train"]["id"]}
    assert runs == {"finetune/seed-0": "Completed", "ewc/seed-0": "Cancelled"}


@pytest.mark.parametrize("end", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_an_interrupt_ends_it_and_its_children(
    end: signal.Signals, server: Server, finished: Finished, tmp_path: Path
) -> None:
    out = finished.copy(tmp_path / "out")
    settings = {"PREFECT_API_URL": server.url, "PREFECT_HOME": str(tmp_path / "home")}
    command = ["env", *(f"{name}={value}" for name, value in settings.items()), sys.executable, "-m", "flows.compare"]
    with Started([*command, *options(*ENDLESS, out=out)], tmp_path) as started:
        started.wait_for(lambda: len([line for line in started.alive() if "cl.forks" in line]) == 3, "two children")
        time.sleep(1)
        os.kill(started.process.pid, end)
        started.dies_with_children(seconds=15)
        assert started.process.returncode == 128 + end
        assert "the same command goes on from here" in started.stderr
    assert published(out) == published(finished.out)


def test_without_a_server_that_answers_prefect_is_not_even_imported(finished: Finished, tmp_path: Path) -> None:
    """Nor MLflow, where tracking is off."""
    out = finished.copy(tmp_path / "out")
    dead = "http://127.0.0.1:9/api"
    code = (
        "import sys\n"
        "from flows.compare import main\n"
        "assert main() == 0\n"
        "print('imported:', *sorted({name.split('.')[0] for name in sys.modules} & {'prefect', 'mlflow', 'flows'}))\n"
    )
    command, env = [sys.executable, "-c", code, *options(out=out)], environment(PREFECT_API_URL=dead)
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (warning,) = (line for line in done.stdout.splitlines() if line.startswith("warning: no Prefect"))
    assert dead in warning
    assert done.stdout.splitlines()[-1] == "imported: flows"
    assert published(out) == published(finished.out)
