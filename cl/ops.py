"""The arithmetic several methods share: losses, penalties, importances, flat vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

if TYPE_CHECKING:
    from cl.data import Split
    from cl.nets import MultiHead

Tensors: TypeAlias = dict[str, Tensor]
CHUNK_BYTES = 128 * 2**20
"""Bound on the per-sample gradients held at once, in bytes."""


def cross_entropy(net: MultiHead, x: Tensor, y: Tensor, t: int | Tensor) -> Tensor:
    """Mean cross-entropy, each sample among the classes that the network is asked about (`MultiHead.scope`)."""
    return F.cross_entropy(net(x, net.scope(t)), net.label(y, t))


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (N, M) of a (N, F) and b (M, F)."""
    if not torch.compiler.is_exporting():
        return torch.cdist(a, b)
    # `cdist` chooses its way by the number of rows, which an exported graph leaves open.
    squares = a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T
    return squares.clamp(min=0).sqrt()


def snapshot(parameters: Mapping[str, Tensor]) -> Tensors:
    """Detached copies."""
    return {name: tensor.detach().clone() for name, tensor in parameters.items()}


def zeros_like(parameters: Mapping[str, Tensor]) -> Tensors:
    """Zeros of the same shapes."""
    return {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}


def gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The `.grad` of each parameter; zeros where there is none."""
    return [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """One vector of all elements."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def occurrences(numbers: Tensor, size: int) -> Tensor:
    """How often each of 0, ..., size - 1 is among the numbers (N,): (size,). Unlike `bincount` it waits for no GPU."""
    return (numbers.unsqueeze(0) == torch.arange(size, device=numbers.device).unsqueeze(1)).sum(1)


class Quadratic:
    """w sum_k Omega_k (theta_k - theta*_k)^2, a term of a loss that works its gradient out itself.

    Autograd would take as long for it as for the loss of a small network. Like a tensor it has `backward` and `detach`,
    and a number times it is such a term.

    Args:
        theta: the parameters.
        distance: theta - theta* of each.
        importance: Omega of each; None for 1.
        weight: w.
    """

    def __init__(
        self, theta: list[Tensor], distance: list[Tensor], importance: list[Tensor] | None, weight: float = 1.0
    ) -> None:
        self._theta, self._distance, self._importance, self._weight = theta, distance, importance, weight

    def __rmul__(self, factor: float) -> Quadratic:
        return Quadratic(self._theta, self._distance, self._importance, factor * self._weight)

    def backward(self) -> None:
        """Add the gradient, 2 w Omega (theta - theta*), to that of each parameter which has one."""
        slopes = torch._foreach_mul(self._slope(), 2 * self._weight)
        known = [parameter.grad for parameter in self._theta if parameter.grad is not None]
        if len(known) == len(self._theta):
            torch._foreach_add_(known, slopes)
            return
        for parameter, slope in zip(self._theta, slopes, strict=True):
            if parameter.grad is not None:
                parameter.grad += slope
            elif parameter.requires_grad:
                parameter.grad = slope

    def detach(self) -> Tensor:
        """The value, a scalar."""
        pairs = zip(self._distance, self._slope(), strict=True)
        return self._weight * torch.stack([torch.dot(d.view(-1), s.view(-1)) for d, s in pairs]).sum()

    def item(self) -> float:
        """The value as a number."""
        return float(self.detach())

    def _slope(self) -> list[Tensor]:
        """Omega (theta - theta*) of each."""
        if self._importance is None:
            return self._distance
        return list(torch._foreach_mul(self._distance, self._importance))


def quadratic(parameters: Mapping[str, Tensor], anchor: Tensors, importance: Tensors | None = None) -> Quadratic:
    """sum_k Omega_k (theta_k - theta*_k)^2 over the named parameters; Omega = 1 where no importance is given.

    Its gradient is 2 Omega (theta - theta*): there is no factor 1/2 (De Lange et al. 2021, section 4).
    """
    theta = list(parameters.values())
    with torch.no_grad():
        distance = list(torch._foreach_sub(theta, [anchor[name] for name in parameters]))
    return Quadratic(theta, distance, None if importance is None else [importance[name] for name in parameters])


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between softened distributions, mean over the batch: -sum_c p_c log q_c, p from the teacher.

    Not a divergence: at equal logits it is the teacher's entropy, with gradient zero (Li and Hoiem 2018, eq. 2,
    on softmax(z / T); no factor T^2).
    """
    return -(F.softmax(teacher / temperature, 1) * F.log_softmax(student / temperature, 1)).sum(1).mean()


def scaled_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times `distillation`; the student may have more columns, of new classes, which the teacher then rules out.

    T^2 makes its gradients as large as those of hard labels (Hinton et al. 2015), as a fixed weight needs it.
    """
    teacher = F.pad(teacher, (0, student.shape[1] - teacher.shape[1]), value=-math.inf)
    return temperature**2 * distillation(student, teacher, temperature)


SampleLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def importance(
    net: MultiHead,
    split: Split,
    t: int,
    loss: SampleLoss,
    measure: Callable[[Tensor], Tensor],
    estimator: str,
    batch_size: int,
    labels: Tensor | None = None,
) -> Tensors:
    """Mean over the samples of `measure` (square, absolute value) of the gradient of `loss(logits, y)`.

    For the shared parameters, in evaluation mode. `loss` takes the logits (classes,) and label of one sample;
    `labels` (N,), columns of those logits, replaces the split's own, in stored order.

    estimator "per-sample": (1/N) sum_i measure(g_i), by vmapped gradients in chunks that hold at most CHUNK_BYTES.
    estimator "batch-sum": (1/N) sum_b measure(sum_{i in b} g_i) over batches in stored order: what the survey's
    code computes (docs/differences.md, Q07); equal to the above only for batches of one.
    """
    net.eval()
    names = {name if name.startswith("heads.") else f"backbone.{name}": name for name in net.shared}
    shared = {full: net.shared[name].detach() for full, name in names.items()}
    scope = net.scope(t)
    fixed = {name: p.detach() for name, p in net.state_dict().items() if name not in shared}

    def of_one(parameters: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(net, {**parameters, **fixed}, (x.unsqueeze(0), scope))[0], y)

    def of_batch(parameters: Tensors, x: Tensor, y: Tensor) -> Tensor:
        return vmap(loss)(functional_call(net, {**parameters, **fixed}, (x, scope)), y).sum()

    total = zeros_like(shared)
    per_sample = estimator == "per-sample"
    bytes_each = sum(p.numel() * p.element_size() for p in shared.values())
    size = min(batch_size, max(1, CHUNK_BYTES // bytes_each)) if per_sample else batch_size
    done = 0
    for x, y, _ in split.batches(size):
        y = net.label(y, t) if labels is None else labels[done : done + len(y)]
        done += len(y)
        gradients = (
            vmap(grad(of_one), in_dims=(None, 0, 0))(shared, x, y) if per_sample else grad(of_batch)(shared, x, y)
        )
        for name, g in gradients.items():
            total[name] += measure(g).sum(0) if per_sample else measure(g)
        del gradients, g  # before the next chunk is computed
    return {names[full]: value / len(split) for full, value in total.items()}


def negative_log_likelihood(logits: Tensor, y: Tensor) -> Tensor:
    """-log p(y) of one sample: logits (classes,), y a scalar label."""
    return F.cross_entropy(logits.unsqueeze(0), y.unsqueeze(0))


def decided(logits: Tensor, y: Tensor) -> Tensor:
    """-log p of the class that one sample's logits (classes,) are highest for; the label y is not used."""
    del y
    return negative_log_likelihood(logits, logits.argmax())


LIKELIHOODS: dict[str, SampleLoss] = {"data": negative_log_likelihood, "predicted": decided}
"""The loss whose gradients make the Fisher information, by its labels: the data's or the network's own."""


def add(a: Tensors | None, b: Tensors, share: float = 1.0) -> Tensors:
    """share a + b by name; b where there is no a."""
    return b if a is None else {name: share * a[name] + b[name] for name in b}
