"""The gradients of several batches at once, each for itself, on networks of linear layers.

On a small network most of the time of a forward and a backward pass is spent around the arithmetic. Here all batches
take one pass forward, and one backward as far as the outputs of the layers. From these and from the layers' inputs the
gradients of the weights follow, for each batch a product of its own (Goodfellow, Efficient per-example gradient
computations, 2015).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.nets import MultiHead

Batch = tuple[Tensor, Tensor, int]
"""Images (N, C, H, W) as the network takes them, labels (N,), and the task of all of them."""


def groupable(net: MultiHead, batches: Sequence[Batch]) -> bool:
    """Whether these are batches of one size, two or more, and a network of linear layers that are all trained.

    Where each task has a head of its own, these have one size too.
    """
    linear = all(type(layer) in (nn.Flatten, nn.Linear, nn.ReLU) for layer in net.backbone) and not net.backbone.reduced
    trained = all(p.requires_grad for p in net.parameters())
    heads = {(net.classes()[t], len(net.columns_of(t))) for _, _, t in batches} if net.increment == "task" else {(1, 1)}
    alike = len(heads) == 1 and all(outputs == own for outputs, own in heads)
    return linear and trained and alike and len(batches) > 1 and len({len(y) for _, y, _ in batches}) == 1


class Grouped:
    """The gradient of the mean cross-entropy on each of some batches, by all parameters of a network.

    Args:
        net: the network.
        batches: those for which it is `groupable`.
        rows: where the gradients are written, (batches, elements of all parameters). What belongs to parameters that
            the loss on a batch does not depend on is left as it is.
    """

    def __init__(self, net: MultiHead, batches: Sequence[Batch], rows: Tensor) -> None:
        self._net, self._size = net, len(batches[0][1])
        self._x = torch.cat([x for x, _, _ in batches])
        self._y = torch.cat([net.label(y, t) for _, y, t in batches])
        self._layers = [layer for layer in net.backbone if isinstance(layer, nn.Linear)]
        self._heads = [net.heads[t] for _, _, t in batches] if net.increment == "task" else None
        ends = itertools.accumulate((p.numel() for p in net.parameters()), initial=0)
        at = {p: slice(*pair) for p, pair in zip(net.parameters(), itertools.pairwise(ends), strict=True)}
        whole = [(rows, p) for layer in self._layers for p in (layer.weight, layer.bias)]
        heads = list(zip(rows.split(1), self._heads, strict=True)) if self._heads else [(rows, h) for h in net.heads]
        of_heads = [(part, p) for kind in ("weight", "bias") for part, head in heads for p in [getattr(head, kind)]]
        self._places = [part[:, at[p]].view(len(part), *p.shape) for part, p in (*whole, *of_heads)]

    def __call__(self) -> None:
        """Write the gradients at the network's present weights."""
        h, inputs, outputs = self._x, [], []
        for layer in self._net.backbone:
            before, h = h, layer(h)
            if isinstance(layer, nn.Linear):
                inputs.append(before)
                outputs.append(h)
        outputs.append(self._logits(h))
        loss = F.cross_entropy(outputs[-1], self._y, reduction="sum") / self._size
        found: list[Tensor] = []
        for x, slope in zip([*inputs, h], torch.autograd.grad(loss, outputs), strict=True):
            x, slope = (tensor.detach().view(-1, self._size, tensor.shape[1]) for tensor in (x, slope))
            found += [slope.transpose(1, 2) @ x, slope.sum(1)]
        *of_layers, weight, bias = found
        sizes: list[int] | int = 1 if self._heads else self._net.classes()
        dim = 0 if self._heads else 1
        torch._foreach_copy_(self._places, [*of_layers, *weight.split(sizes, dim), *bias.split(sizes, dim)])

    def _logits(self, features: Tensor) -> Tensor:
        if self._heads is None:
            return self._net.side_by_side(features)
        weight, bias = (torch.stack([getattr(head, kind) for head in self._heads]) for kind in ("weight", "bias"))
        own = features.view(len(self._heads), self._size, -1)
        return torch.baddbmm(bias.unsqueeze(1), own, weight.transpose(1, 2)).flatten(0, 1)
