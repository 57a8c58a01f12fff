"""The data plane on plain aiohttp: every URL, proxy and oddity works here, at aiohttp's speed.

What `stream_plane` does not do itself, it hands to this one; both pass the same contract suite. Proxies
come from the environment through `plane.proxy_for` rather than through aiohttp's `trust_env`, because that
also sends passwords from `~/.netrc` as an `Authorization` header, which breaks signed requests.

aiohttp repeats a request once by itself when the connection breaks before an answer came; `stream_plane`
does so only for a connection that was kept.

Upload bodies are copied in small pieces on their way into the transport: after a failure a transport may
still be flushing, and by then the caller has reused the buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp
import yarl
from aiohttp.abc import AbstractStreamWriter

from asyncart.errors import Invalid

from .loops import PerLoop
from .plane import (
    CONNECT_S,
    CREEP_BYTES,
    ERROR_BODY_BYTES,
    MAX_REDIRECTS,
    STALL_S,
    AttemptError,
    Reason,
    ResponseHead,
    check_put_answer,
    check_range_head,
    check_url,
    is_success,
    malformed,
    proxy_for,
    range_header,
    redirected,
    status_error,
)

PIECE_BYTES = 256 << 10  # copied at a time; aiohttp drains its transport above 64 KiB


class AiohttpPlane:
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
        self._sessions = PerLoop(self._open_session)

    def session(self) -> aiohttp.ClientSession:
        """The running loop's session, for control requests; it belongs to the plane.

        It keeps no cookies, takes no passwords from files and never decompresses.
        """
        return self._sessions.get()

    async def get_range(
        self, url: str, headers: Mapping[str, str], offset: int, buffer: memoryview
    ) -> ResponseHead:
        buffer = buffer.cast("B")
        wanted = {
            **headers,
            "Range": range_header(offset, len(buffer)),
            "Accept-Encoding": "identity",
        }
        progress = _Progress(self.stall_s)
        with _translated(progress):
            async with progress, self._answer("GET", url, wanted, progress) as response:
                head = progress.head = _head(response)
                if not is_success(head.status):
                    raise status_error(head, await _error_body(response))
                check_range_head(head, offset, len(buffer))
                async for data in response.content.iter_any():
                    end = progress.received + len(data)
                    if end > len(buffer):
                        # nobody can say which of these bytes are the right ones
                        progress.received = 0
                        raise malformed(head, f"sent more than {len(buffer)} bytes")
                    buffer[progress.received : end] = data
                    progress.received = end
                    progress.moved(len(data))
                if progress.received < len(buffer):
                    raise AttemptError(
                        Reason.RESET,
                        f"body ended after {progress.received} of {len(buffer)} bytes",
                        status=head.status,
                        headers=head.headers,
                        received=progress.received,
                    )
                return head

    async def put(
        self, url: str, headers: Mapping[str, str], buffers: Sequence[memoryview]
    ) -> ResponseHead:
        progress = _Progress(self.stall_s)
        views = [view.cast("B") for view in buffers]
        with _translated(progress):
            async with (
                progress,
                self._answer("PUT", url, headers, progress, views) as response,
            ):
                head = _head(response)
                body = await _error_body(response)
                if not is_success(head.status):
                    raise status_error(head, body)
                check_put_answer(head, body)
                return head

    async def aclose(self) -> None:
        running = asyncio.get_running_loop()
        for loop, session in self._sessions.take_all().items():
            if loop is running:
                await session.close()
            elif not loop.is_closed():
                # another thread's loop: only that thread may touch its sockets
                with contextlib.suppress(RuntimeError):
                    asyncio.run_coroutine_threadsafe(session.close(), loop)

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # how many requests run at once is the pace's business, not the pool's
            connector=aiohttp.TCPConnector(
                limit=0, ssl=self._ssl_context if self._ssl_context is not None else True
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.connect_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        progress: _Progress,
        views: Sequence[memoryview] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The final response, after redirects; its connection is closed unless it was read to the end."""
        session = self.session()
        for _ in range(MAX_REDIRECTS + 1):
            check_url(url)
            body = None if views is None else _Body(views, progress)
            proxy = proxy_for(url)
            response = await session.request(
                method,
                yarl.URL(url, encoded=True),  # as it was signed
                headers=headers,
                data=body,
                proxy=None if proxy is None else yarl.URL(proxy),
                allow_redirects=False,
            )
            try:
                target = redirected(url, headers, _head(response))
                if target is None:
                    if body is not None and not body.is_sent and is_success(response.status):
                        raise malformed(_head(response), "success before the body was sent")
                    yield response
                    return
            finally:
                # a response that was read to its end has given its connection back already
                response.close()
            url, headers = target
        raise AttemptError(
            Reason.MALFORMED, f"more than {MAX_REDIRECTS} redirects", is_transient=False
        )


class _Body(aiohttp.Payload):
    """Views as a request body that can be sent again (after a redirect) and has a length."""

    def __init__(self, views: Sequence[memoryview], progress: _Progress) -> None:
        super().__init__(views)
        self._size = sum(len(view) for view in views)
        self._progress = progress
        self.is_sent = False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a body of an upload is bytes, not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        for view in self._value:
            for at in range(0, len(view), PIECE_BYTES):
                piece = bytes(view[at : at + PIECE_BYTES])
                await writer.write(piece)
                self._progress.moved(len(piece))
        self.is_sent = True
        self._progress.expect_answer()


class _Progress:
    """Ends the block it guards when less than CREEP_BYTES moved for the stall time."""

    def __init__(self, stall_s: float) -> None:
        self.stall_s = stall_s
        self.received = 0
        self.head: ResponseHead | None = None
        self._since = 0
        self._timeout = asyncio.timeout(None)

    @property
    def headers(self) -> Mapping[str, str]:
        return {} if self.head is None else self.head.headers

    def moved(self, nbytes: int) -> None:
        self._since += nbytes
        if self._since >= CREEP_BYTES:
            self._restart()

    def expect_answer(self) -> None:
        """The body is with the kernel, which may hold megabytes of it back on a slow line."""
        self._restart(2 * self.stall_s)

    def _restart(self, stall_s: float | None = None) -> None:
        self._since = 0
        if not self._timeout.expired():
            with contextlib.suppress(RuntimeError):  # over already
                wait = self.stall_s if stall_s is None else stall_s
                self._timeout.reschedule(asyncio.get_running_loop().time() + wait)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._restart()

    async def __aexit__(self, *error: object) -> None:
        await self._timeout.__aexit__(*error)  # type: ignore[arg-type]


@contextlib.contextmanager
def _translated(progress: _Progress) -> Iterator[None]:
    """aiohttp's exceptions as AttemptError; what was received so far stays received."""
    try:
        yield
    except AttemptError:
        raise
    except TimeoutError as error:
        detail = f"less than {CREEP_BYTES} bytes in {progress.stall_s:g} s"
        reason = (
            Reason.CONNECT if isinstance(error, aiohttp.ConnectionTimeoutError) else Reason.STALLED
        )
        raise AttemptError(
            reason, detail, headers=progress.headers, received=progress.received
        ) from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise AttemptError(Reason.TLS, str(error.certificate_error), is_transient=False) from error
    except aiohttp.ClientConnectorError as error:
        raise AttemptError(Reason.CONNECT, str(error.os_error)) from error
    except aiohttp.InvalidURL as error:
        raise Invalid("the URL cannot be used") from error
    except (aiohttp.ClientError, OSError) as error:
        raise AttemptError(
            Reason.RESET,
            type(error).__name__,
            headers=progress.headers,
            received=progress.received,
        ) from error


def _head(response: aiohttp.ClientResponse) -> ResponseHead:
    headers: dict[str, str] = {}
    for name, value in response.headers.items():
        lower = name.lower()
        headers[lower] = f"{headers[lower]}, {value}" if lower in headers else value
    return ResponseHead(response.status, headers)


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    """The first bytes of the document; what breaks while reading it changes nothing."""
    body = b""
    with contextlib.suppress(aiohttp.ClientError, OSError):
        while len(body) < ERROR_BODY_BYTES:
            data = await response.content.readany()
            if not data:
                break
            body += data
    return body[:ERROR_BODY_BYTES]
