"""The first task's trials, which methods share: what one run finds there is what it would have trained itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cl.data.prepare import prepare
from cl.keys import shared_folder
from cl.learner import Learner
from cl.names import names_in
from cl.params import Benchmark, Params
from cl.register import cannot, method_class
from cl.trials import SearchJob, Trials
from tests.cl.small import learner_for, output, params_for, published, run, same
from tests.conftest import RAW

SHARING = [name for name in names_in("methods") if method_class(name).shares_first_task]
BENCHMARKS = {"task": "split-digits", "class": "split-digits", "domain": "permuted-digits"}
SETTING = {
    "model": {"hidden": [16], "dropout": 0.2},
    "training": {"epochs": 3, "weight_decay": 0.01, "augmentation": {"flip": True, "padding": 1}},
}
"""In which a method that does anything of its own while it trains shows it."""


def sharing(scenario: str) -> list[str]:
    known = [name for name in SHARING if cannot(name, params_of(name, scenario).scenario) is None]
    return [name for name in known if method_class(name).selection != "one-pass"]


def params_of(method: str, scenario: str) -> Params:
    return params_for(method, scenario={"name": scenario}, **SETTING)


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) / "prepared" for name in set(BENCHMARKS.values())}
    for name, folder in folders.items():
        prepare(Benchmark(name=name, tasks=2), RAW, folder, say=lambda line: None)
    return {scenario: folders[name] for scenario, name in BENCHMARKS.items()}


def open_first(params: Params, prepared: Path) -> Learner:
    learner = learner_for(params, prepared)
    learner.open(learner.experiences[0])
    return learner


def left_in(learner: Learner) -> tuple[Any, Any]:
    return dict(learner.method.net.state_dict()), learner.method.state()


@pytest.mark.parametrize("scenario", BENCHMARKS)
def test_a_method_takes_over_what_it_would_have_trained(
    scenario: str, benchmarks: dict[str, Path], tmp_path: Path
) -> None:
    methods = sharing(scenario)
    assert {"finetune", "ewc", "si", "gem", "lwf"} <= set(methods)
    for method in methods:
        params = params_of(method, scenario)
        alone = open_first(params, benchmarks[scenario])
        job = SearchJob(0, 1, 0.1, alone.knobs, own=True)
        trained = alone.train("plasticity", 1, 0.1, alone.knobs, plain=False)
        learner = open_first(params, benchmarks[scenario])
        trials = Trials(learner, tmp_path / method, "key", tmp_path / "shared")
        found = job.run(trials)
        assert (found.accuracy, found.epochs, found.steps) == (trained.accuracy, trained.epochs, trained.steps), method
        if method != methods[0]:
            assert list(trials.first_task.spent) == [1], f"{method} had to train it"  # type: ignore[union-attr]
        trials.restore_candidate(job)
        for there, own in zip(left_in(learner), left_in(alone), strict=True):
            assert same(there, own), method
    (folder,) = (tmp_path / "shared").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["trial-01", "trial-01.lock"]


def test_runs_after_the_first_train_it_no_more_and_end_in_the_same_bytes(
    prepared: dict[int, Path], tmp_path: Path
) -> None:
    whole: dict[str, bytes] = {}
    for method in ("si", "ewc"):
        out = output(tmp_path / method, prepared[2])
        run(params_for(method), out)
        whole |= published(out)
    out = output(tmp_path / "both", prepared[2])
    run(params_for("si"), out)
    (folder,) = shared_folder(out).iterdir()
    made = {path: path.stat().st_mtime_ns for path in folder.glob("trial-*/*")}
    assert len(made) == 2 * 5
    run(params_for("ewc"), out)
    assert published(out) == whole
    assert {path: path.stat().st_mtime_ns for path in folder.glob("trial-*/*")} == made
    costs = {m: json.loads((out / f"results/{m}/seed-0.cost.json").read_bytes())["per_task"][0] for m in ("si", "ewc")}
    recorded = [json.loads(path.read_bytes()) for path in folder.glob("trial-*/record.json")]
    shared = sum(record["process_seconds"] for record in recorded)
    assert costs["ewc"]["process_seconds"] > shared, "a method's time is as if it were alone"
    assert costs["ewc"]["seconds"]["plasticity"] > sum(record["seconds"] for record in recorded)
    # Damage to it is no more than work to be done again.
    damaged = next(folder.glob("trial-00/net.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    run(params_for("lwf"), out)
    assert len(json.loads((damaged.parent / "record.json").read_bytes())) == 3
    assert {path.stat().st_mtime_ns for path in folder.glob("trial-01/*")} <= set(made.values())
    assert damaged.stat().st_mtime_ns not in made.values()


@pytest.mark.parametrize("change", [{"training": {"weight_decay": 0.1}}, {"model": {"hidden": [17]}}, {"seed": 1}])
def test_what_decides_them_tells_them_apart(change: dict[str, Any], prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path, prepared[2])
    run(params_for("ewc", {"strength": 1.0}), out)
    run(params_for("ewc", {"strength": 2.0}), out)
    assert len(list(shared_folder(out).iterdir())) == 1, "knobs of the method decide nothing yet"
    seed = change.get("seed", 0)
    run(params_for("ewc", **{name: section for name, section in change.items() if name != "seed"}), out, seed)
    assert len(list(shared_folder(out).iterdir())) == 2
