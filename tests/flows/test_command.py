"""The one command, `unforgetting`, and the wheel that brings it."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cl import embedded, listing
from cl.called import called_as
from cl.errors import UserError
from cl.names import names_in
from flows import unforgetting
from flows.unforgetting import COMMANDS, main
from tests.conftest import REPOSITORY

STARTER = "import sys; from flows.unforgetting import console; sys.exit(console())"
START = [sys.executable, "-c", STARTER]
PYTHON_PATH = {"PYTHONPATH": str(REPOSITORY)}
RUN_AGAIN = pytest.mark.filterwarnings("ignore:.* found in sys.modules after import:RuntimeWarning")
"""Of a module that another test has imported; the command never has."""
TINY = "--set benchmark.tasks=2 --set benchmark.train_per_class=5 --set training.epochs=1 --set execution.workers=1"


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "argv", sys.argv)
    before = dict(called_as)
    yield
    called_as.clear()
    called_as.update(before)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_what_the_modules_take(name: str) -> None:
    command = COMMANDS[name]
    module = importlib.import_module(command.module + (".__main__" if command.module == "flows.report" else ""))
    module.parser().parse_args([*command.first, *shlex.split(command.example)])


def test_the_list_fits_a_narrow_terminal() -> None:
    lines = unforgetting.listing(40).splitlines()
    assert all(len(line) <= 40 or "unforgetting" in line for line in lines)
    assert {f"$ unforgetting {name} " for name in COMMANDS} == set(
        re.findall(r"\$ unforgetting \S+ ", "\n".join(lines))
    )


def test_the_list_imports_nothing_that_takes_long() -> None:
    code = "import sys; from flows.unforgetting import main; main(['--help']); print('/', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=PYTHON_PATH, capture_output=True, encoding="utf-8", check=True
    )
    shown, _, modules = done.stdout.rpartition("/")
    assert "new-method" in shown
    assert "flows.unforgetting" in modules
    assert not {"torch", "pydantic", "numpy", "prefect", "mlflow", "yaml"} & set(modules.split())


def test_unknown_commands_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repport"]) == 2
    assert capsys.readouterr().err == "error: unknown command 'repport'; did you mean 'report'?\n"
    assert main(["--complete", "bash"]) == 2
    assert "did you mean '--completion'?" in capsys.readouterr().err
    assert main(["--completion"]) == 2
    assert "bash, zsh, fish, tcsh" in capsys.readouterr().err


@RUN_AGAIN
def test_help_and_errors_name_the_command_that_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["status", "--nonsense"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: unforgetting status ")
    with pytest.raises(SystemExit) as ended:
        main(["help", "methods"])
    assert ended.value.code == 0
    assert "List the methods, or say more about one." in capsys.readouterr().out


@RUN_AGAIN
def test_without_the_extra_run_compares_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(unforgetting, "ORCHESTRATION", ("mlflow_that_is_not_here",))
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    said = capsys.readouterr()
    assert ended.value.code == 0
    assert "on this machine alone" in " ".join(said.out.split())
    assert said.out.startswith("usage: unforgetting run")
    assert "unforgetting[flows]" in said.err
    with pytest.raises(SystemExit) as ended:
        main(["report"])
    assert ended.value.code == 2
    assert "mlflow_that_is_not_here" in capsys.readouterr().err


def test_ctrl_c_during_an_import_ends_it_silently() -> None:
    pressed = "u.start = lambda *given: os.kill(os.getpid(), signal.SIGINT); sys.argv = ['unforgetting', 'run']"
    code = f"import os, signal, sys, flows.unforgetting as u; {pressed}; sys.exit(u.console())"
    done = subprocess.run([sys.executable, "-c", code], env=PYTHON_PATH, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_a_reader_that_leaves_ends_it_silently() -> None:
    piped = f"set -o pipefail; {shlex.join(START)} methods | head -1"
    done = subprocess.run(
        ["bash", "-c", piped], env={**os.environ, **PYTHON_PATH}, capture_output=True, encoding="utf-8", check=False
    )
    assert done.stdout.startswith("a_gem")
    assert (done.stderr, done.returncode in (0, 141)) == ("", True)


def test_an_interrupt_ends_it_as_the_module(tmp_path: Path) -> None:
    """In an empty folder, without a terminal; what it learned is used by the next one."""
    command = [*START, "run", "--methods", "finetune", "--seeds", "0", *shlex.split(TINY)]
    env = {**os.environ, **PYTHON_PATH, "NO_COLOR": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as run:
        assert run.stdout is not None
        lines = []
        for line in run.stdout:
            lines.append(line.decode())
            if line.startswith(b"prepared"):
                run.send_signal(signal.SIGINT)
        said = "".join(lines)
    assert run.returncode == 130, said
    assert "comes with the package" in said
    assert said.endswith("the same command goes on from here\n")
    assert "\x1b" not in said


def test_bash_completes(tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(unforgetting.completion("bash"), encoding="utf-8")
    asks = [("ru",), ("run", "--meth"), ("run", "--methods", "ewc,fi"), ("serve", "st"), ("studies", "photos-")]
    asks += [("champion", "--method", "ewc")]
    tries = "\n".join(f"ask unforgetting {shlex.join(words)}" for words in asks)
    ask = (
        'ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_unforgetting; echo ${COMPREPLY[@]}; }'
    )
    done = subprocess.run(
        ["bash", "-c", f"source {shlex.quote(str(script))}\n{ask}\n{tries}"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    found = ["run", "--methods", "ewc,finetune", "start stop status", "photos-compared", "ewc"]
    assert done.stdout.splitlines() == found


def test_lists_are_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["listing", "methods"])
    assert listing.main() == 0
    assert set(names_in("methods")) <= set(re.findall(r"^\w+", capsys.readouterr().out, re.MULTILINE))
    assert "methods.ewc.strength" in listing.about("methods", "EWC")
    assert "<task>/<class>/<image>" in listing.about("benchmarks", "folder")
    assert listing.about("studies", "photos") == (REPOSITORY / "studies/photos.yaml").read_text("utf-8").rstrip()
    assert all(path.exists() for path in listing.studies().values())
    for known, _ in listing.KINDS.values():
        assert all(listing.first_paragraph(path) for path in known().values())
    assert listing.first_paragraph(listing.methods()["icarl"]).startswith("iCaRL: keep")
    with pytest.raises(UserError, match="unknown study 'phots'; did you mean 'photos'"):
        listing.about("studies", "phots")


def test_what_is_said_of_a_method_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    said, _, command = listing.about("methods", "icarl").rpartition("\n")
    assert max(map(len, said.splitlines())) <= 40
    assert command.startswith("try it: unforgetting run ")


def test_names_fall_back_to_what_came_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert embedded.params_file("params.yaml") == REPOSITORY / "params.yaml"
    assert embedded.params_file("studies/photos.yaml") == REPOSITORY / "studies/photos.yaml"
    assert embedded.params_file("mine.yaml") == Path("mine.yaml")
    Path("params.yaml").write_text("seeds: [5]\n", encoding="utf-8")
    assert embedded.params_file("params.yaml") == Path("params.yaml")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout; no network is needed."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    for room in ("cl", "flows", "studies", ".dvc/embedded"):
        shutil.copytree(REPOSITORY / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "data.dvc", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(copy)], check=True)
    shutil.rmtree(copy)
    (built,) = folder.glob("unforgetting-*.whl")
    return built


def test_a_wheel_has_what_an_empty_folder_lacks(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.read("cl/embedded/params.yaml") == (REPOSITORY / "params.yaml").read_bytes()
    code = {p.relative_to(REPOSITORY).as_posix() for room in ("cl", "flows") for p in (REPOSITORY / room).rglob("*.py")}
    pages = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "flows").rglob("*.html")}
    studies = {f"cl/embedded/studies/{path.name}" for path in (REPOSITORY / "studies").glob("*.yaml")}
    assert code | pages | studies | {"cl/embedded/data/digits/digits.csv.gz"} <= names
    assert not [name for name in names if name.startswith("tests/")]


@pytest.mark.slow
def test_an_installed_wheel_learns_the_digits_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, which finds all other packages where the tests do."""
    home, folder = tmp_path / "env", tmp_path / "empty"
    folder.mkdir()
    venv.create(home, with_pip=True)
    python, command = home / "bin/python", home / "bin/unforgetting"
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(asked, capture_output=True, encoding="utf-8", check=True).stdout.strip())
    others = [path for path in sys.path if path.endswith("-packages")]
    (packages / "others.pth").write_text("\n".join(others), encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    install = [python, "-m", "pip", "install", "--quiet", "--ignore-installed", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, env=env, check=True)

    def unforgetting_(*words: str) -> str:
        done = subprocess.run(
            [command, *words], cwd=folder, env=env, capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    said = unforgetting_("run", "--methods", "finetune,joint", "--seeds", "0", *shlex.split(TINY))
    assert str(packages / "cl/embedded/params.yaml") in said
    assert "Where to look next" in said
    assert (folder / "out/report/index.html").exists()
    assert {path.name for path in folder.iterdir()} == {"out"}
    assert "0 of 2 runs have something to learn" in unforgetting_(
        "status", "--methods", "finetune,joint", "--seeds", "0", *shlex.split(TINY)
    )
    assert "▲ | joint" in unforgetting_("report", "--show")
