"""References to what web servers hold (`http://`, `https://`).

Promised: logging asks the server (HEAD, or GET of one byte where HEAD is refused) and records its ETag and
size, without an ETag its size and date. Fetching compares them again: a source that changed since it was
logged is a Conflict, and nothing of it appears. A broken transfer continues behind the bytes that arrived,
if the server still says the same about its content; a silent server is a stall, not a wait for ever;
memory is one buffer.

Not promised: that the bytes are the same as when it was logged. Nobody read them then; ETag and size are
the server's word. Refused: a server that says nothing at all (nothing could be compared later; use
`checksum=False`), one that compresses although it was asked not to, and bodies without an end that can be
told from a lost connection.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

import aiohttp
import anyio
import yarl

from asyncart.engine.target import Partial, Target
from asyncart.engine.tasks import Threads
from asyncart.errors import AsyncartError, Conflict, Denied, Invalid, NotFound, TransferError
from asyncart.model import Entry, Reference
from asyncart.net.aiohttp_plane import AiohttpPlane
from asyncart.net.notice import Notice
from asyncart.net.plane import (
    CREEP_BYTES,
    ERROR_BODY_BYTES,
    MAX_REDIRECTS,
    AttemptError,
    Reason,
    ResponseHead,
    is_success,
    malformed,
    proxy_for,
    redirected,
    status_error,
)
from asyncart.net.retry import (
    PATIENCE_S,
    PROGRESS_BYTES,
    Decision,
    History,
    RetryBudget,
    Step,
    after,
    decide,
    is_throttled,
    public_error,
)

from .uris import Validators, entry_path, public, recorded

T = TypeVar("T")
BLOCK_BYTES = 4 << 20  # received, then written in a worker thread
_CONTENT_RANGE = re.compile(
    r"\s*bytes\s+(?:(\d{1,19})-\d{1,19}|\*)/(\d{1,19}|\*)\s*\Z", re.IGNORECASE
)
_PLAIN_URL = re.compile(r"[!#$%&'()*+,./0-9:;=?@A-Z\[\]_a-z~-]+")
_IDENTITY = {"Accept-Encoding": "identity"}  # ETag, length and ranges of a compressed answer differ
_retries = RetryBudget()  # of all web references together
_notice = Notice(logging.getLogger("asyncart.references"))


class Web:
    def __init__(
        self, plane: AiohttpPlane, threads: Threads, *, patience_s: float = PATIENCE_S
    ) -> None:
        self._plane = plane
        self._threads = threads
        self._patience_s = patience_s

    async def resolve(
        self, uri: str, *, name: str | None, checksum: bool, max_objects: int
    ) -> list[Entry]:
        if not checksum:
            return [recorded(uri, name)]
        path = entry_path(uri, name)
        said = await self._repeat(path, uri, lambda: self._ask(uri))
        if said == Validators(None, None, None):
            raise Invalid(
                f"{public(uri)} answers with neither ETag, size nor date, so that a change could never be "
                "noticed: pass checksum=False to record the URI alone, or add_file a copy"
            )
        return [Entry(path, said.digest(uri), said.size or 0, reference=Reference(uri, said.etag))]

    async def fetch(self, entry: Entry, target: Target) -> os.stat_result:
        assert entry.reference is not None
        uri = entry.reference.uri
        partial = await self._threads.run(target.begin, entry.path, entry.size, uri)
        try:
            body = _Body(entry, entry.reference, partial)
            await self._repeat(entry.path, uri, lambda: self._receive(body))
            return await self._threads.run(partial.publish, entry.executable)
        finally:
            with anyio.CancelScope(shield=True):
                # Gone once it is published. Else: what arrived cannot be told from what did not.
                await self._threads.run(partial.discard)

    async def _ask(self, uri: str) -> Validators:
        async with self._answer("HEAD", uri, _IDENTITY) as (response, head):
            if is_success(head.status):
                said = _validators(head, _length(head))
                if said != Validators(None, None, None):
                    return said
            elif head.status >= 500 and head.status != 501:
                raise status_error(head, b"")
        # Refused, as for URLs that are signed for GET, or without an answer.
        async with self._answer("GET", uri, {**_IDENTITY, "Range": "bytes=0-0"}) as (
            response,
            head,
        ):
            if head.status == 206:
                return _validators(head, _range(head)[1])
            if head.status == 416:  # an empty file has no first byte
                return _validators(head, 0)
            if not is_success(head.status):
                raise status_error(head, await _error_body(response))
            return _validators(head, _length(head))

    async def _receive(self, body: _Body) -> None:
        """One attempt at what is still missing."""
        start = body.offset
        try:
            async with self._answer("GET", body.uri, body.headers()) as (response, head):
                if not is_success(head.status):
                    raise status_error(head, await _error_body(response))
                body.begin(head)
                start = body.offset
                if start == 0 and body.entry.size == 0 and body.total:
                    await self._threads.run(body.partial.allocate, body.total)
                buffer = memoryview(bytearray(BLOCK_BYTES))
                while True:
                    got, failure = await _fill(response.content, buffer, self._plane.stall_s)
                    if got:
                        body.check_room(got)
                        await self._threads.run(body.partial.write, body.offset, buffer[:got])
                        body.offset += got
                    if failure is not None:
                        raise failure
                    if got < len(buffer):
                        break
                body.finish(head)
        except AttemptError as error:
            error.received = max(0, body.offset - start)
            raise

    @asynccontextmanager
    async def _answer(
        self, method: str, url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, ResponseHead]]:
        """The final response, after redirects."""
        for _ in range(MAX_REDIRECTS + 1):
            proxy = proxy_for(url)
            with _translated(self._plane.stall_s):
                response = await self._plane.session().request(
                    method,
                    # as it is, where it is a URL already: it may be signed
                    yarl.URL(url, encoded=_PLAIN_URL.fullmatch(url) is not None),
                    headers=headers,
                    proxy=None if proxy is None else yarl.URL(proxy),
                    allow_redirects=False,
                )
            try:
                head = _head(response)
                # for GET and HEAD, "see other" is a redirect like any
                elsewhere = redirected(
                    url, headers, head._replace(status=302) if head.status == 303 else head
                )
                if elsewhere is None:
                    with _translated(self._plane.stall_s):
                        yield response, head
                    return
            finally:
                response.close()
            url, headers = elsewhere
        raise AttemptError(
            Reason.MALFORMED, f"more than {MAX_REDIRECTS} redirects", is_transient=False
        )

    async def _repeat(self, path: str, uri: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Until it succeeds, there is no point in going on, or there was no progress for too long."""
        history = History()
        since = time.monotonic()
        while True:
            try:
                return await attempt()
            except AttemptError as error:
                now = time.monotonic()
                if error.received >= PROGRESS_BYTES:
                    since, history = now, History()
                history = history._replace(elapsed_s=now - since)
                decision = decide(
                    error, history, jitter=random.random(), patience_s=self._patience_s
                )
                delay = max(decision.delay_s, _retries.reserve(now))
                if decision.step is not Step.RETRY or history.elapsed_s + delay > self._patience_s:
                    raise _public_error(path, uri, error, history) from error
                _notice.repeating(
                    f"{path}: {public(uri)}: {error}",
                    now_s=now,
                    elapsed_s=history.elapsed_s,
                    delay_s=delay,
                    patience_s=self._patience_s,
                    is_throttled=is_throttled(error),
                )
                history = after(history, error, Decision(Step.RETRY))
            await anyio.sleep(delay)


class _Body:
    """What arrived of one file, and what must be the same in every answer about it."""

    def __init__(self, entry: Entry, reference: Reference, partial: Partial) -> None:
        self.entry = entry
        self.uri = reference.uri
        self.partial = partial
        self.offset = 0
        self.total: int | None = None
        self._is_recorded_only = recorded(reference.uri, entry.path).digest == entry.digest
        self._logged_etag = reference.etag
        self._said: Validators | None = None  # in the answer that the bytes so far came from

    def headers(self) -> Mapping[str, str]:
        if self.offset == 0 or self._said is None:
            return _IDENTITY
        headers = {**_IDENTITY, "Range": f"bytes={self.offset}-"}
        same = self._said.etag or self._said.last_modified
        if same is not None and not same.startswith("W/"):  # weak ones are not allowed there
            headers["If-Range"] = same
        return headers

    def begin(self, head: ResponseHead) -> None:
        """Look at an answer before its body: raises unless it is (the rest of) what was logged."""
        encoding = head.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise TransferError(
                f"{self.entry.path}: {public(self.uri)} is sent with Content-Encoding {encoding}, although it "
                "was asked not to compress: download it by other means"
            )
        total = _length(head)
        if head.status == 206:
            first, total = _range(head)
            if first != self.offset:
                raise malformed(head, f"answered from byte {first}, not from {self.offset}")
        elif head.status != 200:
            raise malformed(head, f"answered {head.status}")
        else:
            self.offset = 0  # no ranges here, or it changed: from the start
        said = _validators(head, total)
        if self.offset and said != self._said:
            self.offset, self._said = 0, None
            raise malformed(head, "answered with other content in the middle of the file")
        self._check_unchanged(said)
        if total is None and head.headers.get("transfer-encoding", "").lower() != "chunked":
            raise malformed(head, "does not say where its answer ends")
        self._said, self.total = said, total

    def _check_unchanged(self, said: Validators) -> None:
        if self._is_recorded_only:
            return
        size = self.entry.size
        variants = [said]
        if (
            said.size is None
        ):  # GET may be chunked where HEAD knew the length: the bytes are counted
            variants.append(said._replace(size=size))
        elif size == 0:
            variants.append(said._replace(size=None))
        if size and said.size not in (None, size):
            raise self._changed(f"it had {size:,} bytes and has {said.size:,} now")
        if not any(variant.digest(self.uri) == self.entry.digest for variant in variants):
            if self._logged_etag is not None:
                raise self._changed(f"its ETag was {self._logged_etag} and is {said.etag} now")
            raise self._changed("its size or date is another now")

    def check_room(self, got: int) -> None:
        limit = self.total if self.total is not None else self.entry.size
        if limit and self.offset + got > limit:
            raise self._changed(f"it sends more than {limit:,} bytes")

    def finish(self, head: ResponseHead) -> None:
        """The answer has ended: is that all of it?"""
        if self.total is not None and self.offset != self.total:
            raise AttemptError(
                Reason.RESET,
                f"body ended after {self.offset} of {self.total} bytes",
                status=head.status,
                headers=head.headers,
            )
        size = self.entry.size
        if size and self.offset != size and not self._is_recorded_only:
            raise self._changed(f"it had {size:,} bytes and has {self.offset:,} now")

    def _changed(self, how: str) -> Conflict:
        return Conflict(
            f"{self.entry.path} refers to {public(self.uri)}, which changed since it was logged: {how}; log the "
            "reference again, or restore the source"
        )


class _Filled(NamedTuple):
    got: int
    failure: AttemptError | None


async def _fill(content: aiohttp.StreamReader, buffer: memoryview, stall_s: float) -> _Filled:
    """Receive until the buffer is full or the body ends. What came before a failure counts."""
    got = 0
    try:
        with _translated(stall_s):
            while got < len(buffer):
                goal = min(len(buffer), got + CREEP_BYTES)
                with anyio.fail_after(stall_s):  # one byte a second is a stall, too
                    while got < goal:
                        data = await content.read(len(buffer) - got)
                        if not data:
                            return _Filled(got, None)
                        buffer[got : got + len(data)] = data
                        got += len(data)
    except AttemptError as error:
        return _Filled(got, error)
    return _Filled(got, None)


def _validators(head: ResponseHead, size: int | None) -> Validators:
    return Validators(
        head.headers.get("etag") or None, size, head.headers.get("last-modified") or None
    )


def _length(head: ResponseHead) -> int | None:
    said = head.headers.get("content-length", "").strip()
    return int(said) if said.isdecimal() and len(said) < 20 else None


def _range(head: ResponseHead) -> tuple[int, int | None]:
    """First byte and total of a 206."""
    found = _CONTENT_RANGE.match(head.headers.get("content-range", ""))
    if found is None or found[1] is None:
        raise malformed(head, "answered 206 without a usable Content-Range")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _head(response: aiohttp.ClientResponse) -> ResponseHead:
    headers: dict[str, str] = {}
    for name, value in response.headers.items():
        lower = name.lower()
        headers[lower] = f"{headers[lower]}, {value}" if lower in headers else value
    return ResponseHead(response.status, headers)


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    with contextlib.suppress(aiohttp.ClientError, OSError):
        return await response.content.read(ERROR_BODY_BYTES)
    return b""


@contextlib.contextmanager
def _translated(stall_s: float) -> Iterator[None]:
    """aiohttp's exceptions as attempts that failed."""
    try:
        yield
    except (AttemptError, AsyncartError):
        raise
    except TimeoutError as error:
        is_connect = isinstance(error, aiohttp.ConnectionTimeoutError)
        raise AttemptError(
            Reason.CONNECT if is_connect else Reason.STALLED, f"nothing for {stall_s:g} s"
        ) from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise AttemptError(Reason.TLS, str(error.certificate_error), is_transient=False) from error
    except aiohttp.ClientConnectorError as error:
        raise AttemptError(Reason.CONNECT, str(error.os_error)) from error
    except (aiohttp.InvalidURL, ValueError) as error:
        raise Invalid(f"the URL of a reference cannot be used: {error}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise AttemptError(Reason.RESET, str(error) or type(error).__name__) from error


def _public_error(path: str, uri: str, error: AttemptError, history: History) -> AsyncartError:
    what = f"{path}: {public(uri)}"
    if error.status in (404, 410):
        return NotFound(
            f"{what} is not there ({error.detail}): check the URI, or restore the source"
        )
    if error.status in (401, 403):
        return Denied(
            f"{what} may not be read ({error.detail}): references are fetched without credentials; a signed URL "
            "may have expired"
        )
    return public_error("reading", what, error, history)
