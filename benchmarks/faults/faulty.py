"""Servers that do what servers do when they are ill: on a loopback address, until they are closed."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
HTML = b"<!doctype html><title>Welcome to nginx!</title><h1>It works</h1>"
ILL = (
    "refuses",
    "resets",
    "hangs",
    "drips",
    "html",
    "error 500",
    "error 503",
    "half JSON",
    "endless",
    "redirects",
    "other JSON",
    "closes",
    "denies",
)
"""What a server can be like."""


class Faulty:
    """A server that is ill in one of these ways: of its own (`behind` None), or a well one is behind it.

    One that has a well server behind it hands everything on until `fall_ill`.
    """

    def __init__(self, illness: str, behind: int | None = None) -> None:
        self.illness, self.behind = illness, behind
        self.ill = threading.Event()
        if behind is None:
            self.ill.set()
        self.requests = 0
        """How many were made of it."""
        self._closed = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._socket.getsockname()[1])
        if illness == "refuses" and behind is None:
            self._socket.close()
        else:
            threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def fall_ill(self) -> None:
        """From now on; connections that are open are ill too."""
        self.ill.set()
        if self.illness == "refuses":
            self._socket.close()
        if self.illness in ("refuses", "resets", "closes"):
            self._drop()

    def close(self) -> None:
        """End it."""
        self._closed.set()
        self.ill.set()
        with contextlib.suppress(OSError):
            self._socket.close()
        self._drop()

    def _drop(self) -> None:
        with self._lock:
            for open_one in self._open:
                with contextlib.suppress(OSError):
                    open_one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client:
                client.settimeout(30)
                if not self.ill.is_set():
                    self._hand_on(client)
                if self.ill.is_set() and not self._closed.is_set():
                    self._be_ill(client)
        except OSError:
            return
        finally:
            with self._lock:
                self._open.discard(client)

    def _hand_on(self, client: socket.socket) -> None:
        """Both directions, until either end closes or the illness begins."""
        assert self.behind is not None
        with (
            socket.create_connection(("127.0.0.1", self.behind), 10) as well,
            selectors.DefaultSelector() as selector,
        ):
            selector.register(client, selectors.EVENT_READ)
            selector.register(well, selectors.EVENT_READ)
            while not self.ill.is_set():
                ready = {key.fileobj for key, _ in selector.select(0.1)}
                for source in (one for one in (client, well) if one in ready):
                    data = source.recv(65536)
                    if not data:
                        return
                    self.requests += source is client
                    (well if source is client else client).sendall(data)

    def _be_ill(self, client: socket.socket) -> None:
        if self.illness == "resets":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        if self.illness in ("closes", "refuses"):
            return
        while not self._closed.is_set():
            if not _read_request(client):
                return
            self.requests += 1
            ILLNESSES[self.illness](self, client)

    def _hang(self, client: socket.socket) -> None:
        self._closed.wait(3600)

    def _drip(self, client: socket.socket) -> None:
        """A byte every second of an answer that is right as far as it goes."""
        for byte in HEAD % (b"application/json", 10_000) + b" " * 10_000:
            client.sendall(bytes([byte]))
            if self._closed.wait(1.0):
                return

    def _endless(self, client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
        while not self._closed.is_set():
            client.sendall(b"0," * 2000)
            time.sleep(0.02)

    def _redirect(self, client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 307 x\r\nLocation: /api/again/%d\r\nContent-Length: 0\r\n\r\n" % self.requests)

    def _half(self, client: socket.socket) -> None:
        client.sendall(HEAD % (b"application/json", 500) + b'{"id": "3f1c", "name": "ha')
        client.shutdown(socket.SHUT_RDWR)


def _answer(status: bytes, kind: bytes, body: bytes) -> Callable[[Faulty, socket.socket], None]:
    text = b"HTTP/1.1 %s x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (status, kind, len(body), body)
    return lambda faulty, client: client.sendall(text)


ILLNESSES: dict[str, Callable[[Faulty, socket.socket], None]] = {
    "hangs": Faulty._hang,
    "drips": Faulty._drip,
    "endless": Faulty._endless,
    "redirects": Faulty._redirect,
    "half JSON": Faulty._half,
    "html": _answer(b"200", b"text/html", HTML),
    "error 500": _answer(b"500", b"application/json", b'{"exception_message": "Internal Server Error"}'),
    "error 503": _answer(b"503", b"text/html", HTML),
    "denies": _answer(b"401", b"application/json", b'{"error_code": "UNAUTHENTICATED", "message": "who are you?"}'),
    "other JSON": _answer(
        b"200", b"application/json", b'{"id": [], "name": 3, "runs": {}, "experiments": "none", "info": null}'
    ),
}


def _read_request(client: socket.socket) -> bool:
    """Read one request to its end; False where there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            return False
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            left = int(line.split(b":")[1]) - len(body)
            while left > 0:
                more = client.recv(65536)
                if not more:
                    return False
                left -= len(more)
    return True
