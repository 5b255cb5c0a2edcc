"""The loop: schedule, best epoch, order of the hooks. Epochs counted by hand from the rule that `fit` states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cl import train
from cl.descent import Descent
from cl.method import Method
from cl.methods.finetune import Finetune
from cl.params import Patience
from cl.register import method_class
from cl.train import Fit, fit
from tests.cl.small import attach, mlp, same, toy_task

DATA = toy_task([[1, 0, 0, 2], [0, 1, 3, 0], [2, 2, 0, 1], [1, 1, 1, 0]], [0, 1, 2, 0])
KEY = (0, 0, "test", 0)


class Schedule:
    """What a training did while its validation accuracies were scripted; the last of them goes on for ever."""

    def __init__(self, patch: pytest.MonkeyPatch, script: list[float]) -> None:
        self.rates: list[float] = []
        self.weights: list[Tensor] = []
        self._script = script
        step = Descent.step
        outer = self

        def stepping(optimizer: Descent) -> Any:
            outer.rates.append(optimizer.param_groups[0]["lr"])
            return step(optimizer)

        def accuracy(method: Method, split: Any, *, inference: bool) -> float:
            assert not inference, "the loop decides by the network in training, not by the method's inference"
            outer.weights.append(method.net.heads[0].weight.detach().clone())
            return script[min(len(outer.weights), len(script)) - 1]

        patch.setattr(Descent, "step", stepping)
        patch.setattr(train, "accuracy", accuracy)


def trained(method: Method | None = None, epochs: int = 70, **training: Any) -> tuple[Fit, Method]:
    """A training of one step an epoch."""
    learner = attach(method or Finetune(), mlp(), epochs=epochs, batch_size=8, **training)
    return fit(learner, DATA, KEY, learning_rate=0.08), learner


def test_constant_accuracy_takes_twelve_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Schedule(monkeypatch, [0.5])
    found, learner = trained()
    assert (found.accuracy, found.epochs, found.steps, found.diverged) == (0.5, 12, 12, False)
    assert seen.rates == [0.08] * 6 + [pytest.approx(0.008)] * 6
    assert torch.equal(learner.net.heads[0].weight, seen.weights[0])


def test_learning_rate_drops_again_after_an_improvement(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Schedule(monkeypatch, [0.5] * 7 + [0.6])
    found, learner = trained()
    assert found.epochs == 8 + 11
    expected = [0.08] * 6 + [0.008] * 7 + [0.0008] * 6
    assert seen.rates == pytest.approx(expected)
    assert torch.equal(learner.net.heads[0].weight, seen.weights[7])


def test_last_epoch_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Schedule(monkeypatch, [0.1, 0.2, 0.3, 0.4])
    assert trained(epochs=3)[0].epochs == len(seen.rates) == 3


@pytest.mark.parametrize("name", ["hat"])
def test_hats_patience(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the learning rate after 15 epochs without improvement, stop after 30."""

    class Patient(Finetune):
        patience = method_class(name).patience

    seen = Schedule(monkeypatch, [0.5])
    assert trained(Patient())[0].epochs == 31
    assert seen.rates == pytest.approx([0.08] * 16 + [0.04] * 15)


def test_patience_of_params(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Schedule(monkeypatch, [0.5])
    assert trained(patience=Patience(drop_after=1, factor=0.5, stop_after=2))[0].epochs == 4
    assert seen.rates == pytest.approx([0.08, 0.08, 0.04, 0.04])


def test_patience_of_the_surveys_si_takes_eleven_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    Schedule(monkeypatch, [0.5])
    assert trained(patience=Patience(stop_after=9))[0].epochs == 11


def test_best_epoch_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tie is no improvement: the first of the best epochs is kept, with the method's state of that epoch."""

    class Counting(Finetune):
        def on_step(self, x: Tensor, y: Tensor, t: Any) -> None:
            self.steps_ = getattr(self, "steps_", 0) + 1

    seen = Schedule(monkeypatch, [0.2, 0.7, 0.4, 0.7, 0.1])
    found, learner = trained(Counting(), epochs=5)
    assert found.accuracy == 0.7
    assert torch.equal(learner.net.heads[0].weight, seen.weights[1])
    assert not torch.equal(seen.weights[1], seen.weights[3])
    assert learner.state() == {"steps_": 2}


def test_reported_accuracy_is_the_models() -> None:
    found, learner = trained(epochs=30)
    assert found.accuracy == train.accuracy(learner, DATA.validation, inference=False) > 0.5


def test_no_epoch_above_zero_goes_back_to_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    start = mlp().state_dict()
    Schedule(monkeypatch, [0.0])
    found, learner = trained()
    assert (found.accuracy, found.epochs) == (0.0, 11)
    assert same(dict(learner.net.state_dict()), dict(start))


def test_model_as_it_stands_may_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    start = mlp().state_dict()
    seen = Schedule(monkeypatch, [0.6, 0.6, 0.5])
    learner = attach(Finetune(), mlp(), batch_size=8)
    found = fit(learner, DATA, KEY, learning_rate=0.08, epochs=2, may_stay=True)
    assert (found.accuracy, found.epochs, len(seen.weights)) == (0.6, 2, 3)
    assert same(dict(learner.net.state_dict()), dict(start))


class Diverging(Finetune):
    """The loss is no number from the third epoch on."""

    def loss(self, x: Tensor, y: Tensor, t: Any) -> Tensor:
        return super().loss(x, y, t) * (float("nan") if self.epoch == 2 else 1.0)


def test_divergence_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Schedule(monkeypatch, [0.3, 0.4, 0.9])
    found, learner = trained(Diverging())
    assert (found.accuracy, found.diverged) == (0.0, True), "whatever the epochs before reached"
    assert len(seen.weights) == 2
    assert len(seen.rates) == found.steps == 3
    assert torch.equal(learner.net.heads[0].weight, seen.weights[1])


def test_diverged_epoch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    Schedule(monkeypatch, [0.3, 0.4, 0.9])
    assert trained(Diverging())[0].epochs == 3


def test_model_without_numbers_is_never_the_best() -> None:
    """The loss was still finite before the step that broke the weights."""

    class Breaking(Finetune):
        def on_step(self, x: Tensor, y: Tensor, t: Any) -> None:
            for parameter in self.net.parameters():
                parameter.data.fill_(float("nan"))

    found, learner = trained(Breaking())
    assert (found.accuracy, found.diverged) == (0.0, True)
    assert all(bool(torch.isfinite(p).all()) for p in learner.net.parameters())


@pytest.mark.parametrize(("growth", "diverged"), [(0.0, False), (9e3, False), (1.1e4, True), (float("inf"), True)])
def test_a_penalty_without_bounds_is_divergence(growth: float, diverged: bool) -> None:
    """Counted from where it began: a divergence of many weights from their prior is large, and no fault."""

    class Growing(Finetune):
        def penalty(self) -> Tensor:
            height = 1e6 + (growth if self.epoch == 1 else 0.0)
            return 0 * self.net.heads[0].weight.sum() + height

    found, _ = trained(Growing(), epochs=4)
    assert (found.diverged, found.epochs) == ((True, 2) if diverged else (False, 4))


def test_hooks_come_in_order_and_see_what_they_are_promised() -> None:
    called: list[str] = []

    class Watching(Finetune):
        def batch(self, x: Tensor, y: Tensor, t: Any) -> Any:
            called.append("batch")
            return x[:1], y[:1], t

        def loss(self, x: Tensor, y: Tensor, t: Any) -> Tensor:
            called.append("loss")
            assert len(x) == len(y) == 1
            assert self.net.training
            return super().loss(x, y, t)

        def on_grad(self) -> None:
            called.append("on_grad")
            self.task_gradient_ = self.net.heads[0].weight.grad.clone()

        def penalty(self) -> Tensor:
            called.append("penalty")
            self._before = self.net.heads[0].weight.detach().clone()
            return 3 * self.net.heads[0].weight.sum()

        def on_step(self, x: Tensor, y: Tensor, t: Any) -> None:
            called.append("on_step")
            step = -0.08 * (self.task_gradient_ + 3 + 0.5 * self._before)
            assert torch.allclose(self.net.heads[0].weight, self._before + step, atol=1e-6)

    trained(Watching(), epochs=1, momentum=0.9, weight_decay=0.5)
    assert called == ["batch", "loss", "on_grad", "penalty", "on_step"]


def test_momentum_starts_anew_with_every_training() -> None:
    learner = attach(Finetune(), mlp(), epochs=1, batch_size=8, momentum=0.9)
    weight = learner.net.heads[0].weight
    movements = []
    for _ in range(2):
        learner.net.load_state_dict(mlp().state_dict())
        before = weight.detach().clone()
        fit(learner, DATA, KEY, learning_rate=0.08)
        movements.append(weight.detach() - before)
    assert bool(movements[0].any())
    assert torch.equal(*movements)


def test_order_of_samples_follows_from_the_key() -> None:
    def orders(*key: int | str) -> list[list[int]]:
        seen: list[list[int]] = []

        class Watching(Finetune):
            def batch(self, x: Tensor, y: Tensor, t: Any) -> Any:
                seen.append([int(row.flatten() @ torch.tensor([1.0, 10.0, 100.0, 1000.0])) for row in x])
                return x, y, t

        fit(attach(Watching(), mlp(), epochs=6, batch_size=3), DATA, key, learning_rate=0.01)
        return seen

    first = orders(0, 1)
    assert [len(batch) for batch in first] == [3, 1] * 6, "a short last batch is kept"
    epochs = [tuple(a + b) for a, b in zip(first[::2], first[1::2], strict=True)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len(set(epochs)) > 1, "the epochs differ in their order"
    assert orders(0, 1) == first
    assert orders(0, 2) != first


# The last epoch instead of the best.


def test_last_epoch_is_kept_and_no_validation_data_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "accuracy", lambda *args, **kwargs: pytest.fail("looked at validation data"))
    kept, by_hand = attach(Finetune(), mlp(), batch_size=2), attach(Finetune(), mlp(), batch_size=2)
    found = fit(kept, DATA, KEY, learning_rate=0.08, epochs=20, keep="last")
    assert (found.accuracy, found.epochs, found.steps) == (0.0, 20, 40)
    fit(by_hand, DATA, KEY, learning_rate=0.08, epochs=19, keep="last")
    assert not same(kept.net.state_dict(), by_hand.net.state_dict())


def test_a_last_epoch_that_is_not_finite_leaves_the_model_as_it_was() -> None:
    learner = attach(Finetune(), mlp(), batch_size=2)
    before = {name: tensor.clone() for name, tensor in learner.net.state_dict().items()}
    found = fit(learner, DATA, KEY, learning_rate=1e30, epochs=20, keep="last")
    assert found.epochs < 20
    assert same(dict(learner.net.state_dict()), before)
