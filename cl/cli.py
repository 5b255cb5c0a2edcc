"""The command line that `python -m cl` and `python -m flows.compare` share."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import difflib
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from cl import embedded, streams
from cl.called import program
from cl.errors import TRY_AGAIN, Stopped, UserError, brief
from cl.literal import NUMBER, WHOLE
from cl.names import names_in
from cl.overlay import spelled_methods
from cl.params import Params, read
from cl.paths import option
from cl.redact import without_password

RAW = Path("data")


class Parser(argparse.ArgumentParser):
    """Suggests the option that was meant, where there is none as it was typed."""

    def error(self, message: str) -> NoReturn:
        """End with status 2, after the usage and the message."""
        known = [option for option in self._option_string_actions if option.startswith("--")]
        _, unrecognized, words = message.partition("unrecognized arguments: ")
        typed = [word.partition("=")[0] for word in words.split() if word.startswith("--")] if unrecognized else []
        near = [found for word in typed for found in difflib.get_close_matches(word, known, n=1)]
        super().error(f"{message}; did you mean {' '.join(near)}?" if near else message)


def parser(module: str, description: str | None, *, trains: bool = False) -> argparse.ArgumentParser:
    """The options of a whole comparison; of a command that `trains` also its limit of time."""
    made = Parser(prog=program(module), description=description)
    made.add_argument(
        "--params", type=embedded.params_file, default=embedded.PARAMS, metavar="FILE", help=embedded.OPTION_HELP
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        dest="overrides",
        help="set a key of the params: text and numbers as they stand, lists as [a, b]; can be given several times",
    )
    made.add_argument(
        "--methods",
        metavar="A,B",
        help="the methods, or all: every method that the scenario allows; default: those of the params file",
    )
    made.add_argument("--seeds", metavar="0,1", help="the seeds of every method; default: those of the params file")
    made.add_argument(
        "--out",
        type=option("--out"),
        default=Path("out"),
        metavar="FOLDER",
        help="the output folder; default: %(default)s",
    )
    if trains:
        made.add_argument(
            "--minutes",
            metavar="N",
            help="stop after so many minutes, with status 75; the same command goes on; default: execution.minutes",
        )
    return made


def params_of(given: argparse.Namespace) -> Params:
    """The checked params of the given options; raises `UserError`."""
    methods = listed("--methods", given.methods)
    overrides = list(given.overrides)
    if methods == ["all"]:
        methods = names_in("methods")
        overrides.insert(0, "scenario.unsupported=leave-out")
    if (minutes := getattr(given, "minutes", None)) is not None:
        overrides.append(f"execution.minutes={minutes_of(minutes)}")
    return read(given.params, overrides, methods, seeds_of(given.seeds))


def methods_of(text: str | None) -> list[str]:
    """The methods that `--methods` names, or without that option every method; raises `UserError`."""
    named = listed("--methods", text)
    return names_in("methods") if named is None or named == ["all"] else spelled_methods(named)


def positive(text: str) -> int:
    """A whole number of at least 1. Raises `ValueError`, which argparse turns into its own message."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def minutes_of(text: str) -> str:
    """What `--minutes` gives: a number above 0, or null for no limit; raises `UserError`."""
    known = text == "null" or (NUMBER.fullmatch(text) and text[-1:].isdecimal() and 0 < float(text) < math.inf)
    if not known:
        raise UserError(f"--minutes {brief(text)}: has to be a number of minutes above 0, or null for no limit")
    return text


def seeds_of(text: str | None) -> list[int] | None:
    """The seeds that `--seeds` names; raises `UserError`."""
    seeds = listed("--seeds", text)
    if seeds is None:
        return None
    if not all(WHOLE.fullmatch(seed) and len(seed) < 100 for seed in seeds):
        raise UserError(f"--seeds {brief(text or '')}: has to be whole numbers separated by commas, such as 0,1,2")
    return [int(seed) for seed in seeds]


def listed(option: str, text: str | None) -> list[str] | None:
    """The names between commas; None without the option.

    Raises `UserError` where an option names nothing, as with an unset shell variable, and for nothing beside a comma.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not any(names):
        raise UserError(f"{option}: names nothing; leave the option out to take what the params file names")
    if not all(names):
        raise UserError(f"{option} {brief(text)}: has nothing before or after a comma; take that comma out")
    return names


class Ended(KeyboardInterrupt):
    """An interrupt like that of Ctrl-C, by another signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


class Terminated(Ended):
    """An end by SIGTERM, which often announces a kill: some seconds are left to report what is finished."""


def guarded(main: Callable[[], int]) -> int:
    """Run a command's body. An error that the user can mend, or an interrupt, ends it with one readable line.

    If nobody reads its output any more (`| head -1`), it ends silently, as other commands do. Finished work is kept,
    and the same command continues from there.
    """
    streams.settle()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = _ended(main)
    # The command is done: an interrupt while the interpreter shuts down would make it look failed.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    return _unheard(fault, code) if (fault := streams.fault()) else code


def _ended(main: Callable[[], int]) -> int:
    try:
        with _signals_as_interrupts():
            return main()
    except SystemExit as error:  # argparse's, which has said why
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Stopped as error:
        _complain(without_password(str(error)))
        return TRY_AGAIN
    except UserError as error:
        _complain(f"error: {without_password(str(error))}")
        return 2
    except OSError as error:
        if fault := streams.fault(error):
            return _unheard(fault, 2)
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"error: {where}{error.strerror or error}; earlier results are intact")
        return 2
    except MemoryError:
        _complain("error: there is not enough memory; earlier results are intact")
        return 2
    except KeyboardInterrupt as interrupt:
        _complain("\nstopped; nothing finished is lost: the same command goes on from here")
        return interrupt.status if isinstance(interrupt, Ended) else 130


@contextlib.contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """The signals of `kill` and of a closed terminal end a command as Ctrl-C does, unless they are ignored."""

    def end(number: int, frame: object) -> None:
        raise Terminated(number) if number == signal.SIGTERM else Ended(number)

    here = threading.current_thread() is threading.main_thread()
    ours = [s for s in (signal.SIGTERM, signal.SIGHUP) if here and signal.getsignal(s) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _unheard(fault: OSError, code: int) -> int:
    """The exit status of a command whose output was not taken."""
    if isinstance(fault, BrokenPipeError):
        return streams.READER_GONE
    _complain(f"error: the output could not be written: {fault.strerror}; earlier results are intact")
    return code or 2


def _complain(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be there to hear it
        print(line, file=sys.stderr)
