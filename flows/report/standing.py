"""Which methods are better than which, by paired tests over the seeds that they share, and the ranks that follow."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from cl import metrics

BySeed = Mapping[int, float]


def better(own: BySeed, other: BySeed) -> bool:
    """Whether the paired test finds `own` better; of two methods with one seed each, the higher accuracy is.

    Nothing is told apart where one has several seeds, of which no two are shared to test: the others have failed.
    """
    difference = metrics.paired(own, other)
    if difference is None or difference.half is None:
        alone = len(own) == len(other) == 1
        return alone and statistics.fmean(own.values()) > statistics.fmean(other.values())
    return difference.mean > 0 and not difference.tied


def beaten_by(values: Mapping[str, BySeed]) -> dict[str, list[str]]:
    """By method, the methods that are better."""
    return {name: [other for other in values if better(values[other], values[name])] for name in values}


def ranks(values: Mapping[str, BySeed]) -> dict[str, int]:
    """By method, one more than the number of methods that are better: what is not told apart shares a rank.

    No method has a better rank than one with a higher mean: a wide interval is no merit. Source: the leaderboards of
    Chatbot Arena (Chiang et al. 2024), with the paired t-test in place of a bootstrap.
    """
    beaten, worst, found = beaten_by(values), 1, {}
    for name in sorted(values, key=lambda name: -statistics.fmean(values[name].values())):
        found[name] = worst = max(worst, 1 + len(beaten[name]))
    return found
