"""Requests to a served model: whatever is in them, the answer is JSON with a status that says whose fault it is."""

from __future__ import annotations

import base64
import json
import random
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.commands import Running
from benchmarks.faults.kills import LIMIT
from benchmarks.faults.mutations import leaves
from benchmarks.faults.nasty import POOL
from benchmarks.faults.pictures import broken, picture
from benchmarks.faults.place import Place
from benchmarks.faults.warm import Warm

METHOD = "ewc"
SECONDS = 30.0
ANY: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    2,
    -1,
    0.5,
    1.0,
    1e308,
    10**30,
    "",
    "permutation-01",
    "0",
    [],
    [1],
    {},
    {"a": 1},
    [[None]],
)
BODIES = (
    b"", b"[]", b"null", b"0", b'"x"', b"{", b"\xff\xfe", b"{}", b'{"inputs": null}', b'{"dataframe_records": 3}',
    b"[" * 5000, b"NaN", b'{"dataframe_split": {"columns": ["image"], "data": [[1, 2]]}}', b'{"instances": [[1]]}',
    b'{"dataframe_records": []}',
)  # fmt: skip
TYPES = (
    "application/json",
    "application/json",
    "application/json",
    "text/csv",
    "text/html",
    "application/json; charset=utf-7",
    "",
    "x",
)


class Served:
    """A model of a tiny run behind MLflow's own server, on a loopback address."""

    def __init__(self, folder: Path, warm: Warm, caches: Path) -> None:
        self.place = Place(folder, caches=caches)
        done = warm.run("cl", ["--methods", METHOD, "--out", "../out"], self.place, LIMIT)
        if done.code == 0:
            done = warm.run("benchmarks.faults.served", ["../model"], self.place, LIMIT)
        if done.code != 0:
            raise RuntimeError(f"no model to serve: {done.code}: {done.last}")
        self.port = free_port()
        arguments = ["models", "serve", "--env-manager", "local", "-m", "../model", "--host", "127.0.0.1"]
        self.running = Running("mlflow", [*arguments, "--port", str(self.port)], self.place)
        wait_for(f"http://127.0.0.1:{self.port}/ping", self.running, LIMIT)

    def close(self) -> None:
        """End the server."""
        self.running.end()

    def request(self, draw: random.Random) -> tuple[str, list[str]]:
        """Send one; what was sent, and what is wrong with the answer."""
        image = picture(100, draw, "png")[1]
        good = {"image": base64.b64encode(image).decode(), "task": draw.choice(["permutation-01", 0, 1])}
        kind, right = "application/json", False
        body: bytes
        if draw.random() < 0.25:
            body, kind = draw.choice(BODIES), draw.choice(TYPES)
        elif draw.random() < 0.1:
            body, right = json.dumps({"dataframe_records": [good]}).encode(), True
        else:
            rows = [dict(good) for _ in range(draw.choice([1, 1, 2]))]
            row = draw.choice(rows)
            key = draw.choice(["image", "task", "task", "other"])
            if key == "image" and draw.random() < 0.4:
                row[key] = base64.b64encode(broken(image, draw)).decode()
            else:
                row[key] = draw.choice([*ANY, draw.choice(POOL)])
            tree = {"dataframe_records": rows}
            if draw.random() < 0.2:
                holder, name = draw.choice(list(leaves(tree, all_of_them=True)))
                del holder[name]
            body = json.dumps(tree).encode()
        status, answer = self._ask(body, kind)
        said = f"{body[:300]!r} as {kind!r}: {status}"
        faults = []
        if right and status != 200:
            faults.append(f"a good request is answered with {status}: {answer[:200]!r}")
        if status == 0 or status >= 500:
            faults.append(f"answered with {status}: {answer[:200]!r}")
        # Of a body that is no JSON MLflow's own server tells, before the model hears of it.
        if kind == "application/json" and ("Traceback" in answer or "stack_trace" in answer):
            faults.append(f"the answer has a stack trace: {answer[:200]!r}")
        if status == 200 and any(row.get("task") is True or row.get("task") is False for row in _rows(body)):
            faults.append("a truth value is taken for a task")
        return said, faults

    def _ask(self, body: bytes, kind: str) -> tuple[int, str]:
        """Status and text of the answer; 0 where there is none."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/invocations", body, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError as error:
            return 0, str(error)


def _rows(body: bytes) -> Sequence[dict[str, Any]]:
    try:
        rows = json.loads(body)["dataframe_records"]
    except (ValueError, KeyError, TypeError):
        return []
    return [row for row in rows if isinstance(row, dict)]


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, running: Running, limit: float) -> None:
    """Until a server answers there; raises `RuntimeError` where it ends before, or does not in that time."""
    deadline = time.monotonic() + limit
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if running.process.poll() is not None or time.monotonic() > deadline:
                done = running.wait(0.1)
                raise RuntimeError(f"no server at {url}: {done.code}: {done.last}") from None
            time.sleep(0.2)


def main() -> int:
    """Write the model of the finished run `../out` as MLflow keeps it, into this folder."""
    from cl import cli
    from flows.serving.choice import choose
    from flows.serving.learned import facts_of
    from flows.serving.model_files import save

    params, out = cli.params_of(cli.parser("cl", None).parse_args(["--methods", METHOD])), Path("../out")
    choice = choose(params, out, METHOD, 0)
    save(Path(sys.argv[1]), choice, facts_of(params, out, choice.run), "a card")
    return 0


if __name__ == "__main__":
    from cl import cli

    sys.exit(cli.guarded(main))
