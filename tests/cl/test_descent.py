"""Our descent beside torch's: the same numbers, bit for bit."""

from __future__ import annotations

import pytest
import torch

from cl.descent import Descent
from cl.trainable import by_rate


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_it_moves_tensors_as_torch_does(momentum: float, weight_decay: float) -> None:
    """With a group of its own rate, a rate that changes, and a tensor that gets its first gradient late or none."""
    draw = torch.Generator().manual_seed(0)
    sizes = [(5, 7), (7,), (3,), (2, 2)]
    ours = [torch.randn(size, generator=draw, requires_grad=True) for size in sizes]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    for tensors in (ours, theirs):
        tensors[1].rate = 0.5  # type: ignore[attr-defined]
    settings = {"momentum": momentum, "weight_decay": weight_decay}
    descent = Descent(by_rate(ours, 0.1), 0.1, **settings)  # type: ignore[arg-type]
    plain = torch.optim.SGD(by_rate(theirs, 0.1), lr=0.1, **settings)  # type: ignore[arg-type]
    for step in range(9):
        for optimizer in (descent, plain):
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] *= 0.9
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            assert pair[0].grad is None
            if number == 3 or (number == 2 and step < 4):
                continue
            gradient = torch.randn(sizes[number], generator=draw)
            for tensor in pair:
                tensor.grad = gradient.clone()
        descent.step()
        plain.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)), step
