"""Plasticity search and stability decay: algorithm 1 of De Lange et al. (2021). Sequences of knobs by hand."""

from __future__ import annotations

import json
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from cl.knob import Knob, shrink
from cl.learner import Learner
from cl.params import Selection
from cl.register import make, method_class
from cl.selection import Decay, Knobs, Outcome, StudyJournal, best_learning_rate, decay_until_accepted
from tests.cl.small import learner_for, output, params_for, published, run, run_for


def outcome(accuracy: float) -> Outcome:
    return Outcome(accuracy, 1, 1, 0.0)


def decays(start: Knobs, declared: dict[str, Knob], count: int) -> list[tuple[Any, ...]]:
    decay = Decay(start, declared, 0.5)
    tried = []
    for _ in range(count):
        tried.append(tuple(decay.knobs.values()))
        decay.step()
    return tried


# The order of decay.


def test_one_knob_halves() -> None:
    declared = method_class("ewc").knobs
    expected = [400, 200, 100, 50, 25, 12.5, 6.25, 3.125, 1.5625, 0.78125]
    assert decays({"strength": 400.0}, declared, 10) == [(value,) for value in expected]


def test_knobs_that_do_not_decay_stay() -> None:
    found = decays(make("packnet", {}).values(), method_class("packnet").knobs, 6)
    assert found == [(value, 10) for value in (0.9, 0.45, 0.225, 0.1125, 0.05625, 0.028125)]


def test_two_knobs_in_turn_then_together() -> None:
    found = decays({"s_max": 800.0, "sparsity": 2.5}, method_class("hat").knobs, 10)
    assert found == [
        (800, 2.5),
        (400, 2.5),
        (800, 1.25),
        (400, 1.25),
        (200, 1.25),
        (400, 0.625),
        (200, 0.625),
        (100, 0.625),
        (200, 0.3125),
        (100, 0.3125),
    ]


def test_ebll_order() -> None:
    two = {"strength": Knob(10.0, decay=shrink), "code": Knob(1.0, decay=shrink)}
    assert decays({"strength": 10.0, "code": 1.0}, two, 10) == [
        (10, 1),
        (5, 1),
        (10, 0.5),
        (5, 0.5),
        (2.5, 0.5),
        (5, 0.25),
        (2.5, 0.25),
        (1.25, 0.25),
        (2.5, 0.125),
        (1.25, 0.125),
    ]


def test_three_knobs() -> None:
    three = {name: Knob(8.0, decay=shrink) for name in "abc"}
    found = decays(dict.fromkeys("abc", 8.0), three, 6)
    assert found == [(8, 8, 8), (4, 8, 8), (8, 4, 8), (8, 8, 4), (4, 4, 4), (2, 4, 4)]


def test_decay_of_a_methods_own() -> None:
    declared = {"width": Knob(1.0, decay=lambda value, alpha: value + alpha)}
    assert decays({"width": 1.0}, declared, 3) == [(1.0,), (1.5,), (2.0,)]


# Attempts.

KEY = "0123456789abcdef"
ONE = {"strength": Knob(400.0, decay=shrink)}


def attempts(
    accuracy: Callable[[Knobs], float], threshold: float, declared: dict[str, Knob] = ONE, **selection: Any
) -> tuple[list[tuple[Knobs, Outcome]], Knobs, list[Knobs]]:
    trained: list[Knobs] = []

    def attempt(number: int, knobs: Knobs) -> Outcome:
        assert number == len(trained)
        trained.append(knobs)
        return outcome(accuracy(knobs))

    start: Knobs = {name: knob.default for name, knob in declared.items()}
    found, following = decay_until_accepted(start, declared, Selection(**selection), threshold, attempt)
    return found, following, trained


def test_threshold_itself_is_accepted() -> None:
    found, following, trained = attempts(lambda knobs: 0.4, (1 - 0.2) * 0.5)
    assert trained == [{"strength": 400.0}]
    assert following == found[-1][0] == {"strength": 400.0}


def test_threshold_itself_is_accepted_whatever_its_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A* = 75/100 with p = 0.2 asks for 60/100; 0.8 * 0.75 is a hair above 0.6 in binary."""
    selection = Selection()
    assert (1 - selection.drop_margin) * 0.75 > 0.6
    _, _, trained = attempts(lambda knobs: 0.6, (1 - selection.drop_margin) * 0.75)
    assert len(trained) == 1


def test_decays_until_accepted() -> None:
    found, following, trained = attempts(lambda knobs: 0.5 if float(knobs["strength"]) <= 60 else 0.1, 0.4)
    assert [knobs["strength"] for knobs in trained] == [400, 200, 100, 50]
    assert following == found[-1][0] == trained[-1], "the reported knob is the one that was trained"


def test_ten_failures() -> None:
    found, following, trained = attempts(lambda knobs: 0.1, 0.4)
    assert len(trained) == len(found) == 10
    assert found[-1][0] == trained[-1] == {"strength": 400.0 * 0.5**9}, "the tenth is kept"
    assert following == {"strength": 400.0 * 0.5**10}


def test_max_attempts_and_alpha() -> None:
    _, following, trained = attempts(lambda knobs: 0.1, 0.4, max_attempts=2, decay=0.1)
    assert [knobs["strength"] for knobs in trained] == pytest.approx([400, 40])
    assert following["strength"] == pytest.approx(4)


def test_without_a_knob_that_decays_there_is_one_attempt() -> None:
    found, following, trained = attempts(lambda knobs: 0.1, 0.4, {"damping": Knob(1.0)})
    assert len(found) == len(trained) == 1
    assert following == {"damping": 1.0}


def test_nothing_left_to_give_up() -> None:
    found, following, _ = attempts(lambda knobs: 0.1, 0.4, {"strength": Knob(0.0, decay=shrink)})
    assert len(found) == 1
    assert following == {"strength": 0.0}


def test_learning_rate_ties_keep_the_larger() -> None:
    assert best_learning_rate({1e-2: outcome(0.5), 5e-3: outcome(0.5)}) == (1e-2, 0.5)
    assert best_learning_rate({1e-2: outcome(0.5), 5e-3: outcome(0.6)}) == (5e-3, 0.6)
    assert best_learning_rate({1e-2: outcome(0.0), 5e-3: outcome(0.0)}) == (1e-2, 0.0)


def test_grid_is_tried_from_the_largest() -> None:
    assert Selection(learning_rates=[0.001, 0.1, 0.01]).learning_rates == [0.1, 0.01, 0.001]


# A whole run whose trainings are made up.


class MadeUp:
    """Replaces what costs time: a trial's accuracy is a function of (task, phase, learning rate, knobs)."""

    def __init__(self, patch: pytest.MonkeyPatch, accuracy: Callable[[int, str, float, Knobs], float]) -> None:
        self.trained: list[tuple[int, str, float, Knobs]] = []
        outer = self

        def train(self: Learner, phase: str, trial: int, rate: float, knobs: Knobs, *, plain: bool) -> Outcome:
            outer.trained.append((self.task.index, phase, rate, {} if plain else dict(knobs)))
            return outcome(accuracy(self.task.index, phase, rate, knobs))

        def consolidate(self: Learner, phase: str, trial: int, rate: float, knobs: Knobs, trained: Outcome) -> Outcome:
            self.attach(self.method, phase, trial, rate)
            return trained

        patch.setattr(Learner, "train", train)
        patch.setattr(Learner, "consolidate", consolidate)

    def of(self, task: int, phase: str) -> list[Any]:
        """Learning rates tried (plasticity), or strengths tried (stability)."""
        return [
            rate if phase == "plasticity" else knobs["strength"]
            for at, in_phase, rate, knobs in self.trained
            if (at, in_phase) == (task, phase)
        ]


def needing(*decays: int) -> Callable[[int, str, float, Knobs], float]:
    """EWC at 400 fails until it has decayed so many times, counted from 400, per task."""

    def accuracy(task: int, phase: str, rate: float, knobs: Knobs) -> float:
        if phase == "plasticity":
            return 0.9
        return 0.9 if float(knobs["strength"]) <= 400 * 0.5 ** decays[task] else 0.1

    return accuracy


def run_of(prepared: Path, folder: Path, **selection: Any) -> Any:
    chosen = {"drop_margin": 0.2, "max_attempts": 10, **selection}
    params = params_for("ewc", {"strength": 400.0}, selection=chosen)
    return run_for(params, learner_for(params, prepared), folder)


def test_knobs_carry_over(prepared: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = MadeUp(monkeypatch, needing(0, 3, 3))
    run_of(prepared[3], tmp_path).run()
    assert made.of(0, "stability") == []
    assert made.of(1, "stability") == [400, 200, 100, 50]
    assert made.of(2, "stability") == [50]
    entries = json.loads((tmp_path / "result.json").read_bytes())["per_task"]
    assert [entry["knobs"]["strength"] for entry in entries] == [400, 50, 50]
    assert [entry["attempts"] for entry in entries] == [1, 4, 1]
    assert [entry["threshold"] for entry in entries] == [pytest.approx(0.72)] * 3


def test_knobs_reset_per_task(prepared: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = MadeUp(monkeypatch, needing(0, 3, 1))
    run_of(prepared[3], tmp_path, reset_per_task=True).run()
    assert made.of(1, "stability") == [400, 200, 100, 50]
    assert made.of(2, "stability") == [400, 200]


def test_after_the_last_failure_the_next_task_starts_one_lower(
    prepared: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = MadeUp(monkeypatch, needing(0, 99, 0))
    run_of(prepared[3], tmp_path, max_attempts=2).run()
    assert made.of(1, "stability") == [400, 200]
    assert made.of(2, "stability") == [100]
    entries = json.loads((tmp_path / "result.json").read_bytes())["per_task"]
    assert [entry["knobs"]["strength"] for entry in entries] == [400, 200, 100]


def test_grids(prepared: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = MadeUp(monkeypatch, needing(0, 0, 0))
    run_of(prepared[3], tmp_path, first_task_learning_rates=[0.7, 0.3], learning_rates=[0.05]).run()
    assert [made.of(task, "plasticity") for task in range(3)] == [[0.7, 0.3], [0.05], [0.05]]


def test_every_value_tried_is_reported(
    prepared: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MadeUp(monkeypatch, needing(0, 2, 2))
    run_of(prepared[2], tmp_path, first_task_learning_rates=[0.7, 0.3], learning_rates=[0.05, 0.01]).run()
    trials = json.loads((tmp_path / "trials.json").read_bytes())["trials"]
    rows = [
        (t["task_index"], t["phase"], t["trial"], t["learning_rate"], t["knobs"].get("strength"), t["kept"])
        for t in trials
    ]
    assert rows == [
        (0, "plasticity", 0, 0.7, 400, True),
        (0, "plasticity", 1, 0.3, 400, False),
        (1, "plasticity", 0, 0.05, None, False),
        (1, "plasticity", 1, 0.01, None, False),
        (1, "stability", 0, 0.05, 400, False),
        (1, "stability", 1, 0.05, 200, False),
        (1, "stability", 2, 0.05, 100, True),
    ]
    assert [t["threshold"] for t in trials] == [None] * 4 + [pytest.approx(0.72)] * 3


# The journal.


def opened(path: Path) -> dict[str, optuna.Study]:
    """The studies in a journal, with plain Optuna."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    names = [study.study_name for study in storage.get_all_studies()]
    return {name: optuna.load_study(study_name=name, storage=storage) for name in names}


def test_journal_is_readable_with_plain_optuna(prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path, prepared[2])
    run(params_for("ewc"), out)
    rows = json.loads((out / "results/ewc/seed-0.trials.json").read_bytes())["trials"]
    found = []
    for name, study in sorted(opened(out / "results/ewc/seed-0.studies.log").items()):
        task = int(name.split("/")[0].removeprefix("task-"))
        phase = name.split("/")[1].split()[0]
        assert study.direction == optuna.study.StudyDirection.MAXIMIZE
        for trial in study.trials:
            assert trial.state == optuna.trial.TrialState.COMPLETE
            if phase == "stability":
                found.append((task, phase, trial.user_attrs["learning_rate"], trial.params["strength"], trial.value))
                assert trial.user_attrs["threshold"] is not None
            else:
                found.append((task, phase, trial.params["learning_rate"], None, trial.value))
    reported = [
        (
            row["task_index"],
            row["phase"],
            row["learning_rate"],
            row["knobs"]["strength"] if row["phase"] == "stability" else None,
            row["accuracy"],
        )
        for row in rows
    ]
    assert sorted(found, key=repr) == sorted(reported, key=repr)


def test_running_trial_of_a_killed_process_is_run_again(tmp_path: Path) -> None:
    journal = tmp_path / "studies.log"
    study = StudyJournal(journal).study(0, "plasticity", KEY)
    study.run(0, {"learning_rate": 0.1}, lambda: outcome(0.5))
    study.begin(1, {"learning_rate": 0.05})  # and the process is gone
    again = StudyJournal(journal).study(0, "plasticity", KEY)
    assert again.known(0) == outcome(0.5)
    assert again.known(1) is None
    trained: list[float] = []
    for number, rate in enumerate((0.1, 0.05)):
        again.run(number, {"learning_rate": rate}, lambda rate=rate: (trained.append(rate), outcome(0.6))[1])  # type: ignore[misc]
    assert trained == [0.05]
    states = [trial.state.name for trial in next(iter(opened(journal).values())).trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]


def test_trials_on_other_data_are_not_known(tmp_path: Path) -> None:
    ledger = StudyJournal(tmp_path / "studies.log")
    ledger.study(0, "plasticity", KEY).run(0, {"learning_rate": 0.1}, lambda: outcome(0.5))
    assert ledger.study(0, "plasticity", KEY).known(0) == outcome(0.5)
    for task, phase, key in ((1, "plasticity", KEY), (0, "stability", KEY), (0, "plasticity", "f" + KEY)):
        assert ledger.study(task, phase, key).known(0) is None


def test_lock_left_behind_does_not_hold_up(tmp_path: Path) -> None:
    Path(tmp_path / "studies.log.lock").write_text("")
    started = time.monotonic()
    StudyJournal(tmp_path / "studies.log").study(0, "plasticity", KEY).run(
        0, {"learning_rate": 0.1}, lambda: outcome(0.5)
    )
    assert time.monotonic() - started < 15, "Optuna itself waits for half a minute"


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_journal_cut_short_by_a_kill_goes_on(tmp_path: Path, cut: int) -> None:
    """The last line was being written."""
    journal = tmp_path / "studies.log"
    study = StudyJournal(journal).study(0, "plasticity", KEY)
    study.run(0, {"learning_rate": 0.1}, lambda: outcome(0.5))
    study.run(1, {"learning_rate": 0.05}, lambda: outcome(0.6))
    journal.write_bytes(journal.read_bytes()[:-cut])
    for _ in range(2):
        again = StudyJournal(journal).study(0, "plasticity", KEY)
        assert again.run(0, {"learning_rate": 0.1}, lambda: outcome(0.0)) == outcome(0.5)
        assert again.run(1, {"learning_rate": 0.05}, lambda: outcome(0.6)) == outcome(0.6)


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of two trials that were told and one that was not."""
    path = tmp_path_factory.mktemp("journal") / "studies.log"
    study = StudyJournal(path).study(0, "plasticity", KEY)
    for number, rate in enumerate((0.1, 0.05)):
        study.run(number, {"learning_rate": rate}, lambda: outcome(0.5))
    study.begin(2, {"learning_rate": 0.01})
    return path.read_bytes()


def test_of_a_damaged_journal_all_before_the_damage_is_kept(journal: bytes, tmp_path: Path) -> None:
    """One bit of each byte, drawn anew for each."""
    draw, path = random.Random(0), tmp_path / "studies.log"
    for place in range(len(journal)):
        data = bytearray(journal)
        data[place] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        warnings: list[str] = []
        StudyJournal(path, warnings.append)
        assert warnings == [f"{path}: damaged; the trials after the damage are run again where they are needed"]
        assert path.read_bytes() == journal[: journal.rfind(b"\n", 0, place) + 1]


@pytest.mark.parametrize("lines", [[0, 2], [1, 0], [0, 0], []], ids=["left out", "exchanged", "doubled", "foreign"])
def test_lines_of_a_journal_that_are_not_where_they_were(lines: list[int], journal: bytes, tmp_path: Path) -> None:
    path, warnings = tmp_path / "studies.log", list[str]()
    whole = journal.splitlines(keepends=True)
    path.write_bytes(b"".join(whole[line] for line in lines) or b'{"op_code": 0}\n')
    study = StudyJournal(path, warnings.append).study(0, "plasticity", KEY)
    assert len(warnings) == 1
    assert study.run(0, {"learning_rate": 0.1}, lambda: outcome(0.7)) == outcome(0.7)
    assert StudyJournal(path).study(0, "plasticity", KEY).known(0) == outcome(0.7)


def test_other_data_are_searched_anew(prepared: dict[int, Path], tmp_path: Path) -> None:
    """Trials on other data say nothing: the same folder after a change of the data is as good as a fresh one."""
    from cl.data.prepare import prepare
    from cl.params import Benchmark
    from tests.conftest import RAW

    other = tmp_path / "other"
    prepare(Benchmark(tasks=2, train_per_class=10, seed=1), RAW, other, say=lambda line: None)
    params = params_for("ewc")
    out, fresh = output(tmp_path / "out", prepared[2]), output(tmp_path / "fresh", other)
    run(params, out)
    run(params, output(out, other))
    run(params, fresh)
    assert published(out) == published(fresh)


def test_joint_with_a_task_more_is_joint_from_the_start(prepared: dict[int, Path], tmp_path: Path) -> None:
    params = params_for("joint")
    out, fresh = output(tmp_path / "out", prepared[2]), output(tmp_path / "fresh", prepared[3])
    run(params, out)
    run(params, output(out, prepared[3]))
    run(params, fresh)
    assert published(out) == published(fresh)


def test_attempt_that_repeats_its_knobs_is_the_model_reported(prepared: dict[int, Path], tmp_path: Path) -> None:
    """With one of two knobs at zero a decay of that knob changes nothing: what is reported must be what is kept."""
    params = params_for(
        "hat",
        {"s_max": 800.0, "sparsity": 0.0},
        selection={"drop_margin": 0.0, "max_attempts": 3, "first_task_learning_rates": [0.1], "learning_rates": [0.1]},
    )
    out = output(tmp_path, prepared[2])
    run(params, out)
    trials = json.loads((out / "results/hat/seed-0.trials.json").read_bytes())["trials"]
    result = json.loads((out / "results/hat/seed-0.json").read_bytes())
    attempts = [t for t in trials if t["task_index"] == 1 and t["phase"] == "stability"]
    assert len(attempts) == 3, "the case under test"
    learner = learner_for(params, prepared[2])
    run_for(params, learner, next((out / ".work/hat/seed-0").iterdir())).run()
    from cl.evaluate import accuracy

    learner.open(learner.experiences[1])
    learner.attach(learner.method, "stability", 0, 0.1)
    kept = accuracy(learner.method, learner.task.validation, inference=True)
    assert kept == attempts[-1]["accuracy"] == result["per_task"][1]["validation_accuracy"]
