"""Write into the pages what the code says of itself: `python -m benchmarks.tables`.

A page marks the place of a block by two marks, as `<!-- methods -->` and `<!-- /methods -->`. The tables and lists of
methods come from their class attributes and their own pages, the hooks in CONTRIBUTING.md from their signatures, and
docs/glossary.md from `flows.glossary`. The colours and marks of DVC's plot are the report's. This command runs nothing.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.notebook import NOTEBOOK, PAGE, notebook
from cl import cli, new_method
from cl.errors import UserError
from cl.files import write_whole
from cl.method import Method
from cl.names import names_in
from cl.register import method_class, unbounded
from cl.trainable import Trainable
from flows import glossary
from flows.report.looks import KNOWN, look_of
from flows.report.rows import BOUNDS

METHODS = Path("docs/methods")
GLOSSARY = Path("docs/glossary.md")
PLOTS = Path(".dvc/plots/methods.json")
WHEN = {
    "wrap": "once, on the fresh network",
    "grow": "once a task, after the network got the task's head",
    "attach": "before `begin_task`, and again before `end_task`",
    "starts_as_finetuning": "before the first task is learned",
    "trains": "before a task is learned",
    "begin_task": "at the start of every trial; not in a stream",
    "stiffness": "after `begin_task`, once a trial",
    "optimizer": "at the start of every training",
    "augmentation": "at the start of every training",
    "batch": "in every step, first",
    "loss": "in every step, after `batch`",
    "on_grad": "in every step, after the loss's backward pass",
    "penalty": "in every step, after `on_grad`",
    "on_step": "in every step, after the optimizer's step",
    "observe": "instead of steps, for each batch of the one pass over the data",
    "end_task": "after the training of a trial; not in a stream",
    "predict": "for every accuracy; for those after each epoch only if `judged_by` is `inference`",
    "load_state": "whenever a model is put in place: before a trial, after a kill, where it is served",
    "kept": "after every trial that a Pareto search with `stability_on: memory` compares",
    "sample_bytes": "once, where `memory_budget` is in bytes",
}
"""The members that a method may override, in the order a run comes to them, and when each is called."""


def marked(block: str) -> re.Pattern[str]:
    """What stands between the two marks of a block, which may be within a line."""
    return re.compile(rf"(<!-- {block} -->)(\n?)(.*?)\n?(<!-- /{block} -->)", re.DOTALL)


def fill(page: Path, block: str, content: str) -> None:
    """Replace what stands between the block's two marks; raises `UserError` where the page has none."""
    text = page.read_text(encoding="utf-8")
    if not marked(block).search(text):
        raise UserError(f"{page}: has no block <!-- {block} --> ... <!-- /{block} -->")
    filled = marked(block).sub(lambda match: f"{match[1]}{match[2]}{content}{match[2]}{match[4]}", text)
    write_whole(page, filled.encode())


def blocks() -> dict[tuple[Path, str], str]:
    """What has to stand in which block of which page, from the root of the repository."""
    readme, contributing = Path("README.md"), Path("CONTRIBUTING.md")
    overview, protocol = METHODS / "README.md", Path("docs/protocol.md")
    no_id = _names(lambda cls: cls.needs_task_id)
    return {
        (contributing, "hooks"): hooks(),
        (contributing, "capabilities"): capabilities(),
        (contributing, "example"): f"```python\n{new_method.method(*new_method.EXAMPLE)}```",
        (overview, "methods"): methods(),
        (overview, "need id"): no_id,
        (overview, "keep samples"): _names(_keeps_samples),
        (overview, "online"): _names(lambda cls: cls.online and cls is not method_class("finetune")),
        (readme, "keep no samples"): _names(lambda cls: not _keeps_samples(cls) and not _is_bound(cls)),
        (readme, "keep samples"): _names(_keeps_samples),
        (readme, "need id"): no_id,
        (Path("docs/features.md"), "need layers"): _names(lambda cls: cls.needs_shared_layers),
        (protocol, "selection"): selection(),
        (protocol, "isolate"): _names(lambda cls: cls.isolates_parameters),
        (protocol, "first task"): _names(lambda cls: not cls.shares_first_task),
        (Path("docs/scenarios.md"), "per task"): ", ".join(f"`{n}`" for n in names_in("methods") if unbounded(n, 1)),
    }


def hooks() -> str:
    """A line for each member that a method may override."""
    lines = ["| member | called | what it does | overridden by |", "|---|---|---|---|"]
    for name, when in WHEN.items():
        member = getattr(Method, name)
        what = (inspect.getdoc(member) or "").splitlines()[0]
        lines.append(f"| `{signature(name)}` | {when} | {what} | {_few(list(overriding(name)))} |")
    return "\n".join(lines)


def signature(name: str) -> str:
    """`loss(x: Tensor, ...) -> Tensor`, of a method's member; a pipe as a table takes it."""
    member = inspect.getattr_static(Method, name)
    called: Any = member.fget if isinstance(member, property) else member
    declared = inspect.signature(called)
    declared = declared.replace(parameters=list(declared.parameters.values())[1:])
    text = f"{name}{declared}".replace("'", "").replace("|", "\\|")
    return text.replace("()", "") if isinstance(member, property) else text


def capabilities() -> str:
    """A line for each class attribute by which a method says what it can do."""
    lines = ["| attribute | default | what it says | set by |", "|---|---|---|---|"]
    for name, meaning in declared():
        default = getattr(Method, name)
        value = "`" + (", ".join(sorted(default)) if isinstance(default, frozenset) else str(default)) + "`"
        lines.append(f"| `{name}` | {value} | {meaning} | {_few(list(overriding(name)))} |")
    return "\n".join(lines)


def declared() -> Iterator[tuple[str, str]]:
    """The class variables that a method may set, each with the text below it."""
    for base in (Method, Trainable):
        body = ast.parse(inspect.getsource(base)).body[0]
        assert isinstance(body, ast.ClassDef)
        for line, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and "ClassVar" in ast.unparse(line.annotation):
                name = ast.unparse(line.target)
                if name not in {"knobs", "settable"}:
                    assert isinstance(below, ast.Expr), f"{name}: says nothing"
                    yield name, " ".join(ast.literal_eval(below.value).split())


def overriding(name: str) -> Iterator[str]:
    """The methods whose class, or a trainable of whose own, has a member of its own of this name."""
    for method in names_in("methods"):
        module = importlib.import_module(f"cl.methods.{method}")
        for cls in vars(module).values():
            if isinstance(cls, type) and issubclass(cls, Trainable) and cls.__module__ == module.__name__:
                base: Any = Method if issubclass(cls, Method) else Trainable
                if inspect.getattr_static(cls, name, None) is not inspect.getattr_static(base, name, None):
                    yield method
                    break


def methods() -> str:
    """A line for each method."""
    lines = [
        "| method | kind | scenarios | keeps raw samples | carried between tasks | knobs that decay |",
        "|---|---|---|---|---|---|",
    ]
    for (kind, carried), name in sorted((kind_of(name), name) for name in names_in("methods")):
        cls = method_class(name)
        can = [increment[0].upper() for increment in ("task", "domain", "class") if increment in cls.scenarios]
        told = " ".join([*can, *(["O"] if cls.online else [])]) + (", id at test" if cls.needs_task_id else "")
        samples = "yes, all data at once" if cls.sees_all_tasks else "yes" if cls.stores_samples else "no"
        decaying = ", then ".join(f"`{knob}`" for knob, of in cls.knobs.items() if of.decay is not None) or "–"
        lines.append(f"| [{name}]({name}.md) | {kind} | {told} | {samples} | {carried} | {decaying} |")
    return "\n".join(lines)


def with_looks(template: Any) -> Any:
    """DVC's template with each method's colour and mark, wherever a `color` or a `shape` is one of a `method`."""
    if isinstance(template, list):
        return [with_looks(part) for part in template]
    if not isinstance(template, dict):
        return template
    known = [*sorted(KNOWN), *BOUNDS]
    marks = {
        "color": [look_of(name).colour for name in known],
        # Vega's marks are 2 units wide, ours 8.
        "shape": [re.sub(r"-?[\d.]+", lambda n: f"{float(n[0]) / 4:.3g}", look_of(name).glyph) for name in known],
    }
    made = {key: with_looks(part) for key, part in template.items()}
    for key in marks.keys() & made.keys():
        if isinstance(made[key], dict) and made[key].get("field") == "method":
            made[key] |= {"scale": {"domain": known, "range": marks[key]}, "legend": None}
    return made


def kind_of(name: str) -> tuple[str, str]:
    """A method's kind, and what it carries between tasks, as its page says; raises `UserError` where it does not."""
    page = METHODS / f"{name}.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    line = re.search(r"^Kind: (.+)\. Carried between tasks: (.+)\.$", text, re.MULTILINE)
    if line is None:
        raise UserError(f"{page}: has no line 'Kind: ... Carried between tasks: ...', from which the tables are made")
    return line[1], line[2]


def selection() -> str:
    """A line for each way of choosing hyperparameters."""
    what = {
        "stability-decay": "both phases as above",
        "consolidation-decay": "both phases, but an attempt restores the best model of phase 1 and consolidates it",
        "learning-rate": "the method itself is trained at each learning rate, and the best is kept",
        "one-pass": "no gradient steps, so no learning rate: one pass over the data, with the knobs as given",
    }
    lines = ["| `selection` | methods | what happens |", "|---|---|---|"]
    for way, happens in what.items():
        lines.append(f"| `{way}` | {_names(lambda cls, way=way: cls.selection == way)} | {happens} |")  # type: ignore[misc]
    return "\n".join(lines)


def _is_bound(cls: type[Method]) -> bool:
    return cls.sees_all_tasks or cls is method_class("finetune")


def _keeps_samples(cls: type[Method]) -> bool:
    return cls.stores_samples and not cls.sees_all_tasks


def _names(chosen: Callable[[type[Method]], bool]) -> str:
    return ", ".join(f"`{name}`" for name in names_in("methods") if chosen(method_class(name)))


def _few(names: list[str]) -> str:
    """At most four of them."""
    more = f", {len(names) - 3} more" if len(names) > 4 else ""
    return ", ".join(f"`{name}`" for name in (names[:3] if more else names)) + more or "–"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    return argparse.ArgumentParser(prog="python -m benchmarks.tables", description=(__doc__ or "").splitlines()[0])


def main() -> int:
    """Fill every block."""
    parser().parse_args()
    for (page, block), content in blocks().items():
        fill(page, block, content)
    write_whole(GLOSSARY, glossary.page().encode())
    write_whole(NOTEBOOK, notebook(PAGE.read_text(encoding="utf-8")).encode())
    template = with_looks(json.loads(PLOTS.read_text(encoding="utf-8")))
    write_whole(PLOTS, (json.dumps(template, indent=1, ensure_ascii=False) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
