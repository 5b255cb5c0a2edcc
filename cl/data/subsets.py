"""Which tasks and which images a benchmark takes: for the files of benchmarks."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from cl.data.prepare import Labels
from cl.errors import UserError, count
from cl.params import Benchmark
from cl.rng import numpy_generator


def chosen(
    names: Sequence[str], options: Benchmark, orders: Mapping[str, Sequence[str]] | None = None, where: object = None
) -> list[str]:
    """The first `options.tasks` of the tasks, in the order that `options.order` names or lists (default: as given).

    Raises `UserError` for an order or a task that is not known, a task that stands twice, and more tasks than there
    are; `where` names the place in the message.
    """
    orders, where = orders or {}, where or options.name
    wanted = options.order
    if isinstance(wanted, str):
        if wanted not in orders:
            known = f"known orders: {', '.join(orders)}; else " if orders else ""
            raise UserError(f"benchmark.order: {where} has no order {wanted!r}; {known}list the tasks by name")
        wanted = list(orders[wanted])
    ordered = list(names) if wanted is None else [composed(name) for name in wanted]
    for name in ordered:
        if name not in names:
            raise UserError(f"benchmark.order: no task {name!r} in {where}; there are: {', '.join(names)}")
    if len(set(ordered)) < len(ordered):
        twice = next(name for name in ordered if ordered.count(name) > 1)
        raise UserError(f"benchmark.order: {twice!r} stands twice; name each task once, of: {', '.join(names)}")
    if options.tasks is not None and options.tasks > len(ordered):
        raise UserError(f"benchmark.tasks: {where} has {count(len(ordered), 'task')} to learn, not {options.tasks}")
    return ordered[: options.tasks]


def composed(name: str) -> str:
    """The name with its accents composed (Unicode's NFC); some systems decompose them, which looks the same."""
    return unicodedata.normalize("NFC", name)


def first_of_each(index: Labels, labels: Labels, count: int | None) -> Labels:
    """Of these indices the first `count` of each label (None: all), sorted."""
    if count is None:
        return index
    kept = [index[labels[index] == label][:count] for label in np.unique(labels[index])]
    return np.sort(np.concatenate(kept))


def share_of(count: int, fraction: float) -> int:
    """The fraction of so many images, rounded; of two or more at least one is taken, and at least one is left."""
    return min(max(round(fraction * count), 1), count - 1)


def stratified(labels: Labels, fraction: float, *key: int | str) -> tuple[Labels, Labels]:
    """Indices of a random split that takes `share_of` the images of each class.

    Returns (rest, taken), each sorted, drawn by a generator of the key.
    """
    draw = numpy_generator(*key)
    taken: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        taken.extend(draw.permutation(members)[: share_of(len(members), fraction)])
    mask = np.zeros(len(labels), dtype=bool)
    mask[taken] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)
