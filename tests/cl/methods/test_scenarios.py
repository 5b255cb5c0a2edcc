"""The survey's methods where a head of its own is not what a task brings: they remember what finetuning forgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cl.errors import UserError
from cl.register import checked, method_class
from tests.cl.small import OFF, learn_tasks, learner_for, params_for

MEMORY: dict[str, dict[str, Any]] = {
    "gem": {"memory_per_task": 50},
    "icarl": {"memory_budget": 60},
    "r_pm": {"memory_per_task": 50},
    "r_fm": {"memory_budget": 60},
}
ABLE = [
    (name, increment)
    for name in ("gem", "icarl", "joint", "r_fm", "r_pm")
    for increment in sorted(method_class(name).scenarios - {"task"})
]


def accuracy(method: str, increment: str, prepared: Path) -> float:
    """Of the first of two tasks at the end, by its 100 training images in 20 epochs; the task is not told."""
    settings = {"scenario": {"name": increment}, "training": {"epochs": 20, "batch_size": 20, "learning_rate": 0.03}}
    learner = learner_for(params_for(method, MEMORY.get(method), selection=OFF, **settings), prepared)
    learn_tasks(learner, 2)
    return learner.test()[0]


@pytest.mark.parametrize(("method", "increment"), ABLE)
def test_they_remember(method: str, increment: str, prepared: dict[int, Path]) -> None:
    assert accuracy(method, increment, prepared[2]) > accuracy("finetune", increment, prepared[2]) + 0.1


def test_what_each_declares() -> None:
    both = {("gem", "class"), ("joint", "class"), ("r_fm", "class"), ("r_pm", "class"), ("icarl", "class")}
    assert set(ABLE) == both | {(name, "domain") for name, _ in both if name != "icarl"}


@pytest.mark.parametrize("method", ["hat", "mean_imm", "mode_imm", "packnet", "progressive_nets"])
def test_the_others_say_why_not(method: str) -> None:
    for increment in ("domain", "class"):
        with pytest.raises(UserError, match=rf"{method} .*{increment}-incremental"):
            checked(params_for(method, scenario={"name": increment}))
