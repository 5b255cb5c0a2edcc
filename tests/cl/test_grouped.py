"""Gradients of several batches at once are those of each by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cl.grouped import Batch, Grouped, groupable
from cl.nets import Dropout, MultiHead
from cl.ops import cross_entropy, flatten
from tests.cl.small import mlp

SIZE = 5


def batches(net: MultiHead, *tasks: int, sizes: tuple[int, ...] = (SIZE, SIZE, SIZE)) -> list[Batch]:
    draw = torch.Generator().manual_seed(1)
    made = []
    for t, size in zip(tasks, sizes, strict=False):
        labels = torch.randint(0, len(net.columns_of(t)), (size,), generator=draw)
        made.append((torch.randn(size, 1, 2, 2, generator=draw), labels, t))
    return made


def alone(net: MultiHead, batch: Batch) -> Tensor:
    x, y, t = batch
    found = torch.autograd.grad(
        cross_entropy(net, x, y, t), list(net.parameters()), allow_unused=True, materialize_grads=True
    )
    return flatten(found)


@pytest.mark.parametrize("increment", ["task", "domain", "class"])
def test_each_row_is_the_gradient_of_its_batch(increment: str) -> None:
    net = mlp(classes=(3,) if increment == "domain" else (3, 3, 3, 2))
    net.increment = increment  # type: ignore[assignment]
    given = batches(net, 0, 1, 2)
    assert groupable(net, given)
    rows = torch.zeros(len(given), sum(p.numel() for p in net.parameters()))
    grouped = Grouped(net, given, rows)
    for _ in range(2):
        grouped()
        torch.testing.assert_close(rows, torch.stack([alone(net, batch) for batch in given]))
        assert len({row.numpy().tobytes() for row in rows}) == len(given)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1)  # as a step moves them
    assert all(p.grad is None for p in net.parameters())


def test_what_is_not_grouped() -> None:
    net = mlp(classes=(3, 3, 2))
    assert groupable(net, batches(net, 0, 1))
    assert not groupable(net, batches(net, 0)), "one batch"
    assert not groupable(net, batches(net, 0, 1, sizes=(5, 4))), "sizes that differ"
    assert not groupable(net, batches(net, 0, 2)), "heads that differ"
    net.increment = "class"
    assert groupable(net, batches(net, 0, 2))
    net.backbone.append(Dropout(0.5))
    assert not groupable(net, batches(net, 0, 1)), "another layer"
    del net.backbone[-1]
    next(net.parameters()).requires_grad_(False)
    assert not groupable(net, batches(net, 0, 1)), "a layer that is not trained"


def test_a_head_with_columns_of_others_is_not_grouped() -> None:
    net = mlp(classes=(3,))
    net.add_head([1, 2, 3], torch.Generator().manual_seed(0))
    assert isinstance(net.heads[1], nn.Linear)
    assert not groupable(net, batches(net, 0, 1))
