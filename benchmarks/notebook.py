"""The page docs/python.md as a notebook: its blocks of Python are the cells, and its text stands between them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE, NOTEBOOK = Path("docs/python.md"), Path("docs/python.ipynb")
BLOCK = re.compile(r"^```python\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
FORMAT = {"nbformat": 4, "nbformat_minor": 5}
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
SELF = re.compile(r"^The same in a notebook:.*?\n\n", re.MULTILINE | re.DOTALL)


def notebook(page: str) -> str:
    """The text of the notebook."""
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(BLOCK.split(SELF.sub("", page))):
        if not part.strip():
            continue
        code = number % 2 == 1
        lines = part.strip("\n").splitlines(keepends=True)
        cell: dict[str, Any] = {"cell_type": "code" if code else "markdown", "id": f"cell-{len(cells)}", "metadata": {}}
        cells.append({**cell, "source": lines, **({"execution_count": None, "outputs": []} if code else {})})
    return json.dumps({"cells": cells, "metadata": KERNEL, **FORMAT}, indent=1, ensure_ascii=False) + "\n"


def code_of(text: str) -> list[str]:
    """The cells of code of a notebook."""
    return ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
