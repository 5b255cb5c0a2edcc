"""Models in use: predictions over folders, calibration, images of no class, export, and challenges."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cl.data import load
from cl.deployed import Calibration, Deployed
from cl.errors import UserError
from cl.names import names_in
from cl.params import Params
from cl.reading import read_run
from cl.register import method_class
from flows import export, predict
from flows.serving.challenge import Challenge, challenge
from flows.serving.choice import choose
from flows.serving.judgement import drift, judge
from flows.serving.learned import Calibrated, calibrate, deployed
from flows.serving.pictures import answers, found
from flows.serving.registry import decide, register
from flows.serving.source import Used, registered
from flows.tracking.settings import tracking_of
from tests.flows.conftest import REPOSITORY
from tests.flows.test_champion import LEARNS, TASKS, learn_all, mlflow_of_its_own, params_of, tags  # noqa: F401 - a fixture

pytestmark = pytest.mark.filterwarnings("ignore:.*type hint:UserWarning:mlflow")
SETTINGS = ("benchmark.name=split-digits", "benchmark.tasks=4", "scenario.name=class")
METHODS = "er,ncm"


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Split digits, class-incremental: four tasks, eight classes."""
    out = tmp_path_factory.mktemp("predict") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        learn_all(settings(out), out)
    return out


def settings(out: Path, *more: str, methods: str = METHODS) -> Params:
    return params_of(out, *SETTINGS, *more, methods=methods, seeds="0")


def model_of(out: Path, method: str = "ncm", index: int = 3, *more: str) -> tuple[Deployed, Calibrated]:
    params = settings(out, *more)
    run = read_run(out / "results" / method / "seed-0.json", method, 0)
    model = deployed(params, out, run, index)
    numbers = calibrate(params, out, run, model)
    model.calibration = Calibration.read(numbers.numbers, numbers.tensors)
    return model, numbers


@pytest.fixture(scope="module")
def digits(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images as PNG files, in folders by task and class."""
    root = tmp_path_factory.mktemp("digits")
    for task in load(learned / "prepared").tasks:
        for number, (image, label) in enumerate(zip(task.test.images.numpy(), task.test.y.tolist(), strict=True)):
            folder = root / task.name / task.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rint(image[0] * (255 / 16)).astype(np.uint8)).save(folder / f"{number}.png")
    return root


def command(module: Any, out: Path, *words: str, methods: str = METHODS) -> list[str]:
    """The command line of a command about this comparison."""
    pairs = [part for one in (*settings_of(out, methods), *words) for part in [one]]
    return [module.__name__, *pairs]


def settings_of(out: Path, methods: str) -> list[str]:
    from tests.flows.conftest import options

    given = options("tracking.enabled=true", *LEARNS, *SETTINGS, out=out, methods=methods, seeds="0")
    return ["--params", str(REPOSITORY / "params.yaml"), *given]


def checkpoint(out: Path, method: str = "ncm", index: int = 3) -> list[str]:
    return ["--checkpoint", str(out / "checkpoints" / method / "seed-0" / f"task-{index}")]


# Calibration.


@pytest.mark.parametrize("method", ["er", "ncm"])
def test_probabilities_are_those_of_the_temperature_and_better_than_before(method: str, learned: Path) -> None:
    model, found = model_of(learned, method)
    plain = deployed(settings(learned), learned, read_run(learned / f"results/{method}/seed-0.json", method, 0), 3)
    task = load(learned / "prepared").tasks[1]
    for asked, told in (("task-aware", 1), ("task-agnostic", None)):
        numbers = found.numbers[asked]
        with torch.no_grad():
            scores = plain.method.predict(task.test.x, told)
        chances = (scores / numbers["temperature"]).softmax(1)
        rows = model.answers(task.test.images, told)
        assert [list(row["probabilities"].values()) for row in rows] == chances.tolist()
        assert [row["probability"] for row in rows] == chances.max(1).values.tolist()
        if method == "ncm":  # cosines, whose plain softmax is nearly uniform
            assert numbers["ece_after"] < numbers["ece_before"] / 2
    assert found.numbers["task-agnostic"]["images"] == sum(len(t.validation) for t in load(learned / "prepared").tasks)


def test_a_share_of_the_validation_images_is_known(learned: Path) -> None:
    for share in (0.5, 0.95):
        model, found = model_of(learned, "er", 3, f"champion.known_share={share}")
        tasks = load(learned / "prepared").tasks
        known = [row["known"] for task in tasks for row in model.answers(task.validation.images, None)]
        assert share <= sum(known) / len(known) < share + 0.05
        assert found.numbers["task-agnostic"]["test_known"] == pytest.approx(
            np.mean([row["known"] for task in tasks for row in model.answers(task.test.images, None)])
        )
        assert 0.4 < found.unknown["task-agnostic"]["auroc"] <= 1
        assert found.half == 2
    model, found = model_of(learned, "er", 3, "champion.known_share=null")
    assert "known" not in model.answers(load(learned / "prepared").tasks[0].test.images, None)[0]
    assert not found.unknown


def test_nothing_is_decided_by_test_images(learned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temperature, least nearness and what is kept of validation are the same whatever the test images are."""
    before = model_of(learned)[1]
    from cl.data import task as module

    def other(self: Any) -> Any:
        images, labels, t = self._read()
        return (images, labels, t) if len(labels) != test else (16 - images, labels.flip(0), t)

    test = len(load(learned / "prepared").tasks[0].test)
    assert test not in {len(load(learned / "prepared").tasks[0].validation)}
    monkeypatch.setattr(module.Split, "_arrays", property(other))
    after = model_of(learned)[1]
    assert before.numbers["task-agnostic"]["ece_before"] != after.numbers["task-agnostic"]["ece_before"]
    for name in ("temperature", "least_nearness", "images"):
        assert before.numbers["task-agnostic"][name] == after.numbers["task-agnostic"][name]
    assert before.file == after.file


# Predictions.


def test_a_folder_with_labels(
    learned: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (digits / "digits-0-1/0/broken.png").write_bytes(b"\x89PNG and no more")
    (digits / "zoo/elephant").mkdir(parents=True)
    Image.new("L", (8, 8), 200).save(digits / "zoo/elephant/e.png")
    to = tmp_path / "new/answers.csv"
    monkeypatch.setattr(sys, "argv", command(predict, learned, str(digits), "--to", str(to), *checkpoint(learned)))
    assert predict.main() == 0
    said = capsys.readouterr().out
    with to.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(predict.COLUMNS)
    bad = [row for row in rows if row["fault"]]
    assert [(row["path"], row["class"], row["probability"]) for row in bad] == [("digits-0-1/0/broken.png", "", "")]
    assert "1 files are no usable pictures: digits-0-1/0/broken.png (not a picture of a known format)" in said
    model = model_of(learned)[0]
    result = read_run(learned / "results/ncm/seed-0.json", "ncm", 0)
    read = [row for row in rows if not row["fault"] and row["label"]]
    right = np.mean([row["class"] == row["label"] for row in read])
    assert right == pytest.approx(result_over_pictures(learned, result.accuracy[-1]))
    assert f"accuracy {100 * right:.1f} % of {len(read):,} labelled pictures" in said
    assert "1 pictures are in folders of no class of the model" in said
    one = next(row for row in read if row["path"].startswith("digits-2-3"))
    again = model.answers(model.image((digits / one["path"]).read_bytes()).unsqueeze(0), None)[0]
    assert (one["class"], one["task"]) == (again["class"], again["task"])
    assert float(one["probability"]) == pytest.approx(again["probability"], rel=1e-4)
    with to.with_name("answers.confusion.csv").open(newline="") as file:
        head, *lines = list(csv.reader(file))
    assert head == ["class", *"01234567"]
    assert [line[0] for line in lines] == [*"01234567", "(no class of the model)"]
    assert sum(int(lines[k][k + 1]) for k in range(8)) == round(right * len(read))
    assert to.with_name("answers.confusion.png").read_bytes().startswith(b"\x89PNG")
    with to.with_name("answers.classes.csv").open(newline="") as file:
        assert sum(int(row["pictures"]) for row in csv.DictReader(file)) == len(read)
    assert not list(to.parent.glob(".*"))


def result_over_pictures(out: Path, by_task: list[float | None]) -> float:
    """The accuracy over all pictures, of those by task."""
    sizes = [len(task.test) for task in load(out / "prepared").tasks]
    return sum(size * (value or 0) for size, value in zip(sizes, by_task, strict=True)) / sum(sizes)


def test_a_list_as_parquet_without_labels(
    learned: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pandas as pd

    paths = sorted((digits / "digits-4-5/4").iterdir())[:3]
    listed, to = tmp_path / "some.txt", tmp_path / "answers.parquet"
    listed.write_text("\n".join([*map(str, paths), str(tmp_path / "gone.png"), ""]))
    words = [str(listed), "--to", str(to), "--task", "digits-4-5", *checkpoint(learned)]
    monkeypatch.setattr(sys, "argv", command(predict, learned, *words))
    assert predict.main() == 0
    table = pd.read_parquet(to)
    assert set(table["class"].dropna()) <= {"4", "5"}
    assert table["fault"].dropna().tolist() == ["no such file"]
    assert table["known"].dropna().map(type).eq(bool).all()
    said = capsys.readouterr().out
    assert "accuracy" not in said
    refused = sum(known is False for known in table["known"])
    assert (f"{refused} of 3 pictures are none of the classes" in said) == (refused > 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: is not there"),
        (["."], "holds no picture"),
        (["x.png", "--to", "x.json"], r"has to end in \.csv or \.parquet"),
        (["x.png"], "no model is registered"),
        (["x.png", "--checkpoint", "somewhere"], "is no checkpoint"),
        (["x.png", "--checkpoint", "out/checkpoints/ewc/seed-0/task-1"], "ewc is not among the methods"),
        (["x.png", "--checkpoint", "out/checkpoints/ncm/seed-0/task-9"], "is not there, or was learned with other"),
        (["x.png", "--checkpoint", "a", "--model", "b@c"], "give one of them"),
    ],
)
def test_what_cannot_be_predicted(
    words: list[str], said: str, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if words != ["."]:
        Image.new("L", (8, 8)).save("x.png")
    out = tmp_path / "out"
    out.mkdir()
    if words != ["."]:
        (out / "prepared").symlink_to(learned / "prepared")
    empty = tmp_path / "empty"
    empty.mkdir()
    given = [str(empty) if word == "." else word for word in words]
    monkeypatch.setattr(sys, "argv", command(predict, out, *given))
    with pytest.raises(UserError, match=said):
        predict.main()


# Export.


@pytest.mark.parametrize("method", ["er", "ncm"])
def test_an_export_answers_as_the_model(
    method: str, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--to", str(tmp_path / "files"), *checkpoint(learned, method)]
    monkeypatch.setattr(sys, "argv", command(export, learned, *words))
    assert export.main() == 0
    assert "(tolerance 1e-04), the class is the same for 100" in capsys.readouterr().out
    extra = {export.METADATA: ""}
    graph = torch.export.load(tmp_path / "files/model.pt2", extra_files=extra).module()
    told = json.loads(extra[export.METADATA])
    model = model_of(learned, method)[0]
    assert told["classes"] == [column.name for column in model.columns(None)]
    assert told["method"] == method
    images = load(learned / "prepared").tasks[2].test.images[:7]
    chances, nearness = graph(images)
    rows = model.answers(images, None)
    assert chances.numpy() == pytest.approx(np.array([list(row["probabilities"].values()) for row in rows]), abs=1e-5)
    assert [float(near) >= told["least_nearness"] for near in nearness] == [row["known"] for row in rows]
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["model.pt2"]


def test_an_export_that_answers_otherwise_is_not_written(
    learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--to", str(tmp_path / "files"), *checkpoint(learned)]
    monkeypatch.setattr(sys, "argv", command(export, learned, *words))
    plain = export._ours
    monkeypatch.setattr(export, "_ours", lambda *given: plain(*given) + 0.001)
    with pytest.raises(UserError, match=r"model\.pt2: not written, because it does not answer as the model does"):
        export.main()
    assert not list((tmp_path / "files").iterdir())


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="pip install 'unforgetting[onnx]'")
@pytest.mark.filterwarnings("ignore")  # of torch's own exporter, about itself
def test_onnxruntime_answers_as_the_model(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx
    import onnxruntime

    words = ["--to", str(tmp_path), "--onnx", "--each-task", *checkpoint(learned)]
    monkeypatch.setattr(sys, "argv", command(export, learned, *words))
    assert export.main() == 0
    assert sorted(path.name for path in tmp_path.glob("*.onnx")) == [f"task-{k}.onnx" for k in range(4)]
    session = onnxruntime.InferenceSession(tmp_path / "task-1.onnx")
    model = model_of(learned)[0]
    for count in (1, 5):
        images = load(learned / "prepared").tasks[1].test.images[:count]
        chances = session.run(None, {"images": images.numpy()})[0]
        rows = model.answers(images, 1)
        assert chances == pytest.approx(np.array([list(row["probabilities"].values()) for row in rows]), abs=1e-5)
    told = {entry.key: entry.value for entry in onnx.load(tmp_path / "task-1.onnx").metadata_props}
    assert json.loads(told["classes"]) == ["2", "3"]
    assert told["task"] == "digits-2-3"


def test_what_cannot_be_exported_says_so(learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the method declares, which is asked for instead of its name."""
    from cl.exported import exported

    model = model_of(learned)[0]
    monkeypatch.setattr(type(model.method), "exports", "by-task")
    with pytest.raises(UserError, match=r"without the task, .* \(--each-task\)"):
        exported(model, None)
    assert exported(model, 1) is not None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(sys, "argv", command(export, learned, "--to", str(tmp_path), "--onnx", *checkpoint(learned)))
    monkeypatch.setattr("cl.register.checked", lambda params: params)
    monkeypatch.setattr(export, "used", lambda params, given: Used(model, "a model", "its card"))
    for name, value, said in (
        ("exports", "torch", "ONNX lacks an operation of ncm"),
        ("needs_task_id", True, "ncm needs the task of a picture, .* --each-task"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(method_class("ncm"), "exports", "onnx")
            patch.setattr(method_class("ncm"), name, value)
            with pytest.raises(UserError, match=said):
                export.main()
    monkeypatch.undo()
    assert {method_class(name).exports for name in names_in("methods")} == {"onnx", "torch", "by-task"}


# Challenges.


def test_a_challenge_counts_pictures_pair_by_pair(learned: Path, digits: Path) -> None:
    better, worse = model_of(learned, "ncm")[0], model_of(learned, "ncm", 1)[0]
    match = challenge(better, worse, digits, 0.05, aware=False)
    root, pictures = found(digits)
    told = {}
    for name, model in (("new", better), ("old", worse)):
        rows = answers(model, root, pictures, lambda picture: None)
        told[name] = {a.picture.path: a.label == a.picture.label for a in rows if not a.fault}
    own = [p.path for p in pictures if p.label in set("01234567") and p.path in told["new"]]
    assert match.pictures == len(own)
    assert match.only_challenger == sum(told["new"][p] and not told["old"][p] for p in own)
    assert match.only_champion == sum(told["old"][p] and not told["new"][p] for p in own)
    assert match.won  # the other one has not learned half of the classes
    back = challenge(worse, better, digits, 0.05, aware=True)
    assert (back.won, back.p < 0.05) == (False, True)
    with pytest.raises(UserError, match="no picture is in a folder that is called like a class"):
        challenge(better, worse, digits / "zoo", 0.05, aware=False)


def test_pictures_like_those_of_validation_have_not_drifted_and_others_have(learned: Path, digits: Path) -> None:
    model = model_of(learned, "er")[0]
    root, pictures = found(digits)
    rows = [a for a in answers(model, root, pictures, lambda picture: None) if a.picture.label in set("01234567")]
    near = drift(model, rows, aware=False)
    assert near is not None
    assert near.p > 0.01
    judged = judge(model, rows)
    assert judged is not None
    assert judged.foreign == 0
    from dataclasses import replace

    far = drift(model, [replace(row, nearness=row.nearness - 3) for row in rows], aware=False)
    assert far is not None
    assert far.p < 1e-6
    assert "more than chance explains" in far.said
    assert "no more than chance explains" in near.said


MATCH = Challenge("new", 100, 0.9, 0.8, 12, 2, 0.013, 0.05, None)


@pytest.mark.parametrize(
    ("match", "barred", "moves", "words"),
    [
        (MATCH, None, True, "12 only the challenger gets right, 2 only the champion"),
        (Challenge("new", 100, 0.9, 0.88, 12, 10, 0.8, 0.05, None), None, False, "stays champion"),
        (Challenge("new", 100, 0.8, 0.9, 2, 12, 0.013, 0.05, None), None, False, "stays champion"),
        (Challenge("new", 100, 0.8, 0.9, 2, 12, 0.013, 0.05, None), "needs the task id", True, "needs the task id"),
    ],
)
def test_a_challenge_decides(match: Challenge, barred: str | None, moves: bool, words: str) -> None:
    found, why = decide(tags(0.99, TASKS), "3", barred, tags(0.1, TASKS), "4", TASKS, match)
    assert (found, words in why) == (moves, True)


def test_the_alias_moves_by_a_challenge_and_mlflow_has_its_numbers(
    learned: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from mlflow import MlflowClient

    monkeypatch.chdir(REPOSITORY)
    out = Path(shutil.copytree(learned, tmp_path / "out"))
    params = settings(out, "champion.name=one")
    where = tracking_of(params, out)
    first, second = ("er", "ncm") if rightness(out, digits, "er") < rightness(out, digits, "ncm") else ("ncm", "er")
    register(params, out, choose(params, out, first), where)
    client = MlflowClient(where.address)
    challenged = settings(out, "champion.name=one", f"champion.challenge={digits}", "champion.challenge_level=0.999")
    said = register(challenged, out, choose(challenged, out, second), where)
    version = client.get_model_version_by_alias("one", "champion")
    assert version.tags["method"] == second
    assert "so this becomes champion" in said
    assert f"McNemar's exact test: p = {float(version.tags['challenge.p']):.2g}" in version.description
    assert float(version.tags["task-agnostic.temperature"]) > 0
    again = register(challenged, out, choose(challenged, out, first), where)  # which is registered already
    assert "stays champion" in again
    assert client.get_model_version("one", "1").tags["challenge.won"] == "False"
    used = registered(where, "one@champion")
    images = load(out / "prepared").tasks[0].test.images
    assert used.model.answers(images, None) == model_of(out, second)[0].answers(images, None)
    assert "known: false" in used.card


def rightness(out: Path, digits: Path, method: str) -> float:
    root, pictures = found(digits)
    rows = answers(model_of(out, method)[0], root, pictures, lambda picture: None)
    return sum(a.label == a.picture.label for a in rows)
