"""A shared backbone with one linear head per task.

The three kinds of head in the survey's code come down to this one. A head nobody trains stays as it was, bit for
bit (swap-in heads); a head whose old outputs are distilled goes on learning (stacked heads); the heads side by side
are the slices of one wide head. The same holds in class-incremental learning, where the network chooses among the
classes of all heads. In domain-incremental learning all tasks share one head.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.gpu import sent
from cl.nets.dropout import Dropout
from cl.nets.linear import drawn_linear
from cl.nets.norms import BatchNorm

Increment: TypeAlias = Literal["task", "domain", "class"]
"""What a new task brings: a head of its own; other images of the same classes; more classes in one head."""


class Backbone(nn.Sequential):
    """Layers one after the other, float32 in and out; where it is `reduced`, convolutions and products are bfloat16.

    Weights and gradients stay float32 (torch.autocast).
    """

    reduced = False

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's output."""
        if not self.reduced:
            return self._through(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            return self._through(x).float()

    def _through(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x

    def of(self, layers: Iterable[nn.Module]) -> Backbone:
        """Other layers in the same precision."""
        made = Backbone(*layers)
        made.reduced = self.reduced
        return made


class MultiHead(nn.Module):
    """backbone(x) -> features (N, F); head t -> logits (N, classes of task t)."""

    increment: Increment = "task"
    on_features = False
    """Whether its input is the features of a frozen pretrained backbone."""
    _where: Tensor

    def __init__(self, backbone: nn.Sequential, feature_size: int) -> None:
        super().__init__()
        self.backbone = backbone if isinstance(backbone, Backbone) else Backbone(OrderedDict(backbone.named_children()))
        self.heads = nn.ModuleList()
        self.feature_size = feature_size
        self.register_buffer("_where", torch.empty(0), persistent=False)  # a backbone may have no parameters
        self.tasks = 0
        """How many tasks it has been made ready for."""
        self._tables: dict[tuple[Hashable, ...], Tensor] = {}

    def add_head(self, classes: int, draw: torch.Generator) -> None:
        """Append a head of `classes` outputs, uniform in +-1/sqrt(F): torch's own initialisation of a linear layer."""
        head = drawn_linear(self.feature_size, classes, draw)
        self.heads.append(head.to(self._where.device))

    @property
    def shared(self) -> dict[str, nn.Parameter]:
        """What the tasks share, and what importance is kept for: the parameters of the backbone, and of a common head.

        A name that does not begin with `heads.` is one within the backbone.
        """
        parameters = dict(self.backbone.named_parameters())
        if self.increment == "domain":
            parameters.update({f"heads.{name}": p for name, p in self.heads.named_parameters()})
        return parameters

    def classes(self) -> list[int]:
        """Outputs of each head."""
        return [int(head.out_features) for head in self.heads]  # type: ignore[arg-type]

    def parts(self) -> tuple[Backbone, Backbone]:
        """The layers up to where the convolutions' last map is flattened, and the rest of the backbone.

        Without convolutions the first part ends with the first hidden layer.
        """
        layers = list(self.backbone)
        cut = max(index for index, layer in enumerate(layers) if isinstance(layer, nn.Flatten)) + 1
        if not any(isinstance(inner, nn.Conv2d) for layer in layers[:cut] for inner in layer.modules()):
            cut = next(index for index, layer in enumerate(layers) if isinstance(layer, nn.ReLU)) + 1
        return self.backbone.of(layers[:cut]), self.backbone.of(layers[cut:])

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Within the body, answer as in evaluation: without dropout, and with the current statistics."""
        layers = [
            layer for layer in self.backbone.modules() if layer.training and isinstance(layer, Dropout | BatchNorm)
        ]
        for layer in layers:
            layer.eval()
        try:
            yield
        finally:
            for layer in layers:
                layer.train()

    def forward(self, x: Tensor, t: int | Tensor | None = None) -> Tensor:
        """Logits for x (N, C, H, W); see `logits`."""
        return self.logits(self.backbone(x), t)

    def logits(self, features: Tensor, t: int | Tensor | None = None) -> Tensor:
        """Logits from features (N, F).

        t an int: of that task's head, (N, its classes). None: of all heads side by side, (N, all classes). A tensor
        (N,): of all heads, with every logit that is not of the sample's own task at minus infinity. Where all tasks
        have one head, it answers in every case.
        """
        if self.increment == "domain":
            t = 0
        if isinstance(t, int):
            logits: Tensor = self.heads[t](features)
            return logits
        # One product for all heads takes half the time of one for each.
        weight = torch.cat([head.weight for head in self.heads])  # type: ignore[misc]
        bias = torch.cat([head.bias for head in self.heads])  # type: ignore[misc]
        wide = F.linear(features, weight, bias)
        if t is None:
            return wide
        return wide.masked_fill(self.owners(t.device) != t.unsqueeze(1), -math.inf)

    def scope(self, t: int | Tensor) -> int | Tensor | None:
        """The logits among which samples of task t are told apart: their head's, or all (see `logits`)."""
        return t if self.increment == "task" else None

    def label(self, y: Tensor, t: int | Tensor) -> Tensor:
        """The column of label y (N,) of task t there."""
        return y if self.increment == "task" and isinstance(t, int) else self.column(y, t)

    def groups(self, tasks: int) -> list[slice]:
        """The columns of the first tasks, in one slice for each softmax."""
        if self.increment == "task":
            ends = itertools.accumulate(self.classes()[:tasks], initial=0)
            return [slice(start, end) for start, end in itertools.pairwise(ends)]
        width = sum(self.classes()[:tasks])
        return [slice(0, width)] if width else []

    def column(self, y: Tensor, t: int | Tensor) -> Tensor:
        """The column of label y (N,) of task t among all heads side by side."""
        if self.increment == "domain":
            return y
        if isinstance(t, int):
            return y + sum(self.classes()[:t])
        return self.bounds(y.device)[t, 0] + y

    def owners(self, device: torch.device) -> Tensor:
        """The task of each column of all heads side by side, (all classes,)."""
        return self._table("owners", device, lambda: torch.repeat_interleave(torch.tensor(self.classes())))

    def bounds(self, device: torch.device) -> Tensor:
        """Of each head the first of its columns among all side by side, and the one behind its last: (heads, 2)."""
        ends = list(itertools.accumulate(self.classes(), initial=0))
        return self._table("bounds", device, lambda: torch.tensor(list(itertools.pairwise(ends))))

    def _table(self, what: str, device: torch.device, make: Callable[[], Tensor]) -> Tensor:
        """Numbers that follow from the heads, sent to the device once."""
        key = (what, device, *self.classes())
        if key not in self._tables:
            self._tables[key] = sent(make(), device)
        return self._tables[key]
