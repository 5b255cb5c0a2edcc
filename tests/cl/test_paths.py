"""Paths of a user's: the home folder, nothing at all, and sources in targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from cl import cli
from cl.errors import UserError
from cl.keys import run_key
from cl.paths import address, apart, expanded, option
from cl.pool import check_out
from tests.cl.small import params_for


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("~", "/home/somebody"),
        ("~/a b", "/home/somebody/a b"),
        ("./~/x", "./~/x"),
        ("x/~", "x/~"),
        ("./w//x", "./w//x"),  # as it is written: keys are made of it
        ("out", "out"),
    ],
)
def test_home_is_where_a_path_begins_with_it(given: str, found: str) -> None:
    assert expanded(given) == found
    assert option("--out")(given) == Path(found)


@pytest.mark.parametrize(
    ("given", "said"), [("", "is empty"), (" ", "is empty"), ("a\0b", "NUL"), ("~nobody-of-that-name/x", "no home")]
)
def test_what_is_no_path_is_said(given: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        expanded(given)
    with pytest.raises(UserError, match=f"--out: .*{said}"):
        option("--out")(given)
    with pytest.raises(ValueError, match=said):
        params_for("ewc", benchmark={"path": given})
    with pytest.raises(ValueError, match=said):
        params_for("ewc", tracking={"folder": given})


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("sqlite:///~/m.db", "sqlite:////home/somebody/m.db"),
        ("sqlite+pysqlite:///~/m.db", "sqlite+pysqlite:////home/somebody/m.db"),
        ("sqlite:///m.db", "sqlite:///m.db"),
        ("sqlite:////~/m.db", "sqlite:////~/m.db"),
        ("file:~/runs", "file:///home/somebody/runs"),
        ("file:///~/runs", "file:///home/somebody/runs"),
        ("~/runs", "/home/somebody/runs"),
        ("http://host/~user/", "http://host/~user/"),
    ],
)
def test_home_in_addresses(given: str, found: str) -> None:
    assert address(given) == found
    assert params_for("ewc", tracking={"uri": given}).tracking.uri == found


def test_every_option_of_a_command_line() -> None:
    given = cli.parser("x", None).parse_args(["--out", "~/o", "--params", "~/p.yaml"])
    assert (given.out, given.params) == (Path("/home/somebody/o"), Path("/home/somebody/p.yaml"))


def test_params_that_are_laid_over_others_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cl.params import read

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.yaml").write_text("methods: {ewc: {}}\nseeds: [7]\n")
    (tmp_path / "below").mkdir()
    (tmp_path / "below/mine.yaml").write_text("extends: ~/base.yaml\n")
    assert read(tmp_path / "below/mine.yaml").seeds == [7]


def test_a_path_is_the_same_setting_however_it_is_spelled() -> None:
    """And one spelled without `~` has the key that it always had; images are named as the user does."""
    spelled, whole = (
        params_for(
            "ewc", model={"name": "resnet18", "weights": path}, tracking={"folder": path}, benchmark={"path": path}
        )
        for path in ("~/w.pth", "/home/somebody/w.pth")
    )
    assert spelled.tracking == whole.tracking
    assert run_key(spelled, "ewc", 0) == run_key(whole, "ewc", 0)
    assert whole.model.weights == "/home/somebody/w.pth"
    assert spelled.benchmark.path == "~/w.pth"
    assert params_for("ewc", model={"name": "resnet18", "weights": "./w//x.pth"}).model.weights == "./w//x.pth"


@pytest.mark.parametrize(
    ("path", "out", "said"),
    [
        ("o/prepared", "o", "is in .*prepared"),
        ("o/prepared/photos", "o", "is in .*prepared"),
        ("o/.work/x", "o", "is in"),
        ("o/nights/x", "o", "is in"),
        ("link", "o", "is in"),
        ("photos", "photos", "holds .*prepared"),
        ("photos", "photos/out", "holds .*prepared"),
        (".", "o", "holds"),
    ],
)
def test_images_and_output_are_apart(
    path: str, out: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("o/prepared/photos")
    benchmark = params_for("ewc", benchmark={"name": "folder", "path": path}).benchmark
    with pytest.raises(UserError, match=rf"benchmark\.path: .*{said}.*--out"):
        check_out(Path(out), benchmark)
    assert [place.name for place in Path().iterdir()] == ["link"], "nothing is made"


@pytest.mark.parametrize(("path", "out"), [("photos", "."), ("o/photos", "o"), ("prepared2", "."), ("o/x.zip", "o")])
def test_beside_each_other_is_apart(path: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_out(Path(out), params_for("ewc", benchmark={"name": "folder", "path": path}).benchmark)
    apart("x", Path(path), Path(out, "prepared"))


@pytest.mark.parametrize("name", ["prepared", "results", "checkpoints", "report", ".work"])
def test_a_file_where_a_folder_is_needed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("thesis")
    with pytest.raises(UserError, match=f"{name}: is no folder.* --out"):
        check_out(tmp_path)
    assert (tmp_path / name).read_text() == "thesis"
