"""The search for a front of stability and plasticity, beside the survey's attempts."""

from __future__ import annotations

import functools
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from cl.errors import UserError
from cl.evaluate import accuracy
from cl.metrics import front
from cl.names import names_in
from cl.params import Params, Selection
from cl.register import checked, method_class
from cl.selection import Front, Outcome, StudyJournal, most_stable
from tests.cl.small import OFF, learn_tasks, learner_for, output, params_for, published, run, run_for
from tests.cl.test_battery import Killed, Watched, counted
from tests.cl.test_selection import opened

PARETO = {"strategy": "pareto", "trials": 6}


def outcomes(*points: tuple[float, float]) -> list[Outcome]:
    return [Outcome(accuracy, 1, 1, 0.0, stability) for accuracy, stability in points]


def test_front_is_what_nothing_beats() -> None:
    assert front([(0.9, 0.1), (0.5, 0.5), (0.1, 0.9), (0.4, 0.4), (0.5, 0.4)]) == [0, 1, 2]
    assert front([(0.5, 0.5), (0.5, 0.5)]) == [0, 1], "equals do not beat each other"
    assert front([(0.5, 0.5), (0.5, 0.6)]) == [1]


def test_most_stable_above_the_threshold() -> None:
    found = outcomes((0.9, 0.1), (0.8, 0.5), (0.7, 0.9), (0.8, 0.4))
    assert most_stable(found, 0.8) == 1
    assert most_stable(found, 0.7) == 2
    assert most_stable(found, 0.95) is None
    assert most_stable(outcomes((0.5, 0.5), (0.5, 0.5)), 0.5) == 0
    assert most_stable(outcomes((0.6, 0.5)), (1 - 0.2) * 0.75) == 0, "a threshold may be met exactly"


def search(folder: Path, method: str = "ewc", **knobs: Any) -> Front:
    cls = method_class(method)
    start = cls(**knobs).values()
    study = StudyJournal(folder / "studies.log").study(1, "pareto", "key", objectives=2)
    return Front(study, start, cls.knobs, Selection())


@pytest.mark.parametrize(("method", "knob"), [("ewc", "strength"), ("hat", "s_max"), ("packnet", "prune")])
def test_a_point_is_so_many_decays(method: str, knob: str, tmp_path: Path) -> None:
    found = search(tmp_path, method)
    start = found.knobs({})[knob]
    assert isinstance(start, float)
    assert found.knobs({knob: 2.0})[knob] == pytest.approx(start / 4)
    assert found.knobs({knob: 2.0}).keys() == found.knobs({}).keys()
    low, high = method_class(method).knobs[knob].range or (0.0, 0.0)
    for u in (-3.0, -0.7, 0.0, 3.3, 10.0):
        value = found.knobs({knob: u})[knob]
        assert isinstance(value, float)
        assert low <= value <= high
        again = found.knobs({knob: found._decays(knob, value)})[knob]
        assert again == pytest.approx(value, rel=1e-6)


def test_rounds_rest_on_earlier_rounds_alone(tmp_path: Path) -> None:
    """However many of a round were tried at once, and whatever was drawn in between."""
    one, other = search(tmp_path / "one"), search(tmp_path / "other")
    for found in (one, other):
        found.enter(0, found.knobs({"strength": 0.0}), outcomes((0.9, 0.5))[0])
    first = one.round(range(1, 5), "key")
    assert other.round(range(1, 5), "key") == first
    assert len({point["strength"] for point in first}) == 4
    assert one.round(range(1, 5), "another key") != first
    for number, point in enumerate(first, start=1):
        one.study.run(number, point, lambda: outcomes((0.8, 0.6))[0], one.space)
    assert one.round(range(1, 5), "key") == first, "later trials of the round change none of its points"
    assert one.round(range(5, 9), "key") != first


def trials_of(out: Path, method: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / f"results/{method}/seed-0.trials.json").read_bytes())["trials"]
    return found


@pytest.mark.parametrize("method", ["ewc", "packnet"])
def test_a_run_searches_and_keeps_by_the_rule(method: str, prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path, prepared[3])
    run(params_for(method, selection=PARETO), out)
    result = json.loads((out / f"results/{method}/seed-0.json").read_bytes())
    assert result["search"] == "pareto search, stability on holdout"
    for index in range(3):
        tried = [t for t in trials_of(out, method) if t["task_index"] == index and t["phase"] != "plasticity"]
        searched = [t for t in tried if t["phase"] == "pareto"]
        if index == 0:  # there is nothing yet to be stable about
            assert not searched
            continue
        attempts = len(tried) - 6
        assert [t["trial"] for t in searched] == list(range(attempts, attempts + 6))
        assert all(0 <= t["stability"] <= 1 for t in tried)
        found = outcomes(*[(t["accuracy"], t["stability"]) for t in tried])
        best = most_stable(found, tried[0]["threshold"])
        assert tried[attempts - 1 if best is None else best]["kept"]
        entry = result["per_task"][index]
        kept = next(t for t in tried if t["kept"])
        assert (entry["validation_accuracy"], entry["knobs"]) == (kept["accuracy"], kept["knobs"])
        assert entry["attempts"] == len(tried)


def test_survey_attempts_are_those_of_the_survey(prepared: dict[int, Path], tmp_path: Path) -> None:
    """On the first task with something to forget; later ones start from another model."""
    found = {}
    for strategy in ("survey", "pareto"):
        out = output(tmp_path / strategy, prepared[2])
        run(params_for("ewc", selection={"strategy": strategy}), out)
        own = [t for t in trials_of(out, "ewc") if t["phase"] == "stability" and t["task_index"] == 1]
        found[strategy] = [(t["knobs"], t["accuracy"], t["steps"]) for t in own]
    assert found["survey"] == found["pareto"]


def test_the_search_knows_the_attempts_and_sets_out_from_the_knobs_as_given(
    prepared: dict[int, Path], tmp_path: Path
) -> None:
    """Also where the survey's attempts set out from knobs that the task before has decayed."""
    given, most = 1e5, 6
    out = output(tmp_path, prepared[3])
    run(params_for("ewc", {"strength": given}, selection={**PARETO, "trials": 2, "max_attempts": most}), out)
    known = opened(out / "results/ewc/seed-0.studies.log")
    for index in (1, 2):
        tried = [t for t in trials_of(out, "ewc") if t["task_index"] == index and t["phase"] != "plasticity"]
        (found,) = (study.trials for name, study in known.items() if name.startswith(f"task-{index:03d}/pareto"))
        assert [tuple(trial.values) for trial in found] == [(t["accuracy"], t["stability"]) for t in tried]
        decays = [math.log2(given / t["knobs"]["strength"]) for t in tried]
        assert [trial.params["strength"] for trial in found] == pytest.approx([min(u, most) for u in decays], abs=1e-6)
    assert decays[0] > 0, "the task before has decayed it"


@pytest.mark.parametrize("method", ["ewc", "packnet"])
def test_kill_at_any_moment_changes_nothing(
    method: str, prepared: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = params_for(method, selection=PARETO)
    with counted(monkeypatch) as whole:
        run(params, output(tmp_path / "whole", prepared[2]))
    draw = random.Random("front")
    for part in range(3):
        moment = draw.randrange((part + 2) * whole["moments"] // 5, (part + 3) * whole["moments"] // 5)
        out = output(tmp_path / f"killed-{moment}", prepared[2])
        with counted(monkeypatch, moment), pytest.raises(Killed):
            run(params, out)
        run(params, out)
        assert published(out) == published(tmp_path / "whole"), moment


@pytest.mark.slow
def test_trials_in_processes_beside_give_the_same_bytes(prepared: dict[int, Path], tmp_path: Path) -> None:
    for workers in (1, 2):
        run(params_for("ewc", selection=PARETO), output(tmp_path / str(workers), prepared[2]), trial_workers=workers)
    assert published(tmp_path / "1") == published(tmp_path / "2")


# Where stability is seen.


@pytest.mark.parametrize(("where", "reads_old"), [("holdout", True), ("memory", False)])
def test_on_the_memory_no_other_data_are_read(
    where: str, reads_old: bool, prepared: dict[int, Path], tmp_path: Path
) -> None:
    params = params_for("er", selection={**PARETO, "stability_on": where})
    learner = learner_for(params, prepared[2])
    read: set[tuple[str, int, int]] = set()
    tasks = []

    def note(key: tuple[str, int]) -> None:
        read.add((*key, learner.task.index))

    for task in learner.sequence.tasks:
        splits = {}
        for kind in ("train", "validation"):
            key = (kind, task.index)
            splits[kind] = Watched(getattr(task, kind), functools.partial(note, key))
        tasks.append(type(task)(**{**vars(task), **splits}))
    learner.sequence = type(learner.sequence)(**{**vars(learner.sequence), "tasks": tuple(tasks)})
    run_for(params, learner, tmp_path).run()
    assert (("validation", 0, 1) in read) == reads_old
    assert ("train", 0, 1) not in read


WITH_MEMORY = [
    name
    for name in names_in("methods")
    if method_class(name).stores_samples and method_class(name).selection != "learning-rate"
]


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_every_memory_can_be_looked_at(name: str, prepared: dict[int, Path]) -> None:
    """What is kept of each old task: images it was trained on, with their labels."""
    learner = learner_for(params_for(name, selection=OFF), prepared[3])
    learn_tasks(learner, 2)
    learner.open(learner.experiences[2])
    learner.attach(learner.method, "test", 0, 0.1)
    found = learner.method.kept(learner.task.train.normalise)
    assert [split.t for split in found] == [0, 1]
    for split, task in zip(found, learner.experiences, strict=False):
        known = {(image.numpy().tobytes(), int(y)) for image, y in zip(task.train.images, task.train.y, strict=True)}
        kept = [(image.numpy().tobytes(), int(y)) for image, y in zip(split.images, split.y, strict=True)]
        assert kept
        assert set(kept) <= known
        assert 0 <= accuracy(learner.method, split, inference=True) <= 1


def test_without_a_memory_it_cannot_be_seen_there() -> None:
    tree = {"methods": {"ewc": {}}, "selection": {"strategy": "pareto", "stability_on": "memory"}}
    with pytest.raises(UserError, match=r"ewc keeps no samples .*holdout"):
        checked(Params.model_validate(tree))
