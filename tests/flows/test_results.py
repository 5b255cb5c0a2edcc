"""Result files that others wrote or edited: read as they are, or refused in a sentence; never anything else."""

from __future__ import annotations

import functools
import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cl.errors import UserError
from cl.files import to_json
from cl.reading import RunResult, read_run, read_runs
from flows import nightly, templates
from flows.nights.verdict import compare_nights
from flows.report import page as pages
from flows.report.drawing import Drawing
from flows.report.headline import headline
from flows.report.leaderboard import leaderboard, table
from flows.report.rows import compare
from flows.report.summary import Summary, long_form
from tests.flows.test_report import fake_results, trial

FILES = [f"results/{method}/seed-0{kind}.json" for method in ("ewc", "finetune") for kind in ("", ".trials", ".cost")]
WRONG: list[Any] = [
    None, True, False, 0, -1, 1, 2, 10**30, -0.5, 0.5, 1.5, 1e300, "", "0.5", "x" * 2000, "é\u2028$", [], [[]], [1, 2],
    {}, {"a": 1}, math.nan, math.inf, -math.inf,
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks, with all that a result can have."""
    out = fake_results(tmp_path_factory.mktemp("out"), ("ewc", "finetune", "joint"), (0,), 3)
    path = out / "results/ewc/seed-0.json"
    data = json.loads(path.read_text())
    for entry in data["per_task"]:
        entry |= {"network_bytes": 1000, "zero_shot_accuracy": 0.3, "untrained_accuracy": 0.1, "remarks": ["one"]}
    data |= {"task_agnostic_accuracy": data["accuracy"], "reduced": {}, "scenario": "task-incremental", "search": ""}
    path.write_text(json.dumps(data))
    path = path.with_suffix(".trials.json")
    data = json.loads(path.read_text())
    for index in (1, 2):
        found = trial("t", index, "stability", 9, 0.05, {"strength": 7.0}, 0.9, 0.7, False)
        data["trials"].append(found | {"stability": 0.4, "instability": 0.2, "diverged": True})
    path.write_text(json.dumps(data))
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def mutated(data: Any, draw: random.Random) -> str:
    """The JSON text of the value with one thing in it changed."""
    every = list(places(data))
    place, key = draw.choice(every)
    kind = draw.choice(["wrong", "wrong", "wrong", "remove", "double", "add", "exchange", "deep", "text"])
    if kind == "wrong":
        place[key] = draw.choice(WRONG)
    elif kind == "remove":
        del place[key]
    elif kind == "double" and isinstance(place, list):
        place.insert(key, place[key])
    elif kind == "add":
        found = draw.choice(WRONG)
        place.append(found) if isinstance(place, list) else place.update({"unknown": found})
    elif kind == "exchange":
        other, name = draw.choice(every)
        place[key], other[name] = json.loads(json.dumps([other[name], place[key]]))
    elif kind == "deep":
        place[key] = json.loads("[" * 200 + "]" * 200)
    elif kind == "text":
        place[key] = "\ud800"
    text = json.dumps(data)
    if kind == "double" and isinstance(place, dict):  # the name twice
        text = text.replace(f"{json.dumps(key)}:", f"{json.dumps(key)}: 0, {json.dumps(key)}:", 1)
    return text


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The bytes with some of them changed."""
    if not data:
        return b"\0"
    kind, at = draw.choice(["flip", "cut", "insert", "digit"]), draw.randrange(len(data))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "insert":
        return data[:at] + draw.choice([b"\0", b"\xff", b"9" * 5000, b"[" * 3000, b"e999", b",", b"}"]) + data[at:]
    digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    at = draw.choice(digits) if digits else at
    return data[:at] + str(draw.randrange(10)).encode() + data[at + 1 :]


def everything_said(out: Path, good: list[RunResult]) -> None:
    """All that is made of results but the figures."""
    runs = read_runs(out)
    rows = compare(runs)
    summary = Summary("b", runs[0].tasks, rows, headline(rows), out, (), "task-agnostic")
    leaderboard(summary).encode()
    pages.page(summary, dict.fromkeys(("average", "curves", "matrices", "tradeoff"), Drawing(b"", "")), {}).encode()
    to_json([summary.metrics(), table(summary)])
    long_form(runs).encode()
    if runs[0].tasks == good[0].tasks:
        for one, other in ((runs, good), (good, runs)):
            to_json([vars(change) | {"said": change.said} for change in compare_nights(one, other, {}).changes])
    to_json({run.method: nightly._means(runs, run.method) for run in runs})


@pytest.mark.parametrize("part", range(4))
def test_no_change_to_a_file_ends_in_anything_but_a_sentence(
    part: int, whole: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, good = random.Random(part), read_runs(whole)
    said: list[str] = []
    monkeypatch.setattr(pages, "template", functools.cache(templates.template))  # it takes longer than all else
    for _ in range(100):
        name = draw.choice(FILES)
        before = (whole / name).read_bytes()
        if draw.random() < 0.75:
            (out / name).write_text(mutated(json.loads(before), draw))
        else:
            (out / name).write_bytes(damaged(before, draw))
        try:
            everything_said(out, good)
        except UserError as error:
            said.append(str(error))
        except BaseException as error:
            raise AssertionError(f"{name}: {(out / name).read_bytes()[:3000]!r}") from error
        (out / name).write_bytes(before)
    assert 50 < len(said) < 95, "some changes are none of a report's business"
    assert not [line for line in said if "\n" in line or len(line) > 600]


@pytest.mark.parametrize("name", FILES[:3])
def test_what_is_no_file(name: str, out: Path) -> None:
    (out / name).unlink()
    (out / name).mkdir()
    with pytest.raises(UserError, match=rf"{name} cannot be read \(it is no file\): delete it and run"):
        read_runs(out)


def changed(kind: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def write(out: Path) -> None:
        path = out / f"results/ewc/seed-0{kind}.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return write


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("", lambda d: d["per_task"][1].update(attempts="3")), r"per_task\.1\.attempts: .* integer, not '3'"),
        (changed("", lambda d: d["per_task"][2].update(state_bytes=-1)), r"per_task\.2\.state_bytes: .*, not -1"),
        (changed("", lambda d: d["per_task"][0].update(knobs=[])), r"per_task\.0\.knobs: .* dictionary"),
        (
            changed("", lambda d: d["per_task"][0]["knobs"].update(strength={})),
            r"knobs\.strength: .*no value",
        ),
        (changed("", lambda d: d["per_task"].pop(1)), "not have one entry for each task"),
        (changed("", lambda d: d["per_task"].reverse()), "in their order"),
        (changed("", lambda d: d["per_task"][1].pop("zero_shot_accuracy")), "without the other"),
        (changed("", lambda d: d["accuracy"][0].__setitem__(2, 0.5)), "row 1 .* not learned yet"),
        (changed("", lambda d: d["accuracy"][2].__setitem__(1, True)), "row 3"),
        (changed("", lambda d: d["task_agnostic_accuracy"].pop()), "one row for each of 3 tasks"),
        (changed("", lambda d: d["tasks"].__setitem__(1, 7)), r"tasks\.1"),
        (changed("", lambda d: d.update(schema=True)), "not a file of schema 1"),
        (changed("", lambda d: d.update(scenario=None)), "scenario"),
        (changed(".trials", lambda d: d.update(seed=1)), "of another run .its seed is 1"),
        (changed(".trials", lambda d: d["trials"][0].update(task_index=3)), r"trials\.0\.task_index: there is no such"),
        (changed(".trials", lambda d: d["trials"][0].update(stability=None)), r"trials\.0\.stability"),
        (changed(".cost", lambda d: d.update(method="si")), "its method is 'si'"),
        (changed(".cost", lambda d: d["per_task"][0]["seconds"].update(evaluate="1")), "seconds.evaluate"),
        (changed(".cost", lambda d: d.update(peak_memory_bytes=0)), "peak_memory_bytes"),
        (lambda out: (out / "results/ewc/seed-0.json").rename(out / "results/ewc/seed-00.json"), "rename it to seed-0"),
    ],
)
def test_what_is_wrong_is_named(change: Callable[[Path], None], words: str, out: Path) -> None:
    change(out)
    with pytest.raises(UserError, match=rf"results/ewc/seed-00?\.\S+ .*{words}.*--methods ewc --seeds 0"):
        read_runs(out)


def test_fields_that_are_not_known_are_passed_over(out: Path) -> None:
    path = out / "results/ewc/seed-0.json"
    data = json.loads(path.read_text())
    data["new"] = data["per_task"][0]["new"] = {"any": ["thing"]}
    path.write_text(json.dumps(data))
    assert read_run(path, "ewc", 0).per_task[0]["new"] == {"any": ["thing"]}
