"""Calls to a server, against servers and things in between that do everything wrong."""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import anyio
import msgspec
import pytest
from aiohttp import web
from served import listening

from asyncart import wire
from asyncart.errors import (
    AsyncartError,
    Conflict,
    Corrupt,
    Denied,
    Invalid,
    NotFound,
    Unavailable,
)
from asyncart.net import answers, control
from asyncart.net.control import ServerClient

KEY = "aart_thekey_thesecret_000000"
ME = wire.Me(
    user="me", entity="me", key_id="k", scopes=[], server_version="1", store="x", part_bytes=1
)
ABOUT = ("about_me", wire.AboutMe())

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


def json(value: object, status: int = 200, **headers: str) -> web.Response:
    body = msgspec.json.encode(value)
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def failure(status: int, code: str, **headers: str) -> web.Response:
    said = wire.Failure(code=code, message="the words", request_id="r1", notes=["a note"])
    return json(said, status, **headers)


def html(status: int) -> web.Response:
    return web.Response(text="<html>Welcome</html>", status=status, content_type="text/html")


class Script:
    """Answers with one step after the other, and the last one again; keeps what was asked."""

    def __init__(self, *steps: Callable[[], web.StreamResponse] | Answering) -> None:
        self.steps = list(steps)
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        step = self.steps[min(len(self.asked), len(self.steps) - 1)]
        self.asked.append(
            (request.method, request.raw_path, dict(request.headers), await request.read())
        )
        if inspect.iscoroutinefunction(step):
            return cast(web.StreamResponse, await step(request))
        return cast(Callable[[], web.StreamResponse], step)()

    @property
    def keys(self) -> list[str | None]:
        return [headers.get("Idempotency-Key") for _, _, headers, _ in self.asked]


def answering(script: Answering) -> web.Application:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await script(request)

    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", handle)
    return app


@asynccontextmanager
async def answered_by(script: Answering, **options: float) -> AsyncIterator[ServerClient]:
    async with listening(answering(script)) as origin:
        client = ServerClient(origin, KEY, **options)  # type: ignore[arg-type]
        try:
            yield client
        finally:
            await client.aclose()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries."""
    monkeypatch.setattr(control, "backoff_s", lambda failures, jitter: 0.0)


async def reset(request: web.Request) -> web.StreamResponse:
    """The connection breaks when the request has arrived."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def half_an_answer(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = 1000
    await response.prepare(request)
    await response.write(b"{")
    return await reset(request)


@pytest.mark.parametrize(
    "first",
    [
        *(lambda status=status: failure(status, "unavailable") for status in (408, 425, 429, 503)),
        lambda: failure(500, "error"),
        lambda: html(502),
        lambda: html(504),
        reset,
        half_an_answer,
    ],
)
async def test_what_passes_is_repeated(first: Answering) -> None:
    script = Script(first, first, lambda: json(ME))
    async with answered_by(script) as client:
        assert await client.call(*ABOUT) == ME
    assert len(script.asked) == 3


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "not_found", NotFound),
        (409, "conflict", Conflict),
        (403, "denied", Denied),
        (401, "denied", Denied),
        (422, "invalid", Invalid),
        (500, "corrupt", Corrupt),
        (507, "unavailable", Unavailable),
        (409, "of_a_newer_server", Conflict),
        (418, "of_a_newer_server", Invalid),
    ],
)
async def test_what_the_server_refuses_is_raised_as_it_raised_it(
    status: int, code: str, kind: type[AsyncartError]
) -> None:
    """Once, the same class, the same words; the request and its notes are notes."""
    script = Script(lambda: failure(status, code))
    async with answered_by(script) as client:
        with pytest.raises(kind) as caught:
            await client.call(*ABOUT)
        assert (type(caught.value), str(caught.value)) == (kind, "the words")
        assert caught.value.__notes__ == ["a note", f"said by {client.origin}, request r1"]
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        lambda: html(200),
        lambda: html(404),
        lambda: html(403),
        lambda: json([1, 2]),
        lambda: json({"user": 5}),
        lambda: json({"error": "no such page"}, 404),
        lambda: web.Response(body=b"{", content_type="application/json"),
        lambda: web.Response(status=204),
    ],
)
async def test_an_answer_that_is_not_ours_names_the_origin(
    answer: Callable[[], web.Response],
) -> None:
    script = Script(answer)
    async with answered_by(script) as client:
        with pytest.raises(
            (Unavailable, Denied), match="not what an asyncart server says"
        ) as caught:
            await client.call(*ABOUT)
        assert client.origin in str(caught.value)
    assert len(script.asked) <= answers.FEW


async def test_a_server_that_fails_for_good_is_an_error_after_a_while() -> None:
    """The patience, not the number of tries, ends it; a defect of the server ends sooner."""
    script = Script(lambda: failure(503, "unavailable"))
    async with answered_by(script, patience_s=0.2) as client:
        with pytest.raises(Unavailable, match="the words") as caught:
            await client.call(*ABOUT)
    assert any("attempts" in note for note in caught.value.__notes__)
    script = Script(lambda: failure(500, "error"))
    async with answered_by(script) as client:
        with pytest.raises(AsyncartError, match="the words"):
            await client.call(*ABOUT)
    assert len(script.asked) == answers.FEW


async def test_retry_after_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than the patience: then there is no point in waiting at all."""
    script = Script(lambda: failure(429, "unavailable", **{"Retry-After": "3600"}))
    async with answered_by(script) as client:
        with pytest.raises(Unavailable, match="the words"):
            await client.call(*ABOUT)
    assert len(script.asked) == 1


async def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nothing listens, and a name that is none."""
    monkeypatch.setattr(control, "FIRST_PATIENCE_S", 0.2)
    async with listening(web.Application()) as origin:
        pass
    for where in (origin, "https://nobody.invalid"):
        client = ServerClient(where, KEY)
        with pytest.raises(Unavailable, match="no answer to about_me") as caught:
            await client.call(*ABOUT)
        assert where in str(caught.value)
        await client.aclose()


async def test_a_server_that_is_away_for_a_moment_is_waited_for_aloud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the answer then is that of a call that nothing happened to."""

    async def at_once(delay: float) -> None:
        assert delay == 1.5

    monkeypatch.setattr(control, "backoff_s", lambda failures, jitter: 1.5)
    async with answered_by(Script(reset, reset, lambda: json(ME))) as client:
        with monkeypatch.context() as patch:
            patch.setattr(control.asyncio, "sleep", at_once)
            assert await client.call(*ABOUT) == ME
    [told] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert told.name == "asyncart.server"
    assert told.getMessage().startswith(f"{client.origin}: no answer to about_me: ")
    assert told.getMessage().endswith("; trying again, for up to 15 s")


async def test_silence_is_bounded() -> None:
    """Before the answer and in the middle of it."""

    async def silent(request: web.Request) -> web.StreamResponse:
        await never.wait()
        return web.Response()

    async def stuck(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b"{")
        await never.wait()
        return response

    for step in (silent, stuck):
        never = anyio.Event()
        script = Script(step, lambda: json(ME))
        async with answered_by(script, stall_s=0.05) as client:
            assert await client.call(*ABOUT) == ME
            never.set()
        assert len(script.asked) == 2


async def test_the_key_is_sent_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Not in errors with all their causes, logs or reprs; a key that cannot be one is not quoted."""
    caplog.set_level(logging.DEBUG)
    script = Script(lambda: failure(503, "unavailable"), reset, lambda: failure(404, "not_found"))
    async with answered_by(script) as client:
        with pytest.raises(NotFound) as caught:
            await client.call(*ABOUT)
        shown = repr(client)
    assert [headers["Authorization"] for _, _, headers, _ in script.asked] == [f"Bearer {KEY}"] * 3
    shown += "".join(traceback.format_exception(caught.value)) + caplog.text
    assert KEY not in shown
    assert "thesecret" not in shown
    for bad in ("a\nHost: b", "with blank", "ü"):
        with pytest.raises(Invalid) as refused:
            ServerClient("https://x", bad)
        assert bad not in str(refused.value)


async def test_the_key_does_not_follow_a_redirect_to_another_origin() -> None:
    """It is an error that names both; within the origin redirects are followed, with their method."""
    other = Script(lambda: json(ME))
    async with listening(answering(other)) as elsewhere:
        script = Script(lambda: web.Response(status=307, headers={"Location": elsewhere + "/x"}))
        async with answered_by(script) as client:
            with pytest.raises(Denied, match=elsewhere) as caught:
                await client.call(*ABOUT)
            assert client.origin in str(caught.value)
        assert other.asked == []
        here = Script(
            lambda: web.Response(status=308, headers={"Location": "/api/v1/there"}),
            lambda: json(wire.Done()),
        )
        async with answered_by(here) as client:
            await client.call("forget_upload", wire.ForgetUpload(object_id="o"))
        assert [(method, path) for method, path, _, _ in here.asked] == [
            ("DELETE", "/api/v1/uploads/o"),
            ("DELETE", "/api/v1/there"),
        ]
    circle = Script(lambda: web.Response(status=307, headers={"Location": "/again"}))
    async with answered_by(circle) as client:
        with pytest.raises(Unavailable, match="redirects"):
            await client.call(*ABOUT)


async def test_a_call_that_is_not_the_same_again_carries_a_key_of_its_own() -> None:
    """The same one for every try of one call, another one for the next call; others carry none."""
    script = Script(reset, lambda: failure(503, "unavailable"), lambda: json(wire.Done()))
    move = ("set_alias", wire.SetAlias(version_id="v", alias="a", if_current=3))
    async with answered_by(script) as client:
        await client.call(*move)
        await client.call(*move)
        await client.call("forget_upload", wire.ForgetUpload(object_id="o"))
    first, second, third, fourth, fifth = script.keys
    assert first
    assert first == second == third
    assert fourth not in (None, first)
    assert fifth is None


def test_requests_are_encoded_by_the_table() -> None:
    """Fields of the path in the path, of a GET in the query, all others in the body; nothing twice."""
    request = wire.Resolve(entity="e", project="p q", collection="a/b", selector="v1?x", urls=True)
    assert answers.target("resolve", request) == (
        "GET",
        "/api/v1/projects/e/p%20q/collections/a%2Fb/versions/v1%3Fx?urls=true",
        None,
    )
    page = wire.ListCollections(entity="e", type="ü&x", limit=7)
    assert answers.target("list_collections", page).path == (
        "/api/v1/entities/e/collections?type=%C3%BC%26x&limit=7"
    )
    body = answers.target("update_version", wire.UpdateVersion(version_id="v", tags=["t"])).body
    assert body == b'{"tags":["t"]}'
    ask = wire.StoredContents(session_id="s", digests=[b"\x00" * 3])
    assert answers.target("stored_contents", ask).body == b'{"digests":["AAAA"]}'
    with pytest.raises(Invalid, match="not Unicode"):
        answers.target("update_version", wire.UpdateVersion(version_id="v", tags=["\ud800"]))


# deferred calls, against a server that notes what it is asked


class Batches:
    """Carries out calls by name; `refuses` are those that fail, with the code of the failure."""

    def __init__(self, **refuses: str) -> None:
        self.refuses = refuses
        self.rounds: list[list[str]] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.path != "/api/v1/batch":
            name = {"PUT": "begin_session", "DELETE": "end_session"}.get(
                request.method, "renew_session"
            )
            self.rounds.append([name])
            if name in self.refuses:
                return failure(409, self.refuses[name])
            return json(wire.Done())
        calls = msgspec.json.decode(body, type=wire.Batch).calls
        self.rounds.append([call.name for call in calls])
        outcomes: list[object] = []
        for call in calls:
            if call.name in self.refuses:
                outcomes.append({"failure": {"code": self.refuses[call.name], "message": "no"}})
                break
            outcomes.append({"answer": {}})
        return json({"outcomes": outcomes})


@asynccontextmanager
async def batching(**refuses: str) -> AsyncIterator[tuple[ServerClient, Batches]]:
    batches = Batches(**refuses)
    async with answered_by(batches) as client:
        yield client, batches


BEGIN = ("begin_session", wire.BeginSession(session_id="s", entity="me"))
RENEW = ("renew_session", wire.RenewSession(session_id="s"))
END = ("end_session", wire.EndSession(session_id="s"))


async def test_deferred_calls_travel_with_the_next_one_of_their_scope() -> None:
    async with batching() as (client, batches):
        await client.defer(*BEGIN, scope="s")
        await client.call(*RENEW)  # of no scope
        await client.call(*RENEW, scope="t")
        await client.call(*RENEW, scope="s")
        await client.call(*RENEW, scope="s")
    assert batches.rounds == [
        ["renew_session"],
        ["renew_session"],
        ["begin_session", "renew_session"],
        ["renew_session"],
    ]


async def test_nobody_overtakes_what_is_being_carried() -> None:
    """Of many that ask at once, one carries what was deferred; the others go after it."""
    async with batching() as (client, batches):
        await client.defer(*BEGIN, scope="s")
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(client.call, *RENEW, "s")
    assert batches.rounds == [["begin_session", "renew_session"], *[["renew_session"]] * 4]


async def test_a_refused_deferred_call_raises_where_it_is_carried() -> None:
    """Once; what was deferred behind it is carried by the next call."""
    async with batching(end_session="conflict") as (client, batches):
        for call in (BEGIN, END, RENEW):
            await client.defer(*call, scope="s")
        with pytest.raises(Conflict, match="no"):
            await client.call(*RENEW, scope="s")
        assert client.deferred("s") == ["renew_session"]
        await client.call(*RENEW, scope="s")
    assert batches.rounds[1:] == [["renew_session", "renew_session"]]


async def test_what_is_optional_travels_with_anything_and_may_fail() -> None:
    async with batching(end_session="not_found") as (client, batches):
        await client.defer_optional(*END)
        await client.call(*RENEW)
    assert batches.rounds == [["end_session", "renew_session"], ["renew_session"]]


async def test_closing_says_what_was_deferred() -> None:
    """And raises what is refused then."""
    async with batching() as (client, batches):
        await client.defer(*BEGIN, scope="s")
        await client.defer_optional(*END)
    assert batches.rounds == [["end_session", "begin_session"]]
    async with batching(begin_session="denied") as (client, _):
        await client.defer(*BEGIN, scope="s")
        with pytest.raises(Denied):
            await client.aclose()


async def test_a_cancelled_call_leaves_what_it_carried_for_the_next_one() -> None:
    """Whether the server heard of it is not known: it is said again."""
    arrived, never = anyio.Event(), anyio.Event()
    batches = Batches()

    async def first_one_hangs(request: web.Request) -> web.StreamResponse:
        if not arrived.is_set():
            arrived.set()
            await never.wait()
        return await batches(request)

    async with answered_by(Script(first_one_hangs)) as client:
        await client.defer(*BEGIN, scope="s")
        async with anyio.create_task_group() as group:
            group.start_soon(client.call, *RENEW, "s")
            await arrived.wait()
            group.cancel_scope.cancel()
        assert client.deferred("s") == ["begin_session"]
        assert client.was_carried("s")
        await client.call(*RENEW, scope="s")
        assert batches.rounds == [["begin_session", "renew_session"]]
        never.set()


async def test_more_calls_than_a_batch_takes_are_several_batches() -> None:
    async with batching() as (client, batches):
        await client.calls([RENEW] * (wire.MAX_CALLS + 2))
        for _ in range(control.MOST_DEFERRED):
            await client.defer(*RENEW, scope="s")
        assert client.deferred("s") == []
    assert [len(each) for each in batches.rounds] == [wire.MAX_CALLS, 2, control.MOST_DEFERRED]
