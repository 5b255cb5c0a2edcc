"""Chance: what always the same answer gets, by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from cl.chance import Chance, chance, counts_of
from cl.data.prepare import prepare
from cl.params import Benchmark

COUNTS = [[10, 10], [6, 2, 2], [4, 4, 2]]


@pytest.mark.parametrize(
    ("scenario", "other", "accuracy"),
    [
        ("task-incremental", False, (0.5 + 0.6 + 0.4) / 3),  # the most frequent class of each task
        ("task-incremental", True, 0.6 / 3),  # right in the second task alone
        ("class-incremental", False, 0.6 / 3),
        ("online class-incremental", False, 0.6 / 3),
        ("class-incremental", True, (0.5 + 0.6 + 0.4) / 3),
    ],
)
def test_the_most_frequent_answer(scenario: str, other: bool, accuracy: float) -> None:
    assert chance(COUNTS, scenario, other).accuracy == pytest.approx(accuracy)


def test_domains_share_one_answer() -> None:
    """Class 1: 0.2 and 0.7, so 0.45 on average; class 0: 0.8 and 0.1."""
    assert chance([[8, 2, 0], [1, 7, 2]], "domain-incremental").accuracy == pytest.approx(0.45)


def test_what_is_near() -> None:
    """Within a tenth of the rest and a quarter of chance, or within the noise of few images."""
    assert Chance(0.389, 0.0).near(0.444), "the difference that made derpp a champion"
    assert not Chance(0.389, 0.0).near(0.46)
    assert not Chance(0.01, 0.0).near(0.02), "with a hundred classes, two per cent is twice what is guessed"
    assert Chance(0.01, 0.02).near(0.02)
    noise = chance([[50, 50]], "task-incremental").noise
    assert noise == pytest.approx(1.96 * (0.5 * 0.5 / 100) ** 0.5)


def test_counted_from_what_is_prepared(tmp_path: Path) -> None:
    assert counts_of(tmp_path) is None
    prepare(Benchmark(name="split-digits", tasks=2), Path("data"), tmp_path / "prepared", lambda line: None)
    found = counts_of(tmp_path / "prepared")
    assert found is not None
    for place, (name, counts) in enumerate(found.items()):
        labels = np.load(tmp_path / f"prepared/task-00{place}/test-labels.npy")
        assert counts == [int((labels == 0).sum()), int((labels == 1).sum())]
        assert name == json.loads((tmp_path / "prepared/manifest.json").read_text())["tasks"][place]["name"]
    (tmp_path / "prepared/task-000/test-labels.npy").unlink()
    assert counts_of(tmp_path / "prepared") is None
