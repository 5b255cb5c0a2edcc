"""What the pages point at is there: links, files, commands with their options, settings, counts."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from cl import cli
from cl.params import Params, names_in
from flows import glossary, report
from tests.conftest import REPOSITORY, sources

SOURCES = sources()
PAGES = [name for name in SOURCES if name.endswith(".md") and name != "flows/model_card.md"]
SETTINGS = ["params.yaml", *(name for name in SOURCES if re.match(r"studies/.*\.yaml", name))]
REGISTER = REPOSITORY / "docs" / "differences.md"
OTHERS = ("pip", "pytest", "venv")
"""Modules that are not ours."""
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
NUMBERS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]


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
        assert any(f"{page.name})" in text or f"{page.name}#" in text for text in others), page


def code_in(name: str) -> Iterator[str]:
    """What stands in backticks, and the lines of blocks of code; in a file of settings what its comments have of it."""
    text = re.sub(r"\\\n\s*", "", text_of(name))
    fenced = r"^```\w*\n(.*?)^```"
    blocks = re.findall(fenced, text, re.MULTILINE | re.DOTALL)
    text = re.sub(fenced, "", text, flags=re.MULTILINE | re.DOTALL)
    of_code = r"^    (.*)$" if name.endswith(".md") else r"# *(.*)"
    for line in [line for block in blocks for line in block.splitlines()] + re.findall(of_code, text, re.MULTILINE):
        yield from re.findall(r"`([^`]+)`", line) or [line]
    if name.endswith(".md"):
        yield from (" ".join(quoted.split()) for quoted in re.findall(r"`([^`]+)`", text))


def commands_in(name: str) -> Iterator[tuple[str, list[str]]]:
    """The module and the arguments of every `python -m`."""
    for line in code_in(name):
        for command in re.findall(r"python -m (.*)", line):
            module, *arguments = shlex.split(re.split(r" [|>] |;", command)[0], comments=True)
            if module not in OTHERS:
                yield module, [argument for argument in arguments if argument != "..."]


def file_of(module: str) -> Path:
    path = REPOSITORY / module.replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def options_of(module: str) -> tuple[bool, set[str]]:
    """Whether a command takes the options of a whole comparison, and those that it adds."""
    text = file_of(module).read_text(encoding="utf-8")
    return "cli.parser(" in text, set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', text))


def test_commands_parse() -> None:
    """Their modules are there, know every option, and take every setting."""
    commands = {(module, *words): name for name in (*PAGES, *SETTINGS) for module, words in commands_in(name)}
    assert len(commands) > 50
    for (module, *words), name in commands.items():
        of_a_comparison, own = options_of(module)
        if of_a_comparison:
            known = [word.replace("elastic_anchor,", "") for word in words]  # which CONTRIBUTING writes
            given, words = cli.parser(module, "").parse_known_args(known)
            cli.params_of(given)
        assert {word for word in words if word.startswith("--")} <= own, f"{name}: {module} {words}"


def test_settings_are_keys_of_the_schema() -> None:
    for name in PAGES:
        for quoted in code_in(name):
            for key in re.findall(r"(?:^|(?:--set|-S) '?)([a-z]+\.[a-z_.]*[a-z_]\b)(?![\w/(])", quoted):
                section, *rest = key.split(".")
                if section in Params.model_fields:
                    assert is_setting(section, rest), f"{name}: {key}"


def is_setting(section: str, rest: list[str]) -> bool:
    if section in ("methods", "others"):
        from cl.method import method_class

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
    for path in (found for quoted in code_in(name) for found in FILE.findall(quoted)):
        assert any(REPOSITORY.glob(path.rstrip("/"))), path


@pytest.mark.parametrize("name", PAGES)
def test_code_that_is_named_exists(name: str) -> None:
    """`cl.train.fit` is a name in cl/train.py."""
    for quoted in code_in(name):
        for dotted in re.findall(r"^((?:cl|flows|benchmarks)(?:\.\w+)+)", quoted):
            room, *parts = dotted.split(".")
            path = REPOSITORY / room
            while parts and ((path / parts[0]).is_dir() or (path / f"{parts[0]}.py").exists()):
                path /= parts.pop(0)
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            assert not parts or re.search(rf"^.*\b{parts[0]}\b", file.read_text(encoding="utf-8"), re.MULTILINE), dotted


def words_of(number: int) -> str:
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def test_counts_are_those_of_the_code() -> None:
    from cl.method import method_class

    params = cli.params_of(cli.parser("cl", "").parse_args([]))
    methods = names_in("methods")
    assert f"All {len(methods)} methods" in text_of("docs/faults.md")
    runs = len(params.methods) * len(params.seeds)
    assert f"{len(params.methods)} methods, {len(params.seeds)} seeds: {runs} runs" in text_of("docs/scaling.md")
    assert f"`{params.title}: {len(params.methods)} methods, {len(params.seeds)} seeds`" in text_of("docs/running.md")
    others = len(methods) - len(params.methods)
    readme = " ".join(text_of("README.md").split())
    assert f"The {words_of(others)} others stand under `others:`" in readme
    assert f"eleven methods and four baselines, and {words_of(len(methods) - 15)} methods" in readme
    named = set(re.findall(r"[\w-]+", readme.partition("`benchmark.name` is one of")[2].partition("## ")[0]))
    short = {name.removesuffix("-mnist") if name != "split-fashion-mnist" else name for name in names_of_benchmarks()}
    assert {"split-", "permuted-"} | short - {"split", "permuted", "rotated"} <= named
    for selection in ("stability-decay", "consolidation-decay", "learning-rate"):
        row = re.search(rf"^\| `{selection}` \| (.*?) \|", text_of("docs/protocol.md"), re.MULTILINE)
        assert row is not None
        assert sorted(row[1].split(", ")) == [m for m in methods if method_class(m).selection == selection]


def names_of_benchmarks() -> list[str]:
    return [stem.replace("_", "-") for stem in names_in("data/benchmarks")]


@pytest.mark.parametrize("name", names_in("methods"))
def test_the_table_of_methods_says_what_they_declare(name: str) -> None:
    from cl.method import method_class

    row = re.search(rf"^\| \[{name}\]\({name}\.md\) \|(.*)\|$", text_of("docs/methods/README.md"), re.MULTILINE)
    assert row is not None
    _, scenarios, samples, _, decays = (cell.strip() for cell in row[1].split("|"))
    method = method_class(name)
    letters = [
        letter for letter, kind in zip("TDC", ("task", "domain", "class"), strict=True) if kind in method.scenarios
    ]
    letters += ["O"] if method.online else []
    assert scenarios == " ".join(letters) + (", id at test" if method.needs_task_id else "")
    assert samples.split(",")[0] == ("yes" if method.stores_samples else "no")
    assert re.findall("`(.*?)`", decays) == [knob for knob, declared in method.knobs.items() if declared.decay]


def test_the_glossary_is_the_reports() -> None:
    """`python -m benchmarks.pages` writes it anew."""
    assert text_of("docs/glossary.md") == glossary.page()
    assert set(report.MEASURES) <= set(glossary.ALL)
    assert sum(map(len, glossary.TERMS.values())) == len(glossary.ALL)
