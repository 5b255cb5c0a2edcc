"""How far `make run` is over all stages, and what it says where DVC is at work already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cl import cli
from cl.params import Params, read
from flows import plan, repro
from tests.conftest import RAW, REPOSITORY

WORK = {"prepare": 0.0, "train@ewc": 3.0, "train@si": 1.0, "report": 0.0}


def test_time_left_follows_from_the_work_done() -> None:
    assert plan.line(WORK, {"prepare": 0.0}) == "prepare: stage 1 of 4"
    assert plan.line(WORK, {"prepare": 0.0, "train@ewc": 9.0}) == "train@ewc: stage 2 of 4"
    started = {"prepare": 0.0, "train@ewc": 9.0, "train@si": 9.0 + 3 * 600}
    assert plan.line(WORK, started) == "train@si: stage 3 of 4, some 10 minutes left"
    started["report"] = 9.0 + 4 * 600
    assert plan.line(WORK, started) == "report: stage 4 of 4"
    assert plan.line({"report": 0.0}, {"features": 0.0}) == "features: stage 1 of 2", "one that nobody expected"


def test_each_stage_notes_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    plan.write(path, WORK)
    monkeypatch.setenv(plan.PLAN, str(path))
    for stage, now in (("prepare", 0.0), ("train@ewc", 1.0), ("train@si", 181.0)):
        monkeypatch.setenv("DVC_STAGE", stage)
        plan.announce(now)
    assert capsys.readouterr().out.splitlines()[-1] == "train@si: stage 3 of 4, some 60 seconds left"
    monkeypatch.delenv(plan.PLAN)
    plan.announce(200.0)
    assert capsys.readouterr().out == ""


def few() -> Params:
    return read(REPOSITORY / "params.yaml", ["benchmark.tasks=2", "benchmark.train_per_class=5"], ["ewc", "joint"], [0])


def test_work_is_what_no_run_has_learned(tmp_path: Path) -> None:
    from cl.data.places import prepare_all

    assert repro.work(few(), tmp_path) == {
        "prepare": 0.0,
        "features": 0.0,
        "train@ewc": 1.0,
        "train@joint": 1.0,
        "report": 0.0,
    }
    prepare_all(few(), RAW, tmp_path, lambda line: None)
    assert repro.work(few(), tmp_path) == {"train@ewc": 1.0, "train@joint": 1.0, "report": 0.0}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked at on Linux only")
def test_a_dvc_that_is_at_work_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["repro"])
    repro.LOCKS.parent.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as gone:
        gone.kill()
    entry = {"pid": os.getpid(), "cmd": "dvc repro"}
    locks = {"out/prepared": {"write": entry}, "data": {"read": [{"pid": gone.pid, "cmd": "dvc status"}]}, "x": {}}
    repro.LOCKS.write_text(json.dumps(locks), encoding="utf-8")
    assert cli.guarded(repro.main) == 2
    said = capsys.readouterr().err
    assert f"dvc repro (process {os.getpid()})" in said
    assert "dvc status" not in said
    repro.LOCKS.write_text("", encoding="utf-8")
    assert repro.holders() == {}
