"""Bytes through the server, for a store that is a folder of its own: there are no other URLs for them.

A URL says what it is for and until when, under a signature of the server; it needs no key, as those of a
bucket. GET sends the file by the kernel, with ranges. PUT streams from the socket into a temp file of the
store, one piece of 1 MiB in memory at a time, and the object appears when all bytes that were announced have
arrived; a PUT that breaks off leaves nothing. A part goes to its offset of an upload that is open.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple
from urllib.parse import urlencode

import anyio
from aiohttp import web
from aiohttp.client_exceptions import ClientPayloadError

from ..catalog import grants
from ..errors import Denied, Invalid, NotFound, Unavailable
from ..model import object_key
from ..stores.protocol import Store
from ..wire import UrlMethod, WantedUrl
from . import checking
from .context import ServerContext
from .failures import Refused
from .multipart import part_etag

PATH = "/bytes/{object_id}"
PIECE_BYTES = 1 << 20
STALL_S = 30.0  # without a byte from the client
MAX_PUT_BYTES = 5 << 30  # as in S3: more goes in parts
_PIECES = MAX_PUT_BYTES // PIECE_BYTES + 1  # of one PUT, at most

Signer = Callable[[WantedUrl], str]


class Terms(NamedTuple):
    """What a URL is for. `part` is -1 for a whole object; `expires` in seconds since 1970."""

    method: str
    object_id: str
    expires: int
    part: int = -1
    offset: int = 0
    upload: str = ""

    def signature(self, secret: bytes) -> str:
        text = "\n".join(("asyncart bytes 1", *map(str, self)))
        return hmac.digest(secret, text.encode(), hashlib.sha256).hex()

    def query(self, secret: bytes) -> str:
        said: dict[str, str | int] = {"expires": self.expires}
        if self.part >= 0:
            said |= {"part": self.part, "offset": self.offset, "upload": self.upload}
        return urlencode({**said, "signature": self.signature(secret)})


def is_needed(store: Store) -> bool:
    """Whether objects of the store can only be had through this process."""
    return store.is_local and store.local_path(object_key("0" * 32)) is not None


def signer(context: ServerContext, origin: str, ttl_s: float) -> Signer:
    expires = int(context.clock() + ttl_s)

    def url(want: WantedUrl) -> str:
        terms = Terms(want.method.value, want.object_id, expires)
        if want.part is not None:
            terms = terms._replace(part=want.part, offset=want.offset, upload=want.token)
        return f"{origin}/bytes/{want.object_id}?{terms.query(context.secret)}"

    return url


def add_to(app: web.Application, context: ServerContext) -> None:
    async def get(http: web.Request) -> web.StreamResponse:
        terms = _terms(context, http, UrlMethod.GET)
        return await _get(context, terms)

    async def put(http: web.Request) -> web.StreamResponse:
        terms = _terms(context, http, UrlMethod.PUT)
        length = _announced(http)
        await _check_writing(context, terms.object_id)
        if terms.part < 0:
            await _put_whole(context, http, terms, length)
            return web.Response()
        etag = await _put_part(context, http, terms, length)
        return web.Response(headers={"ETag": etag})

    app.router.add_get(PATH, get, name="get_bytes")
    app.router.add_put(PATH, put, name="put_bytes")


def _terms(context: ServerContext, http: web.Request, method: UrlMethod) -> Terms:
    """What the URL says, if we said so; Denied otherwise, also when it is too late."""
    said = http.query
    object_id = http.match_info["object_id"]
    checking.hex_id(object_id)
    try:
        terms = Terms(
            method.value,
            object_id,
            int(said["expires"]),
            int(said.get("part", "-1")),
            int(said.get("offset", "0")),
            said.get("upload", ""),
        )
    except (KeyError, ValueError):
        raise Denied(f"object {object_id}: this URL was not signed by this server") from None
    signature = said.get("signature", "").encode("utf-8", "replace")
    if not hmac.compare_digest(terms.signature(context.secret).encode(), signature):
        raise Denied(f"object {object_id}: this URL was not signed by this server")
    if terms.expires < context.clock():
        raise Denied(f"object {object_id}: this URL has expired; ask for another one")
    return terms


async def _get(context: ServerContext, terms: Terms) -> web.StreamResponse:
    key = object_key(terms.object_id)
    if key not in await context.store.sizes([key]):
        raise NotFound(f"there is no object {terms.object_id}")
    path = context.store.local_path(key)
    assert path is not None
    return web.FileResponse(path, headers={"Content-Type": "application/octet-stream"})


def _announced(http: web.Request) -> int:
    length = http.content_length
    if length is None:
        raise Refused(411, "say how long the body is (Content-Length)")
    if length > MAX_PUT_BYTES:
        raise Refused(413, f"{length} bytes: {MAX_PUT_BYTES} can be sent at once; use parts")
    if http.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused(415, "a compressed body is not taken: send it as it is")
    return length


async def _check_writing(context: ServerContext, object_id: str) -> None:
    """Objects do not change any more once they are stored, whatever URLs are still about."""
    if not await context.database.read(grants.is_writing, object_id):
        raise Denied(f"object {object_id}: is not being uploaded (any more)")


async def _put_whole(context: ServerContext, http: web.Request, terms: Terms, length: int) -> None:
    upload = await context.store.begin_upload(object_key(terms.object_id), length)
    try:
        offset = 0
        async for index, size, buffers in _pieces(http, length):
            await upload.part(index, offset, buffers)
            offset += size
        # Again, because it may have been on its way for long: meanwhile somebody may have called it stored.
        await _check_writing(context, terms.object_id)
        await upload.complete(length)
    except BaseException:
        await upload.abort()
        raise


async def _put_part(context: ServerContext, http: web.Request, terms: Terms, length: int) -> str:
    """Every piece of it is a part for the store; it counts when the last one was written."""
    opened = context.open_uploads.find(object_key(terms.object_id), terms.upload)
    if opened is None:
        raise NotFound(f"there is no upload of object {terms.object_id} (any more); begin it anew")
    opened.parts.pop(terms.part, None)
    offset = terms.offset
    async for index, size, buffers in _pieces(http, length):
        await opened.upload.part(terms.part * _PIECES + index, offset, buffers)
        offset += size
    etag = part_etag(terms.part, terms.offset, length)
    opened.parts[terms.part] = (length, etag)
    opened.touch()
    return etag


async def _pieces(
    http: web.Request, length: int
) -> AsyncIterator[tuple[int, int, list[memoryview]]]:
    """The body in pieces of equal length: index, bytes, and the buffers that came, without copying them.

    Unavailable if it stalls, Invalid if it is not all there.
    """
    piece: list[memoryview] = []
    index = held = received = 0
    while received < length:
        got = memoryview(await _received(http))
        if not got:
            raise Invalid(f"the body ends after {received} of {length} bytes; send it again")
        received += len(got)
        while held + len(got) >= PIECE_BYTES:
            room = PIECE_BYTES - held
            yield index, PIECE_BYTES, [*piece, got[:room]]
            piece, held, got = [], 0, got[room:]
            index += 1
        if got:
            piece.append(got)
            held += len(got)
    if held:
        yield index, held, piece


async def _received(http: web.Request) -> bytes:
    try:
        with anyio.fail_after(STALL_S):
            return await http.content.readany()
    except TimeoutError:
        raise Unavailable(f"nothing of the body for {STALL_S:.0f} s; send it again") from None
    except ClientPayloadError:
        return b""
