"""What the user typed to start a command, so that help, errors and next steps name commands in the same way."""

from __future__ import annotations

called_as: dict[str, str] = {}
"""By module, the command to type instead of `python -m MODULE`; the first is the one that was typed."""


def program(module: str) -> str:
    """How the command of this module is started, as the user started this one."""
    return called_as.get(module, f"python -m {module}")
