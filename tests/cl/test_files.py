"""Files and folders of ours: whole at every moment, beside those of others, and written by many at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cl.checkpoint_files import remove_checkpoint, verify, write_folder
from cl.errors import UserError
from cl.files import hold, sweep, write_json, write_whole
from cl.pool import check_out
from tests.cl.small import REPOSITORY

FILES = {"net.safetensors": b"net", "record.json": b"{}"}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def together(code: str, *arguments: str) -> None:
    """Run the code in two processes at once; both have to end well, and without a word."""
    command = [sys.executable, "-c", f"import sys\nfrom pathlib import Path\n{code}"]
    runs = [
        subprocess.Popen([*command, name, *arguments], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
        for name in ("first", "second")
    ]
    ends = [run.communicate(timeout=120)[1] for run in runs]
    assert [(run.returncode, said) for run, said in zip(runs, ends, strict=True)] == [(0, ""), (0, "")]


# What is not ours.


def test_what_somebody_has_put_into_a_checkpoint_stays(tmp_path: Path) -> None:
    folder = tmp_path / "task-000"
    write_folder(folder, FILES, "key")
    (folder / "notes.txt").write_text("thesis")
    (folder / "net.safetensors").write_bytes(b"damaged")
    write_folder(folder, FILES, "key")
    assert verify(folder, "key").keys() == FILES.keys()
    assert (folder / "notes.txt").read_text() == "thesis"
    remove_checkpoint(folder)
    assert everything(folder) == {"notes.txt": b"thesis"}
    (folder / "notes.txt").unlink()
    write_folder(folder, FILES, "key")
    remove_checkpoint(folder)
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_not_replaced_by_one(kind: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/net.safetensors").write_text("thesis")
    place = tmp_path / "task-000"
    if kind == "file":
        place.write_text("thesis")
    else:
        place.symlink_to("theirs")
        (tmp_path / "theirs/manifest.json").write_text("{}")
    before = everything(tmp_path)
    with pytest.raises(UserError, match=r"task-000: cannot be written \(a link or a file stands there; move it away\)"):
        write_folder(place, FILES, "key")
    remove_checkpoint(place)
    assert everything(tmp_path) == before


# What a kill left.

LEFT = (
    "results/ewc/.seed-0.json.{}.part",
    ".work/ewc/seed-0/0123456789abcdef/.task-000.{}.part/net.safetensors",
    "checkpoints/ewc/seed-0/task-0/.net.safetensors.{}.part",
    "report/plots/.cost.png.{}.part",
)


def dead() -> int:
    """The number of a process that is no more."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


@pytest.mark.parametrize("token", ["", ".0a1b2c3d", ".12345678"])
def test_what_a_killed_process_left_is_gone_after_the_next_start(token: str, tmp_path: Path) -> None:
    for name in LEFT:
        write_whole(tmp_path / name.format(f"{dead()}{token}"), b"half")
    write_whole(tmp_path / f".work/params-{dead()}.json", b"{}")
    kept = [
        ".work/params-mine.json",
        "results/ewc/seed-0.json",
        "results/ewc/.notes.part",
        "results/ewc/.a.part.1",
        ".mine.1.part",
    ]
    for name in kept:
        write_whole(tmp_path / name, b"whole")
    check_out(tmp_path)
    assert sorted(everything(tmp_path)) == sorted(kept)


def test_what_a_living_process_is_writing_stays(tmp_path: Path) -> None:
    """Whatever the number in the name: another machine's, or one that is used again."""
    write_whole(tmp_path / f"results/.old.{os.getpid()}.part", b"of a version that locked nothing")
    held = hold(tmp_path / f"results/.new.{dead()}.0a1b2c3d.part", b"half")
    params = hold(tmp_path / f".work/params-{dead()}.json", b"{}")
    check_out(tmp_path)
    assert len(everything(tmp_path)) == 3
    held.close()
    params.close()
    check_out(tmp_path)
    assert list(everything(tmp_path)) == [f"results/.old.{os.getpid()}.part"]


def test_killed_while_it_writes_and_while_it_holds(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom cl.files import hold, making\n"
        "out = Path(sys.argv[1])\nheld = hold(out / '.work/params-1.json', b'{}')\n"
        "with making(out / '.work/task-000') as part:\n"
        "    (part / 'net').write_bytes(b'half')\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"ready\n"
        check_out(tmp_path)
        assert len(everything(tmp_path)) == 2, "it lives"
        child.send_signal(signal.SIGKILL)
        child.wait()
    check_out(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == [".work"]


# Many at once.


def test_a_sweep_takes_nothing_that_is_being_written(tmp_path: Path) -> None:
    code = (
        "from cl.checkpoint_files import write_folder\n"
        "from cl.files import sweep, write_whole\n"
        "who, out = sys.argv[1], Path(sys.argv[2])\n"
        "for number in range(300):\n"
        "    if who == 'first':\n"
        "        write_whole(out / f'{number}.json', b'x')\n"
        "        write_folder(out / 'task-000', {'net.safetensors': b'net'}, 'key')\n"
        "    else:\n"
        "        sweep(out, below=True)\n"
    )
    together(code, str(tmp_path))
    assert len(list(tmp_path.glob("*.json"))) == 300
    assert verify(tmp_path / "task-000", "key") == {"net.safetensors": b"net"}


def test_one_folder_and_one_file_written_by_two(tmp_path: Path) -> None:
    code = (
        "from cl.checkpoint_files import write_folder\n"
        "from cl.files import write_json\n"
        "who, out = sys.argv[1], Path(sys.argv[2])\n"
        "for number in range(300):\n"
        "    write_folder(out / 'task-000', {'net.safetensors': who.encode() * 1000}, who)\n"
        "    write_json(out / 'one.json', {'by': who})\n"
    )
    together(code, str(tmp_path))
    assert verify(tmp_path / "task-000")["net.safetensors"] in (b"first" * 1000, b"second" * 1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "task-000"], "no part is left"


def test_a_write_that_is_interrupted_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "one.json", {})
    assert not list(tmp_path.iterdir())
    sweep(tmp_path / "nowhere", below=True)
