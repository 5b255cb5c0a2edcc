"""A folder of photographs, from the pictures to a served model, by the commands as a user starts them."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cl import cli
from cl.params import Params
from flows.serving.choice import choose
from flows.serving.model_files import backbone_of, card_of, facts_of, save
from tests.cl.photos import plant
from tests.flows.conftest import REPOSITORY, Finished, made_once, run

# MLflow warns of type hints in its own modules when these are imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*type hint:UserWarning:mlflow")
METHODS = "finetune,ncm"


def options(root: Path, out: Path, *overrides: str) -> list[str]:
    """Class-incremental, on the features of small pictures."""
    settings = (
        "benchmark.name=folder",
        f"benchmark.path={root}",
        "benchmark.image_size=64",
        "model.name=features",
        "scenario.name=class",
        "training.epochs=10",
        "training.batch_size=8",
        "selection.first_task_learning_rates=[0.05]",
        "selection.learning_rates=[0.05]",
        *overrides,
    )
    return ["--methods", METHODS, "--seeds", "0", "--out", str(out), *(w for one in settings for w in ("--set", one))]


def params_of(root: Path, out: Path) -> Params:
    given = ["--params", str(REPOSITORY / "params.yaml"), *options(root, out)]
    return cli.params_of(cli.parser("test", None).parse_args(given))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("photos") / "root", 20)


@pytest.fixture(scope="module")
def compared(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    base = tmp_path_factory.mktemp("compared")
    return made_once(base, "photographs", "flows.compare", lambda out: options(photos, out))


def test_a_comparison_on_photographs(compared: Finished, photos: Path) -> None:
    """One pass, a headline that says on what, and everything in MLflow."""
    assert compared.stdout.count("features: efficientnet-lite0, 80 pictures in") == 1
    summary = (compared.out / "report/leaderboard.md").read_text()
    page = (compared.out / "report/index.html").read_text()
    for text in (summary, page):
        assert "class-incremental, features of efficientnet-lite0" in text
    accuracy = {
        method: json.loads((compared.out / f"results/{method}/seed-0.json").read_text())["average_accuracy"]
        for method in METHODS.split(",")
    }
    assert accuracy["ncm"] > 0.8, accuracy
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{compared.out}/mlflow/mlflow.db")
    name = f"{photos.name}, class-incremental, features of efficientnet-lite0"
    (experiment,) = client.search_experiments(filter_string=f"name = '{name}'")
    (ncm,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'ncm/seed-0'")
    assert ncm.data.params["model.backbone"] == ncm.data.tags["backbone"] == "efficientnet-lite0"
    assert ncm.data.tags["backbone.sha256"].startswith("57934424")


def test_another_network_is_not_ranked_with_it(compared: Finished, photos: Path, tmp_path: Path) -> None:
    out = compared.copy(tmp_path / "out")
    path = out / "results/finetune/seed-0.json"
    result = json.loads(path.read_text())
    del result["backbone"]
    path.write_text(json.dumps(result))
    done = run("flows.report", options(photos, out))
    assert done.returncode == 2
    assert "are of different task sequences or scenarios" in done.stderr
    assert "features of efficientnet-lite0" in done.stderr


def test_features_of_another_size_are_not_learned_from(compared: Finished, photos: Path) -> None:
    other = options(photos, compared.out, "benchmark.image_size=32")
    done = run("flows.train", other)
    assert done.returncode == 2
    assert "are of other pictures or another backbone; make them again: python -m flows.features" in done.stderr
    said = run("cl.status", other).stdout
    assert "features  would run" in said or "prepare   would run" in said


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What MLflow keeps in the process and its environment ends with the test."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/nobody.db")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


@pytest.mark.usefixtures("apart")
def test_a_served_model_answers_a_photograph(
    compared: Finished, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the bytes of a JPEG to its class, by the files of the model alone; and not with other weights."""
    from mlflow import pyfunc
    from mlflow.exceptions import MlflowException

    params = params_of(photos, compared.out)
    choice = choose(params, compared.out, "ncm", 0)
    tags = {"data.sha256": "d", "torch": "t", "checkpoint.sha256": "c"}
    card = card_of(params, compared.out, choice, "name", tags)
    assert "Features: those of efficientnet-lite0" in card
    save(tmp_path / "model", choice, facts_of(params, compared.out, choice.run), card, backbone_of(params))
    monkeypatch.setattr("cl.backbones.LITE0_PACKAGE", "no-such-package")
    model = pyfunc.load_model(str(tmp_path / "model"))
    files = sorted(photos.rglob("*.jpg"))
    jpegs = [base64.b64encode(file.read_bytes()).decode() for file in files]
    answers = model.predict([{"image": jpeg} for jpeg in jpegs])
    right = [answer["class"] == file.parent.name for answer, file in zip(answers, files, strict=True)]
    assert sum(right) / len(right) > 0.8
    assert {answer["task"] for answer in answers} == {"flower", "temple"}

    weights = next((tmp_path / "model").rglob("backbone.safetensors"))
    shutil.copy(next((tmp_path / "model").rglob("net.safetensors")), weights)
    with pytest.raises(MlflowException, match="the backbone's weights are not those it was registered with"):
        pyfunc.load_model(str(tmp_path / "model"))
