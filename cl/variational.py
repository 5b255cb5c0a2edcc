"""Mean-field variational inference over a network's weights: layers, divergence, and the method built on them.

Every weight is a Gaussian of its own, N(m, exp(v)). The parameters that a plain network has are the means m, under
their usual names; beside each stands the logarithm v of its variance. Without noise the layers are plain layers at the
means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cl.data import Task, TaskIds
from cl.descent import Optimizer
from cl.errors import UserError
from cl.knob import knob, shrink
from cl.method import ALL, Method
from cl.nets import BatchNorm, MultiHead
from cl.nets.layers import unfilled
from cl.ops import Tensors, cross_entropy, snapshot
from cl.rng import seed_of
from cl.trainable import Trainable

SPREAD = "_log_variance"
"""What the name of a weight's log variance ends in."""


class MeanField(nn.Module):
    """A layer of Gaussian weights, with the local reparameterisation (Kingma et al. 2015).

    Its output is drawn rather than its weights, for each sample on its own: for inputs a the mean is a m + m_b and the
    variance a^2 exp(v) + exp(v_b).
    """

    weight: Any  # Linear and Conv2d say of what type; here they are parameters
    bias: Any
    weight_log_variance: nn.Parameter
    bias_log_variance: nn.Parameter
    noise: torch.Generator | None = None
    """On the layer's device; None: the layer answers by its means."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """What the plain layer does with its input."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """x (N, ...) as the plain layer takes it."""
        mean = self.product(x, self.weight, self.bias)
        if self.noise is None:
            return mean
        variance = self.product(x.square(), self.weight_log_variance.exp(), self.bias_log_variance.exp())
        drawn = torch.randn(mean.shape, generator=self.noise, device=mean.device, dtype=mean.dtype)
        return mean + variance.sqrt() * drawn


class MeanFieldLinear(MeanField, nn.Linear):
    """A linear layer of Gaussian weights."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x W^T + b."""
        return F.linear(x, weight, bias)


class MeanFieldConv(MeanField, nn.Conv2d):
    """A convolution of Gaussian weights."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The convolution of x."""
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


def spread(layer: nn.Linear | nn.Conv2d, log_variance: float) -> MeanField:
    """The layer with Gaussian weights around those it has, all of this variance."""
    made: MeanField
    if isinstance(layer, nn.Linear):
        made = unfilled(MeanFieldLinear, layer.in_features, layer.out_features)
    else:
        made = unfilled(
            MeanFieldConv,
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
        )
    assert layer.bias is not None
    made.weight, made.bias = layer.weight, layer.bias
    made.weight_log_variance = nn.Parameter(torch.full_like(layer.weight, log_variance))
    made.bias_log_variance = nn.Parameter(torch.full_like(layer.bias, log_variance))
    return made


class MeanFieldNet(MultiHead):
    """A multi-head network whose heads draw noise of their own also where they answer side by side."""

    def side_by_side(self, features: Tensor) -> Tensor:
        """As of any other network."""
        return torch.cat([head(features) for head in self.heads], 1)


@contextmanager
def noise(net: nn.Module, draw: torch.Generator | None) -> Iterator[None]:
    """Within the body every Gaussian layer draws from this generator."""
    layers = [layer for layer in net.modules() if isinstance(layer, MeanField)]
    for layer in layers:
        layer.noise = draw
    try:
        yield
    finally:
        for layer in layers:
            layer.noise = None


def divergence(m: Tensor, v: Tensor, m0: Tensor | float = 0.0, v0: Tensor | float = 0.0) -> Tensor:
    """KL(N(m, exp v) || N(m0, exp v0)), summed over the weights; the standard normal is what is not given."""
    # Written so that a posterior which is the prior has a gradient of exactly 0: Adam would make steps of the smallest.
    away = (m - m0).square() * (torch.exp(-v0) if isinstance(v0, Tensor) else math.exp(-v0))
    return ((v0 - v + (v - v0).exp() + away - 1) / 2).sum()


def gaussian(parameters: Mapping[str, Tensor]) -> list[str]:
    """The names of the weights that have a variance."""
    return [name for name in parameters if name + SPREAD in parameters]


class Posterior(Trainable):
    """L = CE at weights drawn from q + beta KL(q || prior) / N."""

    net: MultiHead
    beta: float
    mean_rate: float
    variance_rate: float
    train_samples: int

    prior_: Tensors | None = None
    """Means and log variances by name, heads included; a weight that is not in it has a standard normal prior."""
    count_: int = 0
    """N: samples that q is learned from."""

    def optimizer(self, parameters: list[Tensor], learning_rate: float) -> Optimizer:
        """Adam, as in the paper."""
        names = {id(p): name for name, p in self.net.named_parameters()}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if names[id(p)].endswith(SPREAD) == spreads], "lr": rate * learning_rate}
            for spreads, rate in ((False, self.mean_rate), (True, self.variance_rate))
        ]
        return torch.optim.Adam(groups, foreach=True)

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """The mean over the draws of the cross-entropy."""
        seed = int(torch.randint(2**62, (), generator=self.rng("noise")))
        with noise(self.net, torch.Generator(x.device).manual_seed(seed)):
            draws = [cross_entropy(self.net, x, y, t) for _ in range(self.train_samples)]
        return torch.stack(draws).mean()

    def penalty(self) -> Tensor | None:
        """beta KL(q || prior) / N."""
        return self.beta / self.count_ * self.divergence() if self.beta else None

    def divergence(self) -> Tensor:
        """KL(q || prior) in nats; heads of finished tasks, whose posterior is their prior, add 0."""
        q, prior = dict(self.net.named_parameters()), self.prior_ or {}
        parts = [
            divergence(q[name], q[name + SPREAD], prior.get(name, 0.0), prior.get(name + SPREAD, 0.0))
            for name in gaussian(q)
        ]
        return torch.stack(parts).sum()


class Variational(Posterior, Method):
    """Learns q task by task, the prior being q as the last task left it.

    The first prior is a standard normal, as is that of every new head. The first task is learned without noise and
    prior (`prior_` is None): from random means mean-field learning would stall.
    """

    takes_layers_apart = True
    exports = "torch"  # its networks are drawn within the graph
    scenarios = ALL
    shares_first_task = False
    judged_by = "inference"

    beta: float = knob(1.0, decay=shrink, range=(0, 1e9), help="weight of the divergence from the prior")
    log_variance: float = knob(-6.0, range=(-60, 2), help="log of the variance that new weights begin with")
    mean_rate: float = knob(0.05, range=(1e-9, 1e3), help="Adam's rate for means, times the learning rate")
    variance_rate: float = knob(0.2, range=(1e-9, 1e3), help="Adam's rate for log variances, times the learning rate")
    train_samples: int = knob(1, range=(1, 1e4), help="draws of the noise in a step")
    test_samples: int = knob(20, range=(1, 1e6), help="networks drawn from q that answer together")

    def wrap(self, net: MultiHead) -> MultiHead:
        """Gaussian weights in every layer; raises `UserError` where the network has other layers that learn."""
        if any(isinstance(module, BatchNorm) for module in net.backbone.modules()):
            raise UserError(
                "model.name, model.batch_norm: no distribution is kept of what batch normalisation learns, so vcl "
                "takes mlp, alexnet and the VGG nets without it, and not resnet18"
            )
        return MeanFieldNet(net.backbone.of(self._spread(layer) for layer in net.backbone), net.feature_size)

    def _spread(self, layer: nn.Module) -> nn.Module:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            return spread(layer, self.log_variance)
        assert not list(layer.parameters())
        return layer

    def grow(self, net: MultiHead, task: int, draw: torch.Generator) -> None:
        """Gaussian weights in the head, where it is a new one."""
        if not isinstance(net.heads[-1], MeanField):
            net.heads[-1] = self._spread(net.heads[-1])

    def begin_task(self, data: Task) -> None:
        """N."""
        self.count_ = len(data.train)

    def optimizer(self, parameters: list[Tensor], learning_rate: float) -> Optimizer:
        """Adam where q is learned, else that of all methods."""
        learns = Posterior if self.prior_ is not None else Method
        return learns.optimizer(self, parameters, learning_rate)

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """The loss of q if q is learned, otherwise plain cross-entropy."""
        return super().loss(x, y, t) if self.prior_ is not None else Method.loss(self, x, y, t)

    def penalty(self) -> Tensor | None:
        """None while q is not learned."""
        return super().penalty() if self.prior_ is not None else None

    def end_task(self, data: Task) -> None:
        """Train q further: validation accuracy does not show how far the variances have come. q is the next prior."""
        self.prior_ = self.prior_ or {}
        self.fit(data, "settling", learning_rate=self.learning_rate, keep="last")
        self.prior_ = snapshot(dict(self.net.named_parameters()))

    def predict(self, x: Tensor, t: int | None = None) -> Tensor:
        """Mean of the probabilities that networks drawn from q give; the same draws for every image and every call."""
        return self.answer(dict(self.net.named_parameters()), x, t)

    def answer(self, q: Mapping[str, Tensor], x: Tensor, t: int | None) -> Tensor:
        """The same, for any means and log variances by name."""
        draw = torch.Generator(x.device).manual_seed(seed_of("networks that answer"))
        answers = []
        for _ in range(self.test_samples):
            drawn = {
                name: q[name]
                + (q[name + SPREAD] / 2).exp() * torch.randn(q[name].shape, generator=draw, device=x.device)
                for name in gaussian(q)
            }
            answers.append(functional_call(self.net, drawn, (x, t)).softmax(1))
        return torch.stack(answers).mean(0)
