"""The survey's main table, run by run: `python -m benchmarks.full_scale [--minutes N]`.

Learns the runs of studies/tiny-imagenet.yaml one after the other, in the order of `ORDER`. What a run found is packed
as soon as it has ended: its results and costs go into `reproduction/tiny-imagenet/`, its checkpoints do not. Then
docs/studies.md shows the methods that are through, and says of the others that they were not run. The same command goes
on with what is missing, also on another machine: `--merge FOLDER` takes over what was packed elsewhere (`--home`).
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.packing import Packed, merge, pack, packed_runs, settings_of, unlike
from benchmarks.reproduction import PUBLISHED, cell, means
from benchmarks.tables import fill
from cl import __main__ as plain
from cl import cli
from cl.children import RunId
from cl.errors import UserError
from cl.limit import Limit
from cl.params import Params, read
from cl.paths import apart, option
from cl.register import checked

STUDY, NET = Path("studies/tiny-imagenet.yaml"), "BASE"
HOME, PAGE = Path("reproduction/tiny-imagenet"), Path("docs/studies.md")
ORDER = (
    *("finetune", "ewc", "si", "packnet", "lwf"),
    *("mas", "mean_imm", "mode_imm", "r_pm", "r_fm", "icarl", "hat", "ebll", "gem", "joint"),
)
"""First one of each family (bound, importances, path, masks, distillation), each cheap: so few hours already show
whether the ranking comes out. Then the others by what they cost: most of it is the search for the learning rate, which
is the same for all; `hat`, `ebll` and `gem` take the most beyond it, and `joint` searches on all tasks at once."""


def in_order(params: Params) -> list[RunId]:
    """The runs, seed by seed; methods that are not in `ORDER` come last."""
    place = {method: number for number, method in enumerate(ORDER)}
    methods = sorted(params.methods, key=lambda method: place.get(method, len(place)))
    return [RunId(method, seed) for seed in params.seeds for method in methods]


def kept(home: Path, params: Params, method: str) -> list[Packed]:
    """The packed runs of a method; raises `UserError` for one that was learned with other settings."""
    runs = packed_runs(home, method)
    for one in runs:
        if changed := unlike(one.settings, params, one.run):
            raise UserError(
                f"{one.run.path}: was learned with other settings ({'; '.join(changed)}); give another folder by --home"
            )
    return runs


def table(home: Path, params: Params) -> str:
    """A line for each method of the study: accuracy (forgetting) in per cent, here and in the survey."""
    lines = ["| method | here | survey, BASE | seeds | hours | commit |", "| :--- | ---: | ---: | :--- | ---: | :--- |"]
    done: list[Packed] = []
    for method in dict.fromkeys(run.method for run in in_order(params)):
        runs, published = kept(home, params, method), cell(*PUBLISHED[NET].get(method, (None, None)))
        if not runs:
            lines.append(f"| `{method}` | not run | {published} | | | |")
            continue
        done += runs
        seeds, hours = ", ".join(str(one.run.seed) for one in runs), sum(one.hours for one in runs)
        commits = ", ".join(dict.fromkeys((one.commit or "unknown")[:7] for one in runs))
        ours = cell(*means([one.run for one in runs]))
        lines.append(f"| `{method}` | {ours} | {published} | {seeds} | {hours:.1f} | {commits} |")
    return "\n".join([*lines, "", *textwrap.wrap(_covered(done, params), 120)])


def _covered(done: Sequence[Packed], params: Params) -> str:
    through = f"{len({one.run.method for one in done})} of {len(params.methods)} methods are through."
    if not done:
        return through
    machines = sorted({str(one.run.cost["machine"].get("processor", "unknown")) for one in done if one.run.cost})
    return f"{through} Hours of processor time; learned on {', '.join(machines)}."


def learn(params: Params, out: Path, home: Path, limit: Limit, show: Path | None) -> dict[str, str]:
    """Learn the runs that are not packed yet, and pack each; returns the failures.

    Raises `cl.limit.Unfinished` at the limit. `show`: the page.
    """
    failures: dict[str, str] = {}
    for run in in_order(params):
        if run.seed in {one.run.seed for one in kept(home, params, run.method)}:
            continue
        alone = params.model_copy(update={"methods": {run.method: params.methods[run.method]}, "seeds": [run.seed]})
        failed = plain.run(alone, out, limit)
        failures |= failed
        if not failed:
            print("\n".join(pack(out, home, {run.method: alone})), flush=True)
            if show is not None:
                fill(show, "full-scale", table(home, params))
    return failures


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = cli.parser("benchmarks.full_scale", main.__doc__, trains=True)
    made.set_defaults(params=STUDY, out=Path("out/full-scale"))
    made.add_argument("--home", type=option("--home"), default=HOME, help="where packed runs are; default: %(default)s")
    made.add_argument(
        "--merge", type=option("--merge"), metavar="FOLDER", help="learn nothing; take over the runs packed in FOLDER"
    )
    return made


def main() -> int:
    """Learn the runs of the survey's main table as far as the time allows, pack them, and show them on the page."""
    began = time.monotonic()
    given = parser().parse_args()
    apart("--home", given.home, given.out)
    params, study = checked(cli.params_of(given)), checked(read(STUDY))
    theirs = {name: settings_of(study, name) for name in study.methods}
    if given.home == HOME and any(settings_of(params, name) != theirs.get(name) for name in params.methods):
        raise UserError(f"--home: {HOME} is for runs with the settings of {STUDY}; give another folder")
    study = study if given.home == HOME else params
    show = PAGE if given.home == HOME else None
    failures: dict[str, str] = {}
    try:
        if given.merge is not None:
            print("\n".join(merge(given.merge, given.home, dict.fromkeys(study.methods, study))))
        else:
            failures = learn(params, given.out, given.home, Limit(params.execution.minutes, began), show)
    finally:
        print(table(given.home, study), flush=True)
        if show is not None:
            fill(show, "full-scale", table(given.home, study))
    if failures:
        raise UserError(f"{len(failures)} of the runs failed: {', '.join(failures)}; the same command tries them again")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
