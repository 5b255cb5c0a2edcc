"""Optimizers, schedules and numbers of steps of `training`: held to plain loops with torch's own parts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cl import checkpoint
from cl.descent import Moments
from cl.errors import UserError
from cl.learner import Learner
from cl.methods.finetune import Finetune
from cl.nets import build, resnet
from cl.params import Model, Training, validate
from cl.register import checked
from cl.rng import generator
from cl.train import Snapshot, fit
from tests.cl.small import CPU, attach, learn_tasks, learner_for, mlp, params_for, same, toy_task
from tests.cl.tiny import images

DATA = toy_task(torch.randint(0, 4, (20, 4), generator=torch.Generator().manual_seed(1)).tolist(), [0, 1, 2, 0, 1] * 4)
KEY = (0, 0, "test", 0)


def trained(**training: Any) -> list[Tensor]:
    """The weights that `fit` ends with, in batches of 8 of 20: an epoch has three steps."""
    learner = attach(Finetune(), mlp(), batch_size=8, **training)
    found = fit(learner, DATA, KEY, learning_rate=0.05)
    assert not found.diverged
    return [p.detach().clone() for p in learner.net.parameters()]


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    done = 0
    for epoch in range(steps):
        order = torch.randperm(20, generator=generator(*KEY, epoch))
        for x, y, _ in DATA.train.batches(8, order):
            if done == steps:
                return
            done += 1
            yield x, y


def by_hand(steps: int, optimizer: Any, scheduler: Any = None) -> list[Tensor]:
    """The weights after so many steps of a plain loop."""
    net = mlp()
    chosen = optimizer(net.parameters())
    plan = scheduler(chosen) if scheduler else None
    for x, y in batches(steps):
        chosen.zero_grad()
        F.cross_entropy(net(x, 0), y).backward()
        chosen.step()
        if plan is not None:
            plan.step()
    return [p.detach().clone() for p in net.parameters()]


PLANS = torch.optim.lr_scheduler
CASES: dict[str, tuple[dict[str, Any], int, Any, Any]] = {
    "adam": (
        {"optimizer": "adam", "betas": [0.8, 0.9], "weight_decay": 0.1, "schedule": "constant", "iterations": 7},
        7,
        lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.9), weight_decay=0.1, foreach=True),
        None,
    ),
    "adamw": (
        {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "constant", "epochs": 3},
        9,
        lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1, foreach=True),
        None,
    ),
    "step": (
        {"schedule": "step", "milestones": [0.5, 0.8], "milestone_factor": 0.2, "iterations": 10, "momentum": 0.0},
        10,
        lambda p: torch.optim.SGD(p, lr=0.05, foreach=True),
        lambda o: PLANS.MultiStepLR(o, [5, 8], gamma=0.2),
    ),
    "cosine": (
        {"schedule": "cosine", "epochs": 4},
        12,
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, foreach=True),
        lambda o: PLANS.CosineAnnealingLR(o, 12),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_training_is_that_of_a_plain_loop(case: str) -> None:
    settings, steps, optimizer, scheduler = CASES[case]
    torch.testing.assert_close(trained(**settings), by_hand(steps, optimizer, scheduler), rtol=1e-5, atol=1e-6)


KEPT: dict[str, tuple[dict[str, Any], Any]] = {
    "adam": ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, lr=0.05, foreach=True)),
    "sgd": ({}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, foreach=True)),
}


@pytest.mark.parametrize("kind", KEPT)
def test_where_moments_are_kept_two_trainings_are_one_loop_with_one_optimizer(kind: str) -> None:
    settings, optimizer = KEPT[kind]
    learner = attach(Finetune(), mlp(), batch_size=8, schedule="constant", iterations=5, **settings)
    moments: Moments = {}
    for _ in range(2):
        fit(learner, DATA, KEY, learning_rate=0.05, moments=moments)
    net = mlp()
    chosen = optimizer(net.parameters())
    for x, y in [*batches(5), *batches(5)]:
        chosen.zero_grad()
        F.cross_entropy(net(x, 0), y).backward()
        chosen.step()
    kept = [p.detach().clone() for p in learner.net.parameters()]
    torch.testing.assert_close(kept, [p.detach() for p in net.parameters()], rtol=1e-5, atol=1e-6)


def test_kept_moments_come_with_the_checkpoint(prepared: dict[int, Path], tmp_path: Path) -> None:
    """Those of the network and of the generator beside it. What a new task adds begins without."""
    ended = {}
    for state in ("kept", "new"):
        training = {"optimizer": "adam", "learning_rate": 0.01, "schedule": "constant", "optimizer_state": state}
        params = params_for("dgr", {"generator_epochs": 2}, training=training, selection={"enabled": False})
        live, restored = learner_for(params, prepared[2]), learner_for(params, prepared[2])
        learn_tasks(live, 1)
        checkpoint.save(tmp_path / state, Snapshot.of(live.method), {}, "key")
        restored.resume(0, checkpoint.load(tmp_path / state, "key")[0])
        for learner in (live, restored):
            learner.open(learner.experiences[1])
            trained = learner.train("learn", 0, 0.01, learner.knobs, plain=False)
            learner.consolidate("learn", 0, 0.01, learner.knobs, trained)
        assert same(Snapshot.of(live.method).net, Snapshot.of(restored.method).net)
        assert same(Snapshot.of(live.method).state, Snapshot.of(restored.method).state)
        ended[state] = live.method
    moments = ended["kept"].state()["moments_"]
    assert moments.keys() == {"task", "generator"}
    steps = {name: int(of["step"]) for name, of in moments["task"].items()}
    assert steps["heads.0.weight"] == steps["backbone.1.weight"] == 2 * steps["heads.1.weight"], "replay trains head 0"
    assert "moments_" not in ended["new"].state()
    assert not same(Snapshot.of(ended["kept"]).net, Snapshot.of(ended["new"]).net)


def test_moments_are_kept_only_where_a_task_is_trained_once() -> None:
    with pytest.raises(UserError, match=r"training\.optimizer_state: kept needs one training .* selection\.enabled"):
        validate({"training": {"optimizer_state": "kept"}, "methods": {"ewc": {}}}, "params.yaml")


def test_iterations_are_as_many_steps_whatever_the_epochs() -> None:
    """More than the epochs have, fewer than one, and with the schedule that stops early: never more."""
    for wanted in (1, 2, 3, 4, 11):
        learner = attach(Finetune(), mlp(), batch_size=8, epochs=1, iterations=wanted, schedule="constant")
        assert fit(learner, DATA, KEY, learning_rate=0.05).steps == wanted
    learner = attach(Finetune(), mlp(), batch_size=8, epochs=1, iterations=11)
    assert fit(learner, DATA, KEY, learning_rate=0.0001).steps <= 11


def test_a_training_of_its_own_keeps_its_epochs() -> None:
    learner = attach(Finetune(), mlp(), batch_size=8, iterations=11, schedule="constant")
    assert fit(learner, DATA, KEY, learning_rate=0.05, epochs=2).steps == 6


def test_all_tasks_at_once_take_as_many_steps_as_one_after_the_other() -> None:
    training = {"epochs": 2, "batch_size": 5, "learning_rate": 0.05, "iterations": 4, "schedule": "constant"}
    for method, steps in (("finetune", 4), ("joint", 12)):
        learner = Learner(params_for(method, model={"name": "small"}, training=training), method, 0, images(3), CPU)
        learner.open(learner.experiences[0])
        assert learner.train("learn", 0, 0.05, {}, plain=False).steps == steps


def test_a_stream_keeps_its_learning_rate() -> None:
    """A rate that fell within each task would tell where the tasks end."""
    training = {"batch_size": 5, "learning_rate": 0.05, "schedule": "cosine"}
    stream = {"name": "class", "online": True, "batch_size": 5}
    off = {"enabled": False}
    params = params_for("finetune", model={"name": "small"}, training=training, scenario=stream, selection=off)
    ended = []
    for schedule in ("cosine", "constant"):
        given = params.model_copy(update={"training": params.training.model_copy(update={"schedule": schedule})})
        learner = Learner(given, "finetune", 0, images(2), CPU)
        learner.open(learner.experiences[0])
        learner.train("learn", 0, 0.05, {}, plain=False)
        ended.append([p.detach().clone() for p in learner.method.net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ended, strict=True))


@pytest.mark.parametrize("scenario", ["task", "domain"])
def test_the_last_step_is_kept_where_the_schedule_is_planned(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation data are looked at once, at the end."""
    training = {"epochs": 3, "batch_size": 5, "learning_rate": 0.05, "schedule": "constant"}
    params = params_for("finetune", model={"name": "small"}, training=training, scenario={"name": scenario})
    learner = Learner(params, "finetune", 0, images(1), CPU)
    learner.open(learner.experiences[0])
    monkeypatch.setattr("cl.train.accuracy", lambda *given, **named: pytest.fail("validation data in training"))
    outcome = learner.train("learn", 0, 0.05, {}, plain=False)
    assert (outcome.epochs, outcome.steps) == (3, 9)
    assert 0 < outcome.accuracy <= 1


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"betas": [0.9, 0.99]}, r"betas: are for adam and adamw; set training.optimizer=adam"),
        ({"optimizer": "adam", "betas": [0.9]}, "betas"),
        ({"milestones": [0.1]}, r"milestones: is for the schedule step, not for plateau"),
        ({"schedule": "step", "milestones": [0.8, 0.5]}, "milestones.*the smallest first"),
        ({"optimizer": "lion"}, "optimizer.*sgd"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_settings_that_cannot_be_are_refused(training: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        validate({"training": training, "methods": {"ewc": {}}}, "params.yaml")


def test_records_without_the_younger_keys_stay_equal() -> None:
    assert set(Training().model_dump(mode="json")) == {
        "epochs", "batch_size", "learning_rate", "momentum", "weight_decay", "precision", "augmentation", "patience",
    }  # fmt: skip
    assert Training(iterations=3).model_dump(mode="json")["iterations"] == 3
    assert "width" not in Model(name="resnet18").model_dump(mode="json")
    assert Training.model_validate(Training(schedule="cosine").model_dump(mode="json")).schedule == "cosine"


def test_hat_is_refused_with_decay_apart_from_the_gradient() -> None:
    tree = {"methods": {"hat": {}}, "training": {"optimizer": "adamw", "weight_decay": 0.1}}
    with pytest.raises(UserError, match=r"hat corrects weight decay in the gradient.*training\.optimizer=adam"):
        checked(validate(tree, "params.yaml"))
    checked(validate({**tree, "training": {"optimizer": "adamw"}}, "params.yaml"))


def test_samples_by_class() -> None:
    """Two classes a task, three tasks: 4 a class are 8 a task, 24 in all, and in a common head 8."""
    for method, scenario, knobs in (
        ("er", "task", {"memory_budget": 24}),
        ("er", "domain", {"memory_budget": 8}),
        ("gem", "task", {"memory_per_task": 8}),
        ("icarl", "class", {"memory_budget": 24}),
    ):
        given = params_for(method, scenario={"name": scenario}).model_dump() | {"memory_budget": "4 a class"}
        params = checked(validate(given, "params.yaml"))
        learner = Learner(params, method, 0, images(3), CPU)
        assert {name: learner.knobs[name] for name in knobs} == knobs, (method, scenario)
    with pytest.raises(UserError, match=r"memory_budget.*'13 a class'"):
        validate({"methods": {"er": {}}, "memory_budget": "13 classes"}, "params.yaml")


def test_reduced_resnet_is_gems() -> None:
    """20 channels at the start, weights counted by hand, 160 features."""
    net = build(Model(name="resnet18", width=20), (3, 32, 32), generator(0))
    convolutions = sum(p.numel() for p in net.parameters() if p.dim() == 4)
    stage = [20, 40, 80, 160]
    expected = 3 * 20 * 9 + 4 * 20 * 20 * 9
    for before, wide in itertools.pairwise(stage):
        expected += before * wide * 9 + 3 * wide * wide * 9 + before * wide
    assert convolutions == expected
    assert net.feature_size == resnet.features(20) == 160
    assert net.backbone(torch.zeros(1, 3, 32, 32)).shape == (1, 160)
    with pytest.raises(UserError, match="width: is for resnet18, not for mlp"):
        validate({"model": {"name": "mlp", "width": 20}, "methods": {"ewc": {}}}, "params.yaml")


@pytest.mark.parametrize(("rule", "conv", "linear"), [("xavier", 6 / (27 + 576), 6 / 256), ("lecun", 3 / 27, 3 / 128)])
def test_bounds_of_the_initialisation(rule: Any, conv: float, linear: float) -> None:
    """The first convolution of `small` has 3 x 9 inputs and 64 x 9 outputs a kernel, its last layer 128 and 128."""
    net = build(Model(name="small", initialisation=rule), (3, 32, 32), generator(0))
    first, last = net.backbone[0], list(net.backbone)[-2]
    for layer, square in ((first, conv), (last, linear)):
        bound = square**0.5
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert not bool(layer.bias.any())
    assert "initialisation" not in Model().model_dump()
    assert Model(initialisation=rule).model_dump()["initialisation"] == rule
