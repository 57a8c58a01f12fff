"""Every answer that is not what was asked for: one `wire.Failure`, whatever went wrong.

asyncart's own errors say what failed, and their class says with which status. Errors of HTTP itself (no such
path, wrong method, body too large) become failures too. Anything else is a mistake of ours: it is logged with
its traceback, and the client is told the id of its request and nothing more.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from uuid import uuid4

import msgspec
from aiohttp import web

from ..errors import AsyncartError, Denied, Invalid, NotFound, Unavailable
from ..wire import Failure
from . import logs

LOGGER = logging.getLogger(__name__)
REQUEST_ID = web.RequestKey("request_id", str)
KEY_ID = web.RequestKey(
    "key_id", str
)  # of the key that the request came with, for its line in the log
HEADER = "X-Request-Id"

_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_encode = msgspec.json.Encoder().encode


class Refused(Invalid):
    """An error of HTTP itself, with a status of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unauthenticated(Denied):
    """Nobody, or with a key that is not valid (any more)."""

    http_status = 401


def request_id(http: web.BaseRequest) -> str:
    """The client's own, if it is short and harmless; else one of ours. The same for all of the request."""
    known = http.get(REQUEST_ID)
    if known is None:
        said = http.headers.get(HEADER, "")
        known = said if _SANE.fullmatch(said) else uuid4().hex
        http[REQUEST_ID] = known
    return known


@web.middleware
async def rendered(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """The outermost middleware: a request id for every line that is logged, a Failure for every error."""
    identity = request_id(request)
    with logs.for_request(identity):
        try:
            return await handler(request)
        except AsyncartError as error:
            return response(error, identity)
        except web.HTTPException as error:
            return _of_http(error, request, identity)
        except ConnectionError:
            raise  # the client is gone: nobody to tell
        except Exception:
            LOGGER.exception("%s failed", route_name(request))
            return _answer(500, internal(identity))


async def stamp(http: web.BaseRequest, answer: web.StreamResponse) -> None:
    """Before the head of any answer is sent."""
    answer.headers[HEADER] = request_id(http)
    answer.headers.setdefault("Cache-Control", "no-store")
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Server"] = "asyncart"  # with which versions of what is nobody's business


def response(error: AsyncartError, identity: str) -> web.Response:
    answer = _answer(status_of(error), failure(error, identity))
    if isinstance(error, Unauthenticated):
        answer.headers["WWW-Authenticate"] = "Bearer"
    if (retry_after_s := getattr(error, "retry_after_s", None)) is not None:
        answer.headers["Retry-After"] = str(max(1, round(retry_after_s)))
    return answer


def failure(error: AsyncartError, identity: str) -> Failure:
    return Failure(
        code=error.code,
        message=str(error),
        request_id=identity,
        notes=[str(note) for note in getattr(error, "__notes__", ())],
    )


def internal(identity: str) -> Failure:
    return Failure(
        code=AsyncartError.code,
        message=f"the server made a mistake; its log says more under request {identity}",
        request_id=identity,
    )


def status_of(error: AsyncartError) -> int:
    return error.status if isinstance(error, Refused) else error.http_status


def route_name(http: web.BaseRequest) -> str:
    """What was asked for, without anything that the client chose."""
    match = getattr(http, "match_info", None)
    route = getattr(match, "route", None)
    return getattr(route, "name", None) or "request"


def _of_http(error: web.HTTPException, http: web.Request, identity: str) -> web.Response:
    if error.status < 400:
        raise error
    if error.status == 404:
        return response(NotFound(f"{http.path[:200]!a}: there is nothing of that name"), identity)
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        refused = Refused(405, f"{error.method[:20]}: not there, but {allowed}")
        answer = response(refused, identity)
        answer.headers["Allow"] = allowed
        return answer
    if error.status >= 500:
        return response(Unavailable(error.reason), identity)
    return response(Refused(error.status, error.reason), identity)


def _answer(status: int, said: Failure) -> web.Response:
    return web.Response(status=status, body=_encode(said), content_type="application/json")
