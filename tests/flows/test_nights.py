"""Nights that a night is compared with, some of them damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cl.params import Params
from flows.nights.history import Night, last_good, nights
from flows.nights.page import DIFFERENCES, differences, in_short, morning
from tests.flows.test_report import fake_results

SEQUENCE = {"benchmark": "b", "tasks": ["one", "two"], "reduced": {}, "setting": ""}
RECORD = {
    "schema": 1, "night": "n", "good": True, "headline": "h", "compared_with": None, "sequence": SEQUENCE,
    "from": {"torch": "1"}, "params": {"seeds": [0]}, "failures": {}, "changes": [],
    "methods": {"ewc": {"accuracy": 0.9}},
}  # fmt: skip
PARAMS = Params.model_validate({"methods": {"ewc": {}, "finetune": {}}, "seeds": [0]})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three good nights."""
    for day in "123":
        fake_results(tmp_path / f"nights/2026-01-0{day}T03-00-00", ("ewc", "finetune"), (0,), 2)
        (tmp_path / f"nights/2026-01-0{day}T03-00-00/night.json").write_text(json.dumps(RECORD))
    return tmp_path


def test_the_latest_good_night_with_results_is_compared_with(home: Path) -> None:
    said: list[str] = []
    course = nights(home, said.append)
    assert said == []
    night, runs = last_good(course, SEQUENCE, PARAMS, said.append) or (None, [])
    assert (night, len(runs)) == (course[-1], 2)
    path = home / "nights/2026-01-03T03-00-00/results/ewc/seed-0.json"
    path.write_text(path.read_text()[:-50])
    shutil.rmtree(home / "nights/2026-01-02T03-00-00/results")
    night, runs = last_good(course, SEQUENCE, PARAMS, said.append) or (None, [])
    assert (night, len(runs)) == (course[0], 2)
    assert f"night 2026-01-03T03-00-00: nothing to compare with: {path} cannot be read" in said[0]
    assert "night 2026-01-02T03-00-00: nothing to compare with: no results" in said[1]
    assert last_good(course, {**SEQUENCE, "tasks": ["one"]}, PARAMS) is None


@pytest.mark.parametrize(
    "damaged",
    [
        [], None, {}, "x", {**RECORD, "good": 1}, {**RECORD, "sequence": []}, {**RECORD, "from": None},
        {**RECORD, "methods": {"ewc": 3}}, {**RECORD, "methods": {"ewc": {"accuracy": "0.9"}}},
        {**RECORD, "params": []}, {**RECORD, "sequence": {**SEQUENCE, "tasks": {}}},
    ],
)  # fmt: skip
def test_a_night_whose_record_is_damaged_is_left_out_and_said(damaged: Any, home: Path) -> None:
    path = home / "nights/2026-01-02T03-00-00/night.json"
    path.write_text(json.dumps(damaged))
    said: list[str] = []
    course = nights(home, said.append)
    assert [night.name for night in course] == ["2026-01-01T03-00-00", "2026-01-03T03-00-00"]
    assert said == [f"{path}: damaged; this night is left out"]


def test_records_of_the_first_nights_are_read(home: Path) -> None:
    """They did not say what a benchmark was scaled to."""
    early = {**RECORD, "sequence": {"benchmark": "b", "tasks": ["one", "two"]}, "later": 1}
    (home / "nights/2026-01-02T03-00-00/night.json").write_text(json.dumps(early))
    course = nights(home)
    assert len(course) == 3
    assert differences(RECORD, early) == {}
    assert "<svg" in morning(RECORD, [*course, Night(home, dict(RECORD))], course[1])


def test_in_short_a_night_says_against_what_and_which_inputs_differ() -> None:
    change = {"method": "ewc", "measure": "accuracy", "kind": "worse", "said": "-3.00 points"}
    before = {**RECORD, "params": {"training": {"epochs": 70}}}
    now = {**RECORD, "params": {"training": {"epochs": 7}}, "compared_with": "then", "changes": [change]}
    text = in_short(now, before, "http://here/morning.html")
    assert "Compared with then. [The morning's page](http://here/morning.html)\n" in text
    assert "| ewc | accuracy | worse: -3.00 points |\n" in text
    assert text.endswith("Inputs that differ:\n\n- `training.epochs`: 70 → 7\n")
    many = {**now, "params": {f"key{i}": i for i in range(DIFFERENCES + 2)}}
    assert in_short(many, {**RECORD, "params": {}}, "p").endswith("- and 2 more\n")
    assert "differ" not in in_short(RECORD, None, "p")
