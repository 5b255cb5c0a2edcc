"""What every kind of fault has in common: numbered cases that follow from the seed, and a verdict of each."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from benchmarks.faults.warm import Warm

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """What became of a case."""

    number: int
    what: str
    """What was done, in a phrase."""
    faults: tuple[str, ...] = ()
    """What should not have come of it; empty where it held."""
    tried: int = 1
    """How many faults there were in it: a chain of kills is one case."""


class Shared(Generic[T]):
    """What several cases need, made once, when the first of them asks for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[object, threading.Lock] = {}
        self._made: dict[object, T] = {}

    def get(self, key: object, make: Callable[[], T]) -> T:
        """What has this key; who asks meanwhile waits."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]

    def each(self, do: Callable[[T], object]) -> None:
        """Do this with everything that was made."""
        for made in self._made.values():
            do(made)


class Kind:
    """A kind of fault. A case of it follows from the campaign's seed and the case's number, its timing apart."""

    name: ClassVar[str]
    least: ClassVar[int]
    """How many there have to be in twenty minutes."""
    share: ClassVar[float]
    """Of the campaign's time, in which cases are begun."""
    at_once: ClassVar[int] = 2

    def __init__(self, folder: Path, seed: int, warm: Warm, deadline: float = float("inf")) -> None:
        """Cases work in `folder`; the campaign is to end at the `deadline`, a time of `time.monotonic`."""
        self.folder, self.seed, self.warm, self.deadline = folder / self.name, seed, warm, deadline
        self.caches = folder / "caches"

    def draw(self, *key: object) -> random.Random:
        """The random numbers of a case, or of what all cases share."""
        return random.Random(" ".join(map(str, (self.seed, self.name, *key))))

    def case(self, number: int) -> Verdict:
        """Try the case of this number."""
        raise NotImplementedError

    def close(self) -> None:
        """End what the cases share."""

    @property
    def over(self) -> bool:
        """Whether the campaign's time is up."""
        return time.monotonic() > self.deadline

    def new(self, number: int) -> Path:
        """An empty folder for the case; one that held is removed with `done_with`."""
        folder = self.folder / f"{number:05d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def judged(self, number: int, what: str, faults: list[str], tried: int = 1) -> Verdict:
        """The verdict; the folder of a case that held is removed."""
        if not faults:
            shutil.rmtree(self.folder / f"{number:05d}", ignore_errors=True)
        return Verdict(number, what, tuple(dict.fromkeys(faults)), tried)
