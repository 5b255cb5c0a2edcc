"""A run as the process it is: killed for real, locked, damaged, in parallel."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from cl.checkpoint_files import verify
from cl.data.prepare import prepare
from cl.errors import UserError
from cl.keys import run_folder, run_key
from cl.machine import choose_device
from cl.params import Benchmark, Params
from cl.publish import publish_if_finished
from cl.selection import Outcome
from cl.trials import Job
from tests.cl.small import OFF, REPOSITORY, learner_for, output, params_for, published, run, run_for
from tests.conftest import RAW

KILLED = (pytest.param("packnet", marks=pytest.mark.slow), "si")
"""A method that trains inside end_task too, and one that carries much state from step to step."""


def params_of(method: str) -> Params:
    """Long enough to be killed in the middle: seconds of training."""
    return params_for(method, training={"epochs": 40, "batch_size": 8})


def started(params: Params, out: Path, *options: str) -> subprocess.Popen[str]:
    file = out / "params.json"
    file.write_text(params.model_dump_json())
    command = [sys.executable, "-m", "cl.run", "--params", str(file), "--method", next(iter(params.methods))]
    command += ["--seed", "0", "--out", str(out), *options]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(params: Params, out: Path, *options: str) -> tuple[int, list[dict[str, Any]], str]:
    child = started(params, out, *options)
    stdout, stderr = child.communicate(timeout=300)
    return child.returncode, events_of(stdout), stderr


def events_of(stdout: str) -> list[dict[str, Any]]:
    """What a run said, but for the progress of single trials."""
    return [event for line in stdout.splitlines() if (event := json.loads(line))["event"] != "trial"]


@pytest.fixture(scope="module")
def undisturbed(prepared: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    done: dict[str, Path] = {}

    def of(method: str) -> Path:
        if method not in done:
            out = output(tmp_path_factory.mktemp(method), prepared[3])
            code, events, stderr = finished(params_of(method), out)
            assert (code, stderr) == (0, "")
            assert [event["event"] for event in events] == ["task"] * 3
            done[method] = out
        return done[method]

    return of


@pytest.mark.parametrize("method", KILLED)
def test_killed_again_and_again_ends_in_the_same_bytes(
    method: str, prepared: dict[int, Path], tmp_path: Path, undisturbed: Any
) -> None:
    out, params = output(tmp_path, prepared[3]), params_of(method)
    draw = random.Random(f"moments {method}")
    for _ in range(4):
        child = started(params, out)
        assert child.stdout is not None
        for _ in range(draw.randrange(5)):  # so many trials on, and some way into the next
            child.stdout.readline()
        time.sleep(draw.uniform(0, 0.5))
        assert child.poll() is None, "killed in the middle: the case under test"
        child.send_signal(signal.SIGKILL)
        child.communicate()
    code, _, stderr = finished(params, out)
    assert (code, stderr) == (0, "")
    assert published(out) == published(undisturbed(method))


def test_published_files(undisturbed: Any) -> None:
    out = undisturbed("si")
    files = {"manifest.json", "net.safetensors", "record.json", "state.json", "state.safetensors"}
    expected = {f"checkpoints/si/seed-0/task-{k}/{name}" for k in range(3) for name in files}
    assert published(out).keys() == expected | {"results/si/seed-0.json", "results/si/seed-0.trials.json"}
    result = json.loads((out / "results/si/seed-0.json").read_bytes())
    assert set(result) == {
        "schema",
        "benchmark",
        "method",
        "seed",
        "tasks",
        "accuracy",
        "average_accuracy",
        "average_forgetting",
        "per_task",
        "reduced",
        "scenario",
        "task_agnostic_accuracy",
    }
    assert result["reduced"] == {"train_per_class": 10}
    assert [[value is None for value in row] for row in result["accuracy"]] == [
        [False, True, True],
        [False, False, True],
        [False, False, False],
    ]
    assert [entry["task"] for entry in result["per_task"]] == result["tasks"]
    assert set(result["per_task"][0]) == {
        "task",
        "learning_rate",
        "plasticity_accuracy",
        "threshold",
        "knobs",
        "attempts",
        "validation_accuracy",
        "steps",
        "state_bytes",
        "network_bytes",
    }
    cost = json.loads((out / "results/si/seed-0.cost.json").read_bytes())
    assert set(cost) == {
        "schema",
        "benchmark",
        "method",
        "seed",
        "machine",
        "seconds",
        "process_seconds",
        "step_seconds",
        "peak_memory_bytes",
        "precision",
        "per_task",
    }
    assert 0 < cost["step_seconds"] <= cost["process_seconds"]
    assert 50e6 < cost["peak_memory_bytes"] < 1.5e9
    assert [entry["task"] for entry in cost["per_task"]] == result["tasks"]


def test_joint_fills_its_last_row_only(prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path, prepared[3])
    run(params_for("joint"), out)
    result = json.loads((out / "results/joint/seed-0.json").read_bytes())
    assert result["accuracy"][:2] == [[None] * 3] * 2
    assert None not in result["accuracy"][2]
    assert result["average_forgetting"] is None
    assert [entry["task"] for entry in result["per_task"]] == ["all"]
    assert [path.name for path in (out / "checkpoints/joint/seed-0").iterdir()] == ["task-0"]


@pytest.mark.parametrize(("own", "rate"), [({}, 0.1), ({"learning_rate": 0.02}, 0.02)])
def test_selection_off(own: dict[str, float], rate: float, prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path, prepared[2])
    run(params_for("ewc", own, selection={"enabled": False}), out)
    result = json.loads((out / "results/ewc/seed-0.json").read_bytes())
    trials = json.loads((out / "results/ewc/seed-0.trials.json").read_bytes())["trials"]
    assert [(e["plasticity_accuracy"], e["threshold"], e["learning_rate"]) for e in result["per_task"]] == [
        (None, None, rate)
    ] * 2
    assert [(t["phase"], t["trial"], t["kept"], t["threshold"]) for t in trials] == [("learn", 0, True, None)] * 2


def test_files_of_a_running_run_name_all_tasks(
    prepared: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cl.learner import Learner

    out, params = output(tmp_path, prepared[3]), params_for("si")
    original = Learner.open

    def dying(self: Learner, task: Any) -> None:
        if task.index == 2:
            raise KeyboardInterrupt
        original(self, task)

    monkeypatch.setattr(Learner, "open", dying)
    with pytest.raises(KeyboardInterrupt):
        run(params, out)
    folder = run_folder(params, "si", 0, out)
    result = json.loads((folder / "result.json").read_bytes())
    assert result["tasks"] == [f"permutation-{k:02d}" for k in (1, 2, 3)]
    assert result["accuracy"][2] == [None] * 3
    assert result["average_accuracy"] == pytest.approx(sum(result["accuracy"][1][:2]) / 2)
    assert len(result["per_task"]) == 2
    assert {t["task_index"] for t in json.loads((folder / "trials.json").read_bytes())["trials"]} == {0, 1}
    assert not (out / "results").exists()


@pytest.mark.parametrize("method", ["ewc", pytest.param("packnet", marks=pytest.mark.slow)])
def test_trials_in_parallel_give_the_same_bytes(method: str, prepared: dict[int, Path], tmp_path: Path) -> None:
    serial, parallel = output(tmp_path / "serial", prepared[2]), output(tmp_path / "parallel", prepared[2])
    params = params_for(method)
    run(params, serial)
    code, _, stderr = finished(params, parallel, "--trial-workers", "2")
    assert (code, stderr) == (0, "")
    assert published(parallel) == published(serial)


def test_what_trials_in_other_processes_took_is_in_the_cost_of_their_task(
    prepared: dict[int, Path], tmp_path: Path
) -> None:
    """With a pool that says that each trial took a thousand seconds."""
    params = params_for("si")
    one = run_for(params, learner_for(params, prepared[2]), tmp_path)

    def beside(job: Job) -> Future[tuple[Outcome, float]]:
        done: Future[tuple[Outcome, float]] = Future()
        done.set_result((job.run(one.trials), 1000.0))
        return done

    one.protocol.pool = beside
    one.run()
    cost = json.loads((tmp_path / "cost.json").read_text(encoding="utf-8"))
    assert [task["process_seconds"] // 1000 for task in cost["per_task"]] == [2, 2], "two learning rates a task"


# What is there already, and what is damaged.


def test_finished_run_is_published_again_without_learning(prepared: dict[int, Path], tmp_path: Path) -> None:
    out, params = output(tmp_path, prepared[2]), params_for("si")
    assert not publish_if_finished(params, ("si", 0), out, print)
    run(params, out)
    expected = published(out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and ".work" not in path.parts}
    assert publish_if_finished(params, ("si", 0), out, print)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what is right is not written again"
    (out / "results/si/seed-0.json").write_text("{}")
    assert publish_if_finished(params, ("si", 0), out, print)
    assert published(out) == expected
    output(out, prepared[3])
    assert not publish_if_finished(params, ("si", 0), out, print), "there is a task to learn"


def test_another_knob_is_another_run(prepared: dict[int, Path], tmp_path: Path) -> None:
    base = params_for("ewc")
    others = [
        params_for("ewc", {"strength": 1.0}),
        params_for("ewc", training={"epochs": 5}),
        params_for("ewc", selection={"drop_margin": 0.3}),
        params_for("ewc", model={"hidden": [8]}),
    ]
    keys = {run_key(params, "ewc", 0) for params in [base, *others]} | {run_key(base, "ewc", 1)}
    assert len(keys) == 6
    same = [params_for("ewc", execution={"workers": 7, "minutes": 2.5}), params_for("ewc", tracking={"enabled": False})]
    assert {run_key(params, "ewc", 0) for params in same} == {run_key(base, "ewc", 0)}
    written = [params_for("ewc", {"strength": strength}) for strength in (400, 400.0)]
    assert len({run_key(params, "ewc", 0) for params in written}) == 1, "400 is no other strength than 400.0"


@pytest.mark.parametrize(("method", "said"), [("joint", 0), ("ewc", 3)])
def test_other_data_are_said_but_where_all_tasks_are_learned_at_once(
    method: str, said: int, prepared: dict[int, Path], tmp_path: Path
) -> None:
    """Of three tasks, each with another split; joint learns anew with every task that comes."""
    other = Benchmark(name="permuted-digits", tasks=3, train_per_class=10, seed=5)
    prepare(other, RAW, tmp_path / "other", say=lambda line: None)
    out = output(tmp_path / "out", prepared[3])
    run(params_for(method, selection=OFF), out)
    events = run(params_for(method, selection=OFF), output(out, tmp_path / "other"))
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert ["changed since it was learned" in message for message in warnings] == [True] * said


def test_other_knobs_replace_what_was_published(prepared: dict[int, Path], tmp_path: Path) -> None:
    out, fresh = output(tmp_path / "out", prepared[2]), output(tmp_path / "fresh", prepared[2])
    run(params_for("ewc"), out)
    for folder in (out, fresh):
        run(params_for("ewc", training={"epochs": 2}), folder)
    assert published(out) == published(fresh)


@pytest.mark.parametrize("name", ["net.safetensors", "manifest.json", "record.json"])
def test_damaged_published_checkpoint_is_named_and_replaced(
    prepared: dict[int, Path], tmp_path: Path, name: str
) -> None:
    out, params = output(tmp_path, prepared[2]), params_for("si")
    run(params, out)
    expected = published(out)
    path = out / "checkpoints/si/seed-0/task-1" / name
    path.write_bytes(path.read_bytes()[:-5])
    events = run(params, out)
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    assert published(out) == expected


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_damaged_work_checkpoint_is_named_and_learned_again(
    prepared: dict[int, Path], tmp_path: Path, damaged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cl.learner import Learner

    out, params = output(tmp_path, prepared[3]), params_for("ewc")
    run(params, out)
    expected = published(out)
    path = run_folder(params, "ewc", 0, out) / f"task-{damaged:03d}" / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    opened: list[int] = []
    original = Learner.open
    monkeypatch.setattr(Learner, "open", lambda self, task: (opened.append(task.index), original(self, task))[1])
    events = run(params, out)
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    assert f"task {damaged + 1}" in warnings[0]
    assert opened == [damaged]
    assert published(out) == expected


def test_tasks_taken_away_leave_no_trace(prepared: dict[int, Path], tmp_path: Path) -> None:
    out, fresh, params = output(tmp_path / "a", prepared[3]), output(tmp_path / "b", prepared[2]), params_for("si")
    run(params, out)
    run(params, output(out, prepared[2]))
    run(params, fresh)
    assert published(out) == published(fresh)


def test_what_somebody_has_put_among_checkpoints_stays(prepared: dict[int, Path], tmp_path: Path) -> None:
    """Beside ours, in the name of a task, and in a task that is taken away."""
    out, params = output(tmp_path, prepared[3]), params_for("si")
    run(params, out)
    home = out / "checkpoints/si/seed-0"
    theirs = ("task-notes/x", "task-7/thesis.txt", "task-007", "task-2/notes.txt", "task-0/notes.txt", "mine.txt")
    for name in theirs:
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text("thesis")
    (home / "task-0/record.json").write_text("{}")
    before = published(out)
    run(params, output(out, prepared[2]))
    after = published(out)
    names = {f"checkpoints/si/seed-0/{name}" for name in theirs}
    assert names <= after.keys()
    gone = {name for name in before if name.startswith("checkpoints/si/seed-0/task-2/")} - names
    assert len(gone) == 5
    assert after.keys() == before.keys() - gone
    verify(home / "task-0")


def test_two_publish_the_same_run_at_once(prepared: dict[int, Path], tmp_path: Path) -> None:
    """Over and over, after what was there is gone, damaged, or of other knobs."""
    out, params = output(tmp_path, prepared[2]), params_for("si", selection=OFF)
    run(params_for("si", selection=OFF, training={"epochs": 1}), out)
    run(params, out)
    expected = published(out)
    (out / "params.json").write_text(params.model_dump_json())
    code = (
        "import sys\nfrom pathlib import Path\nfrom cl.params import read\nfrom cl.publish import publish_if_finished\n"
        "out = Path(sys.argv[1])\nparams, places = read(out / 'params.json'), []\n"
        "done = 0\n"
        "while done < 50:\n"
        "    (out / 'checkpoints/si/seed-0/task-0/manifest.json').unlink(missing_ok=True)\n"
        "    (out / 'results/si/seed-0.json').write_text('{}')\n"
        "    done += publish_if_finished(params, ('si', 0), out, lambda event: None)\n"
    )
    command = [sys.executable, "-c", code, str(out)]
    runs = [subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(run.communicate(timeout=120)[1], run.returncode) for run in runs] == [("", 0), ("", 0)]
    assert publish_if_finished(params, ("si", 0), out, print)
    assert published(out) == expected
    assert not list(out.rglob("*.part"))


# Errors.


def only_error(result: tuple[int, list[dict[str, Any]], str]) -> str:
    code, events, stderr = result
    assert (code, stderr) == (2, "")
    assert [event["event"] for event in events] == ["error"]
    message: str = events[0]["message"]
    assert "\n" not in message
    return message


def test_unknown_knob(prepared: dict[int, Path], tmp_path: Path) -> None:
    message = only_error(finished(params_for("ewc", {"strenght": 1.0}), output(tmp_path, prepared[2])))
    assert "methods.ewc.strenght" in message
    assert "'strength'" in message


def test_nothing_prepared(tmp_path: Path) -> None:
    assert "manifest.json: not there; run `" in only_error(finished(params_for("ewc"), tmp_path))


def test_damaged_array(prepared: dict[int, Path], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(prepared[2], tmp_path / "prepared")
    path = tmp_path / "prepared/task-001/train-images.npy"
    path.write_bytes(path.read_bytes()[:-1])
    child = started(params_for("finetune"), tmp_path)
    stdout, stderr = child.communicate()
    events = events_of(stdout)
    assert (child.returncode, stderr) == (2, "")
    assert [event["event"] for event in events] == ["task", "error"], "the first task is kept"
    assert f"{path}: missing, cut short or altered" in events[1]["message"]


def test_run_at_work_is_waited_for(prepared: dict[int, Path], tmp_path: Path) -> None:
    out, params = output(tmp_path / "waiting", prepared[2]), params_for("si")
    alone = output(tmp_path / "alone", prepared[2])
    folder = run_folder(params, "si", 0, out)
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = started(params, out)
        assert child.stdout is not None
        said = json.loads(child.stdout.readline())
        time.sleep(0.5)
        assert child.poll() is None
        assert not (folder / "studies.log").exists(), "nothing is touched meanwhile"
    assert said["event"] == "warning"
    assert "another process is at work on si/seed-0" in said["message"]
    assert str(folder) in said["message"]
    child.communicate(timeout=120)
    assert child.returncode == 0
    run(params, alone)
    assert published(out) == published(alone)


def test_output_that_cannot_be_written(prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path, prepared[2])
    (out / "results").write_text("in the way")
    message = only_error_after_tasks(finished(params_for("finetune"), out))
    assert "results" in message
    (out / "results").unlink()
    assert finished(params_for("finetune"), out)[0] == 0


def only_error_after_tasks(result: tuple[int, list[dict[str, Any]], str]) -> str:
    code, events, stderr = result
    assert (code, stderr) == (2, "")
    assert [event["event"] for event in events] == ["task", "task", "error"]
    return str(events[-1]["message"])


def test_device_that_is_not_there() -> None:
    import torch

    assert choose_device("cpu").type == "cpu"
    if torch.cuda.is_available():
        assert choose_device("auto").type == "cuda"
    else:
        assert choose_device("auto").type == "cpu"
        with pytest.raises(UserError, match=r"execution\.device: cuda is not available here; use auto or cpu"):
            choose_device("cuda")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are tied to their parent on Linux only")
def test_run_dies_with_its_parent(prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path, prepared[3])
    file = out / "params.json"
    endless = {"epochs": 5000, "batch_size": 1, "patience": {"drop_after": 9999, "stop_after": 9999}}
    file.write_text(params_for("si", training=endless).model_dump_json())
    command = ["-m", "cl.run", "--params", str(file), "--method", "si", "--seed", "0", "--out", str(out)]
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, *{command!r}], stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    deadline = time.monotonic() + 60
    while not list(out.glob(".work/si/seed-0/*/studies.log")) and time.monotonic() < deadline:
        time.sleep(0.1)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return  # dead, and its new parent has not looked yet
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the run outlived its parent")


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_a_run_may_open_as_many_files_as_the_system_allows() -> None:
    """Three hundred tasks have more memory-mapped arrays than the 1,024 that are usual."""
    code = (
        "import resource\n"
        "from cl.run import FILES, open_many_files\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "open_many_files()\n"
        "allowed = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (allowed, hard)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
