"""What comes with the package besides code: `params.yaml`, the studies and the digits.

In a checkout these are its own files. An installed package has copies of them in `cl/embedded`, where setup.py puts
them, so that `unforgetting run` works in an empty folder.
"""

from __future__ import annotations

from pathlib import Path

from cl.names import PACKAGE
from cl.paths import option

COPIES = PACKAGE / "embedded"
PARAMS = "params.yaml"
OPTION_HELP = "the params file, or one of those that come with the package; default: params.yaml"


def root() -> Path:
    """The folder that holds `params.yaml`, `studies` and `data` as they came with the package."""
    return COPIES if COPIES.is_dir() else PACKAGE.parent


def found(path: Path) -> Path:
    """The file itself or, where there is none, the one of this relative path that came with the package, if any."""
    ours = root() / path
    return ours if not path.exists() and not path.is_absolute() and ours.is_file() else path


def params_file(text: str) -> Path:
    """What the option `--params` gives; raises `UserError`."""
    return found(option("--params")(text))


def studies() -> list[Path]:
    """The params files of the studies that came with the package, by name."""
    return sorted((root() / "studies").glob("*.yaml"))
