"""Our results beside the survey's published ones: `python -m benchmarks.reproduction [--out DIR] [--study NAME]`.

Takes the results of a finished run of a study in `studies/`, keeps them as `reproduction/<study>/` (metrics that DVC
shows: `dvc metrics show`), and fills docs/reproduction.md: for the scaled study a table of accuracy (forgetting) here
and in the survey, and how far the two rankings agree (Kendall's tau); for studies that extend it, one that says which
scaling moves which method.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

from benchmarks.pages import where
from benchmarks.tables import fill
from cl import cli
from cl.errors import UserError
from cl.files import remove, write_json, write_whole
from cl.metrics import average_accuracy, average_forgetting, interval
from cl.params import read
from cl.paths import apart, option
from cl.reading import RunResult, read_runs
from flows.report.rows import BOUNDS, Row, compare

STUDIES = Path("studies")
HOME = Path("reproduction")
PAGE = Path("docs/reproduction.md")
SCALED = "tiny-imagenet-scaled"
KEPT = re.compile(r"summary\.json|results/[a-z_]+/seed-\d+(\.cost|\.trials)?\.json")
"""What is kept of a study; the next time it is replaced."""
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

# SMALL in the survey's two other orders of the tasks, accuracy alone: how far it agrees with itself.
ORDERS: dict[str, dict[str, float]] = {
    "easy to hard": {
        "finetune": 16.06,
        "joint": 57.00,
        "packnet": 49.21,
        "hat": 43.89,
        "si": 35.98,
        "ewc": 40.18,
        "mas": 44.29,
        "lwf": 45.04,
        "ebll": 42.07,
        "mode_imm": 26.13,
        "r_pm": 37.09,
        "r_fm": 38.47,
        "gem": 39.07,
        "icarl": 48.55,
    },
    "hard to easy": {
        "finetune": 18.62,
        "joint": 57.00,
        "packnet": 44.42,
        "hat": 33.52,
        "si": 40.39,
        "ewc": 41.62,
        "mas": 40.90,
        "lwf": 42.36,
        "ebll": 43.60,
        "mode_imm": 24.95,
        "r_pm": 33.69,
        "r_fm": 37.18,
        "gem": 38.87,
        "icarl": 46.81,
    },
}


def forgetting(accuracy: Sequence[Sequence[float | None]]) -> float | None:
    """As the survey's code has it: sum over the earlier tasks, divided by the number of all tasks; None for joint.

    Ours (`cl.metrics.average_forgetting`) is divided by the number of earlier tasks.
    """
    average = average_forgetting(accuracy)
    return None if average is None else average * (len(accuracy) - 1) / len(accuracy)


def means(runs: Collection[RunResult]) -> tuple[float, float | None]:
    """Average accuracy and forgetting in per cent, each the mean over the runs; no forgetting for joint."""
    lost = [value for run in runs if (value := forgetting(run.accuracy)) is not None]
    accuracy = interval([average_accuracy(run.accuracy) for run in runs])[0]
    return 100 * accuracy, 100 * interval(lost)[0] if lost else None


def published(net: str) -> dict[str, float]:
    """The survey's accuracies in per cent."""
    return {name: accuracy for name, (accuracy, _) in PUBLISHED[net].items()}


def agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> tuple[float, int]:
    """Kendall's tau-b between two rankings of the methods that both have, and how many these are."""
    both = sorted(set(ours) & set(theirs))
    return float(kendalltau([ours[name] for name in both], [theirs[name] for name in both]).statistic), len(both)


def taus(ours: Mapping[str, float]) -> dict[str, float]:
    """Agreement of the accuracies with each published column, with finetune and joint and without."""
    agreements = {}
    ranked = {name: value for name, value in ours.items() if name not in BOUNDS}
    for net in PUBLISHED:
        agreements[net] = round(agreement(ours, published(net))[0], 3)
        agreements[f"{net} without bounds"] = round(agreement(ranked, published(net))[0], 3)
    return agreements


def summary(rows: Sequence[Row], *, whole: bool) -> dict[str, Any]:
    """What DVC follows: per method the mean accuracy and forgetting in per cent; tau of a whole ranking."""
    methods: dict[str, dict[str, Any]] = {}
    for row in rows:
        accuracy, lost = means(row.runs)
        methods[row.method] = {
            "accuracy": round(accuracy, 2),
            "accuracy_interval": None if row.accuracy[1] is None else round(100 * row.accuracy[1], 2),
            "forgetting": None if lost is None else round(lost, 2),
            "seeds": len(row.runs),
        }
    ranking = {name: own["accuracy"] for name, own in methods.items()}
    return {"methods": methods} | ({"kendall_tau": taus(ranking)} if whole else {})


def keep(out: Path, study: str) -> dict[str, Any]:
    """Copy the results of a run to `reproduction/<study>/`, with a summary; returns that.

    Raises `UserError` where the run is in that folder.
    """
    home = HOME / study
    apart("--out", out / "results", home)
    runs = read_runs(out)
    beside = [run.path.with_suffix(suffix) for run in runs for suffix in (".json", ".cost.json", ".trials.json")]
    files = {path.relative_to(out): path.read_bytes() for path in beside if path.exists()}
    remove(home, KEPT.fullmatch)
    for path, data in files.items():
        write_whole(home / path, data)
    made = summary(compare(runs), whole=study == SCALED)
    write_json(home / "summary.json", made)
    return made


def cell(accuracy: float | None, lost: float | None) -> str:
    """`43.22 (-1.39)`; joint without forgetting."""
    if accuracy is None:
        return "–"
    return f"{accuracy:.2f} ({'–' if lost is None else f'{lost + 0.0:.2f}'})"


def in_words(agreements: Mapping[str, float]) -> str:
    """`SMALL 0.54 (0.49 without finetune and joint); BASE ...`."""
    return "; ".join(
        f"{net} {agreements[net]:.2f} ({agreements[f'{net} without bounds']:.2f} without finetune and joint)"
        for net in PUBLISHED
    )


def table(rows: Sequence[Row], summary: Mapping[str, Any]) -> str:
    """Ours beside the published columns, the best first, and the agreement of the rankings."""
    lines = [
        "| | here | ± | survey, SMALL | survey, BASE |",
        "| :--- | ---: | ---: | ---: | ---: |",
    ]
    for name, own in summary["methods"].items():
        half = own["accuracy_interval"]
        theirs = [cell(*PUBLISHED[net].get(name, (None, None))) for net in PUBLISHED]
        cells = [name, cell(own["accuracy"], own["forgetting"]), "–" if half is None else f"{half:.2f}", *theirs]
        lines.append("| " + " | ".join(cells) + " |")
    small, base = (published(net) for net in PUBLISHED)
    runs = [run for row in rows for run in row.runs]
    by_seed = [
        agreement({run.method: means([run])[0] for run in runs if run.seed == seed}, small)[0]
        for seed in sorted({run.seed for run in runs})
    ]
    ours = {name: own["accuracy"] for name, own in summary["methods"].items()}
    without = {left: agreement({name: ours[name] for name in ours if name != left}, small)[0] for left in ours}
    furthest = max(without, key=lambda name: without[name])
    others = " and ".join(f"{agreement(small, other)[0]:.2f} ({order})" for order, other in ORDERS.items())
    note = (
        f"{where(tuple(rows))}. A cell has the average accuracy and in parentheses the forgetting, in per cent; "
        "forgetting is divided by the number of all tasks, as in the survey's code. ±: half width of the 95 % interval "
        f"over the seeds. Kendall's tau between our ranking and the survey's: {in_words(summary['kendall_tau'])}. "
        f"With SMALL it is {', '.join(f'{tau:.2f}' for tau in by_seed)} for each seed alone, and "
        f"{without[furthest]:.2f} without {furthest}, the method that lowers it most. Between the survey's own two "
        f"columns: {agreement(small, base)[0]:.2f}. Between SMALL in this order of the tasks and in the survey's two "
        f"others: {others}; between those two: {agreement(*ORDERS.values())[0]:.2f}."
    )
    return "\n".join([*lines, "", textwrap.fill(note, 120)])


def changes_knobs_alone(study: str) -> bool:
    """Whether the study differs from the scaled one in nothing but its methods' knobs."""
    one, other = (read(STUDIES / f"{name}.yaml").model_dump(exclude={"methods"}) for name in (SCALED, study))
    return one == other


def changed(study: str) -> str:
    """Each method of a kept study that changes one thing, beside itself as scaled, over the seeds that all have.

    Where nothing but knobs differs, the methods that were not run again are what they were: the ranking is whole, and
    gets its tau.
    """
    scaled, again = read_runs(HOME / SCALED), read_runs(HOME / study)
    seeds = set.intersection(*({run.seed for run in again if run.method == name} for name in methods_of(again)))
    scaled, again = ([run for run in runs if run.seed in seeds] for runs in (scaled, again))
    before = {name: means([run for run in scaled if run.method == name]) for name in methods_of(scaled)}
    after = {name: means([run for run in again if run.method == name]) for name in methods_of(again)}
    lines = ["| | seeds | as scaled | in this study | survey, SMALL |", "| :--- | :--- | ---: | ---: | ---: |"]
    told = ", ".join(map(str, sorted(seeds)))
    for name, figures in sorted(after.items(), key=lambda item: -item[1][0]):
        theirs = PUBLISHED["SMALL"].get(name, (None, None))
        lines.append(f"| {name} | {told} | {cell(*before[name])} | {cell(*figures)} | {cell(*theirs)} |")
    if changes_knobs_alone(study):
        was, now = (
            taus({name: figure for name, (figure, _) in of_methods.items()}) for of_methods in (before, before | after)
        )
        note = f"Kendall's tau over the same seeds: {in_words(now)}; as scaled: {in_words(was)}."
        lines += ["", textwrap.fill(note, 120)]
    return "\n".join(lines)


def methods_of(runs: Sequence[RunResult]) -> list[str]:
    """Their names, once each."""
    return list(dict.fromkeys(run.method for run in runs))


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.reproduction", description=main.__doc__)
    made.add_argument(
        "--out",
        type=option("--out"),
        default=Path("out/reproduction"),
        help="output folder of the study's comparison; default: out/reproduction",
    )
    made.add_argument("--study", default=SCALED, help="its name in studies/")
    return made


def main() -> int:
    """Keep the results of a study, and print and write the table."""
    given = parser().parse_args()
    if given.study not in {path.stem for path in STUDIES.glob("*.yaml")}:
        raise UserError(f"--study: there is no {STUDIES / given.study}.yaml")
    summary = keep(given.out, given.study)
    block = table(compare(read_runs(HOME / SCALED)), summary) if given.study == SCALED else changed(given.study)
    fill(PAGE, given.study, block)
    print(block)
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
