"""Damage to the work folder: said in a line that names the file, and made again to the same bytes, whatever it is."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cl import anytime, keys
from cl.__main__ import table
from cl.children import Children, RunId
from cl.data.prepare import prepare, read_manifest
from cl.errors import UserError
from cl.keys import run_folder
from cl.params import Benchmark, Params
from cl.publish import publish_if_finished
from cl.run import learn
from cl.status import status_of
from tests.cl.small import output, params_for, published
from tests.conftest import RAW

METHOD = "ewc"
PARAMS = params_for(METHOD)
RESULTS = ("result.json", "trials.json", "cost.json", "studies.log")


@pytest.fixture(scope="module")
def whole(prepared: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with one finished run of two tasks."""
    out = output(tmp_path_factory.mktemp("whole"), prepared[2])
    assert again(out) == []
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out", symlinks=True))


def work(out: Path, name: str = "") -> Path:
    return run_folder(PARAMS, METHOD, 0, out) / name


def again(out: Path, params: Params = PARAMS) -> list[str]:
    """The run once more, as every command does it; returns what is warned of."""
    events: list[dict[str, Any]] = []
    if not publish_if_finished(params, (METHOD, 0), out, events.append):
        learn(params, METHOD, 0, out, events.append)
    return [event["message"] for event in events if event["event"] == "warning"]


def one_number(path: Path) -> None:
    """Another digit somewhere in it."""
    text = path.read_text()
    number = re.search(r"0\.\d{3,}", text) or re.search(r"\d{3,}", text)
    assert number is not None
    digit = number.start() + 2
    path.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(path.name).randrange(len(data))] ^= 4
    path.write_bytes(data)


def text(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(content)

    write.__name__ = content[:12]
    return write


def removed(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "mine.txt").write_text("of somebody's")


def too_deep(path: Path) -> None:
    path.write_text("[" * 100_000 + "]" * 100_000)


DAMAGES = [one_number, one_bit, text("[]"), removed, a_folder, too_deep]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", RESULTS)
def test_a_damaged_result_is_said_and_made_again(
    name: str, damage: Callable[[Path], None], whole: Path, out: Path
) -> None:
    """From what was published, or, where that is gone as well, from the checkpoints and what was noted of costs."""
    damage(work(out, name))
    if damage in (one_number, removed):
        shutil.rmtree(out / "results")
    warnings = again(out)
    assert str(work(out, name)) in warnings[0]
    assert published(out) == published(whole)
    cost, before = (json.loads((folder / f"results/{METHOD}/seed-0.cost.json").read_bytes()) for folder in (out, whole))
    assert [cost[key] for key in ("seconds", "step_seconds", "per_task")] == [
        before[key] for key in ("seconds", "step_seconds", "per_task")
    ]
    assert cost["peak_memory_bytes"] > 0.99 * before["peak_memory_bytes"], "the kernel counts roughly"
    assert again(out) == [], "whole again"


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ["finished.json", "task-000/record.json", "task-001/manifest.json", "unit.json"])
def test_damage_to_what_vouches_for_the_rest(name: str, damage: Callable[[Path], None], whole: Path, out: Path) -> None:
    if (name, damage) == ("finished.json", removed):
        pytest.skip("which is how a killed run stands")
    damage(work(out, name))
    run = RunId(METHOD, 0)
    status_of(PARAMS, run, out, read_manifest(out / "prepared")["tasks"])
    warnings = again(out)
    if name != "unit.json":  # it decides nothing
        assert str(work(out, name).parent if "manifest" in name else work(out, name)) in warnings[0]
    assert published(out) == published(whole)
    assert again(out) == []


@pytest.mark.parametrize("copies", ["kept", "lost"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_manifest_without_a_key(finished: bool, copies: str, whole: Path, out: Path) -> None:
    """It is put back where the run is known to be finished, and was published; else the task is learned again."""
    path = work(out, "task-001/manifest.json")
    path.write_text('{"key": null}')
    if copies == "lost":
        shutil.rmtree(out / "checkpoints")
    if not finished:
        work(out, "finished.json").unlink()
    warnings = again(out)
    learned = f"{path}: missing or damaged: refused; learning task 2 again"
    said = f"{path}: missing or damaged (its sha256 is not that of finished.json)"
    copy = out / f"checkpoints/{METHOD}/seed-0/task-1/manifest.json"
    expected = {(True, "kept"): [f"{said}: restored from {copy}"], (True, "lost"): [f"{said}: made again", learned]}
    assert warnings == expected.get((finished, copies), [learned])
    assert published(out) == published(whole)


def test_a_key_with_another_digit_in_it_is_not_published(whole: Path, out: Path) -> None:
    path = work(out, "task-001/manifest.json")
    manifest = json.loads(path.read_bytes())
    manifest["key"] = manifest["key"][::-1]
    path.write_text(json.dumps(manifest))
    (warning,) = again(out)
    assert str(path) in warning
    assert published(out) == published(whole)


@pytest.mark.parametrize("damage", [one_number, text("[]"), removed, a_folder], ids=lambda damage: damage.__name__)
def test_what_a_task_cost_is_lost(damage: Callable[[Path], None], whole: Path, out: Path) -> None:
    """Then there is no sum of it: one that leaves a task out would be wrong. With the sum whole nothing is lost."""
    damage(work(out, "cost-000.json"))
    assert again(out) == []
    work(out, "finished.json").unlink()
    warnings = again(out)
    assert f"{work(out, 'cost-000.json')}: missing or damaged, so the cost of task 1 is lost" in warnings[-1]
    assert published(out) == published(whole)
    assert not (out / f"results/{METHOD}/seed-0.cost.json").exists()
    assert again(out) == []


def unfinished(out: Path) -> None:
    """As a kill leaves it just before the last task is kept."""
    shutil.rmtree(work(out, "task-001"))
    work(out, "finished.json").unlink()


def test_a_trial_that_was_altered_is_made_again(whole: Path, out: Path) -> None:
    """The other learning rate would be the better one."""
    unfinished(out)
    journal = work(out, "studies.log")
    lines = journal.read_text().splitlines(keepends=True)
    told = [number for number, line in enumerate(lines) if '"outcome":' in line]
    altered = told[-3]
    trials = json.loads((out / f"results/{METHOD}/seed-0.trials.json").read_bytes())["trials"]
    assert [t["phase"] for t in trials if t["task_index"] == 1][:3] == ["plasticity", "plasticity", "stability"]
    for number in told[2:4]:
        lines[number] = re.sub(r'("accuracy":)[\d.]+', r"\g<1>0.0" + "1" * (number == altered), lines[number])
    journal.write_text("".join(lines))
    (warning,) = again(out)
    assert f"{journal}: damaged; the trials after the damage are run again" in warning
    assert published(out) == published(whole)


def test_flipped_bits_in_the_journal_change_nothing(whole: Path, out: Path, tmp_path: Path) -> None:
    unfinished(out)
    draw = random.Random(0)
    for number in range(8):
        copy = Path(shutil.copytree(out, tmp_path / str(number), symlinks=True))
        data = bytearray(work(copy, "studies.log").read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        work(copy, "studies.log").write_bytes(data)
        (warning,) = again(copy)
        assert "studies.log: damaged" in warning
        assert published(copy) == published(whole)


def test_results_of_fewer_tasks_are_not_taken_for_damaged(prepared: dict[int, Path], whole: Path, out: Path) -> None:
    """A third task was begun, and is taken away again."""
    output(out, prepared[3])

    class Stopped(BaseException):
        pass

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "trial":
            raise Stopped

    with pytest.raises(Stopped):
        learn(PARAMS, METHOD, 0, out, stop)
    output(out, prepared[2])
    assert again(out) == []
    assert published(out) == published(whole)


@pytest.mark.parametrize("name", ["unit.json", "task-000/manifest.json", "cost-000.json"])
@pytest.mark.parametrize("damage", [text("[]"), text('{"key": null}'), one_number], ids=lambda damage: damage.__name__)
def test_damage_to_what_another_version_learned(
    name: str, damage: Callable[[Path], None], whole: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on after an upgrade takes what is whole, and learns the rest."""
    damage(work(out, name))
    monkeypatch.setattr(keys, "version", lambda package: "1.0")
    params = params_for(METHOD, execution={"after_upgrade": "continue"})
    status_of(params, RunId(METHOD, 0), out, read_manifest(out / "prepared")["tasks"])
    warnings = again(out, params)
    kept = {"unit.json": [], "task-000/manifest.json": [], "cost-000.json": ["another version has learned 2 tasks"]}
    assert [warning.split(";")[0] for warning in warnings[:1]] == kept[name]
    assert {path: data for path, data in published(out).items() if "manifest" not in path} == {
        path: data for path, data in published(whole).items() if "manifest" not in path
    }


def test_no_run_is_stopped_by_the_files_of_another(whole: Path, out: Path) -> None:
    results = out / f"results/{METHOD}"
    shutil.rmtree(results)
    results.write_text("a file")
    assert not publish_if_finished(PARAMS, (METHOD, 0), out, lambda event: None), "its process tells"
    with pytest.raises(UserError, match=rf"{results}/seed-0\.json: cannot be written"):
        again(out)
    results.unlink()
    result = results / "seed-0.json"
    result.mkdir(parents=True)
    assert again(out) == [f"{result}: stood where a file of the results belongs; renamed to seed-0.json.aside-1"]
    shutil.rmtree(work(out))
    work(out).write_text("a file")
    children = Children(PARAMS, out, lambda run, event: None)
    assert "cannot be written" in (children.run(RunId(METHOD, 0)) or "")
    children.close()


@pytest.mark.parametrize("damage", [one_number, text("[]"), removed], ids=lambda damage: damage.__name__)
def test_no_other_command_goes_by_what_is_damaged(damage: Callable[[Path], None], out: Path) -> None:
    run = RunId(METHOD, 0)
    damage(work(out, "trials.json"))
    with pytest.raises(
        UserError, match=r"trials\.json: missing or damaged .*; repair it first: python -m flows\.compare"
    ):
        anytime.trace(PARAMS, run, out, 1)
    damage(work(out, "finished.json"))
    with pytest.raises(UserError, match="ewc/seed-0: not learned"):
        anytime.trace(PARAMS, run, out, 1)


def test_the_plain_table_needs_results_that_say_something(out: Path) -> None:
    path = out / f"results/{METHOD}/seed-0.json"
    assert "ewc" in table(PARAMS, out)
    for damaged in ("[]", "{", '{"average_accuracy": "0.9", "average_forgetting": null}'):
        path.write_text(damaged)
        with pytest.raises(
            UserError, match=rf"{path} .*: delete it and run `python -m flows\.compare --methods ewc --seeds 0` again"
        ):
            table(PARAMS, out)


# What training reads.


@pytest.fixture
def own(prepared: dict[int, Path], tmp_path: Path) -> Path:
    """An output folder with a prepared benchmark of its own."""
    shutil.copytree(prepared[2], tmp_path / "own/prepared")
    return tmp_path / "own"


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_altered_data_are_not_learned_from(split: str, kind: str, own: Path) -> None:
    path = own / f"prepared/task-000/{split}-{kind}.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-64] + bytes(64) if kind == "images" else data[:-8] + data[-16:-8])
    if path.read_bytes() == data:
        path.write_bytes(data[:-1] + b"\1")
    with pytest.raises(UserError, match=rf"{path}: missing, cut short or altered .*; prepare again"):
        again(own)
    assert not list(work(own).glob("task-*")), "nothing is kept"
    assert not (own / "results").exists()


def test_altered_data_are_prepared_again(own: Path) -> None:
    def everything() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (own / "prepared").rglob("*") if path.is_file()}

    before, said = everything(), list[str]()
    options = Benchmark(name="permuted-digits", tasks=2, train_per_class=10)
    images, manifest = own / "prepared/task-001/test-images.npy", own / "prepared/manifest.json"
    for path, damaged in {images: bytes(100), manifest: b"[]"}.items():
        path.write_bytes(damaged)
        said.clear()
        prepare(options, RAW, own / "prepared", say=said.append)
        assert f"prepared: warning: {path}" in said[0]
        assert everything() == before


ALTERED = [
    lambda manifest: manifest["tasks"][0].update(digest="0" * 64),
    lambda manifest: manifest["tasks"][0].update(classes=["a", "b"]),
    lambda manifest: manifest["tasks"][1].update(name=[]),
    lambda manifest: manifest["tasks"][1]["splits"].pop("test"),
    lambda manifest: manifest["tasks"][1]["splits"]["test"]["images"].update(sha256="x"),
    lambda manifest: manifest.update(scale=32.0),
    lambda manifest: manifest.update(mean=[1e999]),
    lambda manifest: manifest.update(input_shape=[1, 8, 9]),
    lambda manifest: manifest.update(tasks=[]),
    lambda manifest: manifest.update(benchmark="another"),
    lambda manifest: manifest.pop("key"),
]


@pytest.mark.parametrize("alter", ALTERED)
@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "of an earlier version"])
def test_a_manifest_that_was_altered_is_refused(alter: Callable[[Any], Any], seal: bool, own: Path) -> None:
    path = own / "prepared/manifest.json"
    manifest = json.loads(path.read_bytes())
    if not seal:
        del manifest["sha256"]
        path.write_text(json.dumps(manifest))
        read_manifest(own / "prepared")
    alter(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=rf"^{path}: .*; prepare again \(python -m flows\.prepare\)$"):
        read_manifest(own / "prepared")
