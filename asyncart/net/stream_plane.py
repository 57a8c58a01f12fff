"""The fast data plane: pooled connections that receive into, and send from, the caller's memory.

Promised beyond `plane`: connections are kept per loop and origin, bounded, and used again only after an
exchange that ended cleanly; a kept connection that the server closed meanwhile is replaced unseen (once,
and only if no byte of an answer had come). Handed to the aiohttp plane: proxies, passwords in URLs,
international host names, and event loops without `add_reader` (Windows' default one).

`stream` and `channel` say what was measured.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohappyeyeballs

from asyncart.errors import Invalid

from .channel import TLS_CHUNK_BYTES, Channel, PlainChannel, TlsChannel
from .loops import PerLoop
from .plane import (
    CONNECT_S,
    MAX_REDIRECTS,
    STALL_S,
    AttemptError,
    DataPlane,
    Reason,
    ResponseHead,
    check_url,
    proxy_for,
    public_url,
    range_header,
    redirected,
)
from .stream import Stream, request_head

IDLE_PER_ORIGIN = 256  # as many as may run at once (pace.CAP)
IDLE_S = 30.0  # servers close idle connections after 5-75 s
NAME_S = 10.0  # how long a name's addresses are remembered; S3 changes them on purpose


class Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class Target(NamedTuple):
    origin: Origin
    path: str  # with query, as it was signed
    host: str  # the header


class StreamPlane:
    """`ssl_context`: what https uses (default: the system's authorities, verified)."""

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        stall_s: float = STALL_S,
        connect_s: float = CONNECT_S,
    ) -> None:
        self.stall_s = stall_s
        self.connect_s = connect_s
        self._ssl_context = ssl_context
        self._pools = PerLoop(self._open_pool, _Pool.close)
        self._lock = threading.Lock()
        self._plain: DataPlane | None = None

    async def get_range(
        self, url: str, headers: Mapping[str, str], offset: int, buffer: memoryview
    ) -> ResponseHead:
        buffer = buffer.cast("B")
        wanted = {
            **headers,
            "Range": range_header(offset, len(buffer)),
            "Accept-Encoding": "identity",
        }

        async def run(url: str, headers: Mapping[str, str]) -> ResponseHead:
            target = _target(url)
            if target is None:
                return await self._other().get_range(url, headers, offset, buffer)
            head = _head_bytes("GET", url, target, headers)
            return await self._exchange(
                target.origin, lambda stream: stream.get_range(head, offset, buffer)
            )

        return await _following_redirects(url, wanted, run)

    async def put(
        self, url: str, headers: Mapping[str, str], buffers: Sequence[memoryview]
    ) -> ResponseHead:
        views = [view.cast("B") for view in buffers]
        length = str(sum(len(view) for view in views))

        async def run(url: str, headers: Mapping[str, str]) -> ResponseHead:
            target = _target(url)
            if target is None:
                return await self._other().put(url, headers, views)
            head = _head_bytes("PUT", url, target, {**headers, "Content-Length": length})
            return await self._exchange(target.origin, lambda stream: stream.put(head, views))

        return await _following_redirects(url, headers, run)

    async def aclose(self) -> None:
        # idle sockets have no reader on their loop, so any thread may close them
        for pool in self._pools.take_all().values():
            pool.close()
        if self._plain is not None:
            await self._plain.aclose()

    async def _exchange(
        self, origin: Origin, run: Callable[[Stream], Awaitable[ResponseHead]]
    ) -> ResponseHead:
        pool = self._pools.get()
        stream = pool.take(origin)
        if stream is not None:
            try:
                return await _guarded(pool, origin, stream, run)
            except AttemptError as error:
                if error.reason is not Reason.RESET or stream.has_answered:
                    raise
                # closed by the server while it was idle: not a failure of this attempt
        stream = await pool.connect(origin)
        return await _guarded(pool, origin, stream, run)

    def _open_pool(self) -> _Pool:
        return _Pool(asyncio.get_running_loop(), self._context, self.stall_s, self.connect_s)

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._ssl_context is None:
                self._ssl_context = ssl.create_default_context()
            return self._ssl_context

    def _other(self) -> DataPlane:
        from .aiohttp_plane import AiohttpPlane  # 160 ms that most processes never need

        with self._lock:
            if self._plain is None:
                self._plain = AiohttpPlane(
                    ssl_context=self._ssl_context,
                    stall_s=self.stall_s,
                    connect_s=self.connect_s,
                )
            return self._plain


class _Pool:
    """The idle connections of one loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Callable[[], ssl.SSLContext],
        stall_s: float,
        connect_s: float,
    ) -> None:
        self._loop = loop
        self._context = context
        self._tls: ssl.SSLContext | None = None
        self._stall_s = stall_s
        self._connect_s = connect_s
        self._idle: dict[Origin, deque[Stream]] = {}
        self._names: dict[tuple[str, int], tuple[float, list[aiohappyeyeballs.AddrInfoType]]] = {}
        self._turn = itertools.count()
        self._scratch = bytearray(TLS_CHUNK_BYTES)
        self._is_closed = False
        self._is_watched = False  # the idle ones

    def take(self, origin: Origin) -> Stream | None:
        """The idle connection that was used last, if it still looks open."""
        idle = self._idle.get(origin)
        self._expire(idle)
        while idle:
            stream = idle.pop()
            if stream.channel.is_quiet():
                return stream
            stream.close()
        return None

    def give_back(self, origin: Origin, stream: Stream) -> None:
        idle = self._idle.setdefault(origin, deque())
        self._expire(idle)
        if self._is_closed or not stream.is_reusable or len(idle) >= IDLE_PER_ORIGIN:
            stream.close()
            return
        stream.idle_since = self._loop.time()
        idle.append(stream)
        self._watch()

    def close(self) -> None:
        self._is_closed = True
        while self._idle:
            for stream in self._idle.popitem()[1]:
                stream.close()

    def _watch(self) -> None:
        """Close those that stay idle for IDLE_S: nobody may ask for a connection any more."""
        oldest = min((idle[0].idle_since for idle in self._idle.values() if idle), default=None)
        if oldest is None or self._is_watched:
            return
        self._is_watched = True
        self._loop.call_at(oldest + IDLE_S, self._close_expired)

    def _close_expired(self) -> None:
        self._is_watched = False
        for idle in self._idle.values():
            self._expire(idle)
        self._watch()

    def _expire(self, idle: deque[Stream] | None) -> None:
        while idle and idle[0].idle_since + IDLE_S <= self._loop.time():
            idle.popleft().close()

    async def connect(self, origin: Origin) -> Stream:
        try:
            async with asyncio.timeout(self._connect_s):
                return await self._connect(origin)
        except ssl.SSLCertVerificationError as error:
            raise AttemptError(Reason.TLS, error.verify_message, is_transient=False) from error
        except TimeoutError as error:
            detail = f"{origin.host}:{origin.port} did not answer in {self._connect_s:g} s"
            raise AttemptError(Reason.CONNECT, detail) from error
        except OSError as error:
            detail = f"{origin.host}:{origin.port}: {error.strerror or error}"
            raise AttemptError(Reason.CONNECT, detail) from error

    async def _connect(self, origin: Origin) -> Stream:
        sock = await aiohappyeyeballs.start_connection(
            await self._addresses(origin), happy_eyeballs_delay=0.25, interleave=1, loop=self._loop
        )
        try:
            sock.setblocking(False)
            channel: Channel = PlainChannel(sock)
            if origin.scheme == "https":
                channel = await self._secure(PlainChannel(sock), origin.host)
            return Stream(self._loop, channel, self._stall_s)
        except BaseException:
            sock.close()
            raise

    async def _secure(self, plain: PlainChannel, host: str) -> TlsChannel:
        if self._tls is None:
            # reading the authorities takes 10-20 ms, once
            self._tls = await asyncio.to_thread(self._context)
        channel = TlsChannel(plain, self._tls, host, self._scratch)
        readable: asyncio.Future[None]
        while not channel.handshake():
            readable = self._loop.create_future()
            self._loop.add_reader(plain.fileno(), _resolve, readable)
            try:
                await readable
            finally:
                self._loop.remove_reader(plain.fileno())
        return channel

    async def _addresses(self, origin: Origin) -> list[aiohappyeyeballs.AddrInfoType]:
        key = (origin.host, origin.port)
        known = self._names.get(key)
        if known is None or known[0] < self._loop.time():
            found = await self._loop.getaddrinfo(
                origin.host, origin.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
            known = self._names[key] = (self._loop.time() + NAME_S, list(found))
        addresses = known[1]
        # connections in turn to every address: S3 names several, and each is another machine
        start = next(self._turn) % len(addresses)
        return addresses[start:] + addresses[:start]


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _guarded(
    pool: _Pool,
    origin: Origin,
    stream: Stream,
    run: Callable[[Stream], Awaitable[ResponseHead]],
) -> ResponseHead:
    """Run one exchange; whatever happens, the connection ends in the pool or closed."""
    try:
        return await run(stream)
    except AttemptError:
        raise
    except OSError as error:
        raise AttemptError(Reason.RESET, str(error)) from error
    finally:
        pool.give_back(origin, stream)


async def _following_redirects(
    url: str,
    headers: Mapping[str, str],
    run: Callable[[str, Mapping[str, str]], Awaitable[ResponseHead]],
) -> ResponseHead:
    for _ in range(MAX_REDIRECTS + 1):
        try:
            return await run(url, headers)
        except AttemptError as error:
            if error.status is None or error.reason is not Reason.STATUS:
                raise
            target = redirected(url, headers, ResponseHead(error.status, error.headers))
            if target is None:
                raise
            url, headers = target
    raise AttemptError(Reason.MALFORMED, f"more than {MAX_REDIRECTS} redirects", is_transient=False)


def _target(url: str) -> Target | None:
    """Where the request goes, or None if it is one for the aiohttp plane."""
    check_url(url)
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname
    assert host is not None  # check_url
    if "@" in parts.netloc or not url.isascii() or proxy_for(url) or not _has_add_reader():
        return None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    is_default = port == (443 if parts.scheme == "https" else 80)
    name = f"[{host}]" if ":" in host else host
    return Target(Origin(parts.scheme, host, port), path, name if is_default else f"{name}:{port}")


def _head_bytes(method: str, url: str, target: Target, headers: Mapping[str, str]) -> bytes:
    if " " in target.path:
        raise Invalid(f"{public_url(url)}: a URL must not contain spaces; quote them")
    try:
        return request_head(method, target.path, target.host, headers)
    except (ValueError, UnicodeEncodeError) as error:
        raise Invalid(f"{public_url(url)}: cannot be sent: {error}") from error


def _has_add_reader() -> bool:
    loop = asyncio.get_running_loop()
    proactor = getattr(asyncio, "ProactorEventLoop", None)
    return proactor is None or not isinstance(loop, proactor)
