"""A shared backbone with one linear head per task.

The three kinds of head in the survey's code come down to this one. A head nobody trains stays as it was, bit for
bit (swap-in heads); a head whose old outputs are distilled goes on learning (stacked heads); the heads side by side
are the slices of one wide head. The same holds in class-incremental learning, where the network chooses among the
classes of all heads. There a class that comes again keeps the output that it has: the head of a task has outputs for
the classes that the task brings first, and may have none. In domain-incremental learning all tasks share one head.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cl.nets.dropout import Dropout
from cl.nets.layers import drawn_linear
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
    """backbone(x) -> features (N, F); head t -> logits (N, classes that task t brings first).

    The outputs of all heads side by side are the columns. A class has one column, also if it is in several tasks.
    """

    increment: Increment = "task"
    on_features = False
    """Whether its input is the features of a frozen pretrained backbone."""
    _where: Tensor
    _columns: Tensor
    """(tasks, most classes of a task): the columns of each task's classes; -1 where it has fewer."""
    _on_host: Tensor
    """The same in main memory, so that labels there are looked up without waiting for a GPU."""
    bounds: Tensor
    """Of each head the first of its columns, and the one behind its last: (heads, 2)."""

    def __init__(self, backbone: nn.Sequential, feature_size: int) -> None:
        super().__init__()
        self.backbone = backbone if isinstance(backbone, Backbone) else Backbone(OrderedDict(backbone.named_children()))
        self.heads = nn.ModuleList()
        self.feature_size = feature_size
        self.register_buffer("_where", torch.empty(0), persistent=False)  # a backbone may have no parameters
        self.register_buffer("_columns", torch.empty(0, 0, dtype=torch.int64), persistent=False)
        self.register_buffer("bounds", torch.empty(0, 2, dtype=torch.int64), persistent=False)
        self._of_task: list[list[int]] = []
        self.tasks = 0
        """How many tasks it has been made ready for."""

    def add_head(self, classes: int | Sequence[int], draw: torch.Generator) -> None:
        """Append a head, uniform in +-1/sqrt(F): torch's own initialisation of a linear layer.

        `classes`: how many the task has, if all are new; or the column of each of them, by label. The head has an
        output for each column that is not there yet.
        """
        width = self.width
        own = list(range(width, width + classes)) if isinstance(classes, int) else list(classes)
        new = [column for column in own if column >= width]
        assert new == list(range(width, width + len(new))), "new columns come by label, behind those that are there"
        self.heads.append(drawn_linear(self.feature_size, len(new), draw).to(self._where.device))
        self._of_task.append(own)
        rows = [torch.tensor(columns) for columns in self._of_task]
        self._on_host = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        self._columns = self._on_host.to(self._where.device)
        ends = itertools.accumulate(self.classes(), initial=0)
        self.bounds = torch.tensor(list(itertools.pairwise(ends)), device=self._where.device)

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

    @property
    def width(self) -> int:
        """How many columns there are: the outputs of all heads."""
        return sum(self.classes())

    def columns_of(self, t: int) -> list[int]:
        """The column of each class of task t, by label."""
        return list(range(self.width)) if self.increment == "domain" else self._of_task[t]

    def own(self, wide: Tensor, t: int, dim: int = 1) -> Tensor:
        """Of what stands side by side by column, that of the classes of task t, by label."""
        if self.increment == "domain":
            return wide
        return wide.index_select(dim, self._columns[t, : len(self._of_task[t])])

    def home(self, column: int) -> tuple[int, int]:
        """The head that has the column, and its place there."""
        sizes, head = self.classes(), 0
        while column >= sizes[head]:
            column, head = column - sizes[head], head + 1
        return head, column

    def brought(self, t: int) -> list[int]:
        """The labels of the classes that come first with task t; their columns are those of head t, in this order."""
        return [label for label, column in enumerate(self._of_task[t]) if self.home(column)[0] == t]

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

        t an int: of that task's classes, (N, its classes). None: of all heads side by side, (N, all columns). A tensor
        (N,): of all heads, with every logit that is not of the sample's own task at minus infinity. Where all tasks
        have one head, it answers in every case.
        """
        if self.increment == "domain":
            t = 0
        if isinstance(t, int):
            if len(self._of_task[t]) == self.heads[t].out_features:
                logits: Tensor = self.heads[t](features)
                return logits
            return self.own(self.side_by_side(features), t)
        wide = self.side_by_side(features)
        if t is None:
            return wide
        own = self._columns[t].unsqueeze(2) == torch.arange(wide.shape[1], device=t.device)
        return wide.masked_fill(~own.any(1), -math.inf)

    def side_by_side(self, features: Tensor) -> Tensor:
        """The logits of all heads, (N, all columns), from features (N, F)."""
        # One product for all heads takes half the time of one for each.
        weight = torch.cat([head.weight for head in self.heads])  # type: ignore[misc]
        bias = torch.cat([head.bias for head in self.heads])  # type: ignore[misc]
        return F.linear(features, weight, bias)

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
        return (self._columns if y.device == self._columns.device else self._on_host)[t, y]
