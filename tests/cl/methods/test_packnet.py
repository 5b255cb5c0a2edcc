"""PackNet. Golden values by hand: which of a few weights are the smallest share of those a task owns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cl.learner import Learner
from cl.methods.packnet import PackNet, to_prune
from tests.cl.small import attach, learner_for, linear_net, output, params_for, run, run_for, same, toy_task
from tests.cl.tiny import NETS, ever_better, learner_of, narrow

TENTHS = torch.arange(1, 11) / 10


def survivors(share: float, weight: Tensor = TENTHS) -> list[float]:
    mine = torch.ones_like(weight, dtype=torch.bool)
    return [round(value, 3) for value in weight[~to_prune(weight, mine, share)].tolist()]


def check_old_logits(learner: Learner, logits: list[Tensor]) -> None:
    """Those of every earlier task are what they were, bit for bit."""
    for old, expected in enumerate(logits):
        found = learner.method.predict(learner.experiences[old].test.x, old)
        assert found.numpy().tobytes() == expected.numpy().tobytes(), (len(logits), old)


def test_pruning_keeps_the_largest() -> None:
    assert survivors(0.9) == [1.0]
    assert len(survivors(0.45)) == 6, "round(4.5) is 4"
    assert survivors(0.9, -TENTHS) == [-1.0]
    assert survivors(1.0) == []
    assert len(survivors(0.0)) == len(survivors(0.04)) == 10, "nothing to prune is no error"


def test_pruning_looks_at_this_tasks_weights_alone() -> None:
    weight = torch.tensor([0.01, 0.02, 0.5, 0.6, 0.7, 0.8])
    mine = torch.tensor([False, False, True, True, True, True])
    assert to_prune(weight, mine, 0.5).tolist() == [False, False, True, True, False, False]
    assert not bool(to_prune(weight, torch.zeros_like(mine), 0.5).any())


def test_a_tenth_of_what_is_left_goes_to_each_task() -> None:
    net = linear_net(torch.zeros(40, 25), heads=10)
    method = PackNet(retrain_epochs=0)
    weight = net.backbone[1].weight.data
    draw = torch.Generator().manual_seed(0)
    data = toy_task([[1] * 25], [0])
    owned, taken = [], torch.zeros(40, 25, dtype=torch.bool)
    for task in range(10):
        attach(method, net, task)
        method.begin_task(data)
        mine = method.owner_["1.weight"] == task + 1
        assert torch.equal(mine, ~taken), "the free weights become this task's"
        weight[mine] = torch.randn(int(mine.sum()), generator=draw)
        before = weight.clone()
        method.end_task(data)
        mine = method.owner_["1.weight"] == task + 1
        assert not bool((mine & taken).any())
        taken |= mine
        owned.append(int(mine.sum()))
        assert not bool(weight[~taken].any()), "free weights are zero"
        assert torch.equal(weight[taken], before[taken])
    assert owned == [100, 90, 81, 73, 66, 59, 53, 48, 43, 39]
    assert int(taken.sum()) == sum(owned)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_old_logits_never_change(prepared: dict[int, Path], weight_decay: float, momentum: float) -> None:
    training = {"weight_decay": weight_decay, "momentum": momentum}
    learner = learner_for(params_for("packnet", selection={"enabled": False}, training=training), prepared[3])
    method: PackNet = learner.method  # type: ignore[assignment]
    logits: list[Tensor] = []
    previous: Tensor | None = None
    for task in learner.experiences:
        learner.open(task)
        trained = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
        learner.consolidate("learn", 0, 0.1, learner.knobs, trained)
        method.net.eval()
        with torch.no_grad():
            check_old_logits(learner, logits)
            logits.append(method.predict(task.test.x, task.index))
        weight, owner = method.shared["1.weight"].detach(), method.owner_["1.weight"]
        assert not bool(weight[owner == 0].any())
        if previous is not None:
            old_weights = (owner > 0) & (owner <= task.index)
            assert torch.equal(weight[old_weights], previous[old_weights])
            assert bool((owner == task.index + 1).any())
        previous = weight.clone()


def test_training_moves_this_tasks_weights_and_its_head(prepared: dict[int, Path]) -> None:
    learner = learner_for(params_for("packnet", selection={"enabled": False}), prepared[2])
    method: PackNet = learner.method  # type: ignore[assignment]
    for task in learner.experiences:
        learner.open(task)
        before = {name: p.detach().clone() for name, p in method.net.named_parameters()}
        trained = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
        moved = {name: p.detach() != before[name] for name, p in method.net.named_parameters()}
        mine = method.owner_["1.weight"] == task.index + 1
        seen = learner.experiences[0].train.images.flatten(1).bool().any(0)
        assert not bool(moved["backbone.1.weight"][~mine].any())
        if task.index == 0:
            assert bool(moved["backbone.1.weight"][:, seen].any(0).all())
            assert bool(moved["backbone.1.bias"].any())
        else:
            assert bool(moved["backbone.1.weight"].any())
            assert not bool(moved["backbone.1.bias"].any()), "biases stay as the first task left them"
            assert not bool(moved["heads.0.weight"].any())
        assert bool(moved[f"heads.{task.index}.weight"].any())
        biases = method.shared["1.bias"].detach().clone()
        learner.consolidate("learn", 0, 0.1, learner.knobs, trained)
        assert torch.equal(method.shared["1.bias"], biases), "retraining does not touch the biases"


def test_retraining_may_not_make_it_worse(prepared: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_for(params_for("packnet", selection={"enabled": False}), prepared[2])
    learner.open(learner.experiences[0])
    trained = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
    settings: dict[str, object] = {}
    inner = PackNet.end_task

    def end_task(self: PackNet, data: object) -> None:
        fit = self.fit

        def watched(data: object, purpose: str, **given: object) -> object:
            settings.update(given)
            return fit(data, purpose, **given)

        self.fit = watched  # type: ignore[assignment]
        inner(self, data)  # type: ignore[arg-type]

    monkeypatch.setattr(PackNet, "end_task", end_task)
    learner.consolidate("learn", 0, 0.1, learner.knobs, trained)
    assert settings == {"learning_rate": pytest.approx(0.01), "epochs": 10, "may_stay": True}


def test_forgetting_is_exactly_zero(prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path, prepared[3])
    run(params_for("packnet"), out)
    assert json.loads((out / "results/packnet/seed-0.json").read_bytes())["average_forgetting"] == 0.0


def test_pruning_less_after_a_failure_starts_from_the_same_training(prepared: dict[int, Path], tmp_path: Path) -> None:
    """The attempts differ in what is pruned; none of them trains the task again."""
    params = params_for("packnet", selection={"drop_margin": 0.0, "first_task_learning_rates": [0.1]})
    learner = learner_for(params, prepared[2])
    unit = run_for(params, learner, tmp_path)
    trainings: list[str] = []
    shares: list[float] = []
    train, consolidate = Learner.train, Learner.consolidate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Learner, "train", lambda self, phase, *a, **k: (trainings.append(phase), train(self, phase, *a, **k))[1]
        )
        patch.setattr(
            Learner,
            "consolidate",
            lambda self, *given: replace(
                (shares.append(given[3]["prune"]), consolidate(self, *given))[1], accuracy=0.0
            ),
        )
        unit.run()
    assert set(trainings) == {"plasticity"}
    assert shares == [0.9, 0.45, 0.225, 0.1125, 0.05625, 0.028125], "three failures a task, carried over"


@pytest.mark.parametrize(("weight_decay", "precision"), [(0.0, "bfloat16"), (0.01, "float32")])
@pytest.mark.parametrize("name", NETS)
def test_old_logits_never_change_with_batch_norm(
    name: str, weight_decay: float, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each task has a batch normalisation of its own, which trains, after the first pruning too."""
    narrow(monkeypatch)
    ever_better(monkeypatch)
    learner = learner_of("packnet", name, tasks=3, weight_decay=weight_decay, precision=precision)
    learner.knobs = {"prune": 0.5, "retrain_epochs": 2}
    method: PackNet = learner.method  # type: ignore[assignment]
    logits: list[Tensor] = []
    for task in learner.experiences:
        learner.open(task)
        before = {key: tensor.clone() for key, tensor in method.net.backbone.state_dict().items()}
        trained = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
        after = {key: tensor.clone() for key, tensor in method.net.backbone.state_dict().items()}
        learner.consolidate("learn", 0, 0.1, learner.knobs, trained)
        own = method.norms_[task.index]
        assert len(method.norms_) == task.index + 1
        assert same(own, {key: method.net.backbone.state_dict()[key] for key in own})
        assert not any(torch.equal(before[key], after[key]) for key in own), "scales and shifts of later tasks train"
        assert any(not torch.equal(own[key], after[key]) for key in own), "retraining trains them on"
        for key in method.shared.keys() - method.owner_.keys() - own.keys():
            assert torch.equal(before[key], after[key]) == (task.index > 0), "biases do not"
        method.net.eval()
        with torch.no_grad():
            check_old_logits(learner, logits)
            logits.append(method.predict(task.test.x, task.index))
            assert float(logits[-1].std(0).min()) > 0


def test_without_batch_norm_nothing_of_it_is_kept() -> None:
    method = PackNet(retrain_epochs=0)
    attach(method, linear_net(torch.ones(3, 2)))
    data = toy_task([[1, 2]], [0])
    method.begin_task(data)
    method.end_task(data)
    assert set(method.state()) == {"owner_", "pruned_"}
