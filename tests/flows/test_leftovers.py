"""Two same commands at once, and what ends in the middle: right bytes, and nothing left behind."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.flows.conftest import Finished, Started, options, published, run

LEFT = ("*.part", "params-*", ".probe*", "run-*", ".*.lock")


def left(out: Path) -> list[str]:
    """What only a command under way may have there."""
    return [str(path) for kind in LEFT for path in out.rglob(kind)]


@pytest.mark.parametrize("module", ["flows.compare", pytest.param("cl", marks=pytest.mark.slow)])
def test_two_same_commands_at_once_end_well(module: str, finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", module, *options(out=out, methods="ewc", seeds="0")]
    with Started(command, tmp_path) as first, Started(command, tmp_path) as second:
        for started in (first, second):
            assert started.process.wait(300) == 0, started.stderr
            assert started.stderr == ""
    assert published(out) == published(finished.out, "ewc/seed-0")
    assert left(out) == []


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Large ones, that take seconds to be read."""
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (2500, 2500, 3), dtype=np.uint8)).save(tmp_path / "one.png", compress_level=1)
    for name in ("a", "b"):
        (tmp_path / "photographs/t" / name).mkdir(parents=True)
        for number in range(150):
            os.link(tmp_path / "one.png", tmp_path / "photographs/t" / name / f"{number}.png")
    return tmp_path / "photographs"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_preparation_that_ends_takes_its_readers_with_it(
    end: signal.Signals, photographs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = ["--out", str(out), "--set", "benchmark.name=folder", "--set", f"benchmark.path={photographs}"]
    with Started([sys.executable, "-m", "flows.prepare", *given], tmp_path) as started:
        started.wait_for(lambda: [line for line in started.alive() if "decode.py" in line], "a reader")
        os.kill(started.process.pid, end)
        started.dies_with_children()
        assert started.process.returncode == (143 if end is signal.SIGTERM else -9)
        assert started.stderr.count("goes on from here") == (end is signal.SIGTERM)
    assert bool(list(out.glob(".prepared.*.part"))) == (end is signal.SIGKILL)
    assert run("flows.prepare", ["--out", str(out), "--set", "benchmark.tasks=1"]).returncode == 0
    assert left(out) == []


def test_nothing_given_is_no_folder(tmp_path: Path) -> None:
    """As where a variable in a script is not set."""
    for module in ("flows.prepare", "cl", "benchmarks.fronts"):
        done = run(module, ["--out", ""], cwd=tmp_path, env={"PYTHONPATH": str(Path(__file__).parents[2])})
        assert (done.returncode, done.stderr) == (2, "error: --out: is empty; give a path, or leave it out\n")
    assert not list(tmp_path.iterdir())
