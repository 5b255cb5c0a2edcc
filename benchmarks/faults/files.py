"""Damaged files: what a run reads back is damaged at random, and the same command ends in the right bytes all the same.

Three of four cases damage results and ask for the report, which answers with a table that is right or with a sentence.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.faults import mutations
from benchmarks.faults.case import Kind, Shared, Verdict
from benchmarks.faults.commands import Done, run
from benchmarks.faults.kills import HOOK, LIMIT
from benchmarks.faults.place import REPOSITORY, Place, tiny
from benchmarks.faults.reading import Reading
from benchmarks.faults.results import differences, leftovers, published, untracked
from benchmarks.faults.warm import Warm

METHODS = ("ewc", "icarl")
ARGUMENTS = ["--methods", ",".join(METHODS), "--out", "../out"]
TRACKED = {"tracking": {"enabled": True}}
PLACES = (
    # What is damaged, how often, in which state of a run, and by which command it is read back.
    ("out/.work/*/seed-*/*/result.json", 3, "finished", "cl"),
    ("out/.work/*/seed-*/*/trials.json", 3, "finished", "cl"),
    ("out/.work/*/seed-*/*/cost.json", 2, "finished", "cl"),
    ("out/.work/*/seed-*/*/cost-*.json", 1, "finished", "cl"),
    ("out/.work/*/seed-*/*/finished.json", 3, "finished", "cl"),
    ("out/.work/*/seed-*/*/unit.json", 1, "finished", "cl"),
    ("out/.work/*/seed-*/*/studies.log", 2, "finished", "cl"),
    ("out/.work/*/seed-*/*/task-*/*", 3, "finished", "cl"),
    ("out/results/*/*", 3, "finished", "cl"),
    ("out/checkpoints/*/*/*/*", 3, "finished", "cl"),
    ("out/prepared/manifest.json", 3, "finished", "cl"),
    ("out/prepared/*/*.npy", 3, "finished", "cl"),
    ("out/.work/*/seed-*/*/*.json", 3, "begun", "cl"),
    ("out/.work/*/seed-*/*/studies.log", 4, "begun", "cl"),
    ("out/.work/*/seed-*/*/task-*/*", 2, "begun", "cl"),
    ("out/.work/*/seed-*/*/candidate-*/*", 2, "begun", "cl"),
    ("out/.work/first-task/*/trial-*/*", 2, "begun", "cl"),
    ("out/prepared/*/*.npy", 2, "begun", "cl"),
    ("out/.work/tracking.json", 2, "tracked", "flows.train"),
    ("out/mlflow/mlflow.db", 2, "tracked", "flows.train"),
    ("out/report/*", 1, "tracked", "flows.compare"),
    ("p/params.yaml", 2, "finished", "cl.status"),
    ("p/data/digits/digits.csv.gz", 1, "finished", "flows.prepare"),
)
THEIRS = ("p/params.yaml", "p/data/digits/digits.csv.gz")
"""Files of the user's, which a command may refuse with a sentence."""


class Files(Kind):
    """Damaged files."""

    name, least, share = "files", 300, 0.2

    def __init__(self, folder: Path, seed: int, warm: Warm, deadline: float = float("inf")) -> None:
        super().__init__(folder, seed, warm, deadline)
        self._states: Shared[Place] = Shared()
        self.reading = Reading(self.folder, warm)

    def case(self, number: int) -> Verdict:
        """Every fourth case is a command that reads the damaged file, the others are reports."""
        draw = self.draw(number)
        if number % 4:
            what, faults = self.reading.case(self.new(number), draw)
            return self.judged(number, what, faults)
        pattern, _, state, module = draw.choices(PLACES, [often for _, often, _, _ in PLACES])[0]
        place = self._copy(self._state(state), self.new(number))
        files = sorted(path for path in place.folder.glob(pattern) if path.is_file())
        if not files:
            return self.judged(number, f"{pattern}: there is none", [], 0)
        path = draw.choice(files)
        # A method more, so that there is something to send.
        methods = "ewc,icarl,finetune" if state == "tracked" else ",".join(METHODS)
        arguments = ["--methods", methods, "--out", "../out"]
        damage = mutations.damage(path, draw)
        what = f"{path.relative_to(place.folder)} {damage}; python -m {module} {' '.join(arguments)}"
        place.before = place.digest()
        alone = state == "tracked" or draw.random() < 0.1
        runner = run if alone else self.warm.run
        done = runner(module, arguments, place, LIMIT)
        theirs = pattern in THEIRS
        faults = done.faults(0, 2) if theirs else done.faults(0)
        if not faults and done.code == 0 and pattern != "p/params.yaml":
            faults += differences(place.out, published(self._state("finished").out), METHODS)
        if not faults and state == "tracked":
            faults += self._told_or_sent(place, done)
        return self.judged(number, what, faults + leftovers(place.out) + place.strayed())

    def _told_or_sent(self, place: Place, done: Done) -> list[str]:
        """MLflow has everything afterwards, or what is wrong with it was said."""
        if "mlflow" in done.stderr.lower():
            return []
        return untracked(place.out / "mlflow" / "mlflow.db", {f"{method}/seed-0": 2 for method in METHODS})

    def _copy(self, origin: Place, folder: Path) -> Place:
        """The place as it was, elsewhere."""
        place = Place(folder, tiny(), self.caches)
        for room in (place.project, place.out):
            shutil.rmtree(room, ignore_errors=True)
        mutations.copy(origin.project, place.project)
        mutations.copy(origin.out, place.out)
        return place

    def _state(self, name: str) -> Place:
        """A run that is finished, one that is finished and tracked, or one that was killed in the middle of a task."""
        return self._states.get(name, lambda: self._make(name))

    def _make(self, name: str) -> Place:
        place = Place(self.folder / name, tiny(**(TRACKED if name == "tracked" else {})), self.caches)
        done = self._made(name, place)
        wanted = 2 if name == "begun" else 0
        if done.code != wanted:
            raise RuntimeError(f"{name}: {done.code}: {done.last}")
        return place

    def _made(self, name: str, place: Place) -> Done:
        if name == "tracked":
            return run("flows.compare", ARGUMENTS, place, LIMIT)
        if name == "finished":
            return self.warm.run("cl", ARGUMENTS, place, LIMIT)
        # ewc is killed in the search of its second task, icarl in that of its first, which keeps candidates.
        for method, at in (("ewc", 75), ("icarl", 40)):
            flag = place.folder / f"flag-{method}"
            plan = {"role": "run", "at": at, "whom": "self", "flag": str(flag), "under": str(place.out)}
            env = {"FAULTS_KILL": json.dumps(plan), "PYTHONPATH": f"{HOOK}:{REPOSITORY}"}
            done = run("cl", ["--methods", method, "--out", str(place.out)], place, LIMIT, env)
        return done
