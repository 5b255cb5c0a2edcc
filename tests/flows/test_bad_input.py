"""Each kind of bad input: one readable line that names the thing and the remedy, and nothing that was there is lost."""

from __future__ import annotations

import gzip
import importlib.util
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cl.keys import run_folder
from cl.params import read
from tests.flows.conftest import REPOSITORY, SMALL, Finished, everything, learned, options, published, run

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture(scope="module")
def out(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished.copy(tmp_path_factory.mktemp("bad") / "out")


@pytest.fixture
def refused(out: Path) -> Callable[..., str]:
    """Run a command over earlier results; what it says is one line, with each of the words, and changes nothing."""

    def check(arguments: Sequence[str], *words: str, module: str = "flows.compare", **more: object) -> str:
        before = everything(out)
        done = run(module, arguments, **more)  # type: ignore[arg-type]
        assert done.returncode == 2
        return line_of(done, *words, before=before, out=out)

    return check


def line_of(done: Done, *words: str, before: dict[str, bytes], out: Path) -> str:
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert not [word for word in words if word not in line], line
    assert len(line) < 500
    assert everything(out) == before
    return line


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("trainin.epochs=3", ["trainin", "unknown key", "'training'"]),
        ("training.epoch=3", ["training.epoch", "unknown key", "'epochs'"]),
        ("training.epochs=0", ["training.epochs", "greater than or equal to 1", "0"]),
        ("training.batch_size=many", ["training.batch_size", "integer", "'many'"]),
        ("selection.decay=1.5", ["selection.decay", "less than 1", "1.5"]),
        ("selection.learning_rates=[]", ["selection.learning_rates", "at least one"]),
        ("seeds=[0, 0]", ["seeds", "same seed twice"]),
        ("seeds=[-1]", ["seeds", "-1"]),
        ("benchmark.name=permuted-digit", ["benchmark.name", "permuted-digit", "'permuted-digits'"]),
        ("benchmark.tasks=[1", ["benchmark.tasks", "not a YAML value"]),
        ("benchmark.tasks", ["key.path=value"]),
        ("execution.device=tpu", ["execution.device", "'auto'", "'tpu'"]),
        ("methods.ewc2={}", ["unknown method 'ewc2'", "'ewc'"]),
        ("training.epochs=1:10", ["training.epochs", "integer", "'1:10'"]),
        ("benchmark.path=/photos/\udcff", ["benchmark.path", "no UTF-8 text"]),
    ],
)
def test_settings(given: str, words: list[str], out: Path, refused: Callable[..., str]) -> None:
    refused(["--out", str(out), "--set", given], *words)


@pytest.mark.parametrize("module", ["flows.compare", "flows.prepare", "flows.train", "flows.report", "cl"])
def test_every_command_checks_its_settings(module: str, out: Path, refused: Callable[..., str]) -> None:
    refused(["--out", str(out), "--set", "trainin.epochs=3"], "trainin", "'training'", module=module)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--methods", "ewc,packnot"], ["--methods", "'packnot'", "'packnet'"]),
        (["--seeds", "0,one"], ["--seeds", "0,one", "whole numbers"]),
        (["--methods", ""], ["--methods", "names nothing"]),
        (["--methods", "ewc", "--seeds", ","], ["--seeds", "names nothing"]),
        (["--seeds", "1,,2"], ["--seeds 1,,2", "comma"]),
        (["--params", "nowhere.yaml"], ["nowhere.yaml", "--params"]),
        (["--params", "/dev/zero"], ["/dev/zero", "no file"]),
    ],
)
def test_options(given: list[str], words: list[str], out: Path, refused: Callable[..., str]) -> None:
    refused(["--out", str(out), *given], *words)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("methods.ewc.strenth=1", ["methods.ewc.strenth", "strength"]),
        ("methods.ewc.strength=-1", ["methods.ewc.strength", "-1"]),
        ("methods.ewc.estimator=guess", ["methods.ewc.estimator", "guess", "per-sample"]),
        ("others.gss.subets=3", ["--set others.gss.subets=3", "'subsets'"]),
    ],
)
def test_knobs(given: str, words: list[str], out: Path, refused: Callable[..., str]) -> None:
    refused(options(given, out=out), *words)


@pytest.mark.parametrize("module", ["flows.train", "cl"])
def test_every_command_that_learns_checks_its_knobs(module: str, out: Path, refused: Callable[..., str]) -> None:
    refused(options("methods.ewc.strenth=1", out=out), "methods.ewc.strenth", "strength", module=module)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("methods: {ewc: {}\nseeds: [0]\n", ["not valid YAML", "line 2"]),
        ("seeds: [0]\nseeds: [1]\nmethods: {ewc: {}}\n", ["'seeds'", "twice"]),
        ("- ewc\n", ["mapping of sections"]),
        ("seeds: &a [*a]\n", ["line 1", "*a stands within"]),
        ("training: {epochs: !!int abc}\n", ["line 1", "!!int"]),
        ("seeds: [0]\n", ["methods"]),
        ("", ["methods"]),
    ],
)
def test_params_file(text: str, words: list[str], out: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    refused(["--out", str(out), "--params", str(file)], str(file), *words)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A working tree of the code alone, without raw data."""
    tree = tmp_path / "elsewhere"
    for room in ("cl", "flows"):
        shutil.copytree(REPOSITORY / room, tree / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "params.yaml", tree)
    return tree


@pytest.mark.parametrize("module", ["flows.compare", "cl"])
def test_no_raw_data(module: str, elsewhere: Path, out: Path, refused: Callable[..., str]) -> None:
    words = ["data/digits/digits.csv.gz", "dvc pull -r embedded data.dvc"]
    refused(options(out=out), *words, module=module, cwd=elsewhere)


def test_damaged_raw_data(elsewhere: Path, out: Path, refused: Callable[..., str]) -> None:
    file = elsewhere / "data/digits/digits.csv.gz"
    file.parent.mkdir(parents=True)
    with gzip.open(file, "wt") as raw:
        raw.write("1,2,3\n")
    refused(options(out=out), "data/digits/digits.csv.gz", "damaged", "dvc checkout", cwd=elsewhere)


def test_training_what_was_never_prepared(tmp_path: Path, out: Path, refused: Callable[..., str]) -> None:
    refused(options(out=tmp_path), "manifest.json", "python -m flows.compare", module="flows.train")


def test_a_report_on_nothing(tmp_path: Path, out: Path, refused: Callable[..., str]) -> None:
    refused(["--out", str(tmp_path / "no")], str(tmp_path / "no"), "python -m flows.compare", module="flows.report")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU, on which runs fail at once")
@pytest.mark.parametrize("module", ["flows.compare", "cl"])
def test_what_failed_is_not_shown_with_an_earlier_result(module: str, finished: Finished, tmp_path: Path) -> None:
    """It is of other params; the files themselves stay."""
    out = finished.copy(tmp_path / "out")
    done = run(module, options("execution.device=cuda", out=out, methods="ewc", seeds="0"))
    assert done.returncode == 2
    assert "ewc/seed-0: execution.device: cuda is not available" in done.stderr
    assert not re.search(r"ewc .*\d\.\d", done.stdout)
    assert everything(out) == everything(finished.out)


def test_what_is_under_way_is_not_shown_with_an_earlier_result(finished: Finished, tmp_path: Path) -> None:
    """A run with another knob was stopped, and a report is asked for."""
    out = finished.copy(tmp_path / "out")
    changed = "methods.ewc.strength=7"
    params = read(REPOSITORY / "params.yaml", [*SMALL, changed], ["ewc"], [0])
    folder = run_folder(params, "ewc", 0, out)
    folder.mkdir(parents=True)
    (folder / "unit.json").write_text("{}")
    for done in (False, True):
        if done:
            (folder / "finished.json").write_text("{}")
        made = run("flows.report", options(changed, out=out))
        assert made.returncode == 0, made.stderr
        assert ("ewc has no result for seed 0" in (out / "report/index.html").read_text()) is not done


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two tasks of two classes of ten small images, one of them no image at all."""
    draw = np.random.default_rng(0)
    root = tmp_path / "photographs"
    for task in ("birds", "cats"):
        for kind in ("large", "small"):
            (root / task / kind).mkdir(parents=True)
            for number in range(10):
                pixels = draw.integers(0, 256, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / task / kind / f"{number}.png")
    whole = (root / "cats/small/3.png").read_bytes()
    (root / "cats/small/3.png").write_bytes(whole[: len(whole) // 2])
    return root


def photo_options(root: Path, out: Path, *more: str) -> list[str]:
    given = ("benchmark.name=folder", f"benchmark.path={root}", "benchmark.image_size=8")
    return options(*given, *more, out=out, methods="finetune", seeds="0")


needs_folder = pytest.mark.skipif(
    importlib.util.find_spec("cl.data.benchmarks.folder") is None, reason="no folder benchmark yet"
)


@needs_folder
def test_a_corrupt_image_is_refused(photographs: Path, out: Path, refused: Callable[..., str]) -> None:
    arguments = photo_options(photographs, out)
    refused(arguments, "cats/small/3.png", "on_bad_image", module="flows.prepare")


@needs_folder
def test_a_corrupt_image_is_skipped_where_that_is_wanted(photographs: Path, tmp_path: Path) -> None:
    done = run("flows.prepare", photo_options(photographs, tmp_path / "out", "benchmark.on_bad_image=skip"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "cats/small/3.png" in (tmp_path / "out/prepared/manifest.json").read_text()


@needs_folder
@pytest.mark.parametrize(
    ("path", "words"), [("nowhere", ["nowhere", "benchmark.path"]), ("photographs/cats/small", ["benchmark.path"])]
)
def test_a_folder_that_is_none(
    path: str, words: list[str], photographs: Path, out: Path, refused: Callable[..., str]
) -> None:
    refused(photo_options(photographs.parent / path, out), *words, module="flows.prepare")


def test_a_damaged_checkpoint_is_refused_by_name_and_learned_again(finished: Finished, tmp_path: Path) -> None:
    """Of the work and of what was published: the run goes on from the last good task, to the same bytes."""
    out = finished.copy(tmp_path / "out")
    (work,) = (out / ".work/ewc/seed-0").iterdir()
    for file in (work / "task-001/net.safetensors", out / "checkpoints/ewc/seed-1/task-0/state.safetensors"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    done = run("flows.compare", options(out=out))
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("task-001/net.safetensors", "checkpoints/ewc/seed-1/task-0/state.safetensors"):
        (line,) = (line for line in done.stdout.splitlines() if name in line)
        assert "warning: " in line
        assert "damaged" in line
    assert learned(done.stdout) == [("ewc/seed-0", "2/2")]
    assert published(out) == published(finished.out)


def test_a_damaged_result_is_made_whole(finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    file = out / "results/ewc/seed-0.json"
    file.write_text("{")
    done = run("flows.report", options(out=out))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert str(file) in line
    assert "flows.compare" in line
    assert run("cl", options(out=out)).returncode == 0
    assert published(out) == published(finished.out)


@pytest.mark.parametrize("module", ["flows.compare", "flows.prepare", "flows.train", "flows.report", "cl"])
def test_an_output_folder_that_cannot_be(module: str, out: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file/out"
    words = [str(place), "flows.compare --out"] if module == "flows.report" else [str(place), "--out"]
    refused(options(out=place), *words, module=module)
    assert (tmp_path / "file").read_text() == "mine"


def full(size: int) -> Callable[[], None]:
    """No file may grow beyond so many bytes: writing fails as on a full disk, for every user."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("module", ["flows.compare", pytest.param("cl", marks=pytest.mark.slow)])
def test_a_disk_that_fills_while_a_run_learns(module: str, finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    before = everything(out)
    done = run(module, options(out=out, methods="ewc,si", seeds="0"), before=full(4500))  # a checkpoint takes more
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert str(out / ".work/si/seed-0") in line
    after = everything(out)
    assert {name: data for name, data in before.items() if not name.startswith("report")} == {
        name: data for name, data in after.items() if not name.startswith("report")
    }
    again = run(module, options(out=out, methods="ewc,si", seeds="0"))
    assert (again.returncode, again.stderr) == (0, "")
    assert learned(again.stdout) == [("si/seed-0", "1/2"), ("si/seed-0", "2/2")]


@pytest.mark.parametrize(
    ("size", "module"),
    [
        (100, "cl"),
        (3000, "flows.prepare"),
        (3000, "flows.report"),
    ],
)
def test_a_full_disk_names_the_file(size: int, module: str, finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    tasks = ["benchmark.tasks=3"] if module == "flows.prepare" else []
    before = everything(out)
    done = run(module, options(*tasks, out=out, methods="ewc"), before=full(size))
    assert done.returncode == 2
    line_of(done, str(out), before=before, out=out)
    assert not list(out.glob("**/*.tmp"))
    left = [path.name for path in out.rglob("*") if path.name.endswith(".part")]
    assert not left


def test_the_report_that_does_not_fit_leaves_the_last_one(finished: Finished, tmp_path: Path) -> None:
    """Other methods, so that every file of it would change."""
    out = finished.copy(tmp_path / "out")
    before = everything(out)
    done = run("flows.report", options(out=out, methods="ewc"), before=full(10))
    assert done.returncode == 2
    line_of(done, str(out / "report"), before=before, out=out)
