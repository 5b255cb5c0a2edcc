"""Deep generative replay: a generator learns to draw images like those of old tasks, and the old network labels them.

Shin et al., Continual learning with deep generative replay, NIPS 2017; the generator as in van de Ven and Tolias,
Three scenarios for continual learning, 2019.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cl.data import Split, Task, TaskIds
from cl.errors import UserError
from cl.knob import knob, shrink
from cl.method import ALL, Method
from cl.nets import drawn_linear
from cl.ops import Tensors, scaled_distillation, snapshot
from cl.trainable import Trainable


class DGR(Method):
    """L = (1 - w) CE(new images) + w mean_g CE(drawn images among group g), w = rho (1 - 1/t) while learning task t.

    The old network labels a drawn image in each group. The groups are the old heads, or all classes as one.
    """

    scenarios = ALL

    strength: float = knob(1.0, decay=shrink, range=(0, 1), help="rho: share of the published weight of replay")
    distil: bool = knob(False, help="the old network's softened answers as targets, instead of its decision")
    temperature: float = knob(2.0, range=(1e-3, 1e3), help="T of the softened answers")
    replay_batch: int = knob(0, range=(0, 1e6), help="images drawn in a step; 0: as many as new images")
    generator_units: int = knob(200, range=(1, 1e6), help="units of each of the two hidden layers, on both sides")
    generator_code: int = knob(20, range=(1, 1e6), help="numbers an image is drawn from")
    generator_epochs: int = knob(20, range=(1, 1e6), help="epochs of the generator's training on each task")
    generator_learning_rate: float = knob(0.003, range=(1e-9, 1), help="learning rate of the generator's Adam")

    generator_: Tensors | None = None
    """The tensors of the generator as the last task left it."""
    _generator: VAE | None = None
    _solver: Tensors | None = None

    def begin_task(self, data: Task) -> None:
        """Freeze the generator and the network as the last task left them."""
        if self.generator_ is not None:
            self._generator = self.vae(data.train).requires_grad_(False)
            self._solver = snapshot(self.net.state_dict())

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        """The losses on new and on drawn images, weighed as if all tasks so far had equally many samples."""
        if self._generator is None or self._solver is None or self.strength == 0:
            return super().loss(x, y, t)
        drawn = self._generator(self._generator.codes(self.replay_batch or len(x), self.rng("drawn images", x.device)))
        with torch.no_grad(), self.net.at_rest():
            answers = functional_call(self.net, self._solver, (drawn,))
        features = self.net.backbone(torch.cat([x, drawn]))
        new = F.cross_entropy(self.net.logits(features[: len(x)], self.net.scope(t)), self.net.label(y, t))
        old = self.net.logits(features[len(x) :])
        # In class-incremental learning a drawn image must not be taken for a new class either.
        groups = zip(self.net.groups(self.task), self.net.groups(self.task + 1), strict=False)
        replayed = [self.apart(old[:, now], answers[:, before]) for before, now in groups]
        weight = self.strength * (1 - current(self.task))
        return (1 - weight) * new + weight * torch.stack(replayed).mean()

    def apart(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of a group of logits (N, columns) on drawn images; the student may have more, of new classes."""
        if not self.distil:
            return F.cross_entropy(student, teacher.argmax(1))
        return scaled_distillation(student, teacher, self.temperature)

    def end_task(self, data: Task) -> None:
        """The generator goes on learning: from this task's images, and from what it drew before."""
        generator = self.vae(data.train)
        generator.reach(data.train)
        outcome = self.fit(
            data,
            "generator",
            _Generation(generator, self.generator_),
            learning_rate=self.generator_learning_rate,
            epochs=self.generator_epochs,
            keep="last",
        )
        if outcome.diverged:
            raise UserError(
                f"dgr: the generator's training diverged on task {self.task + 1}; lower "
                "methods.dgr.generator_learning_rate"
            )
        self.generator_ = snapshot(generator.state_dict())

    def vae(self, split: Split) -> VAE:
        """The generator as it is, or a fresh one, for images of this shape."""
        shape = split.normalise(split.images[:1]).shape[1:]
        vae = VAE(shape, self.generator_units, self.generator_code, self.rng("generator"))
        if self.generator_ is not None:
            vae.load_state_dict(self.generator_)
        return vae.to(split.normalise.device)


class VAE(nn.Module):
    """Variational autoencoder of images of any shape, flattened; two hidden layers on either side.

    Turns codes (N, numbers), drawn from a standard normal, into images (N, C, H, W) as the network takes them.
    """

    black: Tensor
    span: Tensor

    def __init__(self, shape: Sequence[int], units: int, code: int, draw: torch.Generator) -> None:
        super().__init__()
        pixels = math.prod(shape)
        self.code = code
        self.encoder = nn.Sequential(nn.Flatten(), *_layers([pixels, units, units, 2 * code], draw))
        self.decoder = nn.Sequential(*_layers([code, units, units, pixels], draw), nn.Unflatten(1, tuple(shape)))
        self.register_buffer("black", torch.zeros(1, shape[0], 1, 1))
        self.register_buffer("span", torch.zeros(1, shape[0], 1, 1))

    def reach(self, split: Split) -> None:
        """Let pixels range from black to the brightest one of these images, or of earlier ones if brighter.

        Features may lie below 0: then they range from the least of them.
        """
        top = split.images.max().clamp(min=1).expand(1, self.black.shape[1], 1, 1)
        before, low = self.black, split.images.min().clamp(max=0).expand_as(top)
        self.black = torch.minimum(before, split.normalise.numbers(low))
        reached = torch.where(self.span > 0, self.span + (before - self.black), self.span)
        self.span = torch.maximum(reached, split.normalise.numbers(top) - self.black)

    def codes(self, count: int, draw: torch.Generator) -> Tensor:
        """`count` codes from the distribution that images are drawn from; `draw` is of the device."""
        return torch.randn(count, self.code, generator=draw, device=self.black.device)

    def forward(self, codes: Tensor) -> Tensor:
        """The mean image of each code."""
        images: Tensor = torch.sigmoid(self.decoder(codes)) * self.span + self.black
        return images

    def bound(self, x: Tensor, noise: Tensor) -> Tensor:
        """Mean upper bound on -log p(x) of images (N, C, H, W) in nats a pixel; noise (N, numbers) is standard normal.

        Pixels in [0, 1] are taken as probabilities (cross-entropy).
        """
        mean, log_variance = self.encoder(x).chunk(2, 1)
        rebuilt = self.decoder(mean + (log_variance / 2).exp() * noise)
        share = ((x - self.black) / self.span).clamp(0, 1)
        error = F.binary_cross_entropy_with_logits(rebuilt, share, reduction="none").flatten(1)
        return (error.sum(1) + divergence(mean, log_variance)).mean() / error.shape[1]


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) of each row, (N,): -1/2 sum(1 + log s^2 - mu^2 - s^2)."""
    return -(1 + log_variance - mean.square() - log_variance.exp()).sum(1) / 2


def current(task: int) -> float:
    """1/t: the share of the task being learned, which is the t-th, in all tasks so far; `task` is its index."""
    return 1 / (task + 1)


def _layers(sizes: Sequence[int], draw: torch.Generator) -> list[nn.Module]:
    """Linear layers with ReLU between them, uniform in +-1/sqrt(inputs)."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [drawn_linear(inputs, outputs, draw), nn.ReLU()]
    return layers[:-1]


class _Generation(Trainable):
    """L = (1/t) E(the task's images) + (1 - 1/t) E(images that the generator drew before this task), E its bound."""

    net: VAE
    before: Tensors | None
    """The generator as it was before this task; None in the first."""

    def __init__(self, generator: VAE, before: Tensors | None) -> None:
        self.net, self.before = generator, before

    def optimizer(self, parameters: list[Tensor], learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=learning_rate, foreach=True)

    def loss(self, x: Tensor, y: Tensor, t: TaskIds) -> Tensor:
        generator, noise = self.net, self.rng("noise of the codes", x.device)
        bound = generator.bound(x, generator.codes(len(x), noise))
        if self.before is None:
            return bound
        with torch.no_grad():
            codes = generator.codes(len(x), self.rng("images relearned", x.device))
            drawn = functional_call(generator, self.before, (codes,))
        part = current(self.task)
        return part * bound + (1 - part) * generator.bound(drawn, generator.codes(len(drawn), noise))
