"""One line per event on stderr: JSON for machines, or text for people.

A line says when, how bad, what, and for which request. It never says a secret: a request is named by
its route, not by its path or query, a caller by the id of the key; and whatever still looks like a
key, a signature or a password in a URL is blanked when the line is written, tracebacks included. Nor does
it begin another line: what somebody sent cannot look like something that we say.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..errors import AsyncartError

LOGGER = logging.getLogger("asyncart.server")

# Whatever ends a line, or moves a terminal's cursor.
_VISIBLE = {
    code: f"\\u{code:04x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029, 0x202E)
}

# Set by the outermost middleware; each request is a task of its own, and threads get a copy.
request_id: ContextVar[str] = ContextVar("asyncart.server.request_id", default="")

_SECRETS = re.compile(
    r"(?P<key>aart_[A-Za-z0-9]+)_[A-Za-z0-9_-]+"
    r"|(?P<name>(?i:x-amz-(?:signature|credential|security-token)|signature|authorization))"
    r"(?P<sep>[=:]\s*)(?:(?i:Bearer|Basic)\s+)?[^\s&\"',]+"
    r"|(?P<user>://[^/\s:@]*):[^/\s@]+@"
)


def configure(log_format: str, level: int = logging.INFO) -> None:
    """Everything that this process logs goes to stderr like this. Once, by the process's main."""
    handler = _ToStderr()
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("asyncart").setLevel(level)
    logging.captureWarnings(True)


def event(message: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log a message with fields of its own."""
    LOGGER.log(level, "%s", message, extra={"fields": fields})


def failure(message: str, error: Exception) -> None:
    """Log what went wrong in the background: a line if that was to be expected, else a traceback."""
    expected = isinstance(error, AsyncartError)
    LOGGER.warning("%s: %s", message, error, exc_info=None if expected else error)


@contextlib.contextmanager
def for_request(identity: str) -> Iterator[None]:
    """Lines that are logged inside carry this request id."""
    token = request_id.set(identity)
    try:
        yield
    finally:
        request_id.reset(token)


def without_secrets(text: str) -> str:
    return _SECRETS.sub(_blank, text)


def _blank(found: re.Match[str]) -> str:
    if found["key"]:
        return f"{found['key']}_***"
    if found["name"]:
        return f"{found['name']}{found['sep']}***"
    return f"{found['user']}:***@"


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # Text is blanked before it is encoded: afterwards a quote or a newline is no boundary any more.
        clean = {
            name: without_secrets(value) if isinstance(value, str) else value
            for name, value in line.items()
        }
        return msgspec.json.encode(clean, enc_hook=str).decode()


class TextLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        text = f"{_when(record)} {record.levelname:<7} {record.getMessage()} {fields}".rstrip()
        lines = [text.translate(_VISIBLE)]
        if record.exc_info:
            found = self.formatException(record.exc_info)
            lines += [f"    {line.translate(_VISIBLE)}" for line in found.splitlines()]
        return without_secrets("\n".join(lines))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = dict(getattr(record, "fields", {}))
    if "request_id" not in fields and (identity := request_id.get()):
        fields["request_id"] = identity
    return fields


def _when(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _ToStderr(logging.Handler):
    """A full disk or a closed pipe behind stderr ends no request."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
