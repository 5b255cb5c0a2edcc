"""The names that a user may give: of methods and benchmarks, and suggestions for a misspelled one."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from cl.errors import shown

PACKAGE = Path(__file__).parent


def names_in(folder: str) -> list[str]:
    """The public module names of a room of this package: one method, or one benchmark, is one file."""
    files = os.listdir(PACKAGE / folder)
    return sorted(name.removesuffix(".py") for name in files if name.endswith(".py") and not name.startswith("_"))


def closest(name: str, known: Iterable[str]) -> str:
    """`did you mean X?` where a known name is near, else the known names."""
    spelled = {_spelling(k): k for k in known}
    near = difflib.get_close_matches(_spelling(name[:100]), spelled, n=1)
    return f"did you mean {spelled[near[0]]!r}?" if near else f"known: {', '.join(spelled.values())}"


def _spelling(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def method_name(name: str) -> str:
    """The canonical name of a method (`mean-IMM` is `mean_imm`).

    Raises `ValueError` where there is no such method.
    """
    known = names_in("methods")
    if _spelling(name) not in known:
        raise ValueError(f"unknown method {shown(name)}; {closest(name, known)}")
    return _spelling(name)
