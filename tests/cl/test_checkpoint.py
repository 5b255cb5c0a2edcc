"""Checkpoints and files: whole or refused by name, never half."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cl import checkpoint, files
from cl.checkpoint_files import DamagedCheckpoint, verify
from cl.errors import UserError
from cl.files import write_bytes, write_json
from cl.train import Snapshot
from tests.cl.small import same

FILES = ("net.safetensors", "state.safetensors", "state.json", "record.json", "manifest.json")
STATE = {
    "flag_": True,
    "count_": 3,
    "share_": 0.1,
    "name_": "x",
    "nothing_": None,
    "empty_": {},
    "list_": [torch.arange(4, dtype=torch.int64), [], {"a": torch.zeros(0, 3)}, 1.5],
    "by/name_": {"1.weight": torch.tensor([[1.0, -0.0], [float("nan"), float("inf")]]), "1": torch.tensor(True)},
    "bytes_": torch.arange(6, dtype=torch.uint8).view(1, 2, 3),
    "scalar_": torch.tensor(5),
    "view_": torch.arange(6.0).view(2, 3).t(),
}
NET = {"w": torch.arange(3.0), "b": torch.arange(6.0).view(2, 3).t()}
RECORD = {"accuracy": [0.5, None], "next_knobs": {"strength": 1.0}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "task-0", Snapshot(NET, STATE), RECORD, "key")
    return tmp_path / "task-0"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_round_trip(folder: Path) -> None:
    snapshot, record = checkpoint.load(folder, "key")
    assert same(snapshot.state, STATE)
    assert same({name: snapshot.net[name] for name in NET}, NET)
    assert record == RECORD
    assert set(contents(folder)) == set(FILES)


def test_order_of_the_state_is_kept_and_bytes_follow_from_the_value(folder: Path, tmp_path: Path) -> None:
    assert list(checkpoint.load(folder)[0].state) == list(STATE)
    checkpoint.save(tmp_path / "again", Snapshot(NET, STATE), RECORD, "key")
    assert contents(tmp_path / "again") == contents(folder)


def test_what_was_not_where_the_network_is_stays_there(folder: Path) -> None:
    """Torch's meta device, which keeps shapes alone, stands for a GPU."""
    tensors: dict[str, torch.Tensor] = {}
    outline = checkpoint._outline({"images_": torch.zeros(2), "more_": [torch.ones(1)]}, "", tensors, "meta")
    assert outline == {
        "dict": [
            ["images_", {"tensor": "/images_", "stays": True}],
            ["more_", {"list": [{"tensor": "/more_/0", "stays": True}]}],
        ]
    }
    del outline["dict"][1][1]["list"][0]["stays"]
    found = checkpoint._fill(outline, tensors, torch.device("meta"))
    assert found["images_"].device.type == "cpu"
    assert found["more_"][0].device.type == "meta"
    assert b"stays" not in contents(folder)["state.json"], "on a CPU all is where the network is"
    assert b"device" not in contents(folder)["state.json"]


def test_learning_does_not_go_on_elsewhere(folder: Path) -> None:
    checkpoint.load(folder, "key", torch.device("cpu"))
    with pytest.raises(DamagedCheckpoint, match="learned on cpu"):
        checkpoint.load(folder, "key", torch.device("meta"))


@pytest.mark.parametrize("name", FILES)
def test_flipped_bit_is_refused_by_name(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    for position in {0, len(whole) // 3, len(whole) // 2, len(whole) - 2}:
        for bit in range(8):
            data = bytearray(whole)
            data[position] ^= 1 << bit
            path.write_bytes(data)
            with pytest.raises(DamagedCheckpoint) as caught:
                checkpoint.load(folder, "key")
            if name != "manifest.json":  # a flip in the manifest may look like a flip in what it lists
                assert str(path) in str(caught.value)


def test_no_flip_in_the_manifest_changes_what_is_loaded(folder: Path) -> None:
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= 1
        path.write_bytes(data)
        with pytest.raises(DamagedCheckpoint):
            checkpoint.load(folder, "key")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "empty", "remove"])
def test_file_cut_or_missing_is_refused_by_name(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9] if damage == "cut" else b"")
    with pytest.raises(DamagedCheckpoint, match=str(path)):
        checkpoint.load(folder, "key")


@pytest.mark.parametrize("text", ["[]", "{}", '{"files": 3, "key": "key", "schema": 1}', "null", "\udcff"])
def test_manifest_that_is_none(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DamagedCheckpoint, match=r"manifest\.json"):
        checkpoint.load(folder, "key")


def test_manifest_of_another_version_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    write_json(folder / "manifest.json", {**manifest, "schema": 2})
    with pytest.raises(DamagedCheckpoint, match=r"manifest\.json"):
        checkpoint.load(folder, "key")


def test_manifest_without_a_file_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    del manifest["files"]["state.json"]
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(DamagedCheckpoint, match="task-0"):
        checkpoint.load(folder, "key")


def test_foreign_key_is_refused(folder: Path) -> None:
    with pytest.raises(DamagedCheckpoint, match=r"manifest\.json: is of another run"):
        checkpoint.load(folder, "other")
    assert verify(folder) == verify(folder, "key")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DamagedCheckpoint, match=r"nowhere/manifest\.json"):
        checkpoint.load(tmp_path / "nowhere", "key")


@pytest.mark.parametrize("value", [{1, 2}, (1, 2), b"x", {1: 2}, object(), torch.nn.Linear(1, 1), torch.Generator()])
def test_forbidden_type_is_named(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"state/deep_/0: {type(value).__name__} cannot be kept"):
        checkpoint.save(tmp_path / "x", Snapshot(NET, {"deep_": [value]}), {}, "key")
    assert not (tmp_path / "x").exists()


def test_state_bytes() -> None:
    assert checkpoint.state_bytes({"a_": torch.zeros(3), "b_": [torch.zeros(2, dtype=torch.uint8)], "c_": 7}) == 14
    assert checkpoint.state_bytes({}) == 0


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/task-0: cannot be written \(.*\)"):
        checkpoint.save(tmp_path / "file" / "task-0", Snapshot(NET, STATE), {}, "key")
    with pytest.raises(UserError, match=r"file/x\.json: cannot be written"):
        write_bytes(tmp_path / "file" / "x.json", b"")


class Died(BaseException):
    pass


@pytest.mark.parametrize("failure", [Died(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("after", range(5))
def test_failure_between_files_leaves_the_old_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, after: int
) -> None:
    before = contents(folder)
    written = 0
    original = Path.write_bytes

    def write(self: Path, data: bytes) -> int:
        nonlocal written
        if written == after:
            original(self, data[: len(data) // 2])
            raise failure
        written += 1
        return original(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        expected: type[BaseException] = UserError if isinstance(failure, OSError) else Died
        with pytest.raises(expected) as caught:
            checkpoint.save(folder, Snapshot({"w": torch.zeros(1)}, {}), {}, "key")
    assert contents(folder) == before
    if isinstance(failure, OSError):
        assert "No space left" in str(caught.value)
        assert [path.name for path in folder.parent.iterdir()] == ["task-0"], "what was half written is gone"
    checkpoint.save(folder, Snapshot({"w": torch.zeros(1)}, {}), {}, "key")
    assert checkpoint.load(folder, "key")[1] == {}


@pytest.mark.parametrize("failure", [Died(), OSError(errno.ENOSPC, "No space left on device")])
def test_failure_while_writing_a_file_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    opened = os.fdopen

    class Failing:
        def __init__(self, descriptor: int, mode: str) -> None:
            self.file = opened(descriptor, mode)

        def write(self, data: bytes) -> None:
            self.file.write(data[:3])
            raise failure

        def close(self) -> None:
            self.file.close()

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fdopen", Failing)
        with pytest.raises(UserError if isinstance(failure, OSError) else Died):
            write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a": NaN}', "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[1e999]", "too large"),
        (b"9" * 5000, "Exceeds the limit"),
        (b'{"a": 1, "b": 2, "a": 1}', "'a' stands twice"),
        (b"[" * 70 + b"]" * 70, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ["\\ud800"]}', "surrogates not allowed"),
        (b'"\xff"', "can't decode"),
        (b"", "Expecting value"),
    ],
)
def test_json_of_other_hands(text: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        files.from_json(text)
    (tmp_path / "x.json").write_bytes(text)
    assert files.read_json(tmp_path / "x.json") is None


def test_only_a_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")  # which would keep a reader waiting
    assert files.read_json(tmp_path / "x.json") is None
    assert files.read_json(tmp_path) is None


def test_a_seal_fits_what_it_was_put_on_alone() -> None:
    value = {"a": [1, {"b": "é"}], "c": None}
    seal = files.sealed(value)
    assert files.unsealed(seal) == value
    for other in (value, {**seal, "c": 0}, {**seal, "d": 1}, {**seal, "sha256": None}, [seal], None):
        assert files.unsealed(other) is None


def test_a_manifest_that_names_a_file_elsewhere_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["../../elsewhere"] = "0" * 64
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(DamagedCheckpoint, match=r"manifest\.json"):
        verify(folder)


def test_json_of_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert files.read_json(tmp_path / "x.json") is None
