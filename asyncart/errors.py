"""Every error that asyncart raises, by what the caller can do about it.

One tree for the library, the server and the command line: each class carries a stable `code`, the
HTTP status that the server renders it with, and the exit code of the command line. Foreign
exceptions are translated at the edges (stores, catalog, net), never in between. A message says what
failed, on what, why, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class AsyncartError(Exception):
    """The root: catch this to catch everything that asyncart raises on purpose."""

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1


class NotFound(AsyncartError, LookupError):
    """A name, version, alias, path or object that does not exist (or may not be seen)."""

    code = "not_found"
    http_status = 404
    exit_code = 3


class Conflict(AsyncartError):
    """Somebody else changed it meanwhile, or it exists with other content: look again and repeat."""

    code = "conflict"
    http_status = 409
    exit_code = 4


class Denied(AsyncartError, PermissionError):
    """Not allowed: by the server, the operating system, or a consent that was not given."""

    code = "denied"
    http_status = 403
    exit_code = 5


class Invalid(AsyncartError, ValueError):
    """The argument itself is wrong; repeating the call cannot help."""

    code = "invalid"
    http_status = 422
    exit_code = 2


class Unavailable(AsyncartError, OSError):
    """A disk, network or service refused for now: full, down, stalled, over its limits."""

    code = "unavailable"
    http_status = 503
    exit_code = 6


class Full(Unavailable):
    """A disk, or a quota on it, has no room: waiting does not help, somebody has to make room first."""

    code = "full"
    http_status = 507


class Corrupt(AsyncartError):
    """Stored bytes are not the bytes that were logged. Nothing of them was handed out."""

    code = "corrupt"
    http_status = 500
    exit_code = 7


class TransferError(AsyncartError):
    """Several parts of one transfer failed; `failures` holds each error, the first one first."""

    code = "transfer"
    http_status = 502
    exit_code = 8

    def __init__(self, message: str, failures: Sequence[Exception] = ()) -> None:
        super().__init__(message)
        self.failures = tuple(failures)


class ArtifactNotLoggedError(AsyncartError, AttributeError):
    """The attribute exists once the artifact is logged; `hasattr(draft, "version")` is False."""

    code = "artifact_not_logged"
    http_status = 409
    exit_code = 2


class ArtifactFinalizedError(AsyncartError, AttributeError):
    """The artifact is logged and therefore frozen: make a new draft with `new_draft()`."""

    code = "artifact_finalized"
    http_status = 409
    exit_code = 2


BY_CODE: dict[str, type[AsyncartError]] = {
    kind.code: kind
    for kind in (
        AsyncartError,
        NotFound,
        Conflict,
        Denied,
        Invalid,
        Unavailable,
        Full,
        Corrupt,
        TransferError,
        ArtifactNotLoggedError,
        ArtifactFinalizedError,
    )
}
