"""Chance: the accuracy of a classifier that has learned nothing and always gives the same answer.

It is the share of the most frequent class, so with equally many images of each of k classes it is 1/k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cl.data.prepare import read_manifest
from cl.results import TASK_INCREMENTAL

Counts = Sequence[Sequence[int]]
"""Of each task, the number of test images of each of its classes."""
REST, RELATIVE = 0.1, 0.25
"""What is above chance by less than a tenth of what is missing to 100 %, and less than a quarter of chance, is near."""
NORMAL = 1.96
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True)
class Chance:
    """The average accuracy of always the same answer."""

    accuracy: float
    noise: float
    """By how much an answer of no worth may exceed it on so few test images, with 97.5 % probability."""

    @property
    def limit(self) -> float:
        """Accuracies up to here are near chance."""
        margin = min(REST * (1 - self.accuracy), RELATIVE * self.accuracy)
        return self.accuracy + max(margin, self.noise)

    def near(self, accuracy: float) -> bool:
        """Whether an average accuracy is so near chance that it shows nothing learned."""
        return accuracy <= self.limit


def chance(counts: Counts, scenario: str, other: bool = False) -> Chance:
    """Chance in a scenario, as results name it, or in its `other` setting.

    Task-aware, the answer may be another in each task. Task-agnostic it is one class of one task. In
    domain-incremental learning it is one class, the same in all tasks.
    """
    shares = [[number / sum(task) for number in task] for task in counts]
    sizes, T = [sum(task) for task in counts], len(counts)
    if "domain" in scenario:
        answer = max(range(len(shares[0])), key=lambda label: sum(task[label] for task in shares))
        hits = [task[answer] for task in shares]
    elif scenario.endswith(TASK_INCREMENTAL) != other:
        hits = [max(task) for task in shares]
    else:  # the answer is right in one task alone; the noise is that of guesses spread over all of them
        hits = [max(map(max, shares)) / T] * T
    variance = sum(hit * (1 - hit) / size for hit, size in zip(hits, sizes, strict=True))
    return Chance(sum(hits) / T, NORMAL * variance**0.5 / T)


def counts_of(prepared: Path) -> dict[str, list[int]] | None:
    """By task, how many test images of each class are prepared in a folder; None where nothing is prepared there.

    Raises `UserError` where the manifest is damaged.
    """
    if not (prepared / "manifest.json").is_file():
        return None
    tasks = read_manifest(prepared)["tasks"]
    files = {task["name"]: prepared / task["splits"]["test"]["labels"]["path"] for task in tasks}
    if not all(file.is_file() for file in files.values()):
        return None
    classes = {task["name"]: len(task["classes"]) for task in tasks}
    return {
        name: np.bincount(np.load(file, allow_pickle=False), minlength=classes[name]).tolist()
        for name, file in files.items()
    }
