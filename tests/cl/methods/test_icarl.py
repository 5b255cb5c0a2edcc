"""iCaRL: golden values of the fact sheet, sections 10.5 and 10.12."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cl.errors import UserError
from cl.memory import herd
from cl.methods.icarl import ICaRL, divergence
from tests.cl.small import attach, linear_net, mlp, toy_task


def test_herding_order() -> None:
    features = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    assert herd(features, 4).tolist() == [2, 1, 3, 0], "features 2, 1, 9, 0"
    for count in range(5):
        assert herd(features, count).tolist() == [2, 1, 3, 0][:count]
    assert herd(features, 9).tolist() == [2, 1, 3, 0]


def test_divergence() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert float(divergence(logits, logits, 2.0)) == pytest.approx(0, abs=1e-7)
    for batch in (1, 3):
        found = divergence(torch.zeros(batch, 2), torch.tensor([[2.0, 0.0]] * batch), 2.0)
        assert float(found) == pytest.approx(0.443776, abs=1e-6)


def task(index: int, per_class: int = 6) -> object:
    """Two classes, along the first and along the second pixel, as near to it as the task is early."""
    images = [[9 + i, index, i, 1] for i in range(per_class)] + [[index, 9 + i, 1, i] for i in range(per_class)]
    return toy_task(images, [0] * per_class + [1] * per_class, index)


def learned(tasks: int, **knobs: float) -> ICaRL:
    net = mlp(classes=(2,) * tasks)
    method = ICaRL(**knobs)
    for index in range(tasks):
        partly = mlp(classes=(2,) * (index + 1))
        partly.load_state_dict({k: v for k, v in net.state_dict().items() if k in partly.state_dict()})
        attach(method, partly, index, batch_size=4)
        method.begin_task(task(index))
        method.end_task(task(index))
    return method


def test_budget_is_shared_by_the_classes_seen_and_lists_are_prefixes() -> None:
    before: list[list[Tensor]] = []
    for tasks, share in ((1, 6), (2, 3), (3, 2), (4, 1)):
        kept = learned(tasks, memory_budget=12).exemplars_
        assert [[len(images) for images in of_task] for of_task in kept] == [[share, share]] * tasks
        for old, new in zip(before, kept, strict=False):
            for a, b in zip(old, new, strict=True):
                assert torch.equal(a[: len(b)], b)
        before = kept


def test_exemplars_are_the_classes_own() -> None:
    kept = learned(2, memory_budget=8).exemplars_
    for index, of_task in enumerate(kept):
        data = task(index).train
        for label, images in enumerate(of_task):
            own = {bytes(x.flatten().tolist()) for x in data.images[data.y == label]}
            assert images.dtype == torch.uint8
            assert {bytes(x.flatten().tolist()) for x in images} <= own


def test_budget_below_one_a_class_is_an_error() -> None:
    with pytest.raises(UserError, match="memory_budget"):
        learned(2, memory_budget=3)


def test_prediction_is_the_nearest_mean_within_the_task() -> None:
    """Features are the inputs themselves, normalised; of each class one exemplar."""
    method = attach(ICaRL(memory_budget=4), linear_net(torch.eye(2)))
    method.end_task(toy_task([[3, 0], [0, 5]], [0, 1]))
    method.net.add_head(2, torch.Generator())
    method.attach(method.net, 1, method.training, 0.1, (0,))
    method.end_task(toy_task([[2, 2], [4, 3]], [0, 1], index=1))
    x = torch.tensor([[5.0, 1.0], [1.0, 8.0], [1.0, 1.0]]).view(3, 1, 1, 2)
    assert method.predict(x, 0)[:2].argmax(1).tolist() == [0, 1]
    assert method.predict(x, 1)[2:].argmax(1).tolist() == [0]
    assert method.predict(x, 0).shape == method.predict(x, 1).shape == (3, 2)
    means = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5**0.5, 0.5**0.5], [0.8, 0.6]])
    torch.testing.assert_close(method.predict(x), -torch.cdist(F.normalize(x.view(3, 2), dim=1), means))


def test_order_of_exemplars_does_not_change_the_means() -> None:
    features = F.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(features.mean(0), features[order].mean(0))


@pytest.mark.parametrize(("old_tasks", "strength"), [(0, 10.0), (1, 0.0)])
def test_without_old_tasks_or_strength_it_is_cross_entropy(old_tasks: int, strength: float) -> None:
    method = learned(old_tasks, strength=strength) if old_tasks else ICaRL(strength=strength)
    attach(method, mlp(classes=(2,) * (old_tasks + 1)), old_tasks, batch_size=4)
    data = task(old_tasks)
    method.begin_task(data)
    x, y = data.train.x[:4], data.train.y[:4]
    batch = method.batch(x, y, old_tasks)
    assert (batch[0] is x, batch[1] is y, batch[2]) == (True, True, old_tasks)
    assert torch.equal(method.loss(*batch), F.cross_entropy(method.net(x, old_tasks), y))


def replaying() -> ICaRL:
    method = learned(2, strength=10.0, memory_budget=8)
    attach(method, mlp(classes=(2, 2, 2)), 2, batch_size=4)
    method.begin_task(task(2))
    return method


def test_replays_its_share_of_each_step() -> None:
    """ceil(B m / (N + m)) with B = 4, m = 8 exemplars and N = 12 samples."""
    method = replaying()
    data = task(2)
    x, y, t = method.batch(data.train.x[:4], data.train.y[:4], 2)
    assert (len(x), len(y), t[:4].tolist()) == (6, 6, [2] * 4)
    assert set(t[4:].tolist()) <= {0, 1}
    survey = [-(-200 * 4500 // (8000 + 4500)), -(-200 * 9000 // (8000 + 9000))]
    assert survey == [72, 106]


def test_loss_is_strength_times_the_mean_divergence() -> None:
    """With as many exemplars of each old task: lambda times the mean over tasks (10 at e = 1), not the quirk's 65."""
    method = replaying()
    data = task(2)
    with torch.no_grad():
        for p in method.net.parameters():
            p += 0.2
    method.batch(data.train.x[:4], data.train.y[:4], 2)
    replay = method.replay_
    method.drawn_ = torch.tensor([0, 1, 4, 5])
    assert replay["t"][method.drawn_].tolist() == [0, 0, 1, 1]
    x = torch.cat([data.train.x[:4], replay["x"][method.drawn_]])
    t = torch.cat([torch.full((4,), 2), replay["t"][method.drawn_]])
    y = torch.cat([data.train.y[:4], replay["y"][method.drawn_]])
    old = mlp(classes=(2, 2, 2))
    each = [
        divergence(method.net(x[4 + 2 * s : 6 + 2 * s], s), old(x[4 + 2 * s : 6 + 2 * s], s).detach(), 2.0)
        for s in range(2)
    ]
    assert float(each[0].detach()) > 1e-4
    expected = F.cross_entropy(method.net(x[:4], 2), y[:4]) + 10 * (each[0] + each[1]) / 2
    torch.testing.assert_close(method.loss(x, y, t), expected)


def test_distillation_starts_at_zero_and_reaches_the_old_heads() -> None:
    method = replaying()
    data = task(2)
    batch = method.batch(data.train.x[:4], data.train.y[:4], 2)
    plain = F.cross_entropy(method.net(batch[0][:4], 2), batch[1][:4])
    torch.testing.assert_close(method.loss(*batch), plain)
    with torch.no_grad():
        method.net.backbone[1].weight += 0.3
    method.loss(*batch).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in method.net.parameters())
    assert any(bool(method.net.heads[s].weight.grad.any()) for s in range(2))
