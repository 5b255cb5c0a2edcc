"""Our results beside the survey's published ones: `python -m benchmarks.reproduction [--out DIR] [--study NAME]`.

Takes the results of a finished run of a study in `studies/`, keeps them as `reproduction/<study>/` (metrics that DVC
shows: `dvc metrics show`), and fills the block of that name in docs/reproduction.md with a table: accuracy (forgetting)
here and in the survey, and how far the two rankings agree (Kendall's tau).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

from benchmarks.pages import fill, where
from cl import cli
from cl.data.prepare import read_manifest
from cl.errors import UserError
from cl.files import write_json
from cl.metrics import average_forgetting, interval
from flows.report import BOUNDS, Row, compare
from flows.results import read_runs

HOME = Path("reproduction")
PAGE = Path("docs/reproduction.md")
# De Lange et al. 2021: average accuracy and forgetting in per cent on Tiny ImageNet, random order, ten tasks; Tables 4
# and 5, memories of 4500 images. Joint has no forgetting; mean-IMM is in the figure of BASE only.
PUBLISHED: dict[str, dict[str, tuple[float, float | None]]] = {
    "SMALL": {
        "finetune": (16.25, 34.84),
        "joint": (57.00, None),
        "packnet": (46.68, 0.00),
        "hat": (44.19, 0.00),
        "si": (23.91, 23.26),
        "ewc": (45.13, 0.86),
        "mas": (40.58, 0.78),
        "lwf": (44.06, -0.44),
        "ebll": (44.13, -0.53),
        "mode_imm": (29.63, 3.06),
        "r_pm": (36.97, 12.21),
        "r_fm": (39.60, 9.57),
        "gem": (39.44, 7.38),
        "icarl": (43.22, -1.39),
    },
    "BASE": {
        "finetune": (21.30, 26.90),
        "joint": (55.70, None),
        "packnet": (49.13, 0.00),
        "hat": (43.57, 0.00),
        "si": (33.93, 15.77),
        "ewc": (42.43, 7.51),
        "mas": (46.90, 1.58),
        "lwf": (41.91, 3.08),
        "ebll": (45.34, 1.44),
        "mean_imm": (32.42, 0.93),
        "mode_imm": (36.89, 0.98),
        "r_pm": (36.09, 10.96),
        "r_fm": (37.31, 9.21),
        "gem": (45.13, 4.96),
        "icarl": (47.27, -1.11),
    },
}


def forgetting(accuracy: Sequence[Sequence[float | None]]) -> float | None:
    """As the survey's code has it: sum over the earlier tasks, divided by the number of all tasks; None for joint.

    Ours (`cl.metrics.average_forgetting`) is divided by the number of earlier tasks.
    """
    found = average_forgetting(accuracy)
    return None if found is None else found * (len(accuracy) - 1) / len(accuracy)


def agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> tuple[float, int]:
    """Kendall's tau-b between two rankings of the methods that both have, and how many these are."""
    both = sorted(set(ours) & set(theirs))
    return float(kendalltau([ours[name] for name in both], [theirs[name] for name in both]).statistic), len(both)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """What DVC follows: per method the mean accuracy and forgetting in per cent, and tau to each published column."""
    methods: dict[str, dict[str, Any]] = {}
    for row in rows:
        lost = [value for run in row.runs if (value := forgetting(run.accuracy)) is not None]
        methods[row.method] = {
            "accuracy": round(100 * row.accuracy[0], 2),
            "accuracy_interval": None if row.accuracy[1] is None else round(100 * row.accuracy[1], 2),
            "forgetting": round(100 * interval(lost)[0], 2) if lost else None,
            "seeds": len(row.runs),
        }
    ours = {name: float(found["accuracy"]) for name, found in methods.items()}
    taus = {}
    for net, column in PUBLISHED.items():
        theirs = {name: value for name, (value, _) in column.items()}
        taus[net] = round(agreement(ours, theirs)[0], 3)
        ranked = {name: value for name, value in ours.items() if name not in BOUNDS}
        taus[f"{net} without bounds"] = round(agreement(ranked, theirs)[0], 3)
    return {"methods": methods, "kendall_tau": taus}


def cell(accuracy: float | None, lost: float | None) -> str:
    """`43.22 (-1.39)`; joint without forgetting."""
    if accuracy is None:
        return "–"
    return f"{accuracy:.2f} ({'–' if lost is None else f'{lost + 0.0:.2f}'})"


def table(rows: Sequence[Row], found: Mapping[str, Any]) -> str:
    """Ours beside the published columns, the best first, and the agreement of the rankings."""
    lines = [
        "| | here | ± | survey, SMALL | survey, BASE |",
        "| :--- | ---: | ---: | ---: | ---: |",
    ]
    for name, own in found["methods"].items():
        half = own["accuracy_interval"]
        published = [cell(*PUBLISHED[net].get(name, (None, None))) for net in ("SMALL", "BASE")]
        cells = [name, cell(own["accuracy"], own["forgetting"]), "–" if half is None else f"{half:.2f}", *published]
        lines.append("| " + " | ".join(cells) + " |")
    taus = found["kendall_tau"]
    told = [
        f"{net} {taus[net]:.2f} ({taus[f'{net} without bounds']:.2f} without finetune and joint)" for net in PUBLISHED
    ]
    note = (
        f"{where(tuple(rows))}. Average accuracy (forgetting) in per cent; ±: half width of the 95 % interval over the "
        "seeds; forgetting divided by the number of all tasks, as in the survey's code. Kendall's tau of the ranking: "
        f"{'; '.join(told)}."
    )
    return "\n".join([*lines, "", textwrap.fill(note, 120)])


def main() -> int:
    """Keep the results of a study, and print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduction", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/reproduction"), help="of the study's run")
    parser.add_argument("--study", default="tiny-imagenet-scaled", help="its name in studies/")
    given = parser.parse_args()
    if not Path("studies", f"{given.study}.yaml").exists():
        raise UserError(f"--study: there is no studies/{given.study}.yaml")
    runs = read_runs(given.out)
    rows = compare(runs)
    found = summary(rows)
    home = HOME / given.study
    shutil.rmtree(home, ignore_errors=True)
    for run in runs:
        target = home / "results" / run.method / run.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run.path, target)
        shutil.copy(run.path.with_suffix(".cost.json"), target.with_suffix(".cost.json"))
    write_json(
        home / "summary.json", {**found, "options": read_manifest(given.out / "prepared")["options"] | {"path": None}}
    )
    block = table(rows, found)
    fill(PAGE, given.study, block)
    print(block)
    print(json.dumps(found["kendall_tau"]))
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
