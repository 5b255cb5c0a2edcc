"""`python -m benchmarks.faults`: put runs through kills, damaged files, bad inputs and bad servers (docs/faults.md).

Everything is on the embedded digits with tiny settings, in a temporary folder, on loopback addresses, and over when
the time is. The same seed gives the same cases; where a kill hits depends on the machine too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType

from benchmarks.faults.case import Kind, Verdict
from benchmarks.faults.commands import STOPPED, end_marked
from benchmarks.faults.files import Files
from benchmarks.faults.inputs import Inputs
from benchmarks.faults.kills import Kills
from benchmarks.faults.place import MARK
from benchmarks.faults.servers import Servers
from benchmarks.faults.warm import Warm
from cl import cli
from cl.errors import UserError

KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Servers, Inputs, Files, Kills)}
WHOLE_MINUTES = 20.0
"""Of a campaign that has to come to the least numbers of all kinds; a shorter one to as much less."""
SHARED = 0.9
"""Of the time, between the kinds; what is left is for those that have not come to their least."""
SECONDS_BETWEEN_LINES = 60.0
GRACE_SECONDS = 60.0
"""After the end, for cases that are under way; what then still runs is cut off, and counts neither way."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=(__doc__ or "").splitlines()[0])
    made.add_argument(
        "--minutes", type=float, default=WHOLE_MINUTES, help="after so many minutes no further case begins; default: 20"
    )
    made.add_argument("--seed", type=int, default=0, help="of the cases; default: 0")
    made.add_argument("--kinds", default=",".join(KINDS), metavar="A,B", help=f"default: {','.join(KINDS)}")
    made.add_argument("--only", metavar="KIND:NUMBER", help="run only this case, named as in a failure")
    made.add_argument(
        "--least", default="", metavar="KIND=COUNT,...", help="fail where fewer cases than these were tried"
    )
    made.add_argument("--out", type=Path, help="keep the folders of failed cases here; default: none is kept")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of what was tried and what held, and a line for each case that failed."""
    given = parser().parse_args(arguments)
    only = given.only.split(":") if given.only else None
    names = _known([only[0]] if only else given.kinds.split(","))
    least = _least(given.least, given.minutes, names)
    with _folder(given.out) as folder, _everything_ends(), contextlib.closing(Warm()) as warm:
        if only:
            (name,) = names
            kind = KINDS[name](folder, given.seed, warm)
            with contextlib.closing(kind):
                verdicts = {name: [_tried(kind, int(only[1]))]}
            print(verdicts[name][0].what)
            least = {}
        else:
            verdicts = Campaign(folder, given.seed, warm, 60 * given.minutes, least).run(names)
    print(table(verdicts, given.seed, given.minutes))
    failures = list(_failures(verdicts, given.seed, least))
    print("\n".join(failures))
    return 1 if failures else 0


class Campaign:
    """One kind after the other; what of a kind takes long goes on beside the next."""

    def __init__(self, folder: Path, seed: int, warm: Warm, seconds: float, least: dict[str, int]) -> None:
        self.folder, self.seed, self.warm, self.least = folder, seed, warm, least
        self.started, self.seconds = time.monotonic(), seconds
        self.end = self.started + seconds
        self.verdicts: dict[str, list[Verdict]] = {}
        self._running: dict[Future[Verdict], str] = {}
        self._say_at = self.started + SECONDS_BETWEEN_LINES
        self._next: Counter[str] = Counter()
        """The number of each kind's next case."""

    def run(self, names: Sequence[str]) -> dict[str, list[Verdict]]:
        """Each kind for its share of the time, then those that have not come to their least; the verdicts by kind."""
        shares, gone = sum(KINDS[name].share for name in names) / SHARED, 0.0
        threads = ThreadPoolExecutor(sum(KINDS[name].at_once for name in names))
        kinds: list[Kind] = []
        try:
            for name in names:
                gone += KINDS[name].share / shares
                kinds.append(KINDS[name](self.folder, self.seed, self.warm, self.end))
                self._begin(kinds[-1], threads, self.started + gone * self.seconds)
            for kind in kinds:
                self._begin(kind, threads, 0.0, self.least.get(kind.name, 0))
            while self._running and time.monotonic() < self.end + GRACE_SECONDS:
                self._look()
        finally:
            cut = self._cut()
            threads.shutdown()
            for kind in kinds:
                kind.close()
        if cut:
            print(f"{cut} cases were cut off at the end", file=sys.stderr)
        return self.verdicts

    def _cut(self) -> int:
        """End the cases that are under way; they count neither way. Returns how many there were."""
        cut = len(self._running)
        STOPPED.set()
        while not all(future.done() for future in self._running):
            end_marked(os.environ[MARK])
        self._running.clear()
        STOPPED.clear()
        return cut

    def _begin(self, kind: Kind, threads: ThreadPoolExecutor, until: float, least: int = 0) -> None:
        """Begin one case after the other, so many at once as the kind bears; until then, or until enough were tried."""
        judged = self.verdicts.setdefault(kind.name, [])
        while True:
            now, tried = time.monotonic(), sum(verdict.tried for verdict in judged)
            if now > self.end or (now > until and tried >= least):
                return
            if list(self._running.values()).count(kind.name) < kind.at_once:
                self._running[threads.submit(_tried, kind, self._next[kind.name])] = kind.name
                self._next[kind.name] += 1
            else:
                self._look()

    def _look(self) -> None:
        """Take the verdicts of the cases that are through."""
        done = [future for future in self._running if future.done()]
        for future in done:
            name, verdict = self._running.pop(future), future.result()
            self.verdicts[name].append(verdict)
            if verdict.faults:
                print(_line(name, verdict), file=sys.stderr, flush=True)
        if time.monotonic() > self._say_at:
            self._say_at += SECONDS_BETWEEN_LINES
            tried = ", ".join(f"{sum(v.tried for v in judged):,} {name}" for name, judged in self.verdicts.items())
            minutes = (time.monotonic() - self.started) / 60
            print(f"{minutes:.0f} of {self.seconds / 60:.0f} min: tried {tried}", file=sys.stderr, flush=True)
        if not done:
            time.sleep(0.005)


def _tried(kind: Kind, number: int) -> Verdict:
    """The case's verdict; where the campaign itself fails, that is a failure too."""
    try:
        return kind.case(number)
    except Exception as error:
        return Verdict(number, "the campaign itself", (f"{type(error).__name__}: {error}",))


def table(verdicts: dict[str, list[Verdict]], seed: int, minutes: float) -> str:
    """What the page shows."""
    lines = ["| kind | tried | held | failed |", "| :--- | ---: | ---: | ---: |"]
    for name, judged in verdicts.items():
        tried = sum(verdict.tried for verdict in judged)
        failed = sum(bool(verdict.faults) for verdict in judged)
        lines.append(f"| {name} | {tried:,} | {tried - failed:,} | {failed:,} |")
    where = f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}; commit {_commit()}"
    return "\n".join([*lines, "", f"seed {seed}, {minutes:g} minutes; {where}"])


def _failures(verdicts: dict[str, list[Verdict]], seed: int, least: dict[str, int]) -> Iterator[str]:
    for name, judged in verdicts.items():
        for verdict in judged:
            if verdict.faults:
                again = f"python -m benchmarks.faults --seed {seed} --only {name}:{verdict.number}"
                yield f"{_line(name, verdict)}\n    {again}"
        tried = sum(verdict.tried for verdict in judged)
        if tried < least.get(name, 0):
            yield f"{name}: {tried} tried, fewer than {least[name]}; give it more --minutes"


def _line(name: str, verdict: Verdict) -> str:
    return f"FAILED {name}:{verdict.number} {verdict.what}: {'; '.join(verdict.faults)}"


def _known(names: list[str]) -> list[str]:
    for name in names:
        if name not in KINDS:
            raise UserError(f"no kind {name!r}; there are {', '.join(KINDS)}")
    return names


def _least(text: str, minutes: float, names: Sequence[str]) -> dict[str, int]:
    """The least numbers: as given, and by default what twenty minutes have to come to, or as much less."""
    share = min(1.0, minutes / WHOLE_MINUTES)
    counts = {name: int(KINDS[name].least * share) for name in names}
    for part in filter(None, text.split(",")):
        name, _, count = part.partition("=")
        if not count.isdecimal():
            raise UserError(f"--least {text}: has to give counts, as in kills=100,files=300")
        counts[_known([name])[0]] = int(count)
    return counts


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return done.stdout.strip() or "unknown"


@contextlib.contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        yield out.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


@contextlib.contextmanager
def _everything_ends() -> Iterator[None]:
    """Whatever was started carries the campaign's mark, and ends with it, also on Ctrl-C and SIGTERM."""
    mark = f"campaign-{uuid.uuid4().hex}"
    os.environ[MARK] = mark

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    heard = {}
    if threading.current_thread() is threading.main_thread():
        # Also where SIGINT is ignored, as in the background of a shell: what is started here has to hear it.
        for number in (signal.SIGINT, signal.SIGTERM):
            heard[number] = signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise UserError("stopped before the end; everything that was started is ended") from None
    finally:
        end_marked(mark)
        for number, handler in heard.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
