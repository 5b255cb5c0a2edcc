"""What MkDocs is told of this project, as a hook: pages from the root of the repository, links, formulas.

The pages are written to be read in the repository, where README.md is above `docs`. A link to a file that is no page
becomes its name: the site is read without the repository.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MOVED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the root, and what they are on the site; the pages of `docs` stand beside them there."""
BOOST = {"faq.md": 2.0, "contributing.md": 0.3, "changelog.md": 0.3}
"""How much search prefers a page to others: answers come first, what only developers read comes last."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
LIST_AFTER_TEXT = re.compile(r"^(?!\s|[-*|#>]|\d+\. )(.+)\n(?=(?:[-*]|\d+\.) )", re.MULTILINE)
"""A list that follows a paragraph without an empty line, which MkDocs takes for more of the paragraph."""
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def source_of(page: str) -> str:
    """The file of a page of the site, from the root of the repository."""
    return {site: file for file, site in MOVED.items()}.get(page, f"docs/{page}")


def page_of(file: str) -> str | None:
    """The place on the site of a file of the repository; None where it is not on it."""
    if file in MOVED:
        return MOVED[file]
    if file == "docs":
        return None
    return file.removeprefix("docs/") if file.startswith("docs/") else None


def with_links(text: str, page: str) -> str:
    """The text of a page with its links as they are on the site."""
    folder, here = posixpath.dirname(source_of(page)), posixpath.dirname(page)

    def changed(match: re.Match[str]) -> str:
        bang, shown, address = match.groups()
        path, hash_, anchor = address.partition("#")
        if re.match(r"[a-z]+:", address) or not path:
            return match[0]
        target = page_of(posixpath.normpath(posixpath.join(folder, path)))
        if target is None:
            return shown
        return f"{bang}[{shown}]({posixpath.relpath(target, here or '.')}{hash_}{anchor})"

    return LINK.sub(changed, text)


def outside_code(text: str, change: Any) -> str:
    """The text with what is no block of code changed."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def anchor(heading: str, separator: str) -> str:
    """Of a heading, as the repository's page has it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def in_mathml(content: str) -> str:
    """A page's HTML with its formulas in MathML, which browsers draw without a script."""
    from latex2mathml.converter import convert

    def changed(match: re.Match[str]) -> str:
        kind = "block" if match[1] == "div" else "inline"
        return str(convert(html.unescape(match[2]).strip(), display=kind))

    return FORMULA.sub(changed, content)


# What MkDocs calls.


def on_config(config: Any) -> Any:
    """In `nav`, a folder stands for all of its pages that are not named elsewhere, README.md first."""
    config.mdx_configs["toc"]["slugify"] = anchor
    named = {page for section in config.nav for pages in section.values() if isinstance(pages, list) for page in pages}
    for section in config.nav:
        for title, folder in section.items():
            if isinstance(folder, str):
                pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs" / folder).glob("*.md")}
                section[title] = sorted(pages - named, key=lambda page: (not page.endswith("README.md"), page))
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the root."""
    from mkdocs.structure.files import File

    for name, page in MOVED.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links, and lists without an empty line before them; the page's weight in search."""
    del config, files
    path = page.file.src_uri
    page.meta["search"] = {"boost": BOOST.get(path, 1.0)}

    def change(text: str) -> str:
        return LIST_AFTER_TEXT.sub(r"\1\n\n", with_links(text, path))

    return outside_code(markdown, change)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Formulas."""
    del page, config, files
    return in_mathml(content)
