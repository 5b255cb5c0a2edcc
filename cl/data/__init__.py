"""Tasks: prepared once into arrays on disk, read back memory-mapped."""

from cl.data.task import Sequence, Split, Task, joined, load

__all__ = ["Sequence", "Split", "Task", "joined", "load"]
