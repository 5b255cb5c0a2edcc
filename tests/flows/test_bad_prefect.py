"""A Prefect server that goes bad costs a warning and a few seconds: what runs, runs on, once, and ends as it would."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.bad_server import KINDS, BadServer
from cl.errors import UserError
from flows.deadline import within
from flows.engine import teller, with_prefect
from flows.engine.plain import Engine
from flows.engine.teller import Teller
from flows.engine.with_prefect import WithPrefect, configured_engine
from tests.flows.conftest import Finished, options, published, run
from tests.flows.test_prefect import Json, Server, server

__all__ = ["server"]

pytestmark = pytest.mark.usefixtures("no_rest")
LOST = 2.5
"""Seconds that a bad server may cost where `hasty` holds."""


@pytest.fixture(scope="module")
def imported() -> None:
    """Prefect is imported once, and garbage collections leave out its objects. Both would take seconds in each test."""
    import prefect  # noqa: F401

    gc.freeze()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, imported: None) -> None:
    """Seconds as tenths of seconds."""
    monkeypatch.setattr(teller, "REQUEST_SECONDS", 0.6)
    monkeypatch.setattr(teller, "END_SECONDS", (0.8, 5.0))
    monkeypatch.setattr(teller, "QUIET_SECONDS", 0.2)
    monkeypatch.setattr(teller, "WAITS", (0.1, 0.2))
    monkeypatch.setattr(with_prefect, "HEALTH_SECONDS", 0.6)


class Slow:
    """A client of Prefect's whose every request takes longer than a `hasty` one may."""

    def __init__(self, asked: list[str]) -> None:
        self.asked = asked

    def request(self, method: str, path: str, json: Any) -> Any:
        time.sleep(0.8)
        self.asked.append(path)
        return SimpleNamespace(content=b"{}", json=lambda: {"id": "7"})

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(("given", "arrives"), [("5", True), ("soon", False), (None, False)])
def test_the_user_may_wait_longer_for_a_slow_server(
    given: str | None, arrives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the setting of Prefect's own clients; one that is no number is for Prefect to refuse."""
    monkeypatch.setattr(teller, "settings_for", lambda url: nullcontext())
    asked: list[str] = []
    monkeypatch.setattr(teller, "client_of_prefect", lambda seconds: Slow(asked))
    if given is not None:
        monkeypatch.setenv("PREFECT_API_REQUEST_TIMEOUT", given)
    told = Teller("http://127.0.0.1:9/api")
    run = told.flow("outer", "the outer one", [], None)
    told.end(run, "COMPLETED")
    told.flush()
    ends = ["/flows/", "/flow_runs/", "/flow_runs/7/set_state", "/flow_runs/7/set_state"]
    assert (asked == ends) == arrives


class Locked(Exception):
    """What Prefect's client raises while the server's database is locked."""

    response = SimpleNamespace(status_code=503)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(("error", "arrives"), [(Locked(), True), (OSError("nobody listens"), False)])
def test_a_server_that_is_only_busy_at_the_end_is_asked_again(
    error: Exception, arrives: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ending, failures, sent = threading.Event(), iter([error, error]), list[str]()

    def ask(self: Teller, method: str, path: str, body: Any) -> Any:
        assert ending.wait(10)
        while not self._last_try:
            time.sleep(0.001)
        if (failed := next(failures, None)) is not None:
            raise failed
        sent.append(path)
        return {"id": "7"}

    monkeypatch.setattr(Teller, "_ask", ask)
    told = Teller("http://127.0.0.1:1/api")
    told.end(told.flow("outer", "the outer one", [], None), "COMPLETED")
    ending.set()
    told.flush()
    assert (len(sent) == 4) == arrives
    assert ("not up to date" in capsys.readouterr().out) != arrives


def work(engine: Engine, meanwhile: Callable[[], object] = lambda: None) -> list[Any]:
    """A flow in a flow, with two runs, one of which fails; returns what came of it, and how often each was run."""
    calls: list[str] = []

    def run(name: str) -> str:
        calls.append(name)
        engine.progress(f"progress-{name}", 0.5, "half")
        engine.say(f"{name} says so")
        if name == "b":
            raise UserError("b cannot")
        return name.upper()

    def inner() -> list[Any]:
        found = engine.each(["a", "b"], run, 2, str)
        engine.table("rows", [{"a": 1}], "a table")
        meanwhile()
        return found

    def outer() -> list[Any]:
        return engine.flow("inner", "the inner one", ["in"], inner)

    found: list[Any] = engine.flow("outer", "the outer one", ["out"], outer)
    engine.say("after all")
    return [*map(str, found), sorted(calls)]


RIGHT = ["A", "b cannot", ["a", "b"]]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_bad_from_the_start_costs_a_warning(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert work(Engine()) == RIGHT
    lines = set(capsys.readouterr().out.splitlines())
    with BadServer(kind=kind) as bad:
        before = time.monotonic()
        assert work(WithPrefect(bad.url.replace("//", "//user:se@c/ret@"))) == RIGHT
        assert time.monotonic() - before < LOST
    said = capsys.readouterr()
    (warning,) = set(said.out.splitlines()) - lines
    assert warning.startswith(f"warning: the Prefect server at {bad.url} is not up to date (")
    assert len(warning) < 350
    assert said.err == ""
    assert "ret" not in warning.replace("retr", "")


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", ["hangs", "drips"])
def test_an_interrupt_waits_for_no_bad_server(kind: str) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with BadServer(kind=kind) as bad:
        before = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            work(WithPrefect(bad.url), interrupted)
        assert time.monotonic() - before < LOST


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", ["dies", "hangs", "drips", "garbage", "refuses"])
def test_where_no_server_answers_at_the_start_there_is_none(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with BadServer(kind=kind) as bad:
        monkeypatch.setenv("PREFECT_API_URL", bad.url.replace("//", "//user:secret@") + "/api")
        before = time.monotonic()
        assert type(configured_engine()) is Engine
        assert time.monotonic() - before < LOST
    (warning,) = capsys.readouterr().out.splitlines()
    assert warning.startswith(f"warning: no Prefect server answers at {bad.url}/api (")
    assert "secret" not in warning


@pytest.mark.parametrize("url", ["nonsense", "http://?", "http://[::1/api", "http://127.0.0.1:99999/api", "ftp://x/é"])
def test_an_address_that_is_none_is_said(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert type(configured_engine()) is Engine
    (warning,) = capsys.readouterr().out.splitlines()
    assert warning.startswith(f"warning: no Prefect server answers at {url} (")


def test_what_takes_too_long_is_left_behind() -> None:
    before = time.monotonic()
    with pytest.raises(TimeoutError, match=r"within 0\.2 s"):
        within(0.2, lambda: time.sleep(2))
    assert time.monotonic() - before < 1
    assert within(5, lambda: None) is None
    with pytest.raises(UserError, match="its own"):
        within(5, lambda: exec("raise UserError('its own')", {"UserError": UserError}))


class Refused(Exception):
    response = SimpleNamespace(status_code=422)


def test_what_is_kept_up_to_date_is_sent_once_as_it_is_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a request fails or is refused in between, and while one is on its way."""
    monkeypatch.setattr(teller, "WAITS", (0.01,))
    go, sent = threading.Event(), list[tuple[str, Any]]()
    failures = iter([None, None, None, OSError("no network"), Refused()])  # flow, flow run, its state; then artifacts

    def ask(self: Teller, method: str, path: str, body: Any) -> Any:
        if (error := next(failures, None)) is not None:
            raise error
        assert go.wait(10)
        if path.startswith("/artifacts/"):
            sent.append((method, body["data"]))
        return {"id": "7"}

    monkeypatch.setattr(Teller, "_ask", ask)
    told = Teller("http://127.0.0.1:1/api")
    run = told.flow("outer", "the outer one", [], None)
    for value in (1, 2, 3):
        told.renewed(run, "key", "progress", value, "")
    go.set()
    for value in (4, 5):  # the third was refused
        while told._jobs:
            time.sleep(0.01)
        assert len(sent) == value - 4
        told.renewed(run, "key", "progress", value, "")
    told.flush()
    assert sent == [("POST", 4), ("PATCH", 5)]


def test_the_parameters_of_the_whole_are_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[Any] = []

    def ask(self: Teller, method: str, path: str, body: Any) -> Any:
        bodies.extend([body["parameters"]] if path == "/flow_runs/" else [])
        return {"id": "7"}

    monkeypatch.setattr(Teller, "_ask", ask)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "flows.compare"])
    monkeypatch.setattr(sys, "argv", ["compare.py", "--set", "tracking.uri=http://me:secret@db/", "--out", "a b"])
    assert work(WithPrefect("http://127.0.0.1:1/api")) == RIGHT
    assert bodies == [{"command": "python -m flows.compare --set tracking.uri=http://db/ --out 'a b'"}, {}]


# With the real server.


def rows_since(server: Server, before: set[str], kind: str) -> dict[str, Json]:
    return {row["name"]: row for row in server.rows(kind) if row["id"] not in before}


def test_what_a_server_missed_follows_once_it_answers(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(teller, "QUIET_SECONDS", 0.2)
    monkeypatch.setattr(teller, "WAITS", (0.2,))
    monkeypatch.setattr(teller, "END_SECONDS", (60.0, 120.0))  # a busy machine may keep the real server waiting
    known = {kind: {row["id"] for row in server.rows(kind)} for kind in ("flow_runs", "task_runs")}
    port = int(server.url.split(":")[2].split("/")[0])
    with BadServer(behind=port, kind="refuses") as bad:

        def back() -> None:
            while bad.asked < 3:
                time.sleep(0.05)
            bad.kind = None

        assert work(WithPrefect(f"{bad.url}/api"), back) == RIGHT
    assert capsys.readouterr().out.count("warning: ") == 1
    flows, tasks = (rows_since(server, known[kind], kind) for kind in ("flow_runs", "task_runs"))
    assert {name: row["state_name"] for name, row in flows.items()} == {
        "the outer one": "Completed",
        "the inner one": "Completed",
    }
    assert {name: row["state_name"] for name, row in tasks.items()} == {
        "a": "Completed",
        "b": "Failed",
        "the inner one": "Completed",
    }
    assert sorted(flows["the inner one"]["tags"]) == ["in", "out"]
    assert tasks["b"]["state"]["message"] == "b cannot"


def test_what_is_tried_again_is_one_task_run(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {row["id"] for row in server.rows("task_runs")}
    monkeypatch.setattr(Engine, "retries", (0.0, 0.0))
    engine, tries = WithPrefect(server.url), iter([OSError("no network"), OSError("still none"), None])

    def sometimes() -> str:
        if (error := next(tries)) is not None:
            raise error
        return "done"

    assert engine.flow("outer", "tries", [], lambda: engine.retried("send it", sometimes)) == "done"
    row = rows_since(server, known, "task_runs")["send it"]
    assert (row["state_name"], row["run_count"]) == ("Completed", 3)


def test_an_interrupt_is_told_as_a_crash_of_all_that_ran(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teller, "INTERRUPTED_SECONDS", (60.0, 120.0))  # for the same reason
    known = {kind: {row["id"] for row in server.rows(kind)} for kind in ("flow_runs", "task_runs")}
    engine = WithPrefect(server.url)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.flow("outer", "interrupted", [], lambda: engine.retried("interrupted too", interrupted))
    for kind in known:
        (row,) = rows_since(server, known[kind], kind).values()
        assert (row["state_type"], row["state"]["message"]) == ("CRASHED", "KeyboardInterrupt")


def test_an_error_of_our_own_is_in_the_log_of_the_run(server: Server) -> None:
    known = {row["id"] for row in server.rows("flow_runs")}
    engine = WithPrefect(server.url)
    with pytest.raises(ZeroDivisionError):
        engine.flow("outer", "at fault", [], lambda: 1 / 0)
    row = rows_since(server, known, "flow_runs")["at fault"]
    assert row["state"]["message"] == "ZeroDivisionError: division by zero"
    (line,) = server.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [row["id"]]}}})
    assert line["level"] == logging.ERROR
    assert "Traceback" in line["message"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dies", "hangs", "drips", "garbage", "empty"])
def test_a_server_that_goes_bad_in_mid_run_costs_no_training(
    server: Server, finished: Finished, kind: str, tmp_path: Any
) -> None:
    out = finished.copy(tmp_path / "out")
    for path in sorted((out / ".work/ewc").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    port = int(server.url.split(":")[2].split("/")[0])
    with BadServer(behind=port) as bad:
        bad.when = lambda data: kind if b"task 1/2" in data else None
        env = {"PREFECT_API_URL": f"{bad.url}/api", "PREFECT_HOME": str(tmp_path / "home")}
        done = run("flows.compare", options(out=out), env=env)
        assert bad.kind == kind
    assert (done.returncode, done.stderr) == (0, "")
    (warning,) = [line for line in done.stdout.splitlines() if "warning: " in line and "server" in line]
    assert bad.url in warning
    assert published(out) == published(finished.out)
