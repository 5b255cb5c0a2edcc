"""A folder of tasks is watched: what has arrived is learned once, alone, and challenges the champion."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from cl.errors import UserError
from flows.engine.plain import Engine
from flows.watch import Watch, parser, watched
from tests.cl import animals
from tests.flows.conftest import REPOSITORY, Started
from tests.flows.test_champion import mlflow_of_its_own

__all__ = ["mlflow_of_its_own"]  # a fixture
pytestmark = pytest.mark.filterwarnings("ignore:.*type hint:UserWarning:mlflow")
STILL = 5.0
PYTHON = (sys.executable, "-m")
SETTINGS = (
    *(f"benchmark.image_size={animals.SIDE}", "scenario.name=class", "model.hidden=[16]", "training.epochs=5"),
    *("training.batch_size=8", "selection.enabled=false", "report.classes=none", "execution.workers=2"),
)


class Heard(Engine):
    """An engine that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def about(self, word: str) -> list[str]:
        return [line for line in self.lines if word in line]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return animals.plant(tmp_path / "kept")


def words(root: Path, out: Path, *more: str) -> list[str]:
    settings = [word for setting in (*SETTINGS, *more) for word in ("--set", setting)]
    common = ["--params", str(REPOSITORY / "params.yaml"), "--methods", "ncm", "--seeds", "0", "--out", str(out)]
    return [str(root), *common, *settings, "--still", str(STILL)]


def watch_of(
    root: Path, out: Path, *more: str, webhook: str | None = None, methods: str = "ncm"
) -> tuple[Watch, Heard]:
    """As the command makes it, with an engine that is heard."""
    made = watched(parser().parse_args(words(root, out, *more)))
    made.engine = heard = Heard()
    made.webhook = webhook
    return made, heard


def learned(heard: Heard) -> list[str]:
    """The lines of tasks that were trained, as `ncm/seed-0: task 1/1 1-pets`."""
    return [line.split(",")[0] for line in heard.about("accuracy so far")]


def test_what_has_arrived_is_learned_once_and_challenges_the_champion(
    pictures: Path, tmp_path: Path, called: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    url, bodies = called
    root, out = tmp_path / "root", tmp_path / "out"
    shutil.copytree(pictures / "1-pets", root / "2-pets")
    more = (f"champion.challenge={pictures}", "champion.name=animals")
    watched, heard = watch_of(root, out, *more, webhook=url)
    assert not watched.look(100)
    (half,) = list((root / "2-pets" / "dog").glob("14.png"))
    half.write_bytes(half.read_bytes()[:20])
    assert not watched.look(104)
    shutil.copy(pictures / "1-pets" / "dog" / "14.png", half)
    assert not watched.look(106), "it has changed again"
    again, heard_again = watch_of(root, out, *more, webhook=url)  # a restart goes on waiting
    shutil.copytree(pictures / "2-zoo" / "bird", root / "1-zoo" / "bird")
    assert again.look(111.5)
    assert learned(heard_again) == ["ncm/seed-0: task 1/1 2-pets"], "the zoo is half copied"
    assert not heard.about("accuracy so far")
    shutil.copytree(pictures / "2-zoo" / "fish", root / "1-zoo" / "fish")
    assert not again.look(120)
    assert again.look(126)
    assert learned(heard_again)[1:] == ["ncm/seed-0: task 2/2 1-zoo"], "behind what was there, whatever its name"
    assert json.loads((out / "results/ncm/seed-0.json").read_text())["tasks"] == ["2-pets", "1-zoo"]
    last, heard_last = watch_of(root, out, *more, webhook=url)
    assert not last.look(300)
    assert not heard_last.lines
    first, second = bodies
    assert (first["run"], first["state"]) == ("add-task: 2-pets", "Completed")
    assert "is the first, so this becomes champion" in first["message"]
    assert "McNemar's exact test" in second["message"]
    assert "so this becomes champion" in second["message"]
    assert second["url"].endswith("out/report/index.html")


def test_a_failure_is_told_once_and_tried_again_when_something_changes(
    pictures: Path, tmp_path: Path, called: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    url, bodies = called
    root, out = tmp_path / "root", tmp_path / "out"
    shutil.copytree(pictures / "1-pets", root / "1-pets")
    whole = (root / "1-pets/cat/00.png").read_bytes()
    (root / "1-pets/cat/00.png").write_bytes(whole[:40])
    settings = ("tracking.enabled=false", "champion.register_best=false")
    for _ in range(2):
        watched, heard = watch_of(root, out, *settings, webhook=url)
        watched.look(100)
        watched.look(106)
        watched.look(112)
    assert [body["state"] for body in bodies] == ["Failed"]
    assert "00.png" in bodies[0]["message"]
    assert not heard.lines
    (root / "1-pets/cat/00.png").write_bytes(whole)
    watched.look(120)
    assert watched.look(126)
    assert [body["state"] for body in bodies] == ["Failed", "Completed"]
    shutil.copytree(pictures / "3-cats", root / "3-cats")
    shutil.move(root / "1-pets", tmp_path / "elsewhere")
    watched.look(130)
    assert not watched.look(136)
    assert "1-pets is no longer there" in bodies[-1]["message"]
    assert learned(heard) == ["ncm/seed-0: task 1/1 1-pets"]


def test_the_command_waits_for_a_folder_and_only_one_is_at_work(pictures: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    settings = ("tracking.enabled=false", "champion.register_best=false", "execution.workers=1")
    given = [*words(root, out, *settings)[:-1], "0.3", "--every", "0.1"]
    with Started([*PYTHON, "flows.watch", *given], tmp_path) as command:
        command.wait_for(lambda: "has not learned" in command.stdout, "its first line")
        with Started([*PYTHON, "flows.watch", *given, "--once"], tmp_path) as other:
            assert other.process.wait(60) == 2
            assert "another `python -m flows.watch` is at work" in other.stderr
        shutil.copytree(pictures / "1-pets", root / "1-pets")
        result = out / "results/ncm/seed-0.json"
        command.wait_for(lambda: result.exists() and "Where to look next" in command.stdout, "a result")
        command.process.terminate()
        assert command.process.wait(30) == 143
        assert command.stdout.count("learns 1-pets") == 1


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--set", "benchmark.order=[a, b]"], "tasks are learned as they arrive"),
        (["--webhook", "chat.example"], "has to begin with http"),
        (["--set", "tracking.enabled=false"], "champion.register_best: needs MLflow"),
    ],
)
def test_what_cannot_be_watched(more: list[str], why: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(UserError, match=why):
        watched(parser().parse_args([*words(tmp_path / "root", tmp_path / "out"), *more]))
