"""A setting is what was written: on the command line as in a file, and as DVC reads the same file."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from cl import cli
from cl.errors import UserError
from cl.literal import Unclear, kinds, settled, text_only
from cl.overlay import Layers
from cl.params import Params, read
from cl.yaml12 import parse

METHODS = "methods: {finetune: {}}\n"


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    """Of a file that says nothing, to lay settings over."""
    (tmp_path / "empty.yaml").write_text("")
    return Layers(tmp_path / "empty.yaml")


def taken(key: str, text: str, layers: Layers | None = None) -> Any:
    """The value that a key has from a file that says `key: text`, or from the option laid over these layers."""
    if layers is None:
        parts = key.split(".")
        tree = parse("".join(f"{'  ' * i}{part}:\n" for i, part in enumerate(parts)).rstrip() + f" {text}\n")
    else:
        layers.override(f"{key}={text}", text_only(Params, key.split(".")), "--set")
        tree = layers.tree
    try:
        found = settled(tree, Params)
    except Unclear:
        return "unclear"
    for part in key.split("."):
        found = found[part]
    return found


def outcome(folder: Path, given: str, file: str = METHODS) -> Any:
    """The value of the key that an option lays over a file, or that it is refused."""
    (folder / "params.yaml").write_text(file)
    key = given.partition("=")[0]
    try:
        found: Any = read(folder / "params.yaml", [given] if "=" in given else [])
    except UserError:
        return "refused"
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return found


def fields(section: type[BaseModel] = Params, above: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of all scalars in the schema, with their annotations."""
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from fields(annotation, f"{above}{name}.")
        elif {bool, int, float, str, Literal} & set(kinds(annotation)):
            yield f"{above}{name}", annotation


KEYS = {**dict(fields()), "methods.ewc.strength": bool | int | float | str, "others.ebll.code_sizes": float | str}
TEXTS = (
    "010 0o10 0x10 0b11 1_000 1_0.5 1:30 190:20:30 +7 -0 00 5 1e2 5. .5 +.5 1e-3 0.25 1e999 .inf -.inf .nan nan inf "
    "yes no on off y True false TRUE null Null ~ 2001-01-01 2001-99-99 1,000 ٣ ½ << a#b a=b /data/x ./set#2 a:b "
    "\"010\" 'x' 'it''s' '~' auto permuted_digits"
)


def test_the_schema_has_what_is_tried() -> None:
    assert len(KEYS) > 50
    assert {"benchmark.path", "training.epochs", "selection.enabled", "memory_budget", "benchmark.order"} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_an_option_gives_what_a_file_gives(key: str, layers: Layers) -> None:
    for text in [*TEXTS.split(), "set 2", "40 kB", "9" * 5000]:
        a, b = taken(key, text), taken(key, text, layers)
        assert (repr(a), type(a)) == (repr(b), type(b)), text


@pytest.mark.parametrize("key", KEYS)
def test_text_is_text_and_decimals_are_decimals(key: str) -> None:
    wanted = set(kinds(KEYS[key]))
    text = bool({str, Literal} & wanted)
    found = {text: taken(key, text) for text in ("010", "1:30", "0x10", "1_000", "yes", "on", "2001-01-01", "1e1")}
    assert found.pop("010") == (10 if int in wanted or float in wanted or not text else "010")
    assert found.pop("1e1") == (10.0 if float in wanted or not text else "1e1")
    assert found == {text: text for text in found}


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ("benchmark.path=/data/set #2", "benchmark.path", "/data/set #2"),
        ("benchmark.path=/data/a: b", "benchmark.path", "/data/a: b"),
        ("benchmark.path=[old] photos", "benchmark.path", "[old] photos"),
        ("benchmark.path={x", "benchmark.path", "{x"),
        ("benchmark.path=&a b", "benchmark.path", "&a b"),
        ("benchmark.path=!!int 3", "benchmark.path", "!!int 3"),
        ("benchmark.path= /data", "benchmark.path", " /data"),
        ("benchmark.path=a=b", "benchmark.path", "a=b"),
        ("benchmark.path='a' and 'b'", "benchmark.path", "'a' and 'b'"),
        ("benchmark.path='~'", "benchmark.path", "~"),
        ("benchmark.path=null", "benchmark.path", None),
        ("tracking.experiment=2024-01-31", "tracking.experiment", "2024-01-31"),
        ("tracking.experiment=007", "tracking.experiment", "007"),
        ("champion.name=yes", "champion.name", "yes"),
        ("benchmark.order=[1, 2]", "benchmark.order", ["1", "2"]),
        ("benchmark.order=[010, no, null, 2001-01-01]", "benchmark.order", ["010", "no", "null", "2001-01-01"]),
        ("benchmark.order=related", "benchmark.order", "related"),
        ("seeds=[010, 9]", "seeds", [10, 9]),
        ("model.hidden=[0100]", "model.hidden", [100]),
        ("selection.learning_rates=[01e-1, 1]", "selection.learning_rates", [1.0, 0.1]),
        ("training.epochs= 7 ", "training.epochs", 7),
        ("memory_budget=010", "memory_budget", 10),
        ('memory_budget="40 kB"', "memory_budget", "40 kB"),
        ("training.precision= auto", "training.precision", "auto"),
    ],
)
def test_what_an_option_says(given: str, key: str, value: Any, tmp_path: Path) -> None:
    found = outcome(tmp_path, given)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ("training.epochs=1:10", "training: {epochs: 1:10}"),
        ("training.epochs=0x10", "training: {epochs: 0x10}"),
        ("training.batch_size=1_000", "training: {batch_size: 1_000}"),
        ("selection.enabled=yes", "selection: {enabled: yes}"),
        ("training.augmentation.flip=on", "training: {augmentation: {flip: on}}"),
        ("benchmark.tasks=2001-99-99", "benchmark: {tasks: 2001-99-99}"),
        ("benchmark.path=~", "benchmark: {path: ~}"),  # a folder's name, or none?
        ("training.learning_rate=1e999", "training: {learning_rate: 1e999}"),
        ("training.learning_rate=.nan", "training: {learning_rate: .nan}"),
        ("methods.ewc.strength=.inf", "methods: {ewc: {strength: .inf}}"),
        ("benchmark.seed=9999999999999999999", "benchmark: {seed: 9999999999999999999}"),
        ("benchmark.path=a\tb", 'benchmark: {path: "a\\tb"}'),
        ("benchmark.path=\udcff", 'benchmark: {path: "\\udcff"}'),
    ],
)
def test_what_is_refused_in_both(given: str, file: str, tmp_path: Path) -> None:
    assert outcome(tmp_path, given) == "refused"
    assert (
        outcome(tmp_path, given.partition("=")[0], f"{file}\n{METHODS if 'methods' not in file else ''}") == "refused"
    )


def test_null(tmp_path: Path) -> None:
    for text in ("null", "Null", "NULL", ""):
        assert outcome(tmp_path, "benchmark.path", f"benchmark: {{path: {text}}}\n{METHODS}") is None
    assert outcome(tmp_path, "benchmark.tasks", f"benchmark: {{tasks: ~}}\n{METHODS}") is None
    assert outcome(tmp_path, "benchmark.path", f"benchmark: {{path: 'null'}}\n{METHODS}") == "null"
    assert outcome(tmp_path, "benchmark.path=") == "refused"  # as of an unset variable


SAME = (
    "010 -010 00 0 08 +1 -0 7 1.5 .5 5. -.5 +.5 1e3 1e-3 1E5 1.e3 1.5e+3 12e03 true True TRUE false False FALSE "
    "yes no on off Yes y n 1:30 190:20:30 1:30.5 0x 0o8 1e 1e+ . .e1 ٣ a a#b a:b 'x' \"x\" '010'"
)
AS_TEXT = ("0o10", "0x10", "0b11", "1_000", "1_000.5", "2001-01-01")
"""What DVC reads as a number or a date is text here, and refused where a number is wanted."""


def test_dvc_reads_the_same(tmp_path: Path) -> None:
    dvc = pytest.importorskip("ruamel.yaml").YAML(typ="safe").load
    for text in SAME.split():
        file = f"methods:\n  ewc:\n    strength: {text}\n"
        a, b = outcome(tmp_path, "methods.ewc.strength", file), dvc(file)["methods"]["ewc"]["strength"]
        assert (a, type(a)) == (b, type(b)), text
    for text in AS_TEXT:
        assert isinstance(dvc(text), int | float | datetime.date)
        assert outcome(tmp_path, "methods.ewc.strength", f"methods: {{ewc: {{strength: {text}}}}}") == text
        assert outcome(tmp_path, "training.epochs", f"training: {{epochs: {text}}}\n{METHODS}") == "refused"
    merge = "methods:\n  ewc: &k {strength: 3, estimator: batch-sum}\n  mas: {<<: *k, strength: 010}\n"
    assert outcome(tmp_path, "methods", merge) == dvc(merge)["methods"]
    assert outcome(tmp_path, "methods.mas", merge) == {"strength": 10, "estimator": "batch-sum"}


def test_options_of_the_command_line() -> None:
    parser = cli.parser("test", None)

    def of(*given: str) -> Params:
        return cli.params_of(parser.parse_args(list(given)))

    assert of("--seeds", "010, 2").seeds == [10, 2]
    assert of("--set", "training.epochs=010").training.epochs == 10
    for text in ("1,,2", "0,", "١", "1_0", "0x1", "1.0", "1e2", "9" * 20, "9" * 5000, "-1"):
        with pytest.raises(UserError, match="--seeds"):
            of("--seeds", text)
    for text, words in ((" ", "nothing"), ("ewc,,si", "nothing"), ("ewc,EWC", "twice"), ("\udcff", "unknown")):
        with pytest.raises(UserError, match=words):
            of("--methods", text)
