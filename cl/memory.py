"""Which samples to remember."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cl.gpu import sent

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
    chosen = [torch.zeros(0, dtype=torch.int64, device=features.device)]
    for k in range(1, min(count, len(features)) + 1):
        distance = (mean - (features + total) / k).norm(dim=1).masked_fill(~left, torch.inf)
        best = distance.argmin(0, keepdim=True)
        chosen.append(best)
        left.index_fill_(0, best, False)
        total += features[best].squeeze(0)
    return torch.cat(chosen).cpu()


def drawn(split: Split, count: int, draw: torch.Generator) -> dict[str, Tensor]:
    """At most `count` samples, uniformly without repetition: `images` (K, C, H, W) uint8 and labels `y` (K,).

    This has the distribution of the last samples of a shuffled stream, which a ring buffer over the batches keeps.
    """
    chosen = torch.randperm(len(split), generator=draw)[:count]
    return {"images": split.images[chosen].clone(), "y": split.y[chosen].clone()}


def reservoir(seen: int, count: int, capacity: int, draw: torch.Generator) -> Tensor:
    """The slots (count,) of `count` items that are offered one after the other; `seen` items came before them.

    -1: nowhere. After n items each of them is kept with chance min(1, capacity / n), whatever its place (Vitter 1985,
    algorithm R): the n-th, counted from 0, draws from 0 to n, itself included.
    """
    number = torch.arange(seen, seen + count)
    drawn = (torch.rand(count, generator=draw, dtype=torch.float64) * (number + 1)).long()
    slots = torch.where(number < capacity, number, drawn)
    return torch.where(slots < capacity, slots, -1)


def placed(memory: dict[str, Tensor] | None, rows: Mapping[str, Tensor], slots: Tensor) -> dict[str, Tensor]:
    """The memory with each row (N, ...) in its slot (-1: in none); of rows for one slot the last stays.

    It is changed in place, or copied where it has to grow. The slots of the first rows of all are 0, 1, 2, ...: the
    memory is as long as the highest slot so far needs.
    """
    last = {slot: row for row, slot in enumerate(slots.tolist()) if slot >= 0}
    held = len(memory["y"]) if memory is not None else 0
    length = max([held, *(slot + 1 for slot in last)])
    if memory is None or length > held:
        grown = {name: tensor.new_zeros((length, *tensor.shape[1:])) for name, tensor in rows.items()}
        for name, tensor in (memory or {}).items():
            grown[name][:held] = tensor
        memory = grown
    chosen, places = (torch.tensor(list(of), dtype=torch.int64) for of in (last.values(), last.keys()))
    for name, tensor in rows.items():  # what was loaded from a checkpoint may be elsewhere
        memory[name][sent(places, memory[name].device)] = sent(picked(tensor, chosen), memory[name].device)
    return memory


def picked(tensor: Tensor, chosen: Tensor) -> Tensor:
    """These rows of a tensor that may be on a GPU; `chosen` (M,) is in main memory."""
    return tensor[sent(chosen, tensor.device)]
