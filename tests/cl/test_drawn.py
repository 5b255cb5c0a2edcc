"""`benchmark.seed: run`: each seed has splits and permutations of its own, from preparation to the results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl.data.places import check_all, of_seed, pictures, place, prepare_all, prepared
from cl.data.prepare import prepare
from cl.errors import UserError
from cl.keys import run_folder
from cl.params import Params
from cl.publish import publish_if_finished
from cl.reading import read_runs, task_names
from tests.cl.small import OFF, REPOSITORY, params_for, published, run

RAW = REPOSITORY / "data"


def drawn(seed: Any = "run", **sections: Any) -> Params:
    """Finetuning on two tasks, one epoch each."""
    few = {"tasks": 2, "train_per_class": 10, "seed": seed}
    given = params_for("finetune", benchmark=few, training={"epochs": 1}, selection=OFF, **sections)
    return given.model_copy(update={"seeds": [0, 1]})


def made(params: Params, out: Path) -> dict[str, bytes]:
    """Prepare all; path and bytes of what is there then."""
    prepare_all(params, RAW, out, lambda line: None)
    check_all(params, out)
    files = [path for path in (out / "prepared").rglob("*") if path.is_file()]
    return {path.relative_to(out / "prepared").as_posix(): path.read_bytes() for path in files}


def test_each_seed_draws_its_own_and_always_the_same(tmp_path: Path) -> None:
    files = made(drawn(), tmp_path / "a")
    assert files == made(drawn(), tmp_path / "b")
    of = [
        {name.partition("/")[2]: data for name, data in files.items() if name.startswith(f"seed-{s}/")} for s in (0, 1)
    ]
    assert len(of[0]) == 13
    assert len(files) == 26
    first, second = (np.load(tmp_path / f"a/prepared/seed-{s}/task-001/train-images.npy") for s in (0, 1))
    assert not np.array_equal(first, second)
    images = [np.sort(np.load(tmp_path / f"a/prepared/seed-{s}/task-000/test-images.npy"), axis=0) for s in (0, 1)]
    assert not np.array_equal(*images), "another split too, not the same images in another order"
    prepare(drawn(1).benchmark, RAW, tmp_path / "one", lambda line: None)
    one = {path.relative_to(tmp_path / "one").as_posix(): path.read_bytes() for path in (tmp_path / "one").rglob("*.*")}
    assert of[1] == one, "seed 1 draws as the number 1 does"


def test_the_two_kinds_replace_each_other(tmp_path: Path) -> None:
    shared = made(drawn(0), tmp_path)
    own = made(drawn(), tmp_path)
    assert {name.partition("/")[0] for name in own} == {"seed-0", "seed-1"}
    assert made(drawn(0), tmp_path) == shared


def test_a_number_keeps_its_folders_and_its_key(tmp_path: Path) -> None:
    fixed, free = drawn(3), drawn()
    assert (prepared(fixed, tmp_path, 1), place(fixed, tmp_path, 1)) == (tmp_path / "prepared", tmp_path / "prepared")
    assert place(free, tmp_path, 1) == tmp_path / "prepared/seed-1"
    assert of_seed(fixed, 1) is fixed
    assert pictures(of_seed(free, 1)).seed == 1
    assert run_folder(fixed, "finetune", 1, tmp_path) == run_folder(drawn(0), "finetune", 1, tmp_path)
    assert run_folder(fixed, "finetune", 1, tmp_path) != run_folder(free, "finetune", 1, tmp_path), "results say which"


def test_runs_learn_what_their_seed_drew_and_go_on_after_a_kill(tmp_path: Path) -> None:
    out, params = tmp_path / "drawn", drawn()
    prepare_all(params, RAW, out, lambda line: None)
    for seed in (0, 1):
        run(params, out, seed)
    whole = published(out)
    folder = run_folder(params, "finetune", 1, out)
    (folder / "finished.json").unlink()
    (folder / "task-001/manifest.json").unlink()
    assert not publish_if_finished(params, ("finetune", 1), out, lambda event: None)
    assert next(event["event"] for event in run(params, out, 1)) == "resumed"
    assert published(out) == whole
    assert publish_if_finished(params, ("finetune", 1), out, lambda event: None)

    one = drawn(1)
    prepare_all(one, RAW, tmp_path / "one", lambda line: None)
    run(one, tmp_path / "one", 1)
    mine, theirs = (
        json.loads((place / "results/finetune/seed-1.json").read_bytes()) for place in (out, tmp_path / "one")
    )
    assert mine.pop("benchmark_seed") == "run"
    assert mine == theirs, "and a number says nothing"

    found = read_runs(out)
    assert {run.benchmark_as_run for run in found} == {"permuted-digits (train_per_class 10), drawn by each seed"}
    assert found[0].over_seeds.endswith("and the benchmark's own draws (splits, permutations)")
    assert task_names(found) == found[0].tasks
    text = json.dumps(mine | {"benchmark_seed": "run"})
    (out / "results/finetune/seed-1.json").write_text(text.replace("permutation-01", "another"))
    assert task_names(read_runs(out)) == ("task 1", "task 2"), "each seed draws tasks of its own"
    (out / "results/ewc").mkdir()
    (out / "results/ewc/seed-1.json").write_text(text.replace("finetune", "ewc"))
    with pytest.raises(UserError, match="different task sequences"):  # but the same for all methods
        read_runs(out)
    shutil.rmtree(out / "results/ewc")
    (out / "results/finetune/seed-0.json").write_bytes(json.dumps(theirs | {"seed": 0}).encode())
    with pytest.raises(UserError, match="cannot be ranked together"):
        read_runs(out)


def test_other_data_of_a_seed_are_learned_anew(tmp_path: Path) -> None:
    """The digests of a seed's own tasks are in the keys of its checkpoints."""
    params = drawn()
    prepare_all(params, RAW, tmp_path, lambda line: None)
    run(params, tmp_path, 1)
    other = params.benchmark.model_copy(update={"seed": 2})
    prepare(other, RAW, tmp_path / "prepared/seed-1", lambda line: None)
    assert not publish_if_finished(params, ("finetune", 1), tmp_path, lambda event: None)
    said = [event["event"] for event in run(params, tmp_path, 1)]
    assert "resumed" not in said


def test_no_champion_of_benchmarks_that_differ() -> None:
    with pytest.raises(ValueError, match=r"champion.register_best: benchmark.seed is run"):
        drawn(champion={"register_best": True})
