"""Encoder based lifelong learning: LwF, and what an old task's encoder sees of the features may not move.

Rannen Triki et al., Encoder based lifelong learning, ICCV 2017, equations 2, 4 and 5.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cl.data import Task, TaskIds
from cl.knob import knob, shrink
from cl.method import ALL, Method
from cl.nets import MultiHead, drawn_linear
from cl.ops import Tensors, distillation, snapshot
from cl.params import Augmentation, Patience
from cl.trainable import Trainable


class EBLL(Method):
    """L = CE + lambda sum_{s<t} D(student head s, teacher head s) + alpha_e sum_{s<t} MSE(code_s(F), code_s(F*)).

    F are the features of the student, F* of the teacher; code_s is the encoder of an undercomplete autoencoder that
    learned, when task s ended, to keep what task s needs of them. Where tasks share a softmax there is one D for all of
    them, as in `LwF`.
    """

    needs_shared_layers = True
    scenarios = ALL

    strength: float = knob(10.0, decay=shrink, range=(0, 1e9), help="lambda of the distillation")
    code_strength: float = knob(1.0, decay=shrink, range=(0, 1e9), help="alpha_e of the codes")
    temperature: float = knob(2.0, range=(1e-3, 1e3), help="T of the softened distributions")
    code_sizes: list[int] = knob([100, 300], range=(1, 1e6), help="units of the code, tried in turn")
    reconstruction: list[float] = knob([0.1, 0.01], range=(0, 1e6), help="weights of the autoencoder's error, tried")
    code_learning_rate: float = knob(0.01, range=(1e-9, 1e3), help="learning rate of the autoencoder's Adadelta")
    code_epochs: int = knob(50, range=(1, 1e6), help="most epochs of the autoencoder's training")

    encoders_: list[Tensors] | None = None
    """Per old task: `weight` (code, features) and `bias` (code,)."""
    code_accuracy_: list[float] | None = None
    """Per old task: validation accuracy in [0, 1] of its classifier on the reconstructed features."""
    _teacher: Tensors | None = None

    def begin_task(self, data: Task) -> None:
        """The teacher is the network as the last task left it."""
        self._teacher = snapshot(_Parts(self.net).state_dict()) if self.task > 0 else None

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """Cross-entropy on the new task, distillation on every old head, and codes held where the teacher's are."""
        if self._teacher is None or (self.strength == 0 and self.code_strength == 0):
            return super().loss(x, y, t)
        parts = _Parts(self.net)
        with torch.no_grad(), self.net.at_rest():
            old_features, teacher = functional_call(parts, self._teacher, (x,))
        features, student = parts(x)
        old, new = self.net.groups(self.task), self.net.groups(self.task + 1)[-1]
        kept = [distillation(student[:, group], teacher[:, group], self.temperature) for group in old]
        loss = F.cross_entropy(student[:, new], self.net.label(y, t)) + self.strength * torch.stack(kept).sum()
        if self.code_strength == 0:
            return loss
        held = [F.mse_loss(code(features, e), code(old_features, e)) for e in self.encoders_ or []]
        return loss + self.code_strength * torch.stack(held).sum()

    def end_task(self, data: Task) -> None:
        """Train an autoencoder of each size and weight, and keep the one that serves the task best."""
        self.net.eval()
        front, _ = self.net.parts()
        with torch.no_grad():
            seen = {
                name: getattr(data, name).mapped(front, self.training.batch_size) for name in ("train", "validation")
            }
        features = dataclasses.replace(data, **seen)
        best, best_accuracy = None, -1.0
        for size, weight in itertools.product(self.code_sizes, self.reconstruction):
            net = copy.deepcopy(self.net).requires_grad_(False)
            _, back = net.parts()
            coder = Coder(features.train.images.shape[1], size, self.rng(f"autoencoder {size} {weight}"))
            net.backbone = back.of([coder.to(features.train.images.device), *back])
            outcome = self.fit(
                features,
                f"autoencoder {size} {weight}",
                _Autoencoder(net, weight),
                learning_rate=self.code_learning_rate,
                epochs=self.code_epochs,
            )
            if outcome.accuracy > best_accuracy:
                best, best_accuracy = coder, outcome.accuracy
        assert best is not None
        self.encoders_ = [*(self.encoders_ or []), snapshot(dict(best.encoder.named_parameters()))]
        self.code_accuracy_ = [*(self.code_accuracy_ or []), best_accuracy]


def code(features: Tensor, encoder: Tensors) -> Tensor:
    """sigmoid(W f + b): features (N, F) to codes (N, units)."""
    return torch.sigmoid(F.linear(features, encoder["weight"], encoder["bias"]))


class Coder(nn.Module):
    """features (N, F) -> their reconstruction from `size` units, (N, F)."""

    def __init__(self, features: int, size: int, draw: torch.Generator) -> None:
        super().__init__()
        self.encoder = drawn_linear(features, size, draw)
        self.decoder = drawn_linear(size, features, draw)

    def forward(self, features: Tensor) -> Tensor:
        reconstruction: Tensor = self.decoder(code(features, dict(self.encoder.named_parameters())))
        return reconstruction


class _Autoencoder(Trainable):
    """CE of the task's classifier on the reconstructed features + alpha MSE(reconstruction, features) (eq. 2)."""

    patience = Patience(drop_after=10**6, stop_after=5)  # no drop, as in the survey's code

    net: MultiHead
    reconstruction: float
    """alpha"""

    def __init__(self, net: MultiHead, reconstruction: float) -> None:
        self.net, self.reconstruction = net, reconstruction

    @property
    def augmentation(self) -> Augmentation:
        """None: features are no pictures."""
        return Augmentation()

    def optimizer(self, parameters: list[Tensor], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adadelta(parameters, lr=learning_rate, foreach=True)

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        rebuilt = self.net.backbone[0](x)
        error = F.mse_loss(rebuilt, x)
        rest = self.net.backbone.of(list(self.net.backbone)[1:])
        logits = self.net.logits(rest(rebuilt), self.net.scope(t))
        return F.cross_entropy(logits, self.net.label(y, t)) + self.reconstruction * error


class _Parts(nn.Module):
    """x -> (features, logits of all heads side by side)."""

    def __init__(self, net: MultiHead) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        front, back = self.net.parts()
        features = front(x)
        return features, self.net.logits(back(features))
