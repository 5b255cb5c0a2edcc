"""What a night takes from earlier ones, and what it leaves alone. Whole nights are run in test_serve."""

from __future__ import annotations

import fcntl
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cl.checkpoint_files import write_folder
from cl.data.prepare import prepare
from cl.errors import UserError
from cl.files import write_json, write_whole
from cl.params import Benchmark
from flows import nightly
from flows.engine.plain import Engine
from flows.nights.history import nights, thin
from tests.cl.small import output, params_for, run
from tests.conftest import RAW

NAMES = [f"2026-01-0{day}T02-00-00" for day in range(1, 6)]


def night(folder: Path) -> Path:
    """What a night leaves, in small."""
    prepare(Benchmark(tasks=1, train_per_class=5), RAW, folder / "prepared", say=lambda line: None)
    run = folder / ".work/mean_imm/seed-0/0123456789abcdef"
    for place in (folder / "checkpoints/mean_imm/seed-0/task-0", run / "task-000"):
        write_folder(place, {"net.safetensors": b"net", "state.json": b"{}"}, "key")
    for name in ("unit.json", "finished.json", "cost-000.json", "lock", "studies.log", "stderr.log"):
        write_whole(run / name, b"")
    write_json(folder / ".work/tracking.json", {})
    write_json(folder / "night.json", {"good": True})
    write_json(folder / "results/mean_imm/seed-0.json", {})
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_of_older_nights_what_we_made_goes_and_nothing_else(tmp_path: Path) -> None:
    home = tmp_path / "nights"
    for name in NAMES:
        night(home / name)
    night(home / "the best one")  # somebody's copy
    (home / "notes/checkpoints").mkdir(parents=True)
    (home / "notes/checkpoints/thesis.txt").touch()
    theirs = (
        "prepared/notes.txt",
        "checkpoints/mean_imm/mine.pth",
        ".work/notes.txt",
        "checkpoints/task-0/net.safetensors",
    )
    for name in theirs:
        (home / NAMES[0] / name).parent.mkdir(exist_ok=True, parents=True)
        (home / NAMES[0] / name).touch()
    before = {name: files(home / name) for name in [*NAMES, "the best one", "notes"]}
    thin(tmp_path)
    kept = {"night.json", "results/mean_imm/seed-0.json"}
    assert files(home / NAMES[0]) == kept | set(theirs)
    assert files(home / NAMES[1]) == kept
    assert sorted(path.name for path in (home / NAMES[1]).iterdir()) == ["night.json", "results"]
    for name in [*NAMES[2:], "the best one", "notes"]:
        assert files(home / name) == before[name]


def test_all_that_a_run_leaves_is_known_by_its_name(prepared: dict[int, Path], tmp_path: Path) -> None:
    out = output(tmp_path / "nights" / NAMES[0], prepared[2])
    run(params_for("finetune"), out)
    assert files(out / ".work")
    assert files(out / "checkpoints")
    for name in NAMES[1:]:
        (tmp_path / "nights" / name).mkdir()
    thin(tmp_path)
    assert sorted(path.name for path in out.iterdir()) == ["prepared", "results"], "what is by a link stays"


def test_prepared_data_are_taken_from_the_last_night_that_has_nothing_else_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "nights"
    for name in (NAMES[0], NAMES[1], NAMES[2], "zzz"):
        night(home / name)
    (home / NAMES[1] / "prepared/notes.txt").touch()
    shutil.rmtree(home / NAMES[2] / "prepared")
    (home / NAMES[2] / "prepared").mkdir()
    (home / NAMES[2] / "prepared/thesis.txt").touch()

    class Reached(Exception):
        pass

    def stages(*arguments: object) -> None:
        raise Reached

    monkeypatch.setattr(nightly, "stages", stages)
    with pytest.raises(Reached):
        nightly.nightly(params_for("ewc"), tmp_path, Engine(), datetime(2026, 2, 1, 2, 0, 0, tzinfo=UTC))
    assert (home / "2026-02-01T02-00-00/prepared/manifest.json").exists()
    has = {name: (home / name / "prepared/manifest.json").exists() for name in (NAMES[0], NAMES[1], "zzz")}
    assert has == {NAMES[0]: False, NAMES[1]: True, "zzz": True}
    assert (home / NAMES[2] / "prepared/thesis.txt").exists()


def test_a_folder_of_another_name_is_no_night(tmp_path: Path) -> None:
    record = {"good": True, "sequence": {"benchmark": "b", "tasks": []}, "from": {}, "params": {}, "methods": {}}
    for name in (NAMES[0], "copy of it", f"{NAMES[0]}-old"):
        write_json(tmp_path / "nights" / name / "night.json", record)
    assert [found.name for found in nights(tmp_path)] == [NAMES[0]]


def test_two_nights_at_once_are_refused(tmp_path: Path) -> None:
    (tmp_path / "nights").mkdir()
    (tmp_path / "nights/.lock").write_text("kept")
    with (tmp_path / "nights/.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another night is running"):
            nightly.nightly(params_for("ewc"), tmp_path, Engine(), datetime.now(UTC))
    assert [path.name for path in (tmp_path / "nights").iterdir()] == [".lock"]
    assert (tmp_path / "nights/.lock").read_text() == "kept"
