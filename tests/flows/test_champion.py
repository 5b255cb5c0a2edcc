"""The best model, registered in a real MLflow, answers as it did when it was tested - also over HTTP."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image

from cl import checkpoint, cli
from cl.chance import counts_of
from cl.checkpoint_files import verify, write_folder
from cl.data import Task, load
from cl.data.prepare import digest, prepare
from cl.errors import UserError
from cl.files import to_json
from cl.keys import run_folder
from cl.learner import Learner
from cl.metrics import average_accuracy
from cl.names import names_in
from cl.params import Champion, Params, read
from cl.run import learn
from flows.champion import crown_best
from flows.compare import compare
from flows.engine.plain import Engine
from flows.serving.choice import Choice, barred, choose
from flows.serving.model_files import ALIAS, REQUIREMENTS, card_of, facts_of, save
from flows.serving.registry import DESCRIPTION_LENGTH, SCORE, SEQUENCE, decide, register
from flows.tracking import origin
from flows.tracking.follower import Follower
from flows.tracking.server import ENVIRONMENT, TIMEOUT
from flows.tracking.settings import tracking_of
from tests.conftest import RAW
from tests.flows.conftest import REPOSITORY, SMALL, Started, environment, options, run

# MLflow warns of type hints in its own modules when these are imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*type hint:UserWarning:mlflow")
METHODS = "finetune,ewc,packnet,icarl,joint"
CPU = torch.device("cpu")
LEARNS = ("training.epochs=10", "training.batch_size=10")
"""Over `SMALL`, with which nothing is learned, and so nothing becomes champion."""
QUICK = {
    "dgr": "generator_epochs=2",
    "ebll": "code_epochs=2",
    "expert_gate": "gate_epochs=2",
    "vcl": "test_samples=3",
    "vcl_coreset": "test_samples=3",
}
"""By method, the knob that costs the most: what is learned is of no account where two answers are compared."""


def params_of(out: Path, *overrides: str, methods: str = METHODS, seeds: str = "0,1") -> Params:
    given = options("tracking.enabled=true", *LEARNS, *overrides, out=out, methods=methods, seeds=seeds)
    return cli.params_of(cli.parser("test", None).parse_args(["--params", str(REPOSITORY / "params.yaml"), *given]))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five methods with two seeds, in MLflow's embedded database too."""
    out = tmp_path_factory.mktemp("champion") / "out"
    params = params_of(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        learn_all(params, out)
    return out


def learn_all(params: Params, out: Path) -> None:
    """As `python -m flows.compare` does, but all in this process: starting others takes most of its time."""
    prepare(params.benchmark, RAW, out / "prepared", lambda line: None)
    with Follower.of(params, out, origin.tags(out)) as mlflow:
        for method in params.methods:
            for seed in params.seeds:
                learn(params, method, seed, out, lambda event: None)
                mlflow.look(run_folder(params, method, seed, out), finished=True)


@pytest.fixture
def out(learned: Path, tmp_path: Path) -> Path:
    """A copy to do anything with."""
    return Path(shutil.copytree(learned, tmp_path / "out"))


@pytest.fixture(autouse=True)
def mlflow_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What MLflow keeps in the process and its environment ends with the test, as does the path to a model's code."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/nobody.db")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


def improve(out: Path, method: str, seed: int, value: float) -> None:
    """Pretend that a model has this test accuracy on every task."""
    path = out / "results" / method / f"seed-{seed}.json"
    result = json.loads(path.read_text())
    result["accuracy"] = [[None if a is None else value for a in row] for row in result["accuracy"]]
    path.write_text(json.dumps(result))
    place = out / "checkpoints" / method / f"seed-{seed}" / f"task-{len(result['tasks']) - 1}"
    files = verify(place)
    record = json.loads(files["record.json"]) | {"accuracy": result["accuracy"][-1]}
    key = json.loads((place / "manifest.json").read_bytes())["key"]
    write_folder(place, {**files, "record.json": to_json(record)}, key)


def learner_of(params: Params, out: Path, method: str, seed: int) -> Learner:
    """The model as the learning itself would go on from it."""
    learner = Learner(params, method, seed, load(out / "prepared"), CPU)
    last = len(learner.experiences) - 1
    learner.resume(last, checkpoint.load(out / "checkpoints" / method / f"seed-{seed}" / f"task-{last}")[0])
    learner.method.net.eval()
    return learner


def saved(params: Params, out: Path, folder: Path, method: str, seed: int = 0) -> tuple[Path, Choice]:
    """The model as an MLflow model in a folder, without any server."""
    choice = choose(params, out, method, seed)
    tags = {"data.sha256": "d", "torch": "t", "checkpoint.sha256": "c"}
    card = card_of(params, out, choice, "name", tags)
    save(folder, choice, facts_of(params, out, choice.run), card)
    return folder, choice


def png(image: np.ndarray[Any, Any], scale: float) -> str:
    """A prepared image (C, H, W) as a picture file with the full range of grey, in base64."""
    levels = np.rint(image * (255 / scale)).astype(np.uint8).transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def expected(learner: Learner, task: Task, known: bool = True, temperature: float = 1.0) -> torch.Tensor:
    """The softmax of the method's own scores of the task's test split, chunk by chunk as at test time."""
    split, method = task.test, learner.method
    chunks = split.batches(split.chunk(learner.params.training.batch_size))
    with torch.no_grad():
        return torch.cat(
            [(method.predict(x, task.index if known else None) / temperature).softmax(1) for x, _, _ in chunks]
        )


# The rule.


def test_the_method_by_test_accuracy_over_seeds_and_the_seed_by_validation_of_the_final_model(out: Path) -> None:
    params = params_of(out)
    choice = choose(params, out)
    results = {
        (m, s): json.loads((out / "results" / m / f"seed-{s}.json").read_text())["average_accuracy"]
        for m in params.methods
        for s in (0, 1)
    }
    means = {m: statistics.fmean(results[m, s] for s in (0, 1)) for m in params.methods if m != "joint"}
    assert choice.means == pytest.approx(means)
    assert list(choice.means) == sorted(means, key=lambda m: -means[m])
    assert choice.run.method == max(means, key=lambda m: means[m])
    for seed, found in choice.validation.items():
        learner = learner_of(params, out, choice.run.method, seed)
        for task, accuracy in zip(learner.experiences, found, strict=True):
            with torch.no_grad():
                right = learner.method.predict(task.validation.x, task.index).argmax(1) == task.validation.y
            assert accuracy == pytest.approx(float(right.double().mean()))
    by_validation = max((0, 1), key=lambda s: statistics.fmean(choice.validation[s]))
    assert choice.run.seed == by_validation

    other = 1 - by_validation
    improve(out, choice.run.method, other, 1.0)
    assert choose(params, out).run.seed == by_validation  # the test accuracy of a seed says nothing
    worst = list(choice.means)[-1]
    for seed in (0, 1):
        improve(out, worst, seed, 1.0)
    assert choose(params, out).run.method == worst


def test_what_is_near_chance_is_no_champion(out: Path) -> None:
    """The rule picks none of it, a comparison only says so; named by the user it is registered, without the alias."""
    params = params_of(out, "champion.register_best=true", methods="finetune,icarl")
    for method in params.methods:
        for seed in params.seeds:
            improve(out, method, seed, 0.11)
    chance = counts_of(out / "prepared")
    assert chance is not None
    share = statistics.fmean(max(task) / sum(task) for task in chance.values())
    with pytest.raises(UserError, match=rf"no champion: .*\({100 * share:.1f} %\).*has 11\.0 %; try more epochs"):
        choose(params, out)
    said: list[str] = []
    engine = Engine()
    engine.say = said.append  # type: ignore[method-assign]
    crown_best(params, out, engine)
    assert [line.startswith("no champion: none is clearly above") for line in said] == [True]
    named = choose(params, out, "finetune")
    assert register(params, out, named, tracking_of(params, out)).endswith("so this does not become champion.")
    for seed in params.seeds:
        improve(out, "icarl", seed, 0.9)
    assert choose(params, out).run.method == "icarl"


def test_limits_leave_out_what_cannot_be_deployed(learned: Path) -> None:
    unknown = "champion.no_task_id=true"
    params = params_of(learned)
    assert set(choose(params, learned).excluded) == {"joint"}
    assert set(choose(params_of(learned, unknown), learned).excluded) == {"joint", "packnet"}
    narrow = choose(params_of(learned, unknown, "champion.no_stored_samples=true"), learned)
    assert set(narrow.means) == {"finetune", "ewc"}
    assert "samples" in narrow.excluded["icarl"]
    with pytest.raises(UserError, match=r"no method is left: .*packnet needs the task id"):
        choose(params_of(learned, unknown, methods="packnet,joint"), learned)
    with pytest.raises(UserError, match="--method packnet: needs the task id"):
        choose(params_of(learned, unknown), learned, "packnet")
    with pytest.raises(UserError, match="--method si: is not among"):
        choose(params, learned, "si")
    with pytest.raises(UserError, match="--seed 7: is not among"):
        choose(params, learned, None, 7)
    with pytest.raises(UserError, match="each seed tasks of its own"):
        choose(params_of(learned, "benchmark.seed=run"), learned)


def test_where_the_task_will_not_be_known_models_are_compared_without_it(learned: Path) -> None:
    """By the accuracy among the classes of all tasks, which is another ranking."""
    told = choose(params_of(learned), learned).means
    untold = choose(params_of(learned, "champion.no_task_id=true"), learned)
    for name, mean in untold.means.items():
        runs = [json.loads((learned / f"results/{name}/seed-{s}.json").read_bytes()) for s in (0, 1)]
        last = [run["task_agnostic_accuracy"][-1] for run in runs]
        assert mean == pytest.approx(sum(sum(row) / len(row) for row in last) / 2)
        assert mean <= told[name]
    assert untold.means != {name: told[name] for name in untold.means}


def test_a_comparison_that_is_not_finished_or_of_other_settings_is_refused(out: Path) -> None:
    shutil.rmtree(out / "checkpoints" / "ewc" / "seed-1")
    with pytest.raises(UserError, match=r"not learned .*: ewc/seed-1; give the options .*, or learn them with"):
        choose(params_of(out), out)
    assert choose(params_of(out, methods="finetune,icarl"), out).run.method in ("finetune", "icarl")
    with pytest.raises(UserError, match="finetune/seed-0, finetune/seed-1"):
        choose(params_of(out, "training.epochs=4", methods="finetune"), out)


def test_a_result_that_is_not_what_was_learned_chooses_nothing(out: Path) -> None:
    params = params_of(out, methods="finetune,ewc")
    path = out / "results/ewc/seed-1.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "accuracy": [[1.0, None], [1.0, 1.0]]}))
    with pytest.raises(UserError, match=rf"^{path}: differs from what was learned .*; run `python -m flows.compare`"):
        choose(params, out)
    path.write_text(json.dumps(result))
    record = out / "checkpoints/ewc/seed-1/task-1/record.json"
    record.write_text(record.read_text().replace("0.", "1.", 1))
    with pytest.raises(UserError, match=rf"^{record}: damaged .*; run `python -m flows.compare`"):
        choose(params, out)


@pytest.mark.parametrize("text", ["[]", "null", "{", '{"tasks": []}', '{"tasks": [{}]}', "[" * 5000])
def test_a_model_whose_facts_are_damaged_says_so(text: str, out: Path, tmp_path: Path) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    folder, _ = saved(params_of(out, methods="finetune"), out, tmp_path / "model", "finetune")
    facts = folder / "artifacts/facts.json"
    facts.write_text(text)
    with pytest.raises(MlflowException, match=r"facts\.json: damaged.*register the model again"):
        mlflow.pyfunc.load_model(str(folder))


TASKS = ["one", "two", "three"]


def tags(score: float, tasks: list[str]) -> dict[str, str]:
    return {"method": "ewc", "seed": "0", SCORE: repr(score), SEQUENCE: digest(tasks)}


@pytest.mark.parametrize(
    ("held", "barred", "moves", "words"),
    [
        (None, None, True, "the first"),
        (tags(0.8, TASKS), None, True, r"0\.9000 against 0\.8000 of version 3 \(ewc, seed 0\), so this becomes"),
        (tags(0.9, TASKS), None, False, "so version 3 .* stays"),
        (tags(0.95, TASKS), None, False, "stays"),
        (tags(0.95, TASKS), "needs the task id", True, "needs the task id, so this becomes"),
        (tags(0.95, TASKS[:2]), None, True, "knows 3 tasks, .* only the first 2"),
        (tags(0.1, [*TASKS, "four"]), None, False, "other tasks .* stays"),
        (tags(0.1, ["two"]), "needs the task id", False, r"other tasks .*\(champion\.name\)"),
    ],
)
def test_the_alias_moves_to_what_is_better(held: Any, barred: str | None, moves: bool, words: str) -> None:
    found, why = decide(held, "3", barred, tags(0.9, TASKS), "4", TASKS)
    assert found is moves
    assert re.search(words, why)


# The registry.


def test_registered_with_alias_tags_card_and_the_run_it_came_from(out: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    params = params_of(out)
    settings = options("tracking.enabled=true", *LEARNS, out=out, methods=METHODS)
    done = run("flows.champion", settings)
    assert done.returncode == 0, done.stderr
    choice = choose(params, out)
    who = f"({choice.run.method}, seed {choice.run.seed})"
    assert done.stdout.startswith(f"permuted-digits version 1 {who}: is the first, so this becomes champion.\n")
    assert done.stderr == ""

    client = MlflowClient(f"sqlite:///{out}/mlflow/mlflow.db")
    version = client.get_model_version_by_alias("permuted-digits", ALIAS)
    assert version.version in (1, "1")
    assert version.tags["method"] == choice.run.method
    assert float(version.tags["mean_average_accuracy"]) == choice.score
    assert set(version.tags) >= {"seed", "git.commit", "data.sha256", "dvc.data", "torch", "checkpoint.sha256"}
    mlflow_run = client.get_run(version.tags["run_id"])
    assert mlflow_run.info.run_name == f"{choice.run.method}/seed-{choice.run.seed}"
    assert [f"models:/{model.model_id}" for model in mlflow_run.outputs.model_outputs] == [version.source]
    assert mlflow_run.info.status == "FINISHED"
    assert version.description.startswith(f"# permuted-digits: {choice.run.method}")
    card = next(Path(out, "mlflow", "artifacts", "models").rglob("model_card.md"))
    assert version.description == card.read_text("utf-8")

    # In this process from here on: a command takes seconds.
    def registered(method: str | None = None) -> tuple[str, str]:
        sentence = register(params, out, choose(params, out, method), tracking_of(params, out))
        return sentence, client.get_model_version_by_alias("permuted-digits", ALIAS).tags["method"]

    assert registered() == (f"permuted-digits version 1 {who}: is champion already.", choice.run.method)
    assert len(client.search_model_versions("name = 'permuted-digits'")) == 1
    worst = list(choice.means)[-1]
    sentence, holder = registered(worst)
    assert "stays champion" in sentence
    assert holder == choice.run.method
    for seed in (0, 1):
        improve(out, worst, seed, 1.0)
    sentence, holder = registered()
    assert sentence.startswith("permuted-digits version 3")
    assert "so this becomes champion" in sentence
    assert holder == worst


def test_a_champion_of_other_hands_is_left_alone(out: Path) -> None:
    from mlflow import MlflowClient

    params = params_of(out, "champion.name=theirs", methods="finetune")
    choice, where = choose(params, out), tracking_of(params, out)
    register(params, out, choice, where)
    client = MlflowClient(where.address)
    for tag in ("method", SCORE):
        before = client.get_model_version_by_alias("theirs", ALIAS).tags[tag]
        client.set_model_version_tag("theirs", "1", tag, "something")
        with pytest.raises(
            UserError, match=r"champion\.name: version 1 of theirs in MLflow .* not registered from here"
        ):
            register(params, out, choice, where)
        client.set_model_version_tag("theirs", "1", tag, before)


def test_a_moved_project_takes_its_models_along(out: Path, tmp_path: Path) -> None:
    import mlflow

    params = params_of(out, "champion.name=one", methods="finetune")
    register(params, out, choose(params, out), tracking_of(params, out))
    moved = out.rename(tmp_path / "elsewhere")
    again = register(params, moved, choose(params, moved), tracking_of(params, moved))
    assert again.endswith("is champion already.")
    mlflow.set_tracking_uri(f"sqlite:///{moved}/mlflow/mlflow.db")
    assert mlflow.pyfunc.load_model(f"models:/one@{ALIAS}").unwrap_python_model().name == "finetune"


def test_without_tracking_there_is_nothing_to_register_in(learned: Path) -> None:
    done = run("flows.champion", options(out=learned))
    assert done.returncode == 2
    assert "tracking.enabled" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_down_is_named_in_one_line(learned: Path) -> None:
    down = f"tracking.uri=http://somebody:secret@127.0.0.1:{free_port()}"
    done = run("flows.champion", options("tracking.enabled=true", *LEARNS, down, out=learned, methods="finetune"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: MLflow (http://127.0.0.1:")
    assert "secret" not in done.stdout + done.stderr


def test_a_name_that_mlflow_cannot_take_is_refused(learned: Path) -> None:
    with pytest.raises(UserError, match=r"champion.name: 'a/b' has to be text without the characters / : \. ' \" %"):
        params_of(learned, "champion.name=a/b")
    with pytest.raises(UserError, match=r"champion\.name"):
        params_of(learned, "champion.name=' '")


def test_a_run_registers_its_best_where_the_params_say_so(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    for key, value in ENVIRONMENT.items():  # as the run's own tracking leaves it behind
        monkeypatch.setenv(key, value)
    compare(params_of(out, "champion.register_best=true", methods="finetune,icarl"), out, Engine())
    version = MlflowClient(f"sqlite:///{out}/mlflow/mlflow.db").get_model_version_by_alias("permuted-digits", ALIAS)
    assert version.tags["method"] in ("finetune", "icarl")
    assert os.environ[TIMEOUT] == ENVIRONMENT[TIMEOUT]  # what comes after it does not wait as long as an upload


# The model.


@pytest.mark.parametrize("method", [name for name in names_in("methods") if not barred(name, Champion())])
def test_answers_are_those_of_the_test_bit_for_bit(method: str, tmp_path: Path) -> None:
    import mlflow

    out = tmp_path / "out"
    quick = ["training.epochs=3", "training.batch_size=20"]
    quick += [f"methods.{method}.{QUICK[method]}"] if method in QUICK else []
    params = params_of(out, "tracking.enabled=false", *quick, methods=method, seeds="0")
    learn_all(params, out)
    folder, choice = saved(params, out, tmp_path / "model", method)
    model = mlflow.pyfunc.load_model(str(folder))
    learner = learner_of(params, out, method, 0)
    for task in learner.experiences:
        images, labels = task.test.images.numpy(), task.test.y.tolist()
        files = [{"image": png(image, 16.0), "task": task.name} for image in images[:20]]
        numbers = [{"image": image.tolist(), "task": task.index} for image in images[20:]]
        answers = model.predict([*files, *numbers])  # an image is the same in either form
        assert [list(answer["probabilities"].values()) for answer in answers] == expected(learner, task).tolist()
        assert {answer["task"] for answer in answers} == {task.name}
        assert all(answer["probability"] == answer["probabilities"][answer["class"]] for answer in answers)
        right = [task.classes.index(a["class"]) == label for a, label in zip(answers, labels, strict=True)]
        assert statistics.fmean(right) == choice.run.accuracy[-1][task.index]


def untold(
    params: Params, out: Path, folder: Path, method: str
) -> tuple[Any, Task, Task, list[dict[str, Any]], list[dict[str, Any]]]:
    """The served model, its two tasks, the test images of the first as rows, and its answers not told the task.

    They are those of the learner itself.
    """
    import mlflow

    model = mlflow.pyfunc.load_model(str(saved(params, out, folder, method)[0]))
    learner = learner_of(params, out, method, 0)
    first, second = learner.experiences
    rows = [{"image": image.tolist()} for image in first.test.images]
    found = model.predict(rows)
    assert [list(answer["probabilities"].values()) for answer in found] == expected(learner, first, False).tolist()
    return model, first, second, rows, found


def test_without_task_it_answers_over_all_classes_seen(learned: Path, tmp_path: Path) -> None:
    params = params_of(learned)
    model, first, second, rows, found = untold(params, learned, tmp_path / "model", "icarl")
    assert list(found[0]["probabilities"]) == [f"{t.name}/{c}" for t in (first, second) for c in t.classes]
    for answer in found:
        assert answer["probability"] == max(answer["probabilities"].values())
        assert answer["probabilities"][f"{answer['task']}/{answer['class']}"] == answer["probability"]
    assert {answer["task"] for answer in found} == {first.name, second.name}

    mixed = model.predict([rows[0], {**rows[1], "task": 1}, {**rows[2], "task": second.name}])
    assert [len(answer["probabilities"]) for answer in mixed] == [20, 10, 10]
    assert [answer["task"] for answer in mixed[1:]] == [second.name, second.name]


@pytest.mark.parametrize("increment", ["domain", "class"])
def test_models_of_other_scenarios_answer_too(increment: str, tmp_path: Path) -> None:
    """Domain-incremental among the common classes, class-incremental among all; with the task, in either, among its."""
    out = tmp_path / "out"
    scenario = f"scenario.name={increment}"
    params = params_of(out, "tracking.enabled=false", scenario, methods="er", seeds="0")
    learn_all(params, out)
    model, first, second, rows, found = untold(params, out, tmp_path / "model", "er")
    assert len(found[0]["probabilities"]) == (10 if increment == "domain" else 20)
    if increment == "domain":
        assert {answer["task"] for answer in found} == {None}
        assert set(found[0]["probabilities"]) == set(first.classes)
    card = (tmp_path / "model" / "artifacts" / "model_card.md").read_text("utf-8")
    assert "when the task of each image is told" not in card
    assert ("among the classes of all tasks learned by then" in card) is (increment == "class")
    assert f"| {'5.0' if increment == 'class' else '10.0'} % |" in card, "by chance"
    told = model.predict([{**row, "task": second.name} for row in rows])
    assert {answer["task"] for answer in told} == {second.name}
    assert len(told[0]["probabilities"]) == 10


def test_what_cannot_be_answered_is_refused_by_row_and_reason(learned: Path, tmp_path: Path) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    params = params_of(learned)
    model = mlflow.pyfunc.load_model(str(saved(params, learned, tmp_path / "model", "packnet")[0]))
    good = {"image": np.zeros((1, 8, 8), np.uint8).tolist(), "task": "permutation-01"}
    assert len(model.predict([good])) == 1
    text = base64.b64encode(b"no picture").decode()
    for change, words in [
        ({"task": None}, "row 1: packnet needs the task of an image: give `task`, one of permutation-01, permu"),
        ({"task": "permutation-9"}, r"row 1: no task 'permutation-9'; there are .* \(or 0 to 1\)"),
        ({"task": 2}, "row 1: no task 2"),
        ({"task": -1}, "row 1: no task -1"),
        ({"image": None}, "row 1: no `image`"),
        ({"image": "*"}, "row 1: .* not base64"),
        ({"image": text}, "row 1: `image` is no usable picture: not a picture"),
        ({"image": [[1, 2], [3]]}, r"row 1: `image` has to be \(1, 8, 8\) whole numbers from 0 to 16"),
        ({"image": np.full((1, 8, 8), 17).tolist()}, "from 0 to 16"),
        ({"image": np.full((1, 8, 8), 0.5).tolist()}, "whole numbers"),
    ]:
        with pytest.raises(MlflowException, match=words) as refused:
            model.predict([good, {**good, **change}])
        assert refused.value.get_http_status_code() == 400
    with pytest.raises(MlflowException, match="packnet needs the task"):
        model.predict([{"image": good["image"]}])


def test_no_pickle_in_any_file(learned: Path, tmp_path: Path) -> None:
    folder, _ = saved(params_of(learned), learned, tmp_path / "model", "icarl")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"MLmodel", "net.safetensors", "facts.json", "model_card.md", "method.py"}
    for path in files:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as tensors:
                tensors.keys()
        else:
            assert "\0" not in path.read_text("utf-8")  # which no pickle and no archive is
    assert not any("__pycache__" in path.parts for path in files)


def test_it_brings_the_code_it_needs_and_no_more_is_loaded(learned: Path, tmp_path: Path) -> None:
    """In a process of its own, away from the project; what a requirement loads is not counted."""
    folder, _ = saved(params_of(learned), learned, tmp_path / "model", "ewc")
    code = (
        "import json, sys\n"
        "import mlflow\n"
        "model = mlflow.pyfunc.load_model('model')\n"
        "rows = json.load(open('model/input_example.json'))\n"
        "(answer,) = model.predict(rows)\n"
        "import cl\n"
        "print(json.dumps([cl.__file__, answer['task'], sorted({name.split('.')[0] for name in sys.modules})]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    file, task, modules = json.loads(done.stdout.splitlines()[-1])
    assert Path(file).is_relative_to(folder)
    assert task == "permutation-01"
    assert not {"flows", "prefect", "optuna", "dvc", "torchvision", "matplotlib"} & set(modules)
    requirements = [line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()]
    assert requirements == list(REQUIREMENTS)


def test_the_card_says_what_the_record_says(learned: Path, tmp_path: Path) -> None:
    params = params_of(learned)
    for method in ("icarl", "packnet"):
        folder, choice = saved(params, learned, tmp_path / method, method)
        card = (folder / "artifacts" / "model_card.md").read_text("utf-8")
        for index, name in enumerate(choice.run.tasks):
            before, now = choice.run.accuracy[index][index], choice.run.accuracy[-1][index]
            assert before is not None
            assert now is not None
            assert f"| {name} | 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 | {before:.1%} | {now:.1%} |".replace("%", " %") in card
        assert f"{method} was named by the user" in card
        assert all(f"{knob} {value}" in card for knob, value in choice.run.per_task[-1]["knobs"].items())
        assert ("hold training images" in card) is (method == "icarl")
        assert ("without it the model refuses" in card) is (method == "packnet")
        if method == "icarl":
            assert (
                f"harder: average accuracy {average_accuracy(choice.run.other_accuracy):.1%}".replace("%", " %") in card
            )
        assert ("may be left out" in card) is (method == "icarl")
        assert "joint (learns all tasks at once" in card
        assert len(card) < DESCRIPTION_LENGTH
        assert not re.search(r"\n\n\n|\{[{%]|None", card)


def test_photographs_are_read_as_they_were_prepared(tmp_path: Path) -> None:
    """RGB files of another shape, sent as they are; a small convolutional net; tasks of unlike numbers of classes."""
    import mlflow

    from cl.data.benchmarks import folder as benchmark

    draw = np.random.default_rng(0)
    for task, names in {"1-screws": ("bent", "good"), "2-nuts": ("cracked", "good", "rusty")}.items():
        for label, name in enumerate(names):
            place = tmp_path / "photos" / task / name
            place.mkdir(parents=True)
            for number in range(6):
                noise = draw.integers(0, 120, (30, 41, 3)) + 60 * label
                Image.fromarray(noise.astype(np.uint8)).save(place / f"{number}.{('png', 'jpg')[number % 2]}")
    out = tmp_path / "out"
    settings = [
        *SMALL,
        "benchmark.name=folder",
        f"benchmark.path={tmp_path / 'photos'}",
        "benchmark.image_size=16",
        "model.name=small",
        "training.epochs=1",
    ]
    params = read(REPOSITORY / "params.yaml", settings, ["lwf"], [0])
    learn_all(params, out)
    model = mlflow.pyfunc.load_model(str(saved(params, out, tmp_path / "model", "lwf")[0]))
    learner = learner_of(params, out, "lwf", 0)
    listings = benchmark._listings(tmp_path / "photos", params.benchmark)
    for task, listing in zip(learner.experiences, listings, strict=True):
        files = [(tmp_path / "photos" / path).read_bytes() for path, _ in listing.splits["test"]]
        answers = model.predict([{"image": base64.b64encode(data).decode(), "task": task.name} for data in files])
        assert [list(answer["probabilities"]) for answer in answers] == [list(task.classes)] * len(files)
        assert [list(answer["probabilities"].values()) for answer in answers] == expected(learner, task).tolist()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, rows: list[dict[str, Any]]) -> tuple[int, Any]:
    """Status and answer of a request."""
    body = json.dumps({"dataframe_records": rows}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_served_over_http(out: Path, tmp_path: Path) -> None:
    settings = options("tracking.enabled=true", *LEARNS, "champion.name=served", out=out, methods="packnet")
    done = run("flows.champion", settings)
    assert done.returncode == 0, done.stderr
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{out}/mlflow/mlflow.db")
    temperature = float(client.get_model_version_by_alias("served", ALIAS).tags["task-aware.temperature"])
    params, port = params_of(out, methods="packnet"), free_port()
    choice = choose(params, out)
    learner = learner_of(params, out, "packnet", choice.run.seed)
    command = [
        "env",
        f"MLFLOW_TRACKING_URI=sqlite:///{out}/mlflow/mlflow.db",
        *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
        *("-m", f"models:/served@{ALIAS}", "--host", "127.0.0.1", "--port", str(port)),
    ]

    def answers() -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).close()
        except OSError:
            time.sleep(0.2)
            return False
        return True

    with Started(command, tmp_path, cwd=tmp_path) as server:
        server.wait_for(answers, "answer of the server")
        for task in learner.experiences:
            rows = [{"image": png(image, 16.0), "task": task.name} for image in task.test.images.numpy()]
            status, answer = ask(port, rows)
            assert status == 200
            found = [list(row["probabilities"].values()) for row in answer["predictions"]]
            assert found == expected(learner, task, temperature=temperature).tolist()
        status, answer = ask(port, [{"image": rows[0]["image"]}])
        assert status == 400
        assert "packnet needs the task of an image: give `task`, one of permutation-01" in answer["message"]
