"""Terminals, shells, containers and checkouts as they come: the work is done, or a sentence says what is in its way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from benchmarks import costs, loop, outside, switches, whole_run
from benchmarks import prepare as prepare_benchmark
from cl import cli, machine
from cl.errors import UserError
from cl.events import event_of
from flows import serve
from flows.tracking import origin
from tests.conftest import sources
from tests.flows.conftest import LONGER, REPOSITORY, Finished, Started, environment, learned, options, run

# Output that cannot hold what is printed, or that nobody takes.


def command(body: str, *, shell: str = "{}", **env: str) -> subprocess.CompletedProcess[bytes]:
    """A command of ours with this body, in a line of the shell; without `PYTHONUNBUFFERED` it has a buffer to flush."""
    code = f"import os, sys\nfrom cl import cli\ndef main():\n{textwrap.indent(body, '    ')}\n    return 0\n"
    code += "sys.exit(cli.guarded(main))"
    line = shell.format('"$PYTHON" -c "$CODE"')
    clean = {name: value for name, value in environment(**env).items() if name != "PYTHONUNBUFFERED" or name in env}
    clean |= {"PYTHON": sys.executable, "CODE": code}
    return subprocess.run(["bash", "-c", line], cwd=REPOSITORY, env=clean, capture_output=True, check=False)


ALL_NUMBERS = rb"\xb1 \u25b2 \udce9"
NO_TRIANGLE = b"\xb1 \\u25b2 \\udce9"


@pytest.mark.parametrize(
    ("env", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, ALL_NUMBERS),
        ({"PYTHONIOENCODING": "ascii:strict"}, ALL_NUMBERS),
        ({"PYTHONIOENCODING": "latin-1"}, NO_TRIANGLE),
        ({"PYTHONIOENCODING": "cp1252"}, NO_TRIANGLE),
        ({"PYTHONIOENCODING": "utf-8"}, "± ▲ \\udce9".encode()),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, ALL_NUMBERS),
    ],
)
def test_what_an_encoding_lacks_is_shown_by_its_number(env: dict[str, str], shown: bytes) -> None:
    """The last is a byte of a file's name that is not UTF-8."""
    done = command("print('\\u00b1 \\u25b2 \\udce9')", **env)
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", shown + b"\n")


def test_a_refusal_with_such_characters_is_a_line(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xe9.yaml")
    done = run("flows.report", ["--params", f"{tmp_path}/{name}"], env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/\\udce9.yaml: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "env",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}],
    ids=["ascii", "C"],
)
def test_the_leaderboard_is_printed_whatever_the_encoding(env: dict[str, str], finished: Finished) -> None:
    done = run("flows.report", [*options(out=finished.out), "--show"], env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Where to look next" in done.stdout
    assert re.search(r"\| +\\u25bc \| finetune \|", done.stdout)


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("body", ["for _ in range(50_000): print('line')", "print('line', flush=True)", "print('x')"])
def test_a_reader_that_is_gone_ends_it_without_a_word(body: str, unbuffered: bool) -> None:
    env = {"PYTHONUNBUFFERED": "1"} if unbuffered else {}
    done = command(f"import time; time.sleep(0.2)\n{body}", shell="{} | true; exit ${{PIPESTATUS[0]}}", **env)
    assert (done.returncode, done.stderr) == (141, b"")


def test_another_pipe_that_breaks_is_an_error() -> None:
    """As that of a child, or of a connection."""
    done = command("r, w = os.pipe(); os.close(r); os.write(w, b'x')", shell="{} | cat; exit ${{PIPESTATUS[0]}}")
    assert done.returncode == 2
    assert done.stderr == b"error: Broken pipe; earlier results are intact\n"


@pytest.mark.parametrize("unbuffered", [False, True])
def test_output_on_a_full_disk_is_an_error(unbuffered: bool) -> None:
    done = command("print('x')", shell="{} > /dev/full", **({"PYTHONUNBUFFERED": "1"} if unbuffered else {}))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(b"error: ")
    assert b"No space left on device; earlier results are intact" in line
    assert command("return 2 * sys.stderr.write('x')", shell="{} 2> /dev/full").returncode == 2


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_what_is_closed_leads_nowhere_and_into_no_file(closed: str, tmp_path: Path) -> None:
    """The first file that is opened would get the number of what is closed, and be written into by every child."""
    body = f"""
        with open({str(tmp_path / "file")!r}, "wb") as file:
            print("x", flush=True)
            print("x", file=sys.stderr, flush=True)
            assert not sys.stdout.isatty()
            os.system("echo child; echo child >&2")
            file.write(b"mine")
    """
    done = command(textwrap.dedent(body), shell=f"{{}} {closed}")
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert done.stdout == (b"" if ">&-" in closed.replace("2>&-", "") else b"x\nchild\n")


def test_help_has_a_reader_or_not() -> None:
    line = f"{sys.executable} -m cl --help | true"
    done = subprocess.run(["bash", "-c", line], cwd=REPOSITORY, env=environment(), capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_training_ends_where_nobody_listens(tmp_path: Path) -> None:
    """All of it, the runs that have not begun too."""
    given = options(*LONGER, "execution.workers=1", out=tmp_path / "out", methods="finetune", seeds="0,1,2")
    line = f"{sys.executable} -m cl " + " ".join(f"'{word}'" for word in given) + " | head -1; exit ${PIPESTATUS[0]}"
    with Started(["bash", "-c", line], tmp_path) as started:
        assert started.process.wait(120) == 141
        started.dies_with_children()
        assert started.stderr == ""
        assert len(started.stdout.splitlines()) == 1
    assert not (tmp_path / "out/.work/finetune/seed-2").exists()


# What others print into a run's output.


@pytest.mark.parametrize("line", ["", "a warning\n", "3\n", "[]\n", '{"level": "info"}\n', '{"event": 3}\n', b"\xff\n"])
def test_what_is_no_event_is_none(line: str | bytes) -> None:
    assert event_of(line) is None


def test_what_libraries_print_is_kept_in_the_log_and_disturbs_nothing(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os.write(1, b'a library: \\xff hello\\n')")
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    given = options(out=tmp_path / "out", methods="finetune", seeds="0")
    line = [sys.executable, "-m", "cl", *given]
    done = subprocess.run(line, cwd=REPOSITORY, env=environment(PYTHONPATH=path), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(learned(done.stdout.decode(errors="replace"))) == 2
    (log,) = (tmp_path / "out/.work/finetune/seed-0").glob("*/stderr.log")
    assert "a library: \ufffd hello" in log.read_text(encoding="utf-8")


# Processors.


@pytest.mark.parametrize(
    ("group", "files", "limit"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "100000 100000"}, 1),
        ("4:memory:/\n1:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "50000"}, 4),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("0::/../../x\n", {"cpu.max": "garbage"}, 8),
    ],
)
def test_a_containers_share_of_the_processors(
    group: str, files: dict[str, str], limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"of-this-process": group, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "GROUPS", tmp_path)
    monkeypatch.setattr(machine, "GROUP", tmp_path / "of-this-process")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8))
    assert machine.processors() == limit


def test_where_no_system_call_tells_the_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(machine, "GROUP", tmp_path / "none")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert machine.processors() == 5


# Containers. `unshare` plays them, where users may have a namespace of their own.


def contained(script: str, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A line of the shell in a namespace of its own."""
    if subprocess.run(["unshare", "-rm", *more, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs namespaces for users")
    return subprocess.run(
        ["unshare", "-rm", *more, "bash", "-ec", script],
        cwd=REPOSITORY,
        env=environment(**env),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (Linux)")
def test_a_user_whom_nobody_knows_has_a_home_that_is_none() -> None:
    """MLflow asks for it when it is imported."""
    code = "import flows, os, pathlib; print(pathlib.Path.home())"
    done = contained(f"env -u HOME -u USER -u LOGNAME {sys.executable} -c '{code}'", "--map-user=4321")
    assert done.stdout == "/nonexistent\n", done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (Linux)")
def test_without_shared_memory_trials_run_one_after_the_other(tmp_path: Path) -> None:
    given = options("execution.workers=2", out=tmp_path / "out", methods="finetune", seeds="0")
    words = " ".join(f"'{word}'" for word in given)
    done = contained(f"mount -t tmpfs -o ro none /dev/shm; {sys.executable} -m cl {words}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "finetune/seed-0: warning: trials run one after the other: processes cannot share /dev/shm" in done.stdout
    assert len(learned(done.stdout)) == 2


# Checkouts without git, and what DVC refuses.


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """The working tree as an archive holds it, in a folder with a name."""
    root = tmp_path / "un folder é"
    for name in sources():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, root / name)
    (root / ".venv").symlink_to(sys.prefix)
    return root


def make(root: Path, *goals: str) -> subprocess.CompletedProcess[str]:
    """With the environment that the tests run in, which make takes as it is."""
    command = ["make", "-o", ".venv/.ready", "-o", "constraints.txt", "-o", "pyproject.toml", *goals]
    return shell(root, command)


def shell(root: Path, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    own = {"HOME": str(root.parent), "DVC_SITE_CACHE_DIR": str(root.parent / "site"), "PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=environment(**own), capture_output=True, text=True, check=False)


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@needs_make
def test_the_data_come_without_git_and_why_not_is_said(unpacked: Path) -> None:
    done = make(unpacked, "data/digits")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (unpacked / "data/digits/digits.csv.gz").exists()
    shutil.rmtree(unpacked / "data")
    shutil.rmtree(unpacked / ".dvc/cache")
    shutil.rmtree(unpacked / ".dvc/embedded")
    done = make(unpacked, "data/digits")
    assert done.returncode == 2
    assert "ERROR: " in done.stderr


def test_the_remedy_that_is_named_is_one(unpacked: Path) -> None:
    done = shell(unpacked, [sys.executable, "-m", "flows.prepare"])
    assert done.returncode == 2
    remedy = done.stderr.strip().partition(", with: ")[2]
    mended = shell(unpacked, ["bash", "-ec", remedy])
    assert mended.returncode == 0, mended.stderr
    assert (unpacked / "data/digits/digits.csv.gz").exists()


@needs_make
@pytest.mark.slow
def test_the_whole_job_without_git(unpacked: Path) -> None:
    file = unpacked / "params.yaml"
    tree = yaml.safe_load(file.read_bytes())
    tree |= {"methods": {"finetune": {}, "ewc": {}}, "seeds": [0], "selection": {"enabled": False}}
    tree["benchmark"]["tasks"], tree["training"]["epochs"] = 2, 1
    file.write_text(yaml.safe_dump(tree))
    done = make(unpacked, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Where to look next" in done.stdout
    assert (unpacked / "dvc.lock").exists()
    again = make(unpacked, "run")
    assert "Data and pipelines are up to date" in again.stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, in which DVC runs a stage."""
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.chdir(root)
    if shutil.which("git") is None:
        pytest.skip("needs git")
    subprocess.run(["git", "init", "--quiet"], check=True)
    monkeypatch.setenv("DVC_STAGE", "prepare")
    return root


def test_outputs_that_git_tracks_are_refused_before_the_work(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin.recordable(Path("out"))
    (repository / "out/results/ewc").mkdir(parents=True)
    (repository / "out/results/ewc/seed-0.json").write_text("{}")
    origin.recordable(Path("out"))
    subprocess.run(["git", "add", "--force", "out"], check=True)
    with pytest.raises(UserError, match=r"out/results/ewc/seed-0\.json: tracked by git.* git rm -r --cached out"):
        origin.recordable(Path("out"))
    monkeypatch.delenv("DVC_STAGE")
    origin.recordable(Path("out"))


def test_an_output_folder_that_leads_elsewhere_is_refused_before_the_work(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (repository / "out").symlink_to(tmp_path / "disk")
    with pytest.raises(UserError, match=rf"out: leads to {tmp_path}/disk, out of the git repository"):
        origin.recordable(Path("out"))
    (repository / ".dvc").mkdir()
    (repository / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")  # as DVC itself writes it
    origin.recordable(Path("out"))


@pytest.mark.slow
def test_a_stage_of_dvc_refuses_so(unpacked: Path) -> None:
    for line in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "pull", "-r", "embedded", "data.dvc"]):
        assert shell(unpacked, line).returncode == 0
    (unpacked / "out/prepared").mkdir(parents=True)
    (unpacked / "out/prepared/mine").write_text("mine")
    shell(unpacked, ["git", "add", "--force", "out"])
    done = shell(unpacked, [sys.executable, "-m", "dvc", "repro", "prepare"])
    assert done.returncode != 0
    assert "error: out/prepared/mine: tracked by git" in done.stderr
    assert "prepared: permuted-digits" not in done.stdout


JUNK = [
    "outs: 3",
    "[]",
    "stages: 3",
    "",
    "a: [",
    "!!python/object:x {}",
    "<<<<<<< HEAD\n",
    "\0",
    "outs: [{path: data}]",
]


@pytest.mark.parametrize("text", JUNK)
@pytest.mark.parametrize("name", ["dvc.lock", "data.dvc"])
def test_a_damaged_file_of_dvc_is_named(
    text: str, name: str, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    read = origin.recorded if name == "dvc.lock" else origin.tags
    with pytest.raises(UserError, match=rf"^{name}: damaged, or in the middle of a merge; git checkout {name}"):
        read(finished.out)


def test_a_finished_report_is_not_lost_to_a_damaged_lock(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = cli.parser("test", None).parse_args(["--params", str(REPOSITORY / "params.yaml")])
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text("<<<<<<< HEAD\n")
    origin.point(cli.params_of(given), finished.out)
    assert capsys.readouterr().err.startswith("warning: dvc.lock: damaged")


def test_the_commit_is_unknown_where_git_does_not_tell(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert origin.git_commit() is None  # no commits yet
    who = ("-c", "user.name=a tester", "-c", "user.email=tester@localhost")
    subprocess.run(["git", *who, "commit", "--quiet", "--allow-empty", "--message", "é"], check=True)
    commit = origin.git_commit()
    assert commit is not None
    subprocess.run(["git", "checkout", "--quiet", "--detach"], check=True)
    assert origin.git_commit() == commit
    with monkeypatch.context() as patch:
        patch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "true")  # "dubious ownership"
        assert origin.git_commit() is None
    monkeypatch.setenv("PATH", str(repository))  # no git
    assert origin.git_commit() is None


# Servers and benchmarks.

PORTS = ["0", "-1", "65536", "x", "", "1.5", "5" * 5000]


@pytest.mark.parametrize("text", PORTS, ids=lambda text: text[:5])
def test_a_port_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["serve", "start", f"--mlflow-port={text}"])
    assert cli.guarded(serve.main) == 2
    assert "error: argument --mlflow-port: " in capsys.readouterr().err


STATES = ["", "[]", '{"servers": 3}', '{"servers": [{"name": 3}]}', "{}"]


@pytest.mark.parametrize("what", ["start", "stop", "status"])
@pytest.mark.parametrize("text", STATES)
def test_a_damaged_record_of_the_servers_is_named(
    text: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["serve", what, "--params", str(REPOSITORY / "params.yaml")])
    monkeypatch.chdir(tmp_path)
    serve.STATE.parent.mkdir()
    serve.STATE.write_text(text)
    assert cli.guarded(serve.main) == 2
    assert capsys.readouterr().err.startswith("error: .prefect/servers.json: damaged; ")
    assert serve.STATE.read_text() == text


@pytest.mark.parametrize(
    ("main", "arguments", "words"),
    [
        (costs.main, ["--knob", "estimator=["], "error: --knob estimator=[: not a YAML value"),
        (costs.main, ["--knob", "estimator=2001-99-99"], "not a YAML value"),
        (costs.main, ["--methods", "x"], "error: --methods: unknown method 'x'"),
        (costs.main, ["--rounds", "0"], "--rounds: invalid positive value: '0'"),
        (outside.main, ["--tasks", "0"], "--tasks: invalid positive value: '0'"),
        (outside.main, ["--seeds", "x"], "--seeds"),
        (switches.main, ["--methods", "x"], "error: --methods: unknown method 'x'"),
        (switches.main, ["--methods", "ewc", "--seeds", "x"], "error: --seeds x: has to be whole numbers"),
        (loop.main, ["x"], "unrecognized arguments: x"),
        (whole_run.main, ["x"], "unrecognized arguments: x"),
        (prepare_benchmark.main, ["/nowhere"], "error: /nowhere: not there"),
        (prepare_benchmark.main, ["/", "--decode", "0", "0"], "PART is from 0 to PARTS - 1"),
        (prepare_benchmark.main, ["cl"], "error: cl: is not Tiny ImageNet"),
    ],
)
def test_wrong_arguments_of_the_benchmarks(
    main: object, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    assert cli.guarded(main) == 2  # type: ignore[arg-type]
    assert words in capsys.readouterr().err


def test_a_benchmark_of_the_whole_run_needs_a_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(sys, "argv", ["whole_run"])
    assert cli.guarded(whole_run.main) == 2
    assert "error: `git clone --quiet ." in capfd.readouterr().err
