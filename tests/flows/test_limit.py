"""A limit of time, and SIGTERM: what is finished is reported, and the same command goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cl import cli
from cl.errors import TRY_AGAIN
from cl.limit import Far, Limit, Unfinished, how_far
from flows import nightly
from flows.engine.plain import Engine
from flows.train import RunsFailed
from tests.cl.small import params_for
from tests.flows.conftest import LONGER, Finished, Started, learned, options, published, run

AT_ONCE = 1e-5
"""Minutes: over before training can begin."""
FAR = re.compile(r"(\d+) of (\d+) runs are finished, under way: (\d+), not begun: (\d+)")


def far(said: str) -> list[int]:
    """Runs finished, all, under way and not begun, as the last line says."""
    (numbers,) = FAR.findall(said)
    return [int(number) for number in numbers]


def reported(out: Path) -> set[str]:
    """The methods in the report."""
    return set(json.loads((out / "report/summary.json").read_bytes()))


def test_stopped_at_limits_and_continued_it_ends_in_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """Each limit is longer than the one before, since nobody knows how fast this machine is."""
    out, minutes, stops = tmp_path / "out", AT_ONCE, 0
    given = options(*LONGER, out=out, seeds="0")
    while (done := run("cl", [*given, "--minutes", str(minutes)])).returncode == TRY_AGAIN:
        (line,) = done.stderr.splitlines()
        assert "the same command goes on from here" in line
        finished, runs, begun, waiting = far(line)
        assert runs == 2
        assert finished + begun + waiting == runs
        if minutes == AT_ONCE:
            assert waiting == runs
            assert not list(out.glob(".work/*/*/*/unit.json")), "nothing is trained"
        stops, minutes = stops + 1, max(1.6 * minutes, 0.05)
    assert (done.returncode, done.stderr) == (0, "")
    assert stops > 0
    assert published(out) == {name: data for name, data in undisturbed.items() if "seed-0" in name}


def test_what_is_finished_is_reported_at_the_limit(finished: Finished, tmp_path: Path) -> None:
    """Of ewc there are results, but of another strength."""
    out = finished.copy(tmp_path / "out")
    given = options("methods.ewc.strength=7", f"execution.minutes={AT_ONCE}", out=out)
    done = run("flows.compare", given)
    assert done.returncode == TRY_AGAIN
    (line,) = done.stderr.splitlines()
    assert far(line) == [2, 4, 0, 2]
    assert "error" not in line
    assert not learned(done.stdout)
    assert reported(out) == {"finetune"}
    assert (out / "report/leaderboard.md").read_text() in done.stdout
    assert published(out) == published(finished.out)


def test_where_nothing_is_left_a_limit_ends_nothing(finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    done = run("cl", [*options(out=out), "--minutes", str(AT_ONCE)])
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_that_was_ended_before_it_published_is_finished(finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    before = published(out)
    (out / "results/ewc/seed-0.json").unlink()
    given = cli.parser("cl", None, trains=True).parse_args(options(out=out))
    assert str(how_far(cli.params_of(given), out)).startswith("4 of 4 runs are finished")
    assert published(out) == before


@pytest.mark.parametrize("module", ["flows.compare", pytest.param("cl", marks=pytest.mark.slow)])
def test_what_is_finished_is_reported_at_a_sigterm(module: str, finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    given = options("methods.ebll.code_epochs=1000000", out=out, methods="finetune,ewc,ebll")  # ebll never ends
    with Started([sys.executable, "-m", module, *given], tmp_path) as started:
        started.wait_for(lambda: len(list(out.glob(".work/ebll/*/*/unit.json"))) == 2, "two children at work")
        os.kill(started.process.pid, signal.SIGTERM)
        started.dies_with_children(60)
    assert started.process.returncode == 128 + signal.SIGTERM
    (line,) = started.stderr.strip().splitlines()
    assert "the same command goes on from here" in line
    assert far(started.stdout) == [4, 6, 2, 0]
    if module == "flows.compare":
        assert reported(out) == {"finetune", "ewc"}
        assert "Without any result: ebll" in started.stdout
    else:
        assert len(re.findall(r"^(?:finetune|ewc) +\d", started.stdout, re.MULTILINE)) == 2


def test_a_night_that_is_stopped_at_its_limit_is_not_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no going on with it: the next night begins anew."""
    stopped = Unfinished(
        Limit(0.5), Far(["ewc/seed-0"], ["ewc/seed-1"], ["ewc/seed-2"], []), {"ewc/seed-1": "no memory"}
    )

    def stages(*given: Any) -> None:
        raise stopped

    monkeypatch.setattr(nightly, "stages", stages)
    monkeypatch.setattr(nightly.origin, "tags", lambda *given: {})
    params = params_for("ewc", tracking={"enabled": False})
    with pytest.raises(RunsFailed, match=r"2 of 3 runs failed: no memory; not finished within 0\.5 minutes"):
        nightly.nightly(params, tmp_path, Engine(), datetime(2026, 2, 1, 2, 0, 0, tzinfo=UTC))
    night = json.loads((tmp_path / "nights/2026-02-01T02-00-00/night.json").read_bytes())
    assert not night["good"]
    assert set(night["failures"]) == {"ewc/seed-1", "ewc/seed-2"}
