"""A method that is no file yet, in a notebook; and the page that shows how."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.notebook import NOTEBOOK, PAGE, code_of, notebook
from cl import trying
from cl.data import load
from cl.method import Method
from cl.methods.ewc import EWC
from cl.methods.joint import Joint
from tests.cl.small import CPU, OFF, output, params_for, run
from tests.conftest import REPOSITORY

EXECUTE = """
import codeop, json, sys
names, compiled = {"__name__": "__main__"}, codeop.Compile()
for number, code in enumerate(json.load(sys.stdin)):
    exec(compiled(code, f"cell {number}", "exec"), names)
"""
"""As Jupyter does: what a cell imports from `__future__` holds in those after it."""


@pytest.mark.parametrize(("name", "made"), [("ewc", EWC), ("joint", Joint)])
def test_it_reaches_what_a_comparison_does(
    name: str, made: type[Method], prepared: dict[int, Path], tmp_path: Path
) -> None:
    params = params_for(name, selection=OFF)
    matrix = trying.learn(made(), params, load(prepared[2], CPU))
    run(params, output(tmp_path, prepared[2]))
    assert matrix == json.loads((tmp_path / f"results/{name}/seed-0.json").read_text())["accuracy"]


def test_the_notebook_is_the_page() -> None:
    """`python -m benchmarks.tables` writes it anew."""
    page = (REPOSITORY / PAGE).read_text(encoding="utf-8")
    text = (REPOSITORY / NOTEBOOK).read_text(encoding="utf-8")
    assert text == notebook(page)
    assert len(code_of(text)) == page.count("```python") == 4


def test_the_notebook_runs(tmp_path: Path) -> None:
    cells = code_of((REPOSITORY / NOTEBOOK).read_text(encoding="utf-8"))
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE],
        input=json.dumps(cells),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert [line.split()[0] for line in said[-2:]] == ["finetune", "anchor"]
    assert len({line.partition(" ")[2] for line in said[-2:]}) == 2, "the two methods are not the same"
    assert sum(" for " in line and line.endswith("%") for line in said) == 5
    assert any(line.startswith("er ") for line in said)
