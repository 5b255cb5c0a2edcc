"""A finished run's files, put where other programs read them. Needs no torch."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from cl.checkpoint_files import DamagedCheckpoint, is_checkpoint, remove_checkpoint, verify
from cl.data.places import place
from cl.data.prepare import read_manifest
from cl.errors import UserError
from cl.events import Say, warning
from cl.files import make_way, write_bytes
from cl.keys import run_folder
from cl.locks import alone, wait_for
from cl.params import Params
from cl.work import FINISHED, PUBLISHED, DamagedFile, finished, whole


def publish_if_finished(params: Params, run: tuple[str, int], out: Path, say: Say) -> bool:
    """Publish a run that has learned all the prepared tasks before; False where there is work left for a process.

    This needs no torch, so a run in which everything is done takes no time. A fault in one run's files stops no other
    run: the run's own process finds it too, and reports it.
    """
    folder = run_folder(params, *run, out)
    tasks = [task["digest"] for task in read_manifest(place(params, out, run[1]))["tasks"]]
    done = finished(folder)
    if done is None and not os.path.lexists(folder / FINISHED):
        return False
    if done is not None and done.tasks != tasks:
        return False
    try:
        with alone(folder / "lock", _leave_it):
            publish(folder, *run, out, say)
    except DamagedFile as error:
        say(warning(f"{error}: made again"))
        return False
    except (UserError, OSError):  # its process mends it or says why, and waits where another is at work on it
        return False
    return True


def _leave_it() -> None:
    raise BlockingIOError


def publish(folder: Path, method: str, seed: int, out: Path, say: Say) -> None:
    """Put the finished run's files where other programs read them; a file that is there already and right stays.

    The caller holds the run's lock. Foreign files stay too, unless they have the name of one of ours. A damaged file of
    the work folder is restored from its published copy. Raises `DamagedFile` where that is damaged too, and
    `DamagedCheckpoint` for a checkpoint of the work folder.
    """
    target = out / "checkpoints" / method / f"seed-{seed}"
    places = {name: out / "results" / method / f"seed-{seed}{suffix}" for name, suffix in PUBLISHED.items()}
    done = finished(folder)
    if done is None:
        raise DamagedFile(f"{folder / FINISHED}: damaged")

    def warn(message: str) -> None:
        say(warning(message))

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
    """Runs of one method and seed with different params publish to one place, one after the other where possible."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        wait_for(descriptor)
        yield
    finally:
        os.close(descriptor)
