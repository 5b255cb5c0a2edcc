"""A stage whose `dvc` is killed ends too; the real DVC is killed in test_pipeline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.flows.conftest import REPOSITORY, environment

STAGE = """
import sys, time
from cl import cli
from flows.stage import ends_with_dvc
def main():
    ends_with_dvc()
    print("ready", flush=True)
    time.sleep(20)
    return 0
sys.exit(cli.guarded(main))
"""
SHELL = ["sh", "-c", '"$@"; true', "sh"]
STARTER = "import subprocess, sys; subprocess.run(sys.argv[1:], check=False)"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked at on Linux only")
@pytest.mark.parametrize(("by_dvc", "shell"), [(True, []), (True, SHELL), (False, SHELL)])
def test_it_ends_with_who_started_it_if_that_is_dvc(by_dvc: bool, shell: list[str], tmp_path: Path) -> None:
    told = tmp_path / "stderr"
    command = [sys.executable, "-c", STARTER, *shell, sys.executable, "-c", STAGE]
    with told.open("w") as stderr:
        starter = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment(**({"DVC_STAGE": "train@ewc"} if by_dvc else {})),
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    assert starter.stdout is not None
    with starter.stdout:
        assert starter.stdout.readline() == b"ready\n"
        starter.kill()
        starter.wait()
        deadline = time.monotonic() + (10 if by_dvc else 2)
        while time.monotonic() < deadline and not told.read_text():
            time.sleep(0.05)
        if by_dvc:
            assert starter.stdout.read() == b"", "nobody has it open any more"
            assert "the same command goes on from here" in told.read_text()
        else:
            assert told.read_text() == ""
            os.killpg(starter.pid, signal.SIGKILL)
