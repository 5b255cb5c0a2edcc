"""GSS: scores, who gives way to whom, the integer programme against all choices, and that looking changes nothing."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cl.methods.gss import GSS, admitted, most_diverse, score
from cl.nets import BatchNorm, Dropout, MultiHead
from cl.ops import cross_entropy, flatten
from cl.rng import generator
from tests.cl.small import attach, mlp, toy_task

TASKS = [
    toy_task([[1, 0, 0, 2], [0, 1, 3, 0], [2, 2, 0, 1], [0, 0, 1, 1]], [0, 1, 2, 0]),
    toy_task([[3, 1, 0, 2], [1, 1, 2, 0], [2, 0, 0, 1], [0, 2, 1, 1]], [1, 2, 0, 1], 1),
]


def units(*rows: tuple[float, ...]) -> Tensor:
    return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


# The greedy rule.


def test_score_is_the_greatest_cosine() -> None:
    found = score(units((0, 1), (-1, -1)), units((1, 0), (1, 1)))
    torch.testing.assert_close(found, torch.tensor([1.7071068, 1 - 0.7071068]))
    assert admitted(torch.tensor([1.0, 1.0]), found, 2, generator("gss")).tolist()[0] == -1, "it is too much like them"


def test_score_of_what_is_not_finite_is_the_worst() -> None:
    assert score(torch.tensor([[torch.nan, 0], [0, 0]]), units((1, 0))).tolist() == [2, 1]


def test_room_is_filled_whatever_the_score() -> None:
    draw = generator("gss")
    assert admitted(torch.tensor([]), torch.tensor([2.0, 1.5, 1.0]), 2, draw).tolist() == [0, 1, -1]
    assert admitted(torch.tensor([0.3]), torch.tensor([2.0]), 5, draw).tolist() == [1]


def meetings(kept: list[float], new: float, trials: int = 2000) -> Tensor:
    """Share of the trials in which the new sample goes nowhere, then to each place."""
    draw = generator("gss")
    slots = torch.cat([admitted(torch.tensor(kept), torch.tensor([new]), len(kept), draw) for _ in range(trials)])
    return (slots + 1).bincount(minlength=len(kept) + 1) / trials


def test_chance_to_take_a_place() -> None:
    """C_i / (C_i + c): the less the new one is like the memory, and the more the old one was, the greater."""
    torch.testing.assert_close(meetings([1.2], 0.6), torch.tensor([1 / 3, 2 / 3]), atol=0.035, rtol=0)


def test_chance_to_be_met() -> None:
    """C_i / sum C; a new score of 0 always replaces whom it meets."""
    expected = torch.tensor([0, 1 / 3, 1 / 6, 1 / 2])
    torch.testing.assert_close(meetings([1.0, 0.5, 1.5], 0.0), expected, atol=0.035, rtol=0)


def test_gate() -> None:
    """What is no less like the memory than at a right angle is never let in."""
    assert meetings([2.0, 2.0], 1.0, 100).tolist() == [1, 0, 0]
    assert float(meetings([2.0, 2.0], 0.99, 100)[0]) < 1


def test_scores_of_nothing_can_be_met_too() -> None:
    assert float(meetings([0.0, 0.0], 0.0, 200)[1:].min()) > 0.1


def test_who_came_just_before_can_give_way() -> None:
    """The score of the place is the newcomer's from then on."""
    found = [admitted(torch.tensor([2.0]), torch.tensor([1e-6, 0.5]), 1, generator("gss", i)) for i in range(50)]
    assert all(slots.tolist() == [0, -1] for slots in found)


# The integer programme.


def gram(rows: list[tuple[float, ...]]) -> Tensor:
    unit = units(*rows).double()
    return unit @ unit.T


FIRST = gram([(1, 0), (0.9, 0.1), (0, 1), (-1, 0)])
SECOND = gram([(1, 0), (0.6, 0.8), (0, 1), (-0.8, 0.6)])


def objective(cosines: Tensor, chosen: Tensor) -> float:
    return float(cosines[chosen.unsqueeze(1), chosen].sum()) / 2


@pytest.fixture(params=["exact", "descent"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All choices tried, and none."""
    if request.param == "descent":
        monkeypatch.setattr("cl.methods.gss.ENUMERABLE", 0)
    return str(request.param)


def test_most_diverse(how: str) -> None:
    assert most_diverse(FIRST, 2).tolist() == [0, 3]
    assert objective(FIRST, torch.tensor([0, 3])) == pytest.approx(0, abs=1e-6)
    assert objective(FIRST, torch.tensor([1, 3])) == pytest.approx(0.006116, abs=1e-6)
    assert most_diverse(SECOND, 2).tolist() == [0, 3]
    assert objective(SECOND, torch.tensor([0, 3])) == pytest.approx(0.2, abs=1e-6)
    chosen = most_diverse(SECOND, 3)
    assert chosen.tolist() in ([0, 1, 3], [0, 2, 3])
    assert objective(SECOND, chosen) == pytest.approx(1.3, abs=1e-6)


def test_most_diverse_of_none_and_of_all(how: str) -> None:
    assert most_diverse(FIRST, 0).tolist() == []
    assert most_diverse(FIRST, 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [2, 5, 8])
def test_exact_is_the_best_of_all_choices(count: int) -> None:
    cosines = random_gram(10, 4, count)
    every = [objective(cosines, torch.tensor(c)) for c in itertools.combinations(range(10), count)]
    assert objective(cosines, most_diverse(cosines, count)) == pytest.approx(min(every), abs=1e-9)


def random_gram(samples: int, dimensions: int, seed: int) -> Tensor:
    unit = F.normalize(torch.randn(samples, dimensions, generator=generator("gram", seed), dtype=torch.float64), dim=1)
    return unit @ unit.T


def test_no_swap_improves_what_descent_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it comes to within a hundredth of a random choice's distance from the best, on average."""
    monkeypatch.setattr("cl.methods.gss.ENUMERABLE", 0)
    gaps = []
    for seed in range(10):
        cosines = random_gram(10, 4, seed)
        chosen = most_diverse(cosines, 5)
        assert len(set(chosen.tolist())) == 5
        found = objective(cosines, chosen)
        for leaves in chosen.tolist():
            for enters in set(range(10)) - set(chosen.tolist()):
                swapped = torch.tensor([c for c in chosen.tolist() if c != leaves] + [enters])
                assert objective(cosines, swapped) >= found - 1e-9
        every = [objective(cosines, torch.tensor(c)) for c in itertools.combinations(range(10), 5)]
        gaps.append((found - min(every)) / (sum(every) / len(every) - min(every)))
    assert min(gaps) == pytest.approx(0, abs=1e-9)
    assert sum(gaps) / len(gaps) < 0.03


# On a network.


def learning(task: int = 1, increment: Any = "task", net: MultiHead | None = None, **knobs: Any) -> GSS:
    """At this task, its memory holding the samples of the first one."""
    net = net or mlp(classes=(3,) if increment == "domain" else (3, 3))
    net.increment = increment
    method = GSS(**{"memory_budget": 8, "subset_size": 2, "subsets": 2, **knobs})
    for index in range(task + 1):
        attach(method, net, index)
        method.data = TASKS[index]
        method.indices = torch.arange(4)
        if index < task:
            method.remember(method.present())
    return method


def ordinary_gradient(method: GSS, task: int, chosen: list[int]) -> Tensor:
    """Of the mean loss of these samples, by every parameter, the ordinary way."""
    split = TASKS[task].train
    parameters = list(method.net.parameters())
    loss = cross_entropy(method.net, split.x[chosen], split.y[chosen], task)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return F.normalize(flatten(found), dim=0)


@pytest.mark.parametrize("increment", ["task", "domain", "class"])
def test_gradients_are_those_of_the_loss(increment: str) -> None:
    """Of samples of two tasks, one by one and by twos; zero for the heads that a sample has no part in."""
    method = learning(increment=increment)
    assert method.memory_ is not None
    rows = {name: torch.cat([method.memory_[name], new]) for name, new in method.present().items()}
    found = method._gradients(rows, 1)
    expected = [ordinary_gradient(method, task, [i]) for task in (0, 1) for i in range(4)]
    torch.testing.assert_close(found, torch.stack(expected))
    pairs = [ordinary_gradient(method, task, chosen) for task in (0, 1) for chosen in ([0, 1], [2, 3])]
    torch.testing.assert_close(method._gradients(rows, 2), torch.stack(pairs))
    heads = found[0, -sum(p.numel() for p in method.net.heads[-1].parameters()) :]
    assert bool((heads == 0).all()) == (increment == "task")


def with_layers_that_remember() -> MultiHead:
    net = mlp(classes=(3, 3))
    layers = list(net.backbone)
    dropout = Dropout(0.5)
    dropout.draw_from(0, "dropout")
    net.backbone = net.backbone.of([BatchNorm(1), *layers, dropout])
    return net


@pytest.mark.parametrize("rule", ["greedy", "integer-programme"])
def test_choosing_changes_nothing_else(rule: str) -> None:
    """Not the weights, nor the statistics, the gradients, the mode, or anybody else's random numbers."""
    net = with_layers_that_remember()
    method = learning(net=net, rule=rule, memory_budget=4)
    net.train()
    cross_entropy(net, TASKS[0].train.x, TASKS[0].train.y, 0).backward()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    held = {name: p.grad for name, p in net.named_parameters()}
    global_state = torch.get_rng_state()
    replay = method.rng("replay").get_state()
    method.remember(method.present())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(p.grad is held[name] for name, p in net.named_parameters())
    assert all(torch.equal(net.get_parameter(name).grad, g) for name, g in gradients.items())  # type: ignore[arg-type]
    assert all(module.training for module in net.modules())
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(method.rng("replay").get_state(), replay)


def test_gradients_are_those_at_rest() -> None:
    """Without dropout: the same twice."""
    method = learning(net=with_layers_that_remember())
    method.net.train()
    rows = method.present()
    first = method._gradients(rows, 1)
    assert torch.equal(first, method._gradients(rows, 1))
    method.net.eval()
    assert torch.equal(first, method._gradients(rows, 1))


@pytest.mark.parametrize("together", [1, 3, 10])
def test_memory_is_filled_then_renewed(together: int) -> None:
    method = learning(together=together, memory_budget=5)
    assert method.memory_ is not None
    assert method.memory_["t"].tolist() == [0] * 4
    assert float(method.memory_["score"][0]) == pytest.approx(1.1)
    assert bool(((method.memory_["score"] >= 0) & (method.memory_["score"] <= 2)).all())
    for _ in range(20):
        method.remember(method.present())
    assert len(method.memory_["y"]) == 5
    assert method.seen_ == 4 + 20 * 4
    offered = {
        TASKS[t].train.images[i].numpy().tobytes(): (t, int(TASKS[t].train.y[i])) for t in (0, 1) for i in range(4)
    }
    for image, y, t in zip(*(method.memory_[name] for name in ("images", "y", "t")), strict=True):
        assert offered[image.numpy().tobytes()] == (int(t), int(y))


def test_compared_with_disjoint_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are samples for; at least one, of what there is."""
    asked: list[tuple[list[int], int]] = []

    def gradients(self: GSS, rows: dict[str, Tensor], size: int) -> Tensor:
        asked.append((rows["number"].tolist(), size))
        return torch.ones(1, 1)

    monkeypatch.setattr(GSS, "_gradients", gradients)
    method = learning(0, subsets=3, subset_size=2)
    for held, drawn, size in ((20, 6, 2), (5, 4, 2), (1, 1, 1)):
        method._compared({"y": torch.zeros(held), "number": torch.arange(held)})
        numbers, of = asked[-1]
        assert (len(set(numbers)), len(numbers), of) == (drawn, drawn, size)


def test_programme_makes_room_for_what_comes() -> None:
    """A full memory of six keeps its four most diverse, and the next two find room."""
    method = learning(rule="integer-programme", memory_budget=6, recent=2)
    method.indices = torch.tensor([0, 1])
    method.remember(method.present())
    full = method.memory_
    assert full is not None
    assert "score" not in full
    assert full["t"].tolist() == [0, 0, 0, 0, 1, 1]
    gradients = method._gradients(full, 1).double()
    chosen = most_diverse(gradients @ gradients.T, 4)
    method.indices = torch.tensor([2, 3])
    method.remember(method.present())
    assert method.memory_ is not None
    assert torch.equal(method.memory_["images"][:4], full["images"][chosen])
    assert torch.equal(method.memory_["images"][4:], TASKS[1].train.images[2:])
    assert method.memory_["t"].tolist()[4:] == [1, 1]


@pytest.mark.parametrize("budget", [1, 2, 3, 8])
def test_programme_keeps_to_its_budget(budget: int) -> None:
    method = learning(rule="integer-programme", memory_budget=budget)
    for _ in range(5):
        method.remember(method.present())
        assert method.memory_ is not None
        assert 0 < len(method.memory_["y"]) <= budget


def test_cosines_by_blocks_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    method = learning(memory_budget=20)
    method.remember(method.present())
    assert method.memory_ is not None
    whole = method._cosines(method.memory_)
    torch.testing.assert_close(whole.diagonal(), torch.ones(8, dtype=torch.float64))
    parameters = sum(p.numel() * p.element_size() for p in method.net.parameters())
    monkeypatch.setattr("cl.methods.gss.CHUNK_BYTES", 3 * parameters)
    sizes = []
    original = GSS._gradients

    def gradients(self: GSS, rows: dict[str, Tensor], size: int) -> Tensor:
        sizes.append(len(rows["y"]))
        return original(self, rows, size)

    monkeypatch.setattr(GSS, "_gradients", gradients)
    torch.testing.assert_close(method._cosines(method.memory_), whole)
    assert max(sizes) == 3


def test_a_sample_has_a_score_in_the_greedy_version_alone() -> None:
    assert GSS().sample_bytes(64, 10) == 64 + 8 + 8 + 4
    assert GSS(rule="integer-programme").sample_bytes(64, 10) == 64 + 8 + 8


def test_nothing_is_offered_twice_or_to_no_memory() -> None:
    method = learning()
    before = method.seen_
    method.epoch = 1
    method.remember(method.present())
    assert method.seen_ == before
    assert learning(memory_budget=0).memory_ is None
