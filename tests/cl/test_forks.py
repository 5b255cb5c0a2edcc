"""Runs as forks of one process: the same bytes as processes started anew, and apart from each other in every way."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from cl.children import RUN_ENVIRONMENT, arguments_of
from cl.children import RunId as Run
from cl.events import event_of
from cl.forks import Child, Forks, Spawns
from tests.cl.small import output, params_for, published

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs are forked on Linux alone")
ENDLESS = params_for("finetune", training={"epochs": 10**6, "patience": {"stop_after": 10**6}})


@pytest.fixture
def forks() -> Iterator[Forks]:
    made = Forks({**os.environ, **RUN_ENVIRONMENT})
    yield made
    made.close()


@pytest.fixture
def start(forks: Forks, prepared: dict[int, Path], tmp_path: Path) -> Iterator[Callable[[], Child]]:
    """Starts a run without an end, another seed each time; its first line of output is heard once it is under way."""
    out = output(tmp_path / "out", prepared[2])
    file = out / "params.json"
    file.write_text(ENDLESS.model_copy(update={"seeds": list(range(9))}).model_dump_json())
    logs: list[TextIO] = []

    def begin() -> Child:
        log = (out / f"log-{len(logs)}").open("w")
        run = Run("finetune", len(logs))
        logs.append(log)
        return forks.start(arguments_of(file, run, out), log)

    yield begin
    for log in logs:
        log.close()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def server_of(forks: Forks) -> int:
    assert forks._begun is not None
    return forks._begun[0].pid


def under_way(forks: Forks, count: int) -> list[int]:
    """The PIDs of so many forks, by seed, once each has its own name and has trained for a while."""
    server, deadline = server_of(forks), time.monotonic() + 60
    while True:
        pids = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        names = {Path(f"/proc/{pid}/comm").read_text(): int(pid) for pid in pids}
        if len([name for name in names if name.startswith("finetune/")]) == count:
            time.sleep(0.5)
            return [names[name] for name in sorted(names)]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_fork_learns_what_a_new_process_learns(forks: Forks, prepared: dict[int, Path], tmp_path: Path) -> None:
    params, learned = params_for("si"), {}
    for name, starter in (("forked", forks), ("spawned", Spawns({**os.environ, **RUN_ENVIRONMENT}))):
        out = output(tmp_path / name, prepared[2])
        file = out / "params.json"
        file.write_text(params.model_dump_json())
        with (out / "log").open("w") as log:
            child = starter.start(arguments_of(file, Run("si", 0), out), log)
            assert child.stdout is not None
            with child.stdout:
                events = [event for line in child.stdout if (event := event_of(line)) is not None]
            assert child.wait() == 0
        assert (out / "log").read_text() == ""
        learned[name] = [{**e, "seconds": None} for e in events], published(out)
    assert learned["forked"] == learned["spawned"]


def test_the_end_of_one_is_nobody_elses(forks: Forks, start: Callable[[], Child]) -> None:
    crashed, killed, other = start(), start(), start()
    pids, server = under_way(forks, 3), server_of(forks)
    assert [parent_of(pid) for pid in pids] == [server] * 3
    assert Path(f"/proc/{server}/status").read_text().partition("Threads:")[2].split()[0] == "1", "it may fork"
    assert len({os.getpgid(pid) for pid in (*pids, server, os.getpid())}) == 5
    os.kill(pids[0], signal.SIGSEGV)
    os.kill(pids[1], signal.SIGKILL)
    assert (crashed.wait(), killed.wait()) == (-signal.SIGSEGV, -signal.SIGKILL)
    assert parent_of(pids[2]) == server
    os.kill(server, signal.SIGKILL)
    assert other.wait() == -signal.SIGKILL
    another = start()
    (last,) = under_way(forks, 1)
    assert parent_of(last) == server_of(forks) != server, "begun anew"
    forks.close()
    assert another.wait() == -signal.SIGKILL
    assert not Path(f"/proc/{last}").exists(), "none outlives the process that it comes from"
    for child in (crashed, killed, other, another):
        assert child.stdout is not None
        child.stdout.close()
