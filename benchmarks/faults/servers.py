"""Prefect and MLflow servers that are ill, from the start or in the middle: the run ends in the right bytes.

What is asked of a run: status 0 within `DEADLINE_SECONDS`, the bytes of a run without any server, no traceback, and
nothing left. Cases mostly wait, so several are tried at once.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from benchmarks.faults.case import Kind, Shared, Verdict
from benchmarks.faults.commands import Running
from benchmarks.faults.faulty import ILL, Faulty
from benchmarks.faults.kills import LIMIT
from benchmarks.faults.place import Place, tiny
from benchmarks.faults.results import differences, leftovers, published
from benchmarks.faults.served import free_port, wait_for
from benchmarks.faults.warm import Warm

DEADLINE_SECONDS = 240.0
METHODS = ("finetune", "ewc")
ARGUMENTS = ["--methods", ",".join(METHODS), "--out", "../out"]
TOOLS = ("Prefect", "MLflow")


class Servers(Kind):
    """Servers that are ill."""

    name, least, share, at_once = "servers", 8, 0.16, 4

    def __init__(self, folder: Path, seed: int, warm: Warm, deadline: float = float("inf")) -> None:
        super().__init__(folder, seed, warm, deadline)
        self._well: Shared[tuple[Running, int]] = Shared()
        self._expected: Shared[dict[str, bytes]] = Shared()
        self.order = [(tool, illness, later) for tool in TOOLS for illness in ILL for later in (False, True)]
        self.draw("order").shuffle(self.order)

    def close(self) -> None:
        """End the well servers."""
        self._well.each(lambda made: made[0].end())

    def case(self, number: int) -> Verdict:
        """A whole run with one server that is ill from the start, or falls ill in the middle."""
        tool, illness, later = self.order[number % len(self.order)]
        draw = self.draw(number)
        expected = self._expected.get("undisturbed", self._undisturbed)
        well = self._well.get(tool, lambda: self._start(tool))[1] if later else None
        faulty = Faulty(illness, well)
        with contextlib.closing(faulty):
            params = tiny(tracking={"enabled": tool == "MLflow", "uri": faulty.url if tool == "MLflow" else None})
            place = Place(self.new(number), params, self.caches)
            # Prefect keeps settings and a database in its home, which two runs at once should not share.
            env = {"PREFECT_HOME": str(place.folder / "caches")}
            if tool == "Prefect":
                env["PREFECT_API_URL"] = f"{faulty.url}/api"
            running = Running("flows.compare", ARGUMENTS, place, env)
            when = "from the start"
            if later:
                after = draw.choice([1, 3, 10, 30, 60, 100])
                when = f"after {self._until(running, faulty, after)} packets"
                faulty.fall_ill()
            done = running.wait(LIMIT + DEADLINE_SECONDS)
            faults = done.faults(0) or differences(place.out, expected)
            if done.code != 0:
                faults += [fault for fault in differences(place.out, expected) if "missing" in fault][:1]
            if done.seconds > DEADLINE_SECONDS and not faults:
                faults.append(f"takes {done.seconds:.0f} s, more than {DEADLINE_SECONDS:.0f}")
            faults += running.die(5.0) + leftovers(place.out) + place.strayed()
        what = f"{tool} {illness} {when}: python -m flows.compare {' '.join(ARGUMENTS)} ({done.seconds:.0f} s)"
        return self.judged(number, what, faults)

    def _until(self, running: Running, faulty: Faulty, packets: int) -> int:
        """Wait for so many packets to have gone to the server, or for a run that sends no more."""
        deadline, last, seen = time.monotonic() + LIMIT, time.monotonic(), 0
        while running.process.poll() is None and time.monotonic() < deadline:
            if faulty.requests >= packets or (seen and time.monotonic() - last > 20):
                break
            if faulty.requests > seen:
                seen, last = faulty.requests, time.monotonic()
            time.sleep(0.005)
        return faulty.requests

    def _undisturbed(self) -> dict[str, bytes]:
        place = Place(self.folder / "undisturbed", caches=self.caches)
        done = self.warm.run("cl", ARGUMENTS, place, LIMIT)
        if done.code != 0:
            raise RuntimeError(f"undisturbed: {done.code}: {done.last}")
        return published(place.out)

    def _start(self, tool: str) -> tuple[Running, int]:
        """A well server, and its port."""
        place, port = Place(self.folder / tool, caches=self.caches), free_port()
        if tool == "Prefect":
            env = {"PREFECT_SERVER_API_HOST": "127.0.0.1", "PREFECT_SERVER_API_PORT": str(port)}
            env["PREFECT_HOME"] = str(place.folder / "caches")
            running = Running("prefect", ["server", "start"], place, env)
            url = f"http://127.0.0.1:{port}/api/health"
        else:
            store = f"sqlite:///{place.folder / 'mlflow.db'}"
            command = ["server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
            command += ["--backend-store-uri", store, "--artifacts-destination", str(place.folder / "artifacts")]
            running = Running("mlflow", command, place, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
            url = f"http://127.0.0.1:{port}/health"
        wait_for(url, running, LIMIT)
        return running, port
