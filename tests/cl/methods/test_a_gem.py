"""A-GEM. Golden values by hand from equation 11 of Chaudhry et al. (2019)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cl.methods.a_gem import AGEM, project
from cl.methods.gem import project as project_onto_many
from cl.ops import cross_entropy, flatten, gradients
from cl.train import Snapshot
from tests.cl.small import attach, learn_tasks, learner_for, mlp, params_for, same, toy_task

OFF = {"enabled": False}


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize(
    ("g", "r", "expected"),
    [
        ((1, 0), (-1, 1), (0.5, 0.5)),
        ((1, 2), (-1, -2), (0, 0)),
        ((1, -2, 3), (-1, 0, -1), (-1, -2, 1)),
    ],
)
def test_projection(g: tuple[float, ...], r: tuple[float, ...], expected: tuple[float, ...]) -> None:
    found, against = project(vector(*g), vector(*r))
    assert bool(against)
    torch.testing.assert_close(found, vector(*expected))
    assert float(found @ vector(*r)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("margin", [0.0, 1.0])
@pytest.mark.parametrize(("g", "r"), [((3, 4), (1, 0)), ((0, 1), (1, 0)), ((1, 2), (0, 0)), ((0, 0), (-1, 1))])
def test_nothing_violated_leaves_the_gradient_itself(g: Any, r: Any, margin: float) -> None:
    """Also where r is 0."""
    gradient = vector(*g)
    found, against = project(gradient, vector(*r), margin)
    assert torch.equal(found, gradient)
    assert not bool(against)


def test_what_is_not_finite_is_not_hidden() -> None:
    assert bool(project(vector(1, 0), vector(torch.nan, 1))[0].isnan().all())


def test_margin() -> None:
    """v = max(1, 0.5); and GEM's programme with one constraint, which has a ridge."""
    g, r = vector(1, 0), vector(-1, 1)
    torch.testing.assert_close(project(g, r, 1.0)[0], vector(0, 1))
    torch.testing.assert_close(project(g, r, 0.25)[0], vector(0.5, 0.5))
    with_ridge = project_onto_many(g, r.unsqueeze(0), 0.0)
    torch.testing.assert_close(with_ridge, vector(0.50025, 0.49975), atol=1e-6, rtol=0)
    for margin in (0.0, 0.7, 3.0):
        for scale in (0.1, 10.0):
            programme = project_onto_many(g, scale * r.unsqueeze(0), margin, ridge=1e-12)
            torch.testing.assert_close(project(g, scale * r, margin)[0], programme, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e22, 1e30])
def test_square_of_r_is_not_to_be_had_in_float32(scale: float) -> None:
    r = scale * vector(-1, 1)
    assert float(r @ r) in (0.0, float("inf")) or scale == 1e-22
    torch.testing.assert_close(project(vector(1, 0), r)[0], vector(0.5, 0.5))


FIRST = toy_task([[1, 0, 0, 2], [0, 1, 3, 0], [2, 2, 0, 1], [0, 0, 1, 1]], [0, 1, 2, 0])
SECOND = toy_task([[0, 3, 1, 1], [1, 0, 2, 2]], [2, 1], 1)


def learning_second(boundary: bool = True, **knobs: Any) -> Any:
    """In a step of its second task, the first remembered whole, and the first step of the second taken."""
    method = attach(AGEM(**knobs), mlp(classes=(3, 3)))
    method.data, method.indices = FIRST, torch.arange(4)
    method.on_step(FIRST.train.x, FIRST.train.y, 0)
    method.attach(method.net, 1, method.training, 0.1, (0, 1))
    method.data, method.indices = SECOND, torch.arange(2)
    if boundary:
        method.begin_task(SECOND)
    method.on_step(SECOND.train.x, SECOND.train.y, 1)
    return method


def all_parts(loss: Tensor, parameters: list[torch.nn.Parameter]) -> Tensor:
    return flatten(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))


def against_the_past(method: Any) -> tuple[list[torch.nn.Parameter], Tensor]:
    """Put a gradient in place that undoes what was learned of the first task, in the trunk alone."""
    parameters = list(method.net.parameters())
    (-cross_entropy(method.net, FIRST.train.x, FIRST.train.y, 0)).backward()
    for head in method.net.heads.parameters():
        head.grad = None
    return parameters, flatten(gradients(parameters))


def test_step_does_not_raise_the_loss_of_the_past() -> None:
    """Projected over the trunk and all heads; where a head has no gradient it is 0, and gets one."""
    method = learning_second()
    parameters, g = against_the_past(method)
    r = all_parts(cross_entropy(method.net, FIRST.train.x, FIRST.train.y, 0), parameters)
    assert float(g @ r) < 0
    method.on_grad()
    found = flatten(gradients(parameters))
    torch.testing.assert_close(found, g - (g @ r) / (r @ r) * r)
    assert float(found @ r) == pytest.approx(0, abs=1e-5 * float(r @ r))
    old, new = (flatten(gradients(head.parameters())) for head in method.net.heads)
    assert float(old.abs().max()) > 0
    assert float(new.abs().max()) == 0


def test_nothing_violated_leaves_every_gradient_in_place() -> None:
    method = learning_second()
    cross_entropy(method.net, FIRST.train.x, FIRST.train.y, 0).backward()
    before = {name: p.grad for name, p in method.net.named_parameters()}
    method.on_grad()
    assert all(p.grad is before[name] for name, p in method.net.named_parameters())
    assert before["heads.1.weight"] is None


def test_without_boundaries_the_reference_is_of_all_that_was_seen() -> None:
    method = learning_second(boundary=False)
    parameters, g = against_the_past(method)
    x, y = torch.cat([FIRST.train.x, SECOND.train.x]), torch.cat([FIRST.train.y, SECOND.train.y])
    r = all_parts(cross_entropy(method.net, x, y, torch.tensor([0] * 4 + [1] * 2)), parameters)
    assert float(g @ r) < 0
    method.on_grad()
    torch.testing.assert_close(flatten(gradients(parameters)), project(g, r)[0])


def test_margin_reaches_the_step() -> None:
    found = []
    for margin in (0.0, 5.0):
        method = learning_second(margin=margin)
        parameters, _ = against_the_past(method)
        method.on_grad()
        found.append(flatten(gradients(parameters)))
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("samples", [1, 3])
def test_size_of_the_reference(samples: int) -> None:
    method = learning_second(replay_batch=samples)
    against_the_past(method)
    seen: list[int] = []
    method.net.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    method.on_grad()
    assert seen == [samples]


def test_one_task_is_finetuning(prepared: dict[int, Path]) -> None:
    """And two are not, unless nothing is kept."""
    for tasks, budget, alike in ((1, 500, True), (2, 500, False), (2, 0, True)):
        nets = []
        for name, knobs in (("finetune", {}), ("a_gem", {"memory_budget": budget})):
            learner = learner_for(params_for(name, knobs, selection=OFF), prepared[2])
            learn_tasks(learner, tasks)
            nets.append(Snapshot.of(learner.method).net)
        assert same(*nets) == alike


@pytest.mark.parametrize("scenario", [{"name": "class"}, {"name": "domain"}, {"name": "class", "online": True}])
def test_other_scenarios(scenario: dict[str, Any], prepared: dict[int, Path]) -> None:
    """It projects there, too."""
    nets = []
    for budget in (0, 100):
        learner = learner_for(
            params_for("a_gem", {"memory_budget": budget}, selection=OFF, scenario=scenario), prepared[2]
        )
        learn_tasks(learner, 2)
        nets.append(Snapshot.of(learner.method).net)
    assert not same(*nets)


def test_share_for_each_class() -> None:
    """Two places a class: the third and fourth sample take those of the first and second. Names are image numbers."""
    net = mlp(classes=(3, 3))
    method = attach(AGEM(memory_per_class=2, memory_budget=1), net)
    for task, labels in ((0, [0, 0, 1, 0, 0, 1, 1]), (1, [0, 2])):
        count = len(labels)
        data = toy_task([[10 * task + i, 0, 0, 0] for i in range(count)], labels, task)
        method.data, method.task, method.indices = data, task, torch.arange(count)
        method.on_step(data.train.x, data.train.y, task)
    memory = method.memory_
    kept = zip(memory["t"].tolist(), memory["y"].tolist(), memory["images"][:, 0, 0, 0].tolist(), strict=True)
    assert sorted(kept) == [(0, 0, 3), (0, 0, 4), (0, 1, 5), (0, 1, 6), (1, 0, 10), (1, 2, 11)]
    method.epoch = 1
    method.on_step(data.train.x, data.train.y, 1)
    assert len(method.memory_["y"]) == 6, "offered in the first epoch alone"
