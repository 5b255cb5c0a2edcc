"""The pages as a site: what becomes of links, lists and formulas; and the site itself where MkDocs is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import site
from tests.conftest import REPOSITORY


def test_links_lead_where_the_pages_are_on_the_site() -> None:
    text = (
        "[a](docs/faq.md#x) ![b](docs/images/r.png) [c](CONTRIBUTING.md) [d](params.yaml) [e](https://x.y/z.md) [f](#g)"
    )
    here = "[a](faq.md#x) ![b](images/r.png) [c](contributing.md) d [e](https://x.y/z.md) [f](#g)"
    assert site.with_links(text, "index.md") == here
    text = "[a](../../README.md#which-method) [b](../metrics.md) [c](../../reproduction) [d](ewc.md)"
    assert site.with_links(text, "methods/er.md") == "[a](../index.md#which-method) [b](../metrics.md) c [d](ewc.md)"


def test_lists_begin_after_an_empty_line() -> None:
    def change(text: str) -> str:
        return site.outside_code(text, lambda part: site.LIST_AFTER_TEXT.sub(r"\1\n\n", part))

    assert change("Of these:\n- one\n- two\n  more\n- three") == "Of these:\n\n- one\n- two\n  more\n- three"
    assert change("Steps:\n1. one\n2. two") == "Steps:\n\n1. one\n2. two"
    assert change("```\ntext\n- no list\n```\n\n    code\n- x") == "```\ntext\n- no list\n```\n\n    code\n- x"


@pytest.mark.slow
def test_the_site_is_built_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    build = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=REPOSITORY, env=env, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text("utf-8") for path in tmp_path.rglob("*.html")}
    assert {"index.html", "contributing.html", "methods/ewc.html", "faq.html"} <= set(pages)
    assert "<math" in pages["methods/ewc.html"]
    assert "arithmatex" not in "".join(pages.values())
    assert "getting-started" in (tmp_path / "search/search_index.json").read_text("utf-8")
    fetched = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', "".join(pages.values()))
    assert not fetched, "from another machine"
