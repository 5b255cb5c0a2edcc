"""Accuracy within the tasks, taken after everything was learned."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from cl import anytime
from cl.anytime import Moment, summary, trace
from cl.children import RunId
from cl.data import load
from cl.errors import UserError
from tests.cl.small import CPU, OFF, output, params_for, published, run


def test_measures_of_a_trace() -> None:
    moments = [Moment(0, 5, [0.8]), Moment(1, 10, [0.2, 0.5]), Moment(1, 15, [0.6, 0.9])]
    found = summary(moments, 2)
    assert found["anytime_average_accuracy"] == pytest.approx((0.8 + 0.35 + 0.75) / 3)
    assert found["minimum_accuracy"] == pytest.approx(0.2)
    assert found["worst_case_accuracy"] == pytest.approx(0.5 * 0.9 + 0.5 * 0.2)
    assert found["windowed_forgetting"] == pytest.approx(0)
    assert found["windowed_plasticity"] == pytest.approx(0.4)


@pytest.mark.parametrize("method", ["finetune", "ewc", "packnet", "hat", "er"])
@pytest.mark.parametrize("selection", [{}, OFF])
def test_the_same_training_is_seen_again(
    method: str, selection: dict[str, bool], prepared: dict[int, Path], tmp_path: Path
) -> None:
    """The last look of a task comes before consolidation; nothing that was published changes."""
    out, params = output(tmp_path, prepared[2]), params_for(method, selection=selection)
    run(params, out)
    before = published(out)
    moments = trace(params, RunId(method, 0), out, every=1)
    assert published(out) == before
    trials = json.loads(before[f"results/{method}/seed-0.trials.json"])["trials"]
    for index in range(2):
        kept = next(t for t in trials if t["task_index"] == index and t["kept"])
        searched = [t for t in trials if t["task_index"] == index and t["phase"] == "plasticity"]
        trained = next((t for t in searched if t["learning_rate"] == kept["learning_rate"]), kept)
        own = [moment for moment in moments if moment.task == index]
        if method == "packnet" and selection:  # its retraining is counted there too
            assert 0 < len(own) < kept["steps"]
        else:
            assert len(own) == (trained if method == "packnet" else kept)["steps"]
        assert all(len(moment.accuracy) == index + 1 for moment in own)
    assert [moment.step for moment in moments] == list(range(1, len(moments) + 1))
    if method in ("packnet", "hat"):
        assert len({moment.accuracy[0] for moment in moments if moment.task == 1}) == 1, "the old task is out of reach"


def test_looks_are_so_many_steps_apart(prepared: dict[int, Path], tmp_path: Path) -> None:
    out, params = output(tmp_path, prepared[2]), params_for("finetune", selection=OFF)
    run(params, out)
    steps = [moment.step for moment in trace(params, RunId("finetune", 0), out, every=3)]
    assert steps
    assert {b - a for a, b in itertools.pairwise(steps)} <= {3, 4, 5}


@pytest.mark.parametrize(("every", "why"), [(0, "1 step or more"), (10**6, "measure more often")])
def test_a_task_that_would_not_be_looked_at_is_named(
    every: int, why: str, prepared: dict[int, Path], tmp_path: Path
) -> None:
    out, params = output(tmp_path, prepared[2]), params_for("finetune", selection=OFF)
    run(params, out)
    with pytest.raises(UserError, match=f"--every {every}: .*{why}"):
        trace(params, RunId("finetune", 0), out, every)


def test_at_most_so_many_test_samples(prepared: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    task = load(prepared[2], CPU).tasks[1]
    assert anytime._few(task) is task
    monkeypatch.setattr(anytime, "SAMPLES", 7)
    few = anytime._few(task)
    assert (len(few.test), few.test.t) == (7, 1)
    assert few.train is task.train


def test_what_was_not_learned_cannot_be_seen_again(prepared: dict[int, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="finetune/seed-0: not learned"):
        trace(params_for("finetune"), RunId("finetune", 0), output(tmp_path, prepared[2]), every=1)


def test_joint_training_has_no_in_between(prepared: dict[int, Path], tmp_path: Path) -> None:
    assert anytime.traced(params_for("joint"), RunId("joint", 0), output(tmp_path, prepared[2]), 1) is None


def test_looks_that_never_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["cl.anytime", "--every", "0"])
    with pytest.raises(UserError, match="--every 0: has to be 1 step or more"):
        anytime.main()
