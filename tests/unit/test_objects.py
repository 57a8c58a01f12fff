"""The writer of one object: what it holds of the budget, and what it gives back before anybody waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from asyncart.aio.ledger import Ledger
from asyncart.catalog import open_catalog
from asyncart.engine import objects
from asyncart.engine.objects import ObjectWriter
from asyncart.engine.tasks import task_group
from asyncart.model import object_key
from asyncart.net.budget import SMALLEST_CLASS, Budget
from asyncart.stores.memory import MemoryStore

KIB = 1 << 10
PART = 64 * KIB


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MULTIPART_BYTES", 2 * PART)


@asynccontextmanager
async def ledger(folder: Path) -> AsyncIterator[Ledger]:
    """A session with a catalog of its own."""
    catalog = await open_catalog(str(folder / "catalog.sqlite"))
    try:
        async with Ledger.open(catalog, "local") as opened:
            yield opened
    finally:
        await catalog.aclose()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore("x", part_bytes=PART)


async def append(writer: ObjectWriter, budget: Budget, data: bytes, held_bytes: int) -> None:
    """These bytes, in a leased buffer that is as large as said."""
    lease = await budget.take(held_bytes)
    lease.buffer[: len(data)] = data
    await writer.append([lease.buffer[: len(data)]], data[:32], lease.release, held_bytes)


async def test_enough_for_a_part_is_sent_before_anybody_waits(
    tmp_path: Path, store: MemoryStore
) -> None:
    """It would have waited for more: the first part of an object is a larger one."""
    budget = Budget(1 << 20)
    data = bytes(range(256)) * (PART // 256)
    async with ledger(tmp_path) as index, task_group() as group:
        writer = ObjectWriter(store, index, group, budget=budget)
        await append(writer, budget, data, PART)
        assert not store.uploads
        assert await writer.let_go()
        await append(writer, budget, data[:100], 100)
        await writer.finish()
    assert budget.used_bytes == 0
    assert store.objects[object_key(writer.object_id)] == data + data[:100]


async def test_too_little_for_a_part_is_given_back_by_finishing(
    tmp_path: Path, store: MemoryStore
) -> None:
    budget = Budget(1 << 20)
    async with ledger(tmp_path) as index, task_group() as group:
        writer = ObjectWriter(store, index, group, budget=budget)
        await append(writer, budget, b"x" * 20 * KIB, 20 * KIB)
        assert not await writer.let_go()
        await writer.finish()
    assert budget.used_bytes == 0
    assert len(store.objects[object_key(writer.object_id)]) == 20 * KIB


async def test_little_of_a_large_buffer_moves_into_a_small_one(
    tmp_path: Path, store: MemoryStore
) -> None:
    """Of the same budget: nothing lies beside it."""
    budget = Budget(1 << 20)
    async with ledger(tmp_path) as index, task_group() as group:
        writer = ObjectWriter(store, index, group, budget=budget)
        for number in range(3):
            await append(writer, budget, bytes([number]) * KIB, 512 * KIB)
            assert budget.used_bytes == (number + 1) * SMALLEST_CLASS
        await writer.finish()
    assert budget.used_bytes == 0
    assert store.objects[object_key(writer.object_id)] == b"".join(
        bytes([number]) * KIB for number in range(3)
    )


async def test_where_there_is_no_small_one_the_large_one_is_kept_until_it_is_sent(
    tmp_path: Path, store: MemoryStore
) -> None:
    budget = Budget(512 * KIB)
    async with ledger(tmp_path) as index, task_group() as group:
        writer = ObjectWriter(store, index, group, budget=budget)
        await append(writer, budget, b"x" * KIB, 512 * KIB)
        assert budget.used_bytes == 512 * KIB
        assert not await writer.let_go()
        await writer.finish()
    assert budget.used_bytes == 0
    assert budget.peak_bytes == 512 * KIB
    assert store.objects[object_key(writer.object_id)] == b"x" * KIB
