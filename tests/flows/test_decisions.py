"""What the report decides for the reader: ranks, winners, limits; and that it can be read."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import sys
import urllib.parse
from pathlib import Path

import pytest

from benchmarks.tables import with_looks
from cl import cli
from cl.chance import Chance
from cl.reading import read_runs
from flows.report import costs, heat, looks
from flows.report.build import build
from flows.report.drawing import Drawing
from flows.report.headline import headline
from flows.report.leaderboard import leaderboard
from flows.report.limits import cards, growth_of, needs_of, offered
from flows.report.made import made_of
from flows.report.page import page
from flows.report.rows import compare
from flows.report.standing import beaten_by, ranks
from flows.report.summary import Summary
from tests.flows.conftest import REPOSITORY
from tests.flows.test_report import as_learned, change, fake_results

# What is better, by hand: differences 2.0, 2.1 and 1.9 points are told apart, 2, -2 and 3 are not.
VALUES = {
    "a": {0: 0.90, 1: 0.98, 2: 0.94},
    "b": {0: 0.88, 1: 1.00, 2: 0.91},
    "c": {0: 0.88, 1: 0.959, 2: 0.921},
    "wide": {0: 0.30, 1: 0.99, 2: 0.20},
}


def test_ranks_are_shared_where_seeds_tell_nothing_apart() -> None:
    assert beaten_by(VALUES) == {"a": [], "b": [], "c": ["a"], "wide": []}
    assert ranks(VALUES) == {"a": 1, "b": 1, "c": 2, "wide": 2}, "a wide interval is no merit"
    assert ranks({"a": {0: 0.9}, "b": {0: 0.8}, "c": {1: 0.7}}) == {"a": 1, "b": 2, "c": 3}, "no test: by the mean"
    failed = {"a": {0: 0.9, 1: 0.8}, "one seed left": {0: 0.88}, "b": {0: 0.7, 1: 0.9}}
    assert ranks(failed) == dict.fromkeys(failed, 1), "a run that failed tells no method apart from another"


def summary_of(out: Path, accuracies: dict[str, dict[int, float]], chance: float | None) -> Summary:
    rows = compare(read_runs(as_learned(out, accuracies)))
    guess = None if chance is None else Chance(chance, 0.0)
    return Summary("b", ("t",), rows, headline(rows, guess), out, (), "task-agnostic", guess, guess)


@pytest.mark.parametrize(
    ("accuracies", "chance", "said"),
    [
        # No winner where the bound itself did not learn.
        (
            {"joint": {0: 0.40, 1: 0.41}, "ewc": {0: 0.44, 1: 0.45}, "si": {0: 0.3, 1: 0.3}},
            0.389,
            "Nothing was learned, so no method wins: joint, which sees all tasks at once, reaches 40.5 ± 6.4 %, and "
            "chance is 38.9 %. joint did not learn: try more epochs, smaller batches, pretrained weights.",
        ),
        (
            {"joint": {0: 0.90, 1: 0.91}, "ewc": {0: 0.44, 1: 0.44}, "si": {0: 0.3, 1: 0.3}},
            0.389,
            "No method wins: none is clearly above chance. The best, ewc, has 44.0 ± 0.0 %, and chance is 38.9 %. "
            "joint reaches 90.5 ± 6.4 %.",
        ),
        # Nor where no test says that anything is better than doing nothing.
        (
            {"finetune": {0: 0.7, 1: 0.8, 2: 0.75}, "ewc": {0: 0.8, 1: 0.75, 2: 0.74}, "si": {0: 0.6, 1: 0.9, 2: 0.7}},
            0.1,
            "By these seeds no method is better than finetune, which does nothing against forgetting. "
            "ewc has the highest mean: 76.3 ± 8.0 % average accuracy, 1.3 points above finetune (not told apart).",
        ),
        (
            {"ewc": VALUES["a"], "si": VALUES["b"], "gem": VALUES["c"]},
            0.1,
            "ewc and si share the first rank: these seeds do not tell them apart. ewc has the highest mean: "
            "94.0 ± 9.9 % average accuracy.",
        ),
        ({"ewc": VALUES["a"], "gem": VALUES["c"]}, 0.1, "ewc leads with 94.0 ± 9.9 % average accuracy."),
        # Where the data are gone, chance is not known, and nothing is said of it.
        ({"ewc": {0: 0.1, 1: 0.1}, "gem": {0: 0.05, 1: 0.05}}, None, "ewc leads with 10.0 ± 0.0 % average accuracy."),
    ],
)
def test_a_winner_is_named_only_where_there_is_one(
    tmp_path: Path, accuracies: dict[str, dict[int, float]], chance: float | None, said: str
) -> None:
    assert summary_of(tmp_path, accuracies, chance).headline == said


def test_where_nothing_was_learned_there_is_no_rank_and_no_card(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, {"joint": {0: 0.40, 1: 0.41}, "ewc": {0: 0.44, 1: 0.45}}, 0.389)
    text = re.sub(" +", " ", leaderboard(summary))
    assert "| – | ewc | 44.50" in text
    assert "chance: 38.9 %" in text
    assert "Near chance: ewc, joint." in text
    assert [card.row for card in cards(summary, needs_of(summary))] == [None]
    html = page(summary, dict.fromkeys(("average", "curves", "matrices", "tradeoff"), Drawing(b"", "")), {})
    assert "no method that it leaves is clearly above chance" in html
    assert html.count('<span class="near own">near chance</span>') == 2
    assert ">best</td>" not in html + text
    assert "| best |" not in text


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """icarl keeps samples, hat needs the task, and the state of ewc is made to grow."""
    out = fake_results(
        tmp_path_factory.mktemp("limits") / "out", ("joint", "finetune", "icarl", "hat", "ewc", "si"), (0, 1, 2), 4
    )
    for method in ("joint", "finetune", "icarl", "hat", "ewc", "si"):
        for seed in (0, 1, 2):
            path = out / "results" / method / f"seed-{seed}.json"
            entries = json.loads(path.read_text())["per_task"]
            sizes = [1000 * (k + 1) if method == "ewc" else 1000 for k in range(len(entries))]
            lines = json.loads(path.read_text())["accuracy"]
            blind = [[None if v is None else v / (4 if method == "icarl" else 2) for v in line] for line in lines]
            new = [entry | {"state_bytes": size} for entry, size in zip(entries, sizes, strict=True)]
            change(path, per_task=new, **({} if method == "hat" else {"task_agnostic_accuracy": blind}))
    return build(out)


def test_what_each_method_needs(limited: Summary) -> None:
    needs = needs_of(limited)
    assert {name: (need.samples, need.task, bool(need.growth)) for name, need in needs.items() if name != "joint"} == {
        "finetune": (False, False, False),
        "icarl": (True, False, False),
        "hat": (False, True, False),
        "ewc": (False, False, True),
        "si": (False, False, False),
    }
    assert needs["ewc"].growth == 1000
    assert needs["joint"].samples is True
    assert [limit.key for limit in offered(limited, needs)] == ["samples", "task", "growth"]


def test_heads_are_no_growth_of_storage(tmp_path: Path) -> None:
    """Every network gets a head of 400 bytes a task; gem's has 300 more, and its later half adds 600 to 2700."""
    out = fake_results(tmp_path / "out", ("ewc", "gem"), (0,), 4)
    for method, a_task in (("ewc", 400), ("gem", 700)):
        path = out / "results" / method / "seed-0.json"
        entries = json.loads(path.read_text())["per_task"]
        sizes = [{"state_bytes": 300, "network_bytes": 1000 + a_task * (k + 1)} for k in range(4)]
        change(path, per_task=[entry | size for entry, size in zip(entries, sizes, strict=True)])
    runs = read_runs(out)
    summary = Summary("b", ("t",) * 4, compare(runs), "", out)
    assert {name: need.growth for name, need in needs_of(summary).items()} == {"ewc": 0, "gem": 300}
    alone = dataclasses.replace(summary, rows=compare([run for run in runs if run.method == "ewc"]))
    assert needs_of(alone)["ewc"].growth is None, "whether its network grows by heads alone is not known"


def test_a_card_says_where_the_best_is_not_better_than_doing_nothing(tmp_path: Path) -> None:
    found = summary_of(tmp_path, {"finetune": {0: 0.8, 1: 0.82}, "ewc": {0: 0.7, 1: 0.71}, "gem": VALUES["b"]}, 0.1)
    told = {card.title: (card.row and card.row.method, card.unbeaten) for card in cards(found, needs_of(found))}
    assert told["No raw samples may be kept"][0] == "ewc"
    lower = next(row for row in found.rows if row.method == "finetune")
    assert told["No raw samples may be kept"][1] == ("finetune", lower.accuracy)
    html = page(found, {"average": Drawing(b"", "")}, {})
    assert "not better than finetune, the lower bound: 81.0 ± 12.7 %" in html


def test_an_axis_holds_the_points_in_its_larger_part() -> None:
    assert looks.within([90.0, 95.0], (89.0, 97.0)) == (89.0, 97.0), "narrow intervals are held whole"
    assert looks.within([90.0, 95.0], (10.0, 170.0)) == (88.0, 97.0)
    assert looks.accuracy_scale([(0.9, 0.01), (0.7, 0.6)]) == (60.0, 100.0)


def test_an_axis_of_costs_names_some_of_them() -> None:
    seconds, sizes = costs.SECONDS, costs.BYTES
    assert costs.named_values([17.3, 51.0], seconds, 5, 1.0) == [20, 30, 40, 50]
    assert costs.named_values([21.0, 22.0], seconds, 5, 1.0) == [21, 22], "no round one is between"
    assert costs.named_values([34e3, 133e3], sizes, 3, 1.9) == [50e3, 100e3]
    assert costs.named_values([40e3, 41e3], sizes, 3, 1.9) == [41e3], "two would be printed over each other"
    assert costs.named_values([], sizes, 3, 1.9) == []


def test_two_tasks_say_nothing_of_growth(tmp_path: Path) -> None:
    assert growth_of(read_runs(fake_results(tmp_path, ("ewc",), (0,), 2))[0]) is None


def test_the_best_method_under_each_limit(limited: Summary) -> None:
    """Where the task is not known, accuracies are task-agnostic: there icarl, the best of all, has a quarter."""
    best = {
        card.title: (card.row.method if card.row else None, card.other) for card in cards(limited, needs_of(limited))
    }
    accuracy = {row.method: row.accuracy[0] for row in limited.rows}
    first = max(("icarl", "hat", "ewc", "si"), key=lambda method: accuracy[method])
    assert best["No limit"] == (first, False)
    assert best["No raw samples may be kept"] == (max(("hat", "ewc", "si"), key=lambda m: accuracy[m]), False)
    assert best["The task of an image is not known"] == (max(("ewc", "si"), key=lambda m: accuracy[m]), True)
    assert best["All these limits"] == ("si", True)


def test_the_page_has_what_its_script_ranks_by(limited: Summary) -> None:
    text = (limited.folder / "index.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])  # type: ignore[index]
    values = {row.method: row.by_seed() for row in limited.rows if not row.bound}
    assert data["own"]["beaten"] == beaten_by(values)
    assert "hat" not in data["other"]["mean"]
    assert set(data["own"]["differences"]["joint"]) >= set(values)
    assert data["matrices"]["joint"][0] == [None] * 4
    kinds = re.findall(r'<tr data-method="(\w+)"[^>]* data-needs="([^"]*)">', text)
    assert {method: needs.split() for method, needs in kinds if method in values} == {
        "icarl": ["samples"], "hat": ["task"], "ewc": ["growth"], "si": [],
    }  # fmt: skip
    link = re.search(r'href="data:text/csv;charset=utf-8,([^"]*)"', text)
    assert link
    lines = list(csv.DictReader(io.StringIO(urllib.parse.unquote(link[1]))))
    assert [line["method"] for line in lines] == limited.methods
    by_method = {row.method: row for row in limited.rows}
    for line in lines:
        assert float(line["average_accuracy"]) == by_method[line["method"]].accuracy[0]
        assert line["rank"] == str(by_method[line["method"]].rank or "")


def test_points_of_figures_have_their_values(limited: Summary) -> None:
    text = (limited.folder / "index.html").read_text()
    titles = re.findall(r"<use [^>]*><title>(.*?)</title></use>", text)
    row = next(row for row in limited.rows if row.method == "si")
    assert f"si, 4 tasks learned: {100 * row.accuracy[0]:.1f} ± {100 * (row.accuracy[1] or 0):.1f} %" in titles
    assert f"si, task 1 after 2 tasks: {100 * (row.matrix[1][0] or 0):.1f} %" in titles
    assert any(title.startswith("si: ") and title.endswith(" of processor time") for title in titles)


def test_one_measure_of_time(limited: Summary) -> None:
    """The phases of the cost figure add up to the processor time by which the leaderboard ranks."""
    for row in limited.rows:
        assert sum(row.seconds.values()) == pytest.approx(row.process_seconds)
        spent = [run.cost["process_seconds"] for run in row.runs if run.cost]
        assert row.process_seconds == pytest.approx(sum(value or 0 for value in spent) / len(spent))


def test_matrices_show_what_was_lost() -> None:
    lost = heat.lost_points([[0.9, None], [0.85, 0.8]])
    assert lost == [[0.0, None], [5.0, 0.0]]
    assert heat.lost_points([[None, None], [0.7, 0.8]]) == [[None, None], [0.0, 0.0]], "learned at once"


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read() -> None:
    """A contrast of 4.5, as WCAG 2.1 asks, in both schemes, on paper, cards and the cells of matrices."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    grounds = {"paper", "card"}
    shapes = {"line", "bar"}
    for scheme in (0, 1):
        for name in looks.COLOURS.keys() - grounds - shapes:
            for ground in grounds:
                found = contrast(looks.COLOURS[name][scheme], looks.COLOURS[ground][scheme])
                assert found >= 4.5, f"{name} on {ground}, {('light', 'dark')[scheme]}: {found:.2f}"
    from matplotlib.colors import to_hex

    cells = [to_hex(looks.HEAT(step / 100)) for step in range(101)] + [looks.GAIN]
    assert min(contrast(looks.ON_HEAT, cell) for cell in cells) >= 4.5
    light = {light for light, _ in looks.COLOURS.values()}
    assert light.isdisjoint({*cells, looks.ON_HEAT}), "the page would change it in the dark scheme, and not the text"
    style = (REPOSITORY / "flows/report/parts/style.css").read_text()
    used = set(re.findall(r"[{;] color: var\(--([\w-]+)\)", style))
    assert used
    assert used <= looks.COLOURS.keys() - grounds - shapes


def test_dvc_draws_a_method_as_the_report_does() -> None:
    """`python -m benchmarks.tables` writes it anew."""
    template = json.loads((REPOSITORY / ".dvc/plots/methods.json").read_text())
    assert template == with_looks(template)
    changed = json.loads(json.dumps(template).replace(looks.look_of("ewc").colour, "#000000"))
    assert with_looks(changed) == template, "the colours are written everywhere they stand"


def test_it_says_how_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = fake_results(tmp_path / "out", ("ewc",), (0,), 2)
    paths = [out / "results/ewc/seed-0.json"]
    given = ["--params", str(REPOSITORY / "params.yaml"), "--set", "tracking.uri=http://me:secret@host:1"]
    params = cli.params_of(cli.parser("test", None).parse_args(given))
    monkeypatch.setattr(sys, "orig_argv", ["/bin/python3", "-X", "dev", "-m", "flows.compare", *given])
    monkeypatch.setattr(sys, "argv", ["/somewhere/flows/compare.py", *given])
    made = made_of(params, out, paths, learned=True)
    assert made.command.startswith("python -m flows.compare --params ")
    assert "secret" not in str(dataclasses.astuple(made))
    assert "http://host:1" in made.params
    champion = next(step.command for step in made.steps if "champion" in step.command)
    assert champion == made.command.replace("flows.compare", "flows.champion")
    assert not [step for step in made_of(params, out, paths, learned=False).steps if "champion" in step.command]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", made.date)
    monkeypatch.setattr(sys, "orig_argv", ["/bin/python3", "-m", "prefect", "worker", "start"])
    assert made_of(params, out, paths, learned=True).command.startswith(
        f"python -m flows.compare --params FILE --out {out}"
    )
    text = (build(out, params=params).folder / "index.html").read_text()
    assert made.date in text
    assert "epochs: 70" in text
    assert 'id="next"' in text
    assert "secret" not in text
