"""Joint training: one softmax over the classes of all tasks."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from cl.data import joined
from cl.methods.joint import Joint
from tests.cl.small import attach, learner_for, mlp, params_for, toy_task


def test_loss_is_over_all_classes() -> None:
    method = attach(Joint(), mlp(classes=(3, 2)))
    x = torch.rand(3, 1, 1, 4)
    found = method.loss(x, torch.tensor([2, 0, 1]), torch.tensor([0, 1, 1]))
    torch.testing.assert_close(found, F.cross_entropy(method.net(x), torch.tensor([2, 3, 4])))


def test_joined_task_holds_everything_once() -> None:
    tasks = (toy_task([[1], [2]], [0, 1]), toy_task([[3], [4], [5]], [0, 0, 1], index=1))
    whole = joined(tasks)
    for split in (whole.train, whole.validation, whole.test):
        assert split.images.flatten().tolist() == [1, 2, 3, 4, 5]
        assert split.y.tolist() == [0, 1, 0, 0, 1]
        assert split.t.tolist() == [0, 0, 1, 1, 1]
    assert whole.index == 1
    assert whole.classes == ("toy-0/0", "toy-0/1", "toy-1/0", "toy-1/1")


def test_one_stage_and_every_head(prepared: dict[int, Path]) -> None:
    learner = learner_for(params_for("joint"), prepared[3])
    assert [stage.name for stage in learner.experiences] == ["all"]
    learner.open(learner.experiences[0])
    assert learner.method.net.classes() == [10, 10, 10]
    assert learner.is_first
