"""CoPE: golden values of the loss with both conventions of its gradient, the prototypes, the memory, the answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cl.errors import UserError
from cl.methods.cope import UNSEEN, CoPE, loosen, moved, proxy_loss
from cl.rng import generator
from tests.cl.small import attach, mlp, toy_task

PROTOTYPES = torch.eye(2)
FEATURES = torch.tensor([[1, 0], [0.6, 0.8], [0, 1]])
INDEX = torch.tensor([0, 0, 1])
DATA = toy_task(
    [[1, 0, 0, 2], [0, 1, 3, 0], [2, 2, 0, 1], [0, 0, 1, 1], [3, 0, 0, 2], [0, 1, 3, 3]], [0, 1, 2, 0, 0, 1]
)


@pytest.mark.parametrize("moving", [True, False])
@pytest.mark.parametrize(
    ("temperature", "attracted", "repelled"), [(1.0, 0.494949, 0.623417), (0.5, None, None), (0.1, 0.709411, 0.729498)]
)
def test_loss(temperature: float, attracted: float | None, repelled: float | None, moving: bool) -> None:
    found = proxy_loss(FEATURES, INDEX, PROTOTYPES, temperature, moving=moving)
    assert float(sum(found)) == pytest.approx({1.0: 1.118367, 0.5: 0.900350, 0.1: 1.438909}[temperature], abs=1e-6)
    if attracted is not None:
        assert [float(part) for part in found] == pytest.approx([attracted, repelled], abs=1e-6)


@pytest.mark.parametrize(
    ("moving", "expected"),
    [
        (False, [[-0.1705, 0.1483], [-0.3666, 0.3666], [0.2691, -0.2433]]),
        (True, [[-0.1705, 0.1932], [-0.3666, 0.4310], [0.3689, -0.1700]]),
    ],
)
def test_gradient(moving: bool, expected: list[list[float]]) -> None:
    """Whether the sample that pushes another away is moved by that itself; one that attracts never is."""
    features = FEATURES.clone().requires_grad_()
    torch.stack(proxy_loss(features, INDEX, PROTOTYPES, 1.0, moving=moving)).sum().backward()
    torch.testing.assert_close(features.grad, torch.tensor(expected), atol=6e-5, rtol=0)


def test_samples_on_their_prototypes() -> None:
    attracted, repelled = proxy_loss(torch.eye(2), torch.tensor([0, 1]), PROTOTYPES, 1.0, moving=True)
    assert float(attracted) == pytest.approx(0.313262, abs=1e-6)
    assert float(attracted + repelled) == pytest.approx(0.626523, abs=1e-6)


def literal(features: Tensor, index: Tensor, prototypes: Tensor, T: float) -> float:
    """The formulas as they are written, sample by sample, in double precision."""
    total = 0.0

    def chance(j: int, c: int, x: Tensor) -> float:
        own = math.exp(float(features[j] @ x) / T)
        rest = sum(math.exp(float(features[j] @ p) / T) for k, p in enumerate(prototypes) if k != c)
        return own / (own + rest)

    for i, c in enumerate(index.tolist()):
        mates = [j for j in range(len(index)) if index[j] == c and j != i]
        total += math.log(
            (chance(i, c, prototypes[c]) + sum(chance(i, c, features[j]) for j in mates)) / (1 + len(mates))
        )
        for j in (j for j in range(len(index)) if index[j] != c):
            total += math.log(1 - (chance(j, c, prototypes[c]) + chance(j, c, features[i])) / 2)
    return -total / len(index)


def test_loss_is_the_formula_over_many_classes() -> None:
    """Also with classes that are not in the batch, and prototypes shorter than 1."""
    draw = generator("cope")
    features = F.normalize(torch.randn(9, 5, generator=draw, dtype=torch.float64), dim=1)
    prototypes = 0.8 * F.normalize(torch.randn(6, 5, generator=draw, dtype=torch.float64), dim=1)
    index = torch.tensor([0, 3, 3, 1, 0, 5, 3, 1, 1])
    found = sum(proxy_loss(features, index, prototypes, 0.5, moving=True))
    assert float(found) == pytest.approx(literal(features, index, prototypes, 0.5), abs=1e-9)


def test_one_class_is_only_attracted() -> None:
    attracted, repelled = proxy_loss(FEATURES[:2], INDEX[:2], PROTOTYPES, 1.0, moving=True)
    assert float(repelled) == 0
    assert float(attracted) > 0


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01, 0.001])
def test_loss_does_not_overflow(temperature: float) -> None:
    """Features as far as can be from where they belong: e^(2 / T) is beyond float32."""
    features = torch.tensor([[-1.0, 0], [0, -1], [1, 0]], requires_grad=True)
    loss = torch.stack(proxy_loss(features, torch.tensor([0, 1, 1]), PROTOTYPES, temperature, moving=True)).sum()
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert features.grad is not None
    assert bool(torch.isfinite(features.grad).all())


def test_prototype_moves_and_is_not_scaled() -> None:
    found = moved(torch.eye(2), torch.tensor([[0, 1.0], [0, 1.0]]), torch.tensor([0, 0]), 0.99)
    torch.testing.assert_close(found, torch.tensor([[0.99, 0.01], [0, 1]]))
    assert float(found[0].norm()) == pytest.approx(0.990050, abs=1e-6)
    pair = torch.tensor([[0.6, 0.8], [0, 1.0], [1, 0]])
    torch.testing.assert_close(moved(torch.eye(2), pair, torch.tensor([0, 0, 1]), 0.0)[0], torch.tensor([0.3, 0.9]))


def test_momentum_decays_to_none() -> None:
    """The distance to 1 doubles, as the fact that the prototype may move is what gives plasticity."""
    values = [0.99]
    while values[-1] > 0:
        values.append(loosen(values[-1], 0.5))
    assert values == pytest.approx([0.99, 0.98, 0.96, 0.92, 0.84, 0.68, 0.36, 0.0])
    assert loosen(1.0, 0.5) == 1.0


def fresh(task: int = 0, classes: tuple[int, ...] = (3,), increment: Any = "class", **knobs: Any) -> CoPE:
    method = CoPE(embedding=6, **knobs)
    net = method.wrap(mlp())
    net.increment = increment
    for count in classes:
        net.add_head(count, generator("head"))
    method.grow(net, 0, generator("growth"))
    attach(method, net, task)
    method.data = DATA
    return method


def stepped(method: CoPE, chosen: list[int]) -> Tensor:
    """One step of the loop on these samples, without an update; the loss."""
    method.indices = torch.tensor(chosen)
    x, y, t = method.batch(DATA.train.x[method.indices], DATA.train.y[method.indices], method.task)
    loss = method.loss(x, y, t)
    method.on_step(x, y, t)
    return loss


def test_no_loss_while_there_is_one_class() -> None:
    method = fresh()
    loss = stepped(method, [0, 3])
    loss.backward()
    assert loss.item() == 0
    assert all(bool((p.grad == 0).all()) for p in method.net.backbone.parameters() if p.grad is not None)
    assert next(method.net.backbone.parameters()).grad is not None
    assert method.classes_ is not None
    assert method.classes_.tolist() == [0]
    assert stepped(method, [2]).item() > 0
    assert method.classes_.tolist() == [0, 2]


def test_prototypes_begin_as_random_directions() -> None:
    method = fresh()
    method._meet(torch.tensor([2, 0, 2]))
    assert method.prototypes_ is not None
    assert method.classes_ is not None
    assert method.classes_.tolist() == [2, 0]
    assert bool((method.prototypes_ >= 0).all())
    torch.testing.assert_close(method.prototypes_.norm(dim=1), torch.ones(2))
    first = method.prototypes_
    method._meet(torch.tensor([1, 2]))
    assert torch.equal(method.prototypes_[:2], first)


def test_step_moves_the_prototypes_by_the_features_before_it() -> None:
    method = fresh(prototype_momentum=0.0)
    x = DATA.train.x[[0, 1, 3]]
    expected = F.normalize(method.net.backbone(x), dim=1).detach()
    method.indices = torch.tensor([0, 1, 3])
    method._columns = DATA.train.y[[0, 1, 3]]
    method.loss(x, DATA.train.y[[0, 1, 3]], 0)
    with torch.no_grad():
        next(method.net.parameters()).add_(1)  # the optimizer's step
    method.on_step(x, DATA.train.y[[0, 1, 3]], 0)
    torch.testing.assert_close(method.prototypes_, torch.stack([(expected[0] + expected[2]) / 2, expected[1]]))


def test_loss_is_scaled_alike_for_every_batch() -> None:
    """Within the authors' batch of 20 it is T times the published one; in a larger one the repellor does not grow."""
    chosen = torch.arange(6)
    for copies, others in ((1, 5), (10, 59)):
        y, x = DATA.train.y[chosen].repeat(copies), DATA.train.x[chosen].repeat(copies, 1, 1, 1)
        found = {}
        for scale in ("bounded", "published"):
            method = fresh(scale=scale)
            method._columns = y
            found[scale] = method.loss(x, y, 0)
        features = F.normalize(method.net.backbone(x), dim=1)
        assert method.prototypes_ is not None
        attracted, repelled = proxy_loss(features, method._index(y), method.prototypes_, 0.1, moving=True)
        torch.testing.assert_close(found["published"], attracted + repelled)
        torch.testing.assert_close(found["bounded"], 0.1 * (attracted + min(1, 19 / others) * repelled))


def kept(method: CoPE) -> list[int]:
    assert method.memory_ is not None
    return method._index(method.memory_["y"]).bincount().tolist()


def offered(method: CoPE, y: list[int]) -> None:
    """Offer samples of these labels, numbered by their image."""
    method._meet(torch.tensor(y))
    first = method.seen_
    images = torch.arange(first, first + len(y), dtype=torch.int32).view(-1, 1, 1, 1)
    method.remember({"images": images, "y": torch.tensor(y), "t": torch.zeros(len(y), dtype=torch.int64)})


def test_each_class_has_its_share_of_the_memory() -> None:
    method = fresh(memory_budget=2000)
    offered(method, [0] * 2500)
    assert kept(method) == [2000]
    offered(method, [1] * 300)
    assert kept(method) == [1000, 300]
    offered(method, [1] * 900)
    assert kept(method) == [1000, 1000]
    offered(method, [2] * 5)
    assert kept(method) == [666, 666, 5]


def test_what_the_division_leaves_over_stays_empty() -> None:
    method = fresh(memory_budget=10)
    for label, expected in ((0, [10]), (1, [5, 5]), (2, [3, 3, 3])):
        offered(method, [label] * 20)
        assert kept(method) == expected


def test_what_is_kept_of_a_class_is_a_uniform_draw() -> None:
    """Ten samples of class 0 in batches, cut from four to two in between: each is kept with chance 2 / 10."""
    counts = torch.zeros(10)
    trials = 800
    for trial in range(trials):
        method = fresh(memory_budget=4)
        method.attach(method.net, 0, method.training, 0.1, (0, trial))
        offered(method, [0] * 3)
        offered(method, [0] * 4)
        method._meet(torch.tensor([1]))
        offered(method, [0] * 3)
        assert method.memory_ is not None
        counts[method.memory_["images"].flatten()] += 1
    torch.testing.assert_close(counts / trials, torch.full((10,), 0.2), atol=0.05, rtol=0)


def test_replay_draws_each_class_as_often() -> None:
    method = fresh(memory_budget=100)
    offered(method, [0] * 30 + [1] * 2 + [2] * 8)
    counts = torch.zeros(3)
    for _ in range(600):
        recalled = method._recall_balanced(1)
        assert recalled is not None
        counts += recalled.rows["y"].bincount(minlength=3)
    torch.testing.assert_close(counts / 600, torch.full((3,), 1 / 3), atol=0.07, rtol=0)
    everything = method._recall_balanced(1000)
    assert everything is not None
    assert sorted(everything.rows["images"].flatten().tolist()) == list(range(40))


def test_memory_too_small_for_the_classes() -> None:
    method = fresh(memory_budget=2)
    with pytest.raises(UserError, match=r"methods\.cope\.memory_budget: 2 samples cannot hold one of each of the 3"):
        offered(method, [0, 1, 2])
    none = fresh(memory_budget=0)
    stepped(none, [0, 1, 2])
    assert none.memory_ is None


@pytest.mark.parametrize("increment", ["task", "class", "domain"])
def test_answers_are_among_the_classes_seen(increment: str) -> None:
    """Nearest is the greatest product; a class without a prototype is never it, also if all products are negative."""
    domain = increment == "domain"
    method = fresh(1, (3,) if domain else (3, 3), increment)
    stepped(method, [1, 2])  # classes 1 and 2 of the second task
    x = DATA.train.x
    features = F.normalize(method.net.backbone(x), dim=1).detach()
    method.prototypes_ = -features[:2]
    scores, told = method.predict(x).detach(), method.predict(x, 1).detach()
    first = 0 if domain else 3
    assert scores.shape == (6, 3 if domain else 6)
    assert torch.equal(told, scores[:, first : first + 3])
    torch.testing.assert_close(told[:, 1:], features @ method.prototypes_.T)
    assert bool((scores[:, : first + 1] == UNSEEN).all())
    assert float(told[:, 1:].min()) > UNSEEN
    assert bool((scores.argmax(1) > first).all())
    method.prototypes_ = method.classes_ = None
    assert bool((method.predict(x) == UNSEEN).all())


def test_heads_learn_nothing() -> None:
    method = fresh()
    stepped(method, [0, 1, 2, 3]).backward()
    assert all(p.grad is None for p in method.net.heads.parameters())
    assert all(p.grad is not None for p in method.net.backbone.parameters())
