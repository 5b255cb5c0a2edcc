"""The command line that `python -m cl` and `python -m flows.benchmark` share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from cl.errors import UserError
from cl.params import Params, names_in, read
from cl.redact import without_password

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
    methods, given_seeds = _listed("--methods", given.methods), _listed("--seeds", given.seeds)
    overrides = list(given.overrides)
    if methods == ["all"]:
        methods = names_in("methods")
        overrides.insert(0, "scenario.unable=leave-out")
    try:
        seeds = None if given_seeds is None else [int(seed) for seed in given_seeds]
    except ValueError:
        raise UserError(f"--seeds {given.seeds}: has to be whole numbers with commas between, as 0,1,2") from None
    return read(given.params, overrides, methods, seeds)


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
    """Run a command's body; what the user can mend, or an interrupt, ends it with one readable line."""
    try:
        return main()
    except UserError as error:
        print(f"error: {without_password(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}; earlier results are whole", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; nothing finished is lost: the same command goes on from here", file=sys.stderr)
        return 130
