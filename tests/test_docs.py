"""What the pages point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import tables
from cl.method import Method
from cl.new_method import TO_WRITE
from cl.params import names_in
from tests.conftest import REPOSITORY, sources

SOURCES = sources()
PAGES = [name for name in SOURCES if name.endswith(".md")]
REGISTER = REPOSITORY / "docs" / "differences.md"


def anchors(page: Path) -> set[str]:
    """Of its headings, as they are made of them on the web."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = REPOSITORY / name
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_number_of_the_register_is_in_it() -> None:
    registered = re.findall(r"^\| (Q\d\d) \|", REGISTER.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(registered) == len(set(registered))
    for name in SOURCES:
        path = REPOSITORY / name
        if path.suffix in {".md", ".py"}:
            used = set(re.findall(r"\bQ\d\d\b", path.read_text(encoding="utf-8")))
            assert used <= set(registered), name


@pytest.mark.parametrize("folder", ["", "methods", "benchmarks"])
def test_every_page_is_linked_from_another(folder: str) -> None:
    texts = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in PAGES}
    for page in (REPOSITORY / "docs" / folder).glob("*.md"):
        own = str(page.relative_to(REPOSITORY))
        linked = (f"{page.name})" in text or f"{page.name}#" in text for name, text in texts.items() if name != own)
        assert any(linked), f"{own}: no page links to it; to a method's python -m benchmarks.tables does"


PARTS = ("The idea", "Equations", "Knobs", "What it stores, what it needs", "Hooks", "Differences", "Results")


@pytest.mark.parametrize("name", names_in("methods"))
def test_a_methods_page_has_its_parts(name: str) -> None:
    text = (REPOSITORY / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert [heading for heading in re.findall("^## (.+)$", text, re.MULTILINE) if heading in PARTS] == list(PARTS)
    for path in (f"docs/methods/{name}.md", f"cl/methods/{name}.py", f"tests/cl/methods/test_{name}.py"):
        left = TO_WRITE in (REPOSITORY / path).read_text(encoding="utf-8") if path in SOURCES else False
        assert not left, f"{path}: something is left to write, where it says {TO_WRITE!r}"


def test_tables_say_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    for (page, block), content in tables.blocks().items():
        there = [match[3] for match in tables.marked(block).finditer(page.read_text(encoding="utf-8"))]
        assert there, f"{page}: has no block {block!r}"
        if set(there) != {content}:
            pytest.fail(f"{page}, block {block!r}: it is not what the code says; run python -m benchmarks.tables")


def test_what_methods_override_is_in_the_tables() -> None:
    """So that nothing can be overridden that CONTRIBUTING.md does not name."""
    told = {*tables.WHEN, *(name for name, _ in tables.declared())}
    members = [name for name in dir(Method) if not name.startswith("_") and name not in {"knobs", "settable"}]
    overridden = {name for name in members if any(tables.overriding(name))}
    assert overridden <= told
    assert told <= set(members)
