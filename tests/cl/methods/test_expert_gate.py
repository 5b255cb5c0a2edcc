"""Expert Gate (Aljundi et al. 2017). Golden values by hand, and gates of tasks that look different."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cl.data import Sequence, Split, Task
from cl.errors import UserError
from cl.evaluate import accuracy
from cl.learner import Learner
from cl.methods import expert_gate
from cl.methods.expert_gate import FLOOR, Autoencoder, ExpertGate, confidence, relatedness
from cl.ops import distillation
from cl.train import Snapshot
from tests.cl.small import CPU, OFF, params_for, same, split_of

SIDE = 4


def task(index: int, place: int | None = None) -> Task:
    """Two classes, told by how bright a row of the image is; which row that is, tells the task."""
    draw = torch.Generator().manual_seed(index)
    splits: list[Split] = []
    for _ in range(3):
        y = torch.arange(200) % 2
        pixels = torch.randint(2, (200, 1, SIDE, SIDE), generator=draw)
        pixels[:, 0, index if place is None else place] += 2 + 3 * y.view(-1, 1)
        splits.append(split_of(pixels.to(torch.uint8), y, index))
    train, validation, test = splits
    return Task(index, f"row-{index}", ("dim", "bright"), train, validation, test, f"row-{index}")


def learner(tasks: Several[Task], increment: str = "task", seed: int = 0, **knobs: Any) -> Any:
    params = params_for(
        "expert_gate", {"code_size": 3, **knobs}, selection=OFF, scenario={"name": increment}, training={"epochs": 8}
    )
    return Learner(params, "expert_gate", seed, Sequence("rows", (1, SIDE, SIDE), tuple(tasks)), CPU)


def learned(tasks: Several[Task], increment: str = "task", **knobs: Any) -> Any:
    one = learner(tasks, increment, **knobs)
    for stage in one.experiences:
        one.open(stage)
        one.consolidate("learn", 0, 0.1, one.knobs, one.train("learn", 0, 0.1, one.knobs, plain=False))
    one.method.net.eval()
    return one.method


def begun(tasks: Several[Task], plain: bool = False, **knobs: Any) -> Any:
    """At the start of the last of the tasks."""
    one = learner(tasks, **knobs)
    for stage in one.experiences:
        one.open(stage)
        if stage is not one.experiences[-1]:
            one.consolidate("learn", 0, 0.1, one.knobs, one.train("learn", 0, 0.1, one.knobs, plain=False))
    one.attach(one.method, "learn", 0, 0.1)
    one.method.plain = plain
    one.method.begin_task(one.experiences[-1])
    return one.method


# Golden values.


@pytest.mark.parametrize(("other", "expected"), [(0.12, 0.8), (0.11, 0.9), (0.09, 1.1)])
def test_relatedness(other: float, expected: float) -> None:
    assert relatedness(0.1, other) == pytest.approx(expected)
    assert (relatedness(0.1, other) > ExpertGate.related) == (expected > 0.85), "LwF or finetuning"


def test_relatedness_is_finite_where_the_own_gate_makes_no_error() -> None:
    assert relatedness(0.0, 0.0) == 1
    assert -1e12 <= relatedness(0.0, 0.5) < -1e11


def test_confidence() -> None:
    found = confidence(torch.tensor([[2.0, 1.0, 4.0], [7.0, 7.0, 7.0]]), 2.0)
    torch.testing.assert_close(found[0], torch.tensor([0.3315, 0.5465, 0.1220]), atol=5e-5, rtol=0)
    assert bool((found >= 0.1).all())
    assert torch.equal(confidence(torch.tensor([[3.0]]), 2.0), torch.ones(1, 1)), "a single expert"


@pytest.mark.parametrize(
    ("numbers", "size", "count"), [(64, 20, 2644), (9216, 100, 1_852_516), (43_264, 100, 8_696_164)]
)
def test_size_of_a_gate(numbers: int, size: int, count: int) -> None:
    gate = Autoencoder(numbers, size, torch.Generator())
    assert sum(p.numel() for p in gate.parameters()) == count == 2 * numbers * size + size + numbers


# Gates.


def gate_of(data: Task, seed: int = 0, trial: int = 0, learning_rate: float = 0.1) -> Any:
    one = learner([data], seed=seed)
    one.open(one.experiences[0])
    one.attach(one.method, "stability", trial, learning_rate)
    one.method.begin_task(one.experiences[0])
    return one.method.gates_[0]


def test_a_gate_follows_from_data_and_seed_alone() -> None:
    data = task(0)
    assert same(gate_of(data), gate_of(task(0), trial=3, learning_rate=0.01)), "of the same images in another process"
    assert not same(gate_of(data), gate_of(data, seed=1))


def test_another_attempt_does_not_train_the_gate_again(monkeypatch: pytest.MonkeyPatch) -> None:
    one = learner([task(0)])
    one.open(one.experiences[0])
    one.train("stability", 0, 0.1, one.knobs, plain=False)
    first = one.method.gates_
    monkeypatch.setattr(expert_gate._Gate, "loss", lambda *given: pytest.fail("trained again"))
    one.train("stability", 1, 0.05, one.knobs, plain=False)
    assert same(one.method.gates_, first)


def test_a_gate_knows_its_own_task_best_sample_by_sample() -> None:
    """Also where a batch mixes tasks; and a single gate is asked for everything."""
    tasks = [task(0), task(1), task(2)]
    method = learned(tasks)
    mixed = torch.stack([t.test.x for t in tasks], 1).flatten(0, 1)
    assert float((method.route(mixed) == torch.arange(3).repeat(200)).float().mean()) > 0.95
    assert learned(tasks[:1]).route(mixed).unique().tolist() == [0]


def test_no_bottleneck_is_an_error() -> None:
    with pytest.raises(UserError, match=r"expert_gate\.code_size: 16 .* 16 numbers"):
        begun([task(0)], code_size=16)
    begun([task(0)], code_size=15)


# Where an expert starts from.


TWICE = [task(0), task(1), task(2, place=0)]
"""The third looks like the first."""


@pytest.mark.parametrize("plain", [False, True])
def test_an_expert_starts_from_the_most_related_one(plain: bool) -> None:
    method = begun(TWICE, plain=plain)
    assert len(method.relatedness_[-1]) == 2
    assert method.relatedness_[-1][0] > 0.85 > method.relatedness_[-1][1]
    now = method.net.state_dict()
    assert same({name: now[name] for name in method.experts_[0]}, method.experts_[0])
    assert not same(now["backbone.1.weight"], method.experts_[1]["backbone.1.weight"])
    assert (method._teacher is None) == plain


def test_relatedness_is_taken_on_validation_data() -> None:
    method = begun(TWICE)
    own, first = (
        (expert_gate.reconstruction(inputs, gate) - inputs).square().sum(1).mean()
        for inputs in [expert_gate.gate_inputs(TWICE[2].validation.x)]
        for gate in (method.gates_[2], method.gates_[0])
    )
    assert method.relatedness_[-1][0] == pytest.approx(relatedness(float(own), float(first)), rel=1e-5)


@pytest.mark.parametrize(("knobs", "transfers"), [({}, True), ({"related": 1e6}, False), ({"transfer": 0.0}, False)])
def test_a_near_expert_is_held_by_distillation(knobs: dict[str, Any], transfers: bool) -> None:
    method = begun(TWICE, **knobs)
    x, y = TWICE[2].train.x[:6], TWICE[2].train.y[:6]
    plain = F.cross_entropy(method.net(x, 2), y)
    teacher = method.net(x, 0).detach()
    with torch.no_grad():
        method.net.heads[0].weight += 0.3
    expected = plain + 10.0 * distillation(method.net(x, 0), teacher, 2.0) if transfers else plain
    torch.testing.assert_close(method.loss(x, y, 2), expected)


def test_experts_never_change() -> None:
    method = learned(TWICE[:2])
    x = TWICE[0].test.x
    before = method.predict(x, 0)
    assert torch.equal(learned(TWICE).predict(x, 0), before)
    assert sorted({name.split(".")[1] for name in method.experts_[1] if name.startswith("heads.")}) == ["1"]


# Answers.


def test_without_a_task_the_routed_expert_answers() -> None:
    tasks = [task(0), task(1), task(2)]
    method = learned(tasks)
    x = torch.cat([t.test.x[:10] for t in tasks])
    scores, routed = method.predict(x), method.route(x)
    assert scores.shape == (30, 6)
    assert bool(torch.isfinite(scores).all())
    for i, expert in enumerate(routed.tolist()):
        own = scores[i, 2 * expert : 2 * expert + 2]
        torch.testing.assert_close(own, method.predict(x[i : i + 1], expert)[0].log_softmax(0))
        assert int(scores[i].argmax()) // 2 == expert
        assert sorted(scores[i].tolist())[:4] == [FLOOR] * 4


def test_experts_probable_enough_are_asked_too() -> None:
    """The better of their answers counts; at a threshold of 0 all are asked."""
    method = learned([task(0), task(1)], activation=0.0)
    x = task(0).test.x[:5]
    expected = torch.cat([method.predict(x, t).log_softmax(1) for t in (0, 1)], 1)
    torch.testing.assert_close(method.predict(x), expected)


@pytest.mark.parametrize("activation", [0.0, 1.0])
def test_domain_incremental_experts_share_the_classes(activation: float) -> None:
    tasks = [task(0), task(1)]
    method = learned(tasks, "domain", activation=activation)
    assert accuracy(method, tasks[0].test, inference=True) > 0.9
    x = tasks[0].test.x[:5]
    each = torch.stack([method.predict(x, t).log_softmax(1) for t in (0, 1)])
    routed = each[method.route(x), torch.arange(5)]
    torch.testing.assert_close(method.predict(x), each.amax(0) if activation == 0 else routed)


def test_class_incremental_without_forgetting() -> None:
    """An expert learns among the classes of its own task alone."""
    tasks = [task(0), task(1), task(2)]
    method = learned(tasks, "class")
    x, y = tasks[2].train.x[:6], tasks[2].train.y[:6]
    torch.testing.assert_close(method.loss(x, y, 2), F.cross_entropy(method.net.heads[2](method.net.backbone(x)), y))
    assert all(accuracy(method, t.test, inference=True) > 0.9 for t in tasks)


def test_state_grows_by_an_expert_and_a_gate() -> None:
    def numbers(tensors: dict[str, Tensor]) -> int:
        return sum(t.numel() for t in tensors.values())

    method = learned([task(0), task(1)])
    state = Snapshot.of(method).state
    assert [numbers(expert) for expert in state["experts_"]] == [16 * 16 + 16 + 2 * 16 + 2] * 2
    assert [numbers(gate) for gate in state["gates_"]] == [2 * 16 * 3 + 3 + 16] * 2
