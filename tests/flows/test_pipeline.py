"""The pipeline by the real DVC, in a clone of the working tree: what runs again after a change, and what does not."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import sources
from tests.flows.conftest import LONGER, REPOSITORY, SECONDS, SMALL, Started, environment, learned, published

METHODS = ("finetune", "ewc")


class Clone:
    """A fresh clone of the working tree as it is, with settings of seconds."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.root = folder / "clone"
        self.out = self.root / "out"
        self._env = {"DVC_SITE_CACHE_DIR": str(folder / "site"), "HOME": str(folder)}
        origin = folder / "origin"
        if shutil.which("git") is None:
            pytest.skip("needs git")
        for name in sources():
            if name != "dvc.lock":  # no record of earlier runs
                (origin / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / name, origin / name)
        self.git("init", "--quiet", cwd=origin)
        self.git("add", "--all", cwd=origin)
        who = ("-c", "user.name=a tester", "-c", "user.email=tester@localhost")
        self.git(*who, "commit", "--quiet", "--message", "as it is", cwd=origin)
        self.git("clone", "--quiet", str(origin), str(self.root), cwd=folder)
        tree = yaml.safe_load((self.root / "params.yaml").read_text())
        tree["methods"] = {name: tree["methods"][name] for name in METHODS}
        tree["seeds"] = [0]
        self.write(tree)
        for override in (*SMALL, *overrides):
            self.set(override)

    def git(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True)

    def write(self, tree: dict[str, Any]) -> None:
        (self.root / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))

    def set(self, override: str) -> None:
        """Change a key of params.yaml."""
        tree = yaml.safe_load((self.root / "params.yaml").read_text())
        key, _, value = override.partition("=")
        *parents, leaf = key.split(".")
        section = tree
        for parent in parents:
            section = section[parent]
        section[leaf] = yaml.safe_load(value)
        self.write(tree)

    def command(self, *arguments: str) -> list[str]:
        return [
            "env",
            *(f"{name}={value}" for name, value in self._env.items()),
            sys.executable,
            "-m",
            "dvc",
            *arguments,
        ]

    def dvc(self, *arguments: str) -> str:
        """The command's output; it has to end well."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


def stages(output: str) -> list[str]:
    """The stages that `dvc repro` ran, sorted."""
    return sorted(re.findall(r"Running stage '([^']+)'", output))


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


TRAIN = [f"train@{method}" for method in sorted(METHODS)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clone, str]:
    """Pulled offline and reproduced once; and what that said."""
    made = Clone(tmp_path_factory.mktemp("pipeline"))
    made.dvc("pull", "-r", "embedded", "data.dvc")
    assert (made.root / "data/digits/digits.csv.gz").exists()
    return made, made.dvc("repro")


def test_the_first_time_everything_runs_and_then_nothing(clone: tuple[Clone, str]) -> None:
    made, said = clone
    assert stages(said) == ["features", "prepare", "report", *TRAIN]
    assert learned(said) == sorted((f"{method}/seed-0", f"{k}/2") for method in METHODS for k in (1, 2))
    before = files(made.out)
    again = made.dvc("repro")
    assert stages(again) == []
    assert "up to date" in again
    assert files(made.out) == before
    changed = made.git("status", "--porcelain", cwd=made.root).stdout.split()
    assert changed == ["M", "params.yaml", "??", "dvc.lock"], "what is made is ignored by git, but for DVC's record"


def test_metrics_and_plots_without_a_network(clone: tuple[Clone, str]) -> None:
    made, _ = clone
    metrics = json.loads(made.dvc("metrics", "show", "--json"))
    shown = metrics[""]["data"]
    assert set(shown) == {f"out/report/dvc/{method}.json" for method in METHODS}
    summary = json.loads((made.out / "report/summary.json").read_bytes())
    accuracy = {method: shown[f"out/report/dvc/{method}.json"]["data"]["accuracy"] for method in METHODS}
    assert accuracy == {method: pytest.approx(summary[method]["average_accuracy"], abs=1e-4) for method in METHODS}
    table = made.dvc("metrics", "show").splitlines()
    assert max(map(len, table)) <= 80
    assert len(table) == 1 + len(METHODS)
    page = Path(made.dvc("plots", "show").strip().splitlines()[-1].removeprefix("file://"))
    wanted = addresses(page.read_text())
    assert len(wanted) >= 3, "the scripts that draw"
    for address in wanted:
        assert "//" not in address, "of another machine"
        assert (page.parent / address).is_file(), address
    assert '"method"' in page.read_text()
    assert all(method in page.read_text() for method in METHODS)


def addresses(page: str) -> list[str]:
    """What a page fetches."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            loads = {"src"} | ({"href"} if tag == "link" else set())
            found.extend(value for name, value in attributes if name in loads and value)

    Reader().feed(page)
    return found


def test_a_knob_concerns_its_method_alone_and_back_again_nobody(clone: tuple[Clone, str]) -> None:
    made, _ = clone
    before = files(made.out)
    made.set("methods.ewc.strength=50.0")
    changed = made.dvc("repro")
    assert stages(changed) == ["report", "train@ewc"]
    assert {run for run, _ in learned(changed)} == {"ewc/seed-0"}
    assert published(made.out)["results/ewc/seed-0.json"] != before["results/ewc/seed-0.json"]
    made.set("methods.ewc.strength=400.0")
    back = made.dvc("repro")
    assert stages(back) == []
    assert back.count("is cached - skipping run") == 2
    results = {name: data for name, data in files(made.out).items() if name in before and not name.startswith(".work")}
    assert results == {name: data for name, data in before.items() if not name.startswith(".work")}


@pytest.mark.slow
def test_a_grid_concerns_the_training_and_not_the_preparation(clone: tuple[Clone, str]) -> None:
    made, _ = clone
    made.set("selection.learning_rates=[0.05]")
    try:
        assert stages(made.dvc("repro")) == ["report", *TRAIN]
    finally:
        made.set("selection.learning_rates=[0.1]")
    assert stages(made.dvc("repro")) == []


@pytest.mark.slow
def test_where_nothing_is_drawn_from_settings_nothing_runs(clone: tuple[Clone, str]) -> None:
    """How wide to run, and tracking, change no number."""
    made, _ = clone
    made.set("execution.workers=1")
    assert stages(made.dvc("repro")) == []
    made.set("execution.workers=2")


@pytest.mark.slow
# In this order: what DVC made includes the work in `out/.work`, which the other two come back from.
@pytest.mark.parametrize("lost", ["DVC's memory", "all but the work", "everything DVC made"])
def test_what_is_deleted_comes_back_without_training(lost: str, clone: tuple[Clone, str]) -> None:
    made, _ = clone
    before = published(made.out)
    for place in {
        "everything DVC made": [made.out],
        "DVC's memory": [made.root / "dvc.lock", made.root / ".dvc/cache/runs"],
        "all but the work": [made.root / "dvc.lock", made.root / ".dvc/cache/runs", made.out / "results"],
    }[lost]:
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert not learned(made.dvc("repro"))
    assert published(made.out) == before
    assert stages(made.dvc("repro")) == []


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["dvc alone", "dvc and its children"])
def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(whom: str, tmp_path: Path) -> None:
    made = Clone(tmp_path, *LONGER, "seeds=[0, 1]")
    made.dvc("pull", "-r", "embedded", "data.dvc")
    moments: dict[str, Callable[[str], object]] = {
        "preparing": lambda said: "Running stage 'prepare'" in said,
        "a first task": learned,
        "the second method": lambda said: any(run.startswith("ewc") for run, _ in learned(said)),
    }
    if whom == "dvc alone":  # its stage notices, and ends
        moments = {"a first task": learned}
    for moment, reached in moments.items():
        with Started(made.command("repro"), tmp_path, cwd=made.root) as started:
            started.wait_for(lambda: reached(started.stdout), moment)  # noqa: B023 - waited for at once
            (os.kill if whom == "dvc alone" else os.killpg)(started.process.pid, signal.SIGKILL)
            started.process.wait()
            if whom == "dvc alone":
                started.dies_with_children()
                assert "the same command goes on from here" in started.stderr
    said = made.dvc("repro")
    assert len(learned(said)) < 8
    assert not [path for path in made.out.rglob("*") if path.name.endswith(".part") or path.name.startswith("params-")]
    assert stages(made.dvc("repro")) == []
    killed = published(made.out)
    shutil.rmtree(made.out)
    shutil.rmtree(made.root / ".dvc/cache/runs")
    (made.root / "dvc.lock").unlink()
    fresh = made.dvc("repro")
    assert len(learned(fresh)) == 8
    assert published(made.out) == killed


@pytest.mark.slow
def test_without_the_data_it_says_how_to_get_them(tmp_path: Path) -> None:
    made = Clone(tmp_path)
    done = subprocess.run(
        made.command("repro"), cwd=made.root, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    assert "data" in done.stderr
