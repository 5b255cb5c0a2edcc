"""GEM. Golden values by hand from the dual programme of Lopez-Paz and Ranzato (2017), equation 11."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cl.methods.gem import GEM, project
from cl.ops import cross_entropy, flatten
from tests.cl.small import attach, mlp, toy_task


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize(("margin", "expected"), [(0.0, (0.500250, 0.499750)), (0.5, (0.5, 0.5)), (1.0, (0.0, 1.0))])
def test_one_violated_constraint(margin: float, expected: tuple[float, float]) -> None:
    found = project(vector(1, 0), vector(-1, 1).unsqueeze(0), margin)
    torch.testing.assert_close(found, vector(*expected), atol=1e-6, rtol=0)
    if margin == 0:
        assert float(found @ vector(-1, 1)) == pytest.approx(-0.0005, abs=1e-6)


def test_without_the_ridge_it_is_the_closed_form() -> None:
    found = project(vector(1, 0), vector(-1, 1).unsqueeze(0), 0.0, ridge=1e-9)
    torch.testing.assert_close(found, vector(0.5, 0.5), atol=1e-6, rtol=0)
    assert float(found @ vector(-1, 1)) == pytest.approx(0, abs=1e-6)


def test_two_constraints() -> None:
    G = torch.stack([vector(-1, 1, 0), vector(-1, 0, 2)])
    found = project(vector(1, 0, 0), G, 0.0, ridge=1e-12)
    torch.testing.assert_close(found, vector(4 / 9, 4 / 9, 2 / 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(G @ found, vector(0, 0), atol=1e-5, rtol=0)
    with_margin = project(vector(1, 0, 0), G, 0.5)
    torch.testing.assert_close(with_margin, vector(0, 0.5, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(G @ with_margin, vector(0.5, 2), atol=1e-6, rtol=0)


def test_satisfied_constraint_does_not_matter() -> None:
    violated, satisfied = vector(-1, 1, 0), vector(1, 1, 0)
    both = project(vector(1, 0, 0), torch.stack([violated, satisfied]), 0.0)
    torch.testing.assert_close(both, project(vector(1, 0, 0), violated.unsqueeze(0), 0.0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("margin", [0.0, 1.0, 100.0])
def test_no_violation_leaves_the_gradient_bit_for_bit(margin: float) -> None:
    g = vector(0.1, 0.2, 0.3)
    assert project(g, torch.stack([vector(1, 0, 0), vector(-2, 1, 0)]), margin) is g


def test_zero_gradients() -> None:
    zero = vector(0, 0)
    assert torch.equal(project(zero, vector(-1, 1).unsqueeze(0), 0.0), zero)
    found = project(vector(1, 0), torch.stack([zero, vector(-1, 1)]), 0.0)
    torch.testing.assert_close(found, vector(0.5, 0.5), atol=1e-3, rtol=0)


def test_parallel_memory_gradients() -> None:
    """P is singular but for the ridge."""
    for scale in (1.0, 1e6, 1e-6):
        same = scale * torch.stack([vector(-1, 1), vector(-1, 1), vector(-2, 2)])
        found = project(scale * vector(1, 0), same, 0.0, ridge=1e-9 * scale**2)
        torch.testing.assert_close(found / scale, vector(0.5, 0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [1e8, 1e12])
def test_parallel_memory_gradients_of_any_size(scale: float) -> None:
    """Where the ridge is lost in the rounding of P."""
    found = project(scale * vector(1, 0), scale * torch.stack([vector(-1, 1), vector(-1, 1)]), 0.0)
    torch.testing.assert_close(found / scale, vector(0.5, 0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e8, 1e30, 1e37])
def test_gradients_of_any_size_with_a_margin(scale: float) -> None:
    """As they are met where a training diverges: the answer grows with them, and nothing is raised."""
    found = project(scale * vector(1, 0), scale * vector(-1, 1).unsqueeze(0), 1.0)
    torch.testing.assert_close(found / scale, vector(0, 1), atol=1e-6, rtol=0)
    G = torch.randn(7, 34, generator=torch.Generator().manual_seed(0))
    expected = project(-G.sum(0), G, 0.5)
    torch.testing.assert_close(project(scale * -G.sum(0), scale * G, 0.5) / scale, expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_gradients_that_are_no_numbers_are_left_to_the_loop(broken: float) -> None:
    """It ends such a training, so that the attempt fails; the projection must not."""
    memory = vector(-1, 1)
    for g, G in ((vector(broken, 0), memory), (vector(1, 0), memory * broken), (memory * broken, -memory * broken)):
        for tasks in (1, 2):
            assert not bool(torch.isfinite(project(g, torch.stack([G] * tasks), 1.0)).all())


def test_opposed_memory_gradients() -> None:
    """Nothing but a step across both is allowed."""
    found = project(vector(1, 1), torch.stack([vector(-1, 0), vector(1, 0)]), 0.0)
    torch.testing.assert_close(found, vector(0, 1), atol=2e-3, rtol=0)


def test_gradient_straight_against_the_memory() -> None:
    found = project(vector(-2, 0), vector(1, 0).unsqueeze(0), 0.0)
    torch.testing.assert_close(found, vector(0, 0), atol=3e-3, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e-3])
def test_more_tasks_than_dimensions(scale: float) -> None:
    draw = torch.Generator().manual_seed(0)
    G = scale * torch.randn(20, 3, generator=draw)
    found = project(scale * vector(1, 2, 3), G, 0.0)
    assert bool(torch.isfinite(found).all())
    random = torch.randn(40, 200, generator=draw)
    g = -random.sum(0)
    kept = project(g, random, 0.0)
    assert float((random @ g).min()) < -100
    assert float((random @ kept).min()) > -0.1


DATA = toy_task([[1, 0, 0, 2], [0, 1, 3, 0], [2, 2, 0, 1], [0, 0, 1, 1]], [0, 1, 2, 0])


def learning_second(**knobs: Any) -> GEM:
    """At its second task, having remembered all of the first."""
    net = mlp(classes=(3, 3))
    method = attach(GEM(margin=0.0, **knobs), net, batch_size=3)
    method.end_task(DATA)
    method.attach(net, 1, method.training, 0.1, (0, 1))
    method.begin_task(DATA)
    return method


def test_gradient_of_the_memory_is_the_mean_over_all_of_it() -> None:
    method = learning_second()
    parameters = list(method.net.parameters())
    expected = torch.autograd.grad(
        cross_entropy(method.net, DATA.train.x, DATA.train.y, 0), parameters, allow_unused=True
    )
    expected = flatten([torch.zeros_like(p) if g is None else g for g, p in zip(expected, parameters, strict=True)])
    torch.testing.assert_close(method._memory_gradient(0), expected)


def test_gradient_of_the_memory_as_the_reference_sums_it() -> None:
    """The sum over the memory's batches of their mean gradients (Q12): here of three samples and of one."""
    method = learning_second(memory_gradient="sum")
    parameters = list(method.net.parameters())
    memory = method._replayed[0]
    expected = 0
    for part in (slice(0, 3), slice(3, 4)):
        loss = cross_entropy(method.net, memory[0][part], memory[1][part], 0)
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        expected = expected + flatten(found)
    torch.testing.assert_close(method._memory_gradient(0), expected)


def test_memory_in_batches_of_its_own_size() -> None:
    """The sum over batches is the mean where there is one batch, however small those of the training are."""
    methods = [learning_second(memory_gradient=kind, memory_batch=1000) for kind in ("sum", "mean")]
    summed, mean = (m._memory_gradient(0) for m in methods)
    torch.testing.assert_close(summed, mean)


def test_step_does_not_raise_the_loss_of_the_memory() -> None:
    """The constraint covers all parameters, heads included, and is written back to each."""
    method = learning_second()
    (-cross_entropy(method.net, DATA.train.x[:2], DATA.train.y[:2], 0)).backward()  # undoes what was learned
    parameters = list(method.net.parameters())
    remembered = method._memory_gradient(0)

    def gradient() -> Tensor:
        return flatten([p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters])

    before = gradient()
    assert float(before @ remembered) < 0
    method.on_grad()
    torch.testing.assert_close(gradient(), project(before, remembered.unsqueeze(0), 0.0))
    assert float(gradient() @ remembered) == pytest.approx(0, abs=2e-3), "the ridge lets so much through"


def test_no_memory_leaves_the_step_alone() -> None:
    for memory in (0, 3):
        method = attach(GEM(memory_per_task=memory), mlp(classes=(3, 3)))
        if memory == 0:
            method.end_task(DATA)
        method.begin_task(DATA)
        cross_entropy(method.net, DATA.train.x, DATA.train.y, 0).backward()
        before = {name: p.grad for name, p in method.net.named_parameters()}
        method.on_grad()
        assert all(p.grad is before[name] for name, p in method.net.named_parameters())


def test_memory_is_a_draw_without_repetition() -> None:
    method = attach(GEM(memory_per_task=3), mlp())
    method.end_task(DATA)
    kept = {bytes(image.flatten().tolist()): int(y) for image, y in zip(*method.memory_[0].values(), strict=True)}
    offered = {bytes(x.flatten().tolist()): int(y) for x, y in zip(DATA.train.images, DATA.train.y, strict=True)}
    assert len(kept) == 3
    assert kept.items() <= offered.items()
