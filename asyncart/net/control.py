"""The calls of `wire` to one server: keep-alive connections, bounded waits, repeats, several at once.

Promised:

- one aiohttp session per event loop; the key goes to this origin alone, as `Authorization: Bearer`, never
  along a redirect, and is in no log line, repr or error;
- every wait ends: connecting, a server that says nothing, and repeats that bring no progress;
- lost connections, stalls, 408, 425, 429 and 5xx are repeated after a full-jitter back-off, not before
  `Retry-After`, and the log says so when it takes more than a moment. Calls name what they make, so that again is the same; the few that do not carry an
  `Idempotency-Key`;
- what the server refuses is raised as the class that it raised, with its words; the request's id is a note.

**Deferred calls.** A call whose answer nobody waits for (`defer`) travels with the next one of the same
scope, in one request. Scopes are the sessions of the catalog: order is kept within one, and a call is
carried out after everything that was deferred before it. A deferred call that is refused raises at the call
that carries it; `flush` carries what is left. A call that is deferred as `is_optional` travels with the
next call of any scope, and its refusal is nobody's business.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import random
import time
from collections.abc import Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import aiohttp
import anyio
import yarl

from asyncart import wire
from asyncart.errors import AsyncartError, Denied, Invalid, Unavailable
from asyncart.origins import check_origin

from . import answers
from .aiohttp_plane import AiohttpPlane
from .answers import FEW, MANY, Failed, Reply, Target
from .notice import Notice
from .plane import CONNECT_S, MAX_REDIRECTS, STALL_S, ResponseHead, proxy_for, redirected
from .retry import PATIENCE_S, backoff_s
from .urls import SignedUrls

FIRST_PATIENCE_S = 15.0  # for a server that never answered yet: the address may be wrong
SLOWEST_BYTES_PER_S = 64 << 10  # of a request's body; a line that is slower cannot be worked with
PIECEWISE_BYTES = 256 << 10  # beyond that a body is not handed to the transport as a whole
ANSWER_BYTES = 512 << 20  # 10,000 contents of 1 GiB each have 400 MB of chunks
MOST_DEFERRED = wire.MAX_CALLS // 2
CLOSE_S = 10.0  # for what the server has to be told before we leave
CLEANUP_S = 5.0  # for what it would like to know

# What takes its time before it answers, in seconds: it reads objects, or deletes them.
SLOW_CALLS = {
    "collect_garbage": 3600.0,  # it may copy
    "mark_damaged": 300.0,
    "complete_object_upload": 120.0,
    "prune_versions": 120.0,
    "delete_collection": 120.0,
}
# Of these a second one is something else than the first one again, or is refused. Not adopt_upload, which is
# asked for every object and costs the server a record each time: whoever misses the answer begins anew.
KEYED_CALLS = frozenset(
    {
        "begin_object_upload", "set_alias", "remove_alias", "delete_version",
        "delete_collection", "prune_versions", "create_user", "create_team", "create_key",
        "revoke_key", "remove_member", "remove_project_role", "protect_alias", "unprotect_alias",
    }
)  # fmt: skip

logger = logging.getLogger("asyncart.server")

A = TypeVar("A", bound=wire.Answer)


class _Asked(NamedTuple):
    name: str
    request: wire.Request
    is_optional: bool = False


class _Scope:
    """What waits to be carried; `lock` is held while it travels, so that nobody overtakes it."""

    def __init__(self) -> None:
        self.waiting: list[_Asked] = []
        self.was_carried = False
        self.lock = anyio.Lock(fast_acquire=True)


class ServerClient:
    """`origin` as in https://host[:port]; an empty key is for a server on this machine without accounts."""

    def __init__(
        self,
        origin: str,
        api_key: str = "",
        *,
        allow_insecure_http: bool = False,
        stall_s: float = STALL_S,
        connect_s: float = CONNECT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.origin = check_origin(origin, allow_insecure_http=allow_insecure_http)
        self.urls = SignedUrls(self)
        self.stall_s = stall_s
        self.patience_s = patience_s
        self.requests = 0  # HTTP requests that were sent so far
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {_checked_key(api_key)}"
        self._plane = AiohttpPlane(stall_s=stall_s, connect_s=connect_s)
        self._connect_s = connect_s
        self._was_reached = False
        self._notice = Notice(logger)
        self._scopes: dict[str, _Scope] = {}
        self._optional: list[_Asked] = []

    def __repr__(self) -> str:
        return f"<ServerClient {self.origin}>"

    async def call(self, name: str, request: wire.Request, scope: str = "") -> wire.Answer:
        """The answer to the call of that route; raises what the server raised."""
        (answer,) = await self.calls([(name, request)], scope)
        return answer

    async def ask(self, kind: type[A], name: str, request: wire.Request, scope: str = "") -> A:
        """`call`, for an answer of that kind."""
        answer = await self.call(name, request, scope)
        assert isinstance(answer, kind)
        return answer

    async def calls(
        self, asked: Sequence[tuple[str, wire.Request]], scope: str = ""
    ) -> list[wire.Answer]:
        """Several calls, carried out in this order in one request; the first refusal ends them."""
        own = [_Asked(name, request) for name, request in asked]
        waiting = self._scopes.get(scope)
        if waiting is not None:
            async with waiting.lock:
                if waiting.waiting:
                    return await self._carry(waiting, own)
        return await self._carry(None, own)

    async def defer(self, name: str, request: wire.Request, scope: str) -> None:
        """Let the call travel with the next one of its scope, at the latest with `flush` or `aclose`."""
        answers.target(name, request)  # what is wrong with it is said here
        waiting = self._scopes.setdefault(scope, _Scope())
        waiting.waiting.append(_Asked(name, request))
        if len(waiting.waiting) >= MOST_DEFERRED:
            await self.flush(scope)

    async def defer_optional(self, name: str, request: wire.Request) -> None:
        """Let the call travel with the next one, whatever becomes of it."""
        self._optional.append(_Asked(name, request, is_optional=True))
        if len(self._optional) >= MOST_DEFERRED:
            await self._carry(None, [])

    async def flush(self, scope: str) -> None:
        """Carry what is deferred in this scope; raises what is refused."""
        waiting = self._scopes.get(scope)
        if waiting is not None:
            async with waiting.lock:
                if waiting.waiting:
                    await self._carry(waiting, [])

    def deferred(self, scope: str) -> list[str]:
        """The names of the calls that wait in this scope."""
        waiting = self._scopes.get(scope)
        return [asked.name for asked in waiting.waiting] if waiting is not None else []

    def was_carried(self, scope: str) -> bool:
        """Whether anything of this scope was sent, with or without an answer."""
        waiting = self._scopes.get(scope)
        return waiting is not None and waiting.was_carried

    def drop_scope(self, scope: str) -> None:
        """Forget the scope, with the calls that wait in it."""
        self._scopes.pop(scope, None)

    async def aclose(self) -> None:
        """Carry what is deferred, and close the connections. Raises what is refused; bounded."""
        try:
            with anyio.move_on_after(CLOSE_S) as limit:
                for scope in list(self._scopes):
                    await self.flush(scope)
            if limit.cancelled_caught:
                raise Unavailable(
                    f"{self.origin}: no answer within {CLOSE_S:.0f} s to what was still to be said"
                )
            if self._optional:
                with anyio.move_on_after(CLEANUP_S):
                    await self._say_optional()
        finally:
            self._scopes.clear()
            self._optional.clear()
            with anyio.CancelScope(shield=True):
                await self._plane.aclose()

    async def _say_optional(self) -> None:
        try:
            await self._carry(None, [])
        except AsyncartError as error:
            logger.debug("%s", error)

    # several calls, deferred ones first

    async def _carry(self, scope: _Scope | None, own: list[_Asked]) -> list[wire.Answer]:
        """Carry out what waits, then `own`; returns the answers to `own`."""
        optional, self._optional = self._optional, []
        deferred = optional
        if scope is not None:
            deferred = optional + scope.waiting
            scope.waiting, scope.was_carried = [], True
        done: list[wire.Answer] = []
        is_refused = False
        try:
            await self._carry_out(deferred + own, done)
        except Failed as failed:
            is_refused = failed.is_final
            raise failed.error from failed.__cause__
        finally:
            # What was not carried out waits for the next one; what was refused has been said.
            left = deferred[len(done) + is_refused :]
            self._optional[:0] = [asked for asked in left if asked.is_optional]
            if scope is not None:
                scope.waiting[:0] = [asked for asked in left if not asked.is_optional]
        return done[len(deferred) :]

    async def _carry_out(self, calls: list[_Asked], done: list[wire.Answer]) -> None:
        """Fill `done` with the answers, one by one. Raises Failed for the call behind the last of them."""
        tries, since, key = 0, time.monotonic(), os.urandom(16).hex()
        while len(done) < len(calls):
            todo = calls[len(done) : len(done) + wire.MAX_CALLS]
            try:
                found = await self._attempt(todo, key)
                key = os.urandom(16).hex()
            except Failed as failed:
                found = [failed]
            for asked, one in zip(todo, found, strict=False):
                if not isinstance(one, Failed):
                    done.append(one)
                    tries, since = 0, time.monotonic()
                elif asked.is_optional and one.is_final:
                    logger.debug("%s", one.error)
                    done.append(wire.Done())
                else:
                    tries += 1
                    await asyncio.sleep(self._pause_s(one, tries, time.monotonic() - since))

    def _pause_s(self, failed: Failed, tries: int, elapsed_s: float) -> float:
        """How long to wait before the next try; raises if there is none."""
        delay = max(backoff_s(tries - 1, random.random()), failed.after_s)
        patience_s = self.patience_s
        if not self._was_reached:
            patience_s = min(patience_s, FIRST_PATIENCE_S)
        if tries >= failed.tries or elapsed_s + delay > patience_s:
            if tries > 1:
                failed.error.add_note(f"{tries} attempts, {elapsed_s:.0f} s")
            raise failed
        self._notice.repeating(
            failed.error,
            now_s=time.monotonic(),
            elapsed_s=elapsed_s,
            delay_s=delay,
            patience_s=patience_s,
        )
        return delay

    # one request

    async def _attempt(self, calls: Sequence[_Asked], key: str) -> list[wire.Answer | Failed]:
        """One try of these calls: answers, and at the end perhaps what failed. Raises Failed for all."""
        names = [asked.name for asked in calls]
        wait_s = max([self.stall_s, *(SLOW_CALLS.get(name, 0.0) for name in names)])
        headers = dict(self._headers)
        if not KEYED_CALLS.isdisjoint(names):
            headers["Idempotency-Key"] = key
        if len(calls) == 1:
            name, request, _ = calls[0]
            reply = await self._send(name, answers.target(name, request), headers, wait_s)
            return [answers.answer(self.origin, name, reply)]
        pairs = [(asked.name, asked.request) for asked in calls]
        reply = await self._send(
            "batch", answers.target("batch", answers.batch(pairs)), headers, wait_s
        )
        said = answers.answer(self.origin, "batch", reply)
        assert isinstance(said, wire.BatchAnswer)
        return answers.outcomes(self.origin, names, said)

    async def _send(
        self, name: str, target: Target, headers: dict[str, str], wait_s: float
    ) -> Reply:
        """One request and its whole answer; redirects are followed on this origin only."""
        body = target.body
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
            wait_s += len(body) / SLOWEST_BYTES_PER_S
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s, sock_read=wait_s)
        url = self.origin + target.path
        proxy = proxy_for(url)
        try:
            for _ in range(MAX_REDIRECTS + 1):
                self.requests += 1
                async with self._plane.session().request(
                    target.method,
                    yarl.URL(url, encoded=True),
                    headers=headers,
                    data=body if body is None or len(body) < PIECEWISE_BYTES else io.BytesIO(body),
                    proxy=None if proxy is None else yarl.URL(proxy),
                    allow_redirects=False,
                    timeout=timeout,
                ) as response:
                    self._was_reached = True
                    head = ResponseHead(
                        response.status, {k.lower(): v for k, v in response.headers.items()}
                    )
                    following = redirected(url, headers, head)
                    if following is None:
                        return Reply(*head, await self._read(name, response))
                    url = self._same_origin(following[0])
        except (aiohttp.ClientError, OSError) as error:
            raise self._lost(name, error, wait_s) from error
        raise Failed(Unavailable(f"{self.origin}: {name}: more than {MAX_REDIRECTS} redirects"))

    async def _read(self, name: str, response: aiohttp.ClientResponse) -> bytes:
        pieces: list[bytes] = []
        size = 0
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > ANSWER_BYTES:
                raise Failed(
                    Unavailable(
                        f"{self.origin}: answered {name} with more than {ANSWER_BYTES} bytes"
                    )
                )
        return b"".join(pieces)

    def _same_origin(self, url: str) -> str:
        parts = urlsplit(url)
        other = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        if other != self.origin:
            raise Failed(
                Denied(
                    f"{self.origin}: sends its clients to {other}, where the key for {self.origin} is not sent; set ASYNCART_SERVER to {other} if that is the server"
                )
            )
        return url

    def _lost(self, name: str, error: Exception, wait_s: float) -> Failed:
        """The connection was not made, or broke, or nothing came."""
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return Failed(
                Denied(
                    f"{self.origin}: its certificate is not accepted: {error.certificate_error}; check the name and the trusted certificates"
                )
            )
        if isinstance(error, aiohttp.InvalidURL):
            return Failed(Invalid(f"{self.origin}: {name}: the address cannot be used"))
        detail = type(error).__name__
        tries = MANY
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            detail = f"no connection within {self._connect_s:g} s"
        elif isinstance(error, TimeoutError):
            detail = f"nothing came for {wait_s:.0f} s"
        elif isinstance(error, aiohttp.ClientConnectorDNSError):
            detail, tries = f"its name is not known ({error.os_error.strerror})", FEW
        elif isinstance(error, aiohttp.ClientConnectorError):
            number = error.os_error.errno  # asyncio's own words for it repeat the address
            detail = os.strerror(number) if number else str(error.os_error)
        return Failed(
            Unavailable(
                f"{self.origin}: no answer to {name}: {detail}; check the network, and that the server runs"
            ),
            tries=tries,
        )


def _checked_key(api_key: str) -> str:
    """The key, if it can be one; never said in the error."""
    if not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise Invalid("the API key has characters that no key has; `asyncart login` takes it anew")
    return api_key
