"""Published numbers beside ours: each verdict, each way in which the check turns red, and what is kept of a run."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import judging, packing, verification
from benchmarks.targets import Column, Tolerance, read_table
from cl.data.prepare import digest, prepare
from cl.errors import UserError
from cl.files import read_json, sealed, unsealed, write_json
from cl.metrics import average_accuracy, interval
from cl.params import read
from cl.run import learn
from tests.conftest import RAW, REPOSITORY
from tests.flows.conftest import SMALL

TWO, EITHER, OVERLAP = Tolerance(within=2), Tolerance(within=2, overlap=True), Tolerance(overlap=True)
KEPT = "reproduction/quick/results"


@pytest.mark.parametrize(
    ("target", "ours", "seeds", "tolerance", "expected"),
    [
        ((95.0, 0.5), (97.0, 0.1), 5, TWO, "agrees"),
        ((95.0, 0.5), (93.0, 0.1), 5, TWO, "agrees"),
        ((95.0, 0.5), (97.01, 9.0), 5, TWO, "disagrees"),
        ((95.0, 0.5), (97.01, 0.1), 5, EITHER, "disagrees"),
        ((95.0, 0.5), (97.5, 2.0), 5, EITHER, "agrees"),
        ((95.0, 0.5), (95.7, 0.2), 5, OVERLAP, "agrees"),
        ((95.0, 0.5), (95.71, 0.2), 5, OVERLAP, "disagrees"),
        ((95.0, None), (95.3, 0.2), 5, OVERLAP, "disagrees"),
        ((95.0, None), (95.0, None), 4, EITHER, "too few seeds"),
        ((95.0, 0.5), None, 0, EITHER, "not run"),
    ],
)
def test_verdict(target: Any, ours: Any, seeds: int, tolerance: Tolerance, expected: str) -> None:
    assert judging.verdict(target, ours, seeds, 5, tolerance) == expected


@pytest.mark.parametrize(
    ("difference", "seeds", "expected"),
    [
        ((0.5, 1.5), 10, "agrees"),
        ((1.0, 0.5), 10, "agrees"),
        ((0.5, 1.6), 10, "too few seeds"),
        ((2.6, 1.2), 10, "disagrees"),
        ((0.0, 0.1), 9, "too few seeds"),
        ((0.0, None), 10, "too few seeds"),
    ],
)
def test_verdict_on_a_paired_difference(difference: Any, seeds: int, expected: str) -> None:
    assert judging.verdict_on_difference(difference, seeds, 10, 2.0) == expected


@pytest.mark.parametrize(
    ("spread", "seeds", "half"),
    [("standard error", 20, 2.0930 * 0.22), ("standard deviation", 5, 2.7764 * 0.22 / 5**0.5), ("none", None, None)],
)
def test_published_interval_follows_from_what_is_printed(spread: Any, seeds: int | None, half: float | None) -> None:
    column = Column(study="studies/a.yaml", spread=spread, seeds=seeds, tolerance=TWO)
    assert judging.published((98.64, 0.22), column) == (98.64, None if half is None else pytest.approx(half, rel=1e-4))
    assert judging.published((98.64,), column) == (98.64, None)


def test_forgetting_from_the_best() -> None:
    assert judging.forgetting_from_best([[0.5, None, None], [0.9, 0.8, None], [0.6, 0.7, 1.0]]) == pytest.approx(0.2)
    assert judging.forgetting_from_best([[None, None], [0.6, 0.7]]) is None
    assert judging.forgetting_from_best([[0.6]]) is None


# A project of one small table, whose results are learned once for all tests.


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of finetune and ewc with seeds 0 and 1."""
    out = tmp_path_factory.mktemp("learned") / "out"
    params = read(REPOSITORY / "params.yaml", SMALL, methods=["finetune", "ewc"], seeds=[0, 1])
    prepare(params.benchmark, RAW, out / "prepared", say=lambda line: None)
    for method in params.methods:
        for seed in params.seeds:
            learn(params, method, seed, out, lambda event: None)
    return out


Change = Callable[[dict[str, Any]], None]


def table(change: Change = lambda tree: None) -> dict[str, Any]:
    column = {"study": "studies/quick.yaml", "spread": "none", "tolerance": {"within": 2}}
    share = {"within": 0.02}
    tree: dict[str, Any] = {
        "kind": "numbers", "title": "Q. Quick", "seeds": 2, "options": list(SMALL), "about": "Two tasks.",
        "source": {"paper": "Nobody", "where": "table 1", "link": "https://example.org", "mark": "quoted"},
        "columns": {"acc": column, "fgt": {**column, "quantity": "forgetting", "tolerance": share}},
        "rows": [
            {"name": "none", "method": "finetune", "values": {"acc": [0], "fgt": [0]}},
            {"name": "EWC", "method": "ewc", "values": {"acc": [0]}},
            {"name": "SI", "method": "si", "values": {"acc": [50]}},
        ],
    }  # fmt: skip
    change(tree)
    return tree


class Project:
    """A folder with one table of targets, a study, the page, and the runs packed where `pack` was called."""

    def __init__(self, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.out, self.patch = folder, out, monkeypatch
        for name in ("studies", "docs", "reproduction/targets"):
            (folder / name).mkdir(parents=True)
        shutil.copy(REPOSITORY / "params.yaml", folder / "studies/base.yaml")
        (folder / "studies/quick.yaml").write_text("extends: base.yaml\n")
        page = "<!-- summary -->\n<!-- /summary -->\n<!-- tables -->\n<!-- /tables -->\n"
        (folder / "docs/verification.md").write_text(page)
        monkeypatch.chdir(folder)
        runs = {seed: read_json(out / f"results/finetune/seed-{seed}.json")["accuracy"] for seed in (0, 1)}
        others = {seed: read_json(out / f"results/ewc/seed-{seed}.json")["accuracy"] for seed in (0, 1)}
        self.finetune = 100 * interval([average_accuracy(matrix) for matrix in runs.values()])[0]
        self.ewc = 100 * interval([average_accuracy(matrix) for matrix in others.values()])[0]
        self.forgotten = sum(matrix[0][0] - matrix[1][0] for matrix in runs.values()) / 2
        self.targets()

    def targets(self, change: Change = lambda tree: None) -> None:
        """Targets that our runs meet, and what `change` makes of them."""

        def met(tree: dict[str, Any]) -> None:
            tree["rows"][0]["values"] = {"acc": [self.finetune], "fgt": [self.forgotten]}
            tree["rows"][1]["values"] = {"acc": [self.ewc]}
            change(tree)

        (self.folder / "reproduction/targets/q.yaml").write_text(yaml.safe_dump(table(met)))

    def run(self, *arguments: str) -> int:
        self.patch.setattr("sys.argv", ["verification", *arguments])
        return verification.main()

    def page(self) -> str:
        return (self.folder / "docs/verification.md").read_text()


@pytest.fixture
def bare(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, out, monkeypatch)


@pytest.fixture
def project(bare: Project) -> Project:
    assert bare.run("--pack", str(bare.out), "--as", "quick") == 0
    assert bare.run("--check") == 0
    return bare


def row(project: Project, name: str) -> list[str]:
    line = next(line for line in project.page().splitlines() if line.startswith(f"| {name} |"))
    return line.strip("| ").split(" | ")


def test_page_sets_ours_beside_theirs(project: Project) -> None:
    assert "**3 of the 3 rows that were run agree; 1 was not run.**" in project.page()
    assert row(project, "none | acc")[5].startswith(f"{project.finetune:.2f} ± ")
    assert row(project, "none | fgt")[5].startswith(f"{project.forgotten:.3f} ± ")
    assert row(project, "EWC | acc")[6:9] == ["2", "2", "agrees"]
    assert row(project, "SI | acc")[5:9] == ["–", "–", "2", "not run"]
    tasks = read_json(project.out / "prepared/manifest.json")["tasks"]
    assert row(project, "EWC | acc")[9:] == ["none", digest([task["digest"] for task in tasks])[:8]]
    assert "python -m flows.compare --params studies/quick.yaml --methods finetune,ewc,si" in project.page()


def red(project: Project, capsys: pytest.CaptureFixture[str]) -> str:
    """What the check says; it has to end with 1."""
    capsys.readouterr()
    assert project.run("--check") == 1
    said = capsys.readouterr()
    assert said.out.endswith("red\n")
    return said.err


def test_run_that_disagrees_is_red_until_the_page_says_why(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(tree: dict[str, Any]) -> None:
        tree["rows"][1]["values"] = {"acc": [project.ewc + 2.01]}

    project.targets(fail)
    assert project.run() == 0
    assert row(project, "EWC | acc")[8] == "**disagrees**"
    assert "Q. Quick: EWC, acc: disagrees" in red(project, capsys)

    def explain(tree: dict[str, Any]) -> None:
        fail(tree)
        tree["rows"][1]["why"] = {"acc": "their memory is larger ([shown](ewc.md))"}

    project.targets(explain)
    assert project.run() == 0
    assert project.run("--check") == 0
    assert "- **EWC, acc**: their memory is larger" in project.page()
    assert "1 disagrees (1 explained, 0 open)" in project.page()


def test_run_that_just_agrees_is_green(project: Project) -> None:
    project.targets(lambda tree: tree["rows"][1].update(values={"acc": [project.ewc + 2]}))
    assert project.run() == 0
    assert project.run("--check") == 0
    assert row(project, "EWC | acc")[8] == "agrees"


def test_too_few_seeds_are_red(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (project.folder / KEPT / "ewc").glob("seed-1.*"):
        path.unlink()
    assert "EWC, acc: too few seeds (1)" in red(project, capsys)
    project.run()
    assert "EWC, acc: too few seeds (1)" in red(project, capsys)
    assert row(project, "EWC | acc")[8] == "**too few seeds**"


@pytest.mark.parametrize("name", ["seed-0.json", "seed-0.cost.json", "seed-0.origin.json"])
def test_missing_file_is_red(name: str, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (project.folder / KEPT / "ewc" / name).unlink()
    assert f"EWC, acc: {KEPT}/ewc/{name}: missing" in red(project, capsys)


def test_run_that_was_taken_away_is_red(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(project.folder / KEPT / "ewc")
    said = red(project, capsys)
    assert "docs/verification.md: is not what the files give" in said
    assert "  page:  | EWC | acc | " in said
    assert "  files: | EWC | acc | " in said


def edited_number(folder: Path) -> None:
    result = read_json(folder / "seed-0.json")
    result["accuracy"][1][0] = 0.123
    write_json(folder / "seed-0.json", result)


def edited_with_its_digest(folder: Path) -> None:
    edited_number(folder)
    origin = unsealed(read_json(folder / "seed-0.origin.json"))
    assert origin is not None
    origin["files"]["seed-0.json"] = packing.sha256_of(folder / "seed-0.json")
    write_json(folder / "seed-0.origin.json", sealed(origin))


def edited_origin(folder: Path) -> None:
    origin = read_json(folder / "seed-0.origin.json")
    write_json(folder / "seed-0.origin.json", {**origin, "commit": "1234567"})


def another_run(folder: Path) -> None:
    for path in folder.glob("seed-1.*"):
        path.with_name(path.name.replace("seed-1", "seed-0")).write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (edited_number, r"seed-0\.json: edited, its SHA-256 is not that of seed-0\.origin\.json"),
        (edited_with_its_digest, r"seed-0\.json: its average_accuracy is not that of its accuracy matrix"),
        (edited_origin, r"seed-0\.origin\.json: missing or edited"),
        (another_run, r"seed-0\.origin\.json: is of other files"),
    ],
)
def test_edited_results_are_red(
    edit: Callable[[Path], None], said: str, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(project.folder / KEPT / "ewc")
    with pytest.raises(UserError, match=said):
        packing.packed_runs(project.folder / "reproduction/quick", "ewc")
    assert "EWC, acc: " in red(project, capsys)


def test_page_that_was_edited_is_red(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    text = project.page().replace(f"{project.ewc:.2f}", "99.99")
    (project.folder / "docs/verification.md").write_text(text)
    assert "99.99" in red(project, capsys)


def test_study_that_changed_since_is_red(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    def longer(tree: dict[str, Any]) -> None:
        tree["options"].append("training.epochs=4")

    project.targets(longer)
    assert "was not learned as studies/quick.yaml says now (training.epochs: 3 -> 4)" in red(project, capsys)


def test_runs_of_other_settings_are_not_packed(bare: Project) -> None:
    bare.targets(lambda tree: tree["options"].append("training.epochs=4"))
    with pytest.raises(UserError, match=r"was not learned as the study .*training\.epochs: 3 -> 4"):
        bare.run("--pack", str(bare.out), "--as", "quick")
    assert not (bare.folder / "reproduction/quick").exists()


def test_setting_that_came_later_had_its_default(project: Project) -> None:
    """Results that were packed before a setting existed stay good."""
    packed = packing.packed_runs(project.folder / "reproduction/quick", "ewc")[0]
    params = verification.folders_of(verification.read_tables())["quick"]["ewc"]
    del packed.settings["training"]["momentum"]
    assert packing.unlike(packed.settings, params, packed.run) == []
    packed.settings["training"]["momentum"] = 0.8
    assert packing.unlike(packed.settings, params, packed.run) == ["training.momentum: 0.8 -> 0.9"]


def test_seed_that_draws_the_benchmark_too(project: Project) -> None:
    params = verification.folders_of(verification.read_tables())["quick"]["ewc"]
    params = params.model_copy(update={"benchmark": params.benchmark.model_copy(update={"seed": "run"})})
    first, second = packing.packed_runs(project.folder / "reproduction/quick", "ewc")
    assert packing.unlike(first.settings, params, first.run) == []
    assert packing.unlike(second.settings, params, second.run) == ["benchmark.seed: 0 -> 1"]


def test_runs_are_packed_one_after_the_other(bare: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = tmp_path / "out/quick"
    shutil.copytree(bare.out, part, ignore=shutil.ignore_patterns("seed-1*", "checkpoints"))
    assert bare.run("--pack", str(part)) == 0
    assert "reproduction/quick: 2 runs added, 0 replaced" in capsys.readouterr().out
    assert bare.run("--pack", str(bare.out), "--as", "quick") == 0
    assert "reproduction/quick: 2 runs added, 2 replaced" in capsys.readouterr().out
    assert row(bare, "EWC | acc")[6] == "2"


def test_variant_of_a_method_has_a_folder_of_its_own(project: Project) -> None:
    def stronger(tree: dict[str, Any]) -> None:
        row = {"name": "EWC, strong", "method": "ewc", "values": {"acc": [1]}, "apart": "strong"}
        tree["rows"].append({**row, "settings": ["methods.ewc.strength=1000"]})

    project.targets(stronger)
    assert project.run() == 0
    assert row(project, "EWC, strong | acc")[8] == "not run"
    assert "--set methods.ewc.strength=1000 --out out/quick-strong" in " ".join(project.page().split()).replace(
        "\\ ", ""
    )
    with pytest.raises(UserError, match=r"was not learned as the study .*methods\.ewc\.strength"):
        project.run("--pack", str(project.out), "--as", "quick-strong")


@pytest.mark.parametrize("name", ["tiny", "Quick"])
def test_unknown_folder_is_named(name: str, bare: Project) -> None:
    with pytest.raises(UserError, match=rf"no row is of a folder {name}; known: quick"):
        bare.run("--pack", str(bare.out), "--as", name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tree: tree.update(kind="numbr"), r"q\.yaml: kind: has to be one of numbers, order, implementation"),
        (lambda tree: tree.pop("seeds"), r"q\.yaml: seeds: is required"),
        (lambda tree: tree.update(seed=3), r"q\.yaml: seed: unknown key; did you mean 'seeds'"),
        (lambda tree: tree["columns"]["acc"].update(tolerance={}), r"needs within, or overlap: true"),
        (lambda tree: tree["columns"]["acc"].update(spread="standard error"), r"seeds: is required"),
        (lambda tree: tree["rows"][1].update(method="ewk"), r"there is no 'ewk'"),
        (lambda tree: tree["rows"][1].update(values={"accuracy": [1]}), r"EWC has a value of 'accuracy'"),
        (lambda tree: tree["rows"][1].update(values={"acc": ["high"]}), r"has to be a number"),
        (lambda tree: tree["rows"][1].update(why={"acc": "no idea"}), r"needs a link to what shows it"),
        (lambda tree: tree["rows"][1].update(settings=["a=1"]), r"settings: need `apart`"),
        (lambda tree: tree["rows"].append({**tree["rows"][1], "name": "E"}), r"accuracy of ewc in quick stands twice"),
    ],
)
def test_targets_that_are_wrong_are_refused_in_a_sentence(change: Change, said: str, bare: Project) -> None:
    bare.targets(change)
    with pytest.raises(UserError, match=said):
        read_table(bare.folder / "reproduction/targets/q.yaml")


def test_commit_is_the_one_with_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e"]
        return subprocess.run(["git", *who, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    def code(text: str) -> tuple[tuple[str, str], ...]:
        (tmp_path / "cl/a.py").write_text(text)
        return (("a.py", packing.sha256_of(tmp_path / "cl/a.py")),)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "cl").mkdir()
    git("init", "-q")
    commits = {}
    for text in ("a = 1\n", "a = 2\n"):
        known = code(text)
        git("add", "-A")
        git("commit", "-qm", text)
        commits[known] = git("rev-parse", "HEAD")
    assert {known: packing.commit_of(known) for known in commits} == commits
    assert packing.commit_of(code("a = 3\n")) is None


def test_ranking_is_of_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The survey's scaled table: a result that was edited no longer gives the summary beside it."""
    for name in ("reproduction", "docs", "studies"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    order = read_table(Path("reproduction/targets/d-survey-scaled.yaml"))
    assert [line.verdict for line in judging.lines_of(order)] == ["agrees", "disagrees"]
    path = Path("reproduction/tiny-imagenet-scaled/results/ewc/seed-0.json")
    result = json.loads(path.read_text())
    result["accuracy"][-1] = [0.9] * 5
    path.write_text(json.dumps(result))
    lines = judging.lines_of(order)
    assert {line.verdict for line in lines} == {"damaged"}
    assert "summary.json: is not what the results beside it give" in lines[0].red


def test_the_page_is_what_the_files_give(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """This project's own: the check that keeps a wrong file out."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("sys.argv", ["verification", "--check"])
    status = verification.main()
    assert status == 0, capsys.readouterr().err
