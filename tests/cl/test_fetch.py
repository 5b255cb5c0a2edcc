"""Files from elsewhere, from a server that is good, forgetful, short of breath, or not there."""

import fcntl
import hashlib
import io
import os
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl.data import fetch as module
from cl.data import progress
from cl.data.fetch import Remote, fetch, home_of, unpack
from cl.errors import UserError
from cl.params import Benchmark

DATA = bytes(range(256)) * 40
OTHER = DATA[::-1]
HALF = len(DATA) // 2


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one file, whatever the path, and notes what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.etag, self.ranges = DATA, '"one"', True
        self.shift = 0  # a part from another place than asked for
        self.cuts: list[int] = []  # after how many bytes to hang up, request by request
        self.stall = False  # not to hang up then, but to fall silent
        self.statuses: list[int] = []  # what to answer, request by request, before the file
        self.length = True
        self.asked: list[dict[str, str]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.bin"

    def of(self, data: bytes = DATA) -> Remote:
        return Remote(self.url, "file.bin", md5(data))


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.asked.append({key: self.headers[key] for key in ("Range", "If-Range") if key in self.headers})
        if server.statuses and (status := server.statuses.pop(0)) != 200:
            self.send_error(status)
            return
        start = int(server.asked[-1].get("Range", "bytes=0-")[6:-1])
        if not server.ranges or server.asked[-1].get("If-Range", server.etag) != server.etag:
            start = 0
        if start >= len(server.data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.data[start:]
        self.send_response(206 if start else 200)
        if start:
            first = start + server.shift
            self.send_header("Content-Range", f"bytes {first}-{len(server.data) - 1}/{len(server.data)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)
        if server.stall:
            server.stall = False
            self.wfile.flush()
            server.over.wait(20)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0, 0.0))
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.over.set()
        made.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def fetched(server: Server, folder: Path, data: bytes = DATA) -> list[str]:
    lines: list[str] = []
    (path,) = fetch([server.of(data)], folder, lines.append)
    assert path == folder / "file.bin"
    assert path.read_bytes() == data
    assert names(folder) == ["file.bin"], "no part is left"
    return lines


def test_the_folder_is_the_one_given_or_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert home_of(Benchmark(name="folder", path="~/data")) == Path("/home/somebody/data")
    assert home_of(Benchmark(name="split-digits")) == Path("downloads/split-digits")
    assert home_of(Benchmark(name="split-digits"), "digits") == Path("downloads/digits")
    assert home_of(Benchmark(name="folder", path="here"), "digits") == Path("here")


def test_fetched_once(server: Server, tmp_path: Path) -> None:
    assert fetched(server, tmp_path / "deep" / "home") == [f"fetching {server.url}"]
    assert fetched(server, tmp_path / "deep" / "home") == []
    assert server.asked == [{}]


def test_only_what_is_missing_is_fetched_and_all_is_returned_in_order(server: Server, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"b")
    remotes = [Remote(server.url, "sub/a", md5(DATA), len(DATA)), Remote("http://nowhere.invalid", "b", md5(b"b"))]
    assert fetch(remotes, tmp_path, None) == [tmp_path / "sub" / "a", tmp_path / "b"]
    assert (tmp_path / "sub" / "a").read_bytes() == DATA


def test_a_server_that_does_not_say_how_long_it_will_be(server: Server, tmp_path: Path) -> None:
    server.length = False
    fetched(server, tmp_path)


def test_a_url_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(DATA)
    (path,) = fetch([Remote((tmp_path / "there").as_uri(), "here", md5(DATA))], tmp_path, None)
    assert path.read_bytes() == DATA
    with pytest.raises(UserError, match=r"gone: cannot be fetched \(No such file"):
        fetch([Remote((tmp_path / "gone").as_uri(), "other", None)], tmp_path, None)


# Broken downloads.


def test_a_lost_connection_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.cuts = [HALF, 100]
    lines = fetched(server, tmp_path)
    assert [asked.get("Range") for asked in server.asked] == [None, f"bytes={HALF}-", f"bytes={HALF + 100}-"]
    assert "after 5,120 of 10,240 bytes; trying again" in lines[1]
    assert len(lines) == 3


def test_a_connection_may_break_often_if_it_gets_further_each_time(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000] * 8
    fetched(server, tmp_path)
    assert len(server.asked) == 9


def test_an_interrupted_download_is_taken_up_by_the_next(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cuts = [HALF]

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch([server.of()], tmp_path, None)
    assert (tmp_path / "file.bin.part").read_bytes() == DATA[:HALF]
    assert not (tmp_path / "file.bin").exists()
    fetched(server, tmp_path)
    assert server.asked[1:] == [{"Range": f"bytes={HALF}-", "If-Range": '"one"'}]


def test_a_silent_connection_counts_as_lost(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    server.cuts, server.stall = [HALF], True
    assert "timed out; trying again" in fetched(server, tmp_path)[1]
    assert len(server.asked) == 2


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.cuts, server.ranges = [HALF], False
    fetched(server, tmp_path)
    assert [asked.get("Range") for asked in server.asked] == [None, f"bytes={HALF}-"]


def test_a_server_that_always_hangs_up_at_the_same_place_is_given_up(server: Server, tmp_path: Path) -> None:
    server.cuts, server.ranges = [HALF] * 99, False
    with pytest.raises(UserError, match=r"cannot be fetched \(the connection ended after 5,120 of 10,240 bytes\)"):
        fetch([server.of()], tmp_path, None)
    assert len(server.asked) == 1 + len(module.PAUSES), "one that got further, then three in vain"
    assert (tmp_path / "file.bin.part").exists()


def test_a_changed_file_is_not_glued_to_an_old_part(server: Server, tmp_path: Path) -> None:
    server.cuts = [HALF]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAUSES", ())
        with pytest.raises(UserError, match="cannot be fetched"):
            fetch([Remote(server.url, "file.bin", None)], tmp_path, None)
    server.data, server.etag = OTHER, '"two"'
    fetched(server, tmp_path, OTHER)
    assert server.asked[1] == {"Range": f"bytes={HALF}-", "If-Range": '"one"'}


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_with_nothing_to_tell_versions_apart_it_begins_anew(server: Server, etag: str, tmp_path: Path) -> None:
    server.etag, server.cuts = etag, [HALF]
    fetch([Remote(server.url, "file.bin", None)], tmp_path, None)
    assert (tmp_path / "file.bin").read_bytes() == DATA
    assert server.asked == [{}, {}]
    server.cuts, server.asked = [HALF], []
    fetch([Remote(server.url, "with-checksum", md5(DATA))], tmp_path, None)
    assert server.asked == [{}, {"Range": f"bytes={HALF}-"}]


def test_the_name_of_an_old_version_is_forgotten(server: Server, tmp_path: Path) -> None:
    def say(line: str) -> None:
        if "trying again" in line:
            server.data, server.etag = OTHER, ""

    server.cuts = [HALF, HALF]
    fetch([Remote(server.url, "file.bin", None)], tmp_path, say)
    assert (tmp_path / "file.bin").read_bytes() == OTHER
    assert server.asked == [{}, {"Range": f"bytes={HALF}-", "If-Range": '"one"'}, {}]


@pytest.mark.parametrize(("part", "requests"), [(DATA, 1), (DATA + b"more", 2), (OTHER + OTHER, 2)])
def test_nothing_left_to_send(server: Server, part: bytes, requests: int, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(part)
    (tmp_path / "file.bin.part.validator").touch()
    fetched(server, tmp_path)
    assert len(server.asked) == requests


def test_a_part_of_somebody_else_is_left_alone(server: Server, tmp_path: Path) -> None:
    """As a browser makes it beside what it downloads."""
    (tmp_path / "file.bin.part").write_bytes(DATA[:HALF])
    with pytest.raises(UserError, match=r"file\.bin\.part: is no download that can be continued.*move it away"):
        fetch([server.of()], tmp_path, None)
    assert (tmp_path / "file.bin.part").read_bytes() == DATA[:HALF]
    assert server.asked == []


def test_killed_in_the_last_moment_of_a_fetch(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(DATA)
    (tmp_path / "file.bin.part.validator").write_text('"one"')
    (tmp_path / "..file.bin.md5.json.4194305.0a1b2c3d.part").write_text("{")
    fetched(server, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".file.bin.md5.json", "file.bin"]


def test_another_part_than_asked_for_is_not_taken(server: Server, tmp_path: Path) -> None:
    server.cuts, server.shift = [HALF], 7
    assert "another part than it was asked for" in fetched(server, tmp_path)[2]
    assert [asked.get("Range") for asked in server.asked] == [None, f"bytes={HALF}-", None]


@pytest.mark.parametrize("status", sorted(module.TRY_AGAIN))
def test_what_may_be_gone_in_a_moment_is_tried_again(server: Server, status: int, tmp_path: Path) -> None:
    server.statuses = [status, status]
    fetched(server, tmp_path)
    assert len(server.asked) == 3


# What cannot be had.


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (500, 4)])
def test_all_that_is_missing_is_named_at_once(server: Server, status: int, requests: int, tmp_path: Path) -> None:
    server.statuses = [status] * 99
    (tmp_path / "here").write_bytes(b"here")
    remotes = [Remote(server.url, "here", None), server.of(), Remote("http://nowhere.invalid/x", "x", None)]
    with pytest.raises(UserError) as caught:
        fetch(remotes, tmp_path, None)
    message = str(caught.value)
    assert message.startswith(f"{server.url}: cannot be fetched (the server answers {status} ")
    assert f"fetch {server.url} (md5 {md5(DATA)}) and put it at {tmp_path / 'file.bin'}; " in message
    assert f"fetch http://nowhere.invalid/x and put it at {tmp_path / 'x'} " in message
    assert message.endswith("(or set benchmark.path to the folder that has them)")
    assert str(tmp_path / "here") not in message
    assert len(server.asked) == requests


def test_without_a_network_it_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: Any, **more: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    with pytest.raises(
        UserError, match=r"\(Name or service not known\)\. Run this again where there is a network.* has it"
    ):
        fetch([Remote("http://nowhere.invalid/x", "x", None)], tmp_path, None)


def test_nobody_listens(server: Server, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match=r"cannot be fetched .*refused"):
            fetch([Remote(f"http://127.0.0.1:{free.getsockname()[1]}/x", "x", None)], tmp_path, None)


def test_a_folder_that_cannot_be(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"file/home: cannot be written .*Not a directory"):
        fetch([server.of()], tmp_path / "file" / "home", None)


def test_a_place_that_cannot_be_looked_at(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\)"):
        fetch([Remote("http://nowhere.invalid/x", "x" * 300, None)], tmp_path, None)


# Checksums.


def test_another_file_than_known_is_dropped(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"file\.bin: .*its md5 is {md5(DATA)}, not {md5(OTHER)}.*deleted"):
        fetch([server.of(OTHER)], tmp_path, None)
    assert names(tmp_path) == []
    with pytest.raises(UserError, match=r"has 10,240 bytes, not 10,241"):
        fetch([Remote(server.url, "file.bin", None, len(DATA) + 1)], tmp_path, None)
    assert names(tmp_path) == []


@pytest.mark.parametrize("there", [b"", DATA[:-1], OTHER])
def test_a_damaged_file_is_named_and_left(there: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(there)
    with pytest.raises(UserError, match=rf"x: damaged .* {md5(there)}, not {md5(DATA)}\); delete it, and http://"):
        fetch([Remote("http://nowhere.invalid/x", "x", md5(DATA))], tmp_path, None)
    assert (tmp_path / "x").read_bytes() == there


def test_a_checksum_is_taken_once_and_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(DATA)
    remote = Remote("http://nowhere.invalid/x", "x", md5(DATA))
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "SAY_EVERY", 0.0)
        fetch([remote], tmp_path, lines.append)
        assert lines[-1].startswith("checking x: ")
        count = len(lines)
        fetch([remote], tmp_path, lines.append)
        assert len(lines) == count, "not read again"
    path.write_bytes(OTHER)
    with pytest.raises(UserError, match="damaged"):
        fetch([remote], tmp_path, None)
    (tmp_path / ".x.md5.json").write_text("{")
    path.write_bytes(DATA)
    fetch([remote], tmp_path, None)


def test_another_file_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    path, other = tmp_path / "x", tmp_path / "y"
    for place, data in ((path, DATA), (other, OTHER)):
        place.write_bytes(data)
        os.utime(place, ns=(10**18, 10**18))
    remote = Remote("http://nowhere.invalid/x", "x", md5(DATA))
    fetch([remote], tmp_path, None)
    other.rename(path)
    with pytest.raises(UserError, match="x: damaged"):
        fetch([remote], tmp_path, None)


def test_what_was_fetched_is_not_checked_again(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = server.of()
    fetch([remote], tmp_path, None)
    monkeypatch.setattr(module.hashlib, "md5", None)
    fetch([remote], tmp_path, None)


# Beside each other, and how far it is.


def test_two_do_not_fetch_the_same_file(server: Server, tmp_path: Path) -> None:
    waiting = threading.Event()
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        waiting.set()

    with (tmp_path / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=fetch, args=([server.of()], tmp_path, say))
        thread.start()
        assert waiting.wait(10)
        (tmp_path / "file.bin").write_bytes(DATA)
    thread.join(10)
    assert not thread.is_alive()
    assert lines == [f"{tmp_path}: another process is at work there; waiting for it"]
    assert server.asked == []


def test_progress_has_share_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    lines: list[str] = []
    doing = progress.Progress("fetching x", 400_000_000, lines.append, 100_000_000)
    for second in range(1, 13):
        clock[0] += 1
        doing.at((100 + 10 * second) * 10**6)
    assert lines == [
        "fetching x: 150 MB of 400 MB (38%) at 10.0 MB/s, 25 s left",
        "fetching x: 200 MB of 400 MB (50%) at 10.0 MB/s, 20 s left",
    ]
    doing = progress.Progress("fetching y", None, lines.append)
    clock[0] += 10
    doing.at(5_000_000)
    assert lines[2:] == ["fetching y: 5 MB at 0.5 MB/s"]
    assert [progress.duration(s) for s in (0.2, 61, 7300)] == ["0 s", "1 min 1 s", "2 h 1 min"]


def test_a_download_says_how_far_it_is(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SAY_EVERY", 0.0)
    monkeypatch.setattr(module, "CHUNK", len(DATA) // 4)
    lines = [line for line in fetched(server, tmp_path) if line.startswith("fetching file.bin")]
    assert [line.partition("(")[2].partition(")")[0] for line in lines] == ["25%", "50%", "75%", "100%"]


# Archives.

FILES = {"a/one.bin": np.random.default_rng(1).bytes(60_000), "a/b/two.txt": b"2"}


def packed(path: Path, kind: str, files: dict[str, bytes] = FILES) -> Path:
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    mode: Any = f"w:{kind.partition('.')[2]}"
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_unpacked_once_whatever_the_kind_and_name(kind: str, tmp_path: Path) -> None:
    archive = packed(tmp_path / "archive", kind)
    for name in (".out.4194305.0a1b2c3d.part", "out.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "of a killed one, or of somebody else").touch()
    assert unpack(archive, tmp_path / "out", None) == tmp_path / "out"
    found = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == FILES
    assert names(tmp_path) == ["archive", "out", "out.part"]
    assert not list(tmp_path.glob(".*.part"))
    archive.unlink()
    (tmp_path / ".lock").unlink()
    assert unpack(archive, tmp_path / "out", None) == tmp_path / "out"
    assert names(tmp_path) == ["out", "out.part"]
    assert not (tmp_path / ".lock").exists(), "nothing is written where nothing is to be done"


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_a_damaged_archive_leaves_nothing(kind: str, tmp_path: Path) -> None:
    archive = packed(tmp_path / "archive", kind)
    whole = archive.read_bytes()
    faults = [whole[:1000], b"", b"no archive" * 100]
    if kind != "tar":  # which has no checksums of what is in it
        faults.append(whole[:50_000] + bytes(100) + whole[50_100:])
    for data in faults:
        archive.write_bytes(data)
        with pytest.raises(UserError, match=r"archive: cannot be unpacked \(.+\); delete it and fetch it again"):
            unpack(archive, tmp_path / "out", None)
        assert names(tmp_path) == ["archive"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../outside", "a/../../outside"])
def test_nothing_is_written_outside(kind: str, name: str, tmp_path: Path) -> None:
    archive = packed(tmp_path / "archive", kind, {**FILES, name: b"x"})
    with pytest.raises(UserError, match=r"cannot be unpacked .*outside"):
        unpack(archive, tmp_path / "out", None)
    assert names(tmp_path) == ["archive"]


def test_a_link_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "archive", "w") as tar:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, "../../elsewhere"
        tar.addfile(member)
    with pytest.raises(UserError, match=r"cannot be unpacked .*neither a file nor a folder"):
        unpack(tmp_path / "archive", tmp_path / "out", None)
    assert names(tmp_path) == ["archive"]
