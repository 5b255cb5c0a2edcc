"""Which code decides a result: it follows from the imports, and so do the dependencies of DVC's stages."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cl import imports, methods, names
from cl.declared import declared, docstring
from cl.errors import UserError
from cl.imports import NO_PART, code_of, path_of, with_dependencies
from cl.names import names_in
from cl.register import declares, method_class
from tests.conftest import REPOSITORY

MINE = '''"""A method of a contributor's."""

from cl.methods.ewc import EWC


class Mine(EWC):
    """EWC."""
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package with one method more, which subclasses another in its own file."""
    copy = tmp_path / "cl"
    shutil.copytree(REPOSITORY / "cl", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "methods" / "mine.py").write_text(MINE)
    for module in (imports, names):
        monkeypatch.setattr(module, "PACKAGE", copy)
    return copy


def test_code_of_a_method_is_its_own_and_what_all_use() -> None:
    common = set(code_of("finetune"))
    assert {"train.py", "learner.py", "protocol.py", "trials.py", "resume.py", "results.py", "rng.py"} < common
    assert {"selection.py", "checkpoint.py", "journal.py", "data/task.py", "nets/multihead.py"} < common
    assert set(code_of("joint")) - common == {"methods/joint.py"}
    assert set(code_of("ewc")) - common == {"methods/ewc.py", "holding.py"}
    assert set(code_of("er")) - common == {"methods/er.py", "replay.py", "memory.py"}
    assert not [file for name in names_in("methods") for file in code_of(name) if file in ("params.py", "cli.py")]


def test_a_method_that_subclasses_another_rests_on_its_file(package: Path) -> None:
    assert {"methods/mine.py", "methods/ewc.py", "holding.py"} < set(code_of("mine"))
    assert "methods/mas.py" not in code_of("mine")
    # An import that is added is seen in the same process.
    shared = package / "holding.py"
    shared.write_text(shared.read_text(encoding="utf-8") + "\nfrom cl import merging\n", encoding="utf-8")
    assert {"merging.py"} == set(code_of("mine")) - set(code_of("joint")) - {
        "methods/mine.py",
        "methods/ewc.py",
        "holding.py",
    }


def test_what_is_for_the_type_checker_alone_decides_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(
        "if TYPE_CHECKING:\n    from cl import rng\nelse:\n    from cl import ops\n\nfrom cl.data import Task\n"
    )
    assert imports.imports_of(file, 0) == ("cl.ops", "cl.data")


def test_dvc_depends_on_what_decides() -> None:
    text = (REPOSITORY / "dvc.yaml").read_text(encoding="utf-8")
    assert with_dependencies(text) == text, "run `python -m cl.imports`"
    stage = yaml.safe_load(text)["stages"]["train"]["do"]
    for name in names_in("methods"):
        told = {file.replace("${key}", name) for file in stage["deps"]}
        assert {f"cl/{file}" for file in code_of(name)} <= told


def test_dvc_depends_on_a_method_that_is_subclassed(package: Path) -> None:
    text = (REPOSITORY / "dvc.yaml").read_text(encoding="utf-8")
    new = with_dependencies(text)
    assert set(new.splitlines()) - set(text.splitlines()) == {"        - cl/methods/ewc.py"}


def test_what_is_named_as_no_part_exists() -> None:
    assert all(path_of(module).is_file() for module in NO_PART)


CAPABILITIES = (
    *("stores_samples", "sees_all_tasks", "needs_task_id", "selection", "exports", "online", "judged_by", "scenarios"),
    *("needs_shared_layers", "takes_layers_apart", "corrects_decay"),
)


@pytest.mark.parametrize("method", names_in("methods"))
def test_what_a_source_declares_is_what_the_class_has(method: str) -> None:
    own = method_class(method)
    assert {name: declared(method, name) for name in CAPABILITIES} == {
        name: getattr(own, name) for name in CAPABILITIES
    }
    assert declared(method, "__name__") == own.__name__
    knobs = declared(method, "knobs")
    assert list(knobs) == list(own.knobs)
    for name, knob in own.knobs.items():
        assert replace(knobs[name], decay=None) == replace(knob, decay=None)
        assert (knobs[name].decay is None) is (knob.decay is None)
    assert docstring(path_of(f"cl.methods.{method}")) == inspect.getdoc(sys.modules[own.__module__])
    with pytest.raises(KeyError, match="no_such"):
        declared(method, "no_such")


ODD = """
from __future__ import annotations
from cl.knob import knob
from cl.methods.ewc import EWC

def found():
    return 3.0

class Odd(EWC):
    stores_samples = bool(found())
    extra: float = knob(found(), range=(0, 10))
"""


def test_what_a_source_does_not_say_the_class_is_asked(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "methods/odd.py").write_text(ODD, encoding="utf-8")
    with pytest.raises(KeyError, match="found"):
        declared("odd", "knobs")
    assert declares("mine", "knobs").keys() == method_class("ewc").knobs.keys()
    monkeypatch.setattr("cl.methods.__path__", [*methods.__path__, str(package / "methods")])
    assert declares("odd", "stores_samples") is True
    assert declares("odd", "knobs")["extra"].default == 3.0
    (package / "methods/two.py").write_text("from cl.method import Method\n\nA = B = 1\n", encoding="utf-8")
    with pytest.raises(UserError, match="exactly one subclass of Method, not 0"):
        declares("two", "knobs")


QUICK = """
import sys
from pathlib import Path
from cl.params import read
from cl.register import checked
checked(read(Path("params.yaml"), ["methods.ewc.strength=3"]))
print("torch" in sys.modules)
"""


def test_knobs_are_checked_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", QUICK], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
