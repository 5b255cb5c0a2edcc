"""What the rooms may know of each other."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from cl.names import names_in

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted((REPOSITORY / "cl").rglob("*.py"))
ORCHESTRATION = {"prefect", "mlflow", "dvc", "dvclive", "dask", "distributed", "ray", "flows"}
NAMES = [str(path.relative_to(REPOSITORY)) for path in SOURCES]

LAYERS = ["knob", "trainable", "evaluate", "method", "methods", "register", "train", "selection"]
LAYERS += ["learner", "trials", "protocol", "resume", "run"]
"""Each may import what stands before it, never what stands after."""


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", NAMES)
def test_the_learning_knows_no_orchestration(name: str) -> None:
    roots = {module.split(".")[0] for module in imported(REPOSITORY / name)}
    assert not roots & ORCHESTRATION
    assert not re.search(r"import_module\(\s*[\"'](prefect|mlflow|dvc)", (REPOSITORY / name).read_text("utf-8"))


def test_nor_does_what_it_imports() -> None:
    """In a process of its own, after every module of the learning has been imported."""
    code = (
        "import importlib, pkgutil, sys, cl\n"
        "for module in pkgutil.walk_packages(cl.__path__, 'cl.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(*sorted(sys.modules))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    modules = set(found.stdout.split())
    assert {"cl.resume", "cl.run", "cl.methods.finetune", "torch", "optuna"} <= modules
    assert not {module.split(".")[0] for module in modules} & ORCHESTRATION


@pytest.mark.parametrize("module", ["cl.params", "cl.files", "cl.data.prepare", "cl.metrics", "cl.run", "cl.pool"])
def test_cheap_stages_do_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=REPOSITORY).returncode == 0


@pytest.mark.parametrize("name", [*LAYERS[1:4], *LAYERS[5:], "publish", "checkpoint", "pool"])
def test_the_loop_names_no_method(name: str) -> None:
    """But for finetuning, which the protocol itself is built on."""
    tree = ast.parse((REPOSITORY / "cl" / f"{name}.py").read_text(encoding="utf-8"))
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body
        if isinstance(node.body[0], ast.Expr)
    }
    words: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.alias):
            words |= set(node.name.split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            words |= set(re.split(r"[\s.]+", node.value))
    named = {word.lower().replace("-", "_") for word in words} & set(names_in("methods"))
    assert named <= {"finetune"}


@pytest.mark.parametrize("name", NAMES)
def test_no_pickle(name: str) -> None:
    """One file reads what others saved with torch, weights alone: nothing in it is executed."""
    path = REPOSITORY / name
    roots = {module.split(".")[0] for module in imported(path)}
    reads_weights = name == "cl/nets/weights.py"
    found = roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert found == ({"pickle"} if reads_weights else set())  # of pickle its error
    assert "pickle.load" not in path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if reads_weights and called == "torch.load":
            assert given["weights_only"] == "True"
            continue
        assert called not in {"torch.load", "torch.save"}, f"{name}:{node.lineno}"
        if called in {"np.load", "np.save", "numpy.load", "numpy.save"}:
            assert given.get("allow_pickle") == "False", f"{name}:{node.lineno}"


def test_optuna_is_known_in_one_place() -> None:
    using = [n for n, path in zip(NAMES, SOURCES, strict=True) if any(m.startswith("optuna") for m in imported(path))]
    assert using == ["cl/selection.py"]


@pytest.mark.parametrize("layer", LAYERS)
def test_arrows_point_down(layer: str) -> None:
    folder = REPOSITORY / "cl" / layer
    above = LAYERS[LAYERS.index(layer) + 1 :]
    for path in [*folder.glob("*.py")] if folder.is_dir() else [folder.with_suffix(".py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        types_only = {
            id(below)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for below in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and id(node) not in types_only:
                assert node.module not in {f"cl.{name}" for name in above}, f"{path}:{node.lineno}"


@pytest.mark.parametrize("folder", ["nets", "data"])
def test_nets_and_data_know_nothing_above(folder: str) -> None:
    for path in (REPOSITORY / "cl" / folder).rglob("*.py"):
        for module in imported(path):
            assert not re.match(rf"cl\.({'|'.join(LAYERS)}|pool)\b", module), path


ALL = sorted(path for room in ("cl", "flows", "benchmarks") for path in (REPOSITORY / room).rglob("*.py"))


def test_texts_are_of_an_encoding_that_is_named() -> None:
    """Not of the one that the user's locale happens to have."""
    for path in ALL:
        for call in (n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)):
            called = ast.unparse(call.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            words = [ast.unparse(argument) for argument in call.args]
            named = "encoding" in given or (called.endswith(".read_text") and words)
            texts = called.endswith((".read_text", ".write_text"))
            if called == "open" or (called.endswith(".open") and called not in {"tarfile.open", "gzip.open"}):
                modes = words[called == "open" :]
                texts = all(re.fullmatch("'[rwa+]+'", mode) for mode in modes)
            assert named or not texts, f"{path}:{call.lineno}: {ast.unparse(call)}"
            assert "True" not in {given.get("text"), given.get("universal_newlines")}, f"{path}:{call.lineno}"


def test_every_command_ends_in_a_sentence() -> None:
    """By the one function that knows how; what decodes, or forks, speaks to its parent alone.

    `unforgetting` is an entry point too, and `console` says of itself how it ends.
    """
    for path in ALL:
        _, found, ending = path.read_text(encoding="utf-8").partition('if __name__ == "__main__":')
        own = path.name in {"decode.py", "forks.py", "unforgetting.py", "warm.py"}
        assert not found or "(cli.guarded(main))" in ending or own, path


# The size of things, and the drawing of the imports.

HOUSE = [path.relative_to(REPOSITORY).as_posix() for path in ALL if not path.is_relative_to(REPOSITORY / "benchmarks")]
LONGEST_FILE, LONGEST_FILE_IN_A_ROOM, LONGEST_FUNCTION = 400, 300, 60


@cache
def parsed(name: str) -> ast.Module:
    return ast.parse((REPOSITORY / name).read_text(encoding="utf-8"))


def module_of(name: str) -> str:
    return ".".join(Path(name).with_suffix("").parts).removesuffix(".__init__")


def is_in_a_room(name: str) -> bool:
    """Whether the file is in a package of flows, beside the stages and commands."""
    return re.fullmatch(r"flows/\w+/\w+\.py", name) is not None


def test_no_file_is_long() -> None:
    for name in HOUSE:
        lines = len((REPOSITORY / name).read_text(encoding="utf-8").splitlines())
        most = LONGEST_FILE_IN_A_ROOM if is_in_a_room(name) else LONGEST_FILE
        assert lines <= most, f"{name} has {lines} lines, and may have {most}"


def test_no_function_is_long_but_the_loop() -> None:
    long = {
        f"{name}: {node.name}"
        for name in HOUSE
        for node in ast.walk(parsed(name))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert long == {"cl/train.py: fit"}


def imported_at_once(statements: list[ast.stmt]) -> Iterator[str]:
    """What is imported when the module is, as `module` or `module.name`; what only type checkers read is left out."""
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING":
            yield from imported_at_once([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from imported_at_once(node.body)


def test_no_imports_go_round_in_a_circle() -> None:
    """`TopologicalSorter.prepare` raises `CycleError`, which names the modules."""
    modules = {module_of(name): name for name in HOUSE}
    arrows: dict[str, set[str]] = {}
    for module, name in modules.items():
        targets = list(imported_at_once(parsed(name).body))
        named = {target if target in modules else target.rpartition(".")[0] for target in targets}
        arrows[module] = (named & modules.keys()) - {module}
    TopologicalSorter(arrows).prepare()


def test_rooms_import_no_command() -> None:
    """Neither at once nor later: the commands use the rooms."""
    commands = {
        module_of(name)
        for name in HOUSE
        if name.startswith("flows/") and '__name__ == "__main__"' in (REPOSITORY / name).read_text(encoding="utf-8")
    }
    assert {"flows.compare", "flows.nightly", "flows.report.__main__"} <= commands
    for name in filter(is_in_a_room, HOUSE):
        for target in imported(REPOSITORY / name):
            above = {target, target.rpartition(".")[0]} & (commands | {"flows.deployments"})
            assert not above, f"{name} imports the command {above}"
