"""The command line that `python -m cl` and `python -m flows.benchmark` share."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from cl import streams
from cl.errors import UserError
from cl.params import Params, method_name, names_in, read

RAW = Path("data")


def parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """The options of a whole run."""
    made = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    made.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        dest="overrides",
        help="lay a YAML value over the params file; may be given again and again",
    )
    made.add_argument("--methods", metavar="A,B", help="default: those of the params file; all: every one that can")
    made.add_argument("--seeds", metavar="0,1", help="default: those of the params file")
    made.add_argument("--out", type=Path, default=Path("out"), help="default: out")
    return made


def params_of(given: argparse.Namespace) -> Params:
    """The checked params of the given options; raises `UserError`."""
    methods = _listed("--methods", given.methods)
    overrides = list(given.overrides)
    if methods == ["all"]:
        methods = names_in("methods")
        overrides.insert(0, "scenario.unable=leave-out")
    return read(given.params, overrides, methods, seeds_of(given.seeds))


def seeds_of(text: str | None) -> list[int] | None:
    """What `--seeds` names; raises `UserError`."""
    named = _listed("--seeds", text)
    try:
        return None if named is None else [int(seed) for seed in named]
    except ValueError:
        raise UserError(f"--seeds {text}: has to be whole numbers with commas between, as 0,1,2") from None


def methods_of(text: str | None) -> list[str]:
    """What `--methods` names, and without it every method there is; raises `UserError`."""
    named = _listed("--methods", text)
    try:
        return names_in("methods") if named is None else [method_name(name) for name in named]
    except ValueError as error:
        raise UserError(f"--methods: {error}") from None


def positive(text: str) -> int:
    """A whole number of at least 1. Raises `ValueError`, which argparse turns into its own message."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _listed(option: str, text: str | None) -> list[str] | None:
    """What stands between commas; an option that names nothing, as an unset variable does, is no wish for the default.

    Raises `UserError` for such a one.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"{option}: names nothing; leave the option out for those of the params file")
    return names


def guarded(main: Callable[[], int]) -> int:
    """Run a command's body; what the user can mend, or an interrupt, ends it with one readable line.

    Where nobody reads what it prints any more (`| head -1`) it ends without a word, as other commands do: the work that
    is finished is kept, and the same command goes on from there.
    """
    streams.settle()
    code = _ended(main)
    return _unheard(fault, code) if (fault := streams.fault()) else code


def _ended(main: Callable[[], int]) -> int:
    try:
        return main()
    except SystemExit as error:  # argparse's, which has said why
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except UserError as error:
        _complain(f"error: {error}")
        return 2
    except OSError as error:
        if fault := streams.fault(error):
            return _unheard(fault, 2)
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"error: {where}{error.strerror or error}; earlier results are whole")
        return 2
    except MemoryError:
        _complain("error: there is not enough memory; earlier results are whole")
        return 2
    except KeyboardInterrupt:
        _complain("\nstopped; nothing finished is lost: the same command goes on from here")
        return 130


def _unheard(fault: OSError, code: int) -> int:
    """The exit status of a command whose output was not taken."""
    if isinstance(fault, BrokenPipeError):
        return streams.READER_GONE
    _complain(f"error: what was to be printed: {fault.strerror}; earlier results are whole")
    return code or 2


def _complain(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be there to hear it
        print(line, file=sys.stderr)
