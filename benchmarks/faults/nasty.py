"""Values and texts that people type, paste and generate, and what a setting may be that was written so."""

from __future__ import annotations

import contextlib
import random
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel

from cl.params import Params

NUMBERS = (
    "0", "-1", "-0", "1", "3", "+3", "010", "0100", "1:30", "1:10:5", "0x10", "0o10", "0b11", "1_000", "1,5", "1 000",
    "1e3", "1e400", "-1e-400", "nan", ".nan", "NaN", "inf", "-.inf", "9" * 5000, "1" + "0" * 400, "0.1", ".5", "5.",
    "0.0", "1/2", "٣", "３", "½", "Ⅳ", "1٫5", "1 ", " 1", "--1", "1k", "100%", "2147483648", "-9223372036854775809",
    "18446744073709551616", "1e-320", "0.30000000000000004",
)  # fmt: skip
TEXTS = (
    "", " ", "null", "~", "Null", "None", "true", "yes", "no", "off", "on", "y", "False", "abc", "a b", "set #2", "#",
    "a: b", "- a", "a, b", "[1", "[]", "[1, 2]", "[[1]]", "{}", "{a: 1}", "{a: {b: {c: 1}}}", "'", '"', "'quoted'",
    '"quoted"', "!!int abc", "!!float x", "!!timestamp x", "!!binary ====", "!!python/object/apply:os.system [id]",
    "!!python/name:os.system", "!local x", "!<tag:x> y", "2001-99-99", "2001-01-01", "2001-99-99T99:99:99Z", "*a",
    "&a [*a]", "&a b", "%YAML", "@x", "`x`", "|", ">", "|\n  x", "<<", "<<: *a", "? x", "---", "...", "--- a\n--- b",
    "a\tb", "a\nb", "a\rb", "a\x0bb", "\x1b[31mred", "\x7f", "\x85", "\u2028", "\ufeff", "é", "e\u0301", "日本語", "😀",
    "\u202eabc", "x" * 5000, "[" * 500, "{" * 500, "[" * 20000, "- " * 2000, "../../..", "/", "/dev/null",
    "/proc/self/mem", "-x", "--set", "${HOME}", "$(id)", "%s", "{0}", "\\", "C:\\photos", "file:///etc/passwd",
    "http://127.0.0.1:9", "=", "a=b", "=b", "ewc", "all", "folder",
)  # fmt: skip
POOL = NUMBERS + TEXTS
KEYS_THAT_ARE_NONE = (
    "", "=", ".", "..", "training", "training.", ".training", "training.epochs.deep", "trainin.epochs",
    "training.epoch", "TRAINING.epochs", "methods", "methods.ewc", "methods.ewc.strength.x", "methods.none.x",
    "methods.", "methods.EWC.strength", "methods.online-ewc.strength", "others", "others.ewc.strength", "extends",
    "seeds.0", "seeds", "__class__", "model_config", "training.__dict__", "é.ü", "training .epochs",
    "training[epochs]", "benchmark.path.x", "\u0000",
)  # fmt: skip
DOWNLOADS = {"benchmark.name", "model.weights"}
"""Keys by which something is fetched from the network; they get no value that would."""
FILES = (
    "", " ", "\n", "\ufeff", "---\n", "...\n", "null\n", "~\n", "[]\n", "- ewc\n", "0\n", "text\n", "\x00",
    "a: \x00\n", "\t\n", "a:\tb\n", "methods: {ewc: {}\n", "seeds: [0]\nseeds: [1]\nmethods: {ewc: {}}\n",
    "methods: all\n", "methods: none\n", "methods: [ewc]\n", "methods: {ewc}\n", "methods: {1: {}}\n",
    "methods: {null: {}}\n", "methods: {[1]: {}}\n", "methods: {{a: 1}: {}}\n", "? [a, b]\n: c\n",
    "methods: {ewc: 3}\n", "methods: {ewc: [1]}\n", "methods: {ewc: {}}\nothers: 3\n",
    "methods: {ewc: {}}\nothers: {x: {}}\n", "methods: {ewc: {}}\nothers: {online_ewc: {strenth: 1}}\n",
    "methods: {ewc: {}, EWC: {}}\n", "methods: {online-ewc: {}, online_ewc: {}}\n",
    "methods: {ewc: {}}\nextends: params.yaml\n", "extends: mine.yaml\n", "extends: nowhere.yaml\n", "extends: [a]\n",
    "extends: 3\n", "extends: photos\n", "extends: /dev/null\n", "extends: \x01\n", "extends: \"a\\0b\"\n",
    "methods: &a {ewc: *a}\n", "&a methods: {*a : {}}\n",
    "methods:\n  ewc: &k {strength: 3.0}\n  online_ewc:\n    <<: *k\n", "methods: {<<: {ewc: {}}}\n",
    "<<: [{methods: {ewc: {}}}]\n", "<<: 3\nmethods: {ewc: {}}\n", "methods: {ewc: {}}\nseeds: [!!int abc]\n",
    "methods: {ewc: {}}\nseeds: 2001-99-99\n", "seeds: !!set {0}\n", "methods: {ewc: {}}\nseeds: !!omap [a: 1]\n",
    "methods: {ewc: {}}\ntraining: {epochs: 1.0}\n", "methods: {ewc: {}}\ntraining: null\n",
    "methods: {ewc: {}}\ntraining: []\n", "methods: {ewc: {}}\ntraining: text\n",
    "methods: {ewc: {}}\nseeds: {0: 1}\n", "%YAML 9.9\n---\nmethods: {}\n", "%TAG ! tag:x,2000:\n---\n!a {}\n",
    "methods: {ewc: {strength: !!python/tuple [1]}}\n", "methods: {ewc: {}}\nbenchmark: {name: folder}\n",
)  # fmt: skip


def keys() -> dict[str, Any]:
    """Every key of params.yaml that holds a value, and of what type that is."""
    kinds: dict[str, Any] = {}

    def walk(section: type[BaseModel], prefix: str) -> None:
        for name, field in section.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                walk(kind, f"{prefix}{name}.")
            elif name != "methods":
                kinds[prefix + name] = kind

    walk(Params, "")
    return kinds


def scalar(kind: Any) -> tuple[type, ...]:
    """The plain types that a key takes; None stands for no value. Empty for lists and mappings."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        parts = [scalar(part) for part in typing.get_args(kind)]
        return tuple(one for part in parts for one in part)
    if typing.get_origin(kind) is typing.Annotated:
        return scalar(typing.get_args(kind)[0])
    if typing.get_origin(kind) is typing.Literal:
        return (str,)
    return (kind,) if kind in (bool, int, float, str, type(None)) else ()


def meanings(text: str, kind: Any) -> list[Any]:
    """All that a key of this type may be where this was written; a sentence may say instead that it can be nothing."""
    values: list[Any] = []
    allowed = scalar(kind)
    if type(None) in allowed and text.strip().lower() in ("null", "~", "", "none"):
        values.append(None)
    if str in allowed:
        values += [text, text.strip(), text.strip("'\"")]
    if bool in allowed and text.strip().lower() in ("true", "false", "yes", "no", "on", "off"):
        values.append(text.strip().lower() in ("true", "yes", "on"))
    for number in numbers(text):
        if type(number) in allowed:
            values.append(number)
        elif float in allowed:
            values.append(float(number))
        elif int in allowed and float(number).is_integer():
            values.append(int(number))
    return values


def numbers(text: str) -> Iterator[int | float]:
    """What number the text is: a decimal one, or one with a prefix that says in which system it is."""
    readings: tuple[Callable[[], int | float], ...] = (lambda: int(text), lambda: int(text, 0), lambda: float(text))
    for read in readings:
        with contextlib.suppress(ValueError, OverflowError):
            yield read()


def bomb(draw: random.Random) -> str:
    """Aliases of aliases: a few lines that come to ever so many values."""
    depth, width = draw.choice([(8, 9), (25, 9), (6, 30)])
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
    key = draw.choice(["seeds", "training", "model", "methods", "others", "x"])
    return "\n".join([*lines, "methods: {ewc: {}}" if key != "methods" else "", f"{key}: *a{depth - 1}"]) + "\n"


def deep(draw: random.Random) -> str:
    """Lists in lists, or mappings in mappings."""
    depth = draw.choice([50, 500, 5000])
    opened, closed = draw.choice([("[", "]"), ("{a: ", "}")])
    key = draw.choice(["seeds", "training", "methods", "others", "x"])
    return f"methods: {{ewc: {{}}}}\n{key}: {opened * depth}{closed * depth}\n"


def params_file(draw: random.Random, whole: bytes) -> bytes:
    """A params file: one of those above, or the whole one with something of it replaced."""
    how = draw.randrange(6)
    if how == 0:
        return draw.choice(FILES).encode("utf-8", "surrogatepass")
    if how == 1:
        return draw.choice([bomb, deep])(draw).encode()
    lines = whole.decode().splitlines()
    place = draw.randrange(len(lines))
    text = draw.choice(POOL)
    if how == 2:
        lines.insert(place, text)
    elif how == 3:
        lines[place] = lines[place].partition(":")[0] + ": " + text
    elif how == 4:
        del lines[place]
    else:
        data = bytearray(whole)
        for _ in range(draw.choice([1, 1, 5])):
            data[draw.randrange(len(data))] = draw.randrange(256)
        return bytes(data)
    return "\n".join(lines).encode("utf-8", "surrogatepass")
