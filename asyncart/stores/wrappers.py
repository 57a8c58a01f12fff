"""Stores around stores: one that counts, one that fails on request.

For tests, ours and our users': "nothing was read", "at most three requests", "what if the ninth
operation fails, lies, hangs or is cancelled". Both pass the contract that the store inside passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
import anyio.lowlevel

from .protocol import Page, Store, Upload


class CountingStore:
    """Counts requests and bytes per verb, and otherwise does what the store inside does.

    Verbs are the protocol's names; an upload's are `part`, `complete` and `abort`. `requests` and
    `bytes` may be cleared at any time. A verb over many keys counts as one request.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.url = inner.url
        self.part_bytes = inner.part_bytes
        self.is_local = inner.is_local
        self.requests: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.reads: list[tuple[str, int, int]] = []  # (key, offset, length), in the order of asking

    def clear(self) -> None:
        self.requests.clear()
        self.bytes.clear()
        self.reads.clear()

    def count(self, verb: str, size: int = 0) -> None:
        self.requests[verb] += 1
        self.bytes[verb] += size

    def local_path(self, key: str) -> str | None:
        return self.inner.local_path(key)

    async def sizes(self, keys: Sequence[str]) -> dict[str, int]:
        self.count("sizes")
        return await self.inner.sizes(keys)

    async def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        self.count("read_into", buffer.nbytes)
        self.reads.append((key, offset, buffer.nbytes))
        await self.inner.read_into(key, offset, buffer)

    async def write(self, key: str, buffers: Sequence[memoryview]) -> None:
        self.count("write", _length(buffers))
        await self.inner.write(key, buffers)

    async def adopt(self, key: str, local_path: str) -> bool:
        self.count("adopt")
        return await self.inner.adopt(key, local_path)

    async def begin_upload(self, key: str, size_hint: int | None = None) -> Upload:
        self.count("begin_upload")
        return _CountingUpload(self, await self.inner.begin_upload(key, size_hint))

    async def resume_upload(self, key: str, token: str) -> Upload | None:
        self.count("resume_upload")
        upload = await self.inner.resume_upload(key, token)
        return None if upload is None else _CountingUpload(self, upload)

    async def delete(self, keys: Sequence[str]) -> None:
        self.count("delete")
        await self.inner.delete(keys)

    async def list_page(self, prefix: str = "", after: str = "", limit: int = 1000) -> Page:
        self.count("list_page")
        return await self.inner.list_page(prefix, after, limit)

    async def presign(self, key: str, *, method: str = "GET", ttl_s: float = 900) -> str | None:
        self.count("presign")
        return await self.inner.presign(key, method=method, ttl_s=ttl_s)

    async def aclose(self) -> None:
        await self.inner.aclose()


class _CountingUpload:
    def __init__(self, counts: CountingStore, inner: Upload) -> None:
        self._counts = counts
        self._inner = inner
        self.key = inner.key
        self.token = inner.token

    async def part(self, index: int, offset: int, buffers: Sequence[memoryview]) -> None:
        self._counts.count("part", _length(buffers))
        await self._inner.part(index, offset, buffers)

    async def complete(self, size: int) -> None:
        self._counts.count("complete")
        await self._inner.complete(size)

    async def abort(self) -> None:
        self._counts.count("abort")
        await self._inner.abort()


class Operation(NamedTuple):
    """What is about to happen. `number` counts all operations of the store from 0."""

    number: int
    verb: str
    key: str


class Fault(NamedTuple):
    """What shall go wrong with one operation; without any field set, nothing does.

    `call` is called first (for example `scope.cancel`). `stalls` waits until somebody cancels.
    `error` is raised instead of the operation, or, with `is_done`, after it: the answer that got lost.
    `flips` is the position of a byte that is inverted, in what is read or in what is written.
    """

    error: Exception | None = None
    is_done: bool = False
    flips: int | None = None
    stalls: bool = False
    call: Callable[[], object] | None = None


class FaultyStore:
    """Asks `plan`, a plain function, before every operation what shall go wrong with it."""

    def __init__(self, inner: Store, plan: Callable[[Operation], Fault | None]) -> None:
        self.inner = inner
        self.plan = plan
        self.url = inner.url
        self.part_bytes = inner.part_bytes
        self.is_local = inner.is_local
        self.operations: list[Operation] = []

    @asynccontextmanager
    async def operation(self, verb: str, key: str = "") -> AsyncIterator[Fault]:
        operation = Operation(len(self.operations), verb, key)
        self.operations.append(operation)
        fault = self.plan(operation) or Fault()
        if fault.call is not None:
            fault.call()
            await anyio.lowlevel.checkpoint()
        if fault.stalls:
            await anyio.sleep_forever()
        if fault.error is not None and not fault.is_done:
            raise fault.error
        yield fault
        if fault.error is not None:
            raise fault.error

    def local_path(self, key: str) -> str | None:
        return None  # bytes that are read behind our back cannot be made wrong

    async def sizes(self, keys: Sequence[str]) -> dict[str, int]:
        async with self.operation("sizes"):
            return await self.inner.sizes(keys)

    async def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        async with self.operation("read_into", key) as fault:
            await self.inner.read_into(key, offset, buffer)
            if fault.flips is not None:
                buffer.cast("B")[fault.flips] ^= 0xFF

    async def write(self, key: str, buffers: Sequence[memoryview]) -> None:
        async with self.operation("write", key) as fault:
            await self.inner.write(key, _spoilt(buffers, fault))

    async def adopt(self, key: str, local_path: str) -> bool:
        async with self.operation("adopt", key):
            return await self.inner.adopt(key, local_path)

    async def begin_upload(self, key: str, size_hint: int | None = None) -> Upload:
        async with self.operation("begin_upload", key):
            return _FaultyUpload(self, await self.inner.begin_upload(key, size_hint))

    async def resume_upload(self, key: str, token: str) -> Upload | None:
        async with self.operation("resume_upload", key):
            upload = await self.inner.resume_upload(key, token)
            return None if upload is None else _FaultyUpload(self, upload)

    async def delete(self, keys: Sequence[str]) -> None:
        async with self.operation("delete"):
            await self.inner.delete(keys)

    async def list_page(self, prefix: str = "", after: str = "", limit: int = 1000) -> Page:
        async with self.operation("list_page"):
            return await self.inner.list_page(prefix, after, limit)

    async def presign(self, key: str, *, method: str = "GET", ttl_s: float = 900) -> str | None:
        async with self.operation("presign", key):
            return await self.inner.presign(key, method=method, ttl_s=ttl_s)

    async def aclose(self) -> None:
        await self.inner.aclose()


class _FaultyUpload:
    def __init__(self, store: FaultyStore, inner: Upload) -> None:
        self._store = store
        self._inner = inner
        self.key = inner.key
        self.token = inner.token

    async def part(self, index: int, offset: int, buffers: Sequence[memoryview]) -> None:
        async with self._store.operation("part", self.key) as fault:
            await self._inner.part(index, offset, _spoilt(buffers, fault))

    async def complete(self, size: int) -> None:
        async with self._store.operation("complete", self.key):
            await self._inner.complete(size)

    async def abort(self) -> None:
        async with self._store.operation("abort", self.key):
            await self._inner.abort()


def _length(buffers: Sequence[memoryview]) -> int:
    return sum(buffer.nbytes for buffer in buffers)


def _spoilt(buffers: Sequence[memoryview], fault: Fault) -> Sequence[memoryview]:
    if fault.flips is None:
        return buffers
    data = bytearray(b"".join(buffers))
    data[fault.flips] ^= 0xFF
    return [memoryview(data)]
