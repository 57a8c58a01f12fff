"""Uploads in parts: begun, continued and completed by the server, their parts sent straight to the store.

In a bucket, the bucket itself knows which parts it has. Of a folder's uploads this process knows; after a
restart of the server they are gone, and clients begin anew. Parts carry no checksums of the store's kind:
what they would be is not known when a URL is signed, and every byte is verified when it is read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio

from ..errors import Conflict, Invalid, NotFound, TransferError
from ..model import object_key
from ..stores.protocol import Upload
from ..wire import ObjectUpload
from .storing import of_store

if TYPE_CHECKING:
    from ..stores.s3 import S3Store, S3Upload
    from .context import ServerContext

KEEP_S = 24 * 3600.0  # an upload in a folder that nobody has touched for so long is dropped
MOST_OPEN = 10_000  # in a folder, at once

Parts = Sequence[tuple[int, str]]  # size and ETag of each, in order


class OpenUpload:
    """An upload into a folder. `parts`: size and ETag of those that arrived whole, by index."""

    def __init__(self, upload: Upload) -> None:
        self.upload = upload
        self.parts: dict[int, tuple[int, str]] = {}
        self.used_at = time.monotonic()
        self.lock = anyio.Lock()  # of completing and aborting

    def touch(self) -> None:
        self.used_at = time.monotonic()


class OpenUploads:
    """Those of this process, by their tokens."""

    def __init__(self) -> None:
        self._open: dict[str, OpenUpload] = {}

    def find(self, key: str, token: str) -> OpenUpload | None:
        found = self._open.get(token)
        if found is None or found.upload.key != key:
            return None
        found.touch()
        return found

    def newest(self, key: str) -> OpenUpload | None:
        return next(
            (each for each in reversed(self._open.values()) if each.upload.key == key), None
        )

    async def add(self, upload: Upload) -> None:
        await self._drop_old()
        self._open[upload.token] = OpenUpload(upload)

    def remove(self, token: str) -> None:
        self._open.pop(token, None)

    async def _drop_old(self) -> None:
        limit = time.monotonic() - KEEP_S
        old = [token for token, each in self._open.items() if each.used_at < limit]
        if len(self._open) - len(old) >= MOST_OPEN:
            old.append(min(self._open, key=lambda token: self._open[token].used_at))
        for token in old:
            dropped = self._open.pop(token, None)
            if dropped is not None:
                await dropped.upload.abort()


async def begin(context: ServerContext, object_id: str, size_hint: int | None) -> ObjectUpload:
    key = object_key(object_id)
    if (bucket := _bucket(context)) is not None:
        with of_store():
            return ObjectUpload(token=(await bucket.begin_with(key, None)).token)
    upload = await context.store.begin_upload(key, size_hint)
    await context.open_uploads.add(upload)
    return ObjectUpload(token=upload.token)


async def resume(context: ServerContext, object_id: str, token: str) -> ObjectUpload | None:
    """None if it is gone. With an empty token: the newest one of that object."""
    key = object_key(object_id)
    if _bucket(context) is not None:
        found = await _resumed(context, key, token)
        if found is None:
            return None
        parts = [(part.number - 1, part.size, part.etag) for part in found.parts]
        return ObjectUpload(token=found.token, parts=parts)
    opened = context.open_uploads.find(key, token) if token else context.open_uploads.newest(key)
    if opened is None:
        return None
    held = sorted((index, size, etag) for index, (size, etag) in opened.parts.items())
    return ObjectUpload(token=opened.upload.token, parts=held)


async def complete(
    context: ServerContext, object_id: str, token: str, size: int, parts: Parts
) -> None:
    """Make the object visible; again after a lost answer: the same."""
    key = object_key(object_id)
    if sum(length for length, _ in parts) != size:
        raise Invalid(f"object {object_id}: its parts do not have its {size} bytes together")
    if (bucket := _bucket(context)) is not None:
        await _complete_in_bucket(bucket, object_id, token, size, parts)
        return
    opened = context.open_uploads.find(key, token)
    if opened is None:
        await _check_completed(context, object_id, size)
        return
    async with opened.lock:
        _check_parts(object_id, opened.parts, parts)
        # Continued, because it may have got parts behind the end: those are cut off.
        whole = await context.store.resume_upload(key, token)
        if whole is None:
            await _check_completed(context, object_id, size)
        else:
            await whole.complete(size)
        context.open_uploads.remove(token)


async def _complete_in_bucket(
    bucket: S3Store, object_id: str, token: str, size: int, parts: Parts
) -> None:
    """With the client's ETags: the bucket compares them with what it has, and listings may lag behind.
    What it is not told of is no part of the object."""
    from ..stores.s3 import Part, S3Upload, Token

    known = Token.parse(token)
    if known is None:
        raise NotFound(f"there is no upload of object {object_id} (any more); begin it anew")
    sent = [Part(index + 1, length, etag) for index, (length, etag) in enumerate(parts)]
    try:
        await S3Upload(bucket, object_key(object_id), known, sent).complete(size)
    except TransferError as error:
        raise Conflict(
            f"object {object_id}: its parts are not what was sent; send them again"
        ) from error
    except NotFound:
        raise NotFound(
            f"there is no upload of object {object_id} (any more); begin it anew"
        ) from None


async def abort(context: ServerContext, object_id: str, token: str) -> None:
    """Nothing happens if it is gone."""
    key = object_key(object_id)
    if _bucket(context) is not None:
        found = await _resumed(context, key, token)
        if found is not None:
            with of_store():
                await found.abort()
        return
    opened = context.open_uploads.find(key, token)
    if opened is not None:
        async with opened.lock:
            context.open_uploads.remove(token)
            await opened.upload.abort()


def _bucket(context: ServerContext) -> S3Store | None:
    if context.store.is_local:
        return None
    from ..stores.s3 import S3Store

    return context.store if isinstance(context.store, S3Store) else None


async def _resumed(context: ServerContext, key: str, token: str) -> S3Upload | None:
    bucket = _bucket(context)
    assert bucket is not None
    with of_store():
        return await bucket.resume_upload(key, token)


async def _check_completed(context: ServerContext, object_id: str, size: int) -> None:
    """The upload is gone: fine, if that is because it was completed before."""
    key = object_key(object_id)
    with of_store():
        there = (await context.store.sizes([key])).get(key)
    if there != size:
        raise NotFound(f"there is no upload of object {object_id} (any more); begin it anew")


def _check_parts(object_id: str, held: dict[int, tuple[int, str]], parts: Parts) -> None:
    """What is to be made visible is what the client believes to have sent, side by side."""
    offset = 0
    for index, (size, etag) in enumerate(parts):
        there = held.get(index)
        if there is None or there != (size, part_etag(index, offset, size)) or there[1] != etag:
            raise Conflict(f"object {object_id}: part {index} is not what was sent; send it again")
        offset += size


def part_etag(index: int, offset: int, size: int) -> str:
    """Of a part in a folder: where it lies there."""
    return f'"{index}-{offset}-{size}"'
