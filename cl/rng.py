"""Random numbers keyed by what they are for, so that no draw depends on what was drawn before.

A key is the path to one use of randomness, for instance ``(seed, task, "stability", trial, epoch)``. Two uses
never share a stream unless they name the same key, and a trial draws the same numbers whether it runs alone,
beside others, on another machine, or again after a kill.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

Key: TypeAlias = tuple[int | str, ...]


def seed_of(*key: int | str) -> int:
    """A 63-bit seed from the SHA-256 of the key; `1` and `"1"` are different keys."""
    text = "/".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by the key; on a GPU it draws other numbers than on the CPU."""
    import torch

    return torch.Generator(device).manual_seed(seed_of(*key))


def numpy_generator(*key: int | str) -> np.random.Generator:
    """A numpy generator seeded by the key, for the preparation of data (which needs no torch)."""
    return np.random.Generator(np.random.PCG64(seed_of(*key)))
