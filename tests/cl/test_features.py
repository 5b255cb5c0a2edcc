"""The pass over the pictures: what it makes, once, whatever happens on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cl.data import load
from cl.data.feature_pass import CHUNK
from cl.data.features import check_features, extract, features_current, leave_out
from cl.data.places import pictures, place, prepare_all
from cl.data.prepare import damaged, prepare, read_manifest
from cl.errors import UserError
from cl.learner import Learner, within_budget
from cl.names import names_in
from cl.nets.pretrained import pretrained
from cl.params import Params
from cl.register import cannot, checked, method_class
from tests.cl.photos import plant
from tests.cl.small import CPU, OFF, REPOSITORY, run
from tests.conftest import RAW

SIDE = 32
FILES_OF_A_TASK = ("manifest.json", "task-000/train-images.npy", "task-000/test-labels.npy")
Settings = dict[str, dict[str, object]]


def params_of(root: Path, method: str = "finetune", knobs: dict[str, Any] | None = None, **sections: object) -> Params:
    tree: Settings = {
        "benchmark": {"name": "folder", "path": str(root), "image_size": SIDE},
        "model": {"name": "features", "hidden": [16]},
        "training": {"epochs": 10, "batch_size": 8, "learning_rate": 0.05},
        "selection": OFF,
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}  # type: ignore[dict-item]
    return Params.model_validate({**tree, "methods": {method: knobs or {}}})


def made(params: Params, out: Path) -> list[str]:
    """Prepare, and make the features; returns what was said of these."""
    said: list[str] = []
    prepare(pictures(params), RAW, out / "prepared", lambda line: None)
    extract(params, out, said.append)
    return said


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("photos") / "root")


@pytest.fixture(scope="module")
def done(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with the features of all photographs."""
    out = tmp_path_factory.mktemp("features") / "out"
    made(params_of(photos), out)
    return out


def vectors(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "features").rglob("*")) if p.is_file()}


def test_features_are_those_of_the_backbone_called_by_hand(done: Path, photos: Path) -> None:
    net = pretrained(params_of(photos).model, SIDE)
    seen, learned_from = load(done / "prepared"), load(done / "features")
    assert learned_from.input_shape == (1280, 1, 1)
    for of_pictures, of_features in zip(seen.tasks, learned_from.tasks, strict=True):
        x = (of_pictures.train.images / 255 - 0.5) / 0.5
        with torch.no_grad():
            by_hand = net.net(x)
            by_hand *= 5 / by_hand.norm(dim=1, keepdim=True)
        torch.testing.assert_close(of_features.train.x.flatten(1), by_hand, rtol=1e-3, atol=1e-4)
        assert torch.equal(of_features.train.y, of_pictures.train.y)
        assert of_features.classes == of_pictures.classes
    of = learned_from.backbone
    assert (of["name"], of["image_size"], len(of["weights"])) == ("efficientnet-lite0", SIDE, 64)


def test_what_is_there_is_not_made_again(done: Path, photos: Path) -> None:
    before = vectors(done)
    assert made(params_of(photos), done) == [
        f"features: those of efficientnet-lite0 are already in {done / 'features'}"
    ]
    assert vectors(done) == before
    assert features_current(params_of(photos), done)
    assert not features_current(params_of(photos, model={"backbone": "resnet18"}), done), "without a look for weights"
    assert not list((done / ".work" / "features").glob("*"))


def test_each_seed_that_draws_the_benchmark_has_features_of_its_own(photos: Path, tmp_path: Path) -> None:
    params = params_of(photos, benchmark={"seed": "run"}).model_copy(update={"seeds": [0, 1]})
    leave_out(tmp_path)  # as a stage before it has left the folder
    prepare_all(params, RAW, tmp_path, lambda line: None)
    assert not features_current(params, tmp_path)
    extract(params, tmp_path, lambda line: None)
    check_features(params, tmp_path)
    assert features_current(params, tmp_path)
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == ["seed-0", "seed-1"]
    first, second = (load(place(params, tmp_path, seed)).tasks[0] for seed in (0, 1))
    assert not torch.equal(first.train.x, second.train.x)
    made(params_of(photos, benchmark={"seed": 1}), tmp_path / "one")
    one, own = tmp_path / "one/features", tmp_path / "features/seed-1"
    assert [(own / path).read_bytes() == (one / path).read_bytes() for path in FILES_OF_A_TASK] == [True] * 3


def test_a_pass_that_is_killed_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", 2 * CHUNK)
    params = params_of(root)
    prepare(pictures(params), RAW, tmp_path / "out" / "prepared", lambda line: None)
    (tmp_path / "params.json").write_bytes(params.model_dump_json().encode())
    code = (
        "import sys; from pathlib import Path; from cl.params import Params; from cl.data.features import extract\n"
        "extract(Params.model_validate_json(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "params.json"), str(tmp_path / "out")]
    child = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    while not (chunks := list((tmp_path / "out" / ".work" / "features").rglob("*.vectors"))):
        assert child.poll() is None
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "out" / "features").exists()
    chunks[0].write_bytes(chunks[0].read_bytes()[:-1])  # as a disk may leave it
    said = made(params, tmp_path / "out")
    left = [line for line in said if "going on" in line]
    assert len(left) == 1 or len(chunks) == 1
    made(params, tmp_path / "undisturbed")
    assert vectors(tmp_path / "out") == vectors(tmp_path / "undisturbed")


def test_damaged_features_are_healed(photos: Path, tmp_path: Path) -> None:
    params = params_of(photos)
    made(params, tmp_path)
    before = vectors(tmp_path)
    victim = tmp_path / "features/task-001/train-images.npy"
    data = bytearray(victim.read_bytes())
    data[-7] ^= 1
    victim.write_bytes(data)
    with pytest.raises(UserError, match="altered since it was prepared"):
        _ = load(tmp_path / "features").tasks[1].train.x
    said = made(params, tmp_path)
    assert said[0] == f"features: warning: {victim}: missing or altered"
    assert ", 28 were there" in said[-1], said  # 40 less the 12 of that split
    assert vectors(tmp_path) == before
    (tmp_path / "features/manifest.json").write_text("{}")
    said = made(params, tmp_path)
    assert "its manifest.json is missing or damaged; moved to features.aside-1" in said[0]
    assert vectors(tmp_path) == before


def test_a_new_task_alone_goes_through_the_backbone(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", 5, ("flower",))
    made(params_of(root), tmp_path / "out")
    plant(root, 5, ("temple",))
    assert ", 10 were there" in made(params_of(root), tmp_path / "out")[-1]
    assert [task.name for task in load(tmp_path / "out" / "features").tasks] == ["flower", "temple"]
    assert not damaged(tmp_path / "out" / "features")


def test_what_is_not_ours_is_not_replaced(done: Path, photos: Path, tmp_path: Path) -> None:
    made(params_of(photos), tmp_path)
    (tmp_path / "features" / "notes.txt").write_text("mine")
    for attempt in (
        lambda: made(params_of(photos, benchmark={"image_size": 16}), tmp_path),
        lambda: leave_out(tmp_path),
    ):
        with pytest.raises(UserError, match=r"notes\.txt: is not of the prepared data"):
            attempt()
    assert (tmp_path / "features" / "notes.txt").read_text() == "mine"


def test_where_no_features_are_needed_there_is_a_note(tmp_path: Path) -> None:
    leave_out(tmp_path)
    assert [path.name for path in (tmp_path / "features").iterdir()] == ["manifest.json"]
    leave_out(tmp_path)
    digits = Params.model_validate({"methods": {"finetune": {}}})
    assert place(digits, tmp_path, 0) == tmp_path / "prepared"
    assert pictures(digits) == digits.benchmark


@pytest.mark.parametrize(
    ("benchmark", "prepared"),
    [
        ({"name": "folder", "path": "x"}, 224),
        ({"name": "folder", "path": "x", "image_size": 96}, 96),
        ({"name": "tiny-imagenet"}, 64),  # which the pass scales to 224
        ({"name": "tiny-imagenet", "image_size": 32}, 32),
        ({"name": "split-cifar100", "image_size": 96}, None),
        ({"name": "split-digits", "image_size": 96}, None),
    ],
)
def test_at_which_size_pictures_are_prepared(benchmark: dict[str, object], prepared: int | None) -> None:
    tree = {"benchmark": benchmark, "model": {"name": "features"}, "methods": {"finetune": {}}}
    assert pictures(Params.model_validate(tree)).image_size == prepared
    tuned = Params.model_validate({**tree, "model": {"name": "features", "frozen": False}})
    assert pictures(tuned).image_size == benchmark.get("image_size", 224)


# Learning from them.


def test_a_stored_sample_is_a_vector(done: Path, photos: Path) -> None:
    sequence = load(done / "features")
    er = method_class("er")()
    each = er.sample_bytes(1280 * 4, 2)
    assert within_budget("er", er, f"{10 * each} B", sequence, "class") == {"memory_budget": 10}


@pytest.mark.parametrize("method", names_in("methods"))
def test_every_method_learns_from_features_or_says_why_not(method: str, done: Path, photos: Path) -> None:
    """With a hidden layer, and on heads alone."""
    knobs = method_class(method).knobs
    quick = {name: 1 for name in knobs if name.endswith("epochs")} | (
        {"projection": 20} if "projection" in knobs else {}
    )
    for hidden in ([16], []):
        for name in ("task", "class"):
            params = params_of(
                photos, method, quick, model={"hidden": hidden}, scenario={"name": name}, training={"epochs": 1}
            )
            if cannot(method, params.scenario) is not None:
                continue
            if not hidden and method_class(method).needs_shared_layers:
                with pytest.raises(UserError, match=r"there are none; set model\.hidden=\[256\]"):
                    checked(params)
                continue
            learner = Learner(checked(params), method, 0, load(place(params, done, 0)), CPU)
            for task in learner.experiences:
                learner.open(task)
                trained = learner.train("learn", 0, 0.05, learner.knobs, plain=False)
                learner.consolidate("learn", 0, 0.05, learner.knobs, trained)
            assert len(learner.test()) == 2


def test_a_method_that_changes_pictures_is_refused(photos: Path) -> None:
    params = params_of(photos, "joint").model_copy(update={"methods": {"joint": {"flip": True}}})
    with pytest.raises(UserError, match="changes pictures in training, and a frozen backbone has seen each once"):
        checked(params)


def test_a_run_names_its_backbone_and_keeps_what_was_learned_alone(photos: Path, tmp_path: Path) -> None:
    from cl.checkpoint import load as checkpoint
    from cl.reading import read_run

    params = params_of(photos)
    made(params, tmp_path)
    run(params, tmp_path)
    result = read_run(tmp_path / "results/finetune/seed-0.json", "finetune", 0)
    assert result.setting == "features of efficientnet-lite0"
    assert result.backbone is not None
    assert result.backbone["weights"] == read_manifest(tmp_path / "features")["backbone"]["weights"]
    net = checkpoint(tmp_path / "checkpoints/finetune/seed-0/task-1")[0].net
    assert {name.split(".")[0] for name in net} == {"backbone", "heads"}
    assert sum(tensor.numel() for tensor in net.values()) == 1281 * 16 + 2 * (17 * 2)


def test_a_backbone_that_is_trained(photos: Path, tmp_path: Path) -> None:
    """Its weights move, at a rate of its own; the statistics of its batch normalisation do not."""
    settings = {"frozen": False, "backbone_learning_rate": 0.5, "hidden": []}
    params = params_of(photos, model=settings, training={"epochs": 1})
    prepare(pictures(params), RAW, tmp_path / "prepared", lambda line: None)
    run(params, tmp_path)
    from cl.checkpoint import load as checkpoint
    from cl.reading import read_run

    net = checkpoint(tmp_path / "checkpoints/finetune/seed-0/task-1")[0].net
    for name, tensor in pretrained(params.model).net.state_dict().items():
        learned = net[f"backbone.pretrained.net.{name}"]
        moved = not torch.equal(learned, tensor.contiguous())
        assert moved == (learned.is_floating_point() and "running" not in name), name
    result = read_run(tmp_path / "results/finetune/seed-0.json", "finetune", 0)
    assert result.setting == "efficientnet-lite0 finetuned"
