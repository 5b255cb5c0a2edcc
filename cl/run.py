"""One run - a method with a seed - as a process of its own: `python -m cl.run ...`.

The same command whoever starts it (the plain runner, a Prefect task, DVC), one torch thread, one line of JSON per
event on standard output. Its folder under `<out>/.work/` is keyed by everything that went in.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl import cli
from cl.data.prepare import read_manifest
from cl.errors import UserError
from cl.files import (
    DamagedCheckpoint,
    is_checkpoint,
    make_way,
    remove_checkpoint,
    sweep,
    to_json,
    verify,
    write_bytes,
)
from cl.keys import adopt, parts_of, run_folder, run_key
from cl.locks import alone, wait_for
from cl.params import Params, read
from cl.work import FINISHED, PUBLISHED, RUN, DamagedFile, finished, tidy, whole

if TYPE_CHECKING:
    import torch

    from cl.selection import Outcome
    from cl.sequence import Learner, Say


def learn(params: Params, method: str, seed: int, out: Path, say: Say, trial_workers: int = 1) -> None:
    """Run the run to its end, from wherever it stands, and publish its results and checkpoints under `out`.

    Waits where another process is at work on the same run. Raises `UserError` for bad input.
    """
    from cl.sequence import Run

    folder = run_folder(params, method, seed, out)
    waiting = {
        "event": "warning",
        "message": f"another process is at work on {method}/seed-{seed} in {folder}; waiting for it",
    }
    with alone(folder / "lock", lambda: say(waiting)), contextlib.ExitStack() as stack:
        sweep(folder, below=True, sure=True)
        pool = None
        if trial_workers > 1:
            try:
                executor = stack.enter_context(
                    ProcessPoolExecutor(
                        trial_workers,
                        mp_context=get_context("spawn"),
                        initializer=_start_searcher,
                        initargs=(params.model_dump(mode="json"), method, seed, str(out)),
                    )
                )
                pool = functools.partial(_submit, executor, str(folder))
            except OSError as error:  # its semaphores are files in /dev/shm
                message = f"trials one after the other, as processes cannot share /dev/shm ({error.strerror})"
                say({"event": "warning", "message": message})
        tidy(folder, lambda message: say({"event": "warning", "message": message}))
        parts = to_json(parts_of(params, method, seed))
        if not (folder / RUN).exists() or (folder / RUN).read_bytes() != parts:
            write_bytes(folder / RUN, parts)
        if params.execution.after_upgrade == "continue" and (count := adopt(params, method, seed, out)):
            message = f"{count} tasks were learned by another version; going on from there"
            say({"event": "warning", "message": message})
        run = Run(learner_of(params, method, seed, out), folder, run_key(params, method, seed), say, pool)
        run.run()
        publish(folder, method, seed, out, say)


def publish_if_finished(params: Params, run: tuple[str, int], out: Path, say: Say) -> bool:
    """Publish a run that has learned all the prepared tasks before; False where there is work left for a process.

    Needs no torch, so a run in which everything is done takes no time. What is wrong with one run's files stops no
    other run: its own process sees it too, and tells.
    """
    folder = run_folder(params, *run, out)
    tasks = [task["digest"] for task in read_manifest(out / "prepared")["tasks"]]
    done = finished(folder)
    if done is None and not os.path.lexists(folder / FINISHED):
        return False
    if done is not None and done.tasks != tasks:
        return False
    try:
        with alone(folder / "lock", _leave_it):
            publish(folder, *run, out, say)
    except DamagedFile as error:
        say({"event": "warning", "message": f"{error}: made again"})
        return False
    except (UserError, OSError):  # its process mends it or says why, and waits where another is at work on it
        return False
    return True


def _leave_it() -> None:
    raise BlockingIOError


def publish(folder: Path, method: str, seed: int, out: Path, say: Say) -> None:
    """Put the finished run's files where other programs read them; what is there already and right stays.

    The run's lock is to be held. What others have put there stays too, but for files of the names of ours. A file of
    the run's that is damaged is put back from there. Raises `DamagedFile` where it is damaged there too, and
    `DamagedCheckpoint` for a checkpoint of the run's.
    """
    target = out / "checkpoints" / method / f"seed-{seed}"
    places = {name: out / "results" / method / f"seed-{seed}{suffix}" for name, suffix in PUBLISHED.items()}
    done = finished(folder)
    if done is None:
        raise DamagedFile(f"{folder / FINISHED}: damaged")

    def warn(message: str) -> None:
        say({"event": "warning", "message": message})

    with _publishing(folder.parent):
        files = {name: whole(folder / name, sha256, places[name], warn) for name, sha256 in done.files.items()}
        for index, sha256 in enumerate(done.manifests):
            source, place = folder / f"task-{index:03d}", target / f"task-{index}"
            if (source / "manifest.json").exists():  # else the checkpoint is lost, which its process says
                whole(source / "manifest.json", sha256, place / "manifest.json", warn)
            saved = verify(source)
            wanted = (source / "manifest.json").read_bytes()
            make_way(place, warn, folder=True)
            if place.exists():
                try:
                    verify(place)
                    if (place / "manifest.json").read_bytes() == wanted:
                        continue
                except DamagedCheckpoint as error:
                    warn(f"{error}: replaced from {source}")
            for name, data in {**saved, "manifest.json": wanted}.items():
                make_way(place / name, warn)
                write_bytes(place / name, data)
        for extra in target.glob("task-*"):
            number = re.fullmatch(r"task-(\d+)", extra.name)
            if number is not None and int(number[1]) >= len(done.manifests) and is_checkpoint(extra):
                remove_checkpoint(extra)
        for name, place in places.items():
            if name not in files:  # what an earlier run cost says nothing of this one
                place.unlink(missing_ok=True)
                continue
            make_way(place, warn)
            if not place.exists() or place.read_bytes() != files[name]:
                write_bytes(place, files[name])


@contextlib.contextmanager
def _publishing(folder: Path) -> Iterator[None]:
    """Runs of one method and seed with other params publish to the same place; one after the other, where possible."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        wait_for(descriptor)
        yield
    finally:
        os.close(descriptor)


def learner_of(params: Params, method: str, seed: int, out: Path) -> Learner:
    """The run's learner on what is prepared under `out`, at the start of the sequence."""
    from cl.data import load
    from cl.sequence import Learner

    device = choose_device(params.execution.device)
    return Learner(params, method, seed, load(out / "prepared", device, params.training.augmentation.crop), device)


def choose_device(name: str) -> torch.device:
    """The device of this name; `auto` is a GPU where there is one. Raises `UserError` where it is not there."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("execution.device: cuda is not available here; use auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


# Trials in processes beside the run's own.

_searcher: Any = None


def _start_searcher(params: dict[str, Any], method: str, seed: int, out: str) -> None:
    global _searcher
    from cl.sequence import Run

    parent = parent_process()
    assert parent is not None
    assert parent.pid is not None
    _die_with(parent.pid)
    _settle()
    checked = Params.model_validate(params)
    _searcher = functools.partial(
        Run.searcher, learner_of(checked, method, seed, Path(out)), run_key(checked, method, seed)
    )


def _search(folder: str, index: int, work: str, arguments: tuple[Any, ...]) -> Outcome:
    outcome: Outcome = getattr(_searcher(Path(folder), index), work)(*arguments)
    return outcome


def _submit(
    executor: ProcessPoolExecutor, folder: str, index: int, work: str, arguments: tuple[Any, ...]
) -> Future[Outcome]:
    return executor.submit(_search, folder, index, work, arguments)


# The process.


def _settle() -> None:
    """One torch thread (more collapse beside other processes), deterministic kernels, and float32 that is float32."""
    import torch

    torch.set_num_threads(1)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if torch.cuda.is_available():  # on one CPU thread all kernels are; the call takes a second to import what it needs
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.allow_tf32 = False  # which torch takes for convolutions by default, with 10 bits of 23


def _die_with(parent: int) -> None:
    """No life after the parent, also where it died before this call."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _say(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run one run; 0 when it is finished, 2 with one readable error where the user can mend it."""
    parser = argparse.ArgumentParser(prog="python -m cl.run", description=main.__doc__)
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trial-workers", type=int, default=1)
    parser.add_argument("--parent", type=int, default=os.getppid(), help="the process to die with")
    given = parser.parse_args(arguments)
    _die_with(given.parent)
    try:
        params = read(given.params, methods=[given.method], seeds=[given.seed])
        read_manifest(given.out / "prepared")
        _settle()
        learn(params, next(iter(params.methods)), given.seed, given.out, _say, given.trial_workers)
    except UserError as error:
        _say({"event": "error", "message": str(error)})
        return 2
    except OSError as error:
        what = f"{error.filename or given.out}: {error.strerror}"
        _say({"event": "error", "message": f"{what}; mend that and run the same command: it goes on from here"})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
