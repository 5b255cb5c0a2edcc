"""Standard input, output and error, which may have any encoding, be closed or full, or have no reader."""

from __future__ import annotations

import io
import os
import select
import sys

READER_GONE = 141
"""What a shell shows of a program that nobody listened to any more (128 + SIGPIPE)."""


def settle() -> None:
    """Make sure that each of the three is open, and that any character can be printed.

    One that the encoding lacks is shown by its number. A closed one leads nowhere from now on: the next file that is
    opened would get its number, and what children print would be written into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, so this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process runs
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def fault(ended_with: OSError | None = None) -> OSError | None:
    """Why standard output or error does not take what was printed; None if it does. A failing one then leads nowhere.

    `ended_with`: the error that ended the command, which may as well be of another pipe.
    """
    first = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
            if isinstance(ended_with, BrokenPipeError) and _nobody_reads(stream.fileno()):
                raise ended_with
        except OSError as error:
            first = first or error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())  # or Python would complain once more when it ends
            os.close(nowhere)
    return first


def _nobody_reads(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
