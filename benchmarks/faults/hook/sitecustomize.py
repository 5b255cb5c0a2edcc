"""Kills a process at a chosen one of its changes to the output folder, where `FAULTS_KILL` asks for that.

Python imports a module of this name at every start, where its folder stands on the path. `FAULTS_KILL` is JSON:
`{"role": "run", "at": 7, "whom": "self", "flag": PATH, "under": FOLDER}`; role is `run`, `trial` or `command`, whom
is `self`, `parent` or `both`. The first process of that role that comes to its `at`-th change under the folder makes
the flag and kills.
"""

import json
import os
import signal
import sys
from typing import Any

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def watch(plan: dict[str, Any]) -> None:
    """Count what this process changes; audit events come before what they announce.

    A run is a fork of the process that this is called in. Its parent is then the command.
    """
    count, here, command = 0, os.getpid(), os.getppid()
    forked = plan["role"] == "run"

    def hear(event: str, given: tuple[Any, ...]) -> None:
        nonlocal count
        if forked and os.getpid() == here:
            return
        path = str(given[0]) if event in CHANGES else ""
        if not path.startswith(plan["under"]) or "studies.log.lock" in path:  # of which there are more than of the rest
            return
        if event == "open" and not (isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        count += 1
        if count != plan["at"]:
            return
        try:
            os.close(os.open(plan["flag"], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return
        if plan["whom"] in ("parent", "both"):
            os.kill(command if forked else os.getppid(), signal.SIGKILL)
        if plan["whom"] in ("self", "both"):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)


if "FAULTS_KILL" in os.environ:
    asked = json.loads(os.environ["FAULTS_KILL"])
    line = " ".join(sys.orig_argv)
    if asked["role"] == ("run" if "cl.forks" in line else "trial" if "multiprocessing" in line else "command"):
        watch(asked)
