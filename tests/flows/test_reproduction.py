"""Our results beside the survey's: what is kept, and what stands on the page."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import pages, reproduction
from cl.errors import UserError
from tests.flows.test_report import METHODS, REPOSITORY, fake_results


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the studies, the page as it is, and a run of the scaled study with the seeds 0, 1 and 2."""
    (tmp_path / "studies").symlink_to(REPOSITORY / "studies")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/reproduction.md").write_text((REPOSITORY / "docs/reproduction.md").read_text())
    monkeypatch.chdir(tmp_path)
    fake_results(tmp_path / "out", tasks=5)
    keep(monkeypatch, tmp_path / "out")
    return tmp_path


def keep(monkeypatch: pytest.MonkeyPatch, out: Path, study: str = "tiny-imagenet-scaled") -> None:
    monkeypatch.setattr("sys.argv", ["reproduction", "--out", str(out), "--study", study])
    assert reproduction.main() == 0


def block(project: Path, study: str) -> str:
    found = re.search(f"<!-- {study} -->\n(.*?)<!-- /{study} -->", (project / "docs/reproduction.md").read_text(), re.S)
    assert found
    return found[1]


def accuracy(project: Path, out: str, method: str, seeds: tuple[int, ...]) -> float:
    """Mean of the average accuracies in per cent."""
    read = [json.loads((project / out / f"results/{method}/seed-{seed}.json").read_text()) for seed in seeds]
    return 100 * sum(sum(one["accuracy"][-1]) / 5 for one in read) / len(seeds)


def test_raw_results_are_kept(project: Path) -> None:
    kept = project / "reproduction/tiny-imagenet-scaled"
    files = {path.relative_to(project / "out") for path in (project / "out/results").rglob("*.json")}
    assert {path.relative_to(kept) for path in kept.rglob("*.json")} == files | {Path("summary.json")}


def test_what_somebody_wrote_beside_what_is_kept_stays(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = project / "reproduction/tiny-imagenet-scaled"
    (kept / "notes.md").write_text("thesis")
    (kept / "results/ewc/seed-9.json").write_text("of an earlier run")
    keep(monkeypatch, project / "out")
    assert (kept / "notes.md").read_text() == "thesis"
    assert not (kept / "results/ewc/seed-9.json").exists()


@pytest.mark.parametrize("out", ["reproduction/tiny-imagenet-scaled", "reproduction/tiny-imagenet-scaled/results/.."])
def test_what_is_kept_is_not_kept_from_itself(out: str, project: Path) -> None:
    before = {path: path.read_bytes() for path in (project / "reproduction").rglob("*.json")}
    with pytest.raises(UserError, match=r"--out: .* is in reproduction"):
        reproduction.keep(project / out, "tiny-imagenet-scaled")
    assert {path: path.read_bytes() for path in (project / "reproduction").rglob("*.json")} == before


def test_a_study_is_a_name_and_no_path(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "mine.yaml").write_text("")
    (project / "mine").mkdir()
    (project / "mine/summary.json").write_text("thesis")
    monkeypatch.setattr("sys.argv", ["reproduction", "--out", "out", "--study", "../mine"])
    with pytest.raises(UserError, match="--study"):
        reproduction.main()
    assert (project / "mine/summary.json").read_text() == "thesis"


def test_table_has_each_method_beside_the_published_figures(project: Path) -> None:
    text = block(project, "tiny-imagenet-scaled")
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert {line.split(" | ")[0].removeprefix("| ") for line in lines} == set(METHODS)
    ewc = next(line for line in lines if line.startswith("| ewc "))
    assert f"{accuracy(project, 'out', 'ewc', (0, 1, 2)):.2f} (" in ewc
    assert "45.13 (0.86) | 42.43 (7.51)" in ewc
    figures = [float(line.split(" | ")[1].split()[0]) for line in lines]
    assert figures == sorted(figures, reverse=True)


def test_tau_is_of_the_methods_both_have() -> None:
    published = {name: value for name, (value, _) in reproduction.PUBLISHED["SMALL"].items()}
    assert reproduction.taus(published)["SMALL"] == 1.0
    assert reproduction.taus({name: -value for name, value in published.items()})["SMALL"] == -1.0
    assert reproduction.taus({**published, "mean_imm": 99.0})["SMALL"] == 1.0, "not in that column"
    swapped = {**published, "finetune": 60.0}
    assert reproduction.taus(swapped)["SMALL"] < 1.0
    assert reproduction.taus(swapped)["SMALL without bounds"] == 1.0
    assert reproduction.agreement({"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 2, "b": 3}) == (pytest.approx(1 / 3), 3)


def test_undone_scaling_is_beside_the_same_seeds(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = "tiny-imagenet-scaled-epochs"
    fake_results(project / "again", ["si", "ewc"], (1,), tasks=5)
    run_again = project / "again/results/si/seed-1.json"
    changed = json.loads(run_again.read_text())
    changed["accuracy"][-1] = [0.5] * 5
    run_again.write_text(json.dumps(changed))
    keep(monkeypatch, project / "again", study)
    text = block(project, study)
    assert f"| si | 1 | {accuracy(project, 'out', 'si', (1,)):.2f} (" in text
    assert re.search(r"\| si \|.*\| 50\.00 \(\S+\) \| 23\.91 \(23\.26\) \|", text)
    assert "tau" not in text, "the other methods would have changed too"


def test_ranking_is_whole_where_knobs_alone_change(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = "tiny-imagenet-scaled-memories"
    fake_results(project / "again", ["gem", "icarl"], (0, 1), tasks=5)
    for method in ("gem", "icarl"):
        for seed in (0, 1):
            path = project / f"again/results/{method}/seed-{seed}.json"
            changed = json.loads(path.read_text())
            changed["accuracy"][-1] = [0.01] * 5
            path.write_text(json.dumps(changed))
    keep(monkeypatch, project / "again", study)
    before = {name: accuracy(project, "out", name, (0, 1)) for name in METHODS}
    after = before | {"gem": 1.0, "icarl": 1.0}
    text = " ".join(block(project, study).split())
    assert reproduction.taus(before) != reproduction.taus(after)
    assert f"same seeds: {reproduction.in_words(reproduction.taus(after))}; as scaled: " in text
    assert f"as scaled: {reproduction.in_words(reproduction.taus(before))}." in text


def test_unknown_study_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["reproduction", "--out", "out", "--study", "tiny"])
    with pytest.raises(UserError, match=r"there is no studies/tiny\.yaml"):
        reproduction.main()


@pytest.mark.parametrize("text", ["null", "{", '[{"method": "ewc"}]', "[1]"])
def test_figures_that_are_damaged_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "switches.json").write_text(text)
    with pytest.raises(UserError, match=r"switches\.json: damaged.*python -m benchmarks\.switches"):
        pages._fill_switches(tmp_path)
    path = tmp_path / "results/ewc/seed-0.anytime.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match=rf"{path}: damaged.*python -m cl\.anytime"):
        pages.in_time(tmp_path)
