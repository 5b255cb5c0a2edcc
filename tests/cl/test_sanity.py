"""The real data by the whole protocol, in small: what any comparison has to show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cl.data.prepare import prepare
from cl.names import names_in
from cl.params import Params, read
from cl.pool import run_all, runs_of
from cl.register import method_class
from tests.cl.small import REPOSITORY

TASKS = 4


@pytest.mark.slow
def test_a_small_comparison_shows_what_it_has_to(tmp_path: Path) -> None:
    params: Params = read(
        REPOSITORY / "params.yaml",
        [f"benchmark.tasks={TASKS}", "selection.first_task_learning_rates=[0.1]", "selection.learning_rates=[0.05]"],
        names_in("methods"),
        [0],
    )
    prepare(params.benchmark, REPOSITORY / "data", tmp_path / "prepared", say=lambda line: None)
    assert run_all(params, tmp_path, runs_of(params), lambda run, event: None) == {}
    found = {
        method: json.loads((tmp_path / "results" / method / "seed-0.json").read_bytes()) for method in params.methods
    }
    accuracy = {method: result["average_accuracy"] for method, result in found.items()}
    forgetting = {method: result["average_forgetting"] for method, result in found.items()}
    assert forgetting["finetune"] > 0.1
    trained = [method for method in accuracy if method_class(method).selection != "one-pass"]
    assert accuracy["joint"] == max(accuracy[method] for method in trained)
    assert forgetting["packnet"] == 0
    assert abs(forgetting["hat"]) < 0.01
    assert min(accuracy.values()) > 0.6
    better = [method for method in accuracy if accuracy[method] > accuracy["finetune"]]
    assert set(accuracy) - set(better) <= {"finetune"}, accuracy
