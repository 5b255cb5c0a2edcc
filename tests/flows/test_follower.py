"""The thread that tracks: what it passes on, and that nobody waits for it."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from cl.params import Params
from flows.tracking import follower
from flows.tracking.follower import Follower
from flows.tracking.settings import Tracking
from flows.tracking.tracker import Tracker
from tests.flows.conftest import Finished

Call = tuple[str, bool, str | None]


class Recorder:
    """In the tracker's place: notes what it is asked to send."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.closed = False
        self.free = threading.Event()
        self.free.set()

    def sync(self, run: Path, *, finished: bool = False, failed: str | None = None) -> bool:
        assert self.free.wait(30)
        self.calls.append((run.name, finished, failed))
        return True

    def close(self) -> None:
        self.closed = True


class Clock:
    """In the place of `time`: stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(follower, "time", made)
    return made


def run(folder: Path, name: str, *, learned: bool = True) -> Path:
    (folder / name).mkdir()
    if learned:
        (folder / name / "result.json").write_text("{}")
    return folder / name


def following(tracker: object) -> Follower:
    return Follower(cast(Tracker, tracker))


def test_a_running_run_is_looked_at_now_and_then_and_its_end_at_once(
    tmp_path: Path, recorder: Recorder, clock: Clock
) -> None:
    first, second = run(tmp_path, "first"), run(tmp_path, "second")
    with following(recorder) as mlflow:
        mlflow.look(first)  # may be over in a second: then its end is all that is sent
        clock.now += follower.SECONDS_BETWEEN_LOOKS - 1
        mlflow.look(first)
        mlflow.look(second)
        clock.now += 2
        mlflow.look(first)  # long enough since its beginning
        mlflow.look(first)
        mlflow.look(second)
        mlflow.look(second, finished=True)
        mlflow.look(first, failed="killed by SIGKILL")
    assert recorder.calls == [("first", False, None), ("second", True, None), ("first", False, "killed by SIGKILL")]
    assert recorder.closed


def test_a_run_that_failed_in_its_first_task_is_shown_as_failed(tmp_path: Path, recorder: Recorder) -> None:
    with following(recorder) as mlflow:
        mlflow.look(run(tmp_path, "empty", learned=False), failed="exit status 1")
    assert recorder.calls == [("empty", False, "exit status 1")]


def test_a_slow_tracker_is_waited_for_at_the_end_only(tmp_path: Path, recorder: Recorder) -> None:
    folder = run(tmp_path, "slow")
    recorder.free.clear()
    with following(recorder) as mlflow:
        started = time.monotonic()
        for _ in range(100):
            mlflow.look(folder, finished=True)
        assert time.monotonic() - started < 1
        assert recorder.calls == []
        recorder.free.set()
    assert len(recorder.calls) == 100
    assert recorder.closed


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_tracker_that_hangs_is_left_behind(
    error: type[BaseException] | None, tmp_path: Path, recorder: Recorder, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path, "slow")
    recorder.free.clear()
    before = time.monotonic()
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setitem(follower.LEAVE_SECONDS, "interrupted", 0.3)
        with Follower(cast(Tracker, recorder), 0.3 if error is None else 60.0) as mlflow:
            mlflow.look(folder, finished=True)
            if error is not None:
                raise error
    assert 0.3 <= time.monotonic() - before < 3
    said = "" if error else "tracking: MLflow takes too long; the next run sends the rest\n"
    assert capfd.readouterr().err == said
    recorder.free.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_tracker_that_raises_disturbs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of its own, which it would have caught: it is shown, and training goes on."""

    class Faulty(Recorder):
        def sync(self, run: Path, *, finished: bool = False, failed: str | None = None) -> bool:
            super().sync(run, finished=finished, failed=failed)
            raise RuntimeError("a fault")

    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    faulty, folder = Faulty(), run(tmp_path, "unit")
    with following(faulty) as mlflow:
        mlflow.look(folder, finished=True)
        mlflow.look(folder, finished=True)
    assert faulty.calls
    assert "a fault" in str(seen[0].exc_value)


def test_tracking_off(finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    params = Params.model_validate({"methods": {"ewc": {}}, "tracking": {"enabled": False}})
    with Follower.of(params, out, {}) as mlflow:
        for folder in (out / ".work").glob("*/seed-*/*"):
            mlflow.look(folder, finished=True)
    assert not (out / "mlflow").exists()
    assert not (out / ".work/tracking.json").exists()


def test_a_server_that_is_not_there_costs_a_line(
    finished: Finished, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = finished.copy(tmp_path / "out")
    params = Params.model_validate({"methods": {"ewc": {}}, "tracking": {"uri": "http://127.0.0.1:9"}})
    with Follower.of(params, out, {"git.commit": "abc"}) as mlflow:
        for folder in sorted((out / ".work").glob("*/seed-*/*")):
            mlflow.look(folder, finished=True)
    said = capfd.readouterr().err
    assert "127.0.0.1:9" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 2, said


def test_a_follower_shows_the_settings_but_not_those_that_change_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(follower, "Tracker", lambda *arguments: given.extend(arguments) or Recorder())
    params = Params.model_validate({"methods": {"ewc": {}}, "training": {"epochs": 7}})
    Follower.of(params, tmp_path, {"git.commit": "abc"})
    where, tags, settings, datasets, _ = given
    assert datasets(0) == {}, "nothing is prepared there"
    assert where == Tracking(tmp_path, None, "permuted-digits")
    assert tags == {"git.commit": "abc"}
    assert settings["training"]["epochs"] == 7
    assert settings["methods"] == {"ewc": {}}
    assert not {"execution", "tracking", "seeds"} & set(settings)
