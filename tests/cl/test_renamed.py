"""Old names are accepted for one version, with a sentence that says the new one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cl.errors import UserError
from cl.keys import differences
from cl.params import Params, read
from cl.renamed import KEYS, say
from tests.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def _nothing_said_yet() -> None:
    say.cache_clear()


@pytest.mark.parametrize(
    ("old", "value"),
    [
        ("execution.gpus_per_unit", 0.5),
        ("scenario.unable", "leave-out"),
        ("selection.boot_learning_rates", [0.3, 0.2]),
    ],
)
def test_an_old_key_sets_the_new_one(
    old: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section, _, key = old.partition(".")
    new = KEYS[old].partition(".")[2]
    file = tmp_path / "mine.yaml"
    file.write_text(f"methods: {{finetune: {{}}}}\n{section}: {{{key}: {value}}}\n")
    plain = tmp_path / "plain.yaml"
    plain.write_text("methods: {finetune: {}}\n")
    for path, overrides, where in ((file, [], str(file)), (plain, [f"{old}={value}"], "--set")):
        params = read(path, overrides)
        assert getattr(getattr(params, section), new) == value
        said = capsys.readouterr().err
        assert said == f"{where}: {old} is now {KEYS[old]}; the next version will not know the old name\n"


def test_old_and_new_together_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("methods: {finetune: {}}\nscenario: {unable: refuse, unsupported: refuse}\n")
    with pytest.raises(UserError, match=r"scenario\.unable is the old name of scenario\.unsupported, and both are"):
        read(file)


def test_a_run_of_before_differs_by_no_name() -> None:
    now = {"selection": {"first_task_learning_rates": [0.1], "drop_margin": 0.2}}
    assert differences({"selection": {"boot_learning_rates": [0.1], "drop_margin": 0.2}}, now) == []
    assert differences({"selection": {"boot_learning_rates": [0.2], "drop_margin": 0.2}}, now) == [
        "selection.first_task_learning_rates: [0.2] -> [0.1]"
    ]


def test_every_new_name_is_a_key() -> None:
    for new in KEYS.values():
        section, _, key = new.partition(".")
        assert key in Params.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


@pytest.mark.parametrize(("old", "new"), [("flows.benchmark", "flows.compare"), ("cl.standing", "cl.status")])
def test_an_old_command_is_the_new_one(old: str, new: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", old, "--help"], cwd=REPOSITORY, capture_output=True, encoding="utf-8", check=True
    )
    assert done.stderr == f"python -m {old}: {old} is now {new}; the next version will not know the old name\n"
    assert f"usage: python -m {new} " in done.stdout
