"""A server that goes bad on command: it passes on what a good one says until it is told to fail, and how.

For the tests, and for `python -m benchmarks.faults`. Without a good server behind it, it is bad from the start.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

KINDS = ("dies", "hangs", "drips", "garbage", "page", "empty", "list", "refuses")
"""No connections at all; no answers; a byte a second for ever; no HTTP; a web page; `{}`; `[]`; status 500."""
SECONDS_BETWEEN_DRIPS = 0.5
_WRONG = {
    "garbage": b"\x00\xff\x13 nonsense \r\n\x07\r\n\r\n" * 5,
    "page": b"<html><body>It works!</body></html>",
    "empty": b"{}",
    "list": b"[]",
    "refuses": b'{"detail": "Internal Server Error"}',
}


class BadServer:
    """Listens on loopback at `port`; as a context it is closed at the end, with every connection.

    `behind` is the port of the good server; `kind` is None while it passes on, or one of `KINDS`. `asked`
    counts the requests that came while it was bad. A `healthy` one says that it is well, whatever it does else.
    """

    def __init__(self, behind: int | None = None, kind: str | None = None, *, healthy: bool = False) -> None:
        self._behind, self.kind, self._healthy = behind, kind, healthy
        self.asked = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        self.when: Callable[[bytes], str | None] | None = None
        """Asked with the first bytes of every request as long as all is well: how to fail from here on."""
        if kind == "dies":
            self._listener.close()
        else:
            threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> BadServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._close_all()

    def fail(self, kind: str) -> None:
        """Be bad from now on, to those that are connected too."""
        self.kind = kind
        if kind == "dies":
            self._close_all()

    def _close_all(self) -> None:
        with self._lock:
            ended = [self._listener, *self._open]
            self._open.clear()
        for one in ended:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        good: socket.socket | None = None
        with contextlib.suppress(OSError), client:
            while data := client.recv(65536):
                if self.kind is None and self.when is not None and (kind := self.when(data)) is not None:
                    self.fail(kind)
                if self.kind is None:
                    if good is None:
                        assert self._behind is not None
                        good = socket.create_connection(("127.0.0.1", self._behind))
                        with self._lock:
                            self._open.add(good)
                        threading.Thread(target=self._back, args=(good, client), daemon=True).start()
                    good.sendall(data)
                    continue
                self.asked += 1
                if self._healthy and b"/health" in data.partition(b"\r\n")[0]:
                    client.sendall(_answer_of("200 OK", "application/json", b"true"))
                    break
                if self._answer(client):
                    break
        if good is not None:
            good.close()

    def _back(self, good: socket.socket, client: socket.socket) -> None:
        """Pass on what the good server answers, as long as that is wanted."""
        with contextlib.suppress(OSError):
            while data := good.recv(65536):
                if self.kind is None:
                    client.sendall(data)
        if self.kind is None:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _answer(self, client: socket.socket) -> bool:
        """Answer badly; returns whether the connection is to be closed."""
        if self.kind == "hangs":
            return False
        if self.kind == "drips":
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n[")
            while not self._closed:
                time.sleep(SECONDS_BETWEEN_DRIPS)
                client.sendall(b" ")
        assert self.kind is not None
        body = _WRONG.get(self.kind, b"")
        if self.kind != "garbage":
            status = "500 Internal Server Error" if self.kind == "refuses" else "200 OK"
            kind = "text/html" if self.kind == "page" else "application/json"
            head = (
                f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            body = head.encode() + body
        client.sendall(body)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        return True


def _answer_of(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
