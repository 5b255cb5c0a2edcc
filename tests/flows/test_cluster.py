"""Runs on real Dask and Ray workers: the same bytes, also where a worker or the driver is killed.

Ray is no part of the development extra; where it is not installed its tests are skipped and say so.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cl.children import RunId
from cl.errors import UserError
from cl.events import Event
from cl.files import write_bytes
from cl.keys import run_key
from cl.params import Execution, Params
from flows import cluster
from tests.flows.conftest import (
    ENDLESS,
    LONGER,
    REPOSITORY,
    SECONDS,
    Finished,
    Started,
    environment,
    learned,
    options,
    published,
    run,
)
from tests.flows.test_prefect import Server, see, server  # noqa: F401  -- a fixture

HERE = "127.0.0.1"
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (the project's extra `ray`)"
)
RUNNERS = ["dask", pytest.param("ray", marks=[needs_ray, pytest.mark.slow])]


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HERE, 0))
        return int(free.getsockname()[1])


def wait(found: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, f"no {what} in {seconds} s"
        time.sleep(0.05)


@dataclass(frozen=True)
class Machines:
    """A cluster that somebody else runs: two workers, each with a GPU as it says."""

    runner: str
    address: str

    def settings(self) -> tuple[str, str]:
        return f"execution.runner={self.runner}", f"execution.address={self.address}"


def _start(folder: Path, *command: str, **env: str) -> subprocess.Popen[bytes]:
    """A part of a cluster; its workers can import the project, wherever they are started."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment(PYTHONPATH=path, **env),
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@contextlib.contextmanager
def dask_machines(folder: Path, *worker: str, workers: int = 2) -> Iterator[Machines]:
    found = folder / "scheduler.json"
    to = ("--scheduler-file", str(found), "--no-dashboard", "--host", HERE)
    started = [_start(folder, "distributed.cli.dask_scheduler", *to, "--port", "0")]
    try:
        for _ in range(workers):
            started.append(  # noqa: PERF401  -- each has to be ended, also where a later one does not start
                _start(
                    folder,
                    "distributed.cli.dask_worker",
                    *to,
                    "--nthreads",
                    "1",
                    "--local-directory",
                    str(folder),
                    *worker,
                    CUDA_VISIBLE_DEVICES="7",
                )
            )
        wait(lambda: found.exists() and found.stat().st_size, "scheduler")  # it is made first, then written
        yield Machines("dask", json.loads(found.read_bytes())["address"])
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def ray_machines(folder: Path) -> Iterator[Machines]:
    """Reached through Ray's client server, as from another machine."""
    client = free_port()
    command = ["ray.scripts.scripts", "start", "--head", "--block", "--port", "0", "--disable-usage-stats"]
    command += ["--ray-client-server-port", str(client), "--min-worker-port", "0", "--max-worker-port", "0"]
    command += ["--num-cpus", "2", "--num-gpus", "2", "--object-store-memory", str(2**27)]
    process = _start(folder, *command, "--include-dashboard", "false")

    def up() -> bool:
        said = (folder / "log").read_text(encoding="utf-8")
        assert process.poll() is None, said
        with socket.socket() as probe:
            return "Ray runtime started" in said and probe.connect_ex((HERE, client)) == 0

    try:
        wait(up, "Ray")
        yield Machines("ray", f"ray://{HERE}:{client}")
    finally:
        process.terminate()  # it ends those it has started, each of which is in a session of its own
        process.wait(60)


@pytest.fixture(scope="module", params=RUNNERS)
def machines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("machines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else it makes one in the user's home
        ray = request.param == "ray"
        with ray_machines(folder) if ray else dask_machines(folder, "--resources", "GPU=1") as found:
            yield found


@dataclass(frozen=True)
class Child:
    """A run's process on a worker."""

    pid: int
    worker: int

    @property
    def environment(self) -> list[str]:
        return Path(f"/proc/{self.pid}/environ").read_text(encoding="utf-8").split("\0")


def children(out: Path) -> list[Child]:
    """The processes at work in this output folder, whoever started them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text(encoding="utf-8").split("\0")
            parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:  # gone meanwhile
            continue
        if "cl.run" in words and str(out) in words:
            found.append(Child(int(folder.name), parent))
    return found


def tasks(runs: tuple[str, ...] = ("ewc/seed-0", "ewc/seed-1", "finetune/seed-0", "finetune/seed-1")) -> object:
    return [(run, f"{k}/2") for run in runs for k in (1, 2)]


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_cluster_of_its_own_gives_the_same_bytes(runner: str, finished: Finished, tmp_path: Path) -> None:
    done = run("flows.compare", options(f"execution.runner={runner}", out=tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert learned(done.stdout) == tasks()
    assert published(tmp_path) == published(finished.out)
    left = sorted(path.name for path in (tmp_path / ".work").iterdir())
    assert left == ["ewc", "finetune", "first-task"], "left behind"


@pytest.mark.slow
def test_with_a_prefect_server_its_tasks_mirror_the_runs(server: Server, finished: Finished, tmp_path: Path) -> None:  # noqa: F811
    seen = see(server, tmp_path / "home", options("execution.runner=dask", out=tmp_path / "out"))
    assert seen.done.returncode == 0, seen.done.stderr
    runs = {row["name"]: row["state_name"] for row in seen.tasks if row["flow_run_id"] == seen.flows["train"]["id"]}
    assert runs == {run: "Completed" for run, _ in learned(seen.done.stdout + seen.done.stderr)}
    assert len(runs) == 4
    assert published(tmp_path / "out") == published(finished.out)


def test_a_worker_that_is_killed_loses_nothing_and_doubles_nothing(
    machines: Machines, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "flows.compare", *options(*LONGER, *machines.settings(), out=out)]
    with Started(command, tmp_path) as started:

        def half_done() -> list[Child]:
            begun = {path.parents[1] for path in out.glob(".work/*/*/*/task-000")}
            return [child for child in children(out) if begun]

        started.wait_for(half_done, "run with a task learned and another at work")
        victim = half_done()[0]
        os.kill(victim.worker, signal.SIGKILL)
        wait(lambda: not Path(f"/proc/{victim.pid}").exists(), "end of the child with its worker", 5)
        started.process.wait(SECONDS)
        assert started.process.returncode == 0, started.stderr
        assert started.stdout.count("its worker was lost") == 1
        # What a run learned in the moment of the kill may not have been told; then it says what it goes on from.
        kept = re.findall(r"(\w+/seed-\d+): goes on after task (\d+/\d+)", started.stdout)
        told = learned(started.stdout)
        assert sorted({*told, *kept}) == tasks(), "every task is learned"
        assert sorted(set(told)) == told, "no task is learned twice"
    assert published(out) == undisturbed


def test_a_run_that_fails_fails_alone(machines: Machines, finished: Finished, tmp_path: Path) -> None:
    settings = ("methods.icarl.memory_budget=1", *machines.settings())
    done = run("flows.compare", options(*settings, out=tmp_path, methods="icarl,ewc", seeds="0"))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "icarl/seed-0" in line
    assert "memory_budget" in line
    assert published(tmp_path, "ewc/seed-0") == published(finished.out, "ewc/seed-0")


@pytest.mark.parametrize("end", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_nothing_outlives_the_driver(machines: Machines, end: signal.Signals, tmp_path: Path) -> None:
    """But the workers, which are others'."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "flows.compare", *options(*ENDLESS, *machines.settings(), out=out)]
    with Started(command, tmp_path) as started:
        started.wait_for(lambda: len(children(out)) == 2, "two children")
        workers = {child.worker for child in children(out)}
        time.sleep(1)
        started.process.send_signal(end)
        wait(lambda: not children(out), "end of the children", 10)
        started.dies_with_children(20)
        assert started.process.returncode == (130 if end is signal.SIGINT else -end)
        if end is signal.SIGINT:
            (line,) = started.stderr.strip().splitlines()
            assert "the same command goes on from here" in line
            assert "failed" not in started.stdout
    if machines.runner == "dask":  # Ray ends and starts processes as it likes
        assert all(Path(f"/proc/{worker}").exists() for worker in workers)


@pytest.mark.parametrize("runner", RUNNERS)
def test_an_interrupt_at_the_terminal_ends_a_cluster_of_its_own(runner: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "flows.compare", *options(*ENDLESS, f"execution.runner={runner}", out=out)]
    with Started(command, tmp_path) as started:
        started.wait_for(lambda: len(children(out)) == 2, "two children")
        time.sleep(1)
        os.killpg(started.process.pid, signal.SIGINT)
        started.dies_with_children(20)
        assert started.process.returncode == 130
        assert "failed" not in started.stdout


def test_half_a_gpu_is_asked_for_and_what_the_worker_sees_the_run_sees(machines: Machines, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ("execution.gpus_per_run=0.5", "execution.device=cpu", *machines.settings())
    command = [sys.executable, "-m", "flows.compare", *options(*ENDLESS, *settings, out=out)]
    with Started(command, tmp_path) as started:
        started.wait_for(lambda: len(children(out)) == 2, "two children")
        seen = [word for child in children(out) for word in child.environment if word.startswith("CUDA_VISIBLE")]
        # Ray deals its two GPUs out; a Dask worker was told at its start.
        assert set(seen) == ({"CUDA_VISIBLE_DEVICES=7"} if machines.runner == "dask" else {"CUDA_VISIBLE_DEVICES=0"})


def test_more_gpu_than_there_is_waits_and_says_so(
    machines: Machines, finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if machines.runner == "ray":
        pytest.skip("Ray's driver cannot be started twice in the tests' process")
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 1.0)
    out = finished.copy(tmp_path / "out")
    execution = Execution(runner="dask", address=machines.address, gpus_per_run=1.5)
    heard: list[Event] = []
    run = RunId("si", 0)

    def hear(run: RunId, event: Event) -> None:
        heard.append(event)
        runs.stop()  # it would wait for ever

    runs = cluster.Runs(Params(methods={"si": {}}, execution=execution), out, hear, [run])
    try:
        assert runs.run(run) == "stopped"
    finally:
        runs.close()
    assert [event["event"] for event in heard] == ["warning"]
    assert "no worker with 1.5 GPU has taken a run" in heard[0]["message"]


def test_where_all_is_learned_no_cluster_is_needed(finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    nobody = (f"execution.address=tcp://{HERE}:9", "execution.runner=dask")
    done = run("flows.compare", options(*nobody, out=out))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("finished before") == 4


def test_the_folders_of_killed_drivers_are_removed_and_those_of_living_ones_stay(
    tmp_path: Path,
) -> None:
    """Nothing is to be learned, so no cluster is needed."""
    work = tmp_path / ".work"
    dead, living, theirs = (work / f"run-{letter * 32}" for letter in "abc")
    for run_folder in (dead, living):
        write_bytes(run_folder / "params.json", b"{}")
        write_bytes(run_folder / "ewc/0/host-1.jsonl", b"{}")
        (run_folder / cluster.LEASH).touch()
    (theirs / "notes").mkdir(parents=True)
    (theirs / "notes/thesis.txt").touch()
    with (living / cluster.LEASH).open("r+b") as leash:
        fcntl.flock(leash, fcntl.LOCK_EX)
        runs = cluster.Runs(Params(methods={"si": {}}), tmp_path, lambda run, event: None, [])
        (own,) = set(work.glob("run-*")) - {dead, living, theirs}
        assert not dead.exists()
        assert (own / "params.json").exists()
        runs.close()
        assert set(work.glob("run-*")) == {living, theirs}
    assert (theirs / "notes/thesis.txt").exists()


def test_a_cluster_that_does_not_answer_is_named(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    address = f"tcp://{HERE}:{free_port()}"
    with pytest.raises(UserError, match=rf"execution\.address: no dask cluster answers at {address}"):
        cluster.Dask(Execution(runner="dask", address=address))


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"execution\.runner: ray needs ray.*extra 'ray'"):
        cluster.Ray(Execution(runner="ray"))


def test_gpus_of_a_dask_cluster_of_its_own_cannot_be_known() -> None:
    with pytest.raises(UserError, match=r"execution\.gpus_per_run: .*execution\.address"):
        cluster.Dask(Execution(runner="dask", gpus_per_run=1.0))


@pytest.fixture
def job(finished: Finished, tmp_path: Path) -> cluster.Job:
    """One that a worker would accept, were its driver there."""
    params = Params(methods={"si": {}})
    out, driver = finished.copy(tmp_path / "out"), tmp_path / "run"
    driver.mkdir()
    (driver / cluster.LEASH).touch()
    (driver / "params.json").write_text(params.model_dump_json())
    return cluster.Job("si", 0, str(out), str(driver), run_key(params, "si", 0))


def test_a_worker_that_does_not_see_the_folder_refuses(job: cluster.Job, tmp_path: Path) -> None:
    ended = cluster.work(replace(job, shared=str(tmp_path / "elsewhere")))
    assert ended.refused is not None
    assert f"does not see {tmp_path / 'elsewhere'}" in ended.refused


def test_a_worker_that_can_take_the_lock_of_its_driver_refuses(job: cluster.Job) -> None:
    ended = cluster.work(job)
    assert ended.refused is not None
    assert "the disk has to support locks across machines" in ended.refused


def test_a_worker_with_other_code_refuses(job: cluster.Job) -> None:
    with (Path(job.shared) / cluster.LEASH).open("wb") as leash:
        fcntl.flock(leash, fcntl.LOCK_EX)
        ended = cluster.work(replace(job, key="of another version"))
    assert ended.refused is not None
    assert "install the same commit" in ended.refused
    assert not children(Path(job.out))


def test_what_a_run_tells_is_heard_once_and_in_whole_lines(tmp_path: Path) -> None:
    heard = cluster._Heard(tmp_path)
    assert heard.new() == []
    first = tmp_path / "one-1-a.jsonl"
    first.write_text('{"event": "trial"}\n{"event": "ta')
    assert heard.new() == [{"event": "trial"}]
    assert heard.new() == []
    with first.open("a") as file:
        file.write('sk"}\n')
    assert heard.new() == [{"event": "task"}]
    (tmp_path / "two-1-b.jsonl").write_text('{"event": "error", "message": "no"}\n')
    (warning,) = heard.new()
    assert "on two it goes on from its last finished trial" in warning["message"]
    assert heard.error == "no"
