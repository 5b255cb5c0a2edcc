"""What every test runs under: one thread a process, no telemetry, and one small prepared benchmark a session."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

os.environ.update(
    {
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
)

# `make test` and a git hook pass these on. A test's own make and git would take them as theirs.
for name in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
    os.environ.pop(name, None)

# What is started in the background of a shell ignores these, and so would the commands of the tests.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

REPOSITORY = Path(__file__).parents[1]
RAW = REPOSITORY / "data"


def sources() -> list[str]:
    """The files of the working tree, less what .gitignore names; also where there is no git to list them."""
    if (REPOSITORY / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, encoding="utf-8", check=True).stdout
        names = filter(None, listed.split("\0"))
    else:
        names = _walk(REPOSITORY, ())
    return sorted(name for name in names if (REPOSITORY / name).is_file())  # git lists what was deleted too


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[str]:
    ignored = folder / ".gitignore"
    own = ignored.read_text(encoding="utf-8").split() if ignored.exists() else []
    below = (*above, *(rule.rstrip("/") for rule in own if not rule.startswith("/")))
    rules = (*below, *(rule.strip("/") for rule in own if rule.startswith("/")))
    for path in folder.iterdir():
        if path.name == ".git" or any(fnmatch(path.name, rule) for rule in rules):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, below)
        else:
            yield path.relative_to(REPOSITORY).as_posix()


@pytest.fixture(scope="module", autouse=True)
def little_to_collect() -> None:
    """A module's garbage collections leave out the objects from before it. There are millions of them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_power_cut() -> Iterator[None]:
    """No test pulls the plug. Optuna waits for the disk after each line of its journal, 5 ms and more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Permuted digits with ten training images a class, prepared as two tasks and as three."""
    from cl.data.prepare import prepare
    from cl.params import Benchmark

    folder = tmp_path_factory.mktemp("benchmark")
    for tasks in (2, 3):
        options = Benchmark(name="permuted-digits", tasks=tasks, train_per_class=10)
        prepare(options, RAW, folder / f"tasks-{tasks}", say=lambda line: None)
    return {tasks: folder / f"tasks-{tasks}" for tasks in (2, 3)}


def pytest_unconfigure() -> None:
    """The interpreter collects everything at its end. Libraries complain of what is left."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that open a browser are skipped, and say so, where there is none."""
    browsers = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    if any(browsers) and shutil.which("chromedriver"):
        return
    missing = pytest.mark.skip(reason="no Chromium with its driver on the path (Debian: chromium chromium-driver)")
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(missing)
