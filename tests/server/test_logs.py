"""What a server writes to stderr: a line per event, with what happened and never with a secret."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from asyncart.server import logs

SECRETS = {
    "a key": ("Authorization: Bearer aart_k1_s3cretS3cret_0a1b2c", "s3cretS3cret"),
    "a key in a message": ("the key aart_k1_s3cretS3cret_0a1b2c is revoked", "s3cretS3cret"),
    "a signature": ("GET /b/k?X-Amz-Signature=deadbeef&X-Amz-Expires=9", "deadbeef"),
    "a credential": ("?X-Amz-Credential=AKIA1%2F2026&x=1", "AKIA1"),
    "our own signature": ("/bytes/objects/1?expires=1&signature=feedface", "feedface"),
    "a password in a URL": ("postgresql://user:hunter2@host/db is down", "hunter2"),
    "a basic header with its scheme": ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
    "a basic header": ("authorization: dXNlcjpwYXNz", "dXNlcjpwYXNz"),
}


def record(message: str, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("asyncart.server", logging.INFO, __file__, 1, message, (), None)
    made.fields = fields
    return made


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = logs.JsonLines().format(made)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.mark.parametrize("formatter", [logs.JsonLines(), logs.TextLines()])
@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS)
def test_no_secret_is_written(formatter: logging.Formatter, text: str, secret: str) -> None:
    for made in (record(text), record("hello", note=text), failed(text)):
        assert secret not in formatter.format(made)


def failed(text: str) -> logging.LogRecord:
    made = record("it failed")
    try:
        raise ValueError(text)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def test_what_is_no_secret_stays() -> None:
    text = "postgresql://user@host:5432/db: key aart_k1 of s3://bucket/prefix?x=1"
    assert logs.without_secrets(text) == text
    assert logs.without_secrets("aart_k1_s3cretS3cret_0a1b2c") == "aart_k1_***"


def test_a_line_says_when_how_bad_what_and_for_which_request() -> None:
    with logs.for_request("r-1"):
        line = as_json(record("request", route="resolve", status=200))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "asyncart.server",
        "message": "request",
        "route": "resolve",
        "status": 200,
        "request_id": "r-1",
    }
    assert "request_id" not in as_json(record("outside"))


def test_a_traceback_is_one_line_of_json() -> None:
    line = as_json(failed("why\nso"))
    assert line["exception"].endswith("ValueError: why\nso")


def test_odd_values_are_written_as_text() -> None:
    assert as_json(record("x", error=ValueError("odd")))["error"] == "odd"


def test_for_people() -> None:
    line = logs.TextLines().format(record("request", route="resolve", status=200))
    assert line.endswith("INFO    request route=resolve status=200")


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1b[2K", "\x85", "\u2028"])
def test_nobody_writes_a_line_of_their_own(end: str) -> None:
    """Neither by a name in a message, nor in a field, nor in what an error says."""
    forged = f"x{end}2026-01-01T00:00:00.000Z INFO    request route=delete_version"
    for made in (record(forged), record("said", note=forged), failed(forged)):
        first, *others = logs.TextLines().format(made).splitlines()
        assert first.startswith("20")
        assert all(line.startswith("    ") for line in others)
        assert end not in logs.TextLines().format(made) or end == "\n"
    assert len(logs.TextLines().format(record(forged)).splitlines()) == 1
