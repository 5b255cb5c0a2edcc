"""Three pictures of a class: one to learn from, one to decide by, one to test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cl.__main__ import run
from cl.data.prepare import prepare
from cl.names import names_in
from cl.params import Benchmark, Params
from cl.pool import advice
from cl.register import method_class
from cl.rng import generator
from tests.cl.small import SHORT, learner_for, params_for, run_for
from tests.conftest import RAW

TASKS = {"nuts": ("good", "cracked"), "screws": ("bent", "good", "rusty")}
KNOBS: dict[str, dict[str, Any]] = {
    **SHORT,
    "dgr": {**SHORT["dgr"], "generator_units": 6, "generator_code": 2},
}
"""What keeps a method from taking long."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares of noise, each class around a colour of its own."""
    root, draw = tmp_path_factory.mktemp("few"), generator("few pictures")
    for task, classes in TASKS.items():
        for name in classes:
            folder = root / "pictures" / task / name
            folder.mkdir(parents=True)
            base = torch.randint(40, 200, (1, 1, 3), generator=draw)
            for number in range(3):
                noise = torch.randint(-40, 40, (8, 8, 3), generator=draw)
                picture = Image.fromarray((base + noise).to(torch.uint8).numpy())
                picture.save(folder / f"{number}.png")
    return root / "pictures"


def benchmark(pictures: Path) -> Benchmark:
    return Benchmark(name="folder", path=str(pictures), image_size=8)


@pytest.mark.parametrize("method", names_in("methods"))
def test_every_method_learns_from_them(method: str, pictures: Path, tmp_path: Path) -> None:
    """By the whole protocol, in batches made for many more."""
    prepare(benchmark(pictures), RAW, tmp_path / "prepared", say=lambda line: None)
    scenario = "class" if "class" in method_class(method).scenarios else "task"
    sections: dict[str, Any] = {"training": {"epochs": 2, "batch_size": 200}, "model": {"hidden": [16, 12]}}
    params = params_for(method, KNOBS.get(method), scenario={"name": scenario}, **sections)
    learner = learner_for(params, tmp_path / "prepared")
    assert [
        [len(getattr(task, kind)) for kind in ("train", "validation", "test")] for task in learner.sequence.tasks
    ] == [
        [2, 2, 2],
        [3, 3, 3],
    ]
    learned = run_for(params, learner, tmp_path / "work")
    learned.run()
    assert len(learned.records[-1]["accuracy"]) == 2


def test_a_batch_larger_than_a_task_is_said(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree: dict[str, Any] = {
        "benchmark": benchmark(pictures).model_dump(),
        "training": {"epochs": 1, "batch_size": 200},
        "selection": {"enabled": False},
        "methods": {"finetune": {}},
        "seeds": [0],
    }
    assert run(Params.model_validate(tree), tmp_path) == {}
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert line == (
        "warning: nuts has 2 training images, and a batch holds 200: an epoch is a single step, which teaches little; "
        "set training.batch_size=1"
    )
    for other in ({"training": {"batch_size": 1}}, {"methods": {"ncm": {}}}, {"scenario": {"online": True}}):
        assert advice(Params.model_validate({**tree, **other}), tmp_path / "prepared") is None
