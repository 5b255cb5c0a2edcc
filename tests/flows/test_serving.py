"""`python -m flows.serve` where something is in its way: a sentence each. (What it starts: test_serve.py.)"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from benchmarks.bad_server import BadServer
from cl.errors import UserError
from flows import serve, servers
from flows.serve import Ports, start
from flows.servers import STATE, Server, known
from flows.tracking.settings import Tracking

pytestmark = pytest.mark.usefixtures("no_rest")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("listens", [True, False])
def test_a_port_that_is_taken(listens: bool, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError) as caught:
            start(Tracking(tmp_path, None, "digits"), Ports(prefect=port))
    assert (
        str(caught.value) == f"port {port}, for prefect, is taken by another program; give another with --prefect-port"
    )
    assert not STATE.exists()


@pytest.mark.parametrize("port", ["0", "65536", "99999999999999999999", "-1", "x", "", "8e3"])
def test_a_port_that_is_none(port: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["serve", "status", f"--mlflow-port={port}"])
    with pytest.raises(SystemExit):
        serve.main()
    assert f"{port!r} is no port; take a number from 1 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"servers": 3}', '{"servers": [{"name": "x"}]}', '{"servers": [7]}']
)
def test_a_damaged_record_of_what_runs(text: str) -> None:
    STATE.parent.mkdir()
    STATE.write_text(text)
    with pytest.raises(UserError, match=r"servers\.json: damaged; end its servers \(.*\) and remove the file"):
        known()


@pytest.mark.parametrize("kind", ["hangs", "drips", "garbage"])
def test_a_server_that_does_not_come_up(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(serve, "SECONDS_TO_START", 1.0)
    monkeypatch.setattr(servers, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(Server, "alive", True)
    (tmp_path / "log").write_text("starting\nstill starting\n")
    with BadServer(kind=kind) as bad:
        server = Server("prefect", bad.url, f"{bad.url}/api/health", 1, 1, str(tmp_path / "log"))
        before = time.monotonic()
        with pytest.raises(UserError, match="prefect did not answer within 1 s") as caught:
            serve._wait(server)
        assert time.monotonic() - before < 3
    assert "make stop" in str(caught.value)
    assert "still starting" in str(caught.value)


def test_mlflow_alone_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """After the Prefect server has ended by itself."""
    monkeypatch.setattr(Server, "alive", True)
    STATE.parent.mkdir()
    mlflow = {"name": "mlflow", "address": "http://127.0.0.1:1", "health": "", "pid": 1, "started": 1, "log": "log"}
    STATE.write_text(json.dumps({"servers": [mlflow]}))
    Path("params.yaml").write_text("methods: {ewc: {}}\n")
    monkeypatch.setattr("sys.argv", ["serve", "status"])
    assert serve.main() == 0
    assert "compare  http://127.0.0.1:1/" in capsys.readouterr().out
