"""Which samples to remember."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from cl.data import Split


def herd(features: Tensor, count: int) -> Tensor:
    """Indices (min(count, N),) of samples whose running mean follows the mean of all features (N, F) best.

    The k-th choice minimises |mu - (f(x) + sum of the chosen) / k|_2; the order is the priority, so a shorter
    list is a prefix (Rebuffi et al. 2017, algorithm 4).
    """
    mean = features.mean(0)
    total = torch.zeros_like(mean)
    left = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen = []
    for k in range(1, min(count, len(features)) + 1):
        distance = (mean - (features + total) / k).norm(dim=1).masked_fill(~left, torch.inf)
        best = int(distance.argmin())
        chosen.append(best)
        left[best] = False
        total += features[best]
    return torch.tensor(chosen, dtype=torch.int64)


def drawn(split: Split, count: int, draw: torch.Generator) -> dict[str, Tensor]:
    """At most `count` samples, uniformly without repetition: `images` (K, C, H, W) uint8 and labels `y` (K,).

    The law of the last samples of a shuffled stream, which is what a ring buffer over the training batches keeps.
    """
    chosen = torch.randperm(len(split), generator=draw)[:count]
    return {"images": split.images[chosen].clone(), "y": split.y[chosen].clone()}
