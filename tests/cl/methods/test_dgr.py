"""Deep generative replay: weights of its loss and divergence of its generator by hand, and what is frozen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cl.data import Sequence, Task, load
from cl.data.prepare import prepare
from cl.errors import UserError
from cl.learner import Learner
from cl.methods import dgr
from cl.methods.dgr import DGR, VAE, current, divergence
from cl.nets.multihead import Increment
from cl.ops import distillation, snapshot
from cl.params import Benchmark
from cl.train import Fit, Snapshot
from tests.cl.small import CPU, OFF, attach, dark_and_bright, learn_tasks, learner_for, mlp, params_for, same, toy_task
from tests.conftest import RAW

DATA = toy_task([[1, 0, 0, 2], [0, 1, 3, 0], [2, 2, 0, 1]], [2, 1, 0], index=2)
SMALL = {"generator_units": 6, "generator_code": 2, "generator_epochs": 2}


def generator(seed: int = 0, code: int = 2) -> VAE:
    found = VAE((1, 1, 4), 6, code, torch.Generator().manual_seed(seed))
    found.reach(DATA.train)
    return found


def third_task(increment: Increment = "task", **knobs: Any) -> Any:
    net = mlp(classes=(3,) if increment == "domain" else (3, 2, 3))
    net.increment = increment
    method = attach(DGR(**SMALL, **knobs), net, task=2)
    method.generator_ = snapshot(generator().state_dict())
    method.begin_task(DATA)
    return method


def moved(method: Any) -> None:
    with torch.no_grad():
        for p in method.net.parameters():
            p += 0.3


def drawn(method: Any, count: int = 3) -> Tensor:
    """What the method draws first."""
    again = attach(DGR(), method.net, task=2)
    found: Tensor = generator()(torch.randn(count, 2, generator=again.rng("drawn images")))
    return found.detach()


# The solver.


@pytest.mark.parametrize(("strength", "expected"), [(1.0, 0.5), (0.5, 0.7), (0.0, 0.9)])
def test_third_task_weighs_a_third(strength: float, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """New 0.9, replayed 0.3."""
    method = third_task(strength=strength)
    monkeypatch.setattr(F, "cross_entropy", lambda *_: torch.tensor(0.9))
    monkeypatch.setattr(DGR, "apart", lambda *_: torch.tensor(0.3))
    assert float(method.loss(DATA.train.x, DATA.train.y, 2)) == pytest.approx(expected)


@pytest.mark.parametrize("distil", [False, True])
@pytest.mark.parametrize("increment", ["task", "domain", "class"])
def test_drawn_images_are_answered_as_before_in_every_group(increment: Increment, distil: bool) -> None:
    method = third_task(increment, distil=distil, temperature=4.0)
    x, y, net = DATA.train.x, DATA.train.y, method.net
    images = drawn(method)
    before = net(images).detach()
    moved(method)
    after = net(images)
    if increment == "class":  # never of a new class: one softmax over all eight
        groups = [(before[:, :5], after)]
        before = torch.cat([before[:, :5], torch.full((3, 3), -math.inf)], 1)
        soft = [16 * distillation(after, before, 4.0)]
    else:
        slices = {"task": [slice(0, 3), slice(3, 5)], "domain": [slice(0, 3)]}[increment]
        groups = [(before[:, s], after[:, s]) for s in slices]
        soft = [16 * distillation(b, a, 4.0) for a, b in groups]
    hard = [F.cross_entropy(b, a.argmax(1)) for a, b in groups]
    replayed = sum(soft if distil else hard) / len(groups)
    column = y + 5 if increment == "class" else y
    asked = 2 if increment == "task" else None
    expected = F.cross_entropy(net(x, asked), column) / 3 + 2 / 3 * replayed
    torch.testing.assert_close(method.loss(x, y, 2), expected)


def test_first_task_has_no_replay() -> None:
    method = attach(DGR(), mlp())
    data = toy_task([[1, 0, 0, 2]], [1])
    method.begin_task(data)
    found = method.loss(data.train.x, data.train.y, 0)
    assert torch.equal(found, F.cross_entropy(method.net(data.train.x, 0), data.train.y))
    assert method._generator is None
    assert [current(task) for task in range(4)] == [1, 1 / 2, 1 / 3, 1 / 4]


def test_what_it_replays_from_is_frozen() -> None:
    method = third_task()
    taught, made = snapshot(method._solver), snapshot(method._generator.state_dict())
    moved(method)
    method.loss(DATA.train.x, DATA.train.y, 2).backward()
    assert bool(method.net.heads[0].weight.grad.any()), "old heads learn"
    assert same(dict(method._solver), taught)
    assert same(dict(method._generator.state_dict()), made)
    assert same(made, dict(method.generator_))
    assert not any(p.requires_grad for p in [*method._generator.parameters(), *method._solver.values()])


def test_as_many_drawn_as_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    original = VAE.codes

    def counted(self: VAE, count: int, draw: torch.Generator) -> Tensor:
        counts.append(count)
        return original(self, count, draw)

    monkeypatch.setattr(VAE, "codes", counted)
    for wanted in (0, 7):
        third_task(replay_batch=wanted).loss(DATA.train.x, DATA.train.y, 2)
    assert counts == [3, 7]


# The generator.


def test_size_of_the_generator() -> None:
    """Of van de Ven and Tolias' for split MNIST."""
    vae = VAE((1, 28, 28), 400, 100, torch.Generator())
    assert sum(p.numel() for p in vae.parameters()) == 1_069_784


def test_divergence_from_the_standard_normal() -> None:
    found = divergence(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, math.log(4)], [0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([1.306853, 0.0]))


def test_bound_of_the_generator() -> None:
    """Cross-entropy of the rebuilt pixels, black 0 and the brightest (3) 1, and the divergence; a mean over pixels."""
    vae, x = generator(), DATA.train.x
    noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(7))
    mean, log_variance = vae.encoder(x)[:, :2], vae.encoder(x)[:, 2:]
    rebuilt = (vae(mean + noise * log_variance.exp().sqrt()) / 3).flatten(1)
    share = x.flatten(1) / 3
    error = -(share * rebuilt.log() + (1 - share) * (1 - rebuilt).log()).sum(1)
    expected = (error + divergence(mean, log_variance)).mean() / 4
    torch.testing.assert_close(vae.bound(x, noise), expected)


def test_generator_puts_out_what_the_network_takes(prepared: dict[int, Path]) -> None:
    """Whatever the format of the images; and a later task may be brighter."""
    task = load(prepared[2], CPU).tasks[0]
    normalise = task.train.normalise
    normalise.scale, normalise.shift = normalise.scale * 3, normalise.shift + 0.7  # another mean and deviation
    vae = VAE((1, 8, 8), 6, 2, torch.Generator().manual_seed(0))
    vae.reach(task.train)
    x = normalise(task.train.images)
    assert float(vae.black) == float(x.min())
    assert float(vae.black + vae.span) == float(x.max())
    for logit, limit in ((-50.0, x.min()), (50.0, x.max())):
        vae.decoder[-2].bias.data.fill_(logit)  # type: ignore[operator]
        torch.testing.assert_close(vae(torch.zeros(2, 2)).detach(), limit.expand(2, 1, 8, 8))
    vae = generator()
    vae.reach(dark_and_bright(0, 2).train)
    assert float(vae.span) == 5
    vae.reach(toy_task([[1, 0, 0, 2]], [1]).train)
    assert float(vae.span) == 5


@pytest.mark.parametrize("task", [0, 2])
def test_generator_learns_new_images_and_what_it_drew_before(task: int) -> None:
    now, before = generator(1), snapshot(generator(2).state_dict())
    learner, same_draws = (attach(dgr._Generation(now, before if task else None), now, task) for _ in range(2))
    noise, x = same_draws.rng("noise of the codes"), DATA.train.x
    expected = now.bound(x, now.codes(3, noise))
    if task:
        images = generator(2)(now.codes(3, same_draws.rng("images relearned"))).detach()
        expected = expected / 3 + 2 / 3 * now.bound(images, now.codes(3, noise))
    torch.testing.assert_close(learner.loss(x, DATA.train.y, task), expected)


def test_end_of_a_task_trains_the_generator_alone(prepared: dict[int, Path]) -> None:
    learner = learner_for(params_for("dgr", SMALL, selection=OFF), prepared[2])
    kept: list[Any] = []
    for task in learner.experiences:
        learner.open(task)
        trained = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
        method = learner.method
        assert isinstance(method, DGR)
        assert same(method.generator_, kept[-1] if kept else None), "frozen while a task is learned"
        before = Snapshot.of(method).net
        found = learner.consolidate("learn", 0, 0.1, learner.knobs, trained)
        assert same(Snapshot.of(method).net, before)
        assert found.epochs == trained.epochs + 2
        assert method.generator_ is not None
        kept.append(snapshot(method.generator_))
        sizes = {name: tuple(tensor.shape) for name, tensor in kept[-1].items() if name.endswith("weight")}
        assert list(sizes.values()) == [(6, 64), (6, 6), (4, 6), (6, 2), (6, 6), (64, 6)]
    assert not same(*kept)


def test_generator_goes_on_from_the_one_before() -> None:
    method, old = third_task(), snapshot(generator().state_dict())

    def told(data: Task, purpose: str, learner: Any, **settings: Any) -> Fit:
        assert data is DATA
        assert same(learner.before, old)
        assert same(dict(learner.net.state_dict()), old), "and begins there"
        learner.net.decoder[0].weight.data += 1
        return Fit(0.0, 1, 1, 0.0)

    method.fit = told
    method.end_task(DATA)
    torch.testing.assert_close(method.generator_["decoder.0.weight"], old["decoder.0.weight"] + 1)


def test_generator_that_diverges_is_an_error() -> None:
    method = attach(DGR(**SMALL), mlp())

    def told(data: Task, purpose: str, learner: Any, **settings: Any) -> Fit:
        assert settings == {"learning_rate": 0.003, "epochs": 2, "keep": "last"}
        return Fit(0.0, 1, 1, 0.0, diverged=True)

    method.fit = told
    with pytest.raises(UserError, match=r"diverged on task 1; lower methods\.dgr\.generator_learning_rate"):
        method.end_task(DATA)
    assert method.generator_ is None


def test_generator_draws_like_what_it_saw() -> None:
    """Dark and bright images: so are the drawn ones, half and half, and hardly any lies between."""
    data = dark_and_bright(0, 4)
    knobs = {"generator_units": 20, "generator_code": 4, "generator_epochs": 150, "generator_learning_rate": 0.01}
    params = params_for("dgr", knobs, selection=OFF, training={"epochs": 1})
    learner = Learner(params, "dgr", 0, Sequence("toy", (1, 4, 4), (data,)), CPU)
    learn_tasks(learner, 1)
    method = learner.method
    assert isinstance(method, DGR)
    vae = method.vae(data.train)
    found = vae(vae.codes(500, torch.Generator().manual_seed(1))).detach().flatten(1).mean(1)
    seen = data.train.x.flatten(1).mean(1)
    middle = float(seen.mean())
    assert 0.3 < float((found > middle).float().mean()) < 0.7
    assert float((found - middle).abs().mean()) > 0.7 * float((seen - middle).abs().mean())


@pytest.mark.slow
def test_class_incremental_digits_are_kept(tmp_path: Path) -> None:
    """Finetuning ends with the last two digits alone, near 0.2."""
    prepare(Benchmark(name="split-digits"), RAW, tmp_path, say=lambda line: None)
    found = {}
    for name, own in (("finetune", {}), ("dgr", {"generator_epochs": 300})):
        params = params_for(
            name,
            own,
            selection=OFF,
            scenario={"name": "class"},
            model={"hidden": [100, 100]},
            training={"epochs": 70, "batch_size": 64, "learning_rate": 0.05},
        )
        learner = learner_for(params, tmp_path)
        learn_tasks(learner, 5)
        found[name] = sum(learner.test()) / 5
    assert found["finetune"] < 0.25
    assert found["dgr"] > 0.75
