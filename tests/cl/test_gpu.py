"""One GPU does without any change: data, networks and runs there, to the same bytes every time.

Where there is nothing but torch, pytest and what `cl` needs:

    python -m pytest -c /dev/null -m "not slow" tests/cl/test_gpu.py

Without `-m` it takes minutes more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import waits
from cl.data import load, task
from cl.data.augment import Augment
from cl.data.prepare import prepare
from cl.learner import Learner
from cl.names import names_in
from cl.nets import Dropout, build
from cl.params import Augmentation, Benchmark, Model
from cl.rng import generator
from tests.cl.small import CPU, REPOSITORY, output, params_for, published
from tests.cl.test_run import finished
from tests.conftest import RAW

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
GPU = torch.device("cuda")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
QUICK = ("ewc", "packnet", "r_pm")
"""A method with importances, one with masks, one with a memory; the others take minutes."""
WATCHED = ("finetune", "er", "r_pm", "gem", "ncm")
"""Whose steps are looked at: draws from a memory, the allowed waits, and one pass without gradients."""


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("room", [4, 2**62])
def test_data_are_the_same_and_stay_on_the_gpu_where_they_fit(
    resident: bool, room: int, prepared: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "ROOM", room)
    monkeypatch.setattr(task, "RESIDENT_BYTES", 2**28 if resident else 0)
    here, there = (load(prepared[2], device).tasks[1].train for device in (CPU, GPU))
    order = torch.randperm(len(here), generator=generator("order"))
    for draw in (None, "flips"):
        changes = Augmentation(flip=True, padding=1)
        found = []
        for split in (here, there):
            augment = Augment(changes, generator(draw)) if draw else None
            found.append(list(split.batches(7, order, augment)))
        for (x, y, _), (gpu_x, gpu_y, _) in zip(*found, strict=True):
            assert gpu_x.device.type == gpu_y.device.type == GPU.type
            torch.testing.assert_close(gpu_x.cpu(), x)
            assert torch.equal(gpu_y.cpu(), y)
    assert there._raw.device.type == (GPU.type if room == 4 else CPU.type)


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("name", Model.model_fields["name"].annotation.__args__)  # type: ignore[union-attr]
def test_every_network_has_gradients_that_repeat(name: str, reduced: bool) -> None:
    """In deterministic mode, in which torch refuses what does not."""

    def gradients() -> list[Tensor]:
        net = build(Model(name=name), (3, 96, 80), generator(0))  # type: ignore[arg-type]
        net.add_head(5, generator(1))
        net = net.to(GPU).train()
        net.backbone.reduced = reduced
        for number, layer in enumerate(layer for layer in net.modules() if isinstance(layer, Dropout)):
            layer.draw_from(number)
        x = torch.rand((8, 3, 96, 80), generator=generator(2)).to(GPU, memory_format=torch.channels_last)
        y = torch.arange(8, device=GPU) % 5
        return list(torch.autograd.grad(torch.nn.functional.cross_entropy(net(x, 0), y), list(net.parameters())))

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first, again = gradients(), gradients()
    finally:
        torch.use_deterministic_algorithms(before)
    assert all(bool(torch.isfinite(g).all()) for g in first)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.fixture(scope="module")
def promised() -> dict[str, int]:
    """How often a step of a method waits, as `benchmarks.waits` finds in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.waits", "--json", "--methods", ",".join(WATCHED)]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return json.loads(done.stdout)["waits"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", WATCHED)
def test_steps_wait_no_more_often_than_on_the_pretended_device(
    method: str, promised: dict[str, int], recwarn: pytest.WarningsRecorder
) -> None:
    """Torch itself says when the host waits for the GPU."""
    params = waits.params_of(method, "task", online=False)
    learner = Learner(params, method, 0, waits.sequence(GPU), GPU)
    counts: list[int] = []

    def watch(steps: int) -> None:
        torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchronizing CUDA operation" in str(one.message) for one in recwarn.list))
        recwarn.clear()
        warnings.simplefilter("always")
        if steps % waits.STEPS:  # not from one epoch to the next
            torch.cuda.set_sync_debug_mode("warn")

    try:
        for stage in learner.experiences:
            learner.open(stage)
            rate = params.training.learning_rate if learner.trains else None
            trained = learner.train("learn", 0, rate, learner.knobs, plain=False, watch=watch)
            torch.cuda.set_sync_debug_mode("default")
            learner.consolidate("learn", 0, rate, learner.knobs, trained)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(counts) >= waits.TASKS * waits.STEPS
    assert max(counts) <= promised[method], f"at most {promised[method]} in a step, but {counts}"


def test_a_run_takes_no_more_than_its_share() -> None:
    """In a process of its own, as the limit cannot be lifted again."""
    code = (
        "import torch; from cl.gpu import room, take_share; from tests.cl.small import params_for;"
        "device = torch.device('cuda'); total = torch.cuda.get_device_properties(device).total_memory;"
        "take_share(params_for('finetune', execution={'runs_per_gpu': 4}), device);"
        "print(total, int(room(device)));"
        "kept = torch.empty(total // 3, dtype=torch.uint8, device=device)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, encoding="utf-8")
    total, room = map(int, done.stdout.split())
    assert 0 < room <= total / 4
    assert "out of memory" in done.stderr


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Permuted digits with ten training images a class, as two tasks and as four."""
    folder = tmp_path_factory.mktemp("sequences")
    for tasks in (2, 4):
        options = Benchmark(name="permuted-digits", tasks=tasks, train_per_class=10)
        prepare(options, RAW, folder / str(tasks), say=lambda line: None)
    return {tasks: folder / str(tasks) for tasks in (2, 4)}


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=[] if m in QUICK else [pytest.mark.slow]) for m in names_in("methods")]
)
def test_a_run_repeats_and_goes_on_from_its_checkpoints(
    method: str, sequences: dict[int, Path], tmp_path: Path
) -> None:
    """What was stored goes back to where it was: two tasks later it is used beside what is new."""
    ebll: dict[str, Any] = {"code_sizes": [3], "reconstruction": [0.1], "code_epochs": 2}
    params = params_for(method, ebll if method == "ebll" else None, execution={"device": GPU.type})
    straight, stepwise = tmp_path / "straight", tmp_path / "stepwise"
    for out, tasks in ((straight, 4), (stepwise, 2), (stepwise, 4)):
        code, events, stderr = finished(params, output(out, sequences[tasks]))
        assert (code, stderr) == (0, ""), events
    assert published(straight) == published(stepwise)
    cost = json.loads((straight / f"results/{method}/seed-0.cost.json").read_text())
    assert cost["machine"]["device"] == GPU.type
