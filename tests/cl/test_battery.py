"""What every file in cl/methods has to hold, whatever it does. There is no list to extend."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cl import checkpoint, files, publish
from cl.data import Split, load
from cl.descent import Descent
from cl.errors import UserError
from cl.knob import Knob
from cl.learner import Learner
from cl.method import Method
from cl.names import names_in
from cl.params import Params
from cl.register import make, method_class
from cl.selection import Study
from cl.train import Snapshot
from tests.cl import small
from tests.cl.small import (
    CPU,
    REPOSITORY,
    learn_tasks,
    learner_for,
    output,
    published,
    run,
    run_for,
    same,
    tensors,
)

NAMES = names_in("methods")
CONTINUAL = [name for name in NAMES if not method_class(name).sees_all_tasks]
STRENGTHS = {name: [k for k in method_class(name).knobs if k.endswith("strength")] for name in NAMES}
WITH_STRENGTH = [name for name in NAMES if STRENGTHS[name]]
SHARING = [name for name in CONTINUAL if method_class(name).shares_first_task]
AGNOSTIC = [name for name in NAMES if not method_class(name).needs_task_id]
KNOBS = [(name, knob) for name in NAMES for knob in method_class(name).knobs]
OFF = {"enabled": False}
SWITCHES = [(name, knob, value) for name, knob in KNOBS for value in method_class(name).knobs[knob].alternatives]
"""Every named variant of a method that is not its default."""
OPTIMIZERS: tuple[Any, ...] = (Descent, torch.optim.Adadelta, torch.optim.Adam)
KILLS = 4
"""How often a run of each method is killed. Between two kills it does about a fifth of its work."""


def params_for(method: str, knobs: dict[str, Any] | None = None, **sections: Any) -> Params:
    """As elsewhere, with two hidden layers: what a method does to the layers behind its features has to show."""
    model = {"hidden": [16, 12]}
    return small.params_for(method, {**small.SHORT.get(method, {}), **(knobs or {})}, **{"model": model, **sections})


class Killed(BaseException):
    """Stands for a kill; no handler of exceptions may swallow it."""


def global_randomness() -> tuple[bytes, Any, str]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), repr(np.random.get_state())


@pytest.fixture(scope="module")
def undisturbed(
    prepared: dict[int, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, bool]]:
    """By name: the output of the whole protocol over three tasks, and whether global randomness moved."""
    done: dict[str, tuple[Path, bool]] = {}

    def of(name: str) -> tuple[Path, bool]:
        if name not in done:
            out = output(tmp_path_factory.mktemp(name), prepared[3])
            before = global_randomness()
            run(params_for(name), out)
            done[name] = out, global_randomness() != before
        return done[name]

    return of


@contextlib.contextmanager
def counted(patch: pytest.MonkeyPatch, die_at: int | None = None) -> Iterator[dict[str, int]]:
    """Count moments of a run and its trainings; die at the moment of this number."""
    counts = {"moments": 0, "train": 0, "consolidate": 0}

    def before(owner: Any, name: str, *counters: str) -> None:
        original = getattr(owner, name)

        def hooked(*args: Any, **kwargs: Any) -> Any:
            for counter in counters:
                counts[counter] += 1
            if "moments" in counters and counts["moments"] - 1 == die_at:
                raise Killed
            return original(*args, **kwargs)

        patch.setattr(owner, name, hooked)

    with patch.context() as patch:
        for optimizer in OPTIMIZERS:  # every step of every training, also of those inside end_task
            before(optimizer, "step", "moments")
        before(Study, "begin", "moments")
        before(Study, "end", "moments")
        before(checkpoint, "save", "moments")
        before(files, "write_bytes", "moments")
        before(publish, "write_bytes", "moments")
        before(Learner, "test", "moments")
        before(Learner, "train", "train")
        before(Learner, "consolidate", "consolidate")
        yield counts


# The constructor and the knobs.


@pytest.mark.parametrize("name", NAMES)
def test_constructor_only_stores(name: str) -> None:
    cls = method_class(name)
    assert vars(cls()) == {}
    defaults = {knob: declared.default for knob, declared in cls.knobs.items()}
    method = make(name, defaults)
    assert vars(method) == defaults
    assert method.values() == {knob: value for knob, value in defaults.items() if not cls.knobs[knob].younger}
    assert method.state() == {}


@pytest.mark.parametrize("name", NAMES)
def test_unknown_knob_is_named(name: str) -> None:
    with pytest.raises(UserError, match=rf"methods\.{name}\.strenght"):
        make(name, {"strenght": 1.0})


def impossible(declared: Knob) -> list[Any]:
    if declared.many:
        one = impossible(replace(declared, many=False))
        good = declared.default
        assert isinstance(good, list)
        return [None, [], good[0], *[[*good, wrong] for wrong in one]]
    wrong: list[Any] = [None, [1.0]]
    if declared.type is not str:
        wrong += ["high", True] if declared.type is not bool else ["high", 1.0]
    else:
        wrong += [1.0, "no such choice"]
    if declared.type is float:
        wrong += [float("nan"), float("inf")]
    if declared.range is not None:
        low, high = declared.range
        wrong += [declared.type(low - 1), declared.type(high * 2 + 1)]
    return wrong


@pytest.mark.parametrize(("name", "knob"), KNOBS)
def test_impossible_knob_is_named(name: str, knob: str) -> None:
    for value in impossible(method_class(name).knobs[knob]):
        with pytest.raises(UserError, match=rf"^methods\.{name}\.{knob}: has to "):
            make(name, {knob: value})


@pytest.mark.parametrize(("name", "knob"), KNOBS)
def test_numeric_knobs_declare_their_range(name: str, knob: str) -> None:
    declared = method_class(name).knobs[knob]
    assert declared.check(knob, declared.default) == declared.default
    assert declared.help
    if declared.type in (int, float):
        assert declared.range is not None


@pytest.mark.parametrize("name", NAMES)
def test_only_state_and_knobs_can_be_set(name: str) -> None:
    method = method_class(name)()
    with pytest.raises(AttributeError, match="_"):
        method.learned = 1  # type: ignore[attr-defined]
    method.learned_ = 1  # type: ignore[attr-defined]
    assert method.state() == {"learned_": 1}


@pytest.mark.parametrize("name", NAMES)
def test_knobs_unchanged_by_a_run(name: str, prepared: dict[int, Path]) -> None:
    learner = learner_for(small.params_for(name, selection=OFF), prepared[2])
    before = learner.method.values()
    learn_tasks(learner, 2)
    declared = method_class(name).knobs
    assert learner.method.values() == before == {k: d.default for k, d in declared.items() if not d.younger}


# Determinism and resumption.


@pytest.mark.parametrize("name", NAMES)
def test_seed_decides_every_byte(
    name: str, prepared: dict[int, Path], tmp_path: Path, undisturbed: Callable[[str], tuple[Path, bool]]
) -> None:
    """Another seed gives another network; the test below has the same one twice."""
    first = published(undisturbed(name)[0])
    other = output(tmp_path / "other", prepared[3])
    run(params_for(name), other, seed=1)
    changed = {path.replace("seed-1", "seed-0"): data for path, data in published(other).items()}
    assert changed.keys() == first.keys()
    networks = [path for path in first if path.endswith("net.safetensors")]
    assert networks
    assert all(changed[path] != first[path] for path in networks)


@pytest.mark.parametrize("name", NAMES)
def test_global_randomness_is_left_alone(name: str, undisturbed: Callable[[str], tuple[Path, bool]]) -> None:
    assert not undisturbed(name)[1]


@pytest.mark.parametrize("name", NAMES)
def test_kill_at_any_moment_changes_nothing(
    name: str,
    prepared: dict[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Callable[[str], tuple[Path, bool]],
) -> None:
    expected = published(undisturbed(name)[0])
    params = params_for(name)
    torch.manual_seed(random.randrange(2**31))  # which is nobody's business
    again = output(tmp_path / "counted", prepared[3])
    with counted(monkeypatch) as whole:
        run(params, again)
    assert published(again) == expected, "the same seed gives the same bytes"
    draw = random.Random(f"kill {name}")
    out = output(tmp_path / "killed", prepared[3])
    work = {"train": 0, "consolidate": 0}
    moments: list[int | None] = [draw.randrange(2 * whole["moments"] // (KILLS + 1)) for _ in range(KILLS)]
    killed = 0
    for moment in [*moments, None]:
        with counted(monkeypatch, moment) as done:
            try:
                run(params, out)
            except Killed:
                killed += 1
        work = {which: count + done[which] for which, count in work.items()}
    assert killed >= KILLS - 1, "the lives are short enough"
    assert published(out) == expected, moments
    for which, count in work.items():
        assert count <= whole[which] + KILLS, (moments, which)


@pytest.mark.parametrize("name", NAMES)
def test_kill_while_consolidating_changes_nothing(
    name: str,
    prepared: dict[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Callable[[str], tuple[Path, bool]],
) -> None:
    """The kill comes in the second step of a training inside end_task, or as end_task is done."""
    out = output(tmp_path, prepared[3])
    calls = 0
    with monkeypatch.context() as patch:
        original = method_class(name).end_task
        steps_of = {optimizer: optimizer.step for optimizer in OPTIMIZERS}

        def end_task(self: Method, data: Any) -> None:
            nonlocal calls
            calls += 1
            if calls < 2 and not self.sees_all_tasks:
                return original(self, data)
            steps = 0

            def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
                nonlocal steps
                steps += 1
                if steps == 2:
                    raise Killed
                return steps_of[type(self)](self, *args, **kwargs)

            for optimizer in OPTIMIZERS:
                patch.setattr(optimizer, "step", dying)
            original(self, data)
            raise Killed

        patch.setattr(method_class(name), "end_task", end_task)
        with pytest.raises(Killed):
            run(params_for(name), out)
    run(params_for(name), out)
    assert published(out) == published(undisturbed(name)[0])


@pytest.mark.parametrize("name", CONTINUAL)
def test_task_added_later_is_task_had_from_the_start(
    name: str,
    prepared: dict[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Callable[[str], tuple[Path, bool]],
) -> None:
    out = output(tmp_path, prepared[2])
    run(params_for(name), out)
    output(out, prepared[3])
    opened: list[int] = []
    original = Learner.open
    monkeypatch.setattr(Learner, "open", lambda self, task: (opened.append(task.index), original(self, task))[1])
    run(params_for(name), out)
    assert opened == [2]
    assert published(out) == published(undisturbed(name)[0])


# State.


@pytest.mark.parametrize(
    ("name", "knobs"), [(name, {}) for name in NAMES] + [(name, {knob: value}) for name, knob, value in SWITCHES]
)
def test_state_round_trips_bit_for_bit(
    name: str, knobs: dict[str, Any], prepared: dict[int, Path], tmp_path: Path
) -> None:
    """As it is while a task is being learned, and as it is afterwards; and the copy goes on as the original does."""
    params = params_for(name, knobs, selection=OFF)
    live = learner_for(params, prepared[3])
    stages = min(len(live.experiences), 2)
    learn_tasks(live, stages - 1)
    live.open(live.experiences[stages - 1])
    trained = live.train("learn", 0, 0.1, live.knobs, plain=False)
    for moment in ("trained", "consolidated"):
        if moment == "consolidated":
            live.consolidate("learn", 0, 0.1, live.knobs, trained)
        before = Snapshot.of(live.method)
        checkpoint.save(tmp_path / moment, before, {}, "key")
        after, _ = checkpoint.load(tmp_path / moment, "key")
        assert same(after.state, before.state)
        assert same(after.net, {name: before.net[name] for name in after.net})
        assert after.net.keys() == before.net.keys()
    if len(live.experiences) > stages:
        restored = learner_for(params, prepared[3])
        restored.resume(stages - 1, after)
        for learner in (live, restored):
            learner.open(learner.experiences[stages])
            trained = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
            learner.consolidate("learn", 0, 0.1, learner.knobs, trained)
        assert same(Snapshot.of(live.method).net, Snapshot.of(restored.method).net)
        assert same(Snapshot.of(live.method).state, Snapshot.of(restored.method).state)


@pytest.mark.parametrize("earlier", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_failed_attempt_leaves_no_trace(name: str, earlier: int, prepared: dict[int, Path]) -> None:
    params = params_for(name, selection=OFF)
    disturbed, direct = learner_for(params, prepared[2]), learner_for(params, prepared[2])
    for learner in (disturbed, direct):
        learn_tasks(learner, min(earlier, len(learner.experiences) - 1))
        learner.open(learner.experiences[min(earlier, len(learner.experiences) - 1)])
    failed = disturbed.train("stability", 0, 0.05, disturbed.knobs, plain=False)
    disturbed.consolidate("stability", 0, 0.05, disturbed.knobs, failed)
    for learner in (disturbed, direct):
        trained = learner.train("stability", 1, 0.1, learner.knobs, plain=False)
        learner.consolidate("stability", 1, 0.1, learner.knobs, trained)
    assert same(Snapshot.of(disturbed.method).net, Snapshot.of(direct.method).net)
    assert same(Snapshot.of(disturbed.method).state, Snapshot.of(direct.method).state)


@pytest.mark.parametrize("name", [name for name in NAMES if method_class(name).selection != "one-pass"])
def test_every_trial_draws_its_own_numbers(name: str, prepared: dict[int, Path]) -> None:
    learner = learner_for(params_for(name, selection=OFF), prepared[2])
    learner.open(learner.experiences[0])
    found = []
    for phase, trial in (("stability", 0), ("stability", 1), ("learn", 0), ("stability", 0)):
        learner.train(phase, trial, 0.05, learner.knobs, plain=False)
        found.append(Snapshot.of(learner.method).net)
    assert same(found[0], found[3])
    assert not any(same(a, b) for a, b in ((found[0], found[1]), (found[0], found[2]), (found[1], found[2])))


@pytest.mark.parametrize("name", NAMES)
def test_predict_changes_nothing(name: str, prepared: dict[int, Path]) -> None:
    learner = learner_for(params_for(name, selection=OFF), prepared[2])
    learn_tasks(learner, 2)
    method = learner.method
    x = learner.sequence.tasks[0].test.x[:7]
    method.net.eval()

    def fingerprint() -> tuple[Any, Any, Any, Any]:
        snapshot = Snapshot.of(method)
        modules = [{k: id(v) for k, v in vars(m).items() if not k.startswith("_")} for m in method.net.modules()]
        return snapshot.net, snapshot.state, modules, {k: v for k, v in vars(method).items() if k[-1] != "_"}

    before, randomness = fingerprint(), global_randomness()
    asked = [1, 0] if method.needs_task_id else [1, None, 0]
    with torch.no_grad():
        first = [method.predict(x, t) for t in asked]
        second = [method.predict(x, t) for t in asked]
    assert same(first, second)
    after = fingerprint()
    assert same(before[0], after[0])
    assert same(before[1], after[1])
    assert before[2:] == after[2:]
    assert global_randomness() == randomness


@pytest.mark.parametrize("name", AGNOSTIC)
def test_answers_without_a_task_id(name: str, prepared: dict[int, Path]) -> None:
    learner = learner_for(params_for(name, selection=OFF, training={"learning_rate": 0.001}), prepared[3])
    learn_tasks(learner, min(len(learner.experiences), 2))
    learner.method.net.eval()
    with torch.no_grad():
        scores = learner.method.predict(learner.sequence.tasks[0].test.x[:7])
    assert scores.shape == (7, 10 * (learner.task.index + 1))
    assert bool(torch.isfinite(scores).all())


# Data.


class Watched(Split):
    """A split that asks before it is read."""

    def __init__(self, split: Split, ask: Callable[[], None]) -> None:
        super().__init__(split._read, split.normalise)
        self._ask = ask

    def __getattribute__(self, name: str) -> Any:
        if name in {"images", "y", "x", "t", "batches", "_arrays"}:
            object.__getattribute__(self, "_ask")()
        return super().__getattribute__(name)


@pytest.mark.parametrize("name", NAMES)
def test_reads_no_other_task_and_no_test_data(
    name: str, prepared: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = params_for(name)
    learner = learner_for(params, prepared[3])
    evaluating, read = False, set()
    original = Learner.test

    def test(self: Learner, task_aware: bool | None = None) -> list[float]:
        nonlocal evaluating
        evaluating = True
        try:
            return original(self, task_aware)
        finally:
            evaluating = False

    monkeypatch.setattr(Learner, "test", test)

    def watch(split: Split, kind: str, index: int) -> Watched:
        def ask() -> None:
            read.add((kind, index))
            assert (kind == "test") == evaluating, f"the {kind} data of task {index} were read, {evaluating=}"
            now = learner.task.index
            assert index <= now if evaluating or learner.method.sees_all_tasks else index == now

        return Watched(split, ask)

    kinds = ("train", "validation", "test")
    watched = [
        replace(task, **{kind: watch(getattr(task, kind), kind, task.index) for kind in kinds})
        for task in load(prepared[3], CPU).tasks
    ]
    learner.sequence = replace(learner.sequence, tasks=tuple(watched))
    run_for(params, learner, tmp_path).run()
    assert read == {(kind, index) for kind in kinds for index in range(3)}


@pytest.mark.parametrize("name", CONTINUAL)
def test_samples_are_kept_as_declared(name: str, prepared: dict[int, Path]) -> None:
    """No image in the state of a method that declares it keeps none; of the others no more than the budget."""
    cls = method_class(name)
    small = {"memory_per_task": 7, "memory_budget": 35}
    knobs = {knob: value for knob, value in small.items() if knob in cls.knobs}
    assert bool(knobs) == cls.stores_samples, "what keeps samples declares memory_per_task or memory_budget"
    learner = learner_for(params_for(name, knobs, selection=OFF), prepared[3])
    seen: set[bytes] = set()
    for count, task in enumerate(learner.experiences, start=1):
        learner.open(task)
        trained = learner.train("learn", 0, 0.1, learner.knobs, plain=False)
        learner.consolidate("learn", 0, 0.1, learner.knobs, trained)
        for images in (task.train.images, task.train.x):
            seen |= {row.numpy().tobytes() for row in images.flatten(1).float()}
        kept = 0
        for tensor in tensors(learner.method.state()):
            if tensor.numel() % 64 == 0:  # also rows of some other shape that happen to be images
                kept += sum(row.numpy().tobytes() in seen for row in tensor.reshape(-1, 64).float())
        budget = {"memory_per_task": 7 * count, "memory_budget": 35}
        assert kept <= max([budget[knob] for knob in knobs], default=0)
        assert kept > 0 or not knobs


@pytest.mark.parametrize(("name", "knob", "value"), SWITCHES)
def test_switches_switch_something(name: str, knob: str, value: Any, prepared: dict[int, Path]) -> None:
    scores = []
    # At its own strength SI's training diverges here, and at much lower ones no importance is negative.
    given = {"si": {"strength": 30.0}}.get(name, {})
    for knobs in (given, {**given, knob: value}):
        learner = learner_for(params_for(name, knobs, selection=OFF, model={"hidden": [16, 16]}), prepared[3])
        learn_tasks(learner, 3)
        learner.method.net.eval()
        with torch.no_grad():
            scores.append(learner.method.predict(learner.task.test.x, 2))
    assert bool(torch.isfinite(torch.stack(scores)).all())
    assert not torch.equal(*scores)


# What the survey shares.


@pytest.mark.parametrize("name", WITH_STRENGTH)
def test_strength_zero_is_finetuning(name: str, prepared: dict[int, Path]) -> None:
    plain = learner_for(params_for("finetune", selection=OFF), prepared[3])
    method = learner_for(params_for(name, dict.fromkeys(STRENGTHS[name], 0.0), selection=OFF), prepared[3])
    strong = learner_for(params_for(name, selection=OFF), prepared[3])
    for learner in (plain, method, strong):
        learn_tasks(learner, 3)
    expected = Snapshot.of(plain.method).net
    assert same(Snapshot.of(method.method).net, expected)
    assert not same(Snapshot.of(strong.method).net, expected)


@pytest.mark.parametrize("name", SHARING)
def test_first_task_is_finetunings(name: str, undisturbed: Callable[[str], tuple[Path, bool]]) -> None:
    def network(method: str) -> bytes:
        path = undisturbed(method)[0] / "checkpoints" / method / "seed-0" / "task-0" / "net.safetensors"
        return path.read_bytes()

    assert network(name) == network("finetune")


@pytest.mark.parametrize("name", NAMES)
def test_page_lists_each_knob(name: str) -> None:
    page = REPOSITORY / "docs" / "methods" / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    for knob, declared in method_class(name).knobs.items():
        lines = [line for line in text.splitlines() if f"`{knob}`" in line]
        assert lines, f"{page} does not list `{knob}`"
        default = declared.default
        spelt = {str(default), f"{default:g}" if isinstance(default, int | float) else str(default)}
        found = {word for line in lines for word in re.split(r"[\s|`,;()]+", line)}
        found |= {str(default) for line in lines if isinstance(default, list) and str(default) in line}
        assert spelt & found, f"{page}: `{knob}` without its default {default}"


def test_capabilities_are_honest() -> None:
    """A method is asked what it can do, so what it says has to hold together."""
    for name in NAMES:
        cls = method_class(name)
        assert cls.__doc__
        assert not (cls.sees_all_tasks and cls.shares_first_task), name
        decaying = [knob for knob, declared in cls.knobs.items() if declared.decay is not None]
        assert bool(decaying) == (cls.selection not in ("learning-rate", "one-pass")), name
