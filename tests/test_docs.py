"""What the pages point at is there: links, files, commands with their options, settings, counts."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks import commands, tables
from benchmarks.commands import CODE, COMMENT, Printed
from cl import cli
from cl.method import Method
from cl.names import names_in
from cl.new_method import TO_WRITE
from cl.params import Params
from cl.register import method_class
from flows import glossary
from flows.report.summary import MEASURES
from flows.unforgetting import COMMANDS
from tests.conftest import REPOSITORY, sources

SOURCES = sources()
PAGES = [name for name in SOURCES if name.endswith(".md") and not name.endswith("model_card.md")]
SETTINGS = ["params.yaml", *(name for name in SOURCES if re.match(r"studies/.*\.yaml", name))]
REGISTER = REPOSITORY / "docs" / "differences.md"
MNIST = ("split-mnist", "permuted-mnist", "rotated-mnist")


@functools.cache
def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def anchors(page: str) -> set[str]:
    """Of its headings, as they are made of them on the web."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(name)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = ((REPOSITORY / name).parent / path).resolve() if path else REPOSITORY / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(str(target.relative_to(REPOSITORY))), link


def test_every_number_of_the_register_is_in_it() -> None:
    registered = re.findall(r"^\| (Q\d\d) \|", REGISTER.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(registered) == len(set(registered))
    for name in SOURCES:
        if Path(name).suffix in {".md", ".py"}:
            used = set(re.findall(r"\bQ\d\d\b", text_of(name)))
            assert used <= set(registered), name


@pytest.mark.parametrize("folder", ["", "methods", "benchmarks"])
def test_every_page_is_linked_from_another(folder: str) -> None:
    for page in (REPOSITORY / "docs" / folder).glob("*.md"):
        others = [text_of(name) for name in PAGES if REPOSITORY / name != page]
        linked = any(f"{page.name})" in text or f"{page.name}#" in text for text in others)
        assert linked, f"{page}: no page links to it; to a method's python -m benchmarks.tables does"


def code(name: str) -> Iterator[str]:
    """What stands in backticks, and the lines of blocks of code; in a file of settings what its comments have of it."""
    return commands.code_in(text_of(name), CODE if name.endswith(".md") else COMMENT)


def test_commands_would_start() -> None:
    """`python -m benchmarks.commands` lists them, and what is wrong with one."""
    found = {command: name for name in PAGES for line in code(name) for command in commands.of_line(line)}
    found |= {c: name for name in SETTINGS for line in code(name) for c in commands.of_line(line) if c.program}
    found |= {Printed("unforgetting", (c.name, *c.example.split())): "unforgetting --help" for c in COMMANDS.values()}
    assert {command.program for command in found} == set(commands.READERS)
    wrong = {command.line: (name, why) for command, name in found.items() if (why := commands.fault(command))}
    assert not wrong


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("python -m flows.compar", "there is no module flows.compar"),
        ("python -m cl.names", "cl.names is no command"),
        ("python -m flows.compare --task 3", "unrecognized arguments: --task 3"),
        ("python -m flows.compare --methods ewk", "unknown method 'ewk'"),
        ("python -m flows.compare --set training.epoch=3", "training.epoch"),
        ("python -m flows.compare --params studies/photo.yaml", "studies/photo.yaml"),
        ("python -m benchmarks.steps --methods ewk", "unknown method 'ewk'"),
        ("python -m benchmarks.costs --net bas", "invalid choice: 'bas'"),
        ("unforgetting reports", "no command reports"),
        ("unforgetting studies photo", "unknown study 'photo'"),
        ("--seedlings 0,1", "no command has the option --seedlings"),
        ("make runs", "the Makefile has no runs"),
        ("make run TORCH=URL2 INDEX=URL", "the Makefile has no INDEX"),
        ("dvc plot show", "dvc does not take plot show"),
        ("pip install -e '.[all]'", "no extra all"),
        ("pip install unforgetting-0.0.1-py3-none-any.whl", "has another name"),
    ],
)
def test_a_command_that_would_not_start_is_found(typed: str, why: str) -> None:
    (command,) = commands.of_line(typed)
    assert why in (commands.fault(command) or "")


@functools.cache
def said() -> str:
    """All text in the code of which messages are made, each on a line; what is known only later is left out of it."""
    trees = [ast.parse(text_of(name)) for name in SOURCES if re.match(r"(cl|flows)/.*\.py", name)]
    found = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return "\n".join(node.value for node in found if isinstance(node.value, str))


def test_messages_that_pages_explain_are_in_the_code() -> None:
    """What stands between the `...`, figures and paths of a message is."""
    rows = [
        (name, row.split("|")[1])
        for name in PAGES
        for table in re.findall(r"^\| message .*\n((?:\|.*\n)+)", text_of(name), re.MULTILINE)
        for row in table.splitlines()
    ]
    assert len(rows) > 40
    for name, cell in rows:
        for message in re.findall(r"`([^`]+)`", cell):
            parts = re.split(r"\.{3,}|[\d()]+|\S+/\S+", message)
            assert all(part.strip() in said() for part in parts), f"{name}: {message}"


def test_settings_are_keys_of_the_schema() -> None:
    for name in PAGES:
        for quoted in code(name):
            for key in re.findall(r"(?:^|(?:--set|-S) '?)([a-z]+\.[a-z_.]*[a-z_]\b)(?![\w/(])", quoted):
                section, *rest = key.split(".")
                if section in Params.model_fields:
                    assert is_setting(section, rest), f"{name}: {key}"


def is_setting(section: str, rest: list[str]) -> bool:
    if section in ("methods", "others"):
        return rest[0] in names_in("methods") and set(rest[1:]) <= set(method_class(rest[0]).knobs)
    annotation = Params.model_fields[section].annotation
    for part in rest:
        fields = getattr(annotation, "model_fields", {})
        if part not in fields:
            return False
        annotation = fields[part].annotation
    return True


FILE = re.compile(r"(?<![\w./-])((?:cl|flows|benchmarks|docs|studies|tests|reproduction)/[\w./*-]*)(?!\S*[<>])")
"""In one of our folders; `docs/methods/<name>.md` stands for several."""


@pytest.mark.parametrize("name", PAGES)
def test_files_that_are_named_exist(name: str) -> None:
    for path in (found for quoted in code(name) for found in FILE.findall(quoted)):
        assert any(REPOSITORY.glob(path.rstrip("/"))), path


@pytest.mark.parametrize("name", PAGES)
def test_code_that_is_named_exists(name: str) -> None:
    """`cl.train.fit` is a name in cl/train.py."""
    for quoted in code(name):
        for dotted in re.findall(r"^((?:cl|flows|benchmarks)(?:\.\w+)+)", quoted):
            room, *parts = dotted.split(".")
            path = REPOSITORY / room
            while parts and ((path / parts[0]).is_dir() or (path / f"{parts[0]}.py").exists()):
                path /= parts.pop(0)
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            assert not parts or re.search(rf"^.*\b{parts[0]}\b", file.read_text(encoding="utf-8"), re.MULTILINE), dotted


def test_counts_are_those_of_the_code() -> None:
    params = cli.params_of(cli.parser("cl", "").parse_args([]))
    methods, seeds = len(params.methods), len(params.seeds)
    assert f"{methods} methods, {seeds} seeds: {methods * seeds} runs" in text_of("docs/scaling.md")
    running = text_of("docs/running.md")
    assert f"`{params.title}: {methods} methods; {seeds} seeds`" in running
    assert f"of {methods * seeds} runs are finished" in running
    stages = yaml.safe_load(text_of("dvc.yaml"))["stages"]
    assert f": stage 7 of {len(stages) - 1 + methods}, " in running


def test_readme_names_every_benchmark() -> None:
    listed = text_of("README.md").partition("`benchmark.name` is one of")[2].partition("## ")[0]
    named = set(re.findall(r"[a-z0-9-]+", listed.replace("split-, permuted-, rotated-mnist", " ".join(MNIST))))
    assert {stem.replace("_", "-") for stem in names_in("data/benchmarks")} <= named


def test_the_glossary_is_the_reports() -> None:
    """`python -m benchmarks.tables` writes it anew."""
    assert text_of("docs/glossary.md") == glossary.page()
    used = re.findall(
        r'meaning\("(.*?)"\)', " ".join(map(text_of, map(str, (REPOSITORY / "flows/report").rglob("*.html"))))
    )
    assert len(used) > 5
    assert {*used, *MEASURES} <= set(glossary.ALL)
    assert sum(map(len, glossary.TERMS.values())) == len(glossary.ALL)


PARTS = ("The idea", "Equations", "Knobs", "What it stores, what it needs", "Hooks", "Differences", "Results")


@pytest.mark.parametrize("name", names_in("methods"))
def test_a_methods_page_has_its_parts(name: str) -> None:
    text = text_of(f"docs/methods/{name}.md")
    assert [heading for heading in re.findall("^## (.+)$", text, re.MULTILINE) if heading in PARTS] == list(PARTS)
    for path in (f"docs/methods/{name}.md", f"cl/methods/{name}.py", f"tests/cl/methods/test_{name}.py"):
        left = path in SOURCES and TO_WRITE in text_of(path)
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
