"""Latency and throughput of a served model on the loopback address: `python -m benchmarks.serving`.

It starts MLflow's server with the champion, or with another registered model (`--model`), and sends it pictures. The
same model is asked in this process, without a server, so that the last column is a ratio of the same machine.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cl import cli
from cl.errors import UserError
from cl.paths import option
from cl.register import checked
from flows.deadline import finish
from flows.serving.model_files import ALIAS
from flows.serving.source import Used, registered
from flows.tracking.settings import tracking_of

CELLS = ((1, 1), (1, 4), (8, 1), (8, 4), (64, 1))
"""Pictures in a request, and requests at once."""
SECONDS_TO_START = 300.0


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = cli.parser("benchmarks.serving", main.__doc__)
    made.add_argument("--model", metavar="NAME@ALIAS", help="a registered model; default: the champion of these params")
    made.add_argument("--seconds", type=cli.positive, default=5, help="of each row; default: %(default)s")
    made.add_argument("--side", type=cli.positive, default=400, help="of the pictures, in pixels; default: %(default)s")
    made.add_argument(
        "--log", type=option("--log"), default=Path("serving.log"), help="of the server; default: %(default)s"
    )
    return made


def main() -> int:
    """Serve a registered model on the loopback address and measure latency and throughput."""
    given = parser().parse_args()
    params = checked(cli.params_of(given))
    where = tracking_of(params, given.out)
    name = given.model or f"{params.champion.name or params.title}@{ALIAS}"
    used = registered(where, name)
    task = next(iter(used.model.tasks)) if used.model.method.needs_task_id else None
    row = {"image": picture(given.side), **({} if task is None else {"task": task})}
    alone = {count: rate_alone(used, row, count, given.seconds) for count in sorted({count for count, _ in CELLS})}
    print(f"{used.said}, pictures of {given.side} x {given.side} pixels", flush=True)
    print("pictures a request | requests at once | median ms | 95 % ms | pictures/s | of the model alone", flush=True)
    with serving(where.address, name, given.log) as port:
        for count, at_once in CELLS:
            body = json.dumps({"dataframe_records": [row] * count}).encode()
            times, seconds = asked(port, body, at_once, given.seconds)
            rate = count * len(times) / seconds
            late = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
            shown = f"{1000 * statistics.median(times):9.1f} | {1000 * late:7.1f} | {rate:10.1f}"
            print(f"{count:18} | {at_once:16} | {shown} | {rate / alone[count]:18.2f}", flush=True)
    return 0


def picture(side: int) -> str:
    """A JPEG of smooth noise in base64."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


def rate_alone(used: Used, row: dict[str, str], count: int, seconds: int) -> float:
    """Pictures a second without a server, decoding included."""
    model, done, started = used.model, 0, time.perf_counter()
    task = model.task(row.get("task"))
    while (now := time.perf_counter()) - started < seconds or not done:
        model.answers(torch.stack([model.image(row["image"]) for _ in range(count)]), task)
        done += count
    return done / (max(now, time.perf_counter()) - started)


@contextmanager
def serving(address: str, name: str, log: Path) -> Iterator[int]:
    """MLflow's server with the model; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    words = ["models", "serve", "-m", f"models:/{name}", "--env-manager", "local", "--host", "127.0.0.1"]
    with log.open("w", encoding="utf-8") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words, "--port", str(port)],
            env={**os.environ, "MLFLOW_TRACKING_URI": address},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        wait(lambda: server.poll() is None, port, log)
        yield port
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, 15)
        server.wait()


def wait(alive: Callable[[], bool], port: int, log: Path) -> None:
    """Until the server answers; raises `UserError` where it ends before, or takes too long."""
    started = time.monotonic()
    while True:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            if answer.status == 200:
                return
        if not alive() or time.monotonic() - started > SECONDS_TO_START:
            raise UserError(f"the server does not answer; {log} says why")
        time.sleep(0.2)


def asked(port: int, body: bytes, at_once: int, seconds: int) -> tuple[list[float], float]:
    """The seconds of every request, and of all together; so many threads ask one request after the other."""
    times: list[float] = []
    faults: list[str] = []
    send(HTTPConnection("127.0.0.1", port), body)  # what happens once only does not count
    end = time.perf_counter() + seconds

    def ask() -> None:
        connection = HTTPConnection("127.0.0.1", port)
        try:
            while (before := time.perf_counter()) < end:
                send(connection, body)
                times.append(time.perf_counter() - before)
        except (OSError, UserError) as error:
            faults.append(str(error))
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(at_once)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults or not times:
        raise UserError(f"the server refused: {faults[0] if faults else 'no request in time'}")
    return times, time.perf_counter() - started


def send(connection: HTTPConnection, body: bytes) -> None:
    """One request; raises `UserError` unless it is answered."""
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise UserError(f"status {answer.status}: {said[:200]!r}")


if __name__ == "__main__":
    finish(cli.guarded(main))
