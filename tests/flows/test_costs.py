"""The cost table, at a scale of seconds."""

import subprocess
import sys

from tests.flows.conftest import REPOSITORY


def test_table_has_a_row_of_measured_figures() -> None:
    scale = "--tasks 2 --samples 40 --batch-size 20 --memory-per-task 4 --epochs 2 --rounds 1"
    command = [sys.executable, "-m", "benchmarks.costs", "--methods", "ewc", *scale.split()]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    relative, runs = (line for line in done.stdout.splitlines() if line.startswith("| ewc |"))
    assert relative.split(" | ")[1].startswith("1.00 (1.09"), "the only one of the survey's: its own smallest"
    assert "MiB" in runs
    assert runs.count(" s |") == 2
