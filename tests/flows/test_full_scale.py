"""The survey's main table run by run, on a toy: order, limit, packing, the page, and runs from elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import full_scale
from benchmarks.full_scale import HOME, ORDER, PAGE, STUDY
from benchmarks.tables import marked
from cl.errors import Stopped, UserError
from cl.params import read
from cl.register import checked
from tests.conftest import RAW, REPOSITORY
from tests.flows.conftest import SMALL

BLOCK = marked("full-scale")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the command reads and writes, in which the study is a toy."""
    for name in ("studies", "docs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    (tmp_path / "data").symlink_to(RAW)
    (tmp_path / STUDY).write_text("methods: {ewc: {}, joint: {}, finetune: {}}\nseeds: [0]\n", encoding="utf-8")
    toy = read(tmp_path / STUDY, SMALL).model_dump_json(exclude={"tracking", "champion"})
    (tmp_path / STUDY).write_text(toy, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr("sys.argv", ["full_scale", *options])
    return full_scale.main()


def shown() -> str:
    found = BLOCK.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    return found[3]


def test_order_has_every_method_of_the_study() -> None:
    study = checked(read(REPOSITORY / STUDY))
    assert sorted(ORDER) == sorted(study.methods)
    first = [run.method for run in full_scale.in_order(study)][:5]
    assert first == ["finetune", "ewc", "si", "packnet", "lwf"]


def test_the_page_is_what_is_packed() -> None:
    """What stands there now; `--merge` and every finished run write it again."""
    found = BLOCK.search((REPOSITORY / PAGE).read_text(encoding="utf-8"))
    assert found is not None
    assert found[3] == full_scale.table(REPOSITORY / HOME, checked(read(REPOSITORY / STUDY)))


def test_run_by_run(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """At a limit, on from there, on another machine, and back."""
    with pytest.raises(Stopped, match="the same command goes on"):
        command(monkeypatch, "--minutes", "0.00001")
    assert not HOME.exists()
    assert command(monkeypatch, "--methods", "ewc,finetune") == 0
    through = shown()
    assert "2 of 3 methods are through." in through
    assert "| `joint` | not run | 55.70 (–) | | | |" in through
    packed = sorted(path.relative_to(HOME).as_posix() for path in HOME.rglob("*") if path.is_file())
    endings = (".cost.json", ".json", ".origin.json")
    assert packed == [f"results/{name}/seed-0{end}" for name in ("ewc", "finetune") for end in endings]

    elsewhere = ("--out", "elsewhere", "--home", "packed")
    assert command(monkeypatch, "--methods", "joint", *elsewhere) == 0
    assert shown() == through, "the page is of the folder of the study alone"
    capsys.readouterr()
    assert command(monkeypatch, "--merge", "packed") == 0
    assert "1 runs taken over" in capsys.readouterr().out
    assert "3 of 3 methods are through." in shown()
    shutil.rmtree("out")
    assert command(monkeypatch) == 0
    assert not Path("out/full-scale/results").exists(), "all are packed: nothing is learned again"

    path = Path("packed/results/joint/seed-0.json")
    path.write_text(path.read_text(encoding="utf-8").replace("0.", "1.", 1), encoding="utf-8")
    with pytest.raises(UserError, match="edited"):
        command(monkeypatch, "--merge", "packed")


def test_other_settings_are_kept_apart(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"--home: .*another folder"):
        command(monkeypatch, "--set", "training.epochs=2")
    assert not Path("out").exists()
