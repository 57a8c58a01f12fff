"""Objects in a dictionary: a store for tests, ours and our users'.

It passes the same contract as the real ones and keeps nothing. `part_bytes` can be raised so that a
test sees what a bucket would refuse.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

import anyio.lowlevel

from asyncart.errors import Corrupt, Invalid, NotFound

from .protocol import Listed, Page


class MemoryStore:
    is_local = True

    def __init__(self, name: str = "", *, part_bytes: int = 1) -> None:
        self.url = f"memory://{name}"
        self.part_bytes = part_bytes
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, MemoryUpload] = {}  # by token: those neither completed nor aborted
        self._modified_at: dict[str, float] = {}

    def local_path(self, key: str) -> str | None:
        return None

    async def sizes(self, keys: Sequence[str]) -> dict[str, int]:
        await anyio.lowlevel.checkpoint()
        return {key: len(self.objects[key]) for key in keys if key in self.objects}

    async def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        await anyio.lowlevel.checkpoint()
        if key not in self.objects:
            raise NotFound(f"{key}: no such object ({self.url})")
        data = memoryview(self.objects[key])[offset : offset + buffer.nbytes]
        if len(data) < buffer.nbytes:
            raise Corrupt(
                f"{key}: ends {buffer.nbytes - len(data)} bytes too early: "
                f"{buffer.nbytes} wanted from {offset} on, {len(data)} there ({self.url})"
            )
        buffer.cast("B")[:] = data

    async def write(self, key: str, buffers: Sequence[memoryview]) -> None:
        await anyio.lowlevel.checkpoint()
        self._publish(key, b"".join(buffers))

    async def adopt(self, key: str, local_path: str) -> bool:
        return False

    async def begin_upload(self, key: str, size_hint: int | None = None) -> MemoryUpload:
        await anyio.lowlevel.checkpoint()
        upload = MemoryUpload(self, key, uuid.uuid4().hex)
        self.uploads[upload.token] = upload
        return upload

    async def resume_upload(self, key: str, token: str) -> MemoryUpload | None:
        await anyio.lowlevel.checkpoint()
        upload = self.uploads.get(token)
        if upload is None or upload.key != key:
            return None
        upload._found = set(upload._parts)
        return upload

    async def delete(self, keys: Sequence[str]) -> None:
        await anyio.lowlevel.checkpoint()
        for key in keys:
            self.objects.pop(key, None)

    async def list_page(self, prefix: str = "", after: str = "", limit: int = 1000) -> Page:
        await anyio.lowlevel.checkpoint()
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        page = [Listed(key, len(self.objects[key]), self._modified_at[key]) for key in keys[:limit]]
        return Page(page, page[-1].key if page and len(keys) > limit else None)

    async def presign(self, key: str, *, method: str = "GET", ttl_s: float = 900) -> str | None:
        return None

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()

    def _publish(self, key: str, data: bytes) -> None:
        self.objects[key] = data
        self._modified_at[key] = time.time()


class MemoryUpload:
    def __init__(self, store: MemoryStore, key: str, token: str) -> None:
        self.key = key
        self.token = token
        self._store = store
        self._parts: dict[int, tuple[int, bytes]] = {}
        self._found: set[int] = set()  # those that only an earlier attempt sent

    async def part(self, index: int, offset: int, buffers: Sequence[memoryview]) -> None:
        await anyio.lowlevel.checkpoint()
        if self.token not in self._store.uploads:
            raise NotFound(f"{self.key}: this upload is over; begin a new one")
        self._found.discard(index)
        self._parts[index] = offset, b"".join(buffers)

    async def complete(self, size: int) -> None:
        await anyio.lowlevel.checkpoint()
        if self.token not in self._store.uploads:
            if (
                len(self._store.objects.get(self.key, b"")) == size
                and self.key in self._store.objects
            ):
                return  # completed before
            raise NotFound(f"{self.key}: this upload is over; begin a new one")
        self._store._publish(self.key, self._joined(size))
        del self._store.uploads[self.token]

    async def abort(self) -> None:
        self._store.uploads.pop(self.token, None)

    def _joined(self, size: int) -> bytes:
        for index in [index for index in self._found if self._parts[index][0] >= size]:
            del self._parts[index]
        parts = [self._parts[index] for index in sorted(self._parts)]
        held = 0
        for number, (offset, data) in enumerate(parts):
            is_last = number == len(parts) - 1
            if offset != held or (len(data) < self._store.part_bytes and not is_last):
                break
            held += len(data)
        if held != size or sorted(self._parts) != list(range(len(parts))):
            raise Invalid(f"{self.key}: the parts hold {held} bytes without a gap, not {size}")
        return b"".join(data for _, data in parts)
