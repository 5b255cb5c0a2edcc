"""What the pages point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
        assert any(f"{page.name})" in text or f"{page.name}#" in text for name, text in texts.items() if name != own), (
            own
        )
