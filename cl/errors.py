"""The exceptions that a user is meant to read, and how their messages show what the user gave."""

from __future__ import annotations

import re

LONGEST = 80


class UserError(Exception):
    """An error that the user can mend: the message names the thing, where it is and the remedy.

    Command-line entry points print it on one line to standard error, without a traceback, and exit with 2.
    """


class Stopped(UserError):
    """A limit of time ended it, and the same command goes on from there.

    Command-line entry points print the message on one line, and exit with `TRY_AGAIN`.
    """


TRY_AGAIN = 75
"""EX_TEMPFAIL of sysexits.h."""


def shown(value: object) -> str:
    """A value as a message shows it: on one line, cut where it is long, without the secrets of an address."""
    return brief(repr(value))


def brief(text: str, longest: int = LONGEST) -> str:
    """A text as a message shows it: like `shown`, but without quotes."""
    text = re.sub(r"://.*", "://***", text, flags=re.DOTALL)
    if len(text) > longest:
        text = f"{text[:longest]}... ({len(text)} characters)"
    return plain(text)


def plain(text: str) -> str:
    """A text on one line: what cannot be printed is written as in Python."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def count(number: int, noun: str) -> str:
    """A number of things: "1 task", "10 tasks", "2 classes"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"
