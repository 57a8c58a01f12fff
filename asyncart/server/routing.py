"""From an HTTP request to a handler and back: the same steps for every route of `wire.ROUTES`.

Decode once, say who it is, ask whether that is allowed, call, encode. Each route has exactly one handler
and one policy: a table that is not complete fails when the application is made, not when somebody calls.
A handler is `async def (caller, request struct) -> answer struct`; it knows nothing of HTTP.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

import msgspec
from aiohttp import web

from ..errors import AsyncartError, Invalid
from ..threads import run_blocking
from ..wire import MAX_CALLS, ROUTES, Answer, Batch, BatchAnswer, Outcome, Request, Route
from . import checking, failures, guard, idempotency
from .absent import Absent
from .bodies import Bodies
from .context import Caller, ServerContext
from .decoding import Codec, canonical, parse
from .policy import POLICIES

Said = TypeVar("Said", bound=Request)
Answered = TypeVar("Answered", bound=Answer)
Result = TypeVar("Result")
Args = TypeVarTuple("Args")
Handler = Callable[[Caller, Any], Awaitable[Answer]]

BATCH = "batch"
KIB, MIB = 1 << 10, 1 << 20
BODY_BYTES = 64 * KIB
# Larger bodies: 10,000 digests are 0.5 MB; a commit names every object of a version, a deletion
# every version that is expected to go; an `add_stored` of 100,000 contents has 15 MB.
LARGER_BODIES = {
    "stored_contents": 1 * MIB,
    "stored_chunks": 1 * MIB,
    "add_stored": 64 * MIB,
    "note_parts": 4 * MIB,
    "commit_version": 32 * MIB,
    "update_version": 16 * MIB,
    "delete_collection": 1 * MIB,
    "prune_versions": 1 * MIB,
    "create_run": 16 * MIB,
    "sign_urls": 4 * MIB,
    "complete_object_upload": 4 * MIB,
    "batch": 64 * MIB,
}
# Of these, a second one may be something else than the first one again; a commit has its draft's id.
ONCE_ONLY = frozenset(
    {name for name, policy in POLICIES.items() if policy.is_audited}
    | {"adopt_upload", "begin_object_upload"}
) - {"commit_version"}
THREAD_BYTES = 256 * KIB  # beyond that, decoding takes milliseconds: not on the event loop

HANDLERS: dict[str, Handler] = {}

_encode = msgspec.json.Encoder().encode


def handler(
    name: str,
) -> Callable[
    [Callable[[Caller, Said], Awaitable[Answered]]], Callable[[Caller, Said], Awaitable[Answered]]
]:
    """Register the function as what the route of that name does."""

    def register(
        function: Callable[[Caller, Said], Awaitable[Answered]],
    ) -> Callable[[Caller, Said], Awaitable[Answered]]:
        if name not in ROUTES:
            raise RuntimeError(f"there is no route called {name}")
        if name in HANDLERS:
            raise RuntimeError(f"the route {name} has a handler already")
        HANDLERS[name] = function
        return function

    return register


class Endpoint(NamedTuple):
    """One route, ready to be served."""

    codec: Codec
    handle: Handler
    body_limit: int

    @property
    def name(self) -> str:
        return self.codec.route.name


class _Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call of a batch. `request`: its bytes, or what was parsed and is known to be unambiguous."""

    name: str
    request: Any


def endpoints() -> dict[str, Endpoint]:
    """All routes with their handlers; RuntimeError if one of them lacks its handler or its policy."""
    importlib.import_module(f"{__package__}.handlers")  # registers them
    tables = {"handler": HANDLERS.keys() | {BATCH}, "policy": POLICIES.keys()}
    for what, names in tables.items():
        if missing := ROUTES.keys() - names:
            raise RuntimeError(f"routes without a {what}: {', '.join(sorted(missing))}")
        if unknown := names - ROUTES.keys():
            raise RuntimeError(f"a {what} without a route: {', '.join(sorted(unknown))}")
    return {name: _endpoint(route) for name, route in ROUTES.items()}


def _endpoint(route: Route) -> Endpoint:
    codec = Codec.of(route)
    limit = LARGER_BODIES.get(route.name, BODY_BYTES) if codec.has_body else 0
    return Endpoint(codec, HANDLERS.get(route.name, _no_handler), limit)


class Router:
    """Carries out requests, alone or as calls of a batch."""

    def __init__(self, context: ServerContext) -> None:
        self.context = context
        self.endpoints = endpoints()
        self._bodies = Bodies()

    def add_to(self, app: web.Application) -> None:
        for endpoint in self.endpoints.values():
            app.router.add_route(
                endpoint.codec.route.method,
                endpoint.codec.path,
                self._serving(endpoint),
                name=endpoint.name,
            )

    def _serving(self, endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def serve(http: web.Request) -> web.Response:
            # First of all, so that strangers cost nothing.
            principal = await guard.authenticate(self.context, http)
            with guard.limited(self.context, principal):
                caller = Caller(
                    self.context,
                    principal,
                    failures.request_id(http),
                    guard.origin(self.context, http),
                )
                return await self._answer(caller, endpoint, http)

        return serve

    async def _answer(self, caller: Caller, endpoint: Endpoint, http: web.Request) -> web.Response:
        key = http.headers.get(idempotency.HEADER)
        user_id = caller.principal.user_id
        async with self._bodies.taken(http, endpoint.body_limit, user_id) as body:
            if endpoint.name == BATCH:
                calls = await _in_thread_if(len(body), _calls, body)
                guard.carries(caller, len(calls))
                return _json(_encode(await self._carry_out_all(caller, calls, key)))
            request = await _decoded(endpoint.codec, http, body)
            return _json(await self._carry_out(caller, endpoint, request, key))

    async def _carry_out(
        self, caller: Caller, endpoint: Endpoint, request: Request, key: str | None
    ) -> bytes:
        """The answer, encoded. `key`: see `idempotency`."""
        allowed = await guard.authorize(caller, endpoint.name, request, may_join=key is None)
        if isinstance(allowed, Answer):
            return _encode(allowed)  # what is said where there is nothing that the caller may see

        async def work() -> bytes:
            with guard.checked(allowed), guard.recorded(allowed, endpoint.name, request):
                return _encode(await endpoint.handle(allowed, request))

        try:
            return await guard.once(allowed, endpoint.codec.route, key, request, work)
        except Absent as absent:  # the check was joined with the work
            return _encode(absent.answer)

    async def _carry_out_all(
        self, caller: Caller, calls: list[_Call], key: str | None
    ) -> BatchAnswer:
        """In order, each by its own rules, until one fails."""
        outcomes: list[Outcome] = []
        for index, call in enumerate(calls):
            # Of the others, the same again is the same: no need to write down what was answered.
            has_key = key is not None and call.name in ONCE_ONLY
            outcome = await self._outcome(caller, call, f"{key}.{index}" if has_key else None)
            outcomes.append(outcome)
            if outcome.failure is not None:
                break
        return BatchAnswer(outcomes=outcomes)

    async def _outcome(self, caller: Caller, call: _Call, key: str | None) -> Outcome:
        try:
            endpoint = self.endpoints.get(call.name)
            if endpoint is None or endpoint.name == BATCH:
                raise Invalid(f"{call.name[:80]!a}: no call that a batch can hold")
            said = call.request
            size = len(said) if isinstance(said, bytes) else 0
            if size > (most := LARGER_BODIES.get(call.name, BODY_BYTES)):
                raise Invalid(f"{call.name}: the request has more than {most} bytes")
            request = await _in_thread_if(size, _from_call, endpoint.codec, said)
            answer = await self._carry_out(caller, endpoint, request, key)
            return Outcome(answer=msgspec.Raw(answer))
        except AsyncartError as error:
            return Outcome(failure=failures.failure(error, caller.request_id))
        except Exception:
            failures.LOGGER.exception("%s failed in a batch", call.name)
            return Outcome(failure=failures.internal(caller.request_id))


def _json(answer: bytes) -> web.Response:
    return web.Response(body=answer, content_type="application/json")


def _calls(body: bytes) -> list[_Call]:
    batch = canonical(body, Batch)
    if batch is not None:
        calls = [_Call(call.name, bytes(call.request)) for call in batch.calls]
    else:
        value = parse(body)
        if not isinstance(value, dict) or value.keys() != {"calls"}:
            raise Invalid("the body of batch is one JSON object that holds calls")
        try:
            calls = msgspec.convert(value["calls"], list[_Call])
        except msgspec.ValidationError as error:
            raise Invalid(f"batch: {error}") from None
    if len(calls) > MAX_CALLS:
        raise Invalid(f"{len(calls)} calls at once: {MAX_CALLS} can be")
    return calls


def _from_call(codec: Codec, said: object) -> Request:
    return _checked(codec.from_call(said))


async def _decoded(codec: Codec, http: web.Request, body: bytes) -> Request:
    path = dict(http.match_info)
    if not codec.has_body:
        return _checked(codec.from_query(path, http.query.items()))
    if http.query:
        raise Invalid(f"{codec.route.name} takes no parameters in the query: they are in the body")
    return await _in_thread_if(len(body), _from_body, codec, path, body)


def _from_body(codec: Codec, path: dict[str, str], body: bytes) -> Request:
    return _checked(codec.from_body(path, body))


def _checked(request: Request) -> Request:
    checking.check(request)
    return request


async def _in_thread_if(size: int, function: Callable[[*Args], Result], *args: *Args) -> Result:
    """Of a large body."""
    if size <= THREAD_BYTES:
        return function(*args)
    return await run_blocking(function, *args)


async def _no_handler(caller: Caller, request: Request) -> Answer:
    raise AssertionError("a batch is carried out by the router")
