"""Every data plane, plain and over TLS, against a real server behind a proxy that fails on purpose."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trustme
import uvloop
from aiohttp import web

from asyncart.errors import (
    AsyncartError,
    Conflict,
    Corrupt,
    Denied,
    Invalid,
    NotFound,
    TransferError,
    Unavailable,
)
from asyncart.net import retry
from asyncart.net.aiohttp_plane import AiohttpPlane
from asyncart.net.plane import AttemptError, DataPlane, Reason
from asyncart.net.retry import Sign, Signed, Transfer
from asyncart.net.stream_plane import StreamPlane
from tests.faultproxy import BODY_FAULTS, LIES, STATUSES, FaultProxy

SIZE = 300_000
CONTENT = os.urandom(SIZE)
STALL_S = 0.4  # of a loaded machine: client, proxy and server share one thread
SECRET = "X-Amz-Signature=5ec4e7"


class Origin:
    """A small object server: ranges, uploads, redirects, chunked answers."""

    def __init__(self) -> None:
        self.objects = {"/o": CONTENT}
        self.etags: dict[str, str] = {}
        self.seen: list[web.BaseRequest] = []
        self.etag = '"one"'

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(request)
        path = request.path
        if path.startswith("/to/"):
            where = request.query.get("where", request.path)
            return web.Response(status=307, headers={"Location": where})
        if request.method == "PUT":
            self.objects[path] = await request.content.read()
            return web.Response(headers={"ETag": '"stored"'})
        body = self.objects.get(path.removeprefix("/chunked").removeprefix("/until-eof"))
        if body is None:
            return web.Response(status=404)
        span = request.http_range
        first, last = span.start or 0, min(span.stop or len(body), len(body))
        headers = {"ETag": self.etag}
        if "Range" in request.headers:
            headers["Content-Range"] = f"bytes {first}-{last - 1}/{len(body)}"
        status = 206 if "Range" in request.headers else 200
        if path.startswith("/chunked"):
            response = web.StreamResponse(status=status, headers=headers)
            response.enable_chunked_encoding()
            await response.prepare(request)
            for at in range(first, last, 50_000):
                await response.write(body[at : min(at + 50_000, last)])
            await response.write_eof()
            return response
        return web.Response(status=status, headers=headers, body=body[first:last])


@asynccontextmanager
async def serving(origin: Origin) -> AsyncIterator[int]:
    runner = web.ServerRunner(web.Server(origin.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    finally:
        await runner.cleanup()


class Rig:
    """A plane, the proxy it talks to, and the server behind."""

    def __init__(self, plane: DataPlane, proxy: FaultProxy, origin: Origin) -> None:
        self.plane = plane
        self.proxy = proxy
        self.origin = origin
        self.url = f"{proxy.url}/o?{SECRET}"
        self.signed: list[AttemptError | None] = []

    async def sign(self, why: AttemptError | None) -> Signed:
        self.signed.append(why)
        return Signed(self.url, {"X-Test": "1"})

    def inject(self, kind: str) -> None:
        """A fault for one attempt; aiohttp makes two of one where the answer did not begin."""
        unseen = kind in ("refuse", "reset-before-head", "reset-in-upload")
        self.proxy.inject(kind, 2 if unseen and isinstance(self.plane, AiohttpPlane) else 1)

    def transfer(self, patience_s: float = 5.0) -> Transfer:
        return Transfer(self.plane, patience_s=patience_s)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module", autouse=True)
def _uvloop_is_warm() -> None:
    """Its first loop opens files that stay."""
    uvloop.run(asyncio.sleep(0))


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(params=["plain", "tls"])
def is_tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "tls")


@pytest.fixture(params=[AiohttpPlane, StreamPlane])
async def rig(
    request: pytest.FixtureRequest,
    is_tls: bool,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Rig]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(retry, "FIRST_BACKOFF_S", 0.002)
    origin = Origin()
    tasks = asyncio.all_tasks()
    before = open_files()
    async with serving(origin) as port:
        context = server_tls if is_tls else None
        async with FaultProxy("127.0.0.1", port, ssl_context=context, drip_s=0.01) as proxy:
            plane = request.param(ssl_context=client_tls, stall_s=STALL_S, connect_s=0.5)
            yield Rig(plane, proxy, origin)
            await plane.aclose()
    await settled(lambda: open_files() <= before, "file descriptors leaked")
    # a fixture is torn down in another task than it was set up in
    own = {asyncio.current_task()}
    await settled(lambda: asyncio.all_tasks() - own <= tasks, "tasks leaked")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


async def settled(condition, message: str) -> None:
    """The other end of a closed connection needs a moment to notice."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.005)
    assert condition(), message


class Guarded:
    """A buffer with guard bytes around it, and a value in it that the content never has throughout."""

    def __init__(self, size: int) -> None:
        self._whole = bytearray(b"\xa5" * (size + 32))
        self.view = memoryview(self._whole)[16 : 16 + size]

    def check(self, content: bytes) -> None:
        assert bytes(self.view) == content
        self.check_guards()

    def check_guards(self) -> None:
        assert self._whole[:16] == b"\xa5" * 16
        assert self._whole[-16:] == b"\xa5" * 16


RANGES = [
    (0, 1),
    (0, SIZE - 1),
    (0, SIZE),
    (1, SIZE - 1),
    (SIZE - 1, 1),
    (7, 65_536),
    (100, 65_537),
]


@pytest.mark.parametrize(("offset", "length"), RANGES)
async def test_a_range_fills_the_buffer_and_nothing_else(
    rig: Rig, offset: int, length: int
) -> None:
    """The bytes asked for, from first to last, and not one behind."""
    buffer = Guarded(length)
    head = await rig.plane.get_range(rig.url, {}, offset, buffer.view)
    assert head.status == 206
    assert head.headers["etag"] == '"one"'
    buffer.check(CONTENT[offset : offset + length])


@pytest.mark.parametrize("length", [6_000_000, 6_000_000 - 16_384, 5_999_999])
async def test_a_large_body_arrives_whole(rig: Rig, length: int) -> None:
    """Many bursts, records and low-water marks long."""
    rig.origin.objects["/big"] = content = CONTENT * 20
    buffer = Guarded(length)
    await rig.plane.get_range(f"{rig.proxy.url}/big", {}, 0, buffer.view)
    buffer.check(content[:length])


@pytest.mark.parametrize("path", ["/chunked/o", "/until-eof/o"])
async def test_a_body_in_another_encoding_is_received_all_the_same(rig: Rig, path: str) -> None:
    """Chunked answers are legal answers to a range."""
    buffer = Guarded(120_000)
    await rig.plane.get_range(rig.proxy.url + path, {}, 1000, buffer.view)
    buffer.check(CONTENT[1000:121_000])


@pytest.mark.parametrize("sizes", [[], [0], [1], [SIZE], [1, 0, 70_000, 5], [3_000_000]])
async def test_a_put_sends_exactly_its_buffers(rig: Rig, sizes: list[int]) -> None:
    """The concatenation of the buffers, in order; an empty body too."""
    parts = [os.urandom(size) for size in sizes]
    head = await rig.plane.put(f"{rig.proxy.url}/new", {}, [memoryview(part) for part in parts])
    assert head.status == 200
    assert head.headers["etag"] == '"stored"'
    assert rig.origin.objects["/new"] == b"".join(parts)


async def test_connections_are_used_again(rig: Rig) -> None:
    """Ten requests, gets and puts, over one connection."""
    buffer = Guarded(1000)
    for _ in range(5):
        await rig.plane.get_range(rig.url, {}, 0, buffer.view)
        await rig.plane.put(f"{rig.proxy.url}/new", {}, [buffer.view])
    assert rig.proxy.connections == 1


# aiohttp's connector has a time of its own
@pytest.mark.parametrize("rig", [StreamPlane], indirect=True)
async def test_idle_connections_are_closed_after_a_while(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if nobody asks for one again: a service keeps no sockets of its last transfer."""
    monkeypatch.setattr("asyncart.net.stream_plane.IDLE_S", 0.05)

    async def get() -> None:
        await rig.plane.get_range(rig.url, {}, 0, Guarded(1000).view)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(get())
    assert rig.proxy.open_connections > 0
    await settled(lambda: rig.proxy.open_connections == 0, "idle connections were kept")
    await get()  # and the next one is opened as ever


async def test_a_200_with_the_whole_object_answers_a_request_for_all_of_it(rig: Rig) -> None:
    """Servers may ignore Range; where the range is everything, that is no fault."""
    rig.proxy.inject("ignore-range")
    buffer = Guarded(SIZE)
    assert (await rig.plane.get_range(rig.url, {}, 0, buffer.view)).status == 200
    buffer.check(CONTENT)


# kind of fault -> reason, how much of the buffer is good
GET_FAULTS: dict[str, tuple[Reason, float | None]] = {
    "refuse": (Reason.RESET, 0),
    "black-hole": (Reason.STALLED, 0),
    "reset-before-head": (Reason.RESET, 0),
    "stall-before-head": (Reason.STALLED, 0),
    "garbage": (Reason.MALFORMED, 0),
    "reset-after-head": (Reason.RESET, 0),
    "reset-at-1": (Reason.RESET, None),
    "reset-at-half": (Reason.RESET, None),
    "reset-at-last": (Reason.RESET, None),
    "stall": (Reason.STALLED, 0.5),
    "drip": (Reason.STALLED, None),
    "truncate": (Reason.RESET, 0.5),
    **dict.fromkeys(LIES, (Reason.MALFORMED, 0)),
    **dict.fromkeys(STATUSES, (Reason.STATUS, 0)),
}


@pytest.mark.parametrize("kind", GET_FAULTS)
async def test_a_failed_attempt_says_why_and_what_is_good(rig: Rig, kind: str) -> None:
    """`received` bytes of the buffer are right; the next attempt on a new connection succeeds."""
    reason, share = GET_FAULTS[kind]
    rig.inject(kind)
    length = SIZE // 2
    buffer = Guarded(length)
    with pytest.raises(AttemptError) as caught:
        await rig.plane.get_range(rig.url, {}, 10, buffer.view)
    error = caught.value
    if kind == "refuse":  # over TLS the handshake fails, over TCP the request does
        assert error.reason in (Reason.RESET, Reason.CONNECT)
    elif kind == "black-hole":
        assert error.reason in (Reason.STALLED, Reason.CONNECT)
    elif kind == "garbage":
        assert error.reason in (Reason.MALFORMED, Reason.RESET)
    else:
        assert error.reason is reason
    assert error.is_transient is (kind not in {"400", "403", "403-expired", "404", "412", "416"})
    if share is not None:
        assert error.received == int(length * share)
    assert 0 <= error.received < length
    good = bytes(buffer.view[: error.received])
    assert good == CONTENT[10 : 10 + error.received]
    buffer.check_guards()
    assert SECRET not in str(error)

    again = Guarded(length)
    await rig.plane.get_range(rig.url, {}, 10, again.view)
    again.check(CONTENT[10 : 10 + length])


async def test_slow_is_not_stalled(rig: Rig) -> None:
    """A body that takes many times the stall time arrives, if it keeps moving."""
    rig.proxy.drip_s = STALL_S / 4
    rig.proxy.inject("trickle")
    buffer = Guarded(100_000)
    await rig.plane.get_range(rig.url, {}, 0, buffer.view)
    buffer.check(CONTENT[:100_000])


async def test_a_flipped_bit_passes_the_plane(rig: Rig) -> None:
    """The plane moves bytes; hashing them is the engine's business. (So the fault itself works.)"""
    rig.proxy.inject("flip")
    buffer = Guarded(1000)
    await rig.plane.get_range(rig.url, {}, 0, buffer.view)
    assert bytes(buffer.view) != CONTENT[:1000]


PUT_FAULTS = {
    "refuse": {Reason.RESET, Reason.CONNECT},
    "black-hole": {Reason.STALLED, Reason.CONNECT},
    "reset-before-head": {Reason.RESET},
    "stall-before-head": {Reason.STALLED},
    "garbage": {Reason.MALFORMED, Reason.RESET},
    "reset-in-upload": {Reason.RESET},
    "stall-in-upload": {Reason.STALLED},
    "early-503": {Reason.STATUS, Reason.RESET},
    "early-200": {Reason.MALFORMED, Reason.RESET},
    "error-200": {Reason.MALFORMED},
    **{kind: {Reason.STATUS} for kind in STATUSES},
}


@pytest.mark.parametrize("kind", PUT_FAULTS)
async def test_a_failed_put_says_why_and_can_be_repeated(rig: Rig, kind: str) -> None:
    """And nothing of the failed attempt reaches the server once the buffer is reused."""
    rig.inject(kind)
    # where the answer precedes the body, that must not fit into the sockets' buffers
    body = bytearray(30_000_000 if "early" in kind or kind == "stall-in-upload" else SIZE)
    with pytest.raises(AttemptError) as caught:
        await rig.plane.put(f"{rig.proxy.url}/new?{SECRET}", {}, [memoryview(body)])
    assert caught.value.reason in PUT_FAULTS[kind]
    assert SECRET not in str(caught.value)
    if kind == "early-503" and caught.value.reason is Reason.STATUS:
        assert caught.value.status == 503
    body[:SIZE] = CONTENT
    if kind != "error-200":  # that one was stored before the answer was spoilt
        assert "/new" not in rig.origin.objects
    await rig.plane.put(f"{rig.proxy.url}/new", {}, [memoryview(body)[:SIZE]])
    assert rig.origin.objects["/new"] == CONTENT


async def test_nobody_listens(rig: Rig) -> None:
    """A refused connection is a transient failure to connect."""
    sock = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = sock.sockets[0].getsockname()[1]
    sock.close()
    await sock.wait_closed()
    scheme = rig.url.partition(":")[0]
    with pytest.raises(AttemptError) as caught:
        await rig.plane.get_range(f"{scheme}://127.0.0.1:{port}/o", {}, 0, Guarded(9).view)
    assert caught.value.reason is Reason.CONNECT
    assert caught.value.is_transient


async def test_a_kept_connection_that_the_server_closed_is_replaced_unseen(rig: Rig) -> None:
    """A reset after the whole body costs nothing: not this request, and not the next one."""
    buffer = Guarded(1000)
    for _ in range(3):
        rig.proxy.inject("reset-after-body")
        await rig.plane.get_range(rig.url, {}, 5, buffer.view)
        buffer.check(CONTENT[5:1005])


async def test_a_kept_connection_that_dies_under_the_request_is_replaced_once(rig: Rig) -> None:
    """The server may close it in the very moment of the request; a fresh one is not given that grace."""
    buffer = Guarded(1000)
    await rig.plane.get_range(rig.url, {}, 5, buffer.view)
    rig.proxy.inject("reset-before-head")
    await rig.plane.get_range(rig.url, {}, 5, buffer.view)
    buffer.check(CONTENT[5:1005])
    rig.proxy.inject("reset-before-head", times=None)
    with pytest.raises(AttemptError) as caught:
        await rig.plane.get_range(rig.url, {}, 5, buffer.view)
    assert caught.value.reason is Reason.RESET


@pytest.mark.parametrize("verb", ["get", "put"])
async def test_redirects_are_followed_with_verb_and_body(rig: Rig, verb: str) -> None:
    """Within an origin with all headers, to another one without credentials."""
    headers = {"Authorization": "secret", "X-Kept": "yes"}
    port = rig.proxy.port
    for where, has_secret in (("/o2", True), (f"http://127.0.0.1:{port}/o2", False)):
        if rig.url.startswith("https") and not has_secret:
            continue  # https never leads to http: below
        rig.origin.objects["/o2"] = CONTENT[::-1]
        url = f"{rig.proxy.url}/to/x?where={where}"
        if verb == "get":
            buffer = Guarded(500)
            await rig.plane.get_range(url, headers, 10, buffer.view)
            buffer.check(CONTENT[::-1][10:510])
        else:
            await rig.plane.put(url, headers, [memoryview(b"body"), memoryview(b"!")])
            assert rig.origin.objects["/o2"] == b"body!"
        last = rig.origin.seen[-1]
        assert last.method == verb.upper()
        assert ("Authorization" in last.headers) is has_secret
        assert last.headers["X-Kept"] == "yes"


async def test_redirects_end(rig: Rig) -> None:
    """A circle, and a way from https to http, are errors and not transient."""
    with pytest.raises(AttemptError) as caught:
        await rig.plane.get_range(f"{rig.proxy.url}/to/itself", {}, 0, Guarded(5).view)
    assert not caught.value.is_transient
    if rig.url.startswith("https"):
        url = f"{rig.proxy.url}/to/x?where=http://127.0.0.1:{rig.proxy.port}/o"
        with pytest.raises(AttemptError) as caught:
            await rig.plane.get_range(url, {}, 0, Guarded(5).view)
        assert caught.value.status == 307


async def test_a_stranger_s_certificate_is_refused(rig: Rig, is_tls: bool) -> None:
    """Not transient: trying again cannot make it trustworthy."""
    if not is_tls:
        return
    plane = type(rig.plane)()  # type: ignore[call-arg]
    with pytest.raises(AttemptError) as caught:
        await plane.get_range(rig.url, {}, 0, Guarded(5).view)
    await plane.aclose()
    assert caught.value.reason is Reason.TLS
    assert not caught.value.is_transient


@pytest.mark.parametrize(
    "url",
    ["/o", "ftp://h/o", "http://", "http:///o", "file:///etc/passwd", "http://h:99999/o"],
)
async def test_only_absolute_http_urls(rig: Rig, url: str) -> None:
    with pytest.raises(Invalid):
        await rig.plane.get_range(url, {}, 0, Guarded(5).view)


async def test_headers_cannot_smuggle_requests(rig: Rig) -> None:
    """A line break in a header is refused before anything is sent."""
    with pytest.raises((Invalid, ValueError)):
        await rig.plane.put(rig.url, {"X": "a\r\n\r\nGET / HTTP/1.1"}, [])
    assert not rig.proxy.requests


async def test_the_environment_s_proxy_is_used(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain HTTP through a forward proxy; `no_proxy` is heeded."""
    if rig.url.startswith("https"):
        return
    buffer = Guarded(100)
    monkeypatch.setenv("http_proxy", rig.proxy.url)
    monkeypatch.setenv("no_proxy", "")
    direct = f"http://localhost:{rig.proxy.port}/o"
    await rig.plane.get_range(direct, {}, 3, buffer.view)
    buffer.check(CONTENT[3:103])
    assert rig.proxy.requests["GET", "/o"] == 1
    monkeypatch.setenv("no_proxy", "localhost")
    await rig.plane.get_range(direct, {}, 3, buffer.view)
    assert rig.proxy.requests["GET", "/o"] == 1


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        *(("get", kind) for kind in ("", "stall", "stall-before-head", "drip", "black-hole")),
        *(("put", kind) for kind in ("", "stall-before-head", "stall-in-upload", "black-hole")),
    ],
)
async def test_cancelled_at_any_step_it_leaves_nothing(rig: Rig, verb: str, kind: str) -> None:
    """Cancel after every number of loop steps; the buffer is the caller's again at once."""
    body = bytearray(os.urandom(SIZE if kind else 2_000_000))
    steps = 0
    was_cancelled = True
    while was_cancelled and steps < 60:
        rig.proxy.faults.clear()
        if kind:
            rig.proxy.inject(kind, None)
        buffer = Guarded(SIZE)
        was_cancelled = False
        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(
                    rig.plane.get_range(rig.url, {}, 0, buffer.view)  # type: ignore[arg-type]
                    if verb == "get"
                    else rig.plane.put(f"{rig.proxy.url}/new", {}, [memoryview(body)])
                )
                for _ in range(steps):
                    await asyncio.sleep(0)
                was_cancelled = task.cancel()
        except* AttemptError:
            pass
        steps += 1 if steps < 20 else 7
        seen = bytes(buffer.view)
        body[:] = body  # BufferError if anybody still looks at it
        await asyncio.sleep(0)
        assert bytes(buffer.view) == seen
        buffer.check_guards()
    rig.proxy.faults.clear()
    await rig.plane.put(f"{rig.proxy.url}/new", {}, [memoryview(body)])
    assert rig.origin.objects["/new"] == body


# the driver over the real thing: what TLS changes was tested above

plain_only = pytest.mark.parametrize("is_tls", ["plain"], indirect=True)

TRANSIENT = [
    "refuse",
    "black-hole",
    "reset-before-head",
    "stall-before-head",
    "reset-after-head",
    "garbage",
    "408",
    "409",
    "429",
    "500",
    "502",
    "503",
]


@plain_only
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    "kind", [*TRANSIENT, *LIES, *(kind for kind in BODY_FAULTS if kind not in ("flip", "trickle"))]
)
async def test_transient_faults_of_a_get_are_survived(rig: Rig, kind: str, times: int) -> None:
    """Once or three times: the right bytes, and no byte that had arrived is asked for again."""
    rig.proxy.inject(kind, times)
    buffer = Guarded(SIZE - 10)
    await rig.transfer().get_range("s3://b/o", rig.sign, 10, buffer.view)
    buffer.check(CONTENT[10:])
    if kind in ("stall", "truncate"):
        spans = [head.headers["range"] for head in rig.proxy.request_heads]
        start, expected = 10, []
        for _ in range(times + 1):
            expected.append(f"bytes={start}-{SIZE - 1}")
            start += (SIZE - start) // 2
        assert spans == expected


@plain_only
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    "kind",
    [*TRANSIENT, "reset-in-upload", "stall-in-upload", "early-503", "error-200"],
)
async def test_transient_faults_of_a_put_are_survived(rig: Rig, kind: str, times: int) -> None:
    """Once or three times: stored, whole."""
    rig.proxy.inject(kind, times)
    body = os.urandom(SIZE)
    rig.url = f"{rig.proxy.url}/new?{SECRET}"
    await rig.transfer().put("s3://b/new", rig.sign, [memoryview(body)])
    assert rig.origin.objects["/new"] == body


FOR_EVER: dict[str, type[AsyncartError]] = {
    **dict.fromkeys(
        (
            "refuse",
            "black-hole",
            "reset-before-head",
            "stall-before-head",
            "reset-after-head",
            "500",
            "502",
            "503",
            "429",
            "408",
            "drip",
        ),
        Unavailable,
    ),
    **dict.fromkeys(LIES, TransferError),
    "403": Denied,
    "403-expired": Denied,
    "404": NotFound,
    "409": Conflict,
    "412": Conflict,
    "416": Corrupt,
    "400": TransferError,
}


@plain_only
@pytest.mark.parametrize("kind", FOR_EVER)
async def test_a_fault_for_ever_is_the_right_error_in_time(rig: Rig, kind: str) -> None:
    """Named, bounded by the patience, and without the signature."""
    rig.proxy.inject(kind, None)
    async with asyncio.timeout(5):
        with pytest.raises(FOR_EVER[kind]) as caught:
            await rig.transfer(0.5).get_range("s3://b/o", rig.sign, 10, Guarded(1000).view)
    assert "s3://b/o" in str(caught.value)
    assert SECRET not in str(caught.value)
    if kind in ("400", "404", "412", "416"):
        assert sum(rig.proxy.requests.values()) == 1


@plain_only
async def test_an_expired_url_is_signed_again_once(rig: Rig) -> None:
    """The signer is told why; a second refusal is final."""
    rig.proxy.inject("403-expired")
    buffer = Guarded(100)
    await rig.transfer().get_range("s3://b/o", rig.sign, 0, buffer.view)
    buffer.check(CONTENT[:100])
    assert [why and why.status for why in rig.signed] == [None, 403]
    rig.proxy.inject("403", None)
    with pytest.raises(Denied):
        await rig.transfer().get_range("s3://b/o", rig.sign, 0, buffer.view)
    assert sum(rig.proxy.requests.values()) == 4


@plain_only
async def test_a_body_is_never_continued_with_another_object_s_tail(rig: Rig) -> None:
    """The ETag changed between the front and the rest: read anew from the start."""
    rig.proxy.inject("truncate")
    buffer = Guarded(SIZE)
    other = CONTENT[::-1]

    async def sign(why: AttemptError | None) -> Signed:
        if rig.proxy.requests:
            rig.origin.objects["/o"] = other
            rig.origin.etag = '"two"'
        return await rig.sign(why)

    await rig.transfer().get_range("s3://b/o", sign, 0, buffer.view)
    buffer.check(other)


# loops


async def _round_trip(plane: DataPlane, url: str, sign: Sign) -> None:
    buffer = Guarded(SIZE)
    await plane.put(f"{url}/new", {}, [memoryview(CONTENT)])
    await plane.get_range(f"{url}/new", {}, 0, buffer.view)
    buffer.check(CONTENT)


async def test_one_plane_serves_loops_in_several_threads_on_uvloop(rig: Rig) -> None:
    """Each loop has connections of its own, and what a dead loop leaves is dropped."""

    def in_thread() -> None:
        uvloop.run(_round_trip(rig.plane, rig.proxy.url, rig.sign))

    if isinstance(rig.plane, AiohttpPlane):
        # aiohttp ties a session to its loop: it must be closed there
        def in_thread() -> None:
            async def both() -> None:
                plane = AiohttpPlane(ssl_context=rig.plane._ssl_context)  # type: ignore[attr-defined]
                await _round_trip(plane, rig.proxy.url, rig.sign)
                await plane.aclose()

            uvloop.run(both())

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(asyncio.to_thread(in_thread))
    await _round_trip(rig.plane, rig.proxy.url, rig.sign)


@pytest.fixture(autouse=True)
def _no_garbage() -> Iterator[None]:
    """Unclosed sockets and transports show as warnings here, not in a later test."""
    yield
    gc.collect()
