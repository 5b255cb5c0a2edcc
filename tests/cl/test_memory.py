"""The reservoir and the places of a memory. Golden values by hand from algorithm R of Vitter (1985)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cl.checkpoint import state_bytes
from cl.data import Task
from cl.memory import placed, reservoir
from cl.replay import Replay
from cl.train import Snapshot
from tests.cl.small import OFF, attach, learn_tasks, learner_for, mlp, params_for, same, split_of, toy_task


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def offered(items: int, capacity: int, draw: torch.Generator, step: int) -> dict[str, Tensor]:
    """The memory after the items 0, 1, 2, ... were offered, so many at a time."""
    memory: dict[str, Tensor] | None = None
    for start in range(0, items, step):
        numbers = torch.arange(start, min(start + step, items))
        memory = placed(memory, {"y": numbers}, reservoir(start, len(numbers), capacity, draw))
    assert memory is not None
    return memory


def one_short(seen: int, count: int, capacity: int, draw: torch.Generator) -> Tensor:
    """The common mistake: the n-th item draws from what came before it, itself not included."""
    number = torch.arange(seen, seen + count)
    drawn = (torch.rand(count, generator=draw, dtype=torch.float64) * number).long()
    slots = torch.where(number < capacity, number, drawn)
    return torch.where(slots < capacity, slots, -1)


def shares(slots_of: Any, runs: int = 20000) -> Tensor:
    """How often each of ten items is among the four that are kept."""
    draw, kept = generator(), torch.zeros(10)
    for _ in range(runs):
        holds = {slot: item for item, slot in enumerate(slots_of(0, 10, 4, draw).tolist())}
        holds.pop(-1, None)
        kept[list(holds.values())] += 1
    return kept / runs


def test_reservoir_keeps_every_item_with_the_same_chance() -> None:
    """4 of 10; the mistake would keep the first four with chance 1/3 and each later one with 4/9."""
    fair, unfair = torch.full((10,), 0.4), torch.tensor([1 / 3] * 4 + [4 / 9] * 6)
    found = shares(reservoir)
    torch.testing.assert_close(found, fair, atol=0.015, rtol=0)
    wrong = shares(one_short)
    torch.testing.assert_close(wrong, unfair, atol=0.015, rtol=0)
    assert float((wrong - fair).abs().min()) > 0.03, "the tolerance tells them apart at every item"


def test_golden_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.tensor([0, 0, 0, 1, 4, 0, 6, 2])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: (numbers + 0.5).double() / torch.arange(1, 9))
    assert placed(None, {"y": torch.arange(8)}, reservoir(0, 8, 3, generator()))["y"].tolist() == [5, 3, 7]


def test_first_and_last_number_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th item, counted from 0, draws from 0 to n: n + 1 numbers."""
    drawn = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    for number in (4, 5, 1000, 2**31):
        monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn[:1])
        assert reservoir(number, 1, number, generator()).tolist() == [0]
        monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn[1:])
        assert reservoir(number, 1, number, generator()).tolist() == [-1], "its own number: it is not kept"


@pytest.mark.parametrize("step", [2, 7, 32, 50])
def test_batch_is_its_items_one_by_one(step: int) -> None:
    for seed in range(20):
        assert same(offered(50, 5, generator(seed), step), offered(50, 5, generator(seed), 1))


def test_of_two_rows_for_a_slot_the_last_stays() -> None:
    rows = {"y": torch.tensor([1, 2, 3, 4]), "images": torch.tensor([[1], [2], [3], [4]])}
    memory = placed(None, rows, torch.tensor([0, 1, 0, -1]))
    assert memory["y"].tolist() == [3, 2]
    assert memory["images"].tolist() == [[3], [2]]
    memory = placed(memory, {name: tensor + 10 for name, tensor in rows.items()}, torch.tensor([-1, 1, 2, 1]))
    assert memory["y"].tolist() == [3, 14, 13]
    assert memory["images"].tolist() == [[3], [14], [13]]


def test_memory_shorter_than_its_capacity_holds_everything() -> None:
    assert offered(3, 5, generator(), 2)["y"].tolist() == [0, 1, 2]
    assert offered(5, 5, generator(), 2)["y"].tolist() == [0, 1, 2, 3, 4]
    assert offered(4, 0, generator(), 2)["y"].tolist() == []


# What the methods with a reservoir share.


def task_of(index: int, samples: int = 50) -> Task:
    """Images that tell their task and their sample."""
    return toy_task([[index, i, 1, 0] for i in range(samples)], [i % 3 for i in range(samples)], index)


def stepping(method: Replay, data: Task, indices: Tensor, epoch: int = 0) -> None:
    """One step, as far as the memory knows."""
    method.data, method.indices, method.epoch = data, indices, epoch
    method.on_step(data.train.x[indices], data.train.y[indices], data.index)


def fed(capacity: int, samples: int, *, first: int = 0) -> Replay:
    method = attach(Replay(memory_budget=capacity), mlp())
    for indices in torch.arange(first, first + samples).split(10):
        stepping(method, task_of(0, 250), indices)
    return method  # type: ignore[no-any-return]


def test_rolled_back_memory_goes_on_as_if_nothing_had_been() -> None:
    method = fed(20, 100)
    before, numbers = Snapshot.of(method), method.rng("reservoir").get_state()

    def fifty_more() -> dict[str, Any]:
        for indices in torch.arange(100, 150).split(10):
            stepping(method, task_of(0, 250), indices)
        return Snapshot.of(method).state

    first = fifty_more()
    assert not same(first["memory_"], before.state["memory_"])
    assert before.state["seen_"] == 100
    before.restore(method)
    method.rng("reservoir").set_state(numbers)
    assert same(fifty_more(), first)
    assert method.seen_ == 150


def test_samples_are_offered_in_the_first_epoch_alone() -> None:
    method = fed(20, 100)
    before = Snapshot.of(method).state
    for epoch in (1, 2):
        stepping(method, task_of(0, 250), torch.arange(100), epoch)
    assert same(method.state(), before)
    assert method.seen_ == 100


def test_nothing_is_kept_of_a_budget_of_nothing() -> None:
    method = fed(0, 30)
    assert method.state() == {}
    assert method.recall(5, "replay") is None


def test_rows_are_of_one_sample() -> None:
    """Image, label and task stay together, as bytes."""
    method = attach(Replay(memory_budget=20), mlp(classes=(3, 3)))
    for index in range(2):
        method.task = index
        for indices in torch.randperm(50, generator=generator(index)).split(8):
            stepping(method, task_of(index), indices)
    memory = method.memory_
    assert memory["images"].dtype == torch.uint8
    assert len(memory["y"]) == 20
    assert set(memory["t"].tolist()) == {0, 1}
    for image, y, t in zip(memory["images"].flatten(1).tolist(), memory["y"], memory["t"], strict=True):
        assert image == [int(t), image[1], 1, 0]
        assert int(y) == image[1] % 3
    assert len({(image[0], image[1]) for image in memory["images"].flatten(1).tolist()}) == 20


def test_recall_repeats_nothing_and_takes_all_of_a_small_memory() -> None:
    method = fed(20, 100)
    for count, found in ((7, 7), (20, 20), (33, 20)):
        recalled = method.recall(count, "replay")
        assert recalled is not None
        numbers = recalled.rows["images"].flatten(1)[:, 1].tolist()
        assert len(set(numbers)) == len(numbers) == found
        assert same(recalled.x, recalled.rows["images"].float())


def test_recall_is_uniform() -> None:
    method = fed(5, 5)
    counts = torch.zeros(5)
    for _ in range(4000):
        recalled = method.recall(2, "replay")
        assert recalled is not None
        counts[recalled.rows["images"].flatten(1)[:, 1].long()] += 1
    torch.testing.assert_close(counts / 4000, torch.full((5,), 0.4), atol=0.03, rtol=0)


def test_recall_of_earlier_tasks_alone() -> None:
    method = attach(Replay(memory_budget=20), mlp(classes=(3, 3)))
    stepping(method, task_of(0), torch.arange(6))
    assert method.recall(4, "reference", before=0) is None
    method.task = 1
    stepping(method, task_of(1), torch.arange(6))
    recalled = method.recall(12, "reference", before=1)
    assert recalled.rows["t"].tolist() == [0] * 6
    assert len(method.recall(12, "replay").x) == 12


def test_what_is_kept_of_each_old_task() -> None:
    method = attach(Replay(memory_budget=20), mlp(classes=(3, 3, 3, 3)))
    normalise = task_of(0).train.normalise
    assert method.kept(normalise) == []
    for index, count in ((0, 4), (2, 3), (3, 5)):
        method.task = index
        stepping(method, task_of(index), torch.arange(count))
    found = method.kept(normalise)
    assert [(split.t, len(split)) for split in found] == [(0, 4), (2, 3)]
    assert all(same(split.x, task_of(int(split.t)).train.x[: len(split)]) for split in found)
    assert all(same(split.y, task_of(int(split.t)).train.y[: len(split)]) for split in found)


def test_images_are_kept_as_they_are_and_augmented_anew_in_every_draw() -> None:
    """The network trains on an augmented view; what is kept is the image, and each draw of it is another view."""
    images = torch.randint(256, (2, 1, 6, 6), generator=generator()).to(torch.uint8)
    train = split_of(images, torch.tensor([0, 1]), 0)
    data = Task(0, "toy", ("a", "b"), train, train, train, "toy")
    method = attach(Replay(memory_budget=2), mlp(), augmentation={"flip": True, "padding": 3, "crop": 6})
    stepping(method, data, torch.arange(2))
    assert same(method.memory_["images"], images)
    views = [method.recall(2, "replay") for _ in range(4)]
    assert all(view.x.shape == (2, 1, 6, 6) for view in views)
    by_sample = [
        {view.x[i].numpy().tobytes() for view in views for i in (view.rows["y"] == y).nonzero()} for y in (0, 1)
    ]
    assert min(len(different) for different in by_sample) > 1
    assert same(method.memory_["images"], images), "and a draw leaves it alone"
    again = attach(Replay(memory_budget=2), mlp(), augmentation={"flip": True, "padding": 3, "crop": 6})
    stepping(again, data, torch.arange(2))
    assert same(again.recall(2, "replay").x, views[0].x), "by the trial's own numbers"


def test_sample_bytes_are_those_of_the_rows() -> None:
    method = fed(20, 100)
    assert method.memory_ is not None
    found = sum(tensor.nbytes for tensor in method.memory_.values())
    assert found == 20 * method.sample_bytes(4, 3)


BACKBONE, HEAD, PIXELS, CLASSES, FEATURES = 64 * 16 + 16, 16 * 10 + 10, 64, 10, 16
"""Numbers of the network of `params_for` on permuted digits."""
GENERATOR = 2 * PIXELS * 6 + 2 * 6**2 + 3 * 6 * 2 + 4 * 6 + 2 * 2 + PIXELS
GATE = 2 * PIXELS * 3 + 3 + PIXELS


@pytest.mark.parametrize(
    ("method", "knobs", "expected"),
    [
        ("er", {"memory_budget": 40}, 40 * (PIXELS + 16)),
        ("a_gem", {"memory_budget": 40}, 40 * (PIXELS + 16)),
        ("gss", {"memory_budget": 40}, 40 * (PIXELS + 20)),
        ("derpp", {"memory_budget": 40}, 40 * (PIXELS + 16 + 4 * CLASSES)),
        ("cope", {"memory_budget": 40, "embedding": 5}, 40 * (PIXELS + 16) + 2 * CLASSES * (4 * 5 + 16)),
        ("pseudo_rehearsal", {}, 0),
        ("progressive_nets", {}, 0),
        ("dgr", {"generator_units": 6, "generator_code": 2, "generator_epochs": 1}, 4 * GENERATOR + 8),
        ("online_ewc", {}, 4 * 2 * BACKBONE),
        ("riemannian_walk", {"interval": 1}, 4 * 2 * BACKBONE),
        ("vcl", {"test_samples": 1}, 4 * 2 * (BACKBONE + 2 * HEAD)),
        ("vcl_coreset", {"test_samples": 1, "memory_budget": 40}, 4 * 4 * (BACKBONE + 2 * HEAD) + 40 * (PIXELS + 8)),
        ("expert_gate", {"code_size": 3, "gate_epochs": 1}, 4 * 2 * (BACKBONE + HEAD + GATE)),
        ("ncm", {}, 8 * 2 * CLASSES * (FEATURES + 1)),
        ("slda", {}, 8 * 2 * CLASSES * (FEATURES + 1) + 4 * FEATURES * (FEATURES + 1)),
        ("fecam", {}, 8 * 2 * CLASSES * (FEATURES + 1) + 4 * 2 * CLASSES * FEATURES * (FEATURES + 1)),
        ("ranpac", {"projection": 30}, 8 * 2 * CLASSES * (30 + 1) + 4 * 30 * (30 + 1)),
    ],
)
def test_bytes_carried_are_those_of_the_page(
    method: str, knobs: dict[str, Any], expected: int, prepared: dict[int, Path]
) -> None:
    """After two tasks of ten classes."""
    learner = learner_for(params_for(method, knobs, selection=OFF, training={"epochs": 1}), prepared[2])
    learn_tasks(learner, 2)
    assert state_bytes(learner.method.state()) == expected
