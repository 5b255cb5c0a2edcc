"""How much memory a process takes is its own."""

from __future__ import annotations

import subprocess
import sys

from cl.machine import peak_memory
from tests.cl.small import REPOSITORY

HELD = 2_000_000_000
"""More than importing torch takes."""
STARTER = f"""
import subprocess, sys
held = b"x" * {HELD}
print(subprocess.check_output([sys.executable, "-c", "import cl.machine; print(cl.machine.peak_memory())"], text=True))
"""


def test_not_that_of_the_process_which_started_it() -> None:
    peak = int(subprocess.check_output([sys.executable, "-c", STARTER], text=True, cwd=REPOSITORY))
    assert 5e6 < peak < HELD


def test_it_grows_and_does_not_shrink() -> None:
    before = peak_memory()
    held = bytearray(b"x" * (before + 50_000_000))
    with_it = peak_memory()
    assert with_it >= len(held)
    del held
    assert peak_memory() >= with_it
