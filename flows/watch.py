"""Learn a new task as soon as its folder has arrived: `python -m flows.watch FOLDER`.

A folder is new if some run has no result with it. It has arrived once nothing in it has changed for a while; what was
seen of it and since when is kept in `<out>/.work/arrivals.json`, so that a restart goes on waiting. What has arrived is
learned by the same comparison as before, with the new tasks behind the old ones, so that only they are learned. Where
that fails, it is noted there too, and not tried again before something changes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl import cli
from cl.called import program
from cl.data.benchmarks.folder import task_folders
from cl.data.places import prepared
from cl.data.prepare import digest, read_manifest
from cl.data.source import state_of
from cl.errors import Stopped, UserError
from cl.files import read_object, write_json
from cl.locks import alone
from cl.params import Params
from cl.paths import option
from cl.pool import check_out, runs_of
from cl.register import checked
from flows.compare import compare
from flows.deadline import finish
from flows.engine.plain import Engine
from flows.engine.with_prefect import configured_engine
from flows.naming import named
from flows.notify import is_url, post

WEBHOOK = "UNFORGETTING_WEBHOOK"
"""Of the environment: the URL, which a list of processes does not show then."""
MOST_SECONDS = 7 * 24 * 3600.0
CHANGES_NO_NUMBER = {"execution", "tracking", "report"}


@dataclass
class Watch:
    """A folder of tasks, and the comparison that learns them."""

    params: Params
    root: Path
    out: Path
    engine: Engine
    still: float
    """Seconds for which a folder has to stay as it is."""
    webhook: str | None = None

    @property
    def record(self) -> Path:
        """What was seen: by task, its state and since when; and the last failure."""
        return self.out / ".work" / "arrivals.json"

    def look(self, now: float) -> bool:
        """Look once, at this time in seconds, and learn what has arrived; returns whether something was learned."""
        folders = task_folders(self.root)
        old = self._order()
        new = [name for name in folders if name not in self._learned()]
        states = {name: state for name in new if (state := state_below(self.root / folders[name])) is not None}
        noted = read_object(self.record)
        seen = self._seen(states, noted.get("seen") or {}, now)
        if seen != noted.get("seen"):
            self.record.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.record, {**noted, "seen": seen})
        arrived = [name for name in states if now - seen[name]["since"] >= self.still]
        order = [*old, *(name for name in arrived if name not in old)]
        if not arrived or any(name in old and name not in arrived for name in new):
            return False
        attempt = digest([order, [states[name] for name in arrived], self._settings()])
        if noted.get("failed") == attempt:
            return False
        try:
            said = self._learn(order, arrived, set(folders))
        except Stopped as error:  # by a limit of time; the next look goes on
            self.engine.say(f"watch: {error}")
            return False
        except UserError as error:
            write_json(self.record, {"seen": seen, "failed": attempt})
            self.engine.say(f"watch: {', '.join(arrived)}: {error}")
            self.engine.say(f"watch: not started again before something changes, or {self.record} is removed")
            self._tell(arrived, "Failed", str(error))
            return False
        self._tell(arrived, "Completed", said)
        return True

    def _seen(self, states: dict[str, str], before: dict[str, Any], now: float) -> dict[str, Any]:
        """By task, its state and since when it is so; says what it sees for the first time."""
        seen = {}
        for name, state in states.items():
            known = before.get(name)
            same = known is not None and known["state"] == state and known["since"] <= now
            seen[name] = known if same else {"state": state, "since": now}
            if known is None:
                self.engine.say(f"watch: {name} is new; it is learned once it has not changed for {self.still:g} s")
        return seen

    def _learn(self, order: list[str], arrived: list[str], there: set[str]) -> str:
        if gone := [name for name in order if name not in there]:
            raise UserError(
                f"{self.root}: {', '.join(gone)} is no longer there, so everything would be learned anew; put it back"
            )
        own = self.params.benchmark.model_copy(update={"order": order, "tasks": None})
        params = self.params.model_copy(update={"benchmark": own})
        self.engine.say(f"watch: learns {', '.join(arrived)}")
        name, tags = named(params, self.params, self.out)
        run = f"{name}; new: {', '.join(arrived)}"
        return self.engine.flow("add-task", run, tags, lambda: compare(params, self.out, self.engine))

    def _order(self) -> list[str]:
        """The tasks of the last comparison, in their order; empty before the first."""
        folder = prepared(self.params, self.out, self.params.seeds[0])
        return [task["name"] for task in read_manifest(folder)["tasks"]] if (folder / "manifest.json").exists() else []

    def _learned(self) -> set[str]:
        """The tasks that the results of all runs have."""
        files = [self.out / "results" / run.method / f"seed-{run.seed}.json" for run in runs_of(self.params)]
        return set.intersection(*(set(read_object(file).get("tasks") or ()) for file in files))

    def _settings(self) -> dict[str, Any]:
        return self.params.model_dump(mode="json", exclude=CHANGES_NO_NUMBER)

    def _tell(self, arrived: list[str], state: str, message: str) -> None:
        if self.webhook is None:
            return
        page = (self.out / "report" / "index.html").resolve()
        body = {"run": f"add-task: {', '.join(arrived)}", "state": state, "message": message, "url": page.as_uri()}
        try:
            post(self.webhook, body)
        except ConnectionError as error:
            self.engine.say(f"watch: warning: the webhook was not called: {error}")


def state_below(folder: Path) -> str | None:
    """What changes when anything below the folder does, the bytes of a file that grows included; None without files."""
    found, files = [], 0
    try:
        for place, below, names in os.walk(folder):
            below.sort()
            found += [(os.path.relpath(path, folder), state_of(path)) for path in [place]]
            found += [(name, state_of(os.path.join(place, name))) for name in sorted(names)]
            files += len(names)
    except FileNotFoundError:  # moved away while it was read; the next look sees what is left
        return None
    return digest(found) if files else None


def seconds(text: str) -> float:
    """A duration as it is given; raises `ArgumentTypeError`."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0, and at most a week")
    return value


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = cli.parser("flows.watch", main.__doc__)
    made.add_argument("folder", type=option("FOLDER"), metavar="FOLDER", help="holds a folder for each task")
    made.add_argument(
        "--still",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="a folder has arrived once nothing in it has changed for so long; default: %(default)g",
    )
    made.add_argument(
        "--every", type=seconds, default=10.0, metavar="SECONDS", help="how often to look; default: %(default)g"
    )
    made.add_argument("--once", action="store_true", help="look once and end, for cron and the like")
    made.add_argument(
        "--webhook",
        default=os.environ.get(WEBHOOK) or None,
        metavar="URL",
        help=f"POST what came of it to this URL; default: {WEBHOOK} of the environment",
    )
    return made


def watched(given: argparse.Namespace) -> Watch:
    """What the options ask for; raises `UserError`."""
    if given.webhook is not None and not is_url(given.webhook):
        raise UserError("--webhook: has to begin with http:// or https:// and the name of a host")
    own = ["champion.register_best=true"]  # unless the user sets it
    given.overrides = [*own, *given.overrides, "benchmark.name=folder", f"benchmark.path={given.folder}"]
    params = cli.params_of(given)
    if params.benchmark.order is not None or params.benchmark.tasks is not None:
        raise UserError("benchmark.order and benchmark.tasks: tasks are learned as they arrive; leave both null")
    check_out(given.out, params.benchmark)
    return Watch(checked(params), given.folder, given.out, configured_engine(), given.still, given.webhook)


def main() -> int:
    """Learn each new task whose folder arrives, and let the new model challenge the champion."""
    given = parser().parse_args()
    watch = watched(given)

    def busy() -> None:
        raise UserError(f"{given.out}: another `{program('flows.watch')}` is at work there; one is enough")

    with alone(given.out / ".work" / "watch.lock", busy, leave=False):
        watch.engine.say(f"watch: {watch.root}, for tasks that {watch.out} has not learned")
        _go_on(watch, None if given.once else given.every)
    return 0


def _go_on(watch: Watch, every: float | None, clock: Callable[[], float] = time.time) -> None:
    """Look, and again after so many seconds; with None once. A folder that cannot be read may come back."""
    trouble = ""
    while True:
        try:
            if not watch.look(clock()) and every is None:
                watch.engine.say("watch: no task to learn now")
            trouble = ""
        except UserError as error:
            if every is None:
                raise
            if str(error) != trouble:
                trouble = str(error)
                watch.engine.say(f"watch: {trouble}")
        if every is None:
            return
        time.sleep(every)


if __name__ == "__main__":
    finish(cli.guarded(main))
