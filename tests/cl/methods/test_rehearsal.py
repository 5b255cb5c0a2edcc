"""R-PM and R-FM. Golden values by hand from the budgets of De Lange et al. (2021), section 6.1."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cl.errors import UserError
from cl.memory import drawn
from cl.methods.r_fm import RFM
from cl.methods.r_pm import RPM
from cl.nets.multihead import Increment
from cl.rehearsal import Rehearsal, draw, per_step
from cl.train import Snapshot
from tests.cl.small import attach, dark_and_bright, learn_tasks, learner_for, mlp, params_for, same, toy_task

OFF = {"enabled": False}
TASKS = range(10)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# How many: 10 tasks of 8000 images, batches of 200.


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (RPM(memory_per_task=450), [0, 11, 21, 29, 37, 44, 51, 57, 63, 68]),
        (RPM(memory_per_task=900), [0, 21, 37, 51, 63, 72, 81, 89, 95, 101]),
        (RFM(memory_budget=4500), [72] * 10),
        (RFM(memory_budget=9000), [106] * 10),
    ],
)
def test_replayed_per_step(method: Rehearsal, expected: list[int]) -> None:
    found = [per_step(200, 8000, attach(method, mlp(), task).capacity()) for task in TASKS]
    assert found == expected


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (4500, [4500, 2250, 1500, 1125, 900, 750, 642, 562, 500, 450]),
        (9000, [9000, 4500, 3000, 2250, 1800, 1500, 1285, 1125, 1000, 900]),
    ],
)
def test_slots(budget: int, expected: list[int]) -> None:
    full, partial = RFM(memory_budget=budget), RPM(memory_per_task=budget // 10)
    assert [full.slots(task + 1) for task in TASKS] == expected
    assert [partial.slots(task + 1) for task in TASKS] == [expected[-1]] * 10, "the same once all tasks are seen"


@pytest.mark.parametrize("tasks", [2, 3])
def test_budget_for_less_than_one_sample_of_each_task(tasks: int, prepared: dict[int, Path]) -> None:
    learner = learner_for(params_for("r_fm", {"memory_budget": tasks - 1}, selection=OFF), prepared[3])
    with pytest.raises(UserError, match=rf"methods\.r_fm\.memory_budget: {tasks - 1} .* {tasks} tasks.*raise it"):
        learn_tasks(learner, tasks)
    assert learner.task.index == tasks - 1, "not before it has to"


# What is kept.


def task_of(index: int, samples: int = 12) -> Any:
    """Images and labels that tell which task and which sample they are."""
    return toy_task([[index, i, 1, 0] for i in range(samples)], [(index + i) % 3 for i in range(samples)], index)


def after(method: Rehearsal, tasks: int, samples: int = 12) -> Any:
    """The method at the end of so many tasks, untrained."""
    net = mlp(classes=(3,) * tasks)
    for index in range(tasks):
        attach(method, net, index, batch_size=6)
        method.begin_task(task_of(index, samples))
        method.end_task(task_of(index, samples))
    return method


def test_memory_of_a_task_is_a_draw_of_its_own_samples() -> None:
    method = after(RPM(memory_per_task=5), 3)
    assert len(method.memory_) == 3
    for index, memory in enumerate(method.memory_):
        offered = task_of(index).train
        rows = memory["images"].flatten(1)
        assert rows.dtype == torch.uint8
        assert len({int(i) for _, i, _, _ in rows}) == 5, "no sample twice"
        for row, y in zip(rows, memory["y"], strict=True):
            assert torch.equal(row, offered.images.flatten(1)[int(row[1])])
            assert y == offered.y[int(row[1])]


def test_full_memory_is_cut_from_the_end() -> None:
    """At the start of a task, to what its share is from then on."""
    method = RFM(memory_budget=13)
    net = mlp(classes=(3,) * 5)
    before: list[dict[str, Tensor]] = []
    for index in range(5):
        attach(method, net, index, batch_size=6)
        method.begin_task(task_of(index))
        slots = 13 // (index + 1)
        assert same(method.memory_, [{name: tensor[:slots] for name, tensor in memory.items()} for memory in before])
        method.end_task(task_of(index))
        before = method.memory_ or []
        assert [len(memory["y"]) for memory in before] == [min(slots, 12)] * (index + 1)


def test_partial_memory_is_never_cut() -> None:
    histories = [after(RPM(memory_per_task=5), tasks).memory_ for tasks in range(1, 5)]
    for shorter, longer in pairwise(histories):
        assert same(longer[: len(shorter)], shorter)


def test_kept_samples_are_uniform() -> None:
    split = task_of(0, 5).train
    seen = torch.zeros(5)
    for seed in range(2000):
        kept = drawn(split, 2, generator(seed))["images"].flatten(1)[:, 1].long()
        assert len(kept.unique()) == 2
        seen += torch.bincount(kept, minlength=5)
    assert float(((seen - 800) ** 2 / 800).sum()) < 20  # chi-square, 4 degrees of freedom: 18.5 once in 1000


# What is drawn for a step.


@pytest.mark.parametrize(
    ("counts", "wanted", "shares", "total"),
    [
        ([9, 9, 9], 7, [2, 2, 2], 7),
        ([9, 9, 9], 6, [2, 2, 2], 6),
        ([9, 9, 9], 2, [0, 0, 0], 2),
        ([9, 1, 9], 9, [3, 1, 3], 7),
        ([2, 3], 51, [2, 3], 5),
    ],
)
def test_every_task_gets_its_share(counts: list[int], wanted: int, shares: list[int], total: int) -> None:
    """Without repetition; where a task has fewer samples, all of them."""
    task_of_sample = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    for seed in range(50):
        chosen = draw(torch.tensor(counts), wanted, generator(seed))
        assert len(chosen.unique()) == len(chosen) == total
        found = torch.bincount(task_of_sample[chosen], minlength=len(counts)).tolist()
        assert all(have >= share for have, share in zip(found, shares, strict=True))


def test_draws_are_uniform_and_the_remainder_goes_to_any_task() -> None:
    counts, repeats, draws = torch.tensor([7, 5, 6]), 5000, generator()
    samples, extra = torch.zeros(18), torch.zeros(3)
    task_of_sample = torch.arange(3).repeat_interleave(counts)
    for _ in range(repeats):
        chosen = draw(counts, 4, draws)  # one of each, and one more
        samples[chosen] += 1
        extra += torch.bincount(task_of_sample[chosen], minlength=3) - 1
    assert float(((extra - repeats / 3) ** 2 / (repeats / 3)).sum()) < 14  # 2 degrees of freedom: 13.8 once in 1000
    for task, part in enumerate(samples.split(counts.tolist())):
        expected = float(repeats + extra[task]) / len(part)
        assert float(((part - expected) ** 2 / expected).sum()) < 22.5  # 6 degrees of freedom: 22.5 once in 1000


# A step.


@pytest.mark.parametrize("method", [RPM(memory_per_task=5), RFM(memory_budget=15)])
def test_batch_is_the_new_samples_and_some_old_ones(method: Rehearsal) -> None:
    """The new ones stay as many as a batch holds; the survey's code says fewer and trains on as many (Q10)."""
    after(method, 2)
    net, new = mlp(classes=(3, 3, 3)), replace(task_of(2), validation=task_of(2, samples=3).train)
    attach(method, net, 2, batch_size=6).data = new
    method.begin_task(new)
    wanted = per_step(6, 12, {RPM: 10, RFM: 15}[type(method)])
    assert wanted == {RPM: 3, RFM: 4}[type(method)]
    seen = []
    for _ in range(5):
        x, y, t = method.batch(new.train.x[:6], new.train.y[:6], 2)
        assert isinstance(t, Tensor)
        assert torch.equal(x[:6], new.train.x[:6])
        assert torch.equal(y[:6], new.train.y[:6])
        assert t[:6].tolist() == [2] * 6
        assert len(x) == len(y) == len(t) == 6 + wanted
        assert set(t[6:].tolist()) == {0, 1}
        for image, label, task in zip(x[6:].flatten(1), y[6:], t[6:], strict=True):
            offered = task_of(int(task)).train
            assert torch.equal(image, offered.x[int(image[1])].flatten())
            assert label == offered.y[int(image[1])]
        seen.append(x[6:])
    assert not all(torch.equal(one, seen[0]) for one in seen), "every step draws anew"


def test_loss_weighs_the_old_tasks_together_as_much_as_the_new_one() -> None:
    """One, two and four samples of three old tasks, five of the new one; and no sample of a further one."""
    net = mlp(classes=(3, 2, 3, 4, 3))
    method = attach(RPM(), net, task=4)
    t = torch.tensor([4] * 5 + [0] + [1] * 2 + [3] * 4)
    x, y = torch.rand(12, 4, generator=generator()), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 3, 0, 1, 2])
    each = [F.cross_entropy(net(x[t == s], s), y[t == s]) for s in (0, 1, 3)]
    expected = F.cross_entropy(net(x[:5], 4), y[:5]) + (each[0] + each[1] + each[2]) / 3
    found = method.loss(x, y, t)
    torch.testing.assert_close(found, expected)
    parameters = list(net.parameters())
    for got, wanted in zip(
        torch.autograd.grad(found, parameters),
        torch.autograd.grad(expected, parameters, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_old_samples_are_augmented_anew_in_every_step() -> None:
    """Stored as they were prepared; shown as they are about as often as turned."""
    method, net = RPM(memory_per_task=5), mlp(9, classes=(2, 2))
    old, new = dark_and_bright(0, 3), dark_and_bright(1, 3)
    attach(method, net, 0, batch_size=6).end_task(old)
    attach(method, net, 1, batch_size=6, augmentation={"flip": True}).data = new
    method.begin_task(new)
    batches = [method.batch(new.train.x[:6], new.train.y[:6], 1) for _ in range(40)]
    shown = torch.cat([x[6:] for x, _, _ in batches]).unsqueeze(1)
    stored = method.memory_[0]["images"].float()
    assert {bytes(image) for image in stored.byte().flatten(1).tolist()} <= {
        bytes(image) for image in old.train.images.flatten(1).tolist()
    }
    plain, turned = ((shown == ways).flatten(2).all(2).any(1) for ways in (stored, stored.flip(3)))
    assert bool((plain | turned).all())
    assert 0.3 < float(plain.float().mean()) < 0.7


@pytest.mark.parametrize("increment", ["domain", "class"])
def test_loss_where_the_task_is_not_told(increment: Increment) -> None:
    """The same weights; one softmax over the common classes, or over those of all tasks."""
    net = mlp(classes=(3,) if increment == "domain" else (3, 3, 3))
    net.increment = increment
    method = attach(RFM(), net, task=2)
    t, y = torch.tensor([2, 2, 2, 0, 1, 1]), torch.tensor([0, 1, 2, 2, 0, 1])
    x = torch.rand(6, 4, generator=generator())
    label = y if increment == "domain" else 3 * t + y
    parts = [F.cross_entropy(net(x[t == s], None), label[t == s]) for s in range(3)]
    torch.testing.assert_close(method.loss(x, y, t), parts[2] + (parts[0] + parts[1]) / 2)


@pytest.mark.parametrize("memory", [0, 5])
def test_empty_memory_is_finetuning_bit_for_bit(memory: int, prepared: dict[int, Path]) -> None:
    plain = learner_for(params_for("finetune", selection=OFF), prepared[3])
    method = learner_for(params_for("r_pm", {"memory_per_task": memory}, selection=OFF), prepared[3])
    for learner in (plain, method):
        learn_tasks(learner, 3)
    assert same(Snapshot.of(method.method).net, Snapshot.of(plain.method).net) == (memory == 0)


def test_old_heads_go_on_learning(prepared: dict[int, Path]) -> None:
    """Rows of one wide head, all replayed: no head is left as its task left it."""
    learner = learner_for(params_for("r_fm", {"memory_budget": 6}, selection=OFF), prepared[3])
    learn_tasks(learner, 2)
    before = [dict(Snapshot.of(learner.method).net)[f"heads.{s}.weight"] for s in (0, 1)]
    learner.open(learner.experiences[2])
    learner.train("learn", 0, 0.1, learner.knobs, plain=False)
    assert all(not torch.equal(learner.method.net.heads[s].weight, old) for s, old in enumerate(before))
