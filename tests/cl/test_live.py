"""The table on a terminal, and plain lines where there is none, in real pseudo-terminals."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from cl.children import RunId
from cl.live import LiveTable, shown
from cl.pool import Pace, Progress, chosen_of, time_left
from tests.cl.small import REPOSITORY

SMALL = ["benchmark.train_per_class=10", "model.hidden=[16]", "training.epochs=3"]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def on_a_terminal(arguments: Sequence[str], interrupt_when: str = "") -> tuple[int, str, float]:
    """(exit status, all that was shown without control codes, seconds from Ctrl-C to the end)."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(REPOSITORY)
        os.execvpe(sys.executable, [sys.executable, *arguments], {**os.environ, "COLUMNS": "120", "TERM": "xterm"})
    seen, pressed, ready = "", 0.0, select.poll()
    ready.register(terminal, select.POLLIN | select.POLLHUP)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if ready.poll(100):
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            seen += CONTROL.sub("", data.decode(errors="replace"))
        if interrupt_when and not pressed and interrupt_when in seen:
            os.write(terminal, b"\x03")
            pressed = time.monotonic()
    else:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    return status, seen, time.monotonic() - pressed


def options(out: Path, *settings: str) -> list[str]:
    given = [part for setting in (*SMALL, *settings) for part in ("--set", setting)]
    return ["-m", "cl", "--methods", "finetune,ewc", "--seeds", "0", "--out", str(out), *given]


def test_a_terminal_shows_a_row_per_method(tmp_path: Path) -> None:
    status, seen, _ = on_a_terminal(options(tmp_path, "benchmark.tasks=2"))
    assert status == 0, seen
    assert re.search(r"method\s+accuracy so far\s+last", seen)
    assert re.search(r"ewc\s+━+\s+\d+\.\d%\s+seed 0: task 2/2 learned, learning rate 0\.\d+, strength \d+", seen)
    assert "ewc/seed-0: task" not in seen, "no lines beside the table"


def test_ctrl_c_ends_at_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    endless = ("training.epochs=100000", "training.patience.stop_after=100000", "training.batch_size=1")
    status, seen, seconds = on_a_terminal(options(tmp_path, "benchmark.tasks=2", *endless), interrupt_when="method ")
    assert status == 130
    assert "stopped; nothing finished is lost: the same command goes on from here" in seen
    assert seconds < 10


def test_without_a_terminal_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with shown([RunId("ewc", 0)], print) as hear:
        assert isinstance(hear, Progress)


def test_lines_also_on_a_terminal_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with shown([RunId("ewc", 0)], print, lines=True) as hear:
        assert isinstance(hear, Progress)


def test_rows_are_means_over_the_seeds() -> None:
    console = Console(width=140, record=True, force_terminal=False)
    runs = [RunId("ewc", 0), RunId("ewc", 1), RunId("joint", 0)]
    table = LiveTable(runs, console)
    learned = {"event": "task", "index": 0, "tasks": 2, "learning_rate": 0.05, "decayed": {"strength": 100.0}}
    table(runs[0], {**learned, "average_accuracy": 0.9})
    table(runs[1], {**learned, "average_accuracy": 0.8})
    table(runs[1], {"event": "warning", "message": "[careful]"})
    console.print(table)
    text = console.export_text()
    assert re.search(r"ewc .* 85\.0% +seed 1: task 1/2 learned, learning rate 0\.05, strength 100", text)
    assert "ewc/seed-1: [careful]" in text
    table(runs[2], {"event": "finished before"})
    table(
        runs[0], {"event": "trial", "index": 1, "tasks": 2, "phase": "plasticity", "point": {"a": 1}, "accuracy": 0.5}
    )
    console.print(table)
    assert "seed 0: task 2/2 plasticity a 1: 50.0%" in console.export_text()


def test_a_table_longer_than_the_terminal_shows_who_was_heard_last() -> None:
    console = Console(width=100, height=8, record=True, force_terminal=False)
    names = ["a", "b", "c", "d", "e", "f", "g"]
    runs = [RunId(name, 0) for name in names]
    table = LiveTable(runs, console)
    trial = {"event": "trial", "index": 0, "tasks": 2, "phase": "stability", "point": {"p": 1}, "accuracy": 0.5}
    for name in ["e", "f", "g", "c", "b", "a"]:
        table(runs[names.index(name)], trial)
    console.print(table)
    lines = console.export_text().rstrip().splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["a", "b", "c", "f", "g"], "in the order they were given"
    assert lines[-1].strip() == "2 more methods"
    assert len(lines) < console.height


def test_forty_columns_show_accuracy_whole() -> None:
    console = Console(width=40, height=12, record=True, force_terminal=False)
    table = LiveTable([RunId("progressive_nets", 0)], console)
    task = {"event": "task", "index": 0, "tasks": 2, "average_accuracy": 0.912, "learning_rate": 0.1, "decayed": {}}
    table(RunId("progressive_nets", 0), task)
    console.print(table)
    text = console.export_text()
    assert "progressive_nets" in text
    assert "91.2%\n" in text
    assert "seed 0" not in text
    assert max(map(len, text.splitlines())) <= 40


def test_time_left() -> None:
    assert time_left([0.5, 0.0], [0.0, 0.0], 10.0) == "30 s left"
    assert time_left([0.5, 0.0], [0.25, 0.0], 30.0) == "3 min left"
    assert time_left([1.0, 1.0], [0.0, 0.0], 10.0) == ""
    assert time_left([0.5, 0.0], [0.5, 0.0], 10.0) == "", "nothing is known yet"
    assert time_left([0.04, *[0.0] * 9], [0.0] * 10, 10.0) == "", "most of that was starting up"
    assert time_left([0.04, *[0.0] * 9], [0.0] * 10, 360.0) == "25 h left"
    assert time_left([1.0, 0.0], [0.5, 0.0], 4 * 3600.0) == "8 h left"


def test_the_pace_is_measured_from_the_first_task_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 60.0, 80.0, 80.0, 0.0, 400.0, 400.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    a, b = RunId("ewc", 0), RunId("ewc", 1)
    pace = Pace([a, b])
    pace.learned(a, 0.25)  # after a minute, most of which was starting up
    pace.learned(b, 0.25)  # 20 s later
    assert pace.left() == "2 min left", "six quarters are left, each of 20 s"
    late = Pace([a, b])
    late.learned(a, 0.25)
    assert late.left() == "47 min left", "seven quarters of 400 s"


def test_what_was_chosen() -> None:
    assert chosen_of({"learning rate": 0.05, "sizes": [1, 2]}) == "learning rate 0.05, sizes [1, 2]"
