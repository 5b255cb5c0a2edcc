"""Stochastic gradient descent with momentum: the numbers of `torch.optim.SGD`, bit for bit, with less around them.

On small networks the update itself takes a fraction of a step. What torch's class does besides (hooks, records for a
profiler, checks for its compiler) takes more than the update. Importing that compiler, which the first optimizer of a
process does, takes as long as importing torch.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Moments = dict[str, dict[str, Tensor]]
"""What an optimizer remembers of its steps, by the name of the parameter; Adam: both moments and the count."""


class Optimizer(Protocol):
    """What the loop asks of an optimizer; each of `torch.optim` has it."""

    param_groups: list[dict[str, Any]]
    """Each with its tensors (`params`) and its learning rate (`lr`), which the loop may change."""

    @property
    def state(self) -> MutableMapping[Tensor, dict[str, Tensor]]:
        """What it remembers of its steps, by tensor."""

    def zero_grad(self) -> None:
        """Forget all gradients."""

    def step(self) -> Any:
        """Move all tensors that have a gradient."""


class Descent:
    """b <- momentum b + g and theta <- theta - lr b, where g includes weight decay; the first b is g itself.

    Args:
        parameters: tensors, or groups of them as in `torch.optim`: dicts with `params`, and `lr` where it is their own.
    """

    def __init__(
        self,
        parameters: list[Tensor] | list[dict[str, Any]],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        groups = parameters if parameters and isinstance(parameters[0], dict) else [{"params": parameters}]
        self.param_groups: list[dict[str, Any]] = [{"lr": lr, **group} for group in groups]
        self.momentum, self.weight_decay = momentum, weight_decay
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget all gradients: they are None afterwards."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the tensors that have a gradient. A tensor starts moving with its own first gradient."""
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moved:
                continue
            grads = [parameter.grad for parameter in moved]
            if self.weight_decay:
                grads = list(torch._foreach_add(grads, moved, alpha=self.weight_decay))
            if self.momentum:
                grads = self._momentum(moved, grads)
            torch._foreach_add_(moved, grads, alpha=-group["lr"])

    def _momentum(self, moved: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        known = [parameter in self.state for parameter in moved]
        for parameter, grad, old in zip(moved, grads, known, strict=True):
            if not old:
                self.state[parameter] = {"momentum_buffer": grad.detach().clone()}
        moving = [self.state[parameter]["momentum_buffer"] for parameter in moved]
        buffers = [tensor for tensor, old in zip(moving, known, strict=True) if old]
        if buffers:
            torch._foreach_mul_(buffers, self.momentum)
            torch._foreach_add_(buffers, [grad for grad, old in zip(grads, known, strict=True) if old])
        return moving


def remembered(optimizer: Optimizer, net: nn.Module) -> Moments:
    """What the optimizer remembers of the network's parameters, by their names."""
    state = optimizer.state
    return {name: dict(state[p]) for name, p in net.named_parameters() if p in state}


def go_on(optimizer: Optimizer, net: nn.Module, moments: Moments) -> None:
    """Have a new optimizer go on from these moments. A parameter that was not there, or that has grown, begins anew."""
    for name, parameter in net.named_parameters():
        of = moments.get(name)
        if of is not None and all(value.dim() == 0 or value.shape == parameter.shape for value in of.values()):
            optimizer.state[parameter] = {key: value.clone() for key, value in of.items()}
