"""Methods without gradients: golden values from numpy, order, joint training, streams, few samples, the protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cl import train
from cl.anytime import trace
from cl.children import RunId
from cl.closed_form import UNSEEN, ClosedForm, factor
from cl.data import Split, Task, joined
from cl.data.task import AsIs
from cl.errors import UserError
from cl.methods.fecam import FeCAM
from cl.methods.ncm import NCM
from cl.methods.ranpac import RIDGES, RanPAC
from cl.methods.slda import SLDA
from cl.ops import snapshot
from cl.register import make
from cl.rng import generator
from flows.report.build import build
from tests.cl.small import CPU, OFF, attach, learn_tasks, learner_for, mlp, output, params_for, run, same, toy_task

Batch = tuple[Tensor, Tensor, int]
METHODS: list[Callable[..., ClosedForm]] = [NCM, SLDA, RanPAC, FeCAM]
NAMES = ["ncm", "slda", "ranpac", "fecam"]
SIZE, CLASSES = 4, (3, 2, 2, 3, 2)


def tasks(per_class: int = 6) -> list[Batch]:
    """Five tasks of positive features (N, 1, 1, 4) around a centre for each class, in mixed order."""
    draw = generator("closed form")
    made = []
    for t, count in enumerate(CLASSES):
        y = torch.arange(count * per_class) % count
        centres = 3 * torch.rand(count, SIZE, generator=draw)
        x = centres[y] + torch.rand(len(y), SIZE, generator=draw)
        made.append((x.view(-1, 1, 1, SIZE), y, t))
    return made


def fresh(cls: Callable[..., ClosedForm], classes: Sequence[int] = CLASSES, **knobs: Any) -> ClosedForm:
    """On a network of these classes, class-incremental; it classifies what it is given."""
    net = mlp(SIZE, classes=classes)
    net.increment = "class"
    method: ClosedForm = attach(cls(**{"features": "input", **knobs}), net)
    return method


def observe(method: ClosedForm, x: Tensor, y: Tensor, t: Any) -> None:
    """As the loop does it, where these samples are all that a task has."""
    images = x.view(len(x), 1, 1, -1)
    split = Split(lambda: (images, y, t), AsIs(CPU))
    method.data, method.indices = Task(0, "toy", (), split, split, split, "toy"), torch.arange(len(y))
    method.observe(x, y, t)


def learn(method: ClosedForm, batches: Sequence[Batch]) -> ClosedForm:
    for x, y, t in batches:
        observe(method, x, y, t)
        method.end_task(toy_task([[0] * SIZE], [0]))
    return method


def rows(batches: Sequence[Batch]) -> tuple[Any, Any]:
    """All features (N, 4) and columns (N,), for numpy."""
    starts = np.cumsum([0, *CLASSES])
    z = np.concatenate([x.view(-1, SIZE).double().numpy() for x, _, _ in batches])
    return z, np.concatenate([y.numpy() + starts[t] for _, y, t in batches])


X = tasks()[2][0][:5]
"""What is asked about."""
Z = X.view(-1, SIZE).double().numpy()


# Golden values.


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_ncm(metric: str) -> None:
    z, k = rows(tasks())
    means = np.stack([z[k == c].mean(0) for c in range(sum(CLASSES))])
    if metric == "cosine":
        expected = (Z / np.linalg.norm(Z, axis=1, keepdims=True)) @ (means / np.linalg.norm(means, axis=1)[:, None]).T
    else:
        expected = -np.linalg.norm(Z[:, None] - means, axis=2)
    found = learn(fresh(NCM, metric=metric), tasks()).predict(X)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("epsilon", [1e-4, 0.5])
def test_slda(epsilon: float) -> None:
    z, k = rows(tasks())
    means = np.stack([z[k == c].mean(0) for c in range(sum(CLASSES))])
    within = (z - means[k]).T @ (z - means[k]) / len(z)
    precision = np.linalg.inv((1 - epsilon) * within + epsilon * np.eye(SIZE))
    expected = Z @ precision @ means.T - 0.5 * np.einsum("kf,fg,kg->k", means, precision, means)
    found = learn(fresh(SLDA, epsilon=epsilon), tasks()).predict(X)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize(("tukey", "gammas"), [(0.5, (1.0, 1.0)), (1.0, (10.0, 2.0))])
def test_fecam(tukey: float, gammas: tuple[float, float]) -> None:
    z, k = rows(tasks())
    z, asked = z**tukey, Z**tukey
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    expected = []
    for c in range(sum(CLASSES)):
        covariance = np.cov(z[k == c].T)  # dividing by n - 1: the correlations are the same
        diagonal = np.diag(covariance)
        rest = covariance[~np.eye(SIZE, dtype=bool)].mean()
        covariance = covariance + gammas[0] * diagonal.mean() * np.eye(SIZE) + gammas[1] * rest * (1 - np.eye(SIZE))
        correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
        mean = z[k == c].mean(0)
        off = asked - mean / np.linalg.norm(mean)
        expected.append(-0.5 * np.einsum("nf,fg,ng->n", off, np.linalg.pinv(correlation), off))
    shrinkage = {"variance_shrinkage": gammas[0], "covariance_shrinkage": gammas[1]}
    found = learn(fresh(FeCAM, tukey=tukey, **shrinkage), tasks()).predict(X)
    np.testing.assert_allclose(found, np.stack(expected, 1), rtol=1e-9)


def ridge_solution(h: Any, k: Any, ridge: float) -> Any:
    labels = np.eye(sum(CLASSES))[k]
    return np.linalg.solve(h.T @ h + ridge * np.eye(h.shape[1]), h.T @ labels)


def fifth(k: Any) -> Any:
    """The second sample of each class, and every fifth after it."""
    return np.array([np.count_nonzero(k[: i + 1] == c) % 5 == 2 for i, c in enumerate(k)])


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_ranpacs_weights_after_five_tasks_are_those_of_ridge_regression_on_all(ridge: float) -> None:
    method = learn(fresh(RanPAC, projection=20, ridge=ridge), tasks())
    assert isinstance(method, RanPAC)
    z, k = rows(tasks())
    assert method._drawn is not None
    drawn = method._drawn.numpy()
    h = np.maximum(z @ drawn, 0)
    used = ridge or method.ridge_
    np.testing.assert_allclose(method.solve(), ridge_solution(h, k, used), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(
        method.predict(X), np.maximum(Z @ drawn, 0) @ ridge_solution(h, k, used), rtol=1e-7, atol=1e-9
    )


def test_ranpac_takes_the_ridge_of_the_least_error_on_a_fifth_of_the_task() -> None:
    """Of the task alone, not of what was learned before."""
    method = learn(fresh(RanPAC, projection=20), tasks(20)[:2])
    assert isinstance(method, RanPAC)
    assert method._drawn is not None
    z, k = rows(tasks(20)[1:2])
    h, held = np.maximum(z @ method._drawn.numpy(), 0), fifth(k)
    labels = np.eye(sum(CLASSES))[k]
    errors = [np.square(h[held] @ ridge_solution(h[~held], k[~held], r) - labels[held]).sum() for r in RIDGES]
    assert method.ridge_ == RIDGES[int(np.argmin(errors))]
    assert RIDGES[0] < method.ridge_ < RIDGES[-1]


# What the mathematics promises.


@pytest.mark.parametrize("cls", METHODS)
def test_the_order_of_tasks_and_samples_changes_nothing(cls: Callable[..., ClosedForm]) -> None:
    """Each task comes in two halves, the second time in another order with other tasks between."""
    knobs = {"ridge": 1.0, "projection": 20} if cls is RanPAC else {}
    given = [(x[part], y[part], t) for x, y, t in tasks() for part in (slice(0, None, 2), slice(1, None, 2))]
    order = torch.randperm(len(given), generator=generator("order")).tolist()
    straight = learn(fresh(cls, **knobs), given).predict(X)
    mixed = learn(fresh(cls, **knobs), [given[i] for i in order]).predict(X)
    if cls is NCM:
        assert torch.equal(straight, mixed)
    torch.testing.assert_close(straight, mixed, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cls", METHODS)
def test_joint_training_is_the_method_itself(cls: Callable[..., ClosedForm]) -> None:
    knobs = {"ridge": 1.0, "projection": 20} if cls is RanPAC else {}
    one_by_one, at_once = learn(fresh(cls, **knobs), tasks()), fresh(cls, **knobs)
    t = torch.cat([torch.full((len(y),), index) for _, y, index in tasks()])
    observe(at_once, torch.cat([x for x, _, _ in tasks()]), torch.cat([y for _, y, _ in tasks()]), t)
    torch.testing.assert_close(at_once.predict(X), one_by_one.predict(X), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_on_prepared_tasks_too(name: str, prepared: dict[int, Path]) -> None:
    """The loop over joined tasks, against three tasks in turn."""
    knobs = {"ridge": 1.0} if name == "ranpac" else {}
    in_turn = learner_for(params_for(name, knobs, selection=OFF, scenario={"name": "class"}), prepared[3])
    learn_tasks(in_turn, 3)
    union = learner_for(params_for(name, knobs, selection=OFF, scenario={"name": "class"}), prepared[3])
    union.open(union.sequence.tasks[2])
    union.attach(union.method, "learn", 0, None)
    train.show(union.method, joined(union.sequence.tasks), (0,))
    with torch.no_grad():
        x = union.sequence.tasks[0].test.x
        torch.testing.assert_close(union.method.predict(x), in_turn.method.predict(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("cls", METHODS)
def test_a_stream_ends_in_the_same(cls: Callable[..., ClosedForm]) -> None:
    """Sample by sample, without a boundary."""
    knobs = {"ridge": 1.0, "projection": 20} if cls is RanPAC else {}
    stream = fresh(cls, **knobs)
    for x, y, t in tasks():
        for i in range(len(x)):
            observe(stream, x[i : i + 1], y[i : i + 1], t)
    told = learn(fresh(cls, **knobs), tasks())
    torch.testing.assert_close(stream.predict(X), told.predict(X), rtol=1e-10, atol=1e-10)


def test_ranpac_chooses_in_a_stream_by_all_of_it() -> None:
    stream = fresh(RanPAC, projection=20)
    for x, y, t in tasks(20):
        observe(stream, x, y, t)
    assert isinstance(stream, RanPAC)
    assert stream._drawn is not None
    z, k = rows(tasks(20))
    h, held = np.maximum(z @ stream._drawn.numpy(), 0), fifth(k)
    labels = np.eye(sum(CLASSES))[k]
    errors = [np.square(h[held] @ ridge_solution(h[~held], k[~held], r) - labels[held]).sum() for r in RIDGES]
    weights = ridge_solution(h, k, RIDGES[int(np.argmin(errors))])
    np.testing.assert_allclose(stream.solve(), weights, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("cls", METHODS)
def test_in_domain_incremental_learning_a_class_that_comes_again_is_the_same(cls: Callable[..., ClosedForm]) -> None:
    knobs = {"ridge": 1.0, "projection": 20} if cls is RanPAC else {}
    once, twice = (fresh(cls, (3,), **knobs) for _ in range(2))
    once.net.increment = twice.net.increment = "domain"
    x, y, _ = tasks()[0]
    learn(once, [(x, y, 0)])
    learn(twice, [(x[:7], y[:7], 0), (x[7:], y[7:], 1)])
    torch.testing.assert_close(once.predict(X), twice.predict(X, 1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cls", METHODS)
def test_told_the_task_it_is_among_its_classes(cls: Callable[..., ClosedForm]) -> None:
    method = learn(fresh(cls), tasks())
    torch.testing.assert_close(method.predict(X, 2), method.predict(X)[:, 5:7], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cls", METHODS)
def test_a_class_that_was_not_seen_never_answers(cls: Callable[..., ClosedForm]) -> None:
    method = learn(fresh(cls), [(x[y != 1], y[y != 1], t) for x, y, t in tasks()[:2]])
    scores = method.predict(X)
    unseen = [1, *range(4, sum(CLASSES))]
    assert bool((scores[:, unseen] == UNSEEN).all())
    assert bool((scores[:, [0, 2, 3]] > UNSEEN).all())
    assert bool((method.predict(X, 4) == UNSEEN).all())


# Few samples, and none that would do.


@pytest.mark.parametrize("per_class", [1, 2, 3])
@pytest.mark.parametrize("cls", METHODS)
def test_few_samples_of_a_class_are_learned(cls: Callable[..., ClosedForm], per_class: int) -> None:
    """Fewer than features; each of the samples learned gets its own class, told the task."""
    method = learn(fresh(cls), tasks(per_class))
    for x, y, t in tasks(per_class):
        scores = method.predict(x, t)
        assert bool(scores.isfinite().all())
        assert float((scores.argmax(1) == y).float().mean()) > 0.6


@pytest.mark.parametrize("cls", METHODS)
def test_one_sample_alone_and_samples_all_alike_are_learned(cls: Callable[..., ClosedForm]) -> None:
    method = fresh(cls, (2,))
    for count in (1, 4):
        learn(method, [(torch.ones(count, 1, 1, SIZE), torch.zeros(count, dtype=torch.int64), 0)])
        assert method.predict(torch.ones(1, 1, 1, SIZE)).argmax() == 0
    learn(method, [(torch.zeros(1, 1, 1, SIZE), torch.ones(1, dtype=torch.int64), 0)])
    assert bool(method.predict(X).isfinite().all())


def test_a_singular_matrix_gets_a_ridge_that_makes_it_regular() -> None:
    matrix = torch.ones(3, 3, dtype=torch.float64)
    lower = factor(matrix, 0.0)
    torch.testing.assert_close(lower @ lower.T, matrix, rtol=0, atol=1e-6)
    assert torch.equal(factor(4 * torch.eye(2), 0.0), 2 * torch.eye(2))
    assert bool(factor(torch.zeros(2, 2), 0.0).isfinite().all())


def test_features_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="are not finite"):
        observe(fresh(NCM), torch.full((1, 1, 1, SIZE), torch.nan), torch.zeros(1, dtype=torch.int64), 0)


def test_a_projection_that_comes_out_otherwise_is_refused() -> None:
    state = learn(fresh(RanPAC), tasks()).state()
    other = fresh(RanPAC)
    other.load_state({**state, "seed_": 5})
    with pytest.raises(UserError, match="another projection"):
        other.predict(X)


def test_negative_features_are_mirrored_by_tukeys_transform() -> None:
    mirrored = learn(fresh(FeCAM), [(-x, y, t) for x, y, t in tasks()])
    torch.testing.assert_close(mirrored.predict(-X), learn(fresh(FeCAM), tasks()).predict(X), rtol=1e-12, atol=1e-12)


# The network.


@pytest.mark.parametrize("features", ["network", "input", "first-task"])
def test_whose_features_they_are(features: str, prepared: dict[int, Path]) -> None:
    """As it was initialised, or as plain finetuning leaves it on the first task; later tasks do not change it."""
    learner = learner_for(params_for("ncm", {"features": features}, selection=OFF), prepared[3])
    plain = learner_for(params_for("finetune", selection=OFF), prepared[3])
    before = snapshot(learner.method.net.state_dict())
    for one in (plain, learner):
        learn_tasks(one, 1)
    after = snapshot(learner.method.net.state_dict())
    assert same(after, snapshot(plain.method.net.state_dict())) == (features == "first-task")
    assert same({name: after[name] for name in before}, before) == (features != "first-task")
    for task in learner.experiences[1:]:
        learner.open(task)
        trained = learner.train("learn", 0, None, learner.knobs, plain=False)
        learner.consolidate("learn", 0, None, learner.knobs, trained)
    kept = learner.method.net.state_dict()
    assert same({name: kept[name] for name in after}, after)
    sums: Any = learner.method.state()["sums_"]
    assert sums.shape == (30, 64 if features == "input" else 16)


def test_by_the_protocol_the_first_task_is_finetunings(prepared: dict[int, Path], tmp_path: Path) -> None:
    """The same search, so the same network, bit for bit; the second task has no learning rate."""
    networks = []
    for name, knobs in (("finetune", {}), ("slda", {"features": "first-task"})):
        out = output(tmp_path / name, prepared[2])
        run(params_for(name, knobs), out)
        networks.append((out / f"checkpoints/{name}/seed-0/task-0/net.safetensors").read_bytes())
    assert networks[0] == networks[1]
    result = json.loads((tmp_path / "slda/results/slda/seed-0.json").read_bytes())
    assert [entry["learning_rate"] is None for entry in result["per_task"]] == [False, True]


def test_a_stream_has_no_first_task(prepared: dict[int, Path]) -> None:
    scenario = {"name": "class", "online": True}
    learner = learner_for(
        params_for("ranpac", {"features": "first-task"}, selection=OFF, scenario=scenario), prepared[2]
    )
    with pytest.raises(UserError, match=r"methods\.ranpac\.features: a stream"):
        learn_tasks(learner, 1)


# The protocol.


def test_each_sample_is_shown_once(prepared: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(NCM, "observe", lambda self, x, y, t: seen.append(x))
    learner = learner_for(params_for("ncm", selection=OFF), prepared[2])
    learner.open(learner.experiences[0])
    learner.train("learn", 0, None, learner.knobs, plain=False)
    shown = torch.cat(seen).flatten(1)
    given = learner.task.train.x.flatten(1)
    assert [len(x) for x in seen] == [32, 32, 32, 4]
    assert not torch.equal(shown, given)
    assert sorted(shown.tolist()) == sorted(given.tolist())


def test_there_is_one_trial_and_no_learning_rate(prepared: dict[int, Path], tmp_path: Path) -> None:
    """In the results, the events and the report; and another method's search is still told."""
    out = output(tmp_path, prepared[2])
    events = run(params_for("ncm"), out)
    run(params_for("ewc"), out)
    result = json.loads((out / "results/ncm/seed-0.json").read_bytes())
    for entry in result["per_task"]:
        assert [entry[name] for name in ("learning_rate", "plasticity_accuracy", "threshold")] == [None] * 3
        assert (entry["attempts"], entry["steps"]) == (1, 0)
    trials = json.loads((out / "results/ncm/seed-0.trials.json").read_bytes())["trials"]
    assert [(t["phase"], t["learning_rate"], t["kept"], t["epochs"]) for t in trials] == [("learn", None, True, 1)] * 2
    assert [event["learning_rate"] for event in events if event["event"] == "task"] == [None, None]
    summary = build(out)
    assert summary.selected
    assert summary.in_one_pass == ["ncm"]
    page = (summary.folder / "index.html").read_text(encoding="utf-8")
    assert "with the knobs as given: ncm." in page
    assert "None" not in page.partition('<section id="protocol">')[2].partition("</section>")[0]


def test_alone_there_was_no_search(prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path, prepared[2])
    run(params_for("slda"), out)
    assert not build(out).selected


def test_accuracy_is_seen_while_a_task_is_shown(prepared: dict[int, Path], tmp_path: Path) -> None:
    out, params = output(tmp_path, prepared[2]), params_for("ncm")
    run(params, out)
    moments = trace(params, RunId("ncm", 0), out, every=1)
    assert [(moment.task, moment.step) for moment in moments] == [
        (0, 1),
        (0, 2),
        (0, 3),
        (0, 4),
        *((1, n) for n in (5, 6, 7, 8)),
    ]
    result = json.loads((out / "results/ncm/seed-0.json").read_bytes())
    assert moments[-1].accuracy == result["accuracy"][1]


def test_what_follows_from_the_sums_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And anew when more was seen, or another state is loaded."""
    made: list[None] = []
    method = make("slda", {"features": "input"})
    inner = SLDA.solve
    monkeypatch.setattr(SLDA, "solve", lambda self: (made.append(None), inner(self))[1])
    net = mlp(SIZE, classes=CLASSES)
    attach(method, net)
    for count, (x, y, t) in enumerate(tasks()[:2], start=1):
        observe(method, x, y, t)
        first, second = method.predict(X), method.predict(X)
        assert torch.equal(first, second)
        assert len(made) == count
    method.load_state(method.state())
    assert torch.equal(method.predict(X), first)
    assert len(made) == 3
