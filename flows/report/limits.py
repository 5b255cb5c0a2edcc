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

GROWS = 0.1
"""Storage grows if the later half of the tasks add more than a tenth to it, heads aside."""


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
    """The others that share the first rank among those that are left."""
    other: bool
    """Whether the accuracy is that in the other setting."""
    unbeaten: tuple[str, Estimate] | None = None
    """The lower bound and its accuracy, where no test finds the best method better."""


def needs_of(summary: Summary) -> dict[str, Needs]:
    """By method, what it needs: by what its class declares, and by the sizes that were recorded."""
    heads = least_network(summary.rows)
    return {row.method: _needs(row, heads) for row in summary.rows}


def _needs(row: Row, heads: Sequence[int] | None) -> Needs:
    sizes = [growth for run in row.runs if (growth := growth_of(run, heads)) is not None]
    growth = statistics.fmean(sizes) if sizes else None
    if row.method not in names_in("methods"):  # results of another version
        return Needs(None, None, growth)
    stores, sees_all, needs_task = (
        declares(row.method, name) for name in ("stores_samples", "sees_all_tasks", "needs_task_id")
    )
    return Needs(stores or sees_all, needs_task, growth)


def least_network(rows: Sequence[Row]) -> list[int] | None:
    """The smallest network of any method after each task: it grows by the heads alone, and so does every other.

    None where one method alone learned task by task, or sizes are not on record: there heads cannot be told apart.
    """
    learned = [run for row in rows for run in row.runs if len(run.per_task) == len(run.tasks)]
    sizes = [[entry.get("network_bytes") for entry in run.per_task] for run in learned]
    if len({run.method for run in learned}) < 2 or any(None in line for line in sizes):
        return None
    return [min(after) for after in zip(*sizes, strict=True)]


def growth_of(run: RunResult, heads: Sequence[int] | None = None) -> float | None:
    """Bytes of state and network that each task adds in the later half of the tasks, beside the `heads`.

    `heads`: the size of a network that grows by heads alone, after each task. 0 where it is little beside the whole.
    None with fewer than three tasks, in which a memory may still be filling, and where a network grew without `heads`.
    """
    if len(run.per_task) < 3:
        return None
    networks = [entry.get("network_bytes", 0) for entry in run.per_task]
    states = [entry["state_bytes"] for entry in run.per_task]
    half = (len(states) + 1) // 2 - 1
    grown = states[-1] - states[half]
    if heads is not None:
        grown += (networks[-1] - heads[-1]) - (networks[half] - heads[half])
    if grown > GROWS * (states[half] + networks[half]):
        return grown / (len(states) - 1 - half)
    return None if heads is None and networks[-1] > networks[half] else 0.0


def offered(summary: Summary, needs: dict[str, Needs]) -> list[Limit]:
    """The limits that rule out some method here, but not all."""
    ranked = [row.method for row in summary.rows if not row.bound]
    broken = {limit: [needs[method].breaks(limit.key) for method in ranked] for limit in LIMITS}
    return [limit for limit, of in broken.items() if any(of) and not all(of)]


def asks_other(summary: Summary, limits: Sequence[Limit]) -> bool:
    """Whether under these limits accuracy means that in the other setting: where tasks are given, and will not be."""
    given = summary.other_setting == "task-agnostic" and len(summary.tasks) > 1
    return given and any(limit.key == "task" for limit in limits)


def cards(summary: Summary, needs: dict[str, Needs]) -> Iterator[Card]:
    """The best method without a limit, under each limit, and under all of them."""
    limits = offered(summary, needs)
    alone = len([row for row in summary.rows if not row.bound]) == 1
    without = "No limit" if limits else "The method" if alone else "The best method"
    wanted = [(), *combinations(limits, 1), *([tuple(limits)] if len(limits) > 1 else [])]
    for chosen in wanted:
        title = without if not chosen else "All these limits" if len(chosen) > 1 else chosen[0].title
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
    reached, unbeaten = accuracy_of(best, other), None
    lower = next((row for row in rows if row.bound == "lower bound"), None)
    if lower is not None and not better(best.by_seed(other), lower.by_seed(other)) and reached:
        unbeaten = (lower.method, accuracy_of(lower, other) or reached)
    return Card(title, best, reached, tuple(tied), other, unbeaten)


def accuracy_of(row: Row, other: bool) -> Estimate | None:
    """The average accuracy in the scenario, or in the `other` setting."""
    return row.other_accuracy if other else row.accuracy
