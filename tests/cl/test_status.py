"""What of a run is there, what would be learned, and why; and going on after an upgrade."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cl import keys
from cl.children import RunId
from cl.data.prepare import read_manifest
from cl.keys import differences, run_folder
from cl.status import Status, hint, status_of, table
from tests.cl.small import REPOSITORY, output, params_for, published, run

OFF = {"enabled": False}


def stands(method: str, out: Path, knobs: dict[str, Any] | None = None, **sections: Any) -> Status:
    tasks = read_manifest(out / "prepared")["tasks"]
    return status_of(params_for(method, knobs, selection=OFF, **sections), RunId(method, 0), out, tasks)


def test_nothing_was_run_and_nothing_is_left(prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path, prepared[2])
    before = stands("ewc", out)
    assert (before.would, before.why) == ("learn tasks 1 to 2", "never run")
    run(params_for("ewc", selection=OFF), out)
    after = stands("ewc", out)
    assert (after.would, after.why) == ("nothing", "")
    assert table([before, after]).endswith("1 of 2 runs have something to learn")


def test_a_task_more_is_learned_alone(prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path, prepared[2])
    for method in ("ewc", "joint"):
        run(params_for(method, selection=OFF), out)
    output(out, prepared[3])
    found = stands("ewc", out)
    assert (found.would, found.why) == ("learn task 3", "new: permutation-03")
    assert stands("joint", out).would == "learn all tasks"
    run(params_for("ewc", selection=OFF), out)
    assert stands("ewc", out).would == "nothing"


def test_what_changed_is_named(prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path, prepared[2])
    run(params_for("ewc", selection=OFF), out)
    assert stands("ewc", out, {"strength": 100.0}).why == "methods.ewc.strength: as declared -> 100"
    assert stands("ewc", out, training={"epochs": 5}).why == "training.epochs: 4 -> 5"
    assert stands("ewc", out, training={"epochs": 5}).would == "learn tasks 1 to 2"


def test_the_nearest_earlier_run_is_told(prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path, prepared[2])
    run(params_for("ewc", {"strength": 1.0}, selection=OFF), out)
    run(params_for("ewc", {"strength": 2.0}, selection=OFF, training={"epochs": 3}), out)
    assert stands("ewc", out, {"strength": 3.0}).why == "methods.ewc.strength: 1 -> 3"


def test_other_data_and_an_interruption_are_told_apart(prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path, prepared[2])
    params = params_for("ewc", selection=OFF)
    run(params, out)
    folder = run_folder(params, "ewc", 0, out)
    tasks = read_manifest(out / "prepared")["tasks"]
    altered = [tasks[0], {**tasks[1], "digest": "0" * 64}]
    found = status_of(params, RunId("ewc", 0), out, altered)
    assert (found.would, found.why) == ("learn task 2", "the data of permutation-02 changed")
    (folder / "finished.json").unlink()
    (folder / "task-001" / "manifest.json").unlink()
    found = stands("ewc", out)
    assert (found.would, found.why) == ("learn task 2", "interrupted, continues")


def test_changed_code_is_named_by_file() -> None:
    before = {"code": {"ops.py": "a", "rng.py": "b"}, "torch": "2.14", "seed": 0}
    now = {"code": {"ops.py": "c", "rng.py": "b"}, "torch": "2.15", "seed": 0}
    assert differences(before, now) == ["code.ops.py changed", "torch: 2.14 -> 2.15"]


@pytest.mark.parametrize("method", ["ewc", "joint"])
def test_after_an_upgrade_it_goes_on_where_it_is_told_to(
    method: str, prepared: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = output(tmp_path, prepared[2])
    with monkeypatch.context() as patch:
        patch.setattr(keys, "version", lambda package: "1.0")
        run(params_for(method, selection=OFF), out)
    first = published(out)
    output(out, prepared[3] if method == "ewc" else prepared[2])
    assert stands(method, out).why.startswith("torch: 1.0 -> ")
    told = params_for(method, selection=OFF, execution={"after_upgrade": "continue"})
    events = run(told, out)
    stages = [event["index"] for event in events if event["event"] == "task"]
    assert stages == ([2] if method == "ewc" else [])
    assert [event for event in events if "another version" in event.get("message", "")]
    kept = [path for path in first if path.endswith("net.safetensors")]
    assert kept
    assert all(published(out)[path] == first[path] for path in kept)
    assert stands(method, out).would == "nothing"


def test_after_an_upgrade_all_is_learned_anew_unless_told(
    prepared: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = output(tmp_path, prepared[2])
    with monkeypatch.context() as patch:
        patch.setattr(keys, "version", lambda package: "1.0")
        run(params_for("ewc", {"strength": 1.0}, selection=OFF), out)
    hints = [hint([stands("ewc", out, {"strength": value})], argparse.Namespace(out=out)) for value in (1.0, 2.0)]
    assert ["after_upgrade=continue" in hint for hint in hints] == [True, False], "the second has other knobs too"
    for knobs, told in (({"strength": 1.0}, "anew"), ({"strength": 2.0}, "continue")):
        events = run(params_for("ewc", knobs, selection=OFF, execution={"after_upgrade": told}), out)
        assert [event["index"] for event in events if event["event"] == "task"] == [0, 1]


def test_the_command_changes_nothing(tmp_path: Path) -> None:
    settings = ["--methods", "finetune,joint", "--seeds", "0", "--set", "benchmark.tasks=2", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "cl.status", *settings], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "prepare   would run",
        "finetune/seed-0  learn tasks 1 to 2  never run",
        "joint/seed-0     learn all tasks     never run",
        "",
        "2 of 2 runs have something to learn",
        "to learn that: python -m flows.compare with the same options",
    ]
    assert list(tmp_path.iterdir()) == []
