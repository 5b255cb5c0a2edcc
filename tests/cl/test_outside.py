"""What the comparison with another implementation concludes from an interval."""

from __future__ import annotations

import pytest

from benchmarks.outside import verdict


@pytest.mark.parametrize(
    ("mean", "half", "said"),
    [
        (0.0013, 0.0115, "same"),
        (0.0101, 0.0062, "within, differs"),
        (-0.0255, 0.0125, "differs"),
        (0.001, 0.03, "open"),
        (0.01, 0.0101, "open"),
        (0.01, None, "?"),
    ],
)
def test_no_difference_seen_is_not_yet_the_same(mean: float, half: float | None, said: str) -> None:
    assert verdict(mean, half) == said
