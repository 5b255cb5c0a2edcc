"""Trainings that diverged, or taught nothing: they count 0, and somebody says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cl.children import RunId
from cl.learner import Learner, instability_of
from cl.methods.ewc import EWC
from cl.methods.si import SI
from cl.pool import Progress
from cl.selection import Outcome, accepted, decay_until_accepted, most_stable
from tests.cl.small import OFF, attach, learner_for, linear_net, output, params_for, run


def result_of(out: Path, method: str, suffix: str = "") -> Any:
    return json.loads((out / "results" / method / f"seed-0{suffix}.json").read_bytes())


@pytest.mark.parametrize("instability", [0.98, 1.02])
def test_a_penalty_is_stable_below_one(instability: float) -> None:
    """One weight, which the penalty alone pulls back by descent with momentum."""
    rate, momentum, omega = 0.1, 0.9, 4.0
    strength = instability * (1 + momentum) / (rate * omega)
    net = linear_net(torch.ones(1, 1))
    method = attach(EWC(strength=strength), net, momentum=momentum)
    method.anchor_, method.fisher_ = {"1.weight": torch.zeros(1, 1)}, {"1.weight": torch.full((1, 1), omega)}
    assert instability_of(method, rate) == pytest.approx(instability)
    weight = net.shared["1.weight"]
    optimizer = method.optimizer([weight], rate)
    for _ in range(2000):
        optimizer.zero_grad()
        penalty = method.penalty()
        assert penalty is not None
        penalty.backward()
        optimizer.step()
    assert (abs(float(weight.detach())) < 1e-6) == (instability < 1)


def test_no_penalty_no_instability() -> None:
    method = attach(SI(), linear_net(torch.ones(1, 1)))
    assert instability_of(method, 0.1) is None
    method.begin_task(None)  # type: ignore[arg-type]  # which looks at no data
    method.omega_ = {"1.weight": torch.full((1, 1), float("inf"))}
    assert instability_of(method, 0.1) is None, "JSON has no infinity"


def test_what_diverged_is_never_accepted() -> None:
    diverged = Outcome(0.0, 1, 1, 0.0, diverged=True)
    assert not accepted(diverged, 0.0), "where plain finetuning diverged too, the threshold is 0"
    assert accepted(Outcome(0.0, 1, 1, 0.0), 0.0)
    assert most_stable([diverged], 0.0) is None


def test_attempts_go_on_while_they_diverge() -> None:
    params = params_for("ewc")

    def attempt(number: int, knobs: Any) -> Outcome:
        return Outcome(0.0 if knobs["strength"] > 100 else 0.9, 1, 1, 0.0, diverged=knobs["strength"] > 100)

    found, following = decay_until_accepted({"strength": 400.0}, EWC.knobs, params.selection, 0.0, attempt)
    assert [knobs["strength"] for knobs, _ in found] == [400, 200, 100]
    assert following == {"strength": 100.0}


def test_an_attempt_is_not_judged_by_the_model_put_back(tmp_path: Path, prepared: dict[int, Path]) -> None:
    """In domain-incremental learning the model of the task before knows the new task's classes."""
    out = output(tmp_path, prepared[2])
    selection = {"drop_margin": 1.0, "max_attempts": 2}
    run(params_for("ewc", {"strength": 1e9}, scenario={"name": "domain"}, selection=selection), out)
    trials = [trial for trial in result_of(out, "ewc", ".trials")["trials"] if trial["phase"] == "stability"]
    assert [(trial["accuracy"], trial["diverged"], trial["kept"]) for trial in trials] == [
        (0.0, True, False),
        (0.0, True, True),
    ], "although a threshold of 0 was to be reached"
    assert trials[0]["instability"] == pytest.approx(2 * trials[1]["instability"])
    assert trials[1]["instability"] > 1
    told = result_of(out, "ewc")["per_task"][1]
    assert told["validation_accuracy"] == 0
    assert told["remarks"] == ["the training that was kept diverged; it needs a lower strength"]


def test_what_diverged_is_said(tmp_path: Path, prepared: dict[int, Path]) -> None:
    events = run(params_for("finetune", training={"weight_decay": 1e30}), output(tmp_path, prepared[2]))
    lines: list[str] = []
    progress = Progress([RunId("finetune", 0)], lines.append)
    for event in events:
        progress(RunId("finetune", 0), event)
    remedy = "lower learning rates or less weight decay"
    assert f"task 2 permutation-02: the training that was kept diverged; it needs {remedy}" in lines[-1]
    trials = result_of(tmp_path, "finetune", ".trials")["trials"]
    assert all(trial["diverged"] and trial["accuracy"] == 0 for trial in trials)


def test_what_taught_nothing_is_said(tmp_path: Path, prepared: dict[int, Path]) -> None:
    """At a rate this high the network ends at one answer for every image."""
    run(params_for("finetune", selection=OFF, training={"learning_rate": 20.0}), output(tmp_path, prepared[2]))
    (remark,) = result_of(tmp_path, "finetune")["per_task"][1]["remarks"]
    assert remark == "nothing was learned: 10.1 % on validation data, and naming one class alone gives 10.1 %"


def test_a_task_that_was_learned_has_no_remark(tmp_path: Path, prepared: dict[int, Path]) -> None:
    run(params_for("finetune", training={"epochs": 8}), output(tmp_path, prepared[2]))
    assert all("remarks" not in entry for entry in result_of(tmp_path, "finetune")["per_task"])


@pytest.mark.parametrize(("scenario", "method"), [("task", "finetune"), ("class", "finetune"), ("class", "joint")])
def test_chance(scenario: str, method: str, prepared: dict[int, Path]) -> None:
    """Of the classes that are asked about: those of the task, or where joint training sees all of them, all."""
    learner: Learner = learner_for(params_for(method, scenario={"name": scenario}), prepared[2])
    learner.open(learner.experiences[-1])
    counts = learner.task.validation.y.bincount()
    share = float(counts.max()) / len(learner.task.validation)
    assert learner.chance() == pytest.approx(share / 2 if method == "joint" else share)
