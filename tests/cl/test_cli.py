"""The end of a command."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from cl.cli import minutes_of, parser
from cl.errors import UserError
from tests.conftest import REPOSITORY

DONE = """
import os, sys, time
from cl import cli

class Last:
    def __del__(self, write=os.write, sleep=time.sleep):
        write(1, b"torn down\\n")
        sleep(1)

last = Last()
sys.exit(cli.guarded(lambda: 0))
"""


def test_an_interrupt_after_the_end_makes_no_failure_of_it() -> None:
    """While the interpreter takes down its modules it hears no signal any more: one would kill it."""
    command = [sys.executable, "-c", DONE]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, encoding="utf-8") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "torn down\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 0


def test_an_option_that_is_none_is_told_from_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    for typed, said in (
        (["--methds", "ewc"], "unrecognized arguments: --methds ewc; did you mean --methods?\n"),
        (["--seds=0", "--ouput", "x"], "unrecognized arguments: --seds=0 --ouput x; did you mean --seeds --out?\n"),
        (["--nothing-like-it"], "unrecognized arguments: --nothing-like-it\n"),
    ):
        with pytest.raises(SystemExit) as ended:
            parser("cl", None).parse_args(typed)
        assert ended.value.code == 2
        assert capsys.readouterr().err.endswith(said)


def test_minutes_are_a_number_above_0() -> None:
    assert [minutes_of(text) for text in ("0.5", "90", "1e3", "null")] == ["0.5", "90", "1e3", "null"]
    for text in ("x", "", "0", "-3", ".nan", ".inf", "1e999", "1e3x", "0x10", "1_0"):
        with pytest.raises(UserError, match=r"--minutes .*: has to be a number of minutes above 0, or null"):
            minutes_of(text)
