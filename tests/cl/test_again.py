"""A class that comes again: {cat, dog}, {bird, dog, fish}, {cat}, learned as four classes by every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from cl.closed_form import ClosedForm
from cl.data import Sequence, Split, Task, load
from cl.data.benchmarks import split_digits
from cl.data.labels import columns_of
from cl.data.prepare import check_prepared, columns_in, prepare, read_manifest
from cl.data.repetition import arrangement
from cl.data.task import AsIs
from cl.errors import UserError
from cl.evaluate import accuracy
from cl.learner import Learner
from cl.methods.a_gem import AGEM
from cl.methods.cope import CoPE
from cl.methods.expert_gate import ExpertGate
from cl.methods.icarl import ICaRL
from cl.methods.joint import Joint
from cl.methods.lwf import LwF
from cl.names import names_in
from cl.ops import distillation, snapshot
from cl.params import Benchmark, Scenario
from cl.register import cannot
from cl.train import Snapshot
from tests.cl.animals import COLUMNS, TREE, prepared
from tests.cl.small import CPU, OFF, SHORT, learn_tasks, learner_for, mlp, output, params_for, published, run
from tests.conftest import RAW

CLASS = {"name": "class"}
STREAM = {"name": "class", "online": True, "batch_size": 5}
KNOBS: dict[str, dict[str, Any]] = {
    **SHORT,
    "icarl": {"memory_budget": 20},
    "cope": {"memory_budget": 16},
    "ranpac": {"ridge": 1.0},
}


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three tasks, prepared by the benchmark `folder`."""
    return prepared(tmp_path_factory.mktemp("animals"))


def learner_of(name: str, animals: Path, knobs: dict[str, Any] | None = None, **sections: Any) -> Learner:
    given = {"scenario": CLASS, "selection": OFF, "training": {"epochs": 3, "batch_size": 8}, **sections}
    return learner_for(params_for(name, KNOBS.get(name) if knobs is None else knobs, **given), animals)


def learned(name: str, animals: Path, knobs: dict[str, Any] | None = None, count: int = 3, **sections: Any) -> Learner:
    learner = learner_of(name, animals, knobs, **sections)
    learn_tasks(learner, count)
    learner.method.net.eval()
    return learner


# Which columns the classes of a task have.


def test_a_class_has_one_column_in_all_its_tasks(animals: Path) -> None:
    assert columns_of(list(TREE.values()), True) == COLUMNS
    assert columns_of(list(TREE.values()), False) == [[0, 1], [2, 3, 4], [5]]
    sequence = load(animals, CPU)
    assert sequence.columns("class") == columns_in(read_manifest(animals), "class") == COLUMNS
    assert sequence.columns("task") == columns_in(read_manifest(animals), "task") == [[0, 1], [2, 3, 4], [5]]


def test_the_network_maps_labels_to_columns() -> None:
    net, draw = mlp(classes=()), torch.Generator().manual_seed(0)
    net.increment = "class"
    for columns in COLUMNS:
        net.add_head(columns, draw)
    assert net.classes() == [2, 2, 0]
    assert net.width == 4
    assert [net.columns_of(t) for t in range(3)] == COLUMNS
    assert [net.brought(t) for t in range(3)] == [[0, 1], [0, 2], []]
    assert [net.home(column) for column in range(4)] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [net.groups(tasks) for tasks in range(4)] == [[], [slice(0, 2)], [slice(0, 4)], [slice(0, 4)]]
    y, t = torch.tensor([0, 1, 2, 0, 1, 0]), torch.tensor([1, 1, 1, 0, 0, 2])
    assert net.column(y, t).tolist() == [2, 1, 3, 0, 1, 0]
    assert net.label(y[:3], 1).tolist() == [2, 1, 3]
    x = torch.rand(6, 4)
    wide = net(x)
    for index, columns in enumerate(COLUMNS):
        torch.testing.assert_close(net(x, index), wide[:, columns])
    masked = net(x, t)
    for row, index in enumerate(t.tolist()):
        own = COLUMNS[index]
        assert torch.equal(masked[row, own], wide[row, own])
        assert masked[row].isfinite().sum() == len(own)


def test_new_columns_come_by_label() -> None:
    net, draw = mlp(classes=(2,)), torch.Generator()
    for wrong in ([3, 2], [4], [0, 3]):
        with pytest.raises(AssertionError, match="by label"):
            net.add_head(wrong, draw)


def test_told_the_task_each_task_has_a_head_of_its_own(tmp_path: Path) -> None:
    """As before, although dog is in both."""
    learner = learned("lwf", prepared(tmp_path, tasks=2), scenario={"name": "task"}, count=2)
    assert learner.method.net.classes() == [2, 3]
    assert learner.method.net.columns_of(1) == [2, 3, 4]


def test_permuted_digits_of_two_tasks_are_different_classes(prepared_two: Sequence) -> None:
    assert prepared_two.tasks[0].classes == prepared_two.tasks[1].classes
    assert prepared_two.columns("class") == [list(range(10)), list(range(10, 20))]


@pytest.fixture
def prepared_two(tmp_path: Path) -> Sequence:
    prepare(Benchmark(tasks=2, train_per_class=2), RAW, tmp_path / "prepared", say=lambda line: None)
    return load(tmp_path / "prepared", CPU)


# What a task of one class is for.


@pytest.mark.parametrize("increment", ["task", "domain"])
def test_a_task_of_one_class_is_refused_where_nothing_else_stands_beside_it(increment: str, animals: Path) -> None:
    params = params_for("finetune", scenario={"name": increment})
    with pytest.raises(UserError, match=r"task 3-cats: 1 class \(cat\).*scenario.name=class"):
        check_prepared(params, animals)
    with pytest.raises(UserError, match="task 3-cats: 1 class"):
        learner_for(params, animals)


def test_the_first_task_needs_two_classes(tmp_path: Path) -> None:
    prepared(tmp_path)
    again = Benchmark(name="folder", path=str(tmp_path / "pictures"), image_size=4, order=["3-cats", "1-pets"])
    prepare(again, tmp_path, tmp_path / "other", lambda line: None)
    with pytest.raises(UserError, match=r"the first task needs two at least.*benchmark\.order"):
        check_prepared(params_for("finetune", scenario=CLASS), tmp_path / "other")


def test_a_task_of_one_class_is_judged_among_all(animals: Path, tmp_path: Path) -> None:
    """Alone that class would always be right, and naming it is no sign that nothing was learned."""
    learner = learned("finetune", animals, count=2)
    learner.open(learner.sequence.tasks[2])
    assert learner.chance() is None
    trained = learner.train("learn", 0, 1e-9, learner.knobs, plain=False)
    outcome = learner.consolidate("learn", 0, 1e-9, learner.knobs, trained)
    assert outcome.accuracy == accuracy(learner.method, learner.task.validation, inference=True) < 1
    params = params_for("finetune", scenario=CLASS, selection=OFF, training={"epochs": 3, "batch_size": 8})
    run(params, output(tmp_path / "out", animals))
    assert b"remarks" not in published(tmp_path / "out")["results/finetune/seed-0.json"]


# Every method.


@pytest.mark.parametrize(
    ("name", "scenario"),
    [
        pytest.param(name, scenario, id=f"{name}-{Scenario.model_validate(scenario).title}")
        for scenario in (CLASS, STREAM)
        for name in names_in("methods")
        if cannot(name, Scenario.model_validate(scenario)) is None
    ],
)
def test_every_method_learns_four_classes(name: str, scenario: dict[str, Any], animals: Path) -> None:
    learner = learned(name, animals, scenario=scenario)
    method, x = learner.method, learner.sequence.tasks[1].test.x
    assert method.net.width == 4
    with torch.no_grad():
        wide, told = method.predict(x), method.predict(x, 1)
    assert wide.shape == (len(x), 4)
    assert bool(wide.isfinite().all())
    assert told.shape == (len(x), 3)
    if name not in OTHERWISE:
        torch.testing.assert_close(told.softmax(1), wide[:, COLUMNS[1]].softmax(1))
    right = torch.tensor(COLUMNS[1])[learner.sequence.tasks[1].test.y]
    assert learner.test()[1] == (wide.argmax(1) == right).float().mean()
    # A model that is loaded goes on from there, and to the same.
    other = learner_of(name, animals, scenario=scenario)
    other.resume(len(other.experiences) - 1, Snapshot.of(method))
    other.method.net.eval()
    with torch.no_grad():
        assert torch.equal(other.method.predict(x), wide)


OTHERWISE = ("vcl", "vcl_coreset", "expert_gate")
"""Told the task, they do not choose by the same scores: these are means of several networks, or another expert's."""


# The right values.


def pooled(sequence: Sequence, split: str = "train") -> tuple[Tensor, Tensor]:
    """The images of all tasks as the network takes them, and the column of each."""
    parts = [getattr(task, split) for task in sequence.tasks]
    y = torch.cat([torch.tensor(columns)[part.y] for part, columns in zip(parts, COLUMNS, strict=True)])
    return torch.cat([part.x for part in parts]), y


@pytest.mark.parametrize("name", ["ncm", "slda", "ranpac", "fecam"])
def test_without_gradients_it_is_the_batch_solution_over_all_pictures(name: str, animals: Path) -> None:
    knobs = {**KNOBS.get(name, {}), "features": "input"}
    in_turn = learned(name, animals, knobs).method
    at_once = learner_of(name, animals, knobs)
    at_once.open(at_once.sequence.tasks[0])
    at_once.attach(at_once.method, "learn", 0, None)
    at_once.method.net.add_head(2, torch.Generator())  # a network of four classes that knows nothing of the tasks
    x, k = pooled(at_once.sequence)
    assert isinstance(at_once.method, ClosedForm)
    method, y, t = at_once.method, torch.where(k < 2, k, k - 2), torch.where(k < 2, 0, 1)
    split = Split(lambda: (x, y, 0), AsIs(CPU))
    method.data, method.indices = Task(0, "all", (), split, split, split, "all"), torch.arange(len(y))
    method.observe(x, y, t)
    with torch.no_grad():
        torch.testing.assert_close(in_turn.predict(x), at_once.method.predict(x), rtol=1e-9, atol=1e-9)


def test_ncms_mean_of_a_class_is_that_of_all_its_pictures(animals: Path) -> None:
    method = learned("ncm", animals, {"features": "input"}).method
    x, k = pooled(load(animals, CPU))
    means = np.stack([x[k == c].flatten(1).double().numpy().mean(0) for c in range(4)])
    np.testing.assert_allclose(method.means(), means, rtol=1e-12)  # type: ignore[attr-defined]
    assert method.counts_.tolist() == [20, 20, 10, 10]  # type: ignore[attr-defined]


def test_a_picture_of_a_class_is_right_in_whichever_task_it_is(animals: Path) -> None:
    """A network that always answers dog gets the dogs of both tasks right, and no other picture."""
    learner = learned("finetune", animals)
    with torch.no_grad():
        for head in learner.method.net.heads:
            head.weight.zero_()
            head.bias.zero_()
        learner.method.net.heads[0].bias[1] = 1.0
    assert learner.test() == pytest.approx([1 / 2, 1 / 3, 0])
    assert learner.test(task_aware=True) == pytest.approx([1 / 2, 1 / 3, 1])


def test_lwf_keeps_the_answers_for_a_class_that_comes_again(animals: Path) -> None:
    """{bird, dog, fish}: the cross-entropy is over four classes; the old answers are kept among cat and dog."""
    learner = learned("lwf", animals, {"strength": 3.0}, count=1)
    learner.open(learner.sequence.tasks[1])
    method = learner.method
    assert isinstance(method, LwF)
    learner.attach(method, "learn", 0, 0.1)
    method.begin_task(learner.task)
    teacher = snapshot(method.net.state_dict())
    with torch.no_grad():
        for p in method.net.parameters():
            p += 0.05
    x, y = learner.task.train.x, learner.task.train.y
    wide, old = method.net(x), functional_call(method.net, teacher, (x,))
    expected = F.cross_entropy(wide, torch.tensor([2, 1, 3])[y]) + 3 * distillation(wide[:, :2], old[:, :2], 2.0)
    torch.testing.assert_close(method.loss(x, y, 1), expected)


@pytest.mark.parametrize("name", ["ebll", "dgr", "pseudo_rehearsal", "er", "derpp", "gss", "r_pm", "gem", "icarl"])
def test_a_task_of_old_classes_alone_teaches_nothing_new_but_changes_their_scores(name: str, animals: Path) -> None:
    """The head of {cat} is empty, and training goes on in the column of cat."""
    learner = learned(name, animals, count=2)
    before = learner.method.net.heads[0].weight.detach().clone()
    learner.open(learner.sequence.tasks[2])
    learner.train("learn", 0, 0.05, learner.knobs, plain=False)
    heads = learner.method.net.heads
    assert tuple(heads[2].weight.shape) == (0, 16)
    assert not torch.equal(heads[0].weight[0], before[0])


def test_joint_training_is_over_four_classes(animals: Path) -> None:
    learner = learner_of("joint", animals)
    (all_tasks,) = learner.experiences
    learner.open(all_tasks)
    learner.attach(learner.method, "learn", 0, 0.1)
    assert isinstance(learner.method, Joint)
    x, k = pooled(learner.sequence)
    torch.testing.assert_close(all_tasks.train.x, x)
    loss = learner.method.loss(x, all_tasks.train.y, all_tasks.train.t)
    torch.testing.assert_close(loss, F.cross_entropy(learner.method.net(x), k))


# One share of the memory.


def counts(method: Any) -> list[int]:
    """Samples of each class in the memory of a method that replays."""
    memory = method.memory_
    return torch.bincount(method.net.column(memory["y"], memory["t"]), minlength=4).tolist()


@pytest.mark.parametrize(
    ("name", "knobs", "shares"),
    [("cope", {"memory_budget": 16}, [4, 4, 4, 4]), ("a_gem", {"memory_per_class": 3}, [3, 3, 3, 3])],
)
def test_a_class_has_one_share(name: str, knobs: dict[str, Any], shares: list[int], animals: Path) -> None:
    method = learned(name, animals, knobs).method
    assert isinstance(method, CoPE | AGEM)
    assert counts(method) == shares
    assert method.memory_ is not None
    assert set(method.memory_["t"][method.net.column(method.memory_["y"], method.memory_["t"]) == 1].tolist()) <= {0, 1}


def test_copes_prototype_of_a_class_that_comes_again_moves_on(animals: Path) -> None:
    learner = learned("cope", animals, count=1)
    assert isinstance(learner.method, CoPE)
    assert learner.method.prototypes_ is not None
    before = learner.method.prototypes_.clone()
    learner.open(learner.sequence.tasks[1])
    learner.train("learn", 0, 0.05, learner.knobs, plain=False)
    assert learner.method.classes_ is not None
    assert sorted(learner.method.classes_.tolist()) == [0, 1, 2, 3]
    dog = learner.method.classes_.tolist().index(1)
    assert not torch.equal(learner.method.prototypes_[dog], before[dog])


def test_icarl_herds_a_class_that_comes_again_from_old_and_new_pictures(animals: Path) -> None:
    learner = learned("icarl", animals, {"memory_budget": 20}, count=1)
    method = learner.method
    assert isinstance(method, ICaRL)
    assert method.exemplars_ is not None
    old = method.exemplars_[0][1].clone()
    assert len(old) == 10
    learn_second(learner)
    new = learner.task.train.images[learner.task.train.y == 1]
    together = torch.cat([old, new])
    features = F.normalize(method.net.backbone(learner.task.train.normalise(together)), dim=1)
    chosen = together[greedy(features.detach().double().numpy(), 5)]
    assert torch.equal(method.exemplars_[0][1], chosen)
    assert [[len(images) for images in task] for task in method.exemplars_] == [[5, 5], [5, 5]]
    assert method.means_ is not None
    of_chosen = F.normalize(method.net.backbone(learner.task.train.normalise(chosen)), dim=1).mean(0)
    torch.testing.assert_close(method.means_[0][1], F.normalize(of_chosen, dim=0))
    learn_next(learner, 2)
    assert [[len(images) for images in task] for task in method.exemplars_] == [[5, 5], [5, 5], []]
    x = learner.sequence.tasks[1].test.x
    with torch.no_grad():
        expected = -torch.cdist(F.normalize(method.net.backbone(x), dim=1), torch.cat(method.means_))
        torch.testing.assert_close(method.predict(x), expected)
    assert [len(split) for split in method.kept(learner.task.train.normalise)] == [10, 15]


def greedy(features: Any, count: int) -> list[int]:
    """Herding, written down again: always the sample with which the mean of the chosen is nearest to that of all."""
    chosen: list[int] = []
    for _ in range(count):
        rest = [i for i in range(len(features)) if i not in chosen]
        away = {i: np.linalg.norm(features.mean(0) - features[[*chosen, i]].mean(0)) for i in rest}
        chosen.append(min(rest, key=away.__getitem__))
    return chosen


def learn_next(learner: Learner, index: int) -> None:
    learner.open(learner.sequence.tasks[index])
    trained = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
    learner.consolidate("learn", 0, 0.1, learner.knobs, trained)


def learn_second(learner: Learner) -> None:
    learn_next(learner, 1)


def test_icarls_fixed_answers_are_renewed_with_the_exemplars(animals: Path) -> None:
    """Cat and dog were first answered among two classes. Dog's exemplars are others after the second task."""
    learner = learned("icarl", animals, {"memory_budget": 20, "targets": "fixed"}, count=2)
    method = learner.method
    assert isinstance(method, ICaRL)
    assert method.targets_ is not None
    assert [[tuple(logits.shape) for logits in task] for task in method.targets_] == [
        [(5, 2), (5, 4)],
        [(5, 4), (5, 4)],
    ]
    learner.open(learner.sequence.tasks[2])
    learner.attach(method, "learn", 0, 0.1)
    method.begin_task(learner.task)
    assert method._replay is not None
    logits = method._replay["logits"]
    assert torch.equal(logits[5:10], method.targets_[0][1])
    assert torch.equal(logits[:5, :2], method.targets_[0][0])
    assert method._replay["counts"].tolist() == [10, 10]
    labels = method.net.column(method._replay["y"], method._replay["t"])
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5


def test_an_expert_has_all_classes_of_its_task(animals: Path) -> None:
    learner = learned("expert_gate", animals)
    method = learner.method
    assert isinstance(method, ExpertGate)
    heads = [{name.split(".")[1] for name in expert if name.startswith("heads.")} for expert in method.experts_ or []]
    assert heads == [{"0"}, {"0", "1"}, {"0"}]


def test_a_budget_a_class_counts_each_class_once(animals: Path) -> None:
    def knobs(name: str) -> dict[str, Any]:
        params = params_for(name, scenario=CLASS, selection=OFF).model_copy(update={"memory_budget": "3 a class"})
        return dict(learner_for(params, animals).knobs)

    assert knobs("er")["memory_budget"] == 12
    with pytest.raises(UserError, match=r"r_pm keeps equally many samples of each task, and a class is in several"):
        knobs("r_pm")


@pytest.mark.parametrize("name", ["icarl", "er", "ranpac"])
def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(name: str, animals: Path, tmp_path: Path) -> None:
    params = params_for(name, KNOBS.get(name), scenario=CLASS, training={"epochs": 3, "batch_size": 8})
    run(params, output(tmp_path / "whole", animals))
    two = prepared(tmp_path / "two", tasks=2)
    run(params, output(tmp_path / "stopped", two))
    run(params, output(tmp_path / "stopped", animals))
    assert published(tmp_path / "stopped") == published(tmp_path / "whole")


# Data sets cut so that classes come again.


@pytest.mark.parametrize(("classes", "per_task", "times"), [(10, 2, 3), (10, 5, 2), (10, 10, 4), (3, 2, 2), (6, 4, 2)])
def test_each_class_is_in_so_many_tasks(classes: int, per_task: int, times: int) -> None:
    drawn = [arrangement(classes, per_task, times, seed) for seed in range(30)]
    for tasks in drawn:
        assert len(tasks) == classes * times // per_task
        assert all(len(set(own)) == per_task for own in tasks)
        assert np.bincount(np.concatenate(tasks)).tolist() == [times] * classes
    assert per_task == classes or len({str(tasks) for tasks in drawn}) > 1


def test_no_image_is_in_two_tasks() -> None:
    options = Benchmark(name="split-digits", repetition=3)
    whole = {split: [] for split in ("train", "validation", "test")}  # type: ignore[var-annotated]
    tasks = list(split_digits.tasks(options, RAW))
    assert [task.name for task in tasks] == [f"task-{number:02d}" for number in range(1, 16)]
    for task in tasks:
        for split, (images, labels) in task.splits.items():
            assert sorted(set(labels.tolist())) == [0, 1]
            digits = [int(task.classes[label]) for label in labels]
            whole[split] += [(digit, image.tobytes()) for digit, image in zip(digits, images, strict=True)]
    plain = {split: [] for split in whole}  # type: ignore[var-annotated]
    for split, (images, labels) in split_digits._digits.split(*split_digits._digits.read(RAW), options).items():
        plain[split] += [(int(digit), image.tobytes()) for digit, image in zip(labels, images, strict=True)]
    assert {split: sorted(found) for split, found in whole.items()} == {s: sorted(found) for s, found in plain.items()}


def test_chosen_tasks_are_those_of_the_whole() -> None:
    whole = {task.name: task for task in split_digits.tasks(Benchmark(name="split-digits", repetition=2), RAW)}
    wanted = Benchmark(name="split-digits", repetition=2, order=["task-07", "task-02"])
    for task in split_digits.tasks(wanted, RAW):
        assert task.classes == whole[task.name].classes
        assert np.array_equal(task.splits["train"][0], whole[task.name].splits["train"][0])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"repetition": 40}, r"class \d has \d+ validation images for 40 tasks; lower it"),
        ({"repetition": 2, "order": "shuffled"}, "has no order 'shuffled'"),
        ({"repetition": 2, "classes_per_task": 3}, "10 classes in 2 tasks each make no tasks of 3; change it"),
        ({"repetition": 2, "classes_per_task": 20}, "10 classes in 2 tasks each make no tasks of 20"),
        ({"classes_per_task": 3}, "10 digits make no tasks of 3 each; take 2, 5 or 10"),
        ({"repetition": 2, "tasks": 11}, "has 10 tasks to learn, not 11"),
    ],
)
def test_what_cannot_come_again_so_often_is_said(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        list(split_digits.tasks(Benchmark(name="split-digits", **given), RAW))


def test_digits_may_come_in_larger_tasks() -> None:
    two = list(split_digits.tasks(Benchmark(name="split-digits", classes_per_task=5), RAW))
    assert [(task.name, task.classes) for task in two] == [
        ("digits-0-4", ["0", "1", "2", "3", "4"]),
        ("digits-5-9", ["5", "6", "7", "8", "9"]),
    ]
    assert sum(len(labels) for task in two for _, labels in task.splits.values()) == 1797


def test_digits_that_come_again_are_ten_classes(tmp_path: Path) -> None:
    options = Benchmark(name="split-digits", repetition=2, train_per_class=10, validation_per_class=4)
    prepare(options, RAW, tmp_path / "prepared", say=lambda line: None)
    learner = learned("ncm", tmp_path / "prepared", count=10)
    assert learner.method.net.width == 10
    assert learner.method.net.classes()[-1] == 0
    assert learner.method.counts_.tolist() == [10.0] * 10  # type: ignore[attr-defined]
