"""Where a case runs: a project folder and a home of its own, with things of the user's in both that have to stay."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
MARK = "UNFORGETTING_FAULTS"
"""An environment variable by which everything is found that a campaign, or a case of it, has started."""
PLANTED = {
    "thesis.txt": "four years of work\n",
    "photos/2019/beach.txt": "no picture, but the user's\n",
    "results.json": '{"mine": 1}\n',
    "empty/keep": "",
}
TINY: dict[str, Any] = {
    "benchmark": {"name": "permuted-digits", "tasks": 2, "train_per_class": 6, "validation_per_class": 4},
    "model": {"name": "mlp", "hidden": [16]},
    "training": {"epochs": 2, "batch_size": 20, "learning_rate": 0.05},
    "selection": {
        "first_task_learning_rates": [0.1, 0.05],
        "learning_rates": [0.1, 0.05],
        "drop_margin": 0.1,
        "max_attempts": 2,
        "trials": 3,
    },
    "execution": {"workers": 2},
    "tracking": {"enabled": False},
}
"""Settings of seconds, laid over params.yaml."""
QUICK: dict[str, dict[str, Any]] = {
    "ebll": {"code_epochs": 2, "code_sizes": [4], "reconstruction": [0.1]},
    "dgr": {"generator_epochs": 2},
    "packnet": {"retrain_epochs": 1},
}
"""Knobs by which a method trains less."""


def tiny(**sections: dict[str, Any]) -> dict[str, Any]:
    """A whole params file of tiny settings with every method in it, these sections laid over."""
    tree: dict[str, Any] = yaml.load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)
    methods = {**tree["methods"], **tree.pop("others", {})}
    tree["methods"] = {name: {**(knobs or {}), **QUICK.get(name, {})} for name, knobs in methods.items()}
    tree["seeds"] = [0]
    for laid in (TINY, sections):
        for section, values in laid.items():
            tree[section] = {**(tree.get(section) or {}), **values}
    return tree


class Place:
    """The folders of a case. What is outside of `out` is the user's, and is the same afterwards."""

    def __init__(self, folder: Path, params: dict[str, Any] | None = None, caches: Path | None = None) -> None:
        self.folder, self.project, self.home, self.out = (folder, *(folder / name for name in ("p", "home", "out")))
        self.caches = caches or folder / "caches"
        for room in (self.project, self.home):
            for name, text in PLANTED.items():
                (room / name).parent.mkdir(parents=True, exist_ok=True)
                (room / name).write_text(text, encoding="utf-8")
        (self.project / "params.yaml").write_text(
            yaml.dump(params or tiny(), Dumper=yaml.CSafeDumper, sort_keys=False), encoding="utf-8"
        )
        shutil.copytree(REPOSITORY / "data", self.project / "data")
        for room in (folder / "tmp", self.caches):
            room.mkdir(parents=True, exist_ok=True)
        self.before = self.digest()

    def environment(self, **more: str) -> dict[str, str]:
        """Of a command of this case; no server of the user's, and nothing that reports home."""
        ours = ("PREFECT_", "MLFLOW_", "DVC_", "FAULTS_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {
            **clean,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DVC_NO_ANALYTICS": "1",
            "DO_NOT_TRACK": "true",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(REPOSITORY),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "HOME": str(self.home),
            "TMPDIR": str(self.folder / "tmp"),
            "MPLCONFIGDIR": str(self.caches / "matplotlib"),
            "PREFECT_HOME": str(self.caches / "prefect"),
            "XDG_CACHE_HOME": str(self.caches),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            MARK: f"{os.environ.get(MARK, '')}:{self.folder}:",
            **more,
        }

    def digest(self) -> dict[str, str]:
        """Every file and folder of the user's, and what is in it."""
        return {str(path.relative_to(self.folder)): what(path) for path in self._theirs()}

    def _theirs(self) -> Iterator[Path]:
        for room in (self.project, self.home):
            yield from (path for path in room.rglob("*"))

    def strayed(self) -> list[str]:
        """What is gone, changed or new of what is not ours to touch."""
        after = self.digest()
        faults = [f"the user's {name} is gone" for name in self.before if name not in after]
        faults += [f"{name} was written outside the output folder" for name in after if name not in self.before]
        return faults + [
            f"the user's {name} was changed" for name, was in self.before.items() if after.get(name, was) != was
        ]


def what(path: Path) -> str:
    """A file's digest, or that it is a folder, a link or something else."""
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if path.is_dir():
        return "folder"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "special"
