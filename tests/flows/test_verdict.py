"""What counts as a change from one night to the next, on made-up results."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from cl.reading import RunResult
from flows.nights.verdict import CONFIDENCE, Verdict, compare_nights, noise


def run(method: str, seed: int, accuracy: float, seconds: float = 10.0, memory: float = 5e8) -> RunResult:
    """Two tasks, both of this accuracy at the end; the first was learned at 0.95."""
    per_task: list[dict[str, Any]] = [{"task": name, "steps": 500} for name in ("a", "b")]
    matrix = [[0.95, None], [accuracy, accuracy]]
    cost = {"step_seconds": seconds, "peak_memory_bytes": memory}
    return RunResult(Path(), method, seed, "toy", ("a", "b"), matrix, per_task, [], cost, {})


def night(accuracies: dict[str, Sequence[float]], **cost: float) -> list[RunResult]:
    return [
        run(method, seed, value, **cost) for method, values in accuracies.items() for seed, value in enumerate(values)
    ]


def kinds(verdict: Verdict, measure: str = "accuracy") -> dict[str, str]:
    return {change.method: change.kind for change in verdict.changes if change.measure == measure}


BEFORE = {"ewc": [0.90, 0.91, 0.92], "si": [0.80, 0.86, 0.83], "hat": [0.94, 0.94, 0.94]}


def test_the_same_to_the_last_bit_is_no_change() -> None:
    verdict = compare_nights(night(BEFORE), night(BEFORE), {})
    assert set(kinds(verdict).values()) == set(kinds(verdict, "forgetting").values()) == {"same"}
    assert verdict.good
    assert verdict.headline == "no change: every accuracy is the same to the last bit"


def test_the_first_night_has_nothing_to_be_compared_with() -> None:
    verdict = compare_nights(night(BEFORE), [], {})
    assert verdict.good
    assert verdict.changes == ()
    assert "nothing to compare" in verdict.headline


def test_a_change_of_all_seeds_alike_counts_though_seeds_differ_more() -> None:
    verdict = compare_nights(night({**BEFORE, "si": [0.79, 0.85, 0.82]}), night(BEFORE), {})
    assert kinds(verdict) == {"ewc": "same", "si": "worse", "hat": "same"}
    assert not verdict.good
    assert verdict.headline.startswith("regression: si: accuracy -1.00")
    better = compare_nights(night(BEFORE), night({**BEFORE, "si": [0.79, 0.85, 0.82]}), {})
    assert better.good
    assert kinds(better)["si"] == "better"


def test_two_seeds_are_enough_for_a_large_change() -> None:
    """The interval of two paired differences alone would reach from -36 to +3 points."""
    verdict = compare_nights(night({"ewc": [0.72, 0.76]}), night({"ewc": [0.90, 0.91]}), {})
    assert kinds(verdict) == {"ewc": "worse"}


def test_seeds_drawn_anew_are_noise() -> None:
    verdict = compare_nights(night({"si": [0.84, 0.82, 0.80]}), night({"si": BEFORE["si"]}), {})
    assert kinds(verdict) == {"si": "noise"}
    assert verdict.good
    assert verdict.headline == ("no change beyond noise, which for these seeds of si is up to 8 points of accuracy"), (
        "4.0 * sqrt((0.02**2 + 0.03**2) / 3), with t of 4 degrees of freedom"
    )
    alike = compare_nights(night({"si": [0.831, 0.829, 0.83]}), night({"si": [0.83, 0.83, 0.83]}), {})
    assert alike.headline == "no change beyond noise"
    assert compare_nights(night({"si": [0.8]}), night({"ewc": [0.8]}), {}).worse
    other = compare_nights(night({"ewc": [0.8], "si": [0.7]}), night({"ewc": [0.8]}), {})
    assert other.headline == "no change beyond noise", "nothing to compare a new method with"


def test_noise_is_told_from_change_as_often_as_promised() -> None:
    draw = random.Random(0)
    wrong = 0
    for _ in range(2000):
        after, before = ([draw.gauss(90, 1) for _ in range(3)] for _ in range(2))
        half = noise(after, before)
        assert half is not None
        wrong += abs(sum(after) - sum(before)) / 3 > half
    assert 0.01 < wrong / 2000 < 0.05


@pytest.mark.parametrize(
    ("after", "before", "smallest"),
    [
        ([1.0, 2.0, 3.5], [1.5, 2.4, 4.1], 0),
        ([3.5, 1.0, 2.0], [1.5, 2.4, 4.1], 1),
        ([9.0, 1.0, 5.5], [1.5, 2.4, 2.1], 2),
    ],
)
def test_noise_is_the_smallest_of_three_intervals(after: list[float], before: list[float], smallest: int) -> None:
    paired = stats.ttest_rel(after, before).confidence_interval(CONFIDENCE)
    apart = stats.ttest_ind(after, before).confidence_interval(CONFIDENCE)
    # As of two samples that both vary as the one before does.
    alone = stats.t.ppf(0.5 + CONFIDENCE / 2, 2) * stats.tstd(before) * (2 / 3) ** 0.5
    halves = [*((i.high - i.low) / 2 for i in (paired, apart)), alone]
    assert noise(after, before) == pytest.approx(min(halves))
    assert halves.index(min(halves)) == smallest
    assert noise([1.0], [2.0]) is None


def test_seeds_that_break_down_are_worse_however_differently() -> None:
    """Seen: a knob made worse cost the three seeds 14, 71 and 13 points, noise to the interval of the differences."""
    verdict = compare_nights(night({"ewc": [0.758, 0.189, 0.779]}), night({"ewc": [0.901, 0.895, 0.911]}), {})
    assert kinds(verdict) == {"ewc": "worse"}
    assert verdict.headline.startswith("regression: ewc: accuracy")


def test_a_busy_machine_makes_no_method_slower_than_the_others() -> None:
    """Ratios of a night on which other work went on: what stands out of a quiet one does not stand out of these."""
    busy = [1.12, 0.97, 0.76, 1.04, 0.85, 0.86, 0.86, 1.16, 1.14, 1.25, 1.17, 1.03, 0.86, 0.68, 1.2]
    names = [f"method {index}" for index in range(len(busy))]
    before = night({name: [0.9, 0.91, 0.92] for name in names})
    for ratios, found in ((busy, set()), ([1.0] * 13 + [1.5, 1.0], {"method 13"})):
        slow = [run(r.method, r.seed, 0.9, seconds=10 * ratios[names.index(r.method)]) for r in before]
        kind = kinds(compare_nights(slow, before, {}), "time per step")
        assert {name for name in names if kind[name] != "noise"} == found


def test_one_seed_alone_needs_a_whole_point() -> None:
    for loss, kind in ((0.008, "noise"), (0.012, "worse")):
        verdict = compare_nights(night({"ewc": [0.90 - loss]}), night({"ewc": [0.90]}), {})
        assert kinds(verdict) == {"ewc": kind}


def test_more_forgetting_is_worse() -> None:
    verdict = compare_nights(night({"ewc": [0.80, 0.81, 0.82]}), night({"ewc": BEFORE["ewc"]}), {})
    assert kinds(verdict, "forgetting") == {"ewc": "worse"}


def test_a_slow_machine_is_no_methods_fault() -> None:
    verdict = compare_nights(night(BEFORE, seconds=25.0), night(BEFORE, seconds=10.0), {})
    assert set(kinds(verdict, "time per step").values()) == {"noise"}
    slow = [
        run(r.method, r.seed, r.accuracy[1][0] or 0, seconds=20.0 if r.method == "si" else 10.0) for r in night(BEFORE)
    ]
    verdict = compare_nights(slow, night(BEFORE), {})
    assert kinds(verdict, "time per step") == {"ewc": "noise", "si": "worse", "hat": "noise"}
    assert "si: time per step x2.00" in verdict.headline


def test_memory_that_grows_is_told() -> None:
    verdict = compare_nights(night(BEFORE, memory=6e8), night(BEFORE), {})
    assert set(kinds(verdict, "memory").values()) == {"worse"}
    assert set(kinds(compare_nights(night(BEFORE, memory=5.2e8), night(BEFORE), {}), "memory").values()) == {"noise"}


def test_what_is_gone_and_what_is_new_is_told() -> None:
    verdict = compare_nights(
        night({"ewc": BEFORE["ewc"], "mas": [0.9]}), night({"ewc": BEFORE["ewc"], "si": [0.8]}), {}
    )
    assert kinds(verdict) == {"ewc": "same", "mas": "new", "si": "missing"}
    assert not verdict.good


def test_failed_runs_are_no_good_night() -> None:
    verdict = compare_nights(night(BEFORE), night(BEFORE), {"lwf/seed-0": "killed by SIGKILL"})
    assert not verdict.good
    assert verdict.headline == "1 of the runs failed: lwf/seed-0"
