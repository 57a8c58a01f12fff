"""Bodies of requests: as they are, within the limit of their route, and not slower than a bad line is.

Memory is bounded: bodies up to 1 MiB are, because each user has a bounded number of requests under way
(`limits`); of larger ones, a few are in memory at a time, and the others wait for their turn before they are
read. Whoever sends slowly on purpose holds such a place for as long as 64 KiB/s would take, at most; and no
user holds more than half of the places.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from aiohttp import web
from aiohttp.client_exceptions import ClientPayloadError

from .failures import Refused
from .limits import TooMany

STALL_S = 30.0  # without a byte
SLOWEST_BYTES_PER_S = 64 << 10  # a line that is slower cannot be worked with
LARGE_BYTES = 1 << 20
LARGE_AT_ONCE = 8  # 512 MiB of bodies at the worst
LARGE_OF_ONE = LARGE_AT_ONCE // 2
TURN_S = 20.0  # to wait for a place


class _Sender:
    """A user who sends large bodies now, or waits for that."""

    def __init__(self) -> None:
        self.requests = 0
        self.places = anyio.Semaphore(LARGE_OF_ONE)


class Bodies:
    """Of all requests of one replica."""

    def __init__(self) -> None:
        self._large = anyio.Semaphore(LARGE_AT_ONCE)
        self._senders: dict[int, _Sender] = {}

    @asynccontextmanager
    async def taken(self, http: web.Request, limit: int, user_id: int) -> AsyncIterator[bytes]:
        """The body, empty if there is none; what the head says against it is said before it is read."""
        _check_head(http, limit)
        length = http.content_length
        if not http.body_exists:
            yield b""
        elif min(limit, limit if length is None else length) <= LARGE_BYTES:
            yield await _read(http, limit)
        else:
            async with AsyncExitStack() as turn:
                with anyio.move_on_after(TURN_S) as waiting:
                    await turn.enter_async_context(self._place(user_id))
                if waiting.cancelled_caught:
                    raise TooMany("too many large requests at once: come back later", TURN_S)
                yield await _read(http, limit)

    @asynccontextmanager
    async def _place(self, user_id: int) -> AsyncIterator[None]:
        """For a large body."""
        sender = self._senders.setdefault(user_id, _Sender())
        sender.requests += 1
        try:
            async with sender.places, self._large:
                yield
        finally:
            sender.requests -= 1
            if not sender.requests:
                del self._senders[user_id]


def _check_head(http: web.Request, limit: int) -> None:
    if http.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused(415, "a compressed body is not taken: send it as it is")
    if (http.content_length or 0) > limit:
        raise _too_large(limit)
    if not http.body_exists:
        return
    if limit and http.content_type != "application/json" and http.content_length != 0:
        raise Refused(415, "a body is JSON: send it as application/json")
    if (http.charset or "utf-8").lower() != "utf-8":
        raise Refused(415, "a body is UTF-8")


async def _read(http: web.Request, limit: int) -> bytes:
    length = limit if http.content_length is None else http.content_length
    body = bytearray()
    try:
        with anyio.fail_after(STALL_S + length / SLOWEST_BYTES_PER_S):
            while piece := await _piece(http):
                body += piece
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise Refused(408, "the body comes too slowly, or not at all") from None
    except (web.RequestPayloadError, ClientPayloadError):
        raise Refused(400, "the body is not HTTP, or was cut off") from None
    return bytes(body)


async def _piece(http: web.Request) -> bytes:
    with anyio.fail_after(STALL_S):
        return await http.content.readany()


def _too_large(limit: int) -> Refused:
    said = f"the body has more than {limit} bytes" if limit else "this request has no body"
    return Refused(413, f"{said}: send less at once")
