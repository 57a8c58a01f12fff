"""Every kind of store that must pass the contract, each one opened afresh for one test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from asyncart.stores import open_store
from asyncart.stores.cache import CachedStore, ObjectCache
from asyncart.stores.memory import MemoryStore
from asyncart.stores.protocol import Store
from asyncart.stores.wrappers import CountingStore, FaultyStore

CACHE_BYTES = 8 << 20
LARGE_PART = 4096  # a stand-in for S3's 5 MiB, where the store lets us choose


@asynccontextmanager
async def memory(folder: Path) -> AsyncIterator[Store]:
    yield MemoryStore(folder.name)


@asynccontextmanager
async def memory_in_large_parts(folder: Path) -> AsyncIterator[Store]:
    yield MemoryStore(folder.name, part_bytes=LARGE_PART)


@asynccontextmanager
async def local(folder: Path) -> AsyncIterator[Store]:
    async with opened(str(folder / "store")) as store:
        yield store


@asynccontextmanager
async def counting(folder: Path) -> AsyncIterator[Store]:
    async with local(folder) as store:
        yield CountingStore(store)


@asynccontextmanager
async def faultless(folder: Path) -> AsyncIterator[Store]:
    async with local(folder) as store:
        yield FaultyStore(store, lambda operation: None)


@asynccontextmanager
async def cached(folder: Path) -> AsyncIterator[Store]:
    """Every first read fills the cache, every other one is served from it."""
    yield CachedStore(MemoryStore(folder.name), ObjectCache(folder / "cache", CACHE_BYTES))


@asynccontextmanager
async def cached_s3(folder: Path) -> AsyncIterator[Store]:
    async with s3(folder) as store:
        yield CachedStore(store, ObjectCache(folder / "cache", CACHE_BYTES))


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Store]:
    store = await open_store(url, **options)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def s3(folder: Path) -> AsyncIterator[Store]:
    """In the bucket that the environment leads to, under a prefix of its own."""
    async with opened(f"s3://{os.environ['ASYNCART_TEST_BUCKET']}/{folder.name}") as store:
        yield store


KINDS = [memory, memory_in_large_parts, local, counting, faultless, s3, cached, cached_s3]
ON_SERVER = (s3, cached_s3)


def views(*pieces: bytes) -> list[memoryview]:
    return [memoryview(piece) for piece in pieces]


async def read(store: Store, key: str, length: int, offset: int = 0) -> bytes:
    buffer = bytearray(length)
    await store.read_into(key, offset, memoryview(buffer))
    return bytes(buffer)


async def send(store: Store, key: str, parts: Sequence[bytes]) -> None:
    """An upload in parts, in order."""
    upload = await store.begin_upload(key, sum(map(len, parts)))
    offset = 0
    for index, part in enumerate(parts):
        await upload.part(index, offset, views(part))
        offset += len(part)
    await upload.complete(offset)
