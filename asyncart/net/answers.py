"""Requests of `wire` as HTTP, and HTTP answers as answers of `wire` or errors.

Plain functions: nothing is sent here. What a server says is taken only if it is what an asyncart server
says: JSON, of the struct that the route names. A page of a proxy, of a captive portal or of another kind of
server becomes an error that names the origin, never an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from string import Formatter
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import msgspec

from asyncart import wire
from asyncart.errors import (
    BY_CODE,
    AsyncartError,
    Conflict,
    Corrupt,
    Denied,
    Full,
    Invalid,
    NotFound,
    Unavailable,
)

from .retry import retry_after_s

# 409 is an answer here, not a collision to be repeated; 507 (disk full) does not pass by waiting.
TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
MANY = 1 << 30
FEW = 4  # tries, of what is wrong for sure here, but may come from one bad replica of many

_encode = msgspec.json.Encoder().encode


class Target(NamedTuple):
    """Of one HTTP request; `path` with its query."""

    method: str
    path: str
    body: bytes | None


class Reply(NamedTuple):
    """Of one HTTP request, read to its end; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Failed(Exception):
    """A call did not succeed. Private to `net`: callers get `error`.

    `tries`: how many make sense altogether (1: the answer is final). `after_s`: not before then.
    """

    def __init__(self, error: AsyncartError, *, tries: int = 1, after_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.tries = tries
        self.after_s = after_s

    @property
    def is_final(self) -> bool:
        return self.tries == 1


class _Fields(NamedTuple):
    in_path: tuple[str, ...]
    others: tuple[str, ...]


@cache
def _fields(name: str) -> _Fields:
    route = wire.ROUTES[name]
    in_path = tuple(field for _, field, _, _ in Formatter().parse(route.path) if field)
    others = tuple(f for f in route.request.__struct_fields__ if f not in in_path)
    return _Fields(in_path, others)


@cache
def _decoder(name: str) -> msgspec.json.Decoder[wire.Answer]:
    return msgspec.json.Decoder(wire.ROUTES[name].answer)


_decode_failure = msgspec.json.Decoder(wire.Failure).decode


def target(name: str, request: wire.Request) -> Target:
    """The call as an HTTP request: fields in the path, of a GET in the query, of others in the body."""
    route = wire.ROUTES[name]
    if not isinstance(request, route.request):
        raise TypeError(f"{name} takes {route.request.__name__}, not {type(request).__name__}")
    try:
        return _target(name, route, request)
    except UnicodeEncodeError as error:
        raise Invalid(
            f"{name}: a text that is not Unicode (a lone surrogate, {error.object[error.start]!r}) cannot be stored"
        ) from error


def _target(name: str, route: wire.Route, request: wire.Request) -> Target:
    fields = _fields(name)
    values = {field: quote(str(getattr(request, field)), safe="") for field in fields.in_path}
    path = wire.PREFIX + route.path.format_map(values)
    others = {
        field: value
        for field in fields.others
        if (value := getattr(request, field)) is not msgspec.UNSET
    }
    if route.method != "GET":
        return Target(route.method, path, _encode(others))
    said = {field: _in_query(value) for field, value in others.items() if value is not None}
    return Target("GET", f"{path}?{urlencode(said)}" if said else path, None)


def _in_query(value: Any) -> str:
    return value if isinstance(value, str) else _encode(value).decode().strip('"')


def batch(calls: Sequence[tuple[str, wire.Request]]) -> wire.Batch:
    """Several calls as one."""
    return wire.Batch(
        calls=[
            wire.Call(name=name, request=msgspec.Raw(_encode(request))) for name, request in calls
        ]
    )


def answer(origin: str, name: str, reply: Reply) -> wire.Answer:
    """What the server said. Raises Failed."""
    if reply.status >= 400:
        raise failed(origin, name, reply)
    if not 200 <= reply.status < 300 or not _is_json(reply):
        raise _foreign(origin, name, reply)
    try:
        return _decoder(name).decode(reply.body)
    except msgspec.MsgspecError as error:
        raise _foreign(origin, name, reply, str(error)) from error


def outcomes(
    origin: str, names: Sequence[str], said: wire.BatchAnswer
) -> list[wire.Answer | Failed]:
    """What became of the calls of a batch, in order: answers, at most one failure, at the end."""
    found: list[wire.Answer | Failed] = []
    for name, outcome in zip(names, said.outcomes, strict=False):
        if outcome.failure is not None:
            error = failure_error(origin, 0, outcome.failure)
            is_passing = isinstance(error, Unavailable) and not isinstance(error, Full)
            found.append(Failed(error, tries=MANY if is_passing else 1))
            return found
        try:
            found.append(_decoder(name).decode(outcome.answer))
        except msgspec.MsgspecError as error:
            found.append(_foreign(origin, name, Reply(200, {}, b""), str(error)))
            return found
    if not found:
        found.append(_foreign(origin, "batch", Reply(200, {}, b""), "no call was carried out"))
    return found


def failed(origin: str, name: str, reply: Reply) -> Failed:
    """Of an answer of 400 or above."""
    after_s = retry_after_s(reply.headers)
    is_transient = reply.status in TRANSIENT_STATUSES
    failure = _failure(reply)
    if failure is None:
        foreign = _foreign(origin, name, reply)
        return Failed(foreign.error, tries=MANY if is_transient else 1, after_s=after_s)
    error = failure_error(origin, reply.status, failure, reply.headers.get("x-request-id", ""))
    if not is_transient or isinstance(error, Corrupt):
        return Failed(error)
    # A defect of the server answers 500 again; a replica that is not ready answers 503 for a while.
    is_refusal = isinstance(error, Unavailable) or reply.status != 500
    return Failed(error, tries=MANY if is_refusal else FEW, after_s=after_s)


def failure_error(
    origin: str, status: int, failure: wire.Failure, request_id: str = ""
) -> AsyncartError:
    """The error that the server raised, of the same class, with the same words."""
    kind = BY_CODE.get(failure.code) or _by_status(status)
    error = kind(failure.message)
    for note in failure.notes:
        error.add_note(note)
    request_id = failure.request_id or request_id
    error.add_note(f"said by {origin}" + (f", request {request_id}" if request_id else ""))
    return error


def _by_status(status: int) -> type[AsyncartError]:
    """For the code of a newer server."""
    known: dict[int, type[AsyncartError]] = {
        401: Denied, 403: Denied, 404: NotFound, 409: Conflict, 410: NotFound, 412: Conflict,
    }  # fmt: skip
    return known.get(status) or (Unavailable if status >= 500 or status == 429 else Invalid)


def _failure(reply: Reply) -> wire.Failure | None:
    if not _is_json(reply):
        return None
    try:
        return _decode_failure(reply.body)
    except msgspec.MsgspecError:
        return None


def _is_json(reply: Reply) -> bool:
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json"


def _foreign(origin: str, name: str, reply: Reply, why: str = "") -> Failed:
    """An answer that no asyncart server gives."""
    kind = reply.headers.get("content-type", "").partition(";")[0].strip() or "no content type"
    said = (
        f"{reply.status} with {kind}" if not why else f"{reply.status}, but not as agreed ({why})"
    )
    message = f"{origin}: answered {name} with {said}, which is not what an asyncart server says; check ASYNCART_SERVER and what is in between (a proxy?)"
    error: AsyncartError = Denied(message) if reply.status in (401, 403) else Unavailable(message)
    return Failed(error, tries=FEW if why else 1)
