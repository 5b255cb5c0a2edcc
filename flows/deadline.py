"""Deadlines for whole requests: each request runs in a thread of its own, which is left behind when its time is over.

The timeout of a socket begins anew with every byte, so a server that sends a byte now and then would hold a request
for ever.
"""

from __future__ import annotations

import base64
import contextlib
import contextvars
import gc
import os
import queue
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, NoReturn, TypeVar

from cl.redact import encoded, without_password

T = TypeVar("T")

_left_behind: set[threading.Thread] = set()


def leave_behind(thread: threading.Thread) -> None:
    """Note that nobody waits for this thread any more; `finish` sees to it."""
    _left_behind.add(thread)


def finish(status: int) -> NoReturn:
    """End the process with this status; at once where a thread that was left behind still runs.

    Python would stop such a thread wherever it is; in code of C++ or Rust that aborts the process.
    """
    if any(thread.is_alive() for thread in _left_behind):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    if "triton" not in sys.modules:  # which takes what is never collected for a leak, and says so
        gc.freeze()  # else Python searches all of torch and MLflow for cycles before it ends, for seconds
    sys.exit(status)


def within(seconds: float, body: Callable[[], T]) -> T:
    """Run the body in a thread of its own, and return what it returns or raise what it raises.

    Raises `TimeoutError` after so many seconds. The thread then goes on, but does not keep the process from ending.
    """
    ended: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            ended.put((body(), None))
        except BaseException as error:  # whatever it is, it is raised where it is waited for
            ended.put((None, error))

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,), name="request", daemon=True)
    thread.start()
    try:
        value, error = ended.get(timeout=seconds)
    except queue.Empty:
        leave_behind(thread)
        value, error = None, TimeoutError(f"no complete answer within {seconds:g} s")
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # None where the body returns it


def check_answer(address: str, seconds: float, sent: bytes | None = None) -> None:
    """Ask for an address, or send it JSON by POST.

    Raises `ConnectionError` with the reason where no whole, good answer comes in that time.
    """

    def get() -> None:
        with urllib.request.urlopen(_request(address, sent), timeout=seconds) as answer:
            answer.read()

    try:
        within(seconds, get)
    except (OSError, ValueError, HTTPException) as error:
        what: Any = getattr(error, "reason", None) or error
        said = without_password(" ".join(str(what).split())) or type(error).__name__
        raise ConnectionError(said[:200]) from None


def _request(address: str, sent: bytes | None = None) -> urllib.request.Request:
    """The request for an address that may hold a user name and a password, which urllib does not understand."""
    parts = urllib.parse.urlsplit(encoded(address))
    user, at, host = parts.netloc.rpartition("@")
    kind = {} if sent is None else {"Content-Type": "application/json"}
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)), sent, kind)
    if at:
        secret = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        request.add_header("Authorization", f"Basic {secret}")
    return request
