"""Addresses with passwords: what is shown of them, and what programs are given."""

from __future__ import annotations

import pytest

from cl.redact import encoded, without_password


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@host:5000/api", "http://host:5000/api"),
        ("https://user@host/x", "https://host/x"),
        ("http://user:sec@ret@host/x", "http://host/x"),
        ("http://user:sec/ret@host/x", "http://host/x"),
        ("http://user:se@c/ret@host", "http://host"),
        ("http://user:12/secret@host:5000", "http://host:5000"),
        ("http://user:sec?r#et@host:5000", "http://host:5000"),
        ("http://user:sec'r\"et)@host:5000", "http://host:5000"),
        ("postgresql+psycopg2://user:secret@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("(http://u:secret@a/x refused, http://u:secret@b/y too)", "(http://a/x refused, http://b/y too)"),
        ("http://host/x?token=secret&page=2#top", "http://host/x?token=***&page=2#top"),
        ("http://host/x?page=2&api_key=secret", "http://host/x?page=2&api_key=***"),
        ("http://host/x?X-Amz-Signature=secret", "http://host/x?X-Amz-Signature=***"),
        ("db://host/x?user=me&password=secret", "db://host/x?user=me&password=***"),
        ("http://u:secret@host/?access_token=secret", "http://host/?access_token=***"),
        ("Authorization: Bearer secretsecret==", "Authorization: Bearer ***"),
        ("authorization: basic c2VjcmV0c2VjcmV0", "authorization: basic ***"),
    ],
)
def test_no_password_is_shown(text: str, shown: str) -> None:
    assert without_password(text) == shown
    assert without_password(f"({shown}): why") == f"({shown}): why"


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/me@work/mlflow.db",
        "file:///data/a@b",
        "http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=compare&compareRunsMode=CHART",
        "mlflow models serve -m models:/digits@champion",
        "methods.ewc: unknown key; did you mean 'strength'?",
        "mail me@example.com or see http://host/x",
        "basic training",
    ],
)
def test_what_holds_none_stays(text: str) -> None:
    assert without_password(text) == text
    assert encoded(text) == text


@pytest.mark.parametrize(
    ("address", "given"),
    [
        ("http://user:secret@host:5000/api", "http://user:secret@host:5000/api"),
        ("http://user:se@c/r:et@host:5000/api", "http://user:se%40c%2Fr%3Aet@host:5000/api"),
        ("http://user:12/34@host", "http://user:12%2F34@host"),
        ("http://user:se%40cret@host", "http://user:se%40cret@host"),
        ("http://user:100%@host", "http://user:100%25@host"),
        ("http://token@host/x", "http://token@host/x"),
    ],
)
def test_every_program_finds_the_same_host(address: str, given: str) -> None:
    assert encoded(address) == given
    assert encoded(given) == given
