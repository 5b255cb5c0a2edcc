"""What a comparison says to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cl.params import Params, read
from flows.report.show import where_to_look_next
from flows.report.steps import steps
from flows.tracking.settings import Tracking
from tests.conftest import REPOSITORY

TYPED = ["--methods=er,joint", "--out", "my out", "--seeds", "0,1", "--minutes", "3", "--show"]


def of(*changes: str, seeds: tuple[int, ...] = (0, 1), methods: tuple[str, ...] = ("er", "joint")) -> Params:
    return read(REPOSITORY / "params.yaml", changes, list(methods), seeds)


def commands(params: Params, *, learned: bool = True, options: Any = TYPED) -> list[str]:
    return [step.command for step in steps(params, Path("my out"), learned, options)]


def test_the_commands_take_over_what_was_typed() -> None:
    kept = "--methods=er,joint --out 'my out'"
    assert commands(of()) == [
        f"python -m flows.compare {kept} --seeds 0,1,2",
        f"python -m flows.champion {kept} --seeds 0,1",
        f"python -m flows.predict PICTURES {kept} --seeds 0,1",
        f"python -m cl.status {kept} --seeds 0,1",
    ]
    assert commands(of(), options=None)[1] == "python -m flows.champion --params FILE --out 'my out'"


def test_without_bounds_it_is_said_how_to_add_them() -> None:
    found = commands(of(methods=("er", "ewc")), options=["--methods", "er,ewc", "--seeds=0,1"])
    assert found[0] == "python -m flows.compare --methods er,ewc,joint,finetune --seeds=0,1"
    assert found[1] == "python -m flows.compare --methods er,ewc --seeds 0,1,2"


@pytest.mark.parametrize(
    ("changes", "more"),
    [(["tracking.enabled=false"], {}), (["benchmark.seed=run"], {}), ([], {"learned": False})],
)
def test_no_model_is_registered_where_that_would_be_refused(changes: list[str], more: dict[str, Any]) -> None:
    found = commands(of(*changes, seeds=(0, 1, 2)), **more)
    assert [command.split()[2] for command in found] == ["cl.status"]


def test_mlflow_is_no_place_to_look_where_runs_are_not_tracked() -> None:
    where = Tracking(Path("out"), None, "digits")
    assert "MLflow" in where_to_look_next(where)
    assert "MLflow" not in where_to_look_next(where, tracked=False)
