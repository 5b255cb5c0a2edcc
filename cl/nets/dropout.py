"""Dropout whose masks follow from a key, so that no draw depends on what the process drew before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cl.rng import seed_of


class Dropout(nn.Module):
    """In training, it sets each number to zero with probability p and scales the others by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._seed: int | None = None
        self._draw: torch.Generator | None = None

    def draw_from(self, *key: int | str) -> None:
        """From now on, the masks of the passes follow from this key, one after another."""
        self._seed, self._draw = seed_of(*key), None

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape, of the same shape."""
        if not self.training:
            return x
        if self._draw is None:
            assert self._seed is not None, "dropout in training needs a key: call draw_from first"
            self._draw = torch.Generator(x.device).manual_seed(self._seed)
        keep = torch.empty_like(x).bernoulli_(1 - self.p, generator=self._draw)
        return x * keep.div_(1 - self.p)

    def extra_repr(self) -> str:
        """For printing the network."""
        return f"p={self.p}"
