"""Which method under which limit: what each method asks for, and the best of those that a limit leaves."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from cl.names import names_in
from cl.reading import RunResult
from cl.register import declares
from flows.report.headline import above_chance, unlearned
from flows.report.rows import Row, best_at_other, first_ranked, values_of
from flows.report.standing import better, ranks
from flows.report.summary import Summary
from flows.report.words import Estimate

GROWS = 1.1
"""Storage grows if it is larger after the last task than after half of the tasks by more than a tenth."""


@dataclass(frozen=True)
class Limit:
    """What a user may not be able to give a method."""

    key: str
    title: str
    column: str
    """What the leaderboard says of a method that needs it."""


LIMITS = (
    Limit("samples", "No raw samples may be kept", "keeps samples"),
    Limit("task", "The task of an image is not known", "needs the task"),
    Limit("growth", "The storage may not grow", "storage grows"),
)


@dataclass(frozen=True)
class Needs:
    """What a method needs; None where it is not known."""

    samples: bool | None
    task: bool | None
    growth: float | None
    """Bytes that each task adds, 0 where they are few beside the whole."""

    def breaks(self, limit: str) -> bool:
        """Whether it needs what the limit rules out; what is not known is ruled out too."""
        value = getattr(self, limit)
        return value is None or bool(value)


@dataclass(frozen=True)
class Card:
    """The best method under some limits."""

    title: str
    row: Row | None
    """None: no method is left, or none learned."""
    accuracy: Estimate | None
    tied: tuple[str, ...]
    """The others that share the first rank among those that are left; and the lower bound if the best may equal it."""
    other: bool
    """Whether the accuracy is that in the other setting."""


def needs_of(summary: Summary) -> dict[str, Needs]:
    """By method, what it needs: by what its class declares, and by the sizes that were recorded."""
    return {row.method: _needs(row) for row in summary.rows}


def _needs(row: Row) -> Needs:
    sizes = [growth for run in row.runs if (growth := growth_of(run)) is not None]
    growth = statistics.fmean(sizes) if sizes else None
    if row.method not in names_in("methods"):  # results of another version
        return Needs(None, None, growth)
    stores, sees_all, needs_task = (
        declares(row.method, name) for name in ("stores_samples", "sees_all_tasks", "needs_task_id")
    )
    return Needs(stores or sees_all, needs_task, growth)


def growth_of(run: RunResult) -> float | None:
    """Bytes of state, and of the network where it was recorded, that each task adds in the later half of the tasks.

    0 where it is little beside the whole; None with fewer than three tasks, in which a memory may still be filling.
    """
    sizes = [entry["state_bytes"] + entry.get("network_bytes", 0) for entry in run.per_task]
    if len(sizes) < 3:
        return None
    half = (len(sizes) + 1) // 2 - 1
    grown = sizes[-1] - sizes[half]
    return grown / (len(sizes) - 1 - half) if sizes[-1] > GROWS * sizes[half] else 0.0


def offered(summary: Summary, needs: dict[str, Needs]) -> list[Limit]:
    """The limits that rule out some method here, but not all."""
    ranked = [row.method for row in summary.rows if not row.bound]
    broken = {limit: [needs[method].breaks(limit.key) for method in ranked] for limit in LIMITS}
    return [limit for limit, of in broken.items() if any(of) and not all(of)]


def asks_other(summary: Summary, limits: Sequence[Limit]) -> bool:
    """Whether under these limits accuracy means that in the other setting: where tasks are given, and will not be."""
    return summary.other_setting == "task-agnostic" and any(limit.key == "task" for limit in limits)


def cards(summary: Summary, needs: dict[str, Needs]) -> Iterator[Card]:
    """The best method without a limit, under each limit, and under all of them."""
    limits = offered(summary, needs)
    wanted = [(), *combinations(limits, 1), *([tuple(limits)] if len(limits) > 1 else [])]
    for chosen in wanted:
        title = "No limit" if not chosen else "All these limits" if len(chosen) > 1 else chosen[0].title
        yield _card(title, chosen, summary, needs)


def _card(title: str, limits: Sequence[Limit], summary: Summary, needs: dict[str, Needs]) -> Card:
    other = asks_other(summary, limits)
    rows = best_at_other(summary.rows) if other else list(summary.rows)
    left = [r for r in rows if not r.bound and not any(needs[r.method].breaks(limit.key) for limit in limits)]
    chance = summary.other_chance if other else summary.chance
    trouble = unlearned([*(r for r in rows if r.bound), *left], chance, other)
    left = above_chance(left, chance, other)
    best = first_ranked(left)
    if best is None or trouble:
        return Card(title, None, None, (), other)
    first = [method for method, rank in ranks(values_of(left, other)).items() if rank == 1]
    tied = [method for method in first if method != best.method]
    lower = next((row for row in rows if row.bound == "lower bound"), None)
    if lower is not None and not better(best.by_seed(other), lower.by_seed(other)):
        tied.append(lower.method)
    return Card(title, best, best.other_accuracy if other else best.accuracy, tuple(tied), other)
