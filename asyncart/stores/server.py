"""The objects of a server: it says where the bytes are, the bytes go straight between here and there.

Promised: reads, writes and parts go through the data plane with signed URLs, as with any bucket: ranged,
repeated, continued, signed anew where a signature expired. URLs are asked for when they are needed, many
at once, and those that came with an answer of the catalog (a version's objects, the place of a new one) are
used first. What an upload needs to be continued by another process is its token, as the store behind the
server gave it.

Refused: keys that are no object's, listing (what exists is the catalog's business), and deleting anything
but unfinished objects of this principal's sessions.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import anyio
from blake3 import blake3

from asyncart import wire
from asyncart.errors import (
    AsyncartError,
    Conflict,
    Denied,
    Invalid,
    NotFound,
    TransferError,
    Unavailable,
)
from asyncart.model import object_key
from asyncart.net.control import ServerClient
from asyncart.net.plane import STALL_S, AttemptError, ResponseHead
from asyncart.net.retry import Sign, Signed
from asyncart.threads import run_blocking
from asyncart.wire import UrlMethod

from .protocol import Page
from .remote import is_etag_of, own_transfer, too_short, whole_size

PIECE_BYTES = 4 << 20  # of an object that is compared with what was sent
PARTS_AHEAD = 16  # URLs of one question: 128 MiB of parts
CLEANUP_S = 5.0  # aborting an upload that was cancelled

_OBJECT_ID = re.compile(r"[0-9a-f]{32}")


class ServerStore:
    """Usable on one event loop, as its client is. `me` is what the server said of itself."""

    is_local = False

    def __init__(
        self,
        client: ServerClient,
        me: wire.Me,
        *,
        owns_client: bool = False,
        stall_timeout_s: float = STALL_S,
        limit_rate_bytes: int = 0,
    ) -> None:
        self.client = client
        self.url = client.origin
        # 1 would mean that a piece of any size may go anywhere at once: over a network it is a request
        self.part_bytes = max(me.part_bytes, 1 << 20)
        self.transfer = own_transfer(stall_timeout_s, limit_rate_bytes)
        self._owns_client = owns_client

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        api_key: str = "",
        allow_insecure_http: bool = False,
        stall_timeout_s: float = STALL_S,
        limit_rate_bytes: int = 0,
    ) -> ServerStore:
        """The store of the server at the URL, with a client of its own."""
        client = ServerClient(
            url, api_key, allow_insecure_http=allow_insecure_http, stall_s=stall_timeout_s
        )
        try:
            me = await client.ask(wire.Me, "about_me", wire.AboutMe())
        except BaseException:
            with anyio.CancelScope(shield=True):
                await client.aclose()
            raise
        return cls(
            client,
            me,
            owns_client=True,
            stall_timeout_s=stall_timeout_s,
            limit_rate_bytes=limit_rate_bytes,
        )

    def local_path(self, key: str) -> str | None:
        return None

    async def sizes(self, keys: Sequence[str]) -> dict[str, int]:
        key_of = {object_id_of(key): key for key in keys}
        object_ids = list(key_of)
        found: dict[str, int] = {}
        for start in range(0, len(object_ids), wire.MAX_KEYS):
            request = wire.ObjectSizes(object_ids=object_ids[start : start + wire.MAX_KEYS])
            answer = await self.client.ask(wire.Sizes, "object_sizes", request)
            found.update((key_of[name], size) for name, size in answer.sizes.items())
        return found

    async def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        await self.read_measured(key, offset, buffer)

    async def read_measured(self, key: str, offset: int, buffer: memoryview) -> int | None:
        """`read_into`; returns the size of the whole object, which the store tells on the way."""
        if not buffer.nbytes:
            return None
        sign = self._signer(wire.WantedUrl(object_id=object_id_of(key), method=UrlMethod.GET))
        head = await self._moving(
            key,
            lambda what: self.transfer.get_range(what, sign, offset, buffer),
            offset,
            buffer.nbytes,
        )
        return whole_size(head.headers)

    async def write(self, key: str, buffers: Sequence[memoryview]) -> None:
        wanted = wire.WantedUrl(object_id=object_id_of(key), method=UrlMethod.PUT)
        sign = self._signer(wanted)
        try:
            await self._moving(key, lambda what: self.transfer.put(what, sign, buffers))
        except Conflict:
            # The URL may be for a new object only, and the answer to an attempt that arrived got lost.
            if not await self._holds(key, buffers):
                raise
        self.client.urls.forget(wanted)

    async def _holds(self, key: str, buffers: Sequence[memoryview]) -> bool:
        """Whether the object has these bytes."""
        size = sum(buffer.nbytes for buffer in buffers)
        if (await self.sizes([key])).get(key) != size:
            return False
        there, piece = blake3(), memoryview(bytearray(min(size, PIECE_BYTES)))
        for offset in range(0, size, PIECE_BYTES):
            view = piece[: size - offset]
            await self.read_into(key, offset, view)
            await run_blocking(there.update, view)
        return there.digest() == await run_blocking(_digest, buffers)

    async def adopt(self, key: str, local_path: str) -> bool:
        return False

    async def begin_upload(self, key: str, size_hint: int | None = None) -> ServerUpload:
        request = wire.BeginObjectUpload(object_id=object_id_of(key), size_hint=size_hint)
        answer = await self.client.ask(wire.ObjectUpload, "begin_object_upload", request)
        return ServerUpload(self, key, answer, size_hint)

    async def resume_upload(self, key: str, token: str) -> ServerUpload | None:
        request = wire.ResumeObjectUpload(object_id=object_id_of(key), token=token)
        try:
            answer = await self.client.ask(wire.Resumed, "resume_object_upload", request)
        except NotFound:  # an object that nobody of ours is uploading
            return None
        return None if answer.upload is None else ServerUpload(self, key, answer.upload)

    async def delete(self, keys: Sequence[str]) -> None:
        object_ids = [object_id_of(key) for key in keys]
        for start in range(0, len(object_ids), wire.MAX_KEYS):
            request = wire.DeleteObjects(object_ids=object_ids[start : start + wire.MAX_KEYS])
            await self.client.call("delete_objects", request)

    async def list_page(self, prefix: str = "", after: str = "", limit: int = 1000) -> Page:
        raise Denied(
            f"{self.url}: the objects of a server cannot be listed; ask its catalog what exists"
        )

    async def presign(self, key: str, *, method: str = "GET", ttl_s: float = 900) -> str | None:
        """A URL that holds as long as the server lets it; `ttl_s` is not asked for. None where the URL alone
        is not enough: to write what is not there yet, the store wants to hear of that, too."""
        if method not in ("GET", "PUT"):
            raise Invalid(f"{method}: URLs of a server's objects can be signed for GET and PUT")
        wanted = wire.WantedUrl(object_id=object_id_of(key), method=UrlMethod(method))
        signed = await self.client.urls.get(wanted)
        return None if signed.headers else signed.url

    async def aclose(self) -> None:
        await self.transfer.plane.aclose()
        if self._owns_client:
            await self.client.aclose()

    def name(self, key: str) -> str:
        """For messages."""
        return f"{self.url}/{key}"

    # Used by uploads too

    async def put_part(
        self,
        key: str,
        wanted: wire.WantedUrl,
        ahead: Sequence[wire.WantedUrl],
        buffers: Sequence[memoryview],
    ) -> ResponseHead:
        sign = self._signer(wanted, ahead)
        head = await self._moving(key, lambda what: self.transfer.put(what, sign, buffers))
        self.client.urls.forget(wanted)
        return head

    def _signer(self, wanted: wire.WantedUrl, ahead: Sequence[wire.WantedUrl] = ()) -> Sign:
        """The request as it is signed now; anew if that was refused."""

        async def sign(refused: AttemptError | None) -> Signed:
            if refused is not None:
                self.client.urls.forget(wanted)
            url = await self.client.urls.get(wanted, ahead)
            return Signed(url.url, url.headers)

        return sign

    async def _moving(
        self,
        key: str,
        move: Callable[[str], Awaitable[ResponseHead]],
        offset: int = 0,
        length: int = 0,
    ) -> ResponseHead:
        what = self.name(key)
        try:
            return await move(what)
        except AsyncartError as error:
            cause = error.__cause__
            if isinstance(error, NotFound) and not isinstance(cause, AttemptError):
                raise NotFound(
                    f"{what}: {error}"
                ) from error  # the server's words, when it was to sign
            if short := too_short(error, what, offset, length):
                raise short from cause
            raise


class _Part(NamedTuple):
    """A part that the store has."""

    size: int
    etag: str


class ServerUpload:
    """An object that is sent in parts to the store behind the server."""

    def __init__(
        self, store: ServerStore, key: str, upload: wire.ObjectUpload, size_hint: int | None = None
    ) -> None:
        self.key = key
        self.token = upload.token
        self._object_id = object_id_of(key)
        self._store = store
        self._size_hint = size_hint
        self._parts = {index: _Part(size, etag) for index, size, etag in upload.parts}
        self._found = set(self._parts)  # those that an earlier attempt sent

    async def part(self, index: int, offset: int, buffers: Sequence[memoryview]) -> None:
        if index in self._found:
            self._found.discard(index)
            sent = self._parts[index]
            if await run_blocking(is_etag_of, sent.etag, sent.size, buffers):
                return  # it arrived, and nobody was told
        size = sum(buffer.nbytes for buffer in buffers)
        wanted = self._wanted(index, offset)
        head = await self._store.put_part(
            self.key, wanted, self._ahead(index, offset, size), buffers
        )
        etag = head.headers.get("etag")
        if not etag:
            raise TransferError(f"{self._name}: the store did not name part {index + 1} (no ETag)")
        self._parts[index] = _Part(size, etag)

    async def complete(self, size: int) -> None:
        self._leave_out(size)
        parts = [self._parts[index] for index in sorted(self._parts)]
        held = sum(part.size for part in parts)
        if sorted(self._parts) != list(range(len(parts))) or held != size:
            raise Invalid(f"{self._name}: {len(parts)} parts hold {held} bytes, not {size}")
        request = wire.CompleteObjectUpload(
            object_id=self._object_id,
            token=self.token,
            size=size,
            etags=[part.etag for part in parts],
            sizes=[part.size for part in parts],
        )
        try:
            await self._store.client.call("complete_object_upload", request)
        except NotFound as error:
            raise NotFound(f"{self._name}: {error}") from error

    async def abort(self) -> None:
        request = wire.AbortObjectUpload(object_id=self._object_id, token=self.token)
        with anyio.move_on_after(CLEANUP_S, shield=True) as scope, contextlib.suppress(NotFound):
            await self._store.client.call("abort_object_upload", request)
        if scope.cancelled_caught:
            raise Unavailable(f"{self._name}: aborting took more than {CLEANUP_S:.0f} s")

    def _leave_out(self, size: int) -> None:
        """Forget parts at the end that only an earlier attempt sent, whose content was longer."""
        surplus = sum(part.size for part in self._parts.values()) - size
        for index in sorted(self._found, reverse=True):
            if surplus <= 0 or index != max(self._parts):
                break
            surplus -= self._parts.pop(index).size

    def _wanted(self, index: int, offset: int) -> wire.WantedUrl:
        return wire.WantedUrl(
            object_id=self._object_id,
            method=UrlMethod.PUT,
            part=index,
            token=self.token,
            offset=offset,
        )

    def _ahead(self, index: int, offset: int, size: int) -> list[wire.WantedUrl]:
        """Parts that will follow, if they are as large as this one and the object as large as was said.

        Not after the first one: it may be larger than the others (see `engine.objects`).
        """
        if not size or not index or self._size_hint is None:
            return []
        left = -(-(self._size_hint - offset) // size) - 1
        return [
            self._wanted(index + step, offset + step * size)
            for step in range(1, min(left, PARTS_AHEAD - 1) + 1)
        ]

    @property
    def _name(self) -> str:
        return self._store.name(self.key)


def _digest(buffers: Sequence[memoryview]) -> bytes:
    hasher = blake3()
    for buffer in buffers:
        hasher.update(buffer)
    return hasher.digest()


def object_id_of(key: str) -> str:
    """The id in the key of an object; a server keeps nothing else."""
    object_id = key.rpartition("/")[2]
    if not _OBJECT_ID.fullmatch(object_id) or key != object_key(object_id):
        raise Invalid(f"{key}: not the key of an object; a server keeps nothing else")
    return object_id
