"""`python -m flows.compare` and `python -m cl` as processes: what they leave, and what disturbs them."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from cl import cli
from cl.names import names_in
from tests.flows.conftest import (
    ENDLESS,
    LONGER,
    REPOSITORY,
    RUN_DEPENDENT,
    Finished,
    Started,
    everything,
    learned,
    options,
    published,
    run,
)

RUNNERS = ("flows.compare", "cl")


def rows(table: str) -> list[str]:
    """The methods of a printed table, in its order."""
    return re.findall(r"^(?:\|[^|]*\| )?(finetune|ewc|si) +\|? +\d", table, re.MULTILINE)


def test_a_run_leaves_every_file_and_prints_the_table(finished: Finished) -> None:
    assert finished.stderr == ""
    leaderboard = (finished.out / "report/leaderboard.md").read_text()
    assert leaderboard in finished.stdout
    accuracy = json.loads((finished.out / "report/summary.json").read_bytes())
    told = leaderboard.partition("The same models")[0]
    assert rows(told) == sorted(accuracy, key=lambda name: -accuracy[name]["average_accuracy"])
    assert set(accuracy) == {"finetune", "ewc"}
    assert "Where to look next" in finished.stdout
    assert "MLflow" not in finished.stdout, "these runs are not tracked"
    assert "Prefect" in finished.stdout
    runs = [(method, seed) for method in ("finetune", "ewc") for seed in (0, 1)]
    kept = ("manifest.json", "net.safetensors", "record.json", "state.json", "state.safetensors")
    expected = {
        f"results/{method}/seed-{seed}{kind}"
        for method, seed in runs
        for kind in (".json", ".trials.json", ".cost.json", ".studies.log")
    }
    expected |= {f"checkpoints/{m}/seed-{s}/task-{k}/{name}" for m, s in runs for k in (0, 1) for name in kept}
    found = {name for name in everything(finished.out) if name.startswith(("results", "checkpoints"))}
    assert found == expected
    assert (finished.out / "prepared/manifest.json").exists()
    report = {path.name for path in (finished.out / "report").iterdir()}
    assert report == {"index.html", "leaderboard.md", "summary.json", "accuracy.csv", "plots", "dvc"}
    assert learned(finished.stdout) == sorted((f"{m}/seed-{s}", f"{k}/2") for m, s in runs for k in (1, 2))
    work = [path.name for path in (finished.out / ".work").iterdir() if path.is_file()]
    assert not [name for name in work if name.startswith(("params-", ".probe"))], "left behind"


def test_without_any_orchestrator_the_bytes_are_the_same(finished: Finished, tmp_path: Path) -> None:
    done = run("cl", options(out=tmp_path, seeds="0"))
    assert (done.returncode, done.stderr) == (0, "")
    assert published(tmp_path) == published(finished.out, "seed-0")
    assert (tmp_path / "prepared/manifest.json").read_bytes() == (finished.out / "prepared/manifest.json").read_bytes()
    result = {m: json.loads((tmp_path / f"results/{m}/seed-0.json").read_bytes()) for m in ("finetune", "ewc")}
    assert rows(done.stdout) == sorted(result, key=lambda name: -result[name]["average_accuracy"])
    assert not (tmp_path / "report").exists()


def test_again_there_is_nothing_to_do(finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    before = everything(out)
    before.pop("report/index.html")  # which names the command, and this folder is another
    rooms = [out / room for room in ("results", "checkpoints", "prepared", ".work")]
    files = [path for room in rooms for path in room.rglob("*") if path.is_file()]
    times = {path: path.stat().st_mtime_ns for path in files}
    for module in RUNNERS:
        done = run(module, options(out=out))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("finished before") == 4
        assert not learned(done.stdout)
        assert {name: data for name, data in everything(out).items() if name != "report/index.html"} == before
        # A child opens its log: the log of a run as old as ever is a child that was not started.
        assert {path: path.stat().st_mtime_ns for path in files if path.exists()} == times
        assert rows(done.stdout)


def test_a_run_without_its_published_files_gets_them_back(finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    (out / "results/ewc/seed-1.json").write_text("cut sho")
    (out / "results/ewc/seed-0.trials.json").unlink()
    (out / "checkpoints/finetune/seed-0/task-1/net.safetensors").unlink()
    done = run("cl", options(out=out))
    assert done.returncode == 0, done.stderr
    assert not learned(done.stdout)
    assert published(out) == published(finished.out)


@pytest.mark.parametrize("module", ["flows.compare", pytest.param("cl", marks=pytest.mark.slow)])
def test_a_method_that_fails_stops_no_other(module: str, finished: Finished, tmp_path: Path) -> None:
    """iCaRL cannot keep an exemplar of each class; that shows in the middle of its run only."""
    out = finished.copy(tmp_path / "out")
    more = ("methods.icarl.memory_budget=1", "execution.workers=1")  # so SI comes after it
    done = run(module, options(*more, out=out, methods="icarl,ewc,si", seeds="0"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "icarl/seed-0" in line
    assert "memory_budget" in line
    assert "Traceback" not in done.stdout
    assert learned(done.stdout) == [("si/seed-0", "1/2"), ("si/seed-0", "2/2")]
    assert set(rows(done.stdout)) == {"ewc", "si"}
    assert not (out / "results/icarl").exists()
    if module == "flows.compare":
        assert "Without any result: icarl" in done.stdout


def test_the_page_too_names_a_method_without_any_result(finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    assert run("flows.report", options(out=out, methods="ewc,hat")).returncode == 0
    assert "hat" in re.findall(r"\w+", re.sub(r"<(style|script).*?</\1>", "", (out / "report/index.html").read_text()))


def test_where_every_method_fails_the_reason_is_what_is_said(finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    done = run("flows.compare", options("methods.icarl.memory_budget=1", out=out, methods="icarl", seeds="0"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "icarl/seed-0" in line
    assert "memory_budget" in line


@pytest.mark.parametrize("module", RUNNERS)
def test_children_die_with_their_parent_from_the_start(module: str, tmp_path: Path) -> None:
    with Started([sys.executable, "-m", module, *options(*ENDLESS, out=tmp_path / "out")], tmp_path) as started:
        started.wait_for(started.alive, "a child")
        os.kill(started.process.pid, signal.SIGKILL)
        started.dies_with_children()


@pytest.mark.slow  # killed children are in tests/cl/test_run.py, killed workers in test_cluster.py
@pytest.mark.parametrize("module", RUNNERS)
def test_killed_at_several_moments_it_ends_in_the_same_bytes(
    module: str, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    command = [sys.executable, "-m", module, *options(*LONGER, out=tmp_path / "out")]
    moments = {  # by what has been said
        "a first task": lambda: learned(started.stdout),
        "a second run's task": lambda: len({name for name, _ in learned(started.stdout)}) > 1,
    }
    for moment, reached in moments.items():
        with Started(command, tmp_path) as started:
            started.wait_for(reached, moment)
            os.kill(started.process.pid, signal.SIGKILL)
            started.dies_with_children()
            assert started.process.returncode == -signal.SIGKILL
    # A kill may leave a file that was being written, which the next run removes.
    whole = {name for name in published(tmp_path / "out") if not name.endswith(".part")}
    assert whole < undisturbed.keys(), "killed in the middle"
    done = run(module, options(*LONGER, out=tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    assert 0 < len(learned(done.stdout)) < 8, "goes on from where it was"
    assert published(tmp_path / "out") == undisturbed
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.name.startswith(("params-", ".prepared."))]
    assert left + [path.name for path in (tmp_path / "out").rglob("*.part")] == []


@pytest.mark.parametrize(
    ("module", "to", "end"),
    [
        ("flows.compare", "the terminal's group", signal.SIGINT),
        pytest.param("cl", "the process", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("flows.compare", "the process", signal.SIGTERM, marks=pytest.mark.slow),
        ("cl", "the process", signal.SIGTERM),
        ("cl", "the process", signal.SIGHUP),
    ],
)
def test_an_interrupt_ends_it_at_once(
    module: str, to: str, end: signal.Signals, finished: Finished, tmp_path: Path
) -> None:
    out = finished.copy(tmp_path / "out")
    before = everything(out)
    command = [sys.executable, "-m", module, *options(*ENDLESS, out=out, methods="si,ewc,finetune")]
    with Started(command, tmp_path) as started:
        started.wait_for(lambda: len([line for line in started.alive() if "cl.forks" in line]) == 3, "two children")
        time.sleep(1)
        send = os.killpg if to == "the terminal's group" else os.kill
        send(started.process.pid, end)
        started.dies_with_children()
    assert started.process.returncode == 128 + end
    assert not list((out / ".work").glob("params-*"))
    (line,) = started.stderr.strip().splitlines()
    assert "the same command goes on from here" in line
    assert "Traceback" not in started.stdout
    assert "failed" not in started.stdout
    assert everything(out) == before


def test_methods_seeds_and_settings_from_the_command_line(tmp_path: Path) -> None:
    """`mean-IMM` for `mean_imm`, and the selection off: one training a task, with the values as given."""
    given = ("selection.enabled=false", "training.learning_rate=0.03", "methods.mean_imm.strength=0.25")
    done = run("flows.compare", options(*given, out=tmp_path, methods="mean-IMM", seeds="7"))
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["mean_imm"]
    result = json.loads((tmp_path / "results/mean_imm/seed-7.json").read_bytes())
    assert result["seed"] == 7
    for entry in result["per_task"]:
        knobs = {"strength": 0.25, "hold_head": False}
        assert (entry["learning_rate"], entry["knobs"], entry["attempts"]) == (0.03, knobs, 1)
        assert (entry["plasticity_accuracy"], entry["threshold"]) == (None, None)
    trials = json.loads((tmp_path / "results/mean_imm/seed-7.trials.json").read_bytes())["trials"]
    assert [(t["task_index"], t["phase"], t["kept"]) for t in trials] == [(0, "learn", True), (1, "learn", True)]


def test_all_methods_are_those_there_are_with_the_knobs_of_the_file() -> None:
    file = REPOSITORY / "params.yaml"
    given = cli.parser("cl", None).parse_args(["--methods", "all", "--params", str(file)])
    params = cli.params_of(given)
    assert sorted(params.methods) == names_in("methods")
    tree = yaml.safe_load(file.read_text())
    assert dict(params.methods) == tree["methods"] | tree["others"]
    without = cli.params_of(cli.parser("cl", None).parse_args(["--params", str(file)]))
    assert set(without.methods) == set(tree["methods"])
    assert params.seeds == yaml.safe_load(file.read_text())["seeds"]


@pytest.mark.slow
def test_every_method_runs(tmp_path: Path) -> None:
    done = run("flows.compare", options("model.hidden=[32]", out=tmp_path, methods="all", seeds="0"))
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(json.loads((tmp_path / "report/summary.json").read_bytes())) == names_in("methods")


def test_a_task_more_trains_that_task_only(finished: Finished, tmp_path: Path) -> None:
    out, scratch = finished.copy(tmp_path / "out"), tmp_path / "scratch"
    done = run("flows.compare", options("benchmark.tasks=3", out=out, methods="ewc", seeds="0"))
    assert (done.returncode, done.stderr) == (0, "")
    assert learned(done.stdout) == [("ewc/seed-0", "3/3")]
    assert run("cl", options("benchmark.tasks=3", out=scratch, methods="ewc", seeds="0")).returncode == 0
    assert published(out, "ewc/seed-0") == published(scratch)
    assert published(out, "seed-1") == published(finished.out, "seed-1")
    earlier = finished.out / "checkpoints/ewc/seed-0/task-1"
    for name in ("net.safetensors", "state.safetensors"):
        assert (out / "checkpoints/ewc/seed-0/task-1" / name).read_bytes() == (earlier / name).read_bytes()


def test_the_cost_is_kept_apart(finished: Finished) -> None:
    """What differs from run to run is in files of its own, and in the report."""
    for path in (finished.out / "results").rglob("*.json"):
        assert ("seconds" in path.read_text()) == path.name.endswith(RUN_DEPENDENT)
