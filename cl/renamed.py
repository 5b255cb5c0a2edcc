"""Names that have changed. The old ones are accepted for one version, with a message that gives the new one."""

from __future__ import annotations

import functools
import sys
from typing import Any

from cl.errors import UserError

KEYS = {
    "execution.gpus_per_unit": "execution.gpus_per_run",
    "scenario.unable": "scenario.unsupported",
    "selection.boot_learning_rates": "selection.first_task_learning_rates",
}
"""Keys of params.yaml, old and new; a key stays in its section."""


@functools.cache
def say(where: str, old: str, new: str) -> None:
    """Tell the user on standard error, once a process."""
    print(f"{where}: {old} is now {new}; the next version will not know the old name", file=sys.stderr, flush=True)


def with_new_keys(tree: dict[str, Any], source: str | None = None) -> dict[str, Any]:
    """A params tree with its old keys renamed; `source`: where it stands, which is said.

    Raises `UserError` where a section has both names of a key.
    """
    renamed = dict(tree)
    for old, new in KEYS.items():
        section, _, key = old.rpartition(".")
        values = renamed.get(section)
        if not isinstance(values, dict) or key not in values:
            continue
        name = new.rpartition(".")[2]
        if name in values:
            raise UserError(
                f"{source or 'params'}: {old} is the old name of {new}, and both are given; leave the old one out"
            )
        if source is not None:
            say(source, old, new)
        renamed[section] = {name if one == key else one: value for one, value in values.items()}
    return renamed
