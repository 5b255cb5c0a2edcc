"""iCaRL. Golden values by hand from algorithms 1 and 4 of Rebuffi et al. (2017), and from the survey's budgets."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cl.errors import UserError
from cl.memory import herd
from cl.methods.icarl import ICaRL, accumulated, divergence, mean
from cl.nets import MultiHead
from tests.cl.small import attach, dark_and_bright, linear_net, mlp, toy_task


def test_herding_order() -> None:
    features = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    assert herd(features, 4).tolist() == [2, 1, 3, 0], "features 2, 1, 9, 0"
    for count in range(5):
        assert herd(features, count).tolist() == [2, 1, 3, 0][:count]
    assert herd(features, 9).tolist() == [2, 1, 3, 0]


def test_divergence() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(divergence(logits, logits, 2.0), torch.zeros(2))
    found = divergence(torch.zeros(3, 2), torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 2.0]]), 2.0)
    torch.testing.assert_close(found, torch.tensor([0.443776, 0.0, 0.443776]))


def test_old_tasks_terms_are_put_together_in_either_way() -> None:
    """Lambda times their mean; or as the reference code does, where the first tasks weigh exponentially more (Q08)."""
    assert float(mean(torch.ones(2), 10.0)) == 10
    assert float(accumulated(torch.ones(2), 10.0)) == 65
    assert float(accumulated(torch.tensor([1.0, 0.0]), 10.0)) == 60, "the weight of e_1 after two old tasks"
    assert float(accumulated(torch.ones(9, dtype=torch.float64), 10.0)) == pytest.approx(11394.7, abs=0.05)


def task(index: int, per_class: int = 6) -> object:
    """Two classes, along the first and along the second pixel, as near to it as the task is early."""
    images = [[9 + i, index, i, 1] for i in range(per_class)] + [[index, 9 + i, 1, i] for i in range(per_class)]
    return toy_task(images, [0] * per_class + [1] * per_class, index)


def learned(tasks: int, **knobs: Any) -> ICaRL:
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


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(4500, [225, 112, 75, 56, 45, 37, 32, 28, 25, 22]), (9000, [450, 225, 150, 112, 90, 75, 64, 56, 50, 45])],
)
def test_share_of_a_class_on_the_surveys_benchmark(budget: int, expected: list[int]) -> None:
    """Ten tasks of twenty classes; here the last of the twenty has more samples than the others."""
    draw = torch.Generator().manual_seed(0)
    method, net = ICaRL(memory_budget=budget), linear_net(torch.eye(2), heads=0)
    for index, share in enumerate(expected):
        net.add_head(20, draw)
        labels = [*range(19), *[19] * 460]
        attach(method, net, index, batch_size=200).end_task(toy_task([[1, y] for y in labels], labels, index))
        assert method.exemplars_ is not None
        assert [len(of_task[19]) for of_task in method.exemplars_] == [share] * (index + 1)


def test_exemplars_are_the_classes_own() -> None:
    kept = learned(2, memory_budget=8).exemplars_
    for index, of_task in enumerate(kept):
        data = task(index).train
        for label, images in enumerate(of_task):
            own = {bytes(x.flatten().tolist()) for x in data.images[data.y == label]}
            assert images.dtype == torch.uint8
            assert {bytes(x.flatten().tolist()) for x in images} <= own


@pytest.mark.parametrize("features", ["unit", "raw"])
def test_exemplars_are_herded_and_their_mean_is_kept(features: str) -> None:
    """Features are the inputs themselves; of two classes of five two are kept each."""
    x = torch.tensor([[9.0, 0.0], [5.0, 5.0], [4.0, 3.0], [0.0, 3.0], [1.0, 7.0]])
    method = attach(ICaRL(memory_budget=4, features=features), linear_net(torch.eye(2)))
    method.end_task(toy_task(torch.cat([x, x.flip(0)]).long().tolist(), [0] * 5 + [1] * 5))
    scaled = F.normalize(x, dim=1) if features == "unit" else x
    chosen = herd(scaled, 2)
    assert sorted(chosen.tolist()) not in ([0, 1], [3, 4])
    mean = scaled[chosen].mean(0)
    assert method.exemplars_ is not None
    assert method.means_ is not None
    for label in range(2):
        assert torch.equal(method.exemplars_[0][label].flatten(1).float(), x[chosen])
        torch.testing.assert_close(method.means_[0][label], mean / mean.norm() if features == "unit" else mean)


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
    """Taken anew at the end of the second task, with nothing to be cut."""
    means = []
    for turned in (False, True):
        method = learned(1, memory_budget=24)
        assert method.exemplars_ is not None
        if turned:
            method.exemplars_ = [[images.flip(0) for images in of_task] for of_task in method.exemplars_]
        attach(method, mlp(classes=(2, 2)), 1, batch_size=4).end_task(task(1))
        assert [len(images) for images in method.exemplars_[0]] == [6, 6]
        means.append(method.means_[0])
    torch.testing.assert_close(*means)


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


def replaying(**knobs: Any) -> ICaRL:
    method = learned(2, **{"strength": 10.0, "memory_budget": 8, **knobs})
    attach(method, mlp(classes=(2, 2, 2)), 2, batch_size=4)
    method.data = task(2)
    method.begin_task(method.data)
    return method


def test_replays_its_share_of_each_step() -> None:
    """ceil(B m / (N + m)) with B = 4, a budget of m = 8 and N = 12 samples."""
    method = replaying()
    data = task(2)
    x, y, t = method.batch(data.train.x[:4], data.train.y[:4], 2)
    assert (len(x), len(y), t[:4].tolist()) == (6, 6, [2] * 4)
    assert set(t[4:].tolist()) <= {0, 1}


@pytest.mark.parametrize(("distillation", "weights"), [("mean", (5.0, 5.0)), ("accumulated", (60.0, 5.0))])
def test_loss_weighs_the_divergence_of_each_old_task(distillation: str, weights: tuple[float, float]) -> None:
    """However many exemplars of each were drawn."""
    method = replaying(distillation=distillation)
    data = task(2)
    with torch.no_grad():
        for p in method.net.parameters():
            p += 0.2
    method.batch(data.train.x[:4], data.train.y[:4], 2)
    replay = method._replay
    method._drawn = torch.tensor([0, 1, 3, 4])
    assert replay["t"][method._drawn].tolist() == [0, 0, 0, 1]
    x = torch.cat([data.train.x[:4], replay["images"][method._drawn].float()])
    t = torch.cat([torch.full((4,), 2), replay["t"][method._drawn]])
    y = torch.cat([data.train.y[:4], replay["y"][method._drawn]])
    old = mlp(classes=(2, 2, 2))
    rows = (slice(4, 7), slice(7, 8))
    each = [divergence(method.net(x[r], s), old(x[r], s).detach(), 2.0).mean() for s, r in enumerate(rows)]
    assert all(float(e.detach()) > 1e-4 for e in each)
    expected = F.cross_entropy(method.net(x[:4], 2), y[:4]) + weights[0] * each[0] + weights[1] * each[1]
    torch.testing.assert_close(method.loss(x, y, t), expected)


def test_as_many_exemplars_of_each_old_task_are_drawn() -> None:
    method = replaying(memory_budget=12)
    data = task(2)
    drawn = [method.batch(data.train.x[:4], data.train.y[:4], 2)[2][4:].tolist() for _ in range(20)]
    assert all(ids == [0, 1] for ids in drawn), "ceil(4 * 12 / (12 + 12)) = 2 of two tasks"


@pytest.mark.parametrize("targets", ["renewed", "fixed"])
def test_targets_are_of_the_last_network_or_of_the_first(targets: str) -> None:
    """Of task 0: `fixed`, as the reference code (Q13), keeps what the network said of them as that task ended."""
    net, draw = mlp(classes=(2,)), torch.Generator().manual_seed(1)
    method = ICaRL(memory_budget=8, targets=targets)
    said = []
    for index in range(2):
        attach(method, net, index, batch_size=4)
        method.begin_task(task(index))
        method.end_task(task(index))
        with torch.no_grad():
            said.append(net(method.exemplars_[0][0].float(), 0)[:2].clone())  # of a list that is only ever cut
            for p in net.parameters():
                p += 0.1
        net.add_head(2, draw)
    attach(method, net, 2, batch_size=4)
    method.begin_task(task(2))
    found = method._replay["logits"]
    assert found.shape == (8, 6)
    kept = said[0] if targets == "fixed" else net(method.exemplars_[0][0].float(), 0).detach()
    torch.testing.assert_close(found[:2, :2], kept)
    assert torch.allclose(said[0], kept) == (targets == "fixed")
    assert bool((found[:4, 2:] < -1e8).all())
    assert bool((found[4:, :2] < -1e8).all())
    torch.testing.assert_close(
        found[4:6, 2:4],
        method.targets_[1][0] if targets == "fixed" else net(method.exemplars_[1][0].float(), 1).detach(),
    )


def test_raw_features_are_not_scaled() -> None:
    method = attach(ICaRL(memory_budget=4, features="raw"), linear_net(torch.eye(2)))
    method.end_task(toy_task([[3, 0], [0, 5]], [0, 1]))
    torch.testing.assert_close(method.means_[0], torch.tensor([[3.0, 0.0], [0.0, 5.0]]))
    x = torch.tensor([[9.0, 8.0]]).view(1, 1, 1, 2)
    torch.testing.assert_close(method.predict(x, 0), -torch.tensor([[100.0, 90.0]]).sqrt())


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


def test_exemplars_are_augmented_anew() -> None:
    method, net, new = ICaRL(memory_budget=8), mlp(9, classes=(2,)), dark_and_bright(1, 3)
    attach(method, net, 0, batch_size=4).end_task(dark_and_bright(0, 3))
    net.add_head(2, torch.Generator())
    attach(method, net, 1, batch_size=4, augmentation={"flip": True}).data = new
    method.begin_task(new)
    shown = torch.cat([method.batch(new.train.x[:4], new.train.y[:4], 1)[0][4:] for _ in range(40)]).unsqueeze(1)
    stored = torch.cat(method.exemplars_[0]).float()
    plain, turned = ((shown == ways).flatten(2).all(2).any(1) for ways in (stored, stored.flip(3)))
    assert bool((plain | turned).all())
    assert 0.3 < float(plain.float().mean()) < 0.7


def class_incremental(**knobs: Any) -> ICaRL:
    """At the start of its third task; the network as it was at the start."""
    net, draw = mlp(classes=()), torch.Generator().manual_seed(1)
    net.increment = "class"
    method = ICaRL(memory_budget=12, **knobs)
    for index in range(3):
        net.add_head(2, draw)
        attach(method, net, index, batch_size=4).data = task(index)
        method.begin_task(task(index))
        if index < 2:
            method.end_task(task(index))
    return method


def test_class_incremental_loss_is_among_all_classes_and_keeps_answers_among_the_old() -> None:
    method = class_incremental()
    old = copy.deepcopy(method.net)
    with torch.no_grad():
        for p in method.net.parameters():
            p += 0.2 * torch.rand(p.shape, generator=torch.Generator().manual_seed(0))
    new = task(2).train
    x, y, t = method.batch(new.x[:4], new.y[:4], 2)
    assert t.tolist() == [2] * 4 + [0, 1]
    kept = [divergence(method.net(x[r])[:, :4], old(x[r])[:, :4].detach(), 2.0).mean() for r in ([4], [5])]
    assert all(float(one.detach()) > 1e-4 for one in kept)
    expected = F.cross_entropy(method.net(x), 2 * t + y) + 10.0 * (kept[0] + kept[1]) / 2
    torch.testing.assert_close(method.loss(x, y, t), expected)


def test_class_incremental_answers_that_were_first_stay() -> None:
    """Among the classes seen by then; among the later ones, those of the last network."""
    method = class_incremental(targets="fixed")
    assert [[tuple(y.shape) for y in of_task] for of_task in method.targets_] == [[(3, 2)] * 2, [(3, 4)] * 2]
    with torch.no_grad():
        for p in method.net.parameters():
            p += 0.1
    method.begin_task(task(2))
    found, first = method._replay["logits"], [torch.cat(of_task) for of_task in method.targets_]
    assert found.shape == (12, 4)
    assert torch.equal(found[:6, :2], first[0])
    assert torch.equal(found[6:], first[1])
    now = method.net(torch.cat(method.exemplars_[0]).float()).detach()
    torch.testing.assert_close(found[:6, 2:], now[:, 2:4])
    assert not torch.allclose(found[:6, :2], now[:, :2])


def moved(net: MultiHead) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p += 0.2 * torch.rand(p.shape, generator=torch.Generator().manual_seed(0))


def binary(z: float, wanted: float) -> float:
    g = 1 / (1 + math.exp(-z))
    return -wanted * math.log(g) - (1 - wanted) * math.log(1 - g)


@pytest.mark.parametrize("strength", [1.0, 3.0])
def test_sigmoid_losses_are_the_papers(strength: float) -> None:
    """A sigmoid a class: the label for the new classes, the old network's answer for the old, on every sample."""
    method = class_incremental(losses="sigmoid", strength=strength, temperature=2.0)
    old = copy.deepcopy(method.net)
    moved(method.net)
    new = task(2).train
    x, y, t = method.batch(new.x[:4], new.y[:4], 2)
    assert t.tolist() == [2] * 4 + [0, 1]
    z, before = method.net(x).tolist(), old(x).tolist()
    expected = 0.0
    for row, (label, of) in enumerate(zip(y.tolist(), t.tolist(), strict=True)):
        for column in range(4):
            answer = 1 / (1 + math.exp(-before[row][column] / 2))
            expected += strength * binary(z[row][column], answer) / 6
        for column in (4, 5):
            expected += binary(z[row][column], float(column == 2 * of + label)) / 6
    assert float(method.loss(x, y, t).detach()) == pytest.approx(expected, rel=1e-5)


def test_sigmoid_losses_within_a_task() -> None:
    """New samples have their labels, exemplars the old answers, each among the classes of its task."""
    method = replaying(losses="sigmoid", strength=3.0)
    old = copy.deepcopy(method.net)
    moved(method.net)
    new = task(2).train
    x, y, t = method.batch(new.x[:4], new.y[:4], 2)
    expected = 0.0
    for row, (label, of) in enumerate(zip(y.tolist(), t.tolist(), strict=True)):
        z, before = method.net(x[row : row + 1], of)[0].tolist(), old(x[row : row + 1], of)[0].tolist()
        for column in range(2):
            answer = 1 / (1 + math.exp(-before[column] / 2))
            one = binary(z[column], float(column == label)) if of == 2 else 3 * binary(z[column], answer)
            expected += one / 6
    loss = method.loss(x, y, t)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in method.net.parameters())


@pytest.mark.parametrize("increment", ["task", "class"])
def test_sigmoid_losses_of_the_first_task_have_labels_alone(increment: str) -> None:
    net = mlp(classes=(2,))
    net.increment = increment
    method = attach(ICaRL(losses="sigmoid"), net, 0, batch_size=4)
    assert not method.starts_as_finetuning()
    method.begin_task(task(0))
    x, y = task(0).train.x[:4], task(0).train.y[:4]
    wanted = F.one_hot(y, 2).float()
    expected = F.binary_cross_entropy(torch.sigmoid(net(x)), wanted, reduction="sum") / 4
    torch.testing.assert_close(method.loss(x, y, 0), expected)
