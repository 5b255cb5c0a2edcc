"""Preparation and reading back."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cl import embedded
from cl.data import load
from cl.data.benchmarks import tiny_imagenet
from cl.data.prepare import benchmark_file, damaged, is_current, prepare, read_manifest
from cl.data.subsets import stratified
from cl.errors import UserError
from cl.params import Benchmark
from cl.rng import generator, numpy_generator, seed_of
from tests.cl.small import CPU, REPOSITORY
from tests.conftest import RAW

SPLITS = ("train", "validation", "test")


def made(target: Path, **options: Any) -> Path:
    prepare(Benchmark(**{"tasks": 2, **options}), RAW, target, say=lambda line: None)
    return target


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_manifest(tmp_path: Path) -> None:
    folder = made(tmp_path / "p")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert manifest["benchmark"] == "permuted-digits"
    assert manifest["input_shape"] == [1, 8, 8]
    assert [task["name"] for task in manifest["tasks"]] == ["permutation-01", "permutation-02"]
    listed = {"manifest.json"}
    for task in manifest["tasks"]:
        assert task["classes"] == [str(digit) for digit in range(10)]
        assert sum(task["splits"][split]["samples"] for split in SPLITS) == 1797
        for split in SPLITS:
            images = np.load(folder / task["splits"][split]["images"]["path"], allow_pickle=False)
            labels = np.load(folder / task["splits"][split]["labels"]["path"], allow_pickle=False)
            assert images.dtype == np.uint8
            assert images.shape == (task["splits"][split]["samples"], 1, 8, 8)
            assert set(labels) == set(range(10))
            for file in (task["splits"][split]["images"], task["splits"][split]["labels"]):
                data = (folder / file["path"]).read_bytes()
                assert file["sha256"] == hashlib.sha256(data).hexdigest()
                assert file["bytes"] == len(data)
                listed.add(file["path"])
    assert contents(folder).keys() == listed


def test_same_options_give_the_same_bytes(tmp_path: Path) -> None:
    np.random.seed(3)
    first = contents(made(tmp_path / "a"))
    np.random.seed(4)
    assert contents(made(tmp_path / "b")) == first


@pytest.mark.parametrize("name", ["permuted-digits", "split-digits"])
def test_more_tasks_leave_the_first_as_they_were(tmp_path: Path, name: str) -> None:
    two, three = (load(made(tmp_path / str(n), name=name, tasks=n), CPU) for n in (2, 3))
    assert [task.digest for task in two.tasks] == [task.digest for task in three.tasks[:2]]
    assert len({task.digest for task in three.tasks}) == 3


def test_splits_are_the_same_images_in_every_task(tmp_path: Path) -> None:
    sequence = load(made(tmp_path / "p", tasks=3), CPU)
    first = sequence.tasks[0]
    for task in sequence.tasks[1:]:
        pixels: torch.Tensor | None = None
        for split in SPLITS:
            here, there = getattr(first, split), getattr(task, split)
            assert torch.equal(here.y, there.y)
            a, b = here.images.flatten(1), there.images.flatten(1)
            assert not torch.equal(a, b)
            assert torch.equal(a.sort(1).values, b.sort(1).values), "the same grey levels at other places"
            if pixels is None:  # one permutation for all splits
                pixels = torch.from_numpy(numpy_generator("permuted-digits", 0, task.index).permutation(64))
            assert torch.equal(a[:, pixels], b)


def test_no_image_is_in_two_splits(tmp_path: Path) -> None:
    for task in load(made(tmp_path / "p"), CPU).tasks:
        seen = [{bytes(row.numpy().tobytes()) for row in getattr(task, split).images} for split in SPLITS]
        assert [len(images) for images in seen] == [len(getattr(task, split)) for split in SPLITS]
        assert not seen[0] & seen[1]
        assert not seen[0] & seen[2]
        assert not seen[1] & seen[2]


def test_splits_are_stratified(tmp_path: Path) -> None:
    task = load(made(tmp_path / "p", tasks=1), CPU).tasks[0]
    counts = {split: torch.bincount(getattr(task, split).y, minlength=10).float() for split in SPLITS}
    whole = sum(counts.values())
    assert torch.all((counts["test"] - 0.2 * whole).abs() <= 0.5)
    assert torch.all((counts["validation"] - 0.2 * (whole - counts["test"])).abs() <= 0.5)


def test_stratified() -> None:
    labels = np.array([0] * 10 + [1] * 2 + [2])
    rest, taken = stratified(labels, 0.2, "key")
    assert sorted([*rest, *taken]) == list(range(13))
    assert [int((labels[taken] == label).sum()) for label in range(3)] == [2, 1, 0]
    assert list(rest) == sorted(rest)
    again = stratified(labels, 0.2, "key")[1]
    assert list(again) == list(taken)
    others = {tuple(stratified(labels, 0.2, "key", number)[1]) for number in range(5)}
    assert len(others) > 1


def test_seed_and_cap(tmp_path: Path) -> None:
    base = load(made(tmp_path / "a"), CPU)
    other = load(made(tmp_path / "b", seed=1), CPU)
    capped = load(made(tmp_path / "c", train_per_class=7), CPU)
    assert base.tasks[0].digest != other.tasks[0].digest
    assert torch.bincount(capped.tasks[0].train.y).tolist() == [7] * 10
    assert torch.equal(capped.tasks[1].test.images, base.tasks[1].test.images)
    assert torch.equal(capped.tasks[1].validation.images, base.tasks[1].validation.images)


def test_split_digits(tmp_path: Path) -> None:
    sequence = load(made(tmp_path / "p", name="split-digits", tasks=None), CPU)
    assert [task.classes for task in sequence.tasks] == [(str(d), str(d + 1)) for d in range(0, 10, 2)]
    assert all(set(task.test.y.tolist()) == {0, 1} for task in sequence.tasks)
    assert sum(len(getattr(task, split)) for task in sequence.tasks for split in SPLITS) == 1797
    with pytest.raises(UserError, match=r"benchmark\.tasks.*5 tasks to learn"):
        made(tmp_path / "q", name="split-digits", tasks=6)


def test_the_digits_stay_as_large_as_they_are(tmp_path: Path) -> None:
    """And no result says otherwise."""
    for name in ("split-digits", "permuted-digits"):
        with pytest.raises(UserError, match=rf"benchmark\.image_size: the digits of {name} are 8x8"):
            made(tmp_path / "p", name=name, image_size=16)


def test_permuted_digits_in_another_order(tmp_path: Path) -> None:
    usual = load(made(tmp_path / "p", tasks=3), CPU).tasks
    other = load(made(tmp_path / "q", tasks=None, order=["permutation-03", "permutation-01"]), CPU).tasks
    assert [task.digest for task in other] == [usual[2].digest, usual[0].digest]
    with pytest.raises(UserError, match=r"benchmark\.order: no task 'permutation-11'"):
        made(tmp_path / "q", tasks=None, order=["permutation-11"])


def test_normalised(tmp_path: Path) -> None:
    split = load(made(tmp_path / "p"), CPU).tasks[1].train
    assert split.x.dtype == torch.float32
    torch.testing.assert_close(split.x, split.images.float() / 16)


# Batches.


@pytest.mark.parametrize("resident", [True, False])
def test_batches(tmp_path: Path, resident: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small splits are kept as floats, large ones are read batch by batch: the numbers are the same."""
    from cl.data import joined, task

    if not resident:
        monkeypatch.setattr(task, "RESIDENT_BYTES", 0)
    sequence = load(made(tmp_path / "p"), CPU)
    split = sequence.tasks[1].test
    order = torch.randperm(len(split), generator=generator("order"))
    batches = list(split.batches(100, order))
    assert [len(x) for x, _, _ in batches] == [100, 100, 100, len(split) - 300]
    assert torch.equal(torch.cat([x for x, _, _ in batches]), split.x[order])
    assert torch.equal(torch.cat([y for _, y, _ in batches]), split.y[order])
    assert {t for _, _, t in batches} == {1}
    both = joined(sequence.tasks).test
    order = torch.randperm(len(both), generator=generator("order"))
    assert torch.equal(torch.cat([t for _, _, t in both.batches(100, order)]), both.t[order])
    assert torch.equal(torch.cat([x for x, _, _ in both.batches(100)]), both.x)


# Preparing again, and damage.


def test_prepared_already_is_left_alone(tmp_path: Path) -> None:
    said: list[str] = []
    folder = made(tmp_path / "p")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    prepare(Benchmark(tasks=2), RAW, folder, say=said.append)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    assert len(said) == 1
    assert "already" in said[0]


def test_other_options_are_prepared_anew(tmp_path: Path) -> None:
    folder = made(tmp_path / "p")
    before = read_manifest(folder)["key"]
    for options in ({"seed": 1}, {"train_per_class": 5}, {"tasks": 3}, {"name": "split-digits"}):
        made(folder, **options)
        after = read_manifest(folder)["key"]
        assert after != before, options
        before = after
    assert contents(folder) == contents(made(tmp_path / "q", name="split-digits"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "q"], "nothing is left behind"


def test_other_options_are_known_without_a_look_at_the_raw_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look may fetch them, and nothing would be said of how far that is."""
    folder = made(tmp_path / "p")
    lines: list[str] = []

    def fetch(remotes: Any, home: Path, say: Any) -> list[Path]:
        say("fetching")
        raise UserError("no network")

    monkeypatch.setattr(tiny_imagenet, "fetch", fetch)
    assert not is_current(Benchmark(name="tiny-imagenet"), RAW, folder)
    with pytest.raises(UserError, match="no network"):
        prepare(Benchmark(name="tiny-imagenet"), RAW, folder, say=lines.append)
    assert lines == ["fetching"]
    assert is_current(Benchmark(tasks=2), RAW, folder), "what was there stays"


@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
@pytest.mark.parametrize("name", ["task-001/train-images.npy", "task-000/test-labels.npy"])
def test_damaged_array_is_found_and_prepared_anew(tmp_path: Path, name: str, damage: str) -> None:
    folder = made(tmp_path / "p")
    whole = contents(folder)
    path = folder / name
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[:-3])
    elif damage == "flip":
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    assert damaged(folder) == [str(path)]
    task = load(folder, CPU).tasks[int(name[7])]
    with pytest.raises(UserError, match=rf"{name}: missing, cut short or altered .*; prepare again"):
        len(getattr(task, name.split("/")[1].split("-")[0]))
    made(folder)
    assert contents(folder) == whole


def test_missing_and_damaged_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json: not there; run .*flows\.compare"):
        load(tmp_path, CPU)
    folder = made(tmp_path / "p")
    whole = contents(folder)
    for text in ("{", "[]", '{"schema": 99}', ""):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=r"manifest\.json.*prepare again"):
            load(folder, CPU)
    shutil.rmtree(folder)
    assert contents(made(folder)) == whole


def test_missing_and_damaged_raw_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "COPIES", tmp_path)  # nothing came with the package
    with pytest.raises(UserError, match=r"digits\.csv\.gz: not there; .*dvc pull"):
        prepare(Benchmark(), tmp_path, tmp_path / "p", say=print)
    raw = tmp_path / "digits" / "digits.csv.gz"
    raw.parent.mkdir()
    data = bytearray((RAW / "digits" / "digits.csv.gz").read_bytes())
    data[100] ^= 4
    raw.write_bytes(data)
    with pytest.raises(UserError, match=r"digits\.csv\.gz: damaged .*dvc checkout"):
        prepare(Benchmark(), tmp_path, tmp_path / "p", say=print)
    assert not (tmp_path / "p").exists()


def test_interrupted_preparation_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "p")
    whole = contents(folder)
    module = benchmark_file("permuted-digits")
    original = module.tasks

    def dying(options: Benchmark, raw: Path, say: Any = None) -> Any:
        yield next(iter(original(options, raw)))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "tasks", dying)
    with pytest.raises(KeyboardInterrupt):
        made(folder, seed=5)
    assert contents(folder) == whole


# What is not ours, and others at work.


def test_what_was_not_prepared_is_never_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything read for it: there are no raw data."""
    monkeypatch.setattr(embedded, "COPIES", tmp_path)  # nothing came with the package
    target = tmp_path / "p"
    for name in ("thesis.txt", "task-000/notes.txt", "task-000/train-images.npy.old"):
        place = target / name
        place.parent.mkdir(parents=True)
        place.write_text("thesis")
        with pytest.raises(UserError, match=r"is not of the prepared data.*move it elsewhere, or give another --out"):
            prepare(Benchmark(), tmp_path, target)
        assert contents(tmp_path) == {f"p/{name}": b"thesis"}
        shutil.rmtree(target)
    (target / "task-000").mkdir(parents=True)
    (target / "task-000/train-images.npy").write_text("thesis")
    with pytest.raises(UserError, match="not there"):  # named as ours are, without a manifest: it is moved aside
        prepare(Benchmark(), tmp_path, target)
    assert contents(tmp_path) == {"p.aside-1/task-000/train-images.npy": b"thesis"}
    shutil.rmtree(tmp_path / "p.aside-1")
    target.write_text("thesis")
    with pytest.raises(UserError, match="is a file, but the prepared data need a folder"):
        prepare(Benchmark(), tmp_path, target)
    assert contents(tmp_path) == {"p": b"thesis"}


def test_what_somebody_has_put_beside_prepared_data_is_never_removed(tmp_path: Path) -> None:
    folder = made(tmp_path / "p")
    (folder / "task-001/notes.txt").write_text("thesis")
    before = contents(tmp_path)
    made(folder)
    with pytest.raises(UserError, match=r"p/task-001/notes\.txt: is not of the prepared data"):
        made(folder, tasks=1)
    assert contents(tmp_path) == before
    (folder / "task-001/notes.txt").rename(folder / "task-001/.DS_Store")
    made(folder, tasks=1)
    assert "task-001/.DS_Store" not in contents(folder)


def test_images_within_the_target_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "p/photos/a/b").mkdir(parents=True)
    (tmp_path / "p/photos/a/b/x.png").touch()
    for path in ("p/photos", "p"):
        with pytest.raises(UserError, match=r"benchmark\.path"):
            prepare(Benchmark(name="folder", path=str(tmp_path / path)), RAW, tmp_path / "p")
    assert contents(tmp_path) == {"p/photos/a/b/x.png": b""}


def test_a_target_by_a_link_is_prepared_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "p").symlink_to("disk/data")
    for tasks in (1, 2):
        made(tmp_path / "p", tasks=tasks)
    assert (tmp_path / "p").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["data"]
    assert contents(tmp_path / "disk/data") == contents(made(tmp_path / "q"))


def test_what_a_killed_preparation_left_is_removed_by_the_next(tmp_path: Path) -> None:
    for name in (".p.4194305.0a1b2c3d.part", ".p.4194305.part"):  # a number that no process has
        (tmp_path / name / "task-000").mkdir(parents=True)
        (tmp_path / name / "task-000/train-images.npy").write_bytes(b"half")
    (tmp_path / ".other.4194305.part").mkdir()
    made(tmp_path / "p")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.4194305.part", "p"]
    (tmp_path / ".p.4194305.part").mkdir()
    made(tmp_path / "p")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.4194305.part", "p"]


def test_two_prepare_the_same_and_different_things_at_once(tmp_path: Path) -> None:
    """Six times over, in two processes: each finds what it asked for, whole, or makes it; one waits for the other."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom cl.data.prepare import prepare\nfrom cl.params import Benchmark\n"
        "for number in range(6):\n"
        "    tasks = 1 + (number + int(sys.argv[2])) % 2\n"
        "    options = Benchmark(tasks=tasks, train_per_class=5)\n"
        "    prepare(options, Path('data'), Path(sys.argv[1]), say=lambda line: None)\n"
    )
    for shift in ("0", "1"):  # the same each time; and what the other does not want
        command = [sys.executable, "-c", code, str(tmp_path / "p")]
        runs = [
            subprocess.Popen([*command, given], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
            for given in ("0", shift)
        ]
        assert [(run.communicate(timeout=120)[1], run.returncode) for run in runs] == [("", 0), ("", 0)]
        assert damaged(tmp_path / "p") == []
        assert [path.name for path in tmp_path.iterdir()] == ["p"]


# Keys.


def test_keys_do_not_collide() -> None:
    keys: list[tuple[int | str, ...]] = [(1,), ("1",), (1, 2), (12,), ("1/2",), (0,), ()]
    assert len({seed_of(*key) for key in keys}) == len(keys)
    assert all(0 <= seed_of(*key) < 2**63 for key in keys)
    assert seed_of(0, "network") == seed_of(0, "network")
    a, b = (torch.rand(3, generator=generator(0, name)).tolist() for name in ("a", "b"))
    assert a != b


@pytest.mark.parametrize("name", ["split-digits", "permuted-digits"])
def test_caps_on_both_splits_keep_the_first_of_each_class(name: str, tmp_path: Path) -> None:
    whole = load(made(tmp_path / "p", name=name, tasks=1, train_per_class=None), CPU).tasks[0]
    capped = load(made(tmp_path / "q", name=name, tasks=1, train_per_class=3, validation_per_class=2), CPU).tasks[0]
    for split, most in (("train", 3), ("validation", 2)):
        before, after = getattr(whole, split), getattr(capped, split)
        assert after.y.bincount().tolist() == [most] * len(whole.classes)
        kept = [(before.y == label).nonzero().flatten()[:most] for label in range(len(whole.classes))]
        assert torch.equal(after.images, before.images[torch.cat(kept).sort().values])
    assert torch.equal(whole.test.images, capped.test.images)


@pytest.mark.parametrize("name", ["split-digits", "permuted-digits"])
def test_a_small_share_leaves_nearly_all_to_train_on(name: str, tmp_path: Path) -> None:
    whole = load(made(tmp_path / "p", name=name, tasks=1, train_per_class=None), CPU).tasks[0]
    shared = load(made(tmp_path / "q", name=name, tasks=1, train_per_class=None, validation_share=0.001), CPU).tasks[0]
    assert shared.validation.y.bincount().tolist() == [1] * len(whole.classes)
    assert len(shared.train) == len(whole.train) + len(whole.validation) - len(whole.classes)
    assert torch.equal(whole.test.images, shared.test.images)


def test_the_embedded_digits_are_the_bytes_they_were(tmp_path: Path) -> None:
    """Results kept from earlier versions hold for these."""
    digests = {
        "split-digits": ["a9224242b578", "fc369ac2ed28", "442c2b8cc88c", "c8a25ccd1f86", "695b9f1cf227"],
        "permuted-digits": ["e70b0961bb50", "0bce55a6f3d7", "bb56653e6b55"],
    }
    for name, wanted in digests.items():
        tasks = read_manifest(made(tmp_path / name, name=name, tasks=len(wanted)))["tasks"]
        assert [task["digest"][:12] for task in tasks] == wanted
