"""A shared backbone with one linear head per task.

The three kinds of head in the survey's code come down to this one. A head nobody trains stays as it was, bit for
bit (swap-in heads); a head whose old outputs are distilled goes on learning (stacked heads); the heads side by side
are the slices of one wide head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MultiHead(nn.Module):
    """backbone(x) -> features (N, F); head t -> logits (N, classes of task t)."""

    def __init__(self, backbone: nn.Sequential, feature_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList()
        self.feature_size = feature_size

    def add_head(self, classes: int, draw: torch.Generator) -> None:
        """Append a head of `classes` outputs, uniform in +-1/sqrt(F): torch's own initialisation of a linear layer."""
        head = nn.utils.skip_init(nn.Linear, self.feature_size, classes)
        bound = 1 / math.sqrt(self.feature_size)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.uniform_(-bound, bound, generator=draw)
        self.heads.append(head.to(next(self.backbone.parameters()).device))

    @property
    def shared(self) -> dict[str, nn.Parameter]:
        """The parameters of the backbone by name: what the tasks share, and what importance is kept for."""
        return dict(self.backbone.named_parameters())

    def classes(self) -> list[int]:
        """Outputs of each head."""
        return [int(head.out_features) for head in self.heads]  # type: ignore[arg-type]

    def parts(self) -> tuple[nn.Sequential, nn.Sequential]:
        """The layers up to where the convolutions' last map is flattened, and the rest of the backbone.

        Without convolutions the first part ends with the first hidden layer.
        """
        layers = list(self.backbone)
        cut = max(index for index, layer in enumerate(layers) if isinstance(layer, nn.Flatten)) + 1
        if not any(isinstance(layer, nn.Conv2d) for layer in layers[:cut]):
            cut = next(index for index, layer in enumerate(layers) if isinstance(layer, nn.ReLU)) + 1
        return self.backbone[:cut], self.backbone[cut:]

    def forward(self, x: Tensor, t: int | Tensor | None = None) -> Tensor:
        """Logits for x (N, C, H, W); see `logits`."""
        return self.logits(self.backbone(x), t)

    def logits(self, features: Tensor, t: int | Tensor | None = None) -> Tensor:
        """Logits from features (N, F).

        t an int: of that task's head, (N, its classes). None: of all heads side by side, (N, all classes). A tensor
        (N,): of all heads, with every logit that is not of the sample's own task at minus infinity.
        """
        if isinstance(t, int):
            logits: Tensor = self.heads[t](features)
            return logits
        # One product for all heads takes half the time of one for each.
        weight = torch.cat([head.weight for head in self.heads])  # type: ignore[misc]
        bias = torch.cat([head.bias for head in self.heads])  # type: ignore[misc]
        wide = F.linear(features, weight, bias)
        if t is None:
            return wide
        task_of_column = torch.repeat_interleave(torch.tensor(self.classes())).to(t.device)
        return wide.masked_fill(task_of_column != t.unsqueeze(1), -math.inf)

    def column(self, y: Tensor, t: int | Tensor) -> Tensor:
        """The column of label y (N,) of task t among all heads side by side."""
        classes = torch.tensor([0, *self.classes()[:-1]])
        return classes.cumsum(0).to(y.device)[t] + y
