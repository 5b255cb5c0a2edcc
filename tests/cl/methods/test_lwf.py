"""LwF and distillation. Golden values by hand from equations 1 to 3 of Li and Hoiem (2018)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cl.methods.lwf import LwF
from cl.nets.multihead import Increment
from cl.ops import distillation
from tests.cl.small import attach, mlp, toy_task


def test_equal_logits_give_the_teachers_entropy_and_no_gradient() -> None:
    student = torch.tensor([[2.0, 0.0]], requires_grad=True)
    found = distillation(student, torch.tensor([[2.0, 0.0]]), 2.0)
    found.backward()
    assert float(found.detach()) == pytest.approx(0.582203, abs=1e-6)
    torch.testing.assert_close(student.grad, torch.zeros(1, 2), atol=1e-7, rtol=0)


def test_distillation_and_its_gradient() -> None:
    for batch in (1, 3):
        student = torch.zeros(batch, 2, requires_grad=True)
        found = distillation(student, torch.tensor([[2.0, 0.0]] * batch), 2.0)
        found.backward()
        assert float(found.detach()) == pytest.approx(0.693147, abs=1e-6)
        expected = torch.tensor([[-0.115529, 0.115529]] * batch) / batch
        torch.testing.assert_close(student.grad, expected, atol=1e-6, rtol=0)


def test_loss_adds_the_distillation_of_every_old_head() -> None:
    net = mlp(classes=(3, 2, 4))
    method = attach(LwF(strength=5.0, temperature=2.0), net, task=2)
    data = toy_task([[1, 0, 0, 2], [0, 1, 3, 0]], [3, 1], index=2)
    x, y = data.train.x, data.train.y
    method.begin_task(data)
    teachers = [net(x, s).detach() for s in range(2)]
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1
    expected = F.cross_entropy(net(x, 2), y) + 5 * sum(distillation(net(x, s), teachers[s], 2.0) for s in range(2))
    torch.testing.assert_close(method.loss(x, y, 2), expected)


def moved_since_the_task_began(method: LwF) -> tuple[Tensor, Tensor, Tensor]:
    """Images and labels of a third task, and the old network's logits; the network has moved since."""
    data = toy_task([[1, 0, 0, 2], [0, 1, 3, 0]], [3, 1], index=2)
    x, y = data.train.x, data.train.y
    method.begin_task(data)
    teacher = method.net(x).detach()
    with torch.no_grad():
        for p in method.net.parameters():
            p += 0.1
    return x, y, teacher


@pytest.mark.parametrize(("increment", "classes", "old"), [("domain", (4,), 4), ("class", (3, 2, 4), 5)])
def test_one_softmax_is_distilled_as_one(increment: Increment, classes: tuple[int, ...], old: int) -> None:
    """The new task is told apart among all classes, and what was an answer before is held as one."""
    net = mlp(classes=classes)
    net.increment = increment
    method = attach(LwF(strength=5.0), net, task=2)
    x, y, teacher = moved_since_the_task_began(method)
    column = y + 5 if increment == "class" else y
    expected = F.cross_entropy(net(x), column) + 5 * distillation(net(x)[:, :old], teacher[:, :old], 2.0)
    torch.testing.assert_close(method.loss(x, y, 2), expected)


@pytest.mark.parametrize(
    ("increment", "classes", "groups"),
    [
        ("task", (3, 2, 4), [((0, 3), (0, 3)), ((3, 5), (3, 5))]),
        ("domain", (4,), [((0, 4), (0, 4))]),
        ("class", (3, 2, 4), [((0, 9), (0, 5))]),
    ],
)
def test_new_images_count_as_replayed(
    increment: Increment, classes: tuple[int, ...], groups: list[tuple[tuple[int, int], tuple[int, int]]]
) -> None:
    """Third task: a third for the labels, two thirds for the mean of the old answers, each times T^2 = 9."""
    net = mlp(classes=classes)
    net.increment = increment
    method = attach(LwF(strength=0.5, temperature=3.0, form="replay"), net, task=2)
    x, y, teacher = moved_since_the_task_began(method)
    student = net(x)
    kept = []
    for now, before in groups:  # an old answer gives new classes probability 0
        q = F.log_softmax(student[:, slice(*now)] / 3, 1)[:, : before[1] - before[0]]
        kept.append(-(F.softmax(teacher[:, slice(*before)] / 3, 1) * q).sum(1).mean())
    own = student[:, 5:] if increment == "task" else student
    learned = F.cross_entropy(own, y + 5 if increment == "class" else y)
    expected = learned / 3 + 0.5 * 2 / 3 * 9 * sum(kept) / len(kept)
    torch.testing.assert_close(method.loss(x, y, 2), expected)


def test_old_heads_go_on_learning_and_the_teacher_does_not() -> None:
    net = mlp(classes=(3, 3))
    method = attach(LwF(), net, task=1)
    data = toy_task([[1, 0, 0, 2], [0, 1, 3, 0]], [0, 1], index=1)
    method.begin_task(data)
    with torch.no_grad():
        net.backbone[1].weight += 0.1
    method.loss(data.train.x, data.train.y, 1).backward()
    assert bool(net.heads[0].weight.grad.any())
    assert all(not tensor.requires_grad for tensor in method._teacher.values())
    assert not torch.equal(method._teacher["backbone.1.weight"], net.backbone[1].weight)


def test_first_task_has_no_teacher() -> None:
    method = attach(LwF(), mlp())
    data = toy_task([[1, 0, 0, 2]], [1])
    method.begin_task(data)
    assert method._teacher is None
    expected = F.cross_entropy(method.net(data.train.x, 0), data.train.y)
    assert torch.equal(method.loss(data.train.x, data.train.y, 0), expected)
