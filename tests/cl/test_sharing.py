"""Several runs share a GPU: how many at once, and how that is found out without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cl import gpu
from cl.pool import width
from tests.cl.small import CPU, params_for

GIB = 2**30


def params(**execution: Any) -> Any:
    return params_for("finetune", execution=execution)


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `nvidia-smi` that knows of two cards, and says what it was asked."""
    command = tmp_path / "nvidia-smi"
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho 81559\necho 24564\n', encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpu.importlib.metadata, "version", lambda name: "2.15.0+cu132")
    return tmp_path / "asked"


def test_memory_is_that_of_the_first_card(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.memory() == 81559 * 2**20
    assert "-i" not in card.read_text(encoding="utf-8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert gpu.memory() == 81559 * 2**20
    assert card.read_text(encoding="utf-8").endswith("-i 3\n")


@pytest.mark.parametrize(
    ("script", "visible"), [("exit 9", None), ("echo No devices were found", None), ("echo 81559", "")]
)
def test_no_card(script: str, visible: str | None, card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (card.parent / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu.memory() is None


def test_torch_without_cuda_uses_no_card(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.importlib.metadata, "version", lambda name: "2.15.0+cpu")
    assert gpu.memory() is None


@pytest.mark.parametrize(
    ("memory", "cores", "execution", "expected"),
    [
        (80 * GIB, 16, {}, 13),
        (80 * GIB, 4, {}, 4),
        (8 * GIB, 16, {}, 1),
        (4 * GIB, 16, {}, 1),
        (80 * GIB, 16, {"runs_per_gpu": 3}, 3),
        (80 * GIB, 16, {"device": "cpu"}, None),
        (None, 16, {"runs_per_gpu": 3}, None),
        (None, 16, {"runner": "ray", "gpus_per_run": 0.5}, 2),
        (None, 16, {"runner": "ray", "gpus_per_run": 2.0}, 1),
        (80 * GIB, 16, {"runner": "dask", "address": "tcp://x:1"}, None),
    ],
)
def test_how_many_share_it(
    memory: int | None, cores: int, execution: dict[str, Any], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "memory", lambda: memory)
    monkeypatch.setattr(gpu, "processors", lambda: cores)
    assert gpu.runs_per_gpu(params(**execution)) == expected


def test_no_more_processes_at_once_than_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few runs share the places out to their trials; without a GPU all is as it was."""
    monkeypatch.setattr("cl.pool.processors", lambda: 16)
    monkeypatch.setattr("cl.pool.runs_per_gpu", lambda params: 4)
    assert width(params(), 51) == (4, 1)
    assert width(params(), 2) == (2, 2)
    assert width(params(workers=2), 51) == (2, 1)
    monkeypatch.setattr("cl.pool.runs_per_gpu", lambda params: None)
    assert width(params(), 51) == (17, 1)
    assert width(params(), 4) == (4, 4)


def test_without_a_gpu_nothing_is_sent_or_shared() -> None:
    tensor = torch.ones(2)
    assert gpu.sent(tensor, CPU) is tensor
    assert gpu.room(CPU) == float("inf")
    gpu.take_share(params(runs_per_gpu=2), CPU)
