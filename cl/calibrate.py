"""A learned model calibrated on validation data, and measured on test data. The mathematics is in `cl.calibration`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cl import calibration
from cl.calibration import Gaussians
from cl.data import Split, Task
from cl.deployed import Asked, Calibration, Deployed

KEPT = 1000
"""So many numbers at most say how near the validation images are."""
MAHALANOBIS, LARGEST_SCORE = "mahalanobis", "largest score"


def calibrated(model: Deployed, tasks: Sequence[Task], kept: float | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Numbers and tensors of a `Calibration`, from the data of the tasks that the model has learned.

    Temperature and least nearness come from validation images, the distributions of the classes from training
    images. Test images are measured only: the calibration error before and after, and the share of them that is known.
    The model's own `calibration` is replaced by the one that is returned.

    Args:
        model: what was learned from these tasks.
        tasks: in their order, as the network sees their images.
        kept: the share of the validation images that are to be known; None: no least nearness.
    """
    tensors: dict[str, Tensor] = {}
    if kept is not None and model.method.net.on_features:
        tensors = dict(vars(_gaussians(model, tasks)))
    numbers: dict[str, Any] = {"kept": kept, "score": MAHALANOBIS if tensors else LARGEST_SCORE}
    model.calibration = Calibration.read(numbers, tensors)
    for of in _askings(model):
        scores, nearness, labels = _all(model, tasks, of, lambda task: task.validation)
        numbers[of] = {
            "images": len(labels),
            "temperature": calibration.temperature(scores, labels),
            "least_nearness": None if kept is None else calibration.least_of(nearness, kept),
            **_measured(model, tasks, of),
        }
        tensors[of] = _thinned(nearness)
    model.calibration = Calibration.read(numbers, tensors)
    for of in _askings(model):
        numbers[of] |= _after(model, tasks, of)
    return numbers, tensors


def unknown(model: Deployed, tasks: Sequence[Task]) -> dict[str, dict[str, float]]:
    """How well a calibrated model tells test images of the classes it has learned from those of the later tasks.

    Empty where it has learned all of them, and where the later ones have the same classes. If the model is asked with
    the task, images of later tasks are asked as of the last one that it has learned. By `Asked`: `auroc`, and the
    shares `known_kept` and `unknown_refused`.
    """
    now, later = tasks[: len(model.tasks)], tasks[len(model.tasks) :]
    old = {label for labels in model.tasks.values() for label in labels}
    new = [task for task in later if model.method.net.increment != "domain" and not old & set(task.classes)]
    found: dict[str, dict[str, float]] = {}
    for of in _askings(model) if new else []:
        last = None if of == "task-agnostic" else len(now) - 1
        inside = _all(model, now, of, lambda task: task.test)[1]
        outside = torch.cat([model.outputs(task.test, last).nearness for task in new])
        assert model.calibration is not None
        least = model.calibration.least(of)
        assert least is not None
        found[of] = {
            "auroc": calibration.auroc(inside, outside),
            "known_kept": _share(inside >= least),
            "unknown_refused": _share(outside < least),
            "known_images": len(inside),
            "unknown_images": len(outside),
        }
    return found


def _askings(model: Deployed) -> list[Asked]:
    return ["task-aware"] if model.method.needs_task_id else ["task-agnostic", "task-aware"]


def _gaussians(model: Deployed, tasks: Sequence[Task]) -> Gaussians:
    """Of the training images' features."""
    net = model.method.net
    z = torch.cat([task.train.x.flatten(1) for task in tasks])
    k = torch.cat([net.column(task.train.y, task.index) for task in tasks])
    return Gaussians.of(z, k, len(model.columns(None)))


def _all(
    model: Deployed, tasks: Sequence[Task], of: Asked, split_of: Callable[[Task], Split]
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (N, C), nearness (N,) and labels (N,) of a split of every task, asked with the task or without.

    With the task, the scores of a small task are filled up to the columns of the largest with what cannot be.
    """
    scores, nearness, labels = [], [], []
    for task in tasks:
        split, index = split_of(task), task.index if of == "task-aware" else None
        found = model.outputs(split, index)
        scores.append(found.scores.double())
        nearness.append(found.nearness.double())
        labels.append(split.y if index is not None else model.method.net.column(split.y, task.index))
    width = max(part.shape[1] for part in scores)
    wide = [torch.nn.functional.pad(part, (0, width - part.shape[1]), value=-1e30) for part in scores]
    return torch.cat(wide), torch.cat(nearness), torch.cat(labels)


def _measured(model: Deployed, tasks: Sequence[Task], of: Asked) -> dict[str, Any]:
    """The calibration error of the test images' plain softmax."""
    scores, _, labels = _all(model, tasks, of, lambda task: task.test)
    return {"test_images": len(labels), "ece_before": _error(scores.softmax(1), labels, scores)}


def _after(model: Deployed, tasks: Sequence[Task], of: Asked) -> dict[str, Any]:
    """The same with the temperature, and the share of the test images that are known."""
    assert model.calibration is not None
    scores, nearness, labels = _all(model, tasks, of, lambda task: task.test)
    least = model.calibration.least(of)
    probabilities = (scores / model.calibration.temperature(of)).softmax(1)
    share = None if least is None else _share(nearness >= least)
    return {"ece_after": _error(probabilities, labels, scores), "test_known": share}


def _error(probabilities: Tensor, labels: Tensor, scores: Tensor) -> float:
    best = scores.argmax(1)
    named = probabilities.gather(1, best.unsqueeze(1)).squeeze(1)
    return calibration.expected_calibration_error(named, best == labels)


def _share(of: Tensor) -> float:
    return float(of.double().mean())


def _thinned(nearness: Tensor) -> Tensor:
    """At most `KEPT` of the numbers, evenly spaced in their order, as float32."""
    ordered = nearness.sort().values
    if len(ordered) > KEPT:
        ordered = ordered[torch.linspace(0, len(ordered) - 1, KEPT).round().long()]
    return ordered.float()
