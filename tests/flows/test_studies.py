"""The studies: each can be read, and how long it takes can be estimated."""

from pathlib import Path

import pytest

from benchmarks.studies import GREY, SIDE, images, passes
from cl.data import load
from cl.data.prepare import prepare
from cl.params import Params, read
from cl.register import method_class
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


@pytest.mark.parametrize(
    ("name", "boot", "epochs", "code_sizes"),
    [
        ("tiny-imagenet", [0.1, 0.05], 70, [100, 300]),
        ("inaturalist", [], 70, [200, 500]),
        ("recogseq", [], 100, [100, 300]),
    ],
)
def test_what_the_survey_has_of_its_own_for_each_set(
    name: str, boot: list[float], epochs: int, code_sizes: list[int]
) -> None:
    params = read(REPOSITORY / f"studies/{name}.yaml")
    rates = [0.01, 0.005, 0.001, 0.0005, 0.0001]
    assert params.selection.learning_rates == rates
    assert params.selection.first_task_learning_rates == boot + rates
    assert params.training.epochs == epochs
    assert params.methods["ebll"]["code_sizes"] == code_sizes


@pytest.mark.parametrize("name", ["tiny-imagenet-as-coded", "tiny-imagenet-scaled-as-coded"])
def test_as_coded_every_switch_is_the_other_way(name: str) -> None:
    """But for those of later papers, and SI's, whose default is what that code does; its EBLL and PackNet have none."""
    for method, knobs in read(REPOSITORY / f"studies/{name}.yaml").methods.items():
        for switch, declared in method_class(method).knobs.items():
            if declared.alternatives and not declared.younger and method != "si":
                assert knobs.get(switch) in declared.alternatives, f"{method}.{switch}"


def test_passes_count_every_training() -> None:
    tree = {
        "benchmark": {"name": "tiny-imagenet", "tasks": 2, "train_per_class": 10},
        "training": {"epochs": 3},
        "selection": {"first_task_learning_rates": [0.1, 0.05, 0.02], "learning_rates": [0.1, 0.05]},
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
