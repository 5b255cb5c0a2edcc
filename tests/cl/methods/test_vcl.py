"""VCL: golden values by hand from the divergence of two Gaussians; layers by their moments; coresets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.data import Task, TaskIds
from cl.descent import Descent
from cl.errors import UserError
from cl.learner import Learner
from cl.method import Method, add_task
from cl.methods.vcl import VCL
from cl.methods.vcl_coreset import VCLCoreset, k_center
from cl.nets import build
from cl.ops import snapshot
from cl.params import Model
from cl.train import fit
from cl.variational import SPREAD, Variational, divergence, gaussian, noise, spread
from tests.cl.small import CPU, OFF, attach, learn_tasks, learner_for, mlp, params_for, same, toy_task
from tests.cl.tiny import images, narrow

ROWS = [[1, 0, 0, 2], [0, 1, 3, 0], [2, 2, 0, 1], [0, 0, 1, 1]]
DATA = toy_task(ROWS, [0, 1, 2, 0])


def ready(method: Variational, tasks: int = 1, increment: Any = "task") -> Any:
    """The method on a network of its own with so many heads, where q is being learned."""
    net = method.wrap(mlp(classes=()))
    net.increment = increment
    for task in range(tasks):
        add_task(method, net, 3, task, torch.Generator().manual_seed(task), (0, task))
    attach(method, net, tasks - 1, batch_size=2, epochs=3)
    method.begin_task(DATA)
    method.prior_ = {}
    method.data = DATA

    def own_fit(data: Task, purpose: str, learner: Method | None = None, **settings: Any) -> Any:
        if learner is not None:
            learner.attach(learner.net, method.task, method.training, 0.1, (0, "learner"))
        return fit(learner or method, data, (0, purpose), **settings)

    method.fit = own_fit
    return method


def numbers(*values: float) -> list[Tensor]:
    return [torch.tensor([value]) for value in values]


def test_divergence_of_two_gaussians() -> None:
    assert float(divergence(*numbers(0.5, math.log(0.25)))) == pytest.approx(0.443147, abs=1e-6)
    assert float(divergence(*numbers(0.1, math.log(0.04), 0.0, math.log(0.01)))) == pytest.approx(1.306853, abs=1e-6)
    assert float(divergence(*numbers(0.3, -2.5, 0.3, -2.5))) == 0


def test_divergence_of_a_new_weight() -> None:
    method = ready(VCL())
    names = gaussian(dict(method.net.named_parameters()))
    with torch.no_grad():
        for name in names:
            method.net.get_parameter(name).zero_()
    count = sum(method.net.get_parameter(name).numel() for name in names)
    assert count == 4 * 5 + 5 + 5 * 5 + 5 + 5 * 3 + 3
    assert float(method.divergence().detach()) / count == pytest.approx(2.501239, abs=1e-5)


def test_divergence_of_the_papers_network() -> None:
    """Of split MNIST, as it begins, at means of 0."""
    method = VCL()
    net = method.wrap(build(Model(hidden=[256, 256]), (1, 28, 28), torch.Generator()))
    add_task(method, net, 2, 0, torch.Generator(), (0,))
    method.net = net
    q = dict(net.named_parameters())
    names = gaussian(q)
    assert sum(q[name].numel() for name in names) == 267_266
    with torch.no_grad():
        for name in names:
            q[name].zero_()
    assert float(method.divergence().detach()) == pytest.approx(668_496, rel=1e-5)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_moments_of_a_layer(kind: str) -> None:
    plain = nn.Linear(2, 1) if kind == "linear" else nn.Conv2d(1, 1, (1, 2))
    plain.weight.data = torch.tensor([0.5, -0.25]).view(plain.weight.shape)
    plain.bias.data.fill_(0.1)  # type: ignore[union-attr]
    layer = spread(plain, 0.0)
    layer.weight_log_variance.data = torch.tensor([0.04, 0.01]).log().view(plain.weight.shape)
    layer.bias_log_variance.data.fill_(math.log(0.0025))
    x = torch.tensor([1.0, 2.0]).expand(40_000, 2).view(-1, *([2] if kind == "linear" else [1, 1, 2]))
    assert torch.equal(layer(x), plain(x)), "without noise"
    with noise(layer, torch.Generator().manual_seed(0)):
        drawn = layer(x).flatten().detach()
    assert len(drawn.unique()) > 30_000, "each sample draws its own"
    assert float(drawn.mean()) == pytest.approx(0.1, abs=0.006)
    assert float(drawn.var()) == pytest.approx(0.0825, abs=0.003)
    assert torch.equal(layer(x), plain(x)), "nothing is left of the noise"


def test_without_spread_and_prior_it_is_plain_descent() -> None:
    class Plain(VCL):
        def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
            return F.cross_entropy(self.net(x, t), y)

    found = []
    for cls in (VCL, Plain):
        method = ready(cls(beta=0.0, log_variance=-60.0))
        before = snapshot(method.net.shared)
        fit(method, DATA, (0,), learning_rate=0.5, epochs=5, keep="last")
        found.append(snapshot(method.net.shared))
    for name, start in before.items():
        torch.testing.assert_close(found[0][name], found[1][name])
        assert name.endswith(SPREAD) or not torch.equal(start, found[0][name])


def test_first_task_is_learned_by_its_means_alone() -> None:
    method = ready(VCL())
    method.prior_ = None
    plain = attach(Method(), method.net)
    assert torch.equal(method.loss(DATA.train.x, DATA.train.y, 0), plain.loss(DATA.train.x, DATA.train.y, 0))
    assert method.penalty() is None
    assert isinstance(method.optimizer(list(method.net.parameters()), 0.1), Descent)


def test_penalty_counts_the_samples_of_the_task() -> None:
    method = ready(VCL(beta=0.5))
    expected = 0.5 * method.divergence().detach() / len(ROWS)
    torch.testing.assert_close(method.penalty().detach(), expected)
    method.beta = 0.0
    assert method.penalty() is None


@pytest.mark.parametrize("increment", ["task", "domain", "class"])
def test_posterior_becomes_the_prior(increment: str) -> None:
    """Then the divergence is 0, and so is its gradient, exactly; but for a head that comes after."""
    method = ready(VCL(), increment=increment)
    method.end_task(DATA)
    method.net.zero_grad()
    value = method.divergence()
    value.backward()
    assert float(value.detach()) == 0
    assert all(p.grad is not None and not bool(p.grad.any()) for p in method.net.parameters())
    kept = snapshot(method.net.state_dict())
    add_task(method, method.net, 3, 1, torch.Generator().manual_seed(1), (0, 1))
    after = snapshot(method.net.state_dict())
    assert same({name: after[name] for name in kept}, kept), "a head that is there stays as it is"
    expected = 0.0 if increment == "domain" else float(divergence_of_head(method, 1))
    assert float(method.divergence().detach()) == pytest.approx(expected, rel=1e-5)


def divergence_of_head(method: Variational, index: int) -> Tensor:
    head: Any = method.net.heads[index]
    return (divergence(head.weight, head.weight_log_variance) + divergence(head.bias, head.bias_log_variance)).detach()


def test_a_task_leaves_the_heads_of_others_alone() -> None:
    method = ready(VCL())
    method.end_task(DATA)
    kept = snapshot(dict(method.net.heads[0].named_parameters()))
    backbone = snapshot(dict(method.net.backbone.named_parameters()))
    add_task(method, method.net, 3, 1, torch.Generator().manual_seed(1), (0, 1))
    method.task = 1
    fit(method, toy_task(ROWS, [0, 1, 2, 0], index=1), (1,), learning_rate=0.5, keep="last")
    assert same(snapshot(dict(method.net.heads[0].named_parameters())), kept)
    assert not any(torch.equal(p, backbone[name]) for name, p in method.net.backbone.named_parameters()), (
        "means and variances of the backbone move"
    )


def test_heads_side_by_side_draw_noise_too() -> None:
    method = ready(VCL(), tasks=2, increment="class")
    features = torch.ones(50, 5)
    with noise(method.net, torch.Generator().manual_seed(0)):
        wide = method.net.logits(features)
        masked = method.net.logits(features, torch.arange(50) % 2)
    assert wide.shape == (50, 6)
    assert all(len(column.unique()) == 50 for column in wide.detach().T)
    assert bool((masked[0::2, :3].isfinite() & masked[0::2, 3:].isneginf()).all())
    assert bool((masked[1::2, 3:].isfinite() & masked[1::2, :3].isneginf()).all())


def test_the_noise_is_the_trials_own() -> None:
    method = ready(VCL())
    x, y = DATA.train.x, DATA.train.y
    drawn = [float(method.loss(x, y, 0).detach()) for _ in range(2)]
    assert drawn[0] != drawn[1]
    method.attach(method.net, 0, method.training, 0.1, (0, 0, "test", 0))
    assert float(method.loss(x, y, 0).detach()) == drawn[0]
    method.attach(method.net, 0, method.training, 0.1, (0, 0, "test", 1))
    assert float(method.loss(x, y, 0).detach()) not in drawn


def test_answers_are_means_of_probabilities() -> None:
    method = ready(VCL(log_variance=-1.0), tasks=2)
    x = DATA.train.x
    method.net.eval()
    with torch.no_grad():
        found = method.predict(x, 1)
        torch.testing.assert_close(found.sum(1), torch.ones(4))
        for row in range(4):
            torch.testing.assert_close(method.predict(x[row : row + 1], 1), found[row : row + 1])
        at_means = method.net(x, 1).softmax(1)
        assert not torch.allclose(found, at_means, atol=0.01)
        method.test_samples = 1
        assert not torch.allclose(method.predict(x, 1), found, atol=0.01)
        assert method.predict(x).shape == (4, 6)
        for name in gaussian(dict(method.net.named_parameters())):
            method.net.get_parameter(name + SPREAD).fill_(-60.0)
        torch.testing.assert_close(method.predict(x, 1), at_means)


@pytest.mark.parametrize("model", [{"name": "resnet18"}, {"name": "small", "batch_norm": True}])
@pytest.mark.parametrize("name", ["vcl", "vcl_coreset"])
def test_batch_normalisation_is_refused(name: str, model: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^model\.name, model\.batch_norm: .*resnet18"):
        Learner(params_for(name, model=model), name, 0, images(2), CPU)


@pytest.mark.parametrize("name", ["vcl", "vcl_coreset"])
def test_convolutions_learn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch)
    model = {"name": "small", "dropout": 0.5}
    training = {"epochs": 2, "batch_size": 5, "learning_rate": 0.05}
    params = params_for(name, {"test_samples": 2}, model=model, training=training, selection=OFF)
    learner = Learner(params, name, 0, images(2), CPU)
    fresh = snapshot(learner.method.net.backbone.state_dict())
    learn_tasks(learner, 2)
    assert all(not torch.equal(tensor, fresh[key]) for key, tensor in learner.method.net.backbone.state_dict().items())
    assert all(bool(tensor.isfinite().all()) for tensor in learner.method.net.state_dict().values())


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("name", ["vcl", "vcl_coreset"])
def test_learns_in_every_scenario(name: str, scenario: str, prepared: dict[int, Path]) -> None:
    training = {"learning_rate": 0.1, "epochs": 20}
    params = params_for(name, {"beta": 0.1}, selection=OFF, scenario={"name": scenario}, training=training)
    learner = learner_for(params, prepared[2])
    learn_tasks(learner, 2)
    assert learner.test()[-1] > 0.5
    assert len(learner.method.net.heads) == (1 if scenario == "domain" else 2)


# Coresets.


def test_centres() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0], [4.0, 0.0], [10.0, 1.0]])
    assert k_center(points, 4).tolist() == [0, 4, 3, 1]
    assert k_center(points, 2).tolist() == [0, 4], "a shorter list is a prefix"


def learner_with(prepared: Path, **knobs: Any) -> Learner:
    return learner_for(params_for("vcl_coreset", knobs, selection=OFF), prepared)


def test_each_task_has_its_part_and_keeps_it_out(prepared: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_with(prepared[3], memory_budget=31)
    trained: set[bytes] = set()
    original = Variational.loss

    def loss(self: Variational, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        if isinstance(self, VCLCoreset):
            trained.update(row.numpy().tobytes() for row in x)
        return original(self, x, y, t)

    monkeypatch.setattr(Variational, "loss", loss)
    for task, part in enumerate([31, 15, 10]):
        learn_stage = learner.experiences[task]
        trained.clear()
        learner.open(learn_stage)
        done = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
        learner.consolidate("learn", 0, 0.1, learner.knobs, done)
        method: Any = learner.method
        assert [len(rows["y"]) for rows in method.coresets_] == [part] * (task + 1)
        kept = {row.numpy().tobytes() for row in learn_stage.train.normalise(method.coresets_[-1]["images"])}
        every = {row.numpy().tobytes() for row in learn_stage.train.x}
        assert len(kept) == part
        assert trained == every - kept
        assert method.count_ == len(every) - part


def test_what_answers_is_not_what_is_handed_on(prepared: dict[int, Path]) -> None:
    learner = learner_with(prepared[2])
    learn_tasks(learner, 2)
    method: Any = learner.method
    q = dict(method.net.named_parameters())
    assert same(snapshot(q), method.prior_), "the network is the propagated posterior"
    assert not any(torch.equal(method.fitted_[name], method.prior_[name]) for name in q)
    x = learner.experiences[0].test.x[:5]
    with torch.no_grad():
        assert torch.equal(method.predict(x, 0), method.answer(method.fitted_, x, 0))
        assert not torch.allclose(method.predict(x, 0), method.answer(q, x, 0), atol=1e-4)
        learner.attach(method, "test", 0, 0.1)
        method.begin_task(learner.experiences[1])
        assert torch.equal(method.predict(x, 0), method.answer(q, x, 0)), "in training the network is what is judged"


def test_a_batch_may_be_kept_out_altogether() -> None:
    method = ready(VCLCoreset(memory_budget=1))
    method.indices = method.kept_out_
    x, y, t = method.batch(DATA.train.x[method.kept_out_], DATA.train.y[method.kept_out_], 0)
    assert len(x) == len(y) == 0
    value = method.loss(x, y, t)
    value.backward()
    assert float(value.detach()) == 0
    assert method.count_ == 3


def test_coreset_leaves_half_of_the_task_to_learn() -> None:
    assert len(ready(VCLCoreset(memory_budget=100)).coresets_[0]["y"]) == 2
