"""How far a long reading or download is."""

from __future__ import annotations

import time

from cl.data.prepare import Say

SAY_EVERY = 5.0
"""Seconds between two lines."""


class Progress:
    """Says every few seconds how much of `total` bytes (None: unknown) is done; the first `first` were before."""

    def __init__(self, doing: str, total: int | None, say: Say | None, first: int = 0) -> None:
        self.doing, self.total, self.say, self.first = doing, total, say, first
        self.started = self.said = time.monotonic()

    def at(self, done: int) -> None:
        """Note how many bytes are done by now."""
        now = time.monotonic()
        if self.say is None or now - self.said < SAY_EVERY:
            return
        self.said = now
        rate = max(1.0, (done - self.first) / (now - self.started))
        line = f"{self.doing}: {done / 1e6:,.0f} MB"
        if self.total:
            line += f" of {self.total / 1e6:,.0f} MB ({done / self.total:.0%})"
        line += f" at {rate / 1e6:,.1f} MB/s"
        if self.total:
            line += f", {duration((self.total - done) / rate)} left"
        self.say(line)


def duration(seconds: float) -> str:
    """As people say it."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
