"""Tasks: prepared once into arrays on disk, read back memory-mapped."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl.data.task import Sequence, Split, Task, TaskIds, held, joined, load

__all__ = ["Sequence", "Split", "Task", "TaskIds", "held", "joined", "load"]


def __getattr__(name: str) -> Any:
    """Import the part with tensors only when it is used: preparing data needs no torch, and starts at once."""
    if name not in __all__:
        raise AttributeError(name)
    from cl.data import task

    return getattr(task, name)
