"""The store of a server keeps the store's promises: the same suite, over signed URLs.

Behind it is a folder, whose bytes go through the server, or a bucket, whose bytes do not.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import store_kinds
import test_stores as suite
from served import RegisteringStore, serving

from asyncart import wire
from asyncart.catalog import open_catalog
from asyncart.catalog.http import HttpCatalog
from asyncart.catalog.sql import SqlCatalog
from asyncart.errors import Conflict, Denied, Invalid
from asyncart.model import new_object_id, object_key
from asyncart.net.control import ServerClient
from asyncart.stores.server import ServerStore

# A server keeps objects, and nothing under keys of other forms.
NOT_HERE = {"test_a_prefix_is_plain_text_and_may_end_inside_a_name"}

for _name in dir(suite):
    if _name.startswith("test_") and _name not in NOT_HERE:
        globals()[_name] = getattr(suite, _name)


@pytest.fixture(params=[store_kinds.local, store_kinds.s3], ids=["folder", "bucket"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RegisteringStore]:
    if request.param in store_kinds.ON_SERVER:
        request.getfixturevalue("aws_environment")
    behind = await open_catalog(f"sqlite:///{tmp_path}/catalog.db")
    assert isinstance(behind, SqlCatalog)
    async with request.param(tmp_path) as bytes_behind, serving(behind, bytes_behind) as origin:
        client = ServerClient(origin)
        catalog = HttpCatalog(client)
        me = await client.ask(wire.Me, "about_me", wire.AboutMe())
        session = await catalog.begin_session("me")
        store = RegisteringStore(client, me, catalog, session, bytes_behind)
        yield store
        await store.aclose()
        await catalog.aclose()
    await behind.aclose()


async def test_what_exists_is_the_catalogs_business(store: RegisteringStore) -> None:
    with pytest.raises(Denied, match="cannot be listed"):
        await ServerStore.list_page(store)


@pytest.mark.parametrize("key", ["a", "objects/ab/cd", "objects/ab/../../x", ""])
async def test_only_objects_have_a_place(store: RegisteringStore, key: str) -> None:
    with pytest.raises(Invalid, match="not the key of an object"):
        await store.read_into(key, 0, memoryview(bytearray(1)))


@pytest.mark.parametrize("size", [0, 1, 5 << 20])
async def test_an_object_that_arrived_unnoticed_is_written(
    store: RegisteringStore, size: int
) -> None:
    """The answer got lost, and it is sent again: the same bytes are no collision. Others are, in a bucket
    that can tell; a folder takes the newest, until they are stored."""
    key = object_key(new_object_id(1))
    data = os.urandom(size)
    for _ in range(2):
        await store.write(key, [memoryview(data)[:1], memoryview(data)[1:]])
    other = os.urandom(size + 1)
    if store.behind.is_local:
        await store.write(key, [memoryview(other)])
        return
    for changed in (other, *([bytes([data[0] ^ 1]) + data[1:]] if size else [])):
        with pytest.raises(Conflict):
            await store.write(key, [memoryview(changed)])
    there = memoryview(bytearray(size))
    await store.read_into(key, 0, there)
    assert there.tobytes() == data
    assert await store.presign(key, method="PUT") is None
