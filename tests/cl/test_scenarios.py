"""Task-, domain- and class-incremental learning, and a stream that tells of no boundary."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cl import train
from cl.__main__ import run as compare
from cl.data import Sequence, load
from cl.data.prepare import prepare
from cl.errors import UserError
from cl.evaluate import accuracy
from cl.learner import Learner
from cl.method import Method
from cl.methods.finetune import Finetune
from cl.names import names_in
from cl.ops import cross_entropy
from cl.params import Benchmark, Params, Scenario, read
from cl.register import cannot, checked, method_class
from cl.train import Snapshot
from flows.engine.plain import Engine
from flows.train import train as train_stage
from tests.cl.small import CPU, OFF, learn_tasks, learner_for, mlp, output, params_for, published, run, same
from tests.conftest import RAW

ONLINE = {"online": True, "batch_size": 10}
INCREMENTS = ("task", "domain", "class")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Split digits, three tasks of two classes, twenty training images of each."""
    folder = tmp_path_factory.mktemp("pairs") / "prepared"
    prepare(Benchmark(name="split-digits", tasks=3, train_per_class=20), RAW, folder, say=lambda line: None)
    return folder


# What the network is asked.


def test_scope_and_label() -> None:
    net, y = mlp(classes=(3, 2)), torch.tensor([0, 1])
    of_each = torch.tensor([0, 1])
    assert net.scope(1) == 1
    assert torch.equal(net.label(y, 1), y)
    assert torch.equal(net.label(y, of_each), torch.tensor([0, 4]))
    net.increment = "class"
    assert net.scope(1) is None
    assert torch.equal(net.label(y, 1), torch.tensor([3, 4]))
    assert torch.equal(net.label(y, of_each), torch.tensor([0, 4]))
    net = mlp(classes=(3,))
    net.increment = "domain"
    assert net.scope(1) is None
    assert torch.equal(net.label(y, 1), y)
    assert torch.equal(net(torch.ones(2, 4), 1), net(torch.ones(2, 4)))


def test_groups_are_what_is_told_apart_in_one_softmax() -> None:
    net = mlp(classes=(3, 2, 4))
    assert net.groups(2) == [slice(0, 3), slice(3, 5)]
    assert net.groups(0) == []
    net.increment = "class"
    assert net.groups(2) == [slice(0, 5)]
    assert net.groups(0) == []
    net = mlp(classes=(3,))
    net.increment = "domain"
    assert net.groups(2) == [slice(0, 3)]
    assert net.groups(0) == []


def test_cross_entropy_is_over_what_is_asked() -> None:
    net, x, y = mlp(classes=(3, 2)), torch.ones(2, 4), torch.tensor([0, 1])
    own = cross_entropy(net, x, y, 1)
    assert torch.equal(own, torch.nn.functional.cross_entropy(net(x, 1), y))
    net.increment = "class"
    assert torch.equal(cross_entropy(net, x, y, 1), torch.nn.functional.cross_entropy(net(x), y + 3))


def test_a_common_head_is_shared() -> None:
    net = mlp(classes=(3,))
    assert not any(name.startswith("heads.") for name in net.shared)
    net.increment = "domain"
    assert {"heads.0.weight", "heads.0.bias"} <= set(net.shared)


# Runs.


def learned(method: str, prepared: Path, scenario: dict[str, Any], count: int = 3, **knobs: Any) -> Learner:
    training = {"learning_rate": 0.1, "momentum": 0.0}
    learner = learner_for(params_for(method, knobs, selection=OFF, scenario=scenario, training=training), prepared)
    learn_tasks(learner, min(count, len(learner.experiences)))
    return learner


@pytest.mark.parametrize("increment", INCREMENTS)
def test_heads(increment: str, pairs: Path) -> None:
    learner = learned("finetune", pairs, {"name": increment})
    net = learner.method.net
    assert len(net.heads) == (1 if increment == "domain" else 3)
    assert net.tasks == 3
    assert learner.method.predict(learner.task.test.x[:2]).shape == (2, 2 if increment == "domain" else 6)


def test_class_incremental_finetuning_knows_the_last_classes_alone(pairs: Path) -> None:
    """The expected value, not a defect: the old classes are never right where new ones can be answered."""
    learner = learned("finetune", pairs, {"name": "class"})
    rows = learner.test()
    assert rows[2] > 0.8
    assert max(rows[:2]) < 0.5
    told = learner.test_other()
    assert told is not None
    assert min(told) >= max(rows[:2])


def test_new_classes_are_learned_to_the_last_epoch(pairs: Path) -> None:
    """Validation data say nothing of when to stop: they are answered best where everything is taken for a new class."""
    training = {"epochs": 30, "patience": {"drop_after": 1, "stop_after": 2}}
    for increment in INCREMENTS:
        learner = learner_for(params_for("finetune", scenario={"name": increment}, training=training), pairs)
        learner.open(learner.experiences[0])
        trained = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
        assert (trained.epochs == 30) == (increment == "class")


def test_new_classes_are_judged_among_themselves(pairs: Path) -> None:
    """Here every image is still taken for one of the first task's."""
    learner = learned("finetune", pairs, {"name": "class"}, 1)
    head: Any = learner.method.net.heads[0]
    head.bias.data.fill_(50)
    learner.open(learner.experiences[1])
    trained = learner.train("learn", 0, 1e-6, learner.knobs, plain=False)
    ended = learner.consolidate("learn", 0, 1e-6, learner.knobs, trained)
    validation = learner.task.validation
    own, wide = (accuracy(learner.method, validation, inference=True, task_aware=aware) for aware in (True, False))
    assert trained.accuracy == ended.accuracy == own > wide == 0


def test_told_the_task_is_among_its_own_classes(pairs: Path) -> None:
    learner = learned("finetune", pairs, {"name": "task"})
    task = learner.sequence.tasks[0]
    x, y = task.test.x, task.test.y
    with torch.no_grad():
        aware = float((learner.method.predict(x, 0).argmax(1) == y).float().mean())
        agnostic = float((learner.method.predict(x).argmax(1) == y).float().mean())  # the first columns are its own
    assert learner.test()[0] == pytest.approx(aware)
    assert (learner.test_other() or [])[0] == pytest.approx(agnostic)
    assert agnostic <= aware


def test_what_needs_the_task_is_not_asked_without(pairs: Path) -> None:
    assert learned("packnet", pairs, {"name": "task"}).test_other() is None
    assert learned("finetune", pairs, {"name": "domain"}).test_other() is None


def test_domain_incremental_tasks_have_as_many_classes(pairs: Path) -> None:
    params = params_for("finetune", scenario={"name": "domain"})
    sequence = load(pairs, CPU)
    tasks = (sequence.tasks[0], *[type(t)(**{**vars(t), "classes": ("a", "b", "c")}) for t in sequence.tasks[1:]])
    with pytest.raises(UserError, match=r"scenario.name: .*digits-0-1 has 2, digits-2-3 has 3"):
        Learner(params, "finetune", 0, type(sequence)(**{**vars(sequence), "tasks": tasks}), CPU)


def named(pairs: Path, *classes: tuple[str, ...], labels: Any = "names") -> Sequence:
    """The tasks with other names for their classes."""
    sequence = load(pairs, CPU)
    tasks = [dataclasses.replace(task, classes=found) for task, found in zip(sequence.tasks, classes, strict=False)]
    return dataclasses.replace(sequence, tasks=tuple(tasks), labels=labels)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (
            ("good", "zz"),
            r"those of digits-2-3 are not those of digits-0-1 \(bad in digits-0-1 alone, zz in digits-2-3 al",
        ),
        (("good", "bad"), r"\(in another order\)"),
        (tuple("ABCDEFG"), r"has 2, .* has 7, bad, good in .* alone, A, B, C, D, E and 2 more in digits-2-3 alone"),
    ],
)
def test_domain_incremental_tasks_have_the_same_classes(second: tuple[str, ...], words: str, pairs: Path) -> None:
    """A label is the rank of a name within its task: `good` would be 1 in one task and 0 in the other."""
    params = params_for("finetune", scenario={"name": "domain"})
    first = ("bad", "good")
    Learner(params, "finetune", 0, named(pairs, first, first), CPU)
    with pytest.raises(UserError, match=words):
        Learner(params, "finetune", 0, named(pairs, first, second), CPU)


def test_in_the_split_benchmarks_a_label_is_a_place(pairs: Path) -> None:
    """As split MNIST is published: the first of two digits, or the second."""
    params = params_for("finetune", scenario={"name": "domain"})
    Learner(params, "finetune", 0, named(pairs, ("0", "1"), ("2", "3"), labels="places"), CPU)
    assert load(pairs, CPU).labels == "places"


def test_other_classes_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    for name in ("t1/bad", "t1/good", "t2/good", "t2/zz"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (4, 4), (80 * number, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    benchmark = {"name": "folder", "path": str(tmp_path / "photos"), "image_size": 4}
    params = params_for("finetune", scenario={"name": "domain"}, benchmark=benchmark)
    (tmp_path / "out").mkdir()
    for command in (lambda: compare(params, tmp_path / "out"), lambda: train_stage(params, tmp_path / "out", Engine())):
        with pytest.raises(UserError, match="bad in t1 alone, zz in t2 alone"):
            command()
    assert not list((tmp_path / "out").glob(".work/finetune"))


def test_zero_shot_is_measured_where_it_means_something(pairs: Path, tmp_path: Path) -> None:
    for increment in INCREMENTS:
        out = output(tmp_path / increment, pairs)
        run(params_for("finetune", selection=OFF, scenario={"name": increment}), out)
        entries = json.loads((out / "results/finetune/seed-0.json").read_bytes())["per_task"]
        measured = [("zero_shot_accuracy" in entry, "untrained_accuracy" in entry) for entry in entries]
        assert measured == [(increment == "domain" and index > 0,) * 2 for index in range(3)]


def test_zero_shot_is_of_the_model_before_the_task(pairs: Path, tmp_path: Path) -> None:
    """And beside it stands that of the network as it was drawn."""
    params, out = params_for("finetune", selection=OFF, scenario={"name": "domain"}), output(tmp_path, pairs)
    run(params, out)
    entries = json.loads((out / "results/finetune/seed-0.json").read_bytes())["per_task"]
    learner = learner_for(params, pairs)
    learner.open(learner.experiences[0])
    learner.attach(learner.method, "test", 0, 0.1)
    tests = [task.test for task in learner.experiences]
    drawn = [accuracy(learner.method, test, inference=True) for test in tests]
    learn_tasks(learner, 1)
    after_one = [accuracy(learner.method, test, inference=True) for test in tests]
    assert after_one[1] != drawn[1]
    assert (entries[1]["zero_shot_accuracy"], entries[1]["untrained_accuracy"]) == (after_one[1], drawn[1])
    assert entries[2]["untrained_accuracy"] == drawn[2]


@pytest.mark.parametrize(
    ("scenario", "named"),
    [({}, "task-incremental"), ({"name": "class", **ONLINE}, "online class-incremental")],
)
def test_the_scenario_is_in_the_result(scenario: dict[str, Any], named: str, pairs: Path, tmp_path: Path) -> None:
    out = output(tmp_path, pairs)
    run(params_for("finetune", selection=OFF, scenario=scenario), out)
    result = json.loads((out / "results/finetune/seed-0.json").read_bytes())
    assert result["scenario"] == named
    assert ("task_aware_accuracy" in result, "task_agnostic_accuracy" in result) == (bool(scenario), not scenario)


# A stream.


def test_a_stream_shows_each_sample_once_and_no_boundary(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    called: list[str] = []

    class Watching(Finetune):
        online = True

        def begin_task(self, data: Any) -> None:
            called.append("begin_task")

        def end_task(self, data: Any) -> None:
            called.append("end_task")

        def batch(self, x: Any, y: Any, t: Any) -> Any:
            assert len(x) == len(self.indices) <= 10
            assert torch.equal(self.data.train.y[self.indices], y)
            assert torch.equal(self.view(self.data.train.images[self.indices], "test"), x)
            seen.extend((100 * self.task + self.indices).tolist())
            return x, y, t

    monkeypatch.setattr(train, "accuracy", lambda *args, **kwargs: pytest.fail("a stream has no validation data"))
    learner = learner_for(params_for("finetune", selection=OFF, scenario=ONLINE), pairs)
    watching = Watching()
    watching.net = learner.method.net
    learner.method = watching
    learn_tasks(learner, 3)
    assert sorted(seen) == [100 * task + index for task in range(3) for index in range(40)]
    assert called == []


@pytest.mark.parametrize("method", [name for name in names_in("methods") if method_class(name).online])
def test_a_stream_that_is_stopped_goes_on_to_the_same_bytes(method: str, pairs: Path, tmp_path: Path) -> None:
    """What a method keeps beside its state would be lost between two parts of a stream."""
    params = params_for(method, selection=OFF, scenario={"name": "class", **ONLINE}, training={"momentum": 0.0})
    whole = output(tmp_path / "whole", pairs)
    run(params, whole)
    resumed = learner_for(params, pairs)
    learn_tasks(resumed, 1)
    snapshot = Snapshot.of(resumed.method)
    again = learner_for(params, pairs)
    again.resume(0, snapshot)
    for learner in (resumed, again):
        for task in learner.experiences[1:]:
            learner.open(task)
            trained = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
            learner.consolidate("learn", 0, 0.1, learner.knobs, trained)
    assert same(Snapshot.of(resumed.method).net, Snapshot.of(again.method).net)
    assert same(Snapshot.of(resumed.method).state, Snapshot.of(again.method).state)
    assert published(whole)


def test_a_stream_needs_the_selection_off() -> None:
    with pytest.raises(ValueError, match=r"scenario\.online: .*selection\.enabled=false"):
        Params.model_validate({"methods": {"finetune": {}}, "scenario": {"online": True}})


# Who can do what.


@pytest.mark.parametrize(
    ("method", "scenario", "why"),
    [
        ("hat", Scenario(name="class"), "hat needs the task of an image"),
        ("packnet", Scenario(name="domain"), "packnet needs the task of an image"),
        ("joint", Scenario(online=True), "joint learns all tasks at once"),
        ("ewc", Scenario(online=True), "ewc does its work at the boundaries"),
    ],
)
def test_what_cannot_says_so(method: str, scenario: Scenario, why: str) -> None:
    assert why in (cannot(method, scenario) or "")
    tree = {"methods": {method: {}, "finetune": {}}, "selection": OFF, "scenario": scenario.model_dump()}
    with pytest.raises(UserError, match=why):
        checked(Params.model_validate(tree))
    said: list[str] = []
    tree["scenario"] = {**scenario.model_dump(), "unsupported": "leave-out"}
    assert list(checked(Params.model_validate(tree), said.append).methods) == ["finetune"]
    assert [why in line for line in said] == [True]


def test_a_run_started_by_itself_says_so_too(pairs: Path) -> None:
    """As a stage of DVC is, which nobody has checked beside the others."""
    with pytest.raises(UserError, match="hat needs the task"):
        learner_for(params_for("hat", scenario={"name": "class"}), pairs)


def test_where_nobody_is_left_that_is_said() -> None:
    tree = {"methods": {"hat": {}}, "scenario": {"name": "class", "unsupported": "leave-out"}}
    with pytest.raises(UserError, match="hat needs the task"):
        checked(Params.model_validate(tree))


def test_methods_all_leaves_out_what_cannot(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("methods: all\nscenario: {name: class}\n")
    params = read(path)
    assert list(params.methods) == names_in("methods")
    left = checked(params, lambda line: None).methods
    assert "finetune" in left
    assert not any(method_class(name).needs_task_id for name in left)
    path.write_text("methods: all\nscenario: {name: class, unsupported: refuse}\n")
    with pytest.raises(UserError, match="needs the task"):
        checked(read(path))


@pytest.mark.parametrize("name", names_in("methods"))
@pytest.mark.parametrize("increment", INCREMENTS)
def test_every_method_does_what_it_declares(name: str, increment: str, pairs: Path) -> None:
    if cannot(name, Scenario.model_validate({"name": increment})) is not None:
        pytest.skip("declares that it cannot")
    learner = learned(name, pairs, {"name": increment})
    rows = learner.test()
    assert len(rows) == 3
    assert all(0 <= value <= 1 for value in rows)
    learner.method.net.eval()
    with torch.no_grad():
        scores = learner.method.predict(learner.task.test.x[:5], 2)
        assert scores.shape == (5, 2)
        if not learner.method.needs_task_id:
            wide = learner.method.predict(learner.task.test.x[:5])
            assert wide.shape == (5, 2 if increment == "domain" else 6)
            assert bool(torch.isfinite(wide).all())
    assert isinstance(learner.method, Method)


# A memory for all.


def test_a_common_budget_is_the_knob_of_all(pairs: Path) -> None:
    for budget, expected in ((12, 12), ("800 B", 800 // (64 + 16)), ("1.6 kB", 20)):
        params = params_for("er", selection=OFF).model_copy(update={"memory_budget": budget})
        learner = learner_for(params, pairs)
        assert learner.knobs["memory_budget"] == expected
        learn_tasks(learner, 3)
        state = learner.method.state()["memory_"]
        assert len(state["y"]) == expected
        if isinstance(budget, str):
            assert sum(tensor.nbytes for tensor in state.values()) <= 800 * (2 if "k" in budget else 1)


@pytest.mark.parametrize(("increment", "classes"), [("task", 2), ("domain", 2), ("class", 6)])
def test_a_budget_of_bytes_holds_all_that_is_kept_of_a_sample(increment: str, classes: int, pairs: Path) -> None:
    """DER++'s logits too: of the classes of one task, or of all there will be."""
    params = params_for("derpp", selection=OFF, scenario={"name": increment}, training={"epochs": 1})
    learner = learner_for(params.model_copy(update={"memory_budget": "2 kB"}), pairs)
    learn_tasks(learner, 3)
    memory = learner.method.state()["memory_"]
    assert len(memory["y"]) == 2000 // (64 + 16 + 4 * classes)
    assert sum(tensor.nbytes for tensor in memory.values()) <= 2000


def test_a_budget_is_not_for_methods_that_keep_so_many_of_each_task() -> None:
    """Said of all of them at the start, before others have trained in vain."""
    tree = {"methods": {"finetune": {}, "joint": {}, "er": {}, "gem": {}, "r_pm": {}}, "memory_budget": "40 kB"}
    with pytest.raises(UserError, match=r"gem keeps a fixed number.*r_pm keeps a fixed number"):
        checked(Params.model_validate(tree))
    left = checked(Params.model_validate({**tree, "scenario": {"unsupported": "leave-out"}}), lambda line: None).methods
    assert list(left) == ["finetune", "joint", "er"]


def test_what_a_budget_cannot_be_is_said(pairs: Path) -> None:
    for budget, method, why in (
        ("10 B", "er", "is too little"),
        (10, "r_pm", "a fixed number of samples of each task"),
    ):
        params = params_for(method, selection=OFF).model_copy(update={"memory_budget": budget})
        with pytest.raises(UserError, match=why):
            learner_for(params, pairs)
    for wrong in ("40", "some", "0 kB", 0, -3):
        with pytest.raises(ValueError, match="memory_budget"):
            Params.model_validate({"methods": {"er": {}}, "memory_budget": wrong})
    unbound = params_for("ewc", selection=OFF).model_copy(update={"memory_budget": 10})
    assert "memory_budget" not in learner_for(unbound, pairs).knobs
