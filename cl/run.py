"""One run - a method with a seed - as a process of its own: `python -m cl.run ...`.

The command is the same whoever starts it (the plain runner, a Prefect task, DVC). It uses one torch thread and prints
one line of JSON per event. Its folder under `<out>/.work/` is keyed by everything that went in.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import os
import signal
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl import cli
from cl.data.features import numbers
from cl.data.places import place
from cl.data.prepare import read_manifest
from cl.errors import UserError, count
from cl.events import Event, Say, error, line_of, warning
from cl.files import sweep, to_json, write_bytes
from cl.gpu import take_share
from cl.keys import adopt, parts_of, run_folder, run_key, shared_folder
from cl.locks import alone
from cl.machine import choose_device
from cl.params import Params, read
from cl.publish import publish
from cl.work import RUN, tidy

if TYPE_CHECKING:
    from cl.learner import Learner
    from cl.protocol import Pool
    from cl.selection import Outcome
    from cl.trials import Job, Trials

FILES = 65536


def learn(params: Params, method: str, seed: int, out: Path, say: Say, trial_workers: int = 1) -> None:
    """Learn what the run has not learned yet, and publish its results and checkpoints under `out`.

    Waits while another process works on the same run. Raises `UserError` for bad input.
    """
    from cl.resume import Run

    folder = run_folder(params, method, seed, out)
    waiting = warning(f"another process is at work on {method}/seed-{seed} in {folder}; waiting for it")
    with alone(folder / "lock", lambda: say(waiting)), contextlib.ExitStack() as stack:
        sweep(folder, below=True, sure=True)
        pool: Pool | None = None
        if trial_workers > 1:
            try:
                executor = stack.enter_context(
                    ProcessPoolExecutor(
                        trial_workers,
                        mp_context=get_context("spawn"),
                        initializer=_start_trials,
                        initargs=(params.model_dump(mode="json"), method, seed, str(out), str(folder)),
                    )
                )
                pool = functools.partial(_submit, executor)
            except OSError as error:  # its semaphores are files in /dev/shm
                say(warning(f"trials run one after the other: processes cannot share /dev/shm ({error.strerror})"))
        tidy(folder, lambda message: say(warning(message)))
        parts = to_json(parts_of(params, method, seed))
        if not (folder / RUN).exists() or (folder / RUN).read_bytes() != parts:
            write_bytes(folder / RUN, parts)
        if params.execution.after_upgrade == "continue" and (taken := adopt(params, method, seed, out)):
            say(warning(f"another version has learned {count(taken, 'task')}; going on from there"))
        key, shared = run_key(params, method, seed), shared_folder(out)
        run = Run(learner_of(params, method, seed, out), folder, key, say, pool, shared)
        run.run()
        publish(folder, method, seed, out, say)


def learner_of(params: Params, method: str, seed: int, out: Path) -> Learner:
    """The run's learner on what is prepared under `out`, at the start of the sequence."""
    from cl.data import load
    from cl.learner import Learner

    device = choose_device(params.execution.device)
    take_share(params, device)
    tasks = load(place(params, out, seed), device, params.training.augmentation.crop, numbers(params))
    return Learner(params, method, seed, tasks, device)


# Trials in processes beside the run's own.

_trials: Trials | None = None


def _start_trials(params: dict[str, Any], method: str, seed: int, out: str, folder: str) -> None:
    global _trials
    from cl.trials import Trials

    parent = parent_process()
    assert parent is not None
    assert parent.pid is not None
    _die_with(parent.pid)
    _settle()
    checked = Params.model_validate(params)
    learner = learner_of(checked, method, seed, Path(out))
    _trials = Trials(learner, Path(folder), run_key(checked, method, seed), shared_folder(Path(out)))


def _submit(executor: ProcessPoolExecutor, job: Job) -> Future[tuple[Outcome, float]]:
    return executor.submit(_run_trial, job)


def _run_trial(job: Job) -> tuple[Outcome, float]:
    """The outcome, and what it cost in processor time, in seconds."""
    assert _trials is not None
    started = time.process_time()
    _trials.go_to(job.index)
    outcome = job.run(_trials)
    return outcome, time.process_time() - started + sum(one.processor for one in _trials.borrowed())


# The process.


def _settle() -> None:
    """One torch thread (more collapse beside other processes), deterministic kernels, and float32 that is float32."""
    import torch

    torch.set_num_threads(1)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if torch.cuda.is_available():  # on one CPU thread all kernels are; the call takes a second to import what it needs
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.allow_tf32 = False  # which torch takes for convolutions by default, with 10 bits of 23
    open_many_files()


def open_many_files() -> None:
    """Raise the limit of open files as far as the system allows, up to `FILES`: each memory-mapped array is one."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _die_with(parent: int) -> None:
    """End with the parent, even if it died before this call."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _say(event: Event) -> None:
    print(line_of(event), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Execute one run; ends with status 0 when it is finished, and 2 with one line for an error the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m cl.run", description=main.__doc__)
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trial-workers", type=int, default=1)
    parser.add_argument("--parent", type=int, default=os.getppid(), help="the process with whose end this one ends")
    given = parser.parse_args(arguments)
    _die_with(given.parent)
    with contextlib.suppress(OSError):  # what `top` shows; a fork has the command line of the process it comes from
        Path("/proc/self/comm").write_text(f"{given.method}/{given.seed}"[:15], encoding="utf-8")
    try:
        params = read(given.params, methods=[given.method], seeds=[given.seed])
        read_manifest(place(params, given.out, given.seed))
        _settle()
        learn(params, next(iter(params.methods)), given.seed, given.out, _say, given.trial_workers)
    except UserError as fault:
        _say(error(str(fault)))
        return 2
    except OSError as fault:
        what = f"{fault.filename or given.out}: {fault.strerror}"
        _say(error(f"{what}; mend that and run the same command: it goes on from here"))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
