"""Each benchmark takes the options that its code reads, and refuses the others."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
from pydantic import ValidationError

from cl.data.prepare import FOR_ALL, benchmark_file, check_options, prepare
from cl.errors import UserError
from cl.names import names_in
from cl.params import Benchmark
from tests.conftest import RAW

NAMES = [stem.replace("_", "-") for stem in names_in("data/benchmarks")]
SET: dict[str, Any] = {
    "path": "elsewhere",
    "classes_per_task": 5,
    "repetition": 2,
    "image_size": 16,
    "train_per_class": 3,
    "validation_per_class": 2,
    "validation_share": 0.1,
    "pad": 2,
    "on_bad_image": "skip",
}


@functools.cache
def tree(function: FunctionType) -> ast.AST:
    return ast.parse(inspect.getsource(function))


def reached(function: FunctionType) -> set[FunctionType]:
    """The function and those of the room that it names, and those that they name."""
    found: set[FunctionType] = set()
    waiting = [function]
    while waiting:
        if (one := waiting.pop()) not in found:
            found.add(one)
            waiting += named(one)
    return found


def named(function: FunctionType) -> Iterator[FunctionType]:
    for node in ast.walk(tree(function)):
        thing = None
        if isinstance(node, ast.Name):
            thing = function.__globals__.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = function.__globals__.get(node.value.id)
            thing = getattr(module, node.attr, None) if isinstance(module, ModuleType) else None
        if isinstance(thing, FunctionType) and thing.__module__.startswith("cl.data"):
            yield thing


def read(function: FunctionType) -> set[str]:
    """The options that it looks at, itself or through those."""
    return {
        node.attr
        for one in reached(function)
        for node in ast.walk(tree(one))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "options"
    }


@pytest.mark.parametrize("name", NAMES)
def test_what_is_declared_is_what_is_read(name: str) -> None:
    module: Any = importlib.import_module(f"cl.data.benchmarks.{name.replace('-', '_')}")
    found = read(module.tasks) | read(module.fingerprint)
    assert found & set(Benchmark.model_fields) - {"name", "seed"} == module.OPTIONS | {"tasks", "order"}
    assert set(SET) >= module.OPTIONS
    assert set(FOR_ALL) | set(SET) == set(Benchmark.model_fields)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("option", SET)
def test_what_a_benchmark_has_no_use_for_is_refused(name: str, option: str, tmp_path: Path) -> None:
    options = Benchmark(name=name, **{option: SET[option]})
    if option in benchmark_file(name).OPTIONS:
        check_options(options)
        return
    with pytest.raises(UserError, match=rf"^benchmark\.{option}: {name} has no use for it; leave it out \(its keys: "):
        prepare(options, RAW, tmp_path / "p", say=lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_options_that_came_later_are_in_no_key_unless_they_are_given() -> None:
    assert not Benchmark.younger & set(Benchmark().model_dump())
    given = Benchmark(validation_share=0.1, pad=2)
    assert Benchmark.model_validate(given.model_dump()) == given
    assert Benchmark.model_validate_json(given.model_dump_json()) == given


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2])
def test_a_share_that_leaves_nothing_on_one_side(share: float) -> None:
    with pytest.raises(ValidationError, match="validation_share"):
        Benchmark(validation_share=share)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_as_it_is_anyway_is_no_fault(name: str) -> None:
    check_options(Benchmark(name=name, path=None, classes_per_task=None, image_size=None, on_bad_image="refuse"))
