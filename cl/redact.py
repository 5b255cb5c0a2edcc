"""Addresses that hold passwords or tokens: texts without these, and a form that all programs read alike."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

# Up to the last @ before a blank: a password may hold any other sign. Not where a path follows, as in sqlite:///a@b.
_USER = re.compile(r"(?<=://)(?=[^/\s])\S*@")
_SECRET = re.compile(
    r"(?i)([?&;#](?:[\w.\-]*(?:token|secret|passw(?:or)?d|passphrase|credentials?|signature|api_?-?key|access_?-?key)"
    r"|pass|pwd|pw|key|auth|authorization|sig)=)(?!\*\*\*)[^&;#\s]+"
)
_HEADER = re.compile(r"(?i)(authorization\W{1,4}(?:basic|bearer)\s+)(?!\*\*\*)\S+")


def without_password(text: str) -> str:
    """The text without user names, passwords and tokens of the addresses in it; what else stands there stays.

    An @ is taken for the end of a password, wherever in an address it stands.
    """
    return _HEADER.sub(r"\1***", _SECRET.sub(r"\1***", _USER.sub("", text)))


def encoded(address: str) -> str:
    """The address, its user name and password written so that every program finds the same host in it.

    An @ or / in a password would otherwise make another host of it, and of the password a part of a page's name.
    """
    user_part = _USER.search(address)
    if user_part is None:
        return address
    user, colon, password = user_part[0][:-1].partition(":")
    safe = [quote(unquote(part), safe="") for part in (user, password)]
    return f"{address[: user_part.start()]}{safe[0]}{colon}{safe[1]}@{address[user_part.end() :]}"
