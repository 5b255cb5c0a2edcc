"""The studies: each can be read, and how long it takes can be estimated."""

from pathlib import Path

import pytest

from benchmarks.studies import GREY, SIDE, images, passes
from cl.data import load
from cl.data.prepare import prepare
from cl.params import Params, read
from tests.flows.test_report import REPOSITORY

STUDIES = sorted((REPOSITORY / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_has_sizes_and_a_line_on_the_page(path: Path) -> None:
    params = read(path)
    assert passes(params) >= sum(images(params.benchmark))
    assert params.benchmark.image_size or params.benchmark.name in SIDE
    about = path.read_text().split("\n")[0].removeprefix("# ")
    assert f"| `{path.stem}` | {about} |" in (REPOSITORY / "docs/studies.md").read_text()


def test_sizes_of_the_digits_are_those_prepared(tmp_path: Path) -> None:
    params = Params.model_validate({"benchmark": {"name": "split-digits"}, "methods": {"finetune": {}}})
    prepare(params.benchmark, REPOSITORY / "data", tmp_path / "prepared", say=lambda line: None)
    found = load(tmp_path / "prepared")
    assert [len(task.train) for task in found.tasks] == images(params.benchmark)
    assert found.input_shape == (1, SIDE["split-digits"], SIDE["split-digits"])
    assert "split-digits" in GREY


def test_passes_count_every_training() -> None:
    tree = {
        "benchmark": {"name": "tiny-imagenet", "tasks": 2, "train_per_class": 10},
        "training": {"epochs": 3},
        "selection": {"boot_learning_rates": [0.1, 0.05, 0.02], "learning_rates": [0.1, 0.05]},
        "methods": {"finetune": {}},
    }
    assert passes(Params.model_validate(tree)) == 200 * 3 * (3 + 2)
    assert passes(Params.model_validate({**tree, "methods": {"joint": {}}})) == 400 * 3 * 3
    assert passes(Params.model_validate({**tree, "methods": {"ewc": {}}})) == 200 * 3 * (3 + 2 + 1)
    assert passes(Params.model_validate({**tree, "methods": {"packnet": {}}})) == 200 * 3 * (3 + 2)  # prunes again
    assert passes(Params.model_validate({**tree, "methods": {"hat": {}}})) == 200 * 3 * (3 + 1 + 2 + 1)
    assert passes(Params.model_validate({**tree, "selection": {"enabled": False}})) == 200 * 3 * 2
    stream = {"name": "class", "online": True}
    online = {**tree, "scenario": stream, "selection": {"enabled": False}, "methods": {"finetune": {}, "er": {}}}
    assert passes(Params.model_validate(online)) == 200 * 2 * 2
