"""Stochastic gradient descent with momentum: the numbers of `torch.optim.SGD`, bit for bit, with less around them.

On small networks the update itself takes a fraction of a step. What torch's class does besides (hooks, records for a
profiler, checks for its compiler) takes more than the update. Importing that compiler, which the first optimizer of a
process does, takes as long as importing torch.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Optimizer(Protocol):
    """What the loop asks of an optimizer; each of `torch.optim` has it."""

    param_groups: list[dict[str, Any]]
    """Each with its tensors (`params`) and its learning rate (`lr`), which the loop may change."""

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
        self._moving: dict[Tensor, Tensor] = {}

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
        known = [parameter in self._moving for parameter in moved]
        for parameter, grad, old in zip(moved, grads, known, strict=True):
            if not old:
                self._moving[parameter] = grad.detach().clone()
        moving = [self._moving[parameter] for parameter in moved]
        buffers = [tensor for tensor, old in zip(moving, known, strict=True) if old]
        if buffers:
            torch._foreach_mul_(buffers, self.momentum)
            torch._foreach_add_(buffers, [grad for grad, old in zip(grads, known, strict=True) if old])
        return moving
