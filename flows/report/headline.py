"""The sentences above the leaderboard: what may be said of these numbers, and what may not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cl.chance import Chance
from cl.metrics import paired
from flows.report.rows import Row, first_ranked, values_of
from flows.report.standing import better, ranks
from flows.report.words import Estimate, listing, percent

MORE = "more epochs, smaller batches, pretrained weights"
"""What helps where nothing was learned."""
NAMED = 4
"""So many methods that share the first rank are named in the headline; of more it says how many they are."""


def headline(rows: Sequence[Row], chance: Chance | None = None) -> str:
    """The best method and its distance to the bounds; no winner where nothing was learned or nothing is told apart."""
    bounds = {row.bound: row for row in rows if row.bound}
    if trouble := unlearned(rows, chance):
        return trouble
    ranked = [row for row in above_chance(rows, chance) if not row.bound]
    best, lower = first_ranked(ranked), bounds.get("lower bound")
    if best is None:
        return "Only the bounds have been run: " + ", ".join(f"{r.method} {percent(r.accuracy)} %" for r in rows) + "."
    first = [method for method, rank in ranks(values_of(ranked)).items() if rank == 1]
    reached = f"{percent(best.accuracy, 1)} % average accuracy"
    highest = f"{best.method} has the highest mean: {reached}"
    if len(ranked) == 1:
        text = f"{best.method} reaches {reached}"
    elif best.accuracy[1] is None:
        text = f"With one seed nothing tells these methods apart. {highest}"
    elif lower and not any(better(row.by_seed(), lower.by_seed()) for row in ranked):
        several = len(best.so_far) > 1
        why = "which does nothing against forgetting" if several else "as one task leaves nothing to forget"
        text = f"By these seeds no method is better than {lower.method}, {why}. {highest}"
    elif len(first) > 1:
        text = f"{shared(first)} share the first rank: these seeds do not tell them apart. {highest}"
    else:
        text = f"{best.method} leads with {reached}"
    gaps = [gap(best, bounds[bound]) for bound in ("upper bound", "lower bound") if bound in bounds]
    text += (", " + listing(gaps) if gaps else "") + "."
    pairs = {row.method: paired(row.by_seed(), best.by_seed()) for row in ranked if row.method not in first}
    if near := [method for method, pair in pairs.items() if pair and pair.tied]:
        text += f" These seeds do not tell it apart from {shared(near)}{' either' if len(first) > 1 else ''}."
    return text


def above_chance(rows: Iterable[Row], chance: Chance | None, other: bool = False) -> list[Row]:
    """The rows that are not near chance, by the accuracy or the `other` one; all where chance is not known."""
    values = [(row, row.other_accuracy if other else row.accuracy) for row in rows]
    return [row for row, value in values if chance is None or not (value and chance.near(value[0]))]


def unlearned(rows: Sequence[Row], chance: Chance | None, other: bool = False) -> str:
    """Why no method wins here: nothing was learned; empty where something was, or where chance is not known.

    `other`: of the accuracies in the other setting, with their own chance.
    """
    if chance is None:
        return ""
    values = {row.method: value for row in rows if (value := row.other_accuracy if other else row.accuracy)}
    able = [row for row in rows if row.method in values]
    near = {*values} - {row.method for row in above_chance(able, chance, other)}
    guess = f"chance is {100 * chance.accuracy:.1f} %"
    joint = next((row.method for row in rows if row.bound == "upper bound" and row.method in values), None)
    if joint in near:
        return (
            f"Nothing was learned, so no method wins: {joint}, which sees all tasks at once, reaches "
            f"{_points(values[joint])} %, and {guess}. {joint} did not learn: try {MORE}."
        )
    ranked = [row.method for row in rows if not row.bound and row.method in values]
    if not ranked or not near.issuperset(ranked):
        return ""
    best = max(ranked, key=lambda method: values[method][0])
    text = (
        f"No method wins: none is clearly above chance. The best, {best}, has {_points(values[best])} %, and {guess}."
    )
    return text + (f" {joint} reaches {_points(values[joint])} %." if joint else f" Try {MORE}.")


def gap(best: Row, bound: Row) -> str:
    """How far the best method is from a bound."""
    points = 100 * (best.accuracy[0] - bound.accuracy[0])
    text = f"{abs(points):.1f} points {'below' if points < 0 else 'above'} {bound.method}"
    pair = paired(best.by_seed(), bound.by_seed())
    return text + (" (not told apart)" if pair and pair.tied else "")


def shared(methods: Sequence[str]) -> str:
    """The methods that share a rank; of many the first, and how many more there are."""
    if len(methods) <= NAMED:
        return listing(methods)
    return f"{', '.join(methods[: NAMED - 1])} and {len(methods) - NAMED + 1} others"


def _points(value: Estimate) -> str:
    return percent(value, 1)
