"""A model of classes that came again, as it is served: four classes in three tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from cl.params import Params
from cl.run import learn
from flows.serving.model_files import facts_of
from tests.cl.animals import COLUMNS, SIDE, TREE, prepared
from tests.flows.test_champion import expected, learner_of, mlflow_of_its_own, saved

__all__ = ["mlflow_of_its_own"]  # a fixture
pytestmark = pytest.mark.filterwarnings("ignore:.*type hint:UserWarning:mlflow")


@pytest.mark.parametrize("method", ["icarl", "ncm"])
def test_it_answers_with_four_classes(method: str, tmp_path: Path) -> None:
    import mlflow

    prepared(tmp_path)
    params = Params.model_validate(
        {
            "benchmark": {"name": "folder", "path": str(tmp_path / "pictures"), "image_size": SIDE},
            "model": {"hidden": [16]},
            "training": {"epochs": 5, "batch_size": 8},
            "scenario": {"name": "class"},
            "selection": {"enabled": False},
            "methods": {method: {"memory_budget": 20} if method == "icarl" else {}},
            "seeds": [0],
        }
    )
    out = tmp_path / "out"
    learn(params, method, 0, out, lambda event: None)
    folder, choice = saved(params, out, tmp_path / "model", method)
    model = mlflow.pyfunc.load_model(str(folder))
    learner = learner_of(params, out, method, 0)
    assert facts_of(params, out, choice.run)["columns"] == COLUMNS
    names = ["1-pets/cat", "1-pets/dog", "2-zoo/bird", "2-zoo/fish"]
    for task, columns in zip(learner.sequence.tasks, COLUMNS, strict=True):
        rows = [{"image": image.tolist()} for image in task.test.images]
        untold = model.predict(rows)
        assert [list(answer["probabilities"].values()) for answer in untold] == expected(learner, task, False).tolist()
        assert list(untold[0]["probabilities"]) == names
        right = [names[columns[label]] for label in task.test.y.tolist()]
        said = [f"{answer['task']}/{answer['class']}" for answer in untold]
        share = sum(a == b for a, b in zip(said, right, strict=True)) / len(right)
        assert share == pytest.approx(choice.run.accuracy[-1][task.index])
        told = model.predict([{**row, "task": task.name} for row in rows])
        assert [list(answer["probabilities"].values()) for answer in told] == expected(learner, task).tolist()
        assert list(told[0]["probabilities"]) == list(TREE[task.name])
        assert {answer["task"] for answer in told} == {task.name}
    card = (folder / "artifacts" / "model_card.md").read_text("utf-8")
    assert "the model has learned 4 classes" in card
    assert card.count("| 25.0 % |") == 3, "by chance"
