"""How far `make run` is over all stages, and what it says where DVC is at work already."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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
    plan.write(path, {**WORK, "train@mas": 2.0})
    monkeypatch.setenv(plan.PLAN, str(path))
    for stage, now in (("prepare", 0.0), ("train@si", 1.0), ("train@ewc", 61.0), ("train@mas", 241.0)):
        monkeypatch.setenv("DVC_STAGE", stage)
        plan.announce(now)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "train@ewc: stage 3 of 5, some 5 minutes left",
        "train@mas: stage 4 of 5, some 2 minutes left",
    ]
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
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    Path("dvc.yaml").write_text("stages: {slow: {cmd: touch begun; sleep 60, outs: [made]}}\n", encoding="utf-8")
    assert repro.holders() == {}
    with subprocess.Popen([sys.executable, "-m", "dvc", "repro"], start_new_session=True) as dvc:
        deadline = time.monotonic() + 60
        while not Path("begun").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert cli.guarded(repro.main) == 2
        os.killpg(dvc.pid, signal.SIGKILL)
    said = capsys.readouterr().err
    assert "DVC is at work in this folder already" in said
    assert f"(process {dvc.pid})" in said
    assert repro.holders() == {}, "its lock is still there, but nobody holds it"
    assert repro.LOCKS.read_text(encoding="utf-8")
