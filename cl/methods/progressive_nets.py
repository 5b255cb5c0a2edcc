"""Progressive networks: a network of its own for each task, which listens to all that were there before it.

Rusu et al., Progressive neural networks, 2016.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cl.errors import UserError
from cl.method import Method
from cl.nets import BatchNorm, Dropout, MultiHead
from cl.nets.layers import unfilled
from cl.nets.multihead import Backbone
from cl.nets.resnet import Stage

PLAIN = (nn.Conv2d, nn.Linear, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, BatchNorm, Dropout, Stage)
"""Layers that a column may have, one after the other."""
LARGEST_SCALE = 0.1
"""The factors of the earlier columns' outputs are drawn from 0 to this: at first a new column hardly uses them."""


class ProgressiveNets(Method):
    """Task t trains column t, its adapters and its head; everything before is frozen for good."""

    needs_task_id = True
    needs_shared_layers = True
    takes_layers_apart = True
    isolates_parameters = True
    selection = "learning-rate"

    def wrap(self, net: MultiHead) -> MultiHead:
        """The network is the first column. Raises `UserError` for one whose layers are no plain sequence."""
        if not all(isinstance(layer, PLAIN) for layer in net.backbone):
            raise UserError(
                "model.name: progressive_nets puts adapters between layers that stand in one row; use mlp, resnet18 "
                "or one of the VGG nets (small, base, wide, deep)"
            )
        return Progressive(net.backbone, net.feature_size)

    def grow(self, net: MultiHead, task: int, draw: torch.Generator) -> None:
        """Freeze all but the new head; behind the first task add a column."""
        assert isinstance(net, Progressive)
        net.requires_grad_(False)
        net.heads[task].requires_grad_(True)
        if task == 0:
            net.backbone.requires_grad_(True)
        else:
            net.columns.append(Column(net.backbone, net.heads[task], task, draw))


class Progressive(MultiHead):
    """The backbone and its head are the first column; `columns` are those of the later tasks.

    `shared`, `parts` and `logits` are those of the first column alone.
    """

    def __init__(self, backbone: Backbone, feature_size: int) -> None:
        super().__init__(backbone, feature_size)
        self.columns = nn.ModuleList()

    def train(self, mode: bool = True) -> Progressive:
        """Frozen columns answer as in evaluation, whatever the newest one does."""
        super().train(mode)
        for column in [self.backbone, *self.columns][:-1]:
            column.eval()
        return self

    def forward(self, x: Tensor, t: int | Tensor | None = None) -> Tensor:
        """Logits for x (N, C, H, W): of task t's column, or where t is None of all side by side, (N, all classes)."""
        assert not isinstance(t, Tensor)
        if t is None:
            return torch.cat(self._answers(x, range(len(self.heads))), 1)
        return self._answers(x, [t])[0]

    def added(self, t: int) -> Column:
        """What was added for task t, which is not the first."""
        column = self.columns[t - 1]
        assert isinstance(column, Column)
        return column

    def _answers(self, x: Tensor, tasks: range | list[int]) -> list[Tensor]:
        """Logits of these tasks. All columns up to the last of them go through the layers together."""
        columns = [self.backbone, *(self.added(t).layers for t in range(1, tasks[-1] + 1))]
        hidden = [x] * len(columns)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.backbone.reduced):
            for number, (start, stop) in enumerate(blocks(self.backbone)):
                before, hidden = hidden, []
                for k, layers in enumerate(columns):
                    h = before[k]
                    for layer in layers[start:stop]:
                        if k and number and weighs(layer):
                            h = joined(layer, h, self.added(k).adapters[number - 1](before[:k]))
                        else:
                            h = layer(h)
                    hidden.append(h)
        hidden = [h.float() for h in hidden]
        return [self._logits(hidden[: t + 1], t) for t in tasks]

    def _logits(self, hidden: list[Tensor], t: int) -> Tensor:
        logits: Tensor = self.heads[t](hidden[-1])
        return logits + self.added(t).adapters[-1](hidden[:-1]) if t else logits


class Column(nn.Module):
    """Layers as the first column's, drawn anew, and an adapter into every layer but the first, and into the head."""

    def __init__(self, like: Backbone, head: nn.Module, before: int, draw: torch.Generator) -> None:
        super().__init__()
        device = next(like.parameters()).device
        layers = copy.deepcopy(like).cpu().requires_grad_(True)
        for layer in layers.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                initialise(layer, draw)
            elif isinstance(layer, BatchNorm):
                layer.reset_parameters()
        self.layers = layers.to(device)
        targets = [*(layer for layer in layers if weighs(layer)), head][1:]
        self.adapters = nn.ModuleList(Adapter(layer, before, draw) for layer in targets).to(device)


class Adapter(nn.Module):
    """U relu(V [a_1 h_1, ..., a_k h_k] + b): the outputs h of k earlier columns, as an input of `layer` (eq. 2).

    V brings them down to the narrower of the layer's input and output. For a convolution, V is a convolution of one
    pixel, and U one like the layer's own; for a stage of a ResNet, U is like its first convolution.
    """

    def __init__(self, layer: nn.Module, before: int, draw: torch.Generator) -> None:
        super().__init__()
        layer = layer.entrance if isinstance(layer, Stage) else layer
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        outputs, inputs = layer.weight.shape[:2]
        width = min(inputs, outputs)
        self.scale = nn.Parameter(torch.rand(before, generator=draw) * LARGEST_SCALE)
        if isinstance(layer, nn.Conv2d):
            self.reduce: nn.Module = unfilled(nn.Conv2d, before * inputs, width, 1)
            size, stride, padding = layer.kernel_size, layer.stride, layer.padding
            self.project: nn.Module = unfilled(
                nn.Conv2d, width, outputs, size, stride=stride, padding=padding, bias=False
            )
        else:
            self.reduce = unfilled(nn.Linear, before * inputs, width)
            self.project = unfilled(nn.Linear, width, outputs, bias=False)
        initialise(self.reduce, draw)
        initialise(self.project, draw)

    def forward(self, hidden: list[Tensor]) -> Tensor:
        """The earlier columns' outputs, each (N, inputs, ...), to what is added to the layer's, (N, outputs, ...)."""
        scaled = torch.cat([scale * h for scale, h in zip(self.scale, hidden, strict=True)], 1)
        added: Tensor = self.project(self.reduce(scaled).relu())
        return added


def weighs(layer: nn.Module) -> bool:
    """Whether it is a layer that an adapter adds to."""
    return isinstance(layer, nn.Conv2d | nn.Linear | Stage)


def joined(layer: nn.Module, h: Tensor, more: Tensor) -> Tensor:
    """The layer's answer to h (N, ...) and what is added to it; in a ResNet's stage before its last ReLU."""
    out: Tensor = layer(h, more) if isinstance(layer, Stage) else layer(h) + more
    return out


def blocks(layers: Backbone) -> Iterator[tuple[int, int]]:
    """Start and stop of each layer with weights and what follows it; the first includes what precedes it."""
    starts = [index for index, layer in enumerate(layers) if weighs(layer)]
    return itertools.pairwise([0, *starts[1:], len(layers)])


@torch.no_grad()
def initialise(layer: nn.Module, draw: torch.Generator) -> None:
    """Weights uniform with variance 2 / inputs of a unit (He et al. 2015), biases 0."""
    for parameter in layer.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_uniform_(parameter, nonlinearity="relu", generator=draw)
        else:
            parameter.zero_()
