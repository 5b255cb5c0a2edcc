"""The campaign of faults can fail: what is planted is found, and what is whole is not complained of."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from benchmarks.faults import __main__ as campaign
from benchmarks.faults import mutations, nasty, pictures, reading, results
from benchmarks.faults.case import Kind, Verdict
from benchmarks.faults.commands import Done, Running, end_marked, marked
from benchmarks.faults.faulty import ILL, Faulty
from benchmarks.faults.kills import HOOK
from benchmarks.faults.place import MARK, REPOSITORY, Place
from benchmarks.faults.warm import Warm


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "case")
    made.out.mkdir()
    yield made
    end_marked(f":{made.folder}:")


class Planted(Kind):
    """Every third case fails."""

    name, least, share = "planted", 100, 1.0

    def case(self, number: int) -> Verdict:
        if number == 4:
            raise ValueError("of the campaign's own")
        return self.judged(number, "nothing", ["it broke"] if number % 3 == 2 else [])


class Whole(Kind):
    """No case fails."""

    name, least, share = "whole", 0, 1.0

    def case(self, number: int) -> Verdict:
        time.sleep(0.01)
        return self.judged(number, "nothing", [])


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "KINDS", {kind.name: kind for kind in (Planted, Whole)})
    monkeypatch.setenv(MARK, "")


def test_a_case_that_fails_is_in_the_table_with_its_command(planted: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign.main(["--minutes", "0.005", "--kinds", "planted", "--least", "planted=0"]) == 1
    shown = capsys.readouterr().out
    (row,) = (line for line in shown.splitlines() if line.startswith("| planted "))
    tried, held, failed = (int(cell.replace(",", "")) for cell in row.strip("| ").split("|")[1:])
    assert tried == held + failed
    assert failed == len([line for line in shown.splitlines() if line.startswith("FAILED planted:")]) > 1
    assert "FAILED planted:2 nothing: it broke\n    python -m benchmarks.faults --seed 0 --only planted:2" in shown
    assert "FAILED planted:4 the campaign itself: ValueError: of the campaign's own" in shown


def test_one_case_alone(planted: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign.main(["--only", "planted:2"]) == 1
    assert campaign.main(["--only", "planted:1"]) == 0
    assert "| planted | 1 | 1 | 0 |" in capsys.readouterr().out


def test_where_nothing_failed_the_status_is_0_and_too_few_are_a_failure(
    planted: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert campaign.main(["--minutes", "0.002", "--kinds", "whole"]) == 0
    assert campaign.main(["--minutes", "0.002", "--kinds", "whole", "--least", "whole=1000000"]) == 1
    assert "fewer than 1000000" in capsys.readouterr().out


def test_bytes_that_differ_and_what_is_left_behind(place: Place) -> None:
    run = place.out / ".work/ewc/seed-0/key"
    files = ["results/ewc/seed-0.json", "results/ewc/seed-0.cost.json", "checkpoints/ewc/seed-0/task-0/manifest.json"]
    for name in files:
        (place.out / name).parent.mkdir(parents=True, exist_ok=True)
        (place.out / name).write_text("{}")
    run.mkdir(parents=True)
    expected = results.published(place.out)
    assert sorted(expected) == [files[2], files[0]]
    assert not results.differences(place.out, expected)
    assert not results.leftovers(place.out)
    (place.out / files[0]).write_text("{ }")
    (place.out / files[2]).unlink()
    assert results.differences(place.out, expected) == [f"{files[2]} is missing", f"{files[0]} differs"]
    for name in ("params-12.json", "ewc/seed-0/key/.unit.json.7.part"):
        (place.out / ".work" / name).write_text("")
    assert len(results.leftovers(place.out)) == 2


def test_what_a_command_does_to_the_users_things(place: Place) -> None:
    assert not place.strayed()
    (place.project / "thesis.txt").unlink()
    (place.home / "photos/2019/beach.txt").write_text("other")
    (place.project / "~").mkdir()
    assert place.strayed() == [
        "the user's p/thesis.txt is gone",
        "p/~ was written outside the output folder",
        "the user's home/photos/2019/beach.txt was changed",
    ]


@pytest.mark.parametrize(
    ("code", "stderr", "fault"),
    [
        (0, "", ""),
        (2, "error: no such file\n", ""),
        (2, "usage: x\nx: error: no such option\n", ""),
        (2, "", "0 error lines"),
        (2, "error: a\nerror: b\n", "2 error lines"),
        (2, "error: a\nand more\n", "says more"),
        (1, "oh\n", "ends with 1"),
        (None, "", "hangs"),
        (2, "Traceback (most recent call last):\n  File x\nKeyError: 'a'\n", "Traceback: KeyError: 'a'"),
    ],
)
def test_how_a_command_may_end(code: int | None, stderr: str, fault: str) -> None:
    found = Done(code, "", stderr, 1.0).faults(0, 2)
    assert [fault in text for text in found] == ([True] if fault else [])


def test_a_command_is_ended_with_its_children(place: Place) -> None:
    (place.project / "parent.py").write_text(
        "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True)\nprint('started', flush=True)\ntime.sleep(60)\n"
    )
    running = Running("parent", [], place, {"PYTHONPATH": str(place.project)})
    while not running.said:
        time.sleep(0.01)
    assert len(running.children()) == 1
    running.send(signal.SIGKILL)
    assert "a child lives on" in running.die(0.2)[0]
    assert not marked(f":{place.folder}:")


def test_a_process_kills_itself_at_the_write_that_was_chosen(place: Place) -> None:
    code = f"import sys\nfor i in range(9): open(f'{place.out}/{{i}}', 'w').close()\nopen('{place.project}/end', 'w')"
    plan = {"role": "command", "at": 4, "whom": "self", "flag": str(place.folder / "flag"), "under": str(place.out)}
    env = place.environment(FAULTS_KILL=json.dumps(plan), PYTHONPATH=str(HOOK))
    done = subprocess.run([sys.executable, "-c", code], env=env, check=False)
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in place.out.iterdir()) == ["0", "1", "2"]
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0, "once only"


def test_a_warm_interpreter_runs_commands_as_python_does(place: Place) -> None:
    warm = Warm(1, ["yaml"])
    try:
        good = warm.run("flows.study", ["params.yaml", "--set", "training.epochs=3"], place, 60)
        assert good.faults(0) == []
        assert "epochs: 3" in good.stdout
        bad = warm.run("flows.study", ["params.yaml", "--set", "training.epochs=no"], place, 60)
        assert (bad.code, bad.faults(0, 2)) == (2, [])
        (place.project / "broken.py").write_text("raise KeyError('planted')\n")
        assert "KeyError: 'planted'" in warm.run("broken", [], place, 60).faults(0, 2)[0]
        (place.project / "slow.py").write_text("import time; time.sleep(60)\n")
        assert "hangs" in warm.run("slow", [], place, 0.2).faults(0, 2)[0]
    finally:
        warm.close()


def test_every_damage_changes_the_file(tmp_path: Path) -> None:
    for number in range(200):
        folder = tmp_path / f"{number}" / "out"
        for place in ("a", "b"):
            (folder / place).mkdir(parents=True)
            (folder / place / "result.json").write_text(json.dumps({"accuracy": [[0.5, None]], "of": place}, indent=1))
        path = folder / "a" / "result.json"
        before = path.read_bytes()
        said = mutations.damage(path, random.Random(number))
        assert not path.is_file() or path.read_bytes() != before, said


@pytest.mark.parametrize(
    ("key", "text", "right", "wrong"),
    [
        ("training.epochs", "010", 10, 8),
        ("training.epochs", "1:30", None, 90),
        ("training.epochs", "3", 3, 3.0),
        ("training.momentum", "0", 0.0, 0),
        ("benchmark.path", "set #2", "set #2", "set"),
        ("benchmark.path", "null", None, "nothing"),
        ("scenario.online", "yes", True, "yes"),
    ],
)
def test_a_setting_is_what_was_written(key: str, text: str, right: object, wrong: object) -> None:
    found = nasty.meanings(text, nasty.keys()[key])
    assert wrong not in [one for one in found if type(one) is type(wrong)]
    assert right in found or (right is None and not found)


@pytest.mark.parametrize("kind", pictures.FORMATS)
def test_pictures_are_as_bright_as_they_say(kind: str) -> None:
    """But for the deeper TIFFs, where Pillow's own reading is what is tried."""
    for number in range(10):
        _, data = pictures.picture(220, random.Random(number), kind)
        try:
            image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            assert kind == "tif"
            continue
        if image.format != "TIFF" or image.mode == "L":
            level = np.asarray(image.convert("L") if image.mode != "I;16" else image.point(lambda v: v / 257))
            assert abs(float(level.mean()) - 220) < 8, number


def test_a_class_that_was_inverted_is_found(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    for name, level in (("right", 40), ("inverted", 215)):
        images = np.stack([np.full((3, 8, 8), level, np.uint8), np.full((3, 8, 8), 220, np.uint8)])
        np.save(tmp_path / f"task/{name}.npy", images)
    np.save(tmp_path / "task/labels.npy", np.array([0, 1]))
    split = {"labels": {"path": "task/labels.npy"}}
    for name, faults in (("right", 0), ("inverted", 1)):
        task = {
            "name": "t1",
            "classes": ["dark", "light"],
            "splits": {"train": {"images": {"path": f"task/{name}.npy"}, **split}},
        }
        assert len(pictures.brightness(tmp_path, {"tasks": [task]})) == faults


def test_a_table_that_does_not_say_what_the_files_say(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "results/ewc").mkdir(parents=True)
    (tmp_path / "report/leaderboard.md").write_text("| 1 | ewc |\n")
    (tmp_path / "results/ewc/seed-0.json").write_text(
        json.dumps({"tasks": ["a", "b"], "accuracy": [[1, None], [0.5, 0.7]]})
    )
    for shown, faults in ((0.6, 0), (0.61, 1), (float("nan"), 1)):
        (tmp_path / "report/summary.json").write_text(json.dumps({"ewc": {"average_accuracy": shown}}))
        assert len(reading.wrong(tmp_path)) == faults


def asked(url: str, seconds: float = 0.3) -> dict[str, str]:
    """The answer, as JSON, if it is all there in that time."""
    started, data = time.monotonic(), b""
    with urllib.request.urlopen(url, timeout=seconds) as answer:
        while more := answer.read1(100):
            data += more
            if time.monotonic() - started > seconds:
                raise TimeoutError("no end")
    found = json.loads(data)
    return {name: str(value) for name, value in found.items()}


@pytest.mark.parametrize("illness", ILL)
def test_servers_are_ill(illness: str) -> None:
    faulty = Faulty(illness)
    try:
        with pytest.raises((OSError, ValueError, http.client.HTTPException)):
            uuid.UUID(asked(f"{faulty.url}/api/health")["id"])
    finally:
        faulty.close()


def test_a_server_hands_on_until_it_falls_ill() -> None:
    with socket.create_server(("127.0.0.1", 0)) as well:
        faulty = Faulty("resets", well.getsockname()[1])
        try:
            with socket.create_connection(("127.0.0.1", faulty.port)) as client:
                client.sendall(b"hello")
                behind, _ = well.accept()
                with behind:
                    assert behind.recv(5) == b"hello"
                    behind.sendall(b"world")
                    assert client.recv(5) == b"world"
                    faulty.fall_ill()
                    client.settimeout(5)
                    with contextlib.suppress(ConnectionError):
                        assert client.recv(5) == b""
        finally:
            faulty.close()


def test_nothing_of_the_campaign_runs_on(planted: None) -> None:
    """Also what it did not wait for."""
    assert campaign.main(["--minutes", "0.001", "--kinds", "whole"]) == 0
    assert not marked(os.environ[MARK])
    assert REPOSITORY.is_dir()
