"""Edited and foreign result files: the report answers with a table that is right, or with a sentence.

`python -m benchmarks.faults.reading OUT` makes the report of what is there, but for the drawing of its figures' pixels.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import statistics
import sys
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import mutations
from benchmarks.faults.case import Shared
from benchmarks.faults.kills import LIMIT, settings
from benchmarks.faults.place import Place, tiny
from benchmarks.faults.warm import Warm

METHODS = ("finetune", "joint", "ewc")
SETTINGS = ("task", "class", "domain", "task, pareto")
SEEDS = (0, 1)
NEAR = 2e-6
"""The summary is rounded to six digits."""


class Reading:
    """Results of several scenarios, and reports of copies that were edited."""

    def __init__(self, folder: Path, warm: Warm) -> None:
        self.folder, self.warm = folder / "results", warm
        self._places: Shared[Place] = Shared()

    def case(self, folder: Path, draw: random.Random) -> tuple[str, list[str]]:
        """Damage one to three files of a copy, or put in one of another scenario; what was done, and the faults."""
        origins = {name: self._places.get(name, partial(self._results, name)) for name in SETTINGS}
        name = draw.choice(SETTINGS)
        place = Place(folder, {**tiny(), "seeds": list(SEEDS)})
        shutil.copytree(origins[name].out / "results", place.out / "results")
        said = []
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            files = sorted(path for path in place.out.glob("results/*/*.json") if path.is_file())
            if not files:
                break
            path = draw.choice(files)
            if draw.random() < 0.15:
                other = draw.choice([origin for origin in SETTINGS if origin != name])
                foreign = draw.choice(sorted(origins[other].out.glob(f"results/*/{path.name}")))
                shutil.copy(foreign, path)
                done = f"is that of {foreign.parent.name}, {other}"
            elif draw.random() < 0.1:
                name = draw.choice(["seed-2", "seed-01", "seed-x", "seed-"])
                shutil.copy(path, path.with_name(path.name.replace(path.name.partition(".")[0], name)))
                done = f"copied as {name}"
            else:
                done = mutations.damage(path, draw)
            said.append(f"{path.relative_to(place.out)} {done}")
        whole = draw.random() < 0.1  # with its figures, which take most of the time
        module, arguments = ("flows.report", ["--out", "../out"]) if whole else (__name__, ["../out"])
        ended = self.warm.run(module, arguments, place, LIMIT)
        faults = ended.faults(0, 2)
        if ended.code == 0 and not faults:
            faults = wrong(place.out, SEEDS if whole else None)
        return f"{name}: {'; '.join(said)}; python -m {module}", faults + place.strayed()

    def _results(self, name: str) -> Place:
        """Results of four methods in this setting."""
        (setting,) = (setting for setting in settings() if setting.name == name)
        place = Place(self.folder / re.sub(r"\W+", "-", name), setting.params)
        steps = [("flows.prepare", list[str]())]
        steps += [("cl.run", ["--params", "params.yaml", "--method", m, "--seed", "0"]) for m in METHODS]
        for module, arguments in steps:
            done = self.warm.run(module, [*arguments, "--out", "../out"], place, LIMIT)
            if done.code != 0:
                raise RuntimeError(f"{name}: {done.code}: {done.last}")
        _again(place.out)
        return place


def _again(out: Path) -> None:
    """A second seed of each method, with the first one's numbers."""
    for path in sorted(out.glob("results/*/seed-0*.json")):
        tree = json.loads(path.read_bytes())
        mutations.write(path.with_name(path.name.replace("seed-0", "seed-1")), {**tree, "seed": 1})


def wrong(out: Path, seeds: Collection[int] | None = None) -> list[str]:
    """What is wrong with the report of these seeds, or of all, by the files it was made of, reckoned here once more."""
    try:
        summary = json.loads((out / "report" / "summary.json").read_bytes())
        board = (out / "report" / "leaderboard.md").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        return [f"no report, and no error: {error}"]
    results: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(out.glob("results/*/seed-*.json")):
        seed = re.fullmatch(r"seed-(\d+)\.json", path.name)
        if seed and (seeds is None or int(seed[1]) in seeds) and path.parent.name in summary:
            results.setdefault(path.parent.name, []).append(json.loads(path.read_bytes()))
    faults = []
    if re.search(r"\b(nan|inf)\b", board):
        faults.append("the table has nan or inf in it")
    for method, of_method in results.items():
        average = statistics.fmean(statistics.fmean(result["accuracy"][-1]) for result in of_method)
        shown = summary[method]["average_accuracy"]
        if not (math.isfinite(shown) and abs(shown - average) < NEAR and 0 <= shown <= 1):
            faults.append(f"{method}: the table has {shown}, its results {average}")
    kinds = {json.dumps([result.get(name) for name in ("tasks", "scenario", "search")]) for result in _all(results)}
    if len(kinds) > 1:
        faults.append(f"one table of {len(kinds)} sequences or scenarios")
    return faults


def _all(results: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for of_method in results.values():
        yield from of_method


def main() -> int:
    """Make the report, its figures without pixels."""
    from flows.report import figures
    from flows.report.build import build
    from flows.report.drawing import Drawing

    def drawn(figure: object, name: str) -> Drawing:
        return Drawing(b"", f"<svg><title>{name}</title></svg>")

    vars(figures)["save"] = drawn
    build(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    from cl import cli

    sys.exit(cli.guarded(main))
