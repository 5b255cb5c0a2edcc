"""The report's look at final models, class by class: it agrees with the results, and does without checkpoints too."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cl.data import load
from cl.data.prepare import prepare
from cl.params import Params
from cl.reading import read_run
from cl.run import learn
from flows.report.build import build
from flows.serving import confusion
from flows.serving.final import Final, final_of
from flows.serving.judgement import Judgement
from tests.cl import animals
from tests.conftest import RAW
from tests.flows.conftest import REPOSITORY

SCENARIOS = {"task": "ewc,joint", "domain": "finetune", "class": "ncm,finetune"}


def params_of(folder: Path, scenario: str, **report: Any) -> Params:
    """Of digits; in class-incremental learning, of animals that come again."""
    classes = {"name": "folder", "path": str(folder / "pictures"), "image_size": animals.SIDE}
    return Params.model_validate(
        {
            "benchmark": classes if scenario == "class" else {"name": "split-digits", "tasks": 3},
            "model": {"hidden": [16]},
            "training": {"epochs": 5, "batch_size": 8},
            "scenario": {"name": scenario},
            "selection": {"enabled": False},
            "methods": {method: {} for method in SCENARIOS[scenario].split(",")},
            "seeds": [0],
            "tracking": {"enabled": False},
            "report": report,
        }
    )


def learned(folder: Path, scenario: str) -> Path:
    params, out = params_of(folder, scenario), folder / "out"
    if scenario == "class":
        animals.prepared(folder)
    else:
        prepare(params.benchmark, RAW, out / "prepared", lambda line: None)
    for method in params.methods:
        learn(params, method, 0, out, lambda event: None)
    return out


@pytest.fixture(scope="module")
def photographed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("classes"), "class")


@pytest.fixture
def out(photographed: Path, tmp_path: Path) -> Path:
    """A copy in which nothing has been computed."""
    shutil.copytree(photographed.parent, tmp_path / "all", ignore=shutil.ignore_patterns("judged"))
    return tmp_path / "all" / "out"


def page_of(out: Path, said: list[str] | None = None, **report: Any) -> str:
    params = params_of(out.parent, "class", **report)
    return (build(out, params=params, say=(said if said is not None else []).append).folder / "index.html").read_text()


def agrees(final: Final, out: Path, first_labels: list[str]) -> None:
    """The diagonal of the confusion is the result's accuracy, image by image."""
    run = read_run(out / "results" / final.method / "seed-0.json", final.method, 0)
    tasks = load(out / "prepared").tasks
    right = sum(round((run.accuracy[-1][task.index] or 0) * len(task.test)) for task in tasks)
    judgement = final.judgement
    assert judgement.labels[: len(first_labels)] == first_labels
    assert sum(judgement.confusion[name][k] for k, name in enumerate(judgement.labels)) == right
    assert sum(sum(line) for line in judgement.confusion.values()) == sum(len(task.test) for task in tasks)
    assert len(final.mistakes) == min(100, judgement.count - right)
    assert [one.probability for one in final.mistakes] == sorted(one.probability for one in final.mistakes)[::-1]
    for one in final.mistakes:
        label = tasks[one.task].classes[int(tasks[one.task].test.y[one.image])]
        assert one.label.rpartition("/")[2] == label
        assert one.answer != one.label
    assert sum(size for _, size in final.groups) == len(judgement.labels)


@pytest.mark.parametrize("scenario", ["task", "domain"])
def test_the_confusion_is_that_of_the_result(scenario: str, tmp_path: Path) -> None:
    params, out = params_of(tmp_path, scenario), learned(tmp_path, scenario)
    for method in params.methods:
        final = final_of(params, out, read_run(out / f"results/{method}/seed-0.json", method, 0), lambda line: None)
        agrees(final, out, ["0", "1", "2"])
        assert final.asked == ("task-aware" if scenario == "task" else "task-agnostic")
        assert final.groups == [("digits-0-1", 2), ("digits-2-3", 2), ("digits-4-5", 2)]


def test_a_class_that_came_again_is_one_row(photographed: Path) -> None:
    params = params_of(photographed.parent, "class")
    for method in params.methods:
        run = read_run(photographed / f"results/{method}/seed-0.json", method, 0)
        final = final_of(params, photographed, run, lambda line: None)
        agrees(final, photographed, ["cat", "dog", "bird", "fish"])
        assert final.groups == [("1-pets", 2), ("2-zoo", 2), ("3-cats", 0)]
        assert set(final.calibration) == {"task-aware", "task-agnostic"}
        ece = final.calibration["task-agnostic"]["ece_after"]
        assert final.judgement.calibration_error == pytest.approx(ece, abs=1e-6)


def test_it_is_computed_once_and_then_neither_time_nor_torch_is_needed(out: Path) -> None:
    said: list[str] = []
    page = page_of(out, said)
    assert [line.split(",")[0] for line in said] == ["report: ncm"], "the best method, and no other"
    assert "Class by class" in page
    assert page.count('id="figure-confusion-') == 1
    code = (
        "import sys, pathlib; from cl.params import Params; from flows.report.build import build;"
        "params = Params.model_validate_json(sys.argv[2]);"
        "build(pathlib.Path(sys.argv[1]), params=params, say=sys.exit);"
        "sys.exit('torch' in sys.modules)"
    )
    given = params_of(out.parent, "class").model_dump_json()
    subprocess.run([sys.executable, "-c", code, out, given], check=True, cwd=REPOSITORY)
    again: list[str] = []
    assert page_of(out, again, classes="all").count('id="figure-confusion-') == 2
    assert [line.split(",")[0] for line in again] == ["report: finetune"]
    assert (out / "report/plots/confusion-finetune.png").exists()
    page = page_of(out, again, classes="none")
    assert "Class by class" not in page
    assert not list((out / "report/plots").glob("confusion-*"))
    (kept,) = (out / ".work/judged").glob("ncm-*")
    kept.write_text(kept.read_text().replace('"count"', '"counts"'))
    page_of(out, again)
    assert again[-1].startswith("report: ncm"), "what was altered is computed anew"


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (shutil.rmtree, "there is no checkpoint"),
        (lambda folder: (folder / "net.safetensors").write_bytes(b"x"), "damaged"),
        (lambda folder: (folder / "manifest.json").write_text('{"key": "a"}'), "other params, data or code"),
    ],
)
def test_without_the_checkpoint_the_report_says_so(damage: Any, why: str, out: Path) -> None:
    damage(out / "checkpoints/ncm/seed-0/task-2")
    page = page_of(out, classes="all")
    told = re.findall(r"Of ncm, seed 0, there is nothing to show: (.*)", page)
    assert len(told) == 1
    assert why in told[0]
    assert page.count('id="figure-confusion-') == 1, "that of finetune"


def test_thumbnails_are_the_images_that_are_most_surely_wrong(out: Path) -> None:
    assert "<img" not in page_of(out, classes="all")
    page = page_of(out, classes="all", pictures=2)
    params = params_of(out.parent, "class")
    final = final_of(params, out, read_run(out / "results/finetune/seed-0.json", "finetune", 0), lambda line: None)
    assert len(final.mistakes) >= 2, "else there is nothing to show"
    shown = page[page.index('id="figure-confusion-finetune"') :]
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="a test image of (\w+)"', shown)[:2]
    for (data, label), mistake in zip(pictures, final.mistakes, strict=False):
        image = load(out / "prepared").tasks[mistake.task].test.images[mistake.image].numpy()
        assert label == mistake.label
        assert (np.array(Image.open(io.BytesIO(base64.b64decode(data)))) == image.transpose(1, 2, 0)).all()


def test_long_names_are_shortened_and_stay_within_the_figure() -> None:
    name = "rose-breasted-grosbeak-(Pheucticus-ludovicianus)"
    assert confusion.shortened(f"{name}-female") == "rose-breaste…nus)-female"
    assert confusion.shortened("Boletus edulis") == "Boletus edulis"
    names = [f"{name}-{kind}" for kind in ("female", "male", "young")]
    found = Judgement(
        count=9, accuracy=1 / 3, by_class=dict.fromkeys(names, (3, 1 / 3)), labels=names,
        confusion={label: [1, 1, 1] for label in names}, calibration_error=0.0, foreign=0, foreign_refused=None,
        known=None,
    )  # fmt: skip
    figure = confusion.confusion(found, [(f"{name}s", 2), ("fungi", 1)])
    figure.draw_without_rendering()
    (axes,) = figure.axes
    labels = [*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts]
    boxes = [label.get_window_extent() for label in labels]
    assert min(min(box.x0, box.y0) for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
    assert axes.get_window_extent().width > 0.35 * figure.bbox.width
