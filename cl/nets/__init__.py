"""Networks: a backbone shared by all tasks, and one linear head per task."""

from cl.nets.build import build
from cl.nets.multihead import MultiHead

__all__ = ["MultiHead", "build"]
