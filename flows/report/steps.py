"""What to do next with a comparison: commands, with the options that it was made with."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cl.called import program
from cl.params import Params
from cl.register import cannot
from flows.report.rows import BOUNDS
from flows.report.words import listing

ENOUGH = 3
"""With fewer seeds a paired test hardly ever tells two methods apart."""
ALONE, WITH_VALUE = {"--show"}, {"--minutes", "--seeds"}
"""Options that the commands below do not take over; those of the second kind have a value."""


@dataclass(frozen=True)
class Step:
    """Something that a reader may want next, and the command that does it."""

    title: str
    command: str


def steps(params: Params, out: Path, learned: bool, options: Sequence[str] | None) -> Iterator[Step]:
    """What comes next; `options`: those that a user typed, None where the params have to be given as a file.

    `learned`: whether some method is clearly above chance, so that a model is worth using.
    """
    words = ["--params", "FILE", "--out", str(out)] if options is None else list(kept(options))
    same = seeds_in(options or [])
    bounds = [name for name in BOUNDS if cannot(name, params.scenario) is None]
    if bounds and params.methods.keys().isdisjoint(BOUNDS):
        title = f"Add {listing(bounds)}, to judge the others by; what is learned stays"
        others = list(kept(words, {"--methods"}))
        methods = ",".join([*params.methods, *bounds])
        yield Step(title, typed("flows.compare", [*others, "--methods", methods, *same]))
    if len(params.seeds) < ENOUGH:
        more = itertools.islice((seed for seed in itertools.count() if seed not in params.seeds), ENOUGH)
        seeds = [*params.seeds, *more][:ENOUGH]
        title = f"Use {ENOUGH} seeds, so that methods can be told apart; what is learned stays"
        yield Step(title, typed("flows.compare", [*words, "--seeds", ",".join(map(str, seeds))]))
    if learned and params.tracking.enabled and not params.benchmark.drawn:
        yield Step("Register the best model in MLflow", typed("flows.champion", [*words, *same]))
        yield Step("Then classify pictures with it", typed("flows.predict", ["PICTURES", *words, *same]))
    yield Step("See how far each run is, and what a change would cost", typed("cl.status", [*words, *same]))


def kept(options: Sequence[str], without: Collection[str] = WITH_VALUE) -> Iterator[str]:
    """The options that the commands take over: all but those `without`, which have a value each, and `ALONE`."""
    left = iter(options)
    for word in left:
        if word.split("=")[0] not in {*ALONE, *without}:
            yield word
        elif word in without:
            next(left, None)


def seeds_in(options: Sequence[str]) -> list[str]:
    """The option `--seeds` among the options, as it was typed last."""
    found: list[str] = []
    for word, after in itertools.zip_longest(options, options[1:], fillvalue=""):
        if word == "--seeds":
            found = [word, after]
        elif word.startswith("--seeds="):
            found = [word]
    return found


def typed(module: str, words: Sequence[str]) -> str:
    """The command as a shell takes it."""
    return " ".join([program(module), shlex.join(words)]).rstrip()


def told(found: Sequence[Step]) -> str:
    """The same as lines of text."""
    lines = [line for one in found for line in (f"  {one.title}:", f"    {one.command}")]
    return "\n".join(["What to do next", *lines])
