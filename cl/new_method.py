"""Begin a method of your own: `python -m cl.new_method elastic_anchor` writes its file, its test and its page.

What it writes works: it pulls every weight back to where the last task left it. What the author has to say is marked
"To write", and the tests fail until it is said.
"""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from pathlib import Path

from cl import cli
from cl.called import program
from cl.errors import UserError, brief
from cl.files import write_whole
from cl.names import PACKAGE

TO_WRITE = "To write:"
"""Marks what is left to the author."""
EXAMPLE = ("elastic_anchor", "Elastic anchor", "An example; no paper.")
"""Name, title and paper of the method whose file CONTRIBUTING.md shows."""

METHOD = '''"""{title}: hold every weight near the last task's, all equally firmly.

{paper}
"""

from __future__ import annotations

from cl.data import Task
from cl.knob import knob, shrink
from cl.method import Method
from cl.ops import Quadratic, Tensors, quadratic, snapshot


class {cls}(Method):
    """L = CE + lambda sum_k (theta_k - theta*_k)^2."""

    strength: float = knob(10.0, decay=shrink, range=(0, 1e6), help="lambda")

    anchor_: Tensors | None = None
    """theta*: the weights as the last task left them, by name."""

    def penalty(self) -> Quadratic | None:
        """Zero on the first task."""
        if self.anchor_ is None or self.strength == 0:
            return None
        return self.strength * quadratic(self.shared, self.anchor_)

    def end_task(self, data: Task) -> None:
        """Move the anchor here."""
        self.anchor_ = snapshot(self.shared)
'''

TEST = '''"""{title}. {to_write} which equation gives the golden value, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from cl.methods.{name} import {cls}
from tests.cl.small import attach, linear_net

GOLDEN: float | None = None  # {to_write} the value, worked out on paper


def test_penalty() -> None:
    """Of the weights 3 and 0 that were 1 and 2, at lambda = 10."""
    method = attach({cls}(strength=10.0), linear_net(torch.tensor([[3.0, 0.0]])), task=1)
    assert method.penalty() is None
    method.anchor_ = {{name: torch.tensor([[1.0, 2.0]]) for name in method.shared}}
    penalty = method.penalty().item()
    assert GOLDEN is not None, "work the penalty out on paper from the equation of the paper, and put it into GOLDEN"
    assert penalty == pytest.approx(GOLDEN)
'''

PAGE = """# {name}: {lower}

{paper}

Kind: {to_write} as that of a relative in the [table](README.md). Carried between tasks: $M$.

## The idea

{to_write} what it does against forgetting, for a reader who knows machine learning.

## Equations

$L(\\theta) = CE_t(\\theta) + \\lambda \\sum_k (\\theta_k - \\theta^*_k)^2$

with $\\theta^*$ the weights as the last task left them.

## Knobs

| knob | default | range | decays | meaning |
|---|---|---|---|---|
| `strength` | 10.0 | 0 to 1e6 | yes | $\\lambda$. 0 is finetuning, bit for bit |

## What it stores, what it needs

- $\\theta^*$: $M$ numbers for a backbone of $M$ parameters.
- It stores no raw samples. In training it has to know only where a task ends.

## Scenarios

{to_write} in which scenarios it can be used (`scenarios`, `online`), and how well it does in each.

## Hooks

- `penalty`: $\\lambda \\sum_k (\\theta_k - \\theta^*_k)^2$; nothing in the first task or at strength 0.
- `end_task`: moves the anchor.

## Differences

- {to_write} where it differs from the paper, and why.

## Results

<!-- results -->
{to_write} nothing by hand; the last two commands that `python -m cl.new_method` prints fill it in.
<!-- /results -->
"""


def method(name: str, title: str, paper: str) -> str:
    """The text of the method's file."""
    return METHOD.format(title=title, paper=paper, cls=class_name(name))


def files(name: str, title: str, paper: str) -> dict[str, str]:
    """The text of each of the three files, by its path from the root of the repository."""
    words = {"name": name, "title": title, "paper": paper, "cls": class_name(name), "to_write": TO_WRITE}
    return {
        f"cl/methods/{name}.py": method(name, title, paper),
        f"tests/cl/methods/test_{name}.py": TEST.format(**words),
        f"docs/methods/{name}.md": PAGE.format(**words, lower=title[:1].lower() + title[1:]),
    }


def class_name(name: str) -> str:
    """ElasticAnchor for elastic_anchor."""
    return "".join(word.capitalize() for word in name.split("_"))


def write(name: str, title: str, paper: str, root: Path) -> list[Path]:
    """Write the three files; raises `UserError` for a name that cannot be used, and where one of them is there."""
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or name == "all":
        raise UserError(f"{brief(name)}: use lower-case letters, digits and underscores alone, as in elastic_anchor")
    texts = {root / path: text for path, text in files(name, title, paper).items()}
    for path in texts:
        if not path.parent.is_dir():
            raise UserError(f"{path.parent}: does not exist; run this in a clone of the repository")
        if path.exists():
            raise UserError(f"{path}: exists already; choose another name, or remove it first")
    for path, text in texts.items():
        write_whole(path, text.encode())
    return list(texts)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog=program("cl.new_method"), description=main.__doc__)
    made.add_argument("name", help="of the method and its files, such as elastic_anchor")
    made.add_argument("--title", help="its name in words; default: the name without underscores")
    made.add_argument("--paper", help="authors, title, where and when it appeared")
    return made


def main() -> int:
    """Begin a method of your own: write its file, its test and its page, and say what comes next."""
    given = parser().parse_args()
    title = given.title or given.name.replace("_", " ").capitalize()
    written = write(given.name, title, given.paper or f"{TO_WRITE} authors, title, where, when.", PACKAGE.parent)
    print("\n".join(str(path.relative_to(PACKAGE.parent)) for path in written))
    print(
        f"""
It works as it is; now make it yours (CONTRIBUTING.md). What is left to write is marked "{TO_WRITE}". Then run

    python -m benchmarks.tables                  # the tables of methods in README and docs
    python -m pytest tests/cl/methods/test_{given.name}.py tests/test_docs.py
    python -m pytest tests/cl/test_battery.py -k {given.name}
    python -m flows.compare --methods {given.name},finetune,joint --out out/{given.name}
    python -m benchmarks.pages --all out/{given.name} --methods {given.name}    # its results, into its page"""
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
