"""Kills at random moments, and the same command again: the bytes are those of a run that nobody disturbed.

A case is a chain: one command, killed again and again, each time anew at a moment of its own, until it is through. Half
of the kills are at a chosen write of a chosen process, from within (`hook/sitecustomize.py`), so that no gap between
two writes is too short to be hit; the others come from outside, at any time, to any of its processes.
"""

from __future__ import annotations

import json
import random
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.case import Kind, Shared, Verdict
from benchmarks.faults.commands import SENTENCE, Done, Running
from benchmarks.faults.place import REPOSITORY, Place, tiny
from benchmarks.faults.results import differences, leftovers, published, untracked
from benchmarks.faults.warm import Warm

HOOK = Path(__file__).parent / "hook"
LIMIT = 240.0
"""Seconds that a run of seconds may take on a busy machine."""
METHODS_A_CHAIN, KILLS_A_CHAIN = 4, 12
OUTSIDE: tuple[tuple[str, int, str], ...] = (
    ("kill -9 of all its processes", signal.SIGKILL, "all"),
    ("kill -9 of the command", signal.SIGKILL, "command"),
    ("kill -9 of a child", signal.SIGKILL, "child"),
    ("SIGTERM to the command", signal.SIGTERM, "command"),
    ("SIGINT to the command", signal.SIGINT, "command"),
    ("Ctrl-C", signal.SIGINT, "group"),
    ("SIGTERM to a child", signal.SIGTERM, "child"),
)


@dataclass(frozen=True)
class Setting:
    """What is run: a scenario, with the selection of hyperparameters or without."""

    name: str
    sections: dict[str, dict[str, Any]]

    @property
    def params(self) -> dict[str, Any]:
        """The whole params file."""
        return tiny(**self.sections)


def settings() -> list[Setting]:
    """The four scenarios, each with the selection on and off; a stream has none."""
    digits = {"name": "split-digits"}
    on, off, pareto = {"enabled": True}, {"enabled": False}, {"strategy": "pareto"}
    return [
        Setting("task", {"selection": on}),
        Setting("class, no selection", {"scenario": {"name": "class"}, "benchmark": digits, "selection": off}),
        Setting("domain", {"scenario": {"name": "domain"}, "selection": on}),
        Setting("online", {"scenario": {"online": True}, "selection": off}),
        Setting("class", {"scenario": {"name": "class"}, "benchmark": digits, "selection": on}),
        Setting("task, no selection", {"benchmark": digits, "selection": off}),
        Setting("task, pareto", {"selection": pareto}),
        Setting("domain, no selection", {"scenario": {"name": "domain"}, "selection": off}),
        Setting("online class", {"scenario": {"name": "class", "online": True}, "benchmark": digits, "selection": off}),
    ]


class Kills(Kind):
    """Chains of kills."""

    name, least, share = "kills", 100, 0.5

    def __init__(self, folder: Path, seed: int, warm: Warm, deadline: float = float("inf")) -> None:
        super().__init__(folder, seed, warm, deadline)
        self.settings = settings()
        self.pace = 4.0
        """Seconds that a run takes, as seen last."""
        self._references: Shared[dict[str, bytes]] = Shared()

    def case(self, number: int) -> Verdict:
        """A chain with four methods; in seven chains all of them have their turn, in sixty-three in every setting."""
        draw = self.draw(number)
        setting = self.settings[number % len(self.settings)]
        methods = self._methods(number, setting)
        # Tracking and the report take most of the time of a small run, so only some chains have them.
        module = "flows.compare" if number % 4 == 2 else "cl"
        if module == "flows.compare":
            setting = Setting(setting.name, {**setting.sections, "tracking": {"enabled": True}})
        workers = draw.choice([1, 2, 2, 8])  # eight for so few runs: trials in processes beside the run's own
        arguments = ["--methods", ",".join(methods), "--out", "../out", "--set", f"execution.workers={workers}"]
        place = Place(self.new(number), setting.params, self.caches)
        expected = self._expected(setting, methods, number)
        chain = Chain(place, module, arguments, draw, len(methods), self)
        faults = chain.kill() + chain.finish(expected)
        said = ", ".join(chain.said) or "no kill"
        what = f"{setting.name}: python -m {module} {' '.join(arguments)}; {said}"
        return self.judged(number, what, faults, chain.kills)

    def _methods(self, number: int, setting: Setting) -> list[str]:
        from cl.names import names_in
        from cl.params import Scenario
        from cl.register import cannot

        names = names_in("methods")
        self.draw("methods").shuffle(names)
        start = METHODS_A_CHAIN * number
        chosen = [names[(start + i) % len(names)] for i in range(METHODS_A_CHAIN)]
        scenario = Scenario.model_validate(setting.sections.get("scenario", {}))
        return [name for name in chosen if cannot(name, scenario) is None] or ["finetune"]

    def _expected(self, setting: Setting, methods: list[str], number: int) -> dict[str, bytes]:
        """The bytes of these methods, learned in this setting without any disturbance, once each in a campaign."""
        files: dict[str, bytes] = {}
        for method in methods:
            files |= self._references.get((setting.name, method), partial(self._undisturbed, setting, method, number))
        return files

    def _undisturbed(self, setting: Setting, method: str, number: int) -> dict[str, bytes]:
        place = Place(self.folder / "undisturbed" / f"{number}-{method}", setting.params)
        learning = ["--params", "params.yaml", "--method", method, "--seed", "0"]
        for module, more in (("flows.prepare", list[str]()), ("cl.run", learning)):
            done = self.warm.run(module, [*more, "--out", "../out"], place, LIMIT)
            if done.code != 0:
                raise RuntimeError(f"undisturbed {method}, {setting.name}: {done.code}: {done.last}")
        return published(place.out)


class Chain:
    """One command, killed and started again until it is through."""

    def __init__(
        self, place: Place, module: str, arguments: list[str], draw: random.Random, runs: int, kind: Kills
    ) -> None:
        self.place, self.module, self.arguments, self.draw, self.kind = place, module, arguments, draw, kind
        self.runs, self.trials = runs, "execution.workers=8" in arguments
        self.kills, self.said = 0, list[str]()

    def kill(self) -> list[str]:
        """Kill it up to twelve times; stops where a run came to its end before. Returns what went wrong."""
        faults: list[str] = []
        for _ in range(KILLS_A_CHAIN):
            if self.kind.over:
                break
            way = self.draw.choice([self._within, self._within, self._outside, self._outside, self._twice])
            new, hit = way()
            faults += new
            if not hit:
                break
            self.kills += 1
        return faults

    def finish(self, expected: dict[str, bytes]) -> list[str]:
        """The same command once more, to its end; what is wrong with what is there then."""
        left = self._left()
        running = self._start()
        done = running.wait(LIMIT)
        if left > 0:
            self.kind.pace = (self.kind.pace + done.seconds / left) / 2
        faults = done.faults(0) or differences(self.place.out, expected)
        faults += leftovers(self.place.out) + running.die(1.0) + self.place.strayed()
        runs = {name.removeprefix("results/").removesuffix(".json") for name in expected if "/seed-0.json" in name}
        if not faults and self.module == "flows.compare":
            tasks = {run: 1 if run.startswith("joint/") else 2 for run in runs}
            faults += untracked(self.place.out / "mlflow" / "mlflow.db", tasks)
        return faults

    def _start(self, **env: str) -> Running:
        return Running(self.module, self.arguments, self.place, env)

    def _within(self) -> tuple[list[str], bool]:
        """A process kills itself, its parent or both at one of its writes."""
        role = self.draw.choice(["run", "run", "run", "trial" if self.trials else "run", "command"])
        whom = self.draw.choice(["self", "both"] if role != "command" else ["self"])
        most = 130 if role == "run" else 12  # a run with two tasks and two learning rates comes to that
        at = self.draw.choice([self.draw.randint(1, most), round(most ** self.draw.random())])
        flag = self.place.folder / f"flag-{self.kills}"
        plan = {"role": role, "at": at, "whom": whom, "flag": str(flag), "under": str(self.place.out)}
        # A path relative to the project would not be recognised in the events.
        given = [str(self.place.out) if part == "../out" else part for part in self.arguments]
        env = {"FAULTS_KILL": json.dumps(plan), "PYTHONPATH": f"{HOOK}:{REPOSITORY}"}
        running = Running(self.module, given, self.place, env)
        done = running.wait(LIMIT)
        if not flag.exists():
            return done.faults(0), False
        self._tell(f"{role} killed{' with its parent' if whom == 'both' else ''} at its write {at}")
        dead = role == "command" or whom == "both"
        return (running.die() if dead else self._one_failed(done)), True

    def _outside(self) -> tuple[list[str], bool]:
        """A signal at any time, to any of its processes."""
        what, number, whom = self.draw.choice(OUTSIDE)
        running = self._start()
        moment = self._moment()
        done = self._until(running, moment)
        if done is not None:
            return done.faults(0), False
        children = running.children()
        pid = self.draw.choice(sorted(children)) if children and whom == "child" else None
        if whom == "child" and pid is None:
            what, whom = f"{what} (itself, having none)", "command"
        begun = bool(running.said)
        self._tell(f"{what} after {moment:.1f} s")
        if whom == "all":
            for child in children:
                running.send(number, child)
        running.send(number, -running.process.pid if whom == "group" else pid)
        if whom == "child":
            # Whichever it was (a run, a trial's process, its keeper): the command tells of it and goes on with others.
            return self._one_failed(running.wait(LIMIT)), True
        faults = running.die()
        if not faults and number != signal.SIGKILL and begun:
            faults = self._stopped(running.wait(1.0))
        return faults, True

    def _twice(self) -> tuple[list[str], bool]:
        """The same command at the same time once more; one of them is killed, the other comes to its end."""
        pair = [self._start(), self._start()]
        moment = self._moment()
        victim, other = self.draw.sample(pair, 2)
        done = self._until(victim, moment)
        if done is None:
            victim.send(signal.SIGKILL)
            victim.process.wait()
            self._tell(f"two at once, kill -9 of one after {moment:.1f} s")
        faults = other.wait(LIMIT).faults(0)
        if done is not None:
            faults += done.faults(0)
        faults += [f"{fault} (two at once)" for fault in victim.die()]
        return faults, done is None

    def _until(self, running: Running, moment: float) -> Done | None:
        """Wait for the moment; where the command ends before, how it ended."""
        deadline = running.started + moment
        while time.monotonic() < deadline:
            if running.process.poll() is not None:
                return running.wait(1.0)
            time.sleep(0.01)
        return None

    def _moment(self) -> float:
        """Some seconds after the start, mostly before the end."""
        return self.draw.uniform(0.2, max(3.0, 0.8 * self.kind.pace * self._left()))

    def _left(self) -> int:
        return self.runs - len(list(self.place.out.glob("results/*/seed-0.json")))

    def _tell(self, what: str) -> None:
        self.said.append(what)

    def _one_failed(self, done: Done) -> list[str]:
        """Where one process of a run was killed the others go on, and the run says what has no result."""
        return done.faults(0, 2)

    def _stopped(self, done: Done) -> list[str]:
        """Stopped by a signal it could hear, it says in a sentence that nothing is lost."""
        if done.traceback:
            return [f"Traceback: {done.traceback}"]
        if done.code == 0 or SENTENCE in done.stderr:
            return []
        return [f"ends with {done.code} and without the sentence: {done.last!r}"]
