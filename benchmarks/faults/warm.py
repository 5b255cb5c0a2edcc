"""Commands of the campaign in warm interpreters, see `benchmarks.warm`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

from benchmarks import warm
from benchmarks.faults.commands import Done, check_going, end_marked
from benchmarks.faults.place import MARK, Place


class Warm:
    """Some such interpreters, which run the commands of a place."""

    def __init__(self, count: int = 2, modules: Sequence[str] = warm.MODULES) -> None:
        self._interpreters = warm.Warm(count, modules)

    def run(
        self, module: str, arguments: Sequence[str], place: Place, limit: float, env: Mapping[str, str] | None = None
    ) -> Done:
        """As `commands.run`."""
        check_going()
        name = time.monotonic_ns()
        files = [place.folder / f"{name}.{stream}" for stream in ("stdout", "stderr")]
        mark = f"{os.environ.get(MARK, '')}:{place.folder}:"
        environment = {**place.environment(), **(env or {}), MARK: mark}
        started = time.monotonic()
        code = self._interpreters.run(
            module, arguments, folder=place.project, environment=environment, files=files, limit=limit
        )
        seconds = time.monotonic() - started
        if code is None:
            end_marked(f":{place.folder}:")
        stdout, stderr = (file.read_text(encoding="utf-8", errors="replace") for file in files)
        return Done(code, stdout, stderr, seconds)

    def close(self) -> None:
        """End them."""
        self._interpreters.close()
