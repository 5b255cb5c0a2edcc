"""The one command, `unforgetting COMMAND ...`: each of its commands is a module that `python -m` runs as well.

The list of commands has to appear at once, so nothing else is imported for it.
"""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import sys
import textwrap
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ORCHESTRATION = ("prefect", "mlflow", "matplotlib", "jinja2")
"""What the extra `flows` installs, and the commands of `flows` need."""
ALONE = "cl"
"""The module that compares without them."""
INSTALL = "pip install 'unforgetting[flows]'"
INTERRUPTED, UNUSABLE = 130, 2
HELP = {"--help", "-h"}
OPTIONS = ("--help", "--version", "--completion")
SHELLS = ("bash", "zsh", "fish", "tcsh")


class Command(NamedTuple):
    """One of the commands."""

    name: str
    module: str
    does: str
    example: str
    """Its arguments in an example."""
    first: tuple[str, ...] = ()
    """Arguments that it always has."""


LEARN = (
    Command("run", "flows.compare", "compare methods: prepare, train, report", "--methods ewc,er,finetune,joint"),
    Command("status", "cl.status", "how far each run is, what would be learned, and why", "--out out"),
    Command("report", "flows.report", "build the report anew, or show the leaderboard", "--show"),
    Command("nightly", "flows.nightly", "learn all anew and compare with the last good night", "--minutes 60"),
    Command("watch", "flows.watch", "learn each new task once its folder has arrived", "PICTURES"),
    Command("anytime", "cl.anytime", "accuracy while a task is being learned", "--methods er"),
)
USE = (
    Command("champion", "flows.champion", "register the best model in MLflow", "--method er"),
    Command("predict", "flows.predict", "classify the pictures of a folder", "PICTURES --to answers.csv"),
    Command("export", "flows.export", "write the model as a file for torch or ONNX", "--onnx"),
    Command("serve", "flows.serve", "start, stop or show Prefect and MLflow", "start"),
    Command("provenance", "flows.provenance", "the code and data that results came from", "--out out"),
)
LOOK_UP = (
    Command("methods", "cl.listing", "list the methods, or explain one", "ewc", ("methods",)),
    Command("benchmarks", "cl.listing", "list the benchmarks, or explain one", "folder", ("benchmarks",)),
    Command("studies", "cl.listing", "list the params files that come along, or print one", "photos", ("studies",)),
    Command("study", "flows.study", "print a study with every default", "studies/photos.yaml"),
    Command("new-method", "cl.new_method", "begin a method of your own, in a checkout", "elastic_anchor"),
)
GROUPS = {"Learn and compare": LEARN, "Use what was learned": USE, "Look up, extend": LOOK_UP}
COMMANDS = {command.name: command for group in GROUPS.values() for command in group}
BESIDE = 14
"""Columns before what a command does."""
USAGE = """usage: unforgetting COMMAND [OPTIONS]
       unforgetting COMMAND --help
       unforgetting --version
       unforgetting --completion SHELL"""


METHODS_IN_BASH = """_unforgetting_methods() {{
  local before=""
  [[ $1 == *,* ]] && before="${{1%,*}},"
  compgen -P "$before" -W "{known}" -- "${{1##*,}}"
}}"""
"""Completes the last of the names between commas."""


def listing(width: int) -> str:
    """All commands, each with an example."""
    lines = [*textwrap.wrap("Compare methods of continual learning, and use the best model.", width), "", USAGE]
    for title, group in GROUPS.items():
        lines += ["", title]
        for command in group:
            said = f"  {command.name:<11} {command.does}"
            lines += textwrap.wrap(said, width, subsequent_indent=" " * BESIDE)
            lines.append(f"{'':{BESIDE}}$ unforgetting {command.name} {command.example}")
    others = f"({', '.join(SHELLS[1:])}: the script says in its first lines where it belongs)"
    lines += ["", "Completion", "  unforgetting --completion bash >> ~/.bashrc"]
    lines += textwrap.wrap(others, width, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def completion(shell: str) -> str:
    """The script that completes the commands, their options and the names of methods in a shell.

    Its first lines are those of the library that makes it: how the script is installed.
    """
    import argparse
    import importlib

    import shtab

    from cl import listing

    kinds = {kind: [Path(name).stem for name in list_all()] for kind, (list_all, _) in listing.KINDS.items()}
    known = " ".join(kinds["methods"])
    in_fish = f"(__fish_complete_list , 'string join \\n {known}')"
    methods = {"bash": "_unforgetting_methods", "zsh": f"_values -s , method {known}", "tcsh": f"({known})"}
    methods["fish"] = in_fish
    by_name: dict[str, Any] = {"methods": methods, "out": shtab.DIRECTORY, "checkpoint": shtab.DIRECTORY}
    by_name |= dict.fromkeys(("params", "pictures", "to"), shtab.FILE)
    whole = argparse.ArgumentParser(prog="unforgetting")
    below = whole.add_subparsers()
    for command in COMMANDS.values():
        module = f"{command.module}.__main__" if command.module in (ALONE, "flows.report") else command.module
        of_module = importlib.import_module(module).parser()
        options = [action for action in of_module._actions if action.dest not in ("help", "kind")]
        made = below.add_parser(command.name, help=command.does)
        for action in options:
            if action.dest in by_name:
                action.complete = by_name[action.dest]
            elif action.dest == "method" or (action.dest == "name" and command.name in kinds):
                action.choices = kinds.get(command.name, kinds["methods"])
            made._add_action(action)
    return shtab.complete(whole, shell, preamble=METHODS_IN_BASH.format(known=known) if shell == "bash" else "")


def start(command: Command, arguments: Sequence[str]) -> None:
    """Run the module of a command as `python -m` does; it ends the process with a status of its own."""
    from cl.called import called_as

    module = command.module
    missing = [name for name in ORCHESTRATION if find_spec(name) is None]
    if missing and module.startswith("flows.") and command.name != "study":
        if command.name != "run":
            sys.exit(_refuse(f"unforgetting {command.name} needs {', '.join(missing)}: {INSTALL}"))
        module = ALONE
        _note(f"without a report, MLflow and Prefect, which {INSTALL} adds")
    if command.name == "run" and not any(word.split("=")[0] == "--params" for word in arguments):
        _say_whose_settings()
    called_as[module] = f"unforgetting {command.name}"
    for other in COMMANDS.values():
        called_as.setdefault(other.module, f"unforgetting {other.name}")
    sys.argv = [f"unforgetting {command.name}", *command.first, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code in (0, None) and HELP & {*arguments}:
            print(f"\nexample:\n  unforgetting {command.name} {command.example}")
        raise


def _say_whose_settings() -> None:
    from cl import embedded

    settings = embedded.params_file(embedded.PARAMS)
    if not os.path.exists(embedded.PARAMS) and settings.exists():
        _note(f"settings: {settings}, which comes with the package; copy it here to change it")


def _note(line: str) -> None:
    print(f"unforgetting: {line}", file=sys.stderr, flush=True)


def _refuse(why: str) -> int:
    print(f"error: {why}", file=sys.stderr)
    return UNUSABLE


def main(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name; returns the exit status of what it answers itself."""
    name, *rest = arguments or ["--help"]
    if name == "help" and rest:
        name, *rest = [*rest, "--help"]
    if name in HELP | {"help"}:
        print(listing(shutil.get_terminal_size((100, 24)).columns))
    elif name == "--version":
        from importlib.metadata import version

        print(f"unforgetting {version('unforgetting')}")
    elif name == "--completion":
        if rest not in [[shell] for shell in SHELLS]:
            return _refuse(f"--completion: give one of {', '.join(SHELLS)}")
        print(completion(rest[0]))
    elif name in COMMANDS:
        start(COMMANDS[name], rest)
    else:
        from cl.names import closest

        return _refuse(f"unknown command {name!r}; {closest(name, [*COMMANDS, *OPTIONS])}")
    return 0


def console() -> int:
    """The entry point: ends silently where nobody reads the output any more, as the commands do."""
    from cl import streams

    streams.settle()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until the command begins, Ctrl-C ends the process at once: an exception within an import has a long traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        status = main(sys.argv[1:])
    except BrokenPipeError:  # said at once, without a buffer
        return streams.READER_GONE
    except KeyboardInterrupt:  # after the command has ended
        return INTERRUPTED
    return streams.READER_GONE if isinstance(streams.fault(), BrokenPipeError) else status


if __name__ == "__main__":
    sys.exit(console())
