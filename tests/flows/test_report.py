"""The report on made-up results: what it says, what it refuses, and that nothing but the results decides its bytes."""

import hashlib
import itertools
import json
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from benchmarks import pages
from cl import cli, metrics
from cl.errors import UserError
from cl.names import names_in
from cl.reading import read_runs
from flows import servers
from flows.report import drawing, figures, labels
from flows.report import looks as styles
from flows.report.__main__ import main
from flows.report.build import build
from flows.report.headline import headline
from flows.report.leaderboard import leaderboard
from flows.report.rows import Row, compare
from flows.report.show import narrowed, where_to_look_next
from flows.report.summary import REMARKS, Summary
from flows.report.words import duration, listing, percent, size, times
from flows.tracking.settings import Tracking

REPOSITORY = Path(__file__).parents[2]

# method: (accuracy right after learning, points lost per later task, knobs it starts with, seconds of one task)
METHODS: dict[str, tuple[float, float, dict[str, float], float]] = {
    "finetune": (0.968, 0.031, {}, 1.0),
    "joint": (0.972, 0.0, {}, 6.0),
    "ewc": (0.955, 0.0045, {"strength": 400.0}, 1.9),
    "si": (0.951, 0.008, {"strength": 400.0}, 1.7),
    "lwf": (0.957, 0.012, {"strength": 10.0}, 2.2),
    "gem": (0.962, 0.0061, {"margin": 1.0}, 5.5),
    "icarl": (0.934, 0.0032, {"strength": 10.0}, 3.4),
    "packnet": (0.941, 0.0, {"prune": 0.9}, 2.4),
    "hat": (0.937, 0.0003, {"smax": 800.0, "c": 2.5}, 4.1),
    "mean_imm": (0.949, 0.016, {"strength": 0.01}, 1.6),
    "mode_imm": (0.952, 0.0095, {"strength": 0.01}, 2.0),
}


def fake_results(
    out: Path, methods: Sequence[str] = tuple(METHODS), seeds: Sequence[int] = (0, 1, 2), tasks: int = 10
) -> Path:
    """Write results, trials and costs of made-up runs in the exact formats of the pipeline; return `out`."""
    for method in methods:
        for seed in seeds:
            folder = out / "results" / method
            folder.mkdir(parents=True, exist_ok=True)
            for kind, content in fake_run(method, seed, tasks).items():
                (folder / f"seed-{seed}{kind}.json").write_text(json.dumps(content, indent=1))
    return out


def fake_run(method: str, seed: int, T: int) -> dict[str, dict[str, Any]]:
    """The three files of one run."""
    learned, loss, start, pace = METHODS[method]
    draw = random.Random(f"{method} {seed}")
    names = [f"permutation-{k + 1:02d}" for k in range(T)]
    first = [learned + draw.gauss(0, 0.006) for _ in names]
    rates = [loss * draw.uniform(0.7, 1.3) for _ in names]
    matrix: list[list[float | None]] = [
        [min(1.0, max(0.1, first[j] - rates[j] * (i - j) ** 0.8)) if j <= i else None for j in range(T)]
        for i in range(T)
    ]
    at_once = method == "joint"
    if at_once:
        matrix = [[None] * T for _ in range(T - 1)] + [[v + draw.gauss(0, 0.004) for v in first]]
    per_task: list[dict[str, Any]] = []
    trials: list[dict[str, Any]] = []
    for k, name in enumerate(["all"] if at_once else names):
        best = 0.972 + draw.gauss(0, 0.003)
        for n, rate in enumerate((0.1, 0.05, 0.01, 0.005)):
            accuracy = best if rate == 0.05 else best - 0.02 * abs(n - 1) - abs(draw.gauss(0, 0.01))
            trials.append(trial(name, k, "plasticity", n, rate, {}, accuracy, None, rate == 0.05))
        threshold, knobs, reached, n = 0.8 * best, dict(start), best, 0
        while knobs:
            reached = min(learned, 0.62 + 0.1 * n + draw.uniform(0, 0.12))
            trials.append(trial(name, k, "stability", n, 0.05, dict(knobs), reached, threshold, reached >= threshold))
            n += 1
            if reached >= threshold:
                break
            knobs = {key: value / 2 for key, value in knobs.items()}
        per_task.append(
            {
                "task": name, "learning_rate": 0.05, "plasticity_accuracy": best, "threshold": threshold,
                "knobs": knobs, "attempts": max(n, 1), "validation_accuracy": reached, "steps": 1200 + 7 * k,
                "state_bytes": 36_000 + (0 if method in ("finetune", "joint") else 51_000 + 2_000 * k),
            }
        )  # fmt: skip
    same = {"schema": 1, "benchmark": "permuted-digits", "method": method, "seed": seed}
    phases = [
        {
            "plasticity": pace * draw.uniform(1.5, 2),
            "stability": pace * draw.uniform(0.5, 1.5),
            "evaluate": 0.02 * (k + 1),
        }
        for k in range(len(per_task))
    ]
    seconds = sum(sum(phase.values()) for phase in phases)
    machine = {
        "platform": "Linux x86_64",
        "processor": "Imaginary 9000",
        "cores": 2,
        "torch": "2.15.0",
        "device": "cpu",
    }
    return {
        "": {
            **same, "tasks": names, "accuracy": matrix, "average_accuracy": metrics.average_accuracy(matrix),
            "average_forgetting": metrics.average_forgetting(matrix), "per_task": per_task,
        },
        ".trials": {**same, "trials": trials},
        ".cost": {
            **same, "machine": machine, "seconds": seconds * 1.1, "process_seconds": seconds * 1.05,
            "step_seconds": seconds * 0.8, "peak_memory_bytes": 420_000_000 + int(9e6 * pace),
            "per_task": [
                {"task": entry["task"], "seconds": phase, "step_seconds": 0.8 * sum(phase.values())}
                for entry, phase in zip(per_task, phases, strict=True)
            ],
        },
    }  # fmt: skip


def trial(
    task: str, index: int, phase: str, number: int, rate: float, knobs: dict[str, float], accuracy: float,
    threshold: float | None, kept: bool,
) -> dict[str, Any]:  # fmt: skip
    return {
        "task": task, "task_index": index, "phase": phase, "trial": number, "learning_rate": rate, "knobs": knobs,
        "accuracy": accuracy, "threshold": threshold, "kept": kept, "epochs": 31, "steps": 186,
    }  # fmt: skip


class Page(HTMLParser):
    """What a page refers to, and the ids it gives."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.svgs = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.svgs += tag == "svg" and ("role", "img") in attrs
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        self.ids += [value or "" for name, value in attrs if name == "id"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """The report of 11 methods, 3 seeds and 10 tasks, of which one run failed."""
    out = fake_results(tmp_path_factory.mktemp("out"))
    (out / "results/lwf/seed-1.json").unlink()
    return build(out, {"commit": "abc123"})


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Results of three methods and two tasks."""
    return fake_results(tmp_path / "out", ("joint", "ewc", "finetune"), (0, 1), tasks=2)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Figures are `sketched`, until `undo`."""
    sketched(monkeypatch)
    return monkeypatch


def sketched(patch: pytest.MonkeyPatch) -> None:
    """Figures are made as ever, but no pixel and no path is written, which takes most of the time."""

    def savefig(figure: Figure, file: Any, *, format: str, **how: object) -> None:
        file.write('<svg viewBox="0 0 1 1"></svg>' if format == "svg" else b"\x89PNG")

    patch.setattr(Figure, "savefig", savefig)


def row(summary: Summary, method: str) -> Row:
    return next(row for row in summary.rows if row.method == method)


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_every_file_is_there(built):
    files = {path.relative_to(built.folder).as_posix() for path in built.folder.rglob("*") if path.is_file()}
    plots = {f"plots/{name}.png" for name in ("average", "curves", "matrices", "tradeoff", "budget", "cost")}
    assert files == plots | {"index.html", "leaderboard.md", "summary.json", "accuracy.csv"} | {
        f"dvc/{name}.json" for name in METHODS
    }
    assert all((built.folder / plot).read_bytes().startswith(b"\x89PNG") for plot in plots)


def test_summary_holds_the_mean_over_seeds_and_no_cost(built):
    summary = json.loads((built.folder / "summary.json").read_text())
    assert set(summary) == set(METHODS)
    runs = [fake_run("ewc", seed, 10)[""] for seed in (0, 1, 2)]
    expected = sum(run["average_accuracy"] for run in runs) / 3
    assert summary["ewc"]["average_accuracy"] == pytest.approx(expected, abs=1e-6)
    assert summary["ewc"]["average_forgetting"] == pytest.approx(
        sum(r["average_forgetting"] for r in runs) / 3, abs=1e-6
    )
    assert set(summary["ewc"]) == {
        "average_accuracy",
        "average_accuracy_interval",
        "average_forgetting",
        "average_incremental_accuracy",
        "seeds",
        "rank",
    }
    assert summary["ewc"]["rank"] == row(built, "ewc").rank
    assert "average_forgetting" not in summary["joint"]
    assert "rank" not in summary["joint"]
    assert summary["lwf"]["seeds"] == 2


def test_rows_are_ranked_by_accuracy_and_bounds_are_not(built):
    accuracies = [row.accuracy[0] for row in built.rows]
    assert accuracies == sorted(accuracies, reverse=True)
    ranks = [row.rank for row in built.rows if row.method not in ("joint", "finetune")]
    assert ranks == sorted(ranks)
    assert (ranks[0], len(ranks)) == (1, 9)
    assert (row(built, "joint").rank, row(built, "joint").bound) == (None, "upper bound")
    assert (row(built, "finetune").rank, row(built, "finetune").bound) == (None, "lower bound")
    assert row(built, "packnet").forgetting == (0.0, 0.0)


def test_a_failed_seed_is_said(built):
    assert row(built, "lwf").seeds == "0, 2 (missing: 1)"
    assert "0, 2 (missing: 1)" in (built.folder / "leaderboard.md").read_text()
    assert "lwf has no result for seed 1" in (built.folder / "index.html").read_text()


@pytest.mark.usefixtures("unrendered")
def test_what_failed_is_not_shown_as_an_earlier_run_left_it(small):
    """Its files are of other params, or of an earlier state of the sequence."""
    fake_results(small, ("gem",), (0, 1), tasks=3)
    failed = {"gem/seed-0", "gem/seed-1", "finetune/seed-1"}
    found = build(small, methods=("joint", "finetune", "ewc", "gem"), seeds=(0, 1), failed=failed)
    assert found.absent == ("gem",)
    assert [r.method for r in found.rows if r.missing] == ["finetune"]
    assert row(found, "finetune").missing == (1,)
    text = (found.folder / "index.html").read_text()
    assert "Not finished, and left out: gem, finetune (seed 1)." in text[: text.index("<nav")]


@pytest.mark.usefixtures("unrendered")
def test_what_has_to_be_known_of_a_task_stands_above_the_numbers(small):
    assert "Read with care" not in leaderboard(build(small))
    path = small / "results/ewc/seed-1.json"
    per_task = json.loads(path.read_text())["per_task"]
    remark = "the training that was kept diverged; it needs <a> lower strength"
    change(path, per_task=[per_task[0], per_task[1] | {"remarks": [remark] * (REMARKS + 2)}])
    found = build(small)
    assert found.remarks[0] == f"ewc, seed 1, {per_task[1]['task']}: {remark}"
    assert found.remarks[-1] == "and 2 more, in the results' `remarks`"
    assert "- ewc, seed 1" in leaderboard(found)
    assert "it needs &lt;a&gt; lower strength" in (found.folder / "index.html").read_text()


def test_what_no_accuracy_can_be_is_not_drawn(small):
    """The interval of two seeds that differ widely reaches far beyond 100 %."""
    change(small / "results/finetune/seed-0.json", accuracy=[[0.99, None], [0.2, 0.99]])
    change(small / "results/finetune/seed-1.json", accuracy=[[0.99, None], [0.99, 0.99]])
    found = build(small)
    assert found.rows[-1].accuracy[0] + found.rows[-1].accuracy[1] > 2
    text = (found.folder / "index.html").read_text()
    ends = [float(place) for place in re.findall(r"(?:left: |100% - )([-\d.]+)%", text[: text.index("</table>")])]
    assert len(ends) == 3 * (2 + 2 + 1)  # per row two bounds, two ends of the whisker, the dot
    assert (min(ends), max(ends)) == (0, 100)
    plane = text[text.index('id="figure-tradeoff"') : text.index('<section id="measures"')]
    levels = [float(level) for level in re.findall(r">([\d.]+) %<", plane)]
    assert levels
    assert max(levels) <= 100


def test_every_line_is_named_within_the_figure(tmp_path):
    """However many end at nearly the same accuracy, and however low."""
    ends = {f"method-{n}": 15 + 0.01 * n for n in range(28)} | {"far": 80.0}
    _, axes = drawing.canvas(4.4, left=0.55, right=1.3, top=0.15, bottom=0.5)
    axes.set_ylim(10, 85)
    labels.label_ends(axes, 10, ends, dict.fromkeys(ends, styles.Look("ink", "o", "solid", "")))
    places = sorted(label.xyann[1] for label in axes.texts)
    assert len(places) == 29
    assert (places[0] >= 10, places[-1] <= 85) == (True, True)
    assert min(b - a for a, b in itertools.pairwise(places)) > 0.99 * 75 / 29


def test_forgetting_that_rounds_to_nothing_has_no_sign(small):
    change(small / "results/ewc/seed-0.json", accuracy=[[0.9, None], [0.90001, 0.9]])
    change(small / "results/ewc/seed-1.json", accuracy=[[0.9, None], [0.90001, 0.9]])
    text = (build(small).folder / "index.html").read_text()
    assert "ewc  90.00 (0.00)" in text


def test_headline_is_computed(built):
    best, joint, finetune = (next(r for r in built.rows if r.rank == 1), row(built, "joint"), row(built, "finetune"))
    below, above = (100 * abs(best.accuracy[0] - bound.accuracy[0]) for bound in (joint, finetune))
    assert f"{best.method} has the highest mean: {100 * best.accuracy[0]:.1f} ±" in built.headline
    assert f"{below:.1f} points below joint" in built.headline
    assert f"{above:.1f} points above finetune" in built.headline


def as_learned(out: Path, accuracies: dict[str, dict[int, float]]) -> Path:
    """Results of two tasks without forgetting, with these accuracies by method and seed."""
    for method, by_seed in accuracies.items():
        fake_results(out, (method,), tuple(by_seed), 2)
        for seed, accuracy in by_seed.items():
            first = [None, None] if method == "joint" else [accuracy, None]
            changed(out, method, seed=seed, accuracy=[first, [accuracy, accuracy]])
    return out


def test_seeds_are_paired_to_tell_methods_apart(tmp_path):
    """All intervals of means overlap, as a seed is hard for all methods or for none; gem is told apart from ewc.

    gem: -2, -2.1, -1.9 points, so -2 +- 4.3027 * 0.1 / sqrt(3); si shares two seeds with ewc: 0 and -2 points, so
    -1 +- 12.7062 * sqrt(2) / sqrt(2).
    """
    joint = {"joint": {0: 0.91, 1: 0.99, 2: 0.96}}
    ewc = {"ewc": {0: 0.90, 1: 0.98, 2: 0.94}}
    gem = {"gem": {0: 0.88, 1: 0.959, 2: 0.921}}
    found = build(as_learned(tmp_path, joint | ewc | gem | {"si": {0: 0.90, 1: 0.96, 5: 0.81}}))
    assert found.headline.startswith("ewc leads with 94.0 ± 9.9 %")
    assert found.headline.endswith("1.3 points below joint (not told apart). These seeds do not tell it apart from si.")
    text = re.sub(" +", " ", leaderboard(found))
    assert "| ▲ | joint | 95.33 ± 10.04 | ≈ 1.33 ± 1.43 |" in text
    assert "| 1 | ewc | 94.00 ± 9.94 | best |" in text
    assert "| 2 | gem | 92.00 ± 9.81 | -2.00 ± 0.25 |" in text
    assert "| 2 | si | 89.00 ± 18.75 | ≈ -1.00 ± 12.71 |" in text  # no test tells it apart, but gem has a higher mean
    assert "(n = 3, t = 4.30; n = 2, t = 12.71)" in text
    page = (found.folder / "index.html").read_text()
    assert re.search(r'<td class="[^"]*to-best" title="n = 3, t = 4.30"[^>]*>-2.00 <small>± 0.25</small></td>', page)
    assert re.search(
        r'<td class="[^"]*to-best" title="n = 2, t = 12.71"[^>]*>≈ -1.00 <small>± 12.71</small></td>', page
    )


def test_one_seed_in_common_gives_no_interval(tmp_path):
    rows = compare(read_runs(as_learned(tmp_path, {"ewc": {0: 0.9}, "gem": {0: 0.8}, "si": {1: 0.7}})))
    found = Summary("b", ("a",), rows, headline(rows), tmp_path)
    told = "With one seed nothing tells these methods apart. ewc has the highest mean: 90.0 % average accuracy."
    assert found.headline == told
    text = re.sub(" +", " ", leaderboard(found))
    assert "(n = 1, no interval)" in text
    assert "| 2 | gem | 80.00 | -10.00 |" in text
    assert "| 3 | si | 70.00 | – |" in text


def test_page_needs_nothing_beside_it(built):
    text = (built.folder / "index.html").read_text()
    page = Page(text)
    assert page.svgs == 6
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []
    assert "://" not in text  # no address of any kind: neither a script's, nor a font's, nor a name space's
    assert re.findall(r"@import|url\((?!#|var)", text) == []


def test_page_has_no_id_twice_and_every_reference_leads_somewhere(built):
    page = Page((built.folder / "index.html").read_text())
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_figures_take_the_colours_of_the_page(built):
    text = (built.folder / "index.html").read_text()
    figures = text[text.index("<figure") : text.rindex("</figure>")]
    assert "var(--hue-3)" in figures
    assert [light for light, _ in styles.COLOURS.values() if light in figures] == []


def test_page_tells_method_commit_machine_and_every_trial(built):
    text = (built.folder / "index.html").read_text()
    assert all(f'data-method="{method}"' in text for method in METHODS)
    assert "abc123" in text
    assert "Imaginary 9000, 2 cores" in text
    seeds = [(method, seed) for method in METHODS for seed in (0, 1, 2) if (method, seed) != ("lwf", 1)]
    tried = [fake_run(method, seed, 10)[".trials"]["trials"] for method, seed in seeds]
    assert text.count('<span class="trial') == sum(map(len, tried))


def test_long_form_has_one_line_per_measured_row(built):
    lines = (built.folder / "accuracy.csv").read_text().splitlines()
    assert lines[0] == "method,seed,task,average_accuracy"
    assert len(lines) == 1 + 29 * 10 + 3  # 29 runs task by task, and joint's last row of three seeds
    assert [line.split(",")[2] for line in lines if line.startswith("joint")] == ["10"] * 3


def test_same_results_give_the_same_bytes_elsewhere_and_without_torch(built, tmp_path):
    out = fake_results(tmp_path / "elsewhere")
    (out / "results/lwf/seed-1.json").unlink()
    code = (
        "import sys, pathlib; from flows.report.build import build;"
        "build(pathlib.Path(sys.argv[1]), {'commit': 'abc123'});"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, out], check=True, cwd=REPOSITORY)
    assert digests(out / "report") == digests(built.folder)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_show_prints_the_last_table_and_where_to_look_at_once(built):
    code = (
        "import sys; from flows.report.__main__ import main; status = main(['--show', '--out', sys.argv[1]]);"
        "heavy = {'matplotlib', 'scipy', 'numpy', 'jinja2', 'torch', 'mlflow', 'prefect'} & set(sys.modules);"
        "sys.exit(status or (str(heavy) if heavy else 0))"
    )
    out = built.folder.parent
    done = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")
    assert leaderboard(built) in done.stdout
    assert "Where to look next" in done.stdout
    assert str(out / "report/index.html") in done.stdout


def test_where_to_look_next_without_servers(monkeypatch, tmp_path):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    text = where_to_look_next(Tracking(Path("out"), None, "digits"))
    assert "out/report/index.html" in text
    assert "  MLflow   .venv/bin/python -m flows.serve start\n" in text
    text = where_to_look_next(Tracking(Path("my out"), None, "digits"))
    assert "  Prefect  .venv/bin/python -m flows.serve start --out 'my out'\n" in text
    (tmp_path / "Makefile").touch()
    text = where_to_look_next(Tracking(Path("out"), None, "digits"))
    assert "  MLflow   make serve\n    then http://127.0.0.1:5000/#/experiments" in text
    assert max(map(len, text.splitlines())) < 80
    text = where_to_look_next(Tracking(Path("out"), "postgresql://db.example/mlflow", "digits"))
    assert "-m mlflow server" in text, "`serve` starts none"


def test_where_to_look_next_knows_what_runs(monkeypatch, tmp_path):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(servers.Server, "alive", True)
    here = Tracking(Path("out"), None, "digits")
    record = {"health": "", "pid": 1, "started": 1, "log": ""}
    mlflow = {"name": "mlflow", "address": "http://127.0.0.1:5001", "shows": str(here.folder)}
    prefect = {"name": "prefect", "address": "http://127.0.0.1:4201"}
    servers.STATE.parent.mkdir()
    servers.STATE.write_text(json.dumps({"servers": [{**record, **one} for one in (mlflow, prefect)]}))
    text = where_to_look_next(here)
    assert "  MLflow   http://127.0.0.1:5001/#/experiments?workflowType=machine_learning\n" in text
    assert text.endswith("  Prefect  http://127.0.0.1:4201")
    text = where_to_look_next(Tracking(Path("other"), None, "digits"))
    assert " --out other\n    then http://127.0.0.1:5001/#/" in text, "the one that runs is to show another database"
    servers.STATE.write_text("{")
    assert "servers.json: damaged" in where_to_look_next(here)


def test_a_narrow_terminal_gets_the_first_columns():
    table = "rank\n\n| rank | method | accuracy | forgetting |\n| ---: | :----- | -------: | ---------: |\n\nend"
    assert narrowed(table, 41) == table
    short = "rank\n\n| rank | method | accuracy |\n| ---: | :----- | -------: |\n(too narrow for: forgetting)\n\nend"
    assert narrowed(table, 40) == short
    assert narrowed(table, 10) == short.replace("(too narrow for: forgetting)", "(too\nnarrow\nfor: forge\ntting)")
    assert narrowed("no method is better by these seeds\n\nend", 20) == "no method is better\nby these seeds\n\nend"


def test_where_to_look_next_with_servers(monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4300/api")
    text = where_to_look_next(Tracking(tmp_path, "http://tracking.example:5000", "digits")) + "\n"
    assert " http://127.0.0.1:4300\n" in text
    assert " http://tracking.example:5000/#/experiments?workflowType=machine_learning\n" in text
    assert "server start" not in text
    assert "-m mlflow" not in text


def test_no_results_say_what_to_run(tmp_path, capsys):
    assert cli.guarded(lambda: main(["--out", str(tmp_path)])) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: no results under {tmp_path / 'results'}")
    assert "flows.compare" in error
    assert cli.guarded(lambda: main(["--out", str(tmp_path), "--show"])) == 2
    assert "no report under" in capsys.readouterr().err


def test_results_of_different_task_sequences_are_never_ranked_together(small):
    fake_results(small, ("gem",), (0,), tasks=3)
    with pytest.raises(UserError) as caught:
        build(small)
    assert "results/ewc/seed-0.json" in str(caught.value)
    assert "results/gem/seed-0.json" in str(caught.value)
    fake_results(small, ("gem",), (0,), tasks=2)
    for kind in ("", ".trials", ".cost"):
        change(small / f"results/gem/seed-0{kind}.json", benchmark="other")
    with pytest.raises(UserError, match="permuted-digits, 2 tasks; other, 2 tasks"):
        build(small)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schema": 2}, "schema 1"),
        ({"seed": 1}, "holds ewc, seed 1"),
        ({"per_task": []}, "per_task is empty"),
        ({"per_task": [{"task": "permutation-01"}]}, "no learning_rate"),
        ({"per_task": None}, "per_task is not a list"),
        ({"accuracy": [[0.9, None]]}, "one row for each of 2 tasks"),
        ({"accuracy": [[0.9, None], [0.9]]}, "2 values"),
        ({"accuracy": [[0.9, None], [0.9, None]]}, "row 2"),
        ({"accuracy": [[0.9, None], [97.0, 0.9]]}, r"not in \[0, 1\]"),
        ({"accuracy": [[None, 0.1], [0.9, 0.9]]}, "row 1"),
        ({"accuracy": [[None, None], [None, None]]}, "row 2"),
        ({"tasks": None}, "tasks is not a list"),
    ],
)
def test_damaged_results_are_named_with_a_remedy(small, fields, words):
    path = small / "results/ewc/seed-0.json"
    change(path, **fields)
    with pytest.raises(UserError, match=words) as caught:
        build(small)
    assert str(path) in str(caught.value)
    assert "--methods ewc --seeds 0" in str(caught.value)


@pytest.mark.parametrize("kind", ["", ".trials", ".cost"])
def test_unreadable_and_incomplete_files_are_named(small, kind):
    path = small / f"results/ewc/seed-0{kind}.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read") as caught:
        build(small)
    assert str(path) in str(caught.value)
    path.write_text('{"schema": 1}')
    with pytest.raises(UserError, match="is incomplete") as caught:
        build(small)
    assert str(path) in str(caught.value)


@pytest.mark.usefixtures("unrendered")
def test_works_without_costs_and_trials_and_drops_the_stale_figure(small):
    build(small)
    for path in [*small.glob("results/*/*.cost.json"), *small.glob("results/*/*.trials.json")]:
        path.unlink()
    (small / "report/plots/mine.png").write_bytes(b"thesis")
    summary = build(small)
    assert (small / "report/plots/mine.png").read_bytes() == b"thesis"
    assert row(summary, "ewc").relative_time is None
    assert "no record of their cost" in (summary.folder / "index.html").read_text()
    assert not (summary.folder / "plots/cost.png").exists()


@pytest.mark.parametrize(
    ("methods", "seeds", "tasks"), [(["ewc"], [3], 1), (["joint"], [0], 2), (["joint", "finetune"], [0, 1], 1)]
)
def test_the_smallest_comparisons(tmp_path, methods, seeds, tasks):
    summary = build(fake_results(tmp_path, methods, seeds, tasks))
    assert len(summary.rows) == len(methods)
    assert (row(summary, methods[0]).accuracy[1] is None) == (len(seeds) == 1)
    assert "nan" not in leaderboard(summary)
    drawn = {path.stem for path in (summary.folder / "plots").iterdir()}
    assert ("matrices" in drawn, "tradeoff" in drawn) == (tasks > 1, False), "nothing that was forgotten"
    page = Page((summary.folder / "index.html").read_text())
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_one_task_is_ranked_once_and_has_nothing_to_forget(tmp_path):
    out = fake_results(tmp_path, ("ewc", "si", "finetune"), (0, 1), 1)
    for method, seed in itertools.product(("ewc", "si", "finetune"), (0, 1)):
        changed(out, method, seed=seed, accuracy=[[0.9]], task_agnostic_accuracy=[[0.9]])
    found = build(out)
    assert found.headline.startswith("By these seeds no method is better than finetune, as one task leaves nothing to")
    assert "The same models" not in leaderboard(found) + (found.folder / "index.html").read_text()


def test_intervals_wider_than_there_can_be_are_drawn_as_far_as_there_is(tmp_path):
    out = fake_results(tmp_path, ["finetune", "ewc"], [0, 1], 2)
    path = out / "results" / "ewc" / "seed-1.json"
    result = json.loads(path.read_text())
    result["accuracy"] = [[0.2, None], [0.9, 0.3]]  # beside seed 0: an interval of two seeds is 12.7 deviations wide
    path.write_text(json.dumps(result))
    build(out)
    assert (out / "report" / "plots" / "tradeoff.png").exists()


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("name", ["index.html", "summary.json", "accuracy.csv"])
def test_a_page_of_somebody_else_is_not_replaced(name, small):
    (small / "report").mkdir()
    (small / "report" / name).write_text("<title>My thesis</title>")
    with pytest.raises(UserError, match=f"{name}: is no file of the report.*--out"):
        build(small)
    assert (small / "report" / name).read_text() == "<title>My thesis</title>"
    (small / "report" / name).unlink()
    folder = build(small).folder
    whole = digests(folder)
    (folder / name).write_text("damaged")
    build(small)
    assert digests(folder) == whole, "of ours, a damaged file is made whole"


@pytest.mark.usefixtures("unrendered")
def test_a_report_that_cannot_be_written_leaves_the_results_alone(small):
    (small / "report").write_text("in the way")
    before = digests(small / "results")
    with pytest.raises(UserError, match="cannot write the report"):
        build(small)
    assert digests(small / "results") == before


def test_a_method_looks_the_same_in_every_comparison():
    """Each known method has a look of its own; one that is not known yet has one that its name alone decides."""
    known = [name for name in names_in("methods") if name not in ("joint", "finetune")]
    assert sorted(styles.KNOWN) == known, "a new method goes to the end of looks.KNOWN"
    looks = styles.looks([*known, "joint", "finetune"])
    assert len({(look.hue, look.marker) for look in looks.values()}) == len(looks)
    assert styles.looks(["ncm", "mine"])["ncm"] == looks["ncm"]
    assert styles.look_of("mine") == styles.looks(["mine", *known])["mine"]


def test_numbers_for_people():
    assert [times(ratio) for ratio in (2.44, 0.05, 0.0312, None)] == ["2.4x", "0.1x", "0.031x", "–"]
    assert percent((0.93105, 0.0042)) == "93.11 ± 0.42"
    assert percent((-1e-9, 0.0)) == "0.00 ± 0.00"
    assert percent((0.5, None)) == "50.00"
    assert [size(n) for n in (12, 36_000, 105_400, 7_300_000, 2.5e9)] == [
        "12 B",
        "36.0 kB",
        "105 kB",
        "7.3 MB",
        "2.5 GB",
    ]
    assert [duration(s) for s in (3.21, 300, 7260)] == ["3.2 s", "5 min", "2 h 01 min"]
    assert listing(["a"]) == "a"
    assert listing(["a", "b", "c"]) == "a, b and c"


def test_dvc_plots_show_needs_no_network():
    vendor = REPOSITORY / ".dvc/vendor"
    text = (vendor / "page.html").read_text()
    assert "{plot_divs}" in text
    assert "{scripts}" not in text  # DVC would put its own addresses there
    assert "://" not in text
    scripts = [link for link in Page(text).links if link]
    assert len(scripts) == 3
    assert all((REPOSITORY / "dvc_plots" / link).resolve().parent == vendor for link in scripts)
    assert all((vendor / Path(link).name).stat().st_size > 50_000 for link in scripts)


def test_dvc_template_takes_the_columns_of_accuracy_csv(built):
    template = (REPOSITORY / ".dvc/plots/methods.json").read_text()
    header = (built.folder / "accuracy.csv").read_text().splitlines()[0].split(",")
    assert {"method", "seed"} <= set(header)
    assert {"rev", "method", "x"} == set(json.loads(template)["transform"][2]["groupby"])
    assert {f"<DVC_METRIC_{anchor}>" for anchor in ("DATA", "X", "Y", "TITLE", "X_LABEL", "Y_LABEL")} <= set(
        re.findall(r"<DVC_METRIC_\w+>", template)
    )


# Asked in another way, more measures, a front -----------------------------------------------------------------


def changed(out: Path, method: str, kind: str = "", seed: int = 0, **fields: Any) -> None:
    """Lay fields over one file of made-up results."""
    path = out / "results" / method / f"seed-{seed}{kind}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.usefixtures("unrendered")
def test_the_other_setting_is_a_ranking_of_its_own(tmp_path):
    out = fake_results(tmp_path, ("ewc", "si", "hat", "joint"), (0,), 2)
    changed(out, "ewc", task_agnostic_accuracy=[[0.5, None], [0.2, 0.4]])
    changed(out, "si", task_agnostic_accuracy=[[0.5, None], [0.5, 0.4]])
    changed(out, "joint", task_agnostic_accuracy=[[None, None], [0.9, 0.8]])
    built = build(out)
    told, other = leaderboard(built).split("The same models, task-agnostic:")
    assert [line.split("|")[2].strip() for line in other.splitlines() if line.startswith("|")][2:] == [
        "joint",
        "si",
        "ewc",
    ]
    assert "| 45.00 |" in re.sub(" +", " ", other)
    assert "Left out, as they need the task of an image: hat." in other
    assert "hat" in told
    assert json.loads((out / "report/summary.json").read_text())["si"]["task_agnostic_accuracy"] == 0.45
    page = (out / "report/index.html").read_text()
    assert "The same models, task-agnostic" in page
    assert "Without the methods that need the task: hat." in page


@pytest.mark.usefixtures("unrendered")
def test_results_of_two_scenarios_are_never_ranked_together(tmp_path):
    out = fake_results(tmp_path, ("ewc", "si"), (0,), 2)
    changed(out, "si", scenario="class-incremental")
    with pytest.raises(UserError, match=r"scenarios \(permuted-digits, 2 tasks; permuted-digits, class-incremental"):
        build(out)
    changed(out, "ewc", scenario="class-incremental", task_aware_accuracy=[[0.9, None], [0.8, 0.9]])
    built = build(out)
    assert built.benchmark == "permuted-digits, class-incremental"
    assert "The same models, task-aware:" in leaderboard(built)
    changed(out, "si", search="pareto search, stability on memory")
    with pytest.raises(UserError, match="cannot be ranked together"):
        build(out)


@pytest.mark.usefixtures("unrendered")
def test_what_an_interval_covers_is_said(tmp_path):
    out = fake_results(tmp_path, ("ewc",), (0, 1), 2)
    rows = compare(read_runs(out))
    told = leaderboard(Summary("b", ("a", "b"), rows, "", out))
    assert "over seeds: initialisation, order of samples and draws; the benchmark stays.\n" in told
    changed(out, "ewc", benchmark_seed="run")
    with pytest.raises(UserError, match=r"permuted-digits, drawn by each seed, 2 tasks; permuted-digits, 2 tasks"):
        read_runs(out)
    changed(out, "ewc", seed=1, benchmark_seed="run")
    built = build(out)
    covers = "initialisation, order of samples and draws, and the benchmark's own draws (splits, permutations)"
    assert f"over seeds: {covers}.\n" in leaderboard(built)
    page = (built.folder / "index.html").read_text().replace("&#39;", "'")
    assert page.count(covers) == 2, "above the leaderboard, and under how it was run"


@pytest.mark.usefixtures("unrendered")
def test_more_measures_with_their_formulas(tmp_path):
    out = fake_results(tmp_path, ("ewc", "joint"), (0,), 2)
    page = (build(out).folder / "index.html").read_text()
    assert "1/(T−1) Σ<sub>j&lt;T</sub> (a<sub>T,j</sub> − a<sub>j,j</sub>)" in page
    assert "<dt>intransigence</dt>" in page
    assert "<dt>forward transfer</dt>" not in page, "was not measured"
    data = json.loads((out / "results/ewc/seed-0.json").read_text())
    entries = [entry | {"network_bytes": 1000 * (k + 1)} for k, entry in enumerate(data["per_task"])]
    entries[1] |= {"zero_shot_accuracy": 0.3, "untrained_accuracy": 0.1}
    changed(out, "ewc", per_task=entries)
    (row,) = (row for row in build(out).rows if row.method == "ewc")
    assert row.measures["forward transfer"] == (pytest.approx(0.2), None)
    sizes = [entry["state_bytes"] + entry["network_bytes"] for entry in entries]
    assert row.measures["size efficiency"] == (pytest.approx((1 + sizes[0] / sizes[1]) / 2), None)
    joint = json.loads((out / "results/joint/seed-0.json").read_text())["accuracy"][-1]
    learned = [data["accuracy"][k][k] for k in range(2)]
    assert row.measures["intransigence"] == (pytest.approx((sum(joint) - sum(learned)) / 2), None)
    assert "<dt>forward transfer</dt>" in (out / "report/index.html").read_text()


@pytest.mark.usefixtures("unrendered")
def test_knobs_as_given_are_said_to_be_so(tmp_path):
    out = fake_results(tmp_path, ("ewc", "finetune"), (0,), 2)
    assert "how they were found" in (build(out).folder / "index.html").read_text()
    for method in ("ewc", "finetune"):
        entries = json.loads((out / f"results/{method}/seed-0.json").read_text())["per_task"]
        given = [entry | {"threshold": None, "plasticity_accuracy": None} for entry in entries]
        changed(out, method, per_task=given)
    page = (build(out).folder / "index.html").read_text()
    assert "Hyperparameters, as given" in page
    assert "how they were found" not in page


def test_a_front_is_drawn_where_one_was_searched_for(tmp_path, unrendered):
    out = fake_results(tmp_path, ("ewc", "joint"), (0,), 3)
    build(out)
    assert not (out / "report/plots/fronts.png").exists()
    tried = json.loads((out / "results/ewc/seed-0.trials.json").read_text())["trials"]
    kept = [t | {"stability": 0.5, "kept": False} if t["phase"] == "stability" else t for t in tried]
    for index in (1, 2):
        for number, (a, s) in enumerate([(0.9, 0.7), (0.85, 0.9), (0.6, 0.6)], start=20):
            new = trial("t", index, "pareto", number, 0.05, {"strength": 7.0}, a, 0.7, number == 21)
            kept.append(new | {"stability": s})
    changed(out, "ewc", ".trials", trials=kept)
    changed(out, "ewc", search="pareto search, stability on holdout")
    changed(out, "joint", search="pareto search, stability on holdout")
    unrendered.undo()
    page = (build(out).folder / "index.html").read_text()
    assert (out / "report/plots/fronts.png").exists()
    assert "more information than a continual learner has" in page
    assert '<a href="#fronts">' in page
    changed(out, "ewc", search="pareto search, stability on memory")
    changed(out, "joint", search="pareto search, stability on memory")
    sketched(unrendered)
    assert "more information" not in (build(out).folder / "index.html").read_text()


def test_a_front_of_which_parts_are_missing_is_drawn_as_far_as_it_is_there(tmp_path):
    """As in files that were edited: a task without any trial, none that was kept, no threshold; a single task."""
    for tasks in (1, 3):
        out = fake_results(tmp_path / str(tasks), ("ewc",), (0,), tasks)
        found = [trial("t", tasks - 1, "pareto", n, 0.05, {"strength": 7.0}, 0.9, None, False) for n in range(2)]
        changed(out, "ewc", ".trials", trials=[one | {"stability": 0.5} for one in found])
        rows = compare(read_runs(out))
        summary = Summary("b", tuple("abc"[:tasks]), rows, "", out)
        assert figures.fronts(summary).axes


def test_results_of_one_method_go_into_its_page_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = fake_results(tmp_path / "out", ("ewc", "finetune"), (0,), 2)
    monkeypatch.chdir(tmp_path)
    folder = Path("docs/methods")
    folder.mkdir(parents=True)
    empty = "before <!-- results -->\nnothing\n<!-- /results --> after"
    for name in ("ewc", "finetune"):
        (folder / f"{name}.md").write_text(empty, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["pages", "--all", str(out), "--methods", "ewc"])
    assert pages.main() == 0
    text = (folder / "ewc.md").read_text(encoding="utf-8")
    assert re.search(r"before <!-- results -->\n\| .*\| \*\*ewc\*\* \|.*\n<!-- /results --> after", text, re.DOTALL)
    assert (folder / "finetune.md").read_text(encoding="utf-8") == empty
