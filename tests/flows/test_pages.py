"""The reports over HTTP: what a report or a night wrote, and nothing else."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from flows import pages, servers
from flows.stage import started_at


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with a report, a night, and other files."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "out/report/index.html",
        "out/report/plots/course.png",
        "out/nights/latest.html",
        "out/try/report/index.html",
        "out/results/ewc/seed-0.json",
        "params.yaml",
        ".prefect/report/secret.html",
        "out/report/notes.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def port(place: Path) -> Iterator[int]:
    handler = type("Quiet", (pages.Handler,), {"root": place, "log_message": lambda *arguments: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": f"{host}:{port}"})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def test_reports_and_nights_are_served_and_listed(port: int) -> None:
    for name in ("out/report/index.html", "out/report/plots/course.png", "out/nights/latest.html"):
        assert get(port, f"/{name}") == (200, name)
    assert get(port, "/health")[0] == 200
    status, listing = get(port, "/", host="localhost")
    assert status == 200
    for name in ("out/report/index.html", "out/try/report/index.html", "out/nights/latest.html"):
        assert f'href="{name}"' in listing
    assert "secret" not in listing


@pytest.mark.parametrize(
    "path",
    [
        "/params.yaml",
        "/out/results/ewc/seed-0.json",
        "/out/report/notes.txt",
        "/out/report/",
        "/.prefect/report/secret.html",
        "/out/report/../results/ewc/seed-0.json",
        "/out/report/%2e%2e/%2e%2e/params.yaml",
        "/out/report/../../report/../params.html",
        "//etc/report/hosts.html",
    ],
)
def test_nothing_else_is(port: int, path: str) -> None:
    assert get(port, path)[0] == 404


def test_a_name_from_elsewhere_that_leads_here_is_refused(port: int) -> None:
    assert get(port, "/out/report/index.html", host="evil.example")[0] == 403


def test_a_link_is_to_the_server_where_it_runs_and_reaches(place: Path) -> None:
    page, elsewhere = place / "out/try/report/index.html", Path("/elsewhere/report/index.html")
    assert servers.link_to(page) == page.as_uri()
    noted = {
        "name": "report",
        "address": "http://127.0.0.1:4280",
        "health": "",
        "log": "",
        "pid": os.getpid(),
        "started": started_at(os.getpid()),
    }
    servers.STATE.write_text(json.dumps({"servers": [noted]}))
    assert servers.link_to(page) == "http://127.0.0.1:4280/out/try/report/index.html"
    assert servers.link_to(elsewhere) == elsewhere.as_uri()
    servers.STATE.write_text(json.dumps({"servers": [{**noted, "started": 1}]}))
    assert servers.link_to(page) == page.as_uri(), "another process got its number"
    for damaged in ("", "[]", '{"servers": [7]}', '{"servers": [{"name": "report"}]}'):
        servers.STATE.write_text(damaged)
        assert servers.link_to(page) == page.as_uri()
