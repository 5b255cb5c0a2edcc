"""Whatever a params file is, reading it ends soon, in params or in one sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cl.errors import UserError
from cl.params import read

GOOD = "methods: {ewc: {strength: 3}}\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(12)
)
NESTED = "b0: &b0 [1]\n" + "".join(f"b{i + 1}: &b{i + 1} [*b{i}]\n" for i in range(500))


def said(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 700
    return message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {epochs: !!int abc}", "line 1, column 20: !!int: tags are not read"),
        ("a: !!python/object/apply:os.system [ls]", "line 1, column 4: !!python/object/apply:os.system: tags"),
        ("a: !!binary aGk=", "!!binary: tags are not read"),
        (BOMB, "more than 20000 values, aliases included"),
        (NESTED, "nested more than 20 deep"),
        ("seeds: &a [*a]", "*a stands within the value that it refers to"),
        ("a: &a {b: *a}", "*a stands within the value that it refers to"),
        ("a: *b", "*b: nothing above has the anchor &b"),
        ("[" * 100_000, "nested more than 20 deep"),
        ("{a: " * 5000, "nested more than 20 deep"),
        ("- " * 5000, "nested more than 20 deep"),
        ("seeds: [" + "1, " * 30_000 + "1]", "more than 20000 values"),
        ("a: " + "b" * 2_000_000, "more than 1 MB"),
        ("a: \x00", "line 1, column 4: the character '\\x00' is not allowed"),
        (GOOD.encode("utf-16"), "not UTF-8 text (byte 0); save it as UTF-8"),
        (GOOD.encode("utf-16-le"), "the character '\\x00' is not allowed"),
        (GOOD.encode("latin-1") + b"# \xe9", "not UTF-8 text"),
        ("training:\n\tepochs: 3", "line 2, column 1: found character '\\t'"),
        (GOOD + "---\n" + GOOD, "line 2, column 1: a second document begins"),
        ("%YAML 1.1\n---\n" + GOOD, "lines that begin with % are not read"),
        ("methods: {ewc: {<<: 3}}", "<< needs a mapping"),
        ("? [a]\n: 3", "a key has to be a name"),
        ("? {a: b}\n: 3", "a key has to be a name"),
        ("1: 2\n1: 3", "the key '1' stands twice"),
        ("true: 2", "true: unknown key"),
        ("null: 2", "null: unknown key"),
        ("training: {2.5: 2}\n" + GOOD, "training.2.5: unknown key"),
        ('"a\\nb": 3', "a\\nb: a key has to be text without the control character '\\n'"),
        (f"training: {{epochs: {'9' * 5000}}}\n" + GOOD, "training.epochs: has to be an integer, in decimal digits"),
        (f"training: {{batch_size: {'9' * 400}}}\n" + GOOD, "training.batch_size: Input should be less than or equal"),
        (
            f"training: {{weight_decay: {'9' * 5000}}}\n" + GOOD,
            "training.weight_decay: Input should be a finite number",
        ),
        (f"memory_budget: {'9' * 500} kB\n" + GOOD, "memory_budget: '999"),
        (f"selection: {{learning_rates: {list(range(3000))}}}\n" + GOOD, "more"),
        ("3", "has to be a mapping of sections"),
        ("- 1", "has to be a mapping of sections"),
        ("", "methods: is required"),
        ("# nothing", "methods: is required"),
        ("--- \n...\n", "methods: is required"),
    ],
)
def test_bad_files(text: str | bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = said(path)
    assert message.startswith(f"{path}: ")
    assert words in message


def test_a_mark_at_the_beginning_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert read(tmp_path / "mine.yaml").methods == {"ewc": {"strength": 3}}


def test_merge_keys(tmp_path: Path) -> None:
    """What stands beside one comes first, then the first of a list; and one is not changed with another."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "methods:\n"
        "  ewc: &ewc {strength: 3.0, estimator: batch-sum}\n"
        "  online_ewc: {<<: {strength: 1.0, gamma: 0.5}, gamma: 0.7}\n"
        "  mas: {<<: [{strength: 9.0}, *ewc]}\n"
        "  si: *ewc\n"
    )
    methods = read(path, ["methods.ewc.strength=7"]).methods
    assert methods["ewc"] == {"strength": 7, "estimator": "batch-sum"}
    assert methods["online_ewc"] == {"strength": 1.0, "gamma": 0.7}
    assert methods["mas"] == {"strength": 9.0, "estimator": "batch-sum"}
    assert methods["si"] == {"strength": 3.0, "estimator": "batch-sum"}


def test_no_file_at_all(tmp_path: Path) -> None:
    """Reading a pipe that nobody writes to would never end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    paths = [tmp_path / "pipe", tmp_path / "loop", tmp_path, tmp_path / ("x" * 300), Path("/dev/zero")]
    for path in paths:
        assert "cannot be read" in said(path)
        over = tmp_path / "over.yaml"
        over.write_text(f"extends: {path}\n{GOOD}")
        assert "cannot be read" in said(over)


def test_a_long_chain(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i}.yaml").write_text(f"extends: {i + 1}.yaml\n")
    (tmp_path / "100.yaml").write_text(GOOD)
    assert "19.yaml: extends: a chain of more than 20 files" in said(tmp_path / "0.yaml")
    assert read(tmp_path / "81.yaml").methods == {"ewc": {"strength": 3}}
    for base in ('"a\\0b"', '"\\ud800"', "[a]", "81.yaml"):
        (tmp_path / "81.yaml").write_text(f"extends: {base}\n")
        assert "81.yaml: extends: has to be the path of a file" in said(tmp_path / "81.yaml")
