"""What a method begins as: files that work, and fail where something is left to the author."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from cl import cli, new_method
from cl.errors import UserError
from cl.method import Method
from cl.new_method import TO_WRITE, files, write


def loaded(path: Path, name: str, patch: pytest.MonkeyPatch) -> Any:
    """The module in this file, under this name for as long as the test runs."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for path in files("soft_anchor", "Soft anchor", "A paper."):
        (tmp_path / path).parent.mkdir(parents=True)
    return tmp_path


def test_the_method_works_and_its_test_waits_for_the_value(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, test, page = write("soft_anchor", "Soft anchor", "A paper.", repository)
    made = loaded(method, "cl.methods.soft_anchor", monkeypatch)
    assert issubclass(made.SoftAnchor, Method)
    assert list(made.SoftAnchor.knobs) == ["strength"]
    tests = loaded(test, "tests.cl.methods.test_soft_anchor", monkeypatch)
    with pytest.raises(AssertionError, match="put it into GOLDEN"):
        tests.test_penalty()
    tests.GOLDEN = 10.0 * (2**2 + 2**2)
    tests.test_penalty()
    tests.GOLDEN = 79.0
    with pytest.raises(AssertionError):
        tests.test_penalty()
    assert page.read_text(encoding="utf-8").startswith("# soft_anchor: soft anchor\n\nA paper.\n")
    assert all(TO_WRITE in path.read_text(encoding="utf-8") for path in (test, page))


@pytest.mark.parametrize("name", ["Anchor", "soft-anchor", "2anchor", "", "class", "all", "a/b", "é"])
def test_names_that_cannot_be_used(name: str, repository: Path) -> None:
    with pytest.raises(UserError, match="lower-case letters, digits and underscores"):
        write(name, "Anchor", "A paper.", repository)
    assert not [path for path in repository.rglob("*") if path.is_file()]


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_what_is_there_is_not_overwritten(kind: int, repository: Path) -> None:
    there = repository / list(files("soft_anchor", "Soft anchor", "A paper."))[kind]
    there.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="exists already; choose another name"):
        write("soft_anchor", "Soft anchor", "A paper.", repository)
    assert [path.read_text(encoding="utf-8") for path in repository.rglob("*") if path.is_file()] == ["mine"]


def test_outside_a_clone_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in a clone"):
        write("soft_anchor", "Soft anchor", "A paper.", tmp_path)


def test_the_command_writes_and_says_what_comes_next(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(new_method, "PACKAGE", repository / "cl")
    monkeypatch.setattr(sys, "argv", ["new_method", "soft_anchor"])
    assert cli.guarded(new_method.main) == 0
    said = capsys.readouterr().out
    assert all(path in said for path in files("soft_anchor", "", ""))
    assert "python -m benchmarks.tables" in said
    assert TO_WRITE in (repository / "cl/methods/soft_anchor.py").read_text(encoding="utf-8")
    assert cli.guarded(new_method.main) == 2
    assert "exists" in capsys.readouterr().err
