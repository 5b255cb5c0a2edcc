"""Adds to a wheel what the package needs in an empty folder: params.yaml, the studies and the digits.

pyproject.toml has all the rest. The digits are taken from `.dvc/embedded`, where DVC keeps them, so that a wheel can be
built in a fresh clone, without DVC.
"""

import json
import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
STORE = ROOT / ".dvc" / "embedded" / "files" / "md5"


def of_hash(digest: str) -> Path:
    """Where DVC keeps the file of this hash."""
    return STORE / digest[:2] / digest[2:]


def came_along() -> dict[str, bytes]:
    """The files by their paths below `cl/embedded`; raises `OSError` where one is missing."""
    files = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "studies").glob("*.yaml")}
    files["params.yaml"] = ROOT / "params.yaml"
    (folder,) = re.findall(r"md5: ([0-9a-f]{32}\.dir)", (ROOT / "data.dvc").read_text(encoding="utf-8"))
    for entry in json.loads(of_hash(folder).read_text(encoding="utf-8")):
        files[f"data/{entry['relpath']}"] = of_hash(entry["md5"])
    return {name: path.read_bytes() for name, path in files.items()}


class WithFiles(build_py):
    """Copies the files too, but for an editable install, which uses those of the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for name, content in came_along().items():
            target = Path(self.build_lib, "cl", "embedded", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


setup(cmdclass={"build_py": WithFiles})
