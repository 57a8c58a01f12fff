"""What a complaint about an object leads to: the server reads everything that is said to lie in it."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from talk import ENTITY, PROJECT, Talk, digest, draft, in_folder, served

from asyncart.catalog.http import HttpCatalog
from asyncart.engine.manifest import ContentDigest, ManifestWriter
from asyncart.errors import Unavailable
from asyncart.model import Entry, Extent, ManifestLocation, object_key
from asyncart.net.control import ServerClient
from asyncart.server import verification
from asyncart.wire import MAX_COMPLAINTS

NAME = {"entity": ENTITY, "project": PROJECT, "collection": "data", "selector": "latest"}


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncIterator[Talk]:
    async with served(*in_folder(tmp_path)) as talk:
        yield talk


async def with_version(
    talk: Talk, entries: int = 1500, listed: bytes | None = None
) -> tuple[str, ManifestLocation]:
    """A version whose manifest is a real one, of several blocks, and the object of its files. `listed`: the
    digest that the version says it has."""
    session_id = await talk.session()
    object_id = await talk.stored(session_id, b"x")
    writer = ManifestWriter()
    files = [
        Entry(f"f{number:06}", digest(b"x"), 1, (Extent(object_id, 0, 1),))
        for number in range(entries)
    ]
    data = b"".join(writer.append(files)) + writer.finish()
    manifest_id = await talk.stored(session_id, data)
    location = writer.location(manifest_id)
    whole = ContentDigest()
    whole.update_many([each.path for each in files], [each.digest for each in files])
    said = draft(session_id, b"x", manifest_id, object_ids=[object_id], manifest=location)
    (await talk.ask("commit_version", **{**said, "digest": listed or whole.digest()})).ok()
    return object_id, location


async def flip(talk: Talk, object_id: str, offset: int) -> None:
    """Change one byte of a stored object."""
    store, key = talk.context.store, object_key(object_id)
    data = bytearray((await store.sizes([key]))[key])
    await store.read_into(key, 0, memoryview(data))
    data[offset] ^= 1
    await store.delete([key])
    await store.write(key, [memoryview(data)])


async def is_damaged(talk: Talk) -> bool:
    return bool((await talk.ask("resolve", **NAME)).ok()["version"]["is_damaged"])


async def complain(talk: Talk, object_id: str) -> bool:
    """Whether the version is damaged after it."""
    (await talk.ask("mark_damaged", object_ids=[object_id])).ok()
    return await is_damaged(talk)


async def without_its_own_digest(talk: Talk, object_id: str) -> None:
    """A manifest is no content of its own: only its footer tells what is right."""
    from sqlalchemy import delete

    from asyncart.catalog.tables import contents

    def forget(conn: Any) -> None:
        conn.execute(delete(contents).where(contents.c.size > 1))

    await talk.context.database.write(forget)


@pytest.mark.parametrize("where", ["first block", "last block", "footer", "magic"])
async def test_a_manifest_is_read_to_its_end(talk: Talk, where: str) -> None:
    _, location = await with_version(talk)
    await without_its_own_digest(talk, location.object_id)
    assert not await complain(talk, location.object_id)
    footer_at = location.size - location.footer_bytes
    offset = {
        "first block": 5,
        "last block": footer_at - 1,
        "footer": footer_at,
        "magic": location.size - 1,
    }[where]
    await flip(talk, location.object_id, offset)
    assert await complain(talk, location.object_id)


@pytest.mark.parametrize("entries", [1, 1500])
async def test_a_list_of_other_files_is_damage(talk: Talk, entries: int) -> None:
    """Its bytes are those that were written: only all of them together are not what the version says."""
    _, right = await with_version(talk, entries)
    assert not await complain(talk, right.object_id)
    _, other = await with_version(talk, entries, listed=digest(b"other files"))
    assert not await is_damaged(talk)
    assert await complain(talk, other.object_id)
    first = (await talk.ask("resolve", **{**NAME, "selector": "v0"})).ok()["version"]
    assert not first["is_damaged"]


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
async def test_every_chunk_is_read(talk: Talk, offset: int) -> None:
    session_id = await talk.session()
    object_id, answer = await talk.registered(session_id, want_url=True)
    assert (await talk.raw("PUT", answer["url"]["url"], data=b"abcd")).status == 200
    chunks = [
        [[base64.b64encode(digest(b"ab")).decode(), 2], 0],
        [[base64.b64encode(digest(b"cd")).decode(), 2], 2],
    ]
    objects = [{"object_id": object_id, "size": 4, "chunks": chunks}]
    (await talk.ask("add_stored", session_id=session_id, objects=objects, contents=[])).ok()
    manifest_id = await talk.stored(session_id, b"manifest")
    said = draft(session_id, b"abcd", manifest_id, object_ids=[object_id])
    (await talk.ask("commit_version", **said)).ok()
    assert not await complain(talk, object_id)
    await flip(talk, object_id, offset)
    assert await complain(talk, object_id)


@pytest.mark.parametrize("change", ["missing", "shorter", "longer"])
async def test_an_object_has_its_size(talk: Talk, change: str) -> None:
    object_id, _ = await with_version(talk, 1)
    store, key = talk.context.store, object_key(object_id)
    await store.delete([key])
    if change != "missing":
        await store.write(key, [memoryview(b"" if change == "shorter" else b"xx")])
    assert await complain(talk, object_id)


async def test_an_impossible_manifest_is_no_reason_to_fetch_it_all(talk: Talk) -> None:
    """Its writer can say what he likes of its footer; memory is not given for it."""
    session_id = await talk.session()
    manifest_id = await talk.stored(session_id, b"manifest of x")
    for footer_bytes in (1 << 40, 14):
        location = {
            "object_id": manifest_id,
            "size": 13,
            "footer_bytes": footer_bytes,
            "footer_digest": digest(b"footer"),
        }
        said = draft(session_id, os.urandom(8), manifest_id, manifest=location)
        (await talk.ask("commit_version", **said)).ok()
    assert await complain(talk, manifest_id)


async def test_nothing_is_said_when_there_was_no_time_to_read(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_id, _ = await with_version(talk, 1)
    monkeypatch.setattr(verification, "PATIENCE_S", 0.0)
    with pytest.raises(Unavailable, match="ask for fewer"):
        await verification.damaged(talk.context, [object_id])


async def test_objects_that_nobody_has_are_no_complaint(talk: Talk) -> None:
    (await talk.ask("mark_damaged", object_ids=[os.urandom(16).hex()])).ok()


async def test_a_complaint_names_so_many_objects_and_no_more(talk: Talk) -> None:
    """Each of them would be read; our own client asks several times."""
    names = [os.urandom(16).hex() for _ in range(MAX_COMPLAINTS + 1)]
    (await talk.ask("mark_damaged", object_ids=names[1:])).ok()
    said = await talk.ask("mark_damaged", object_ids=names)
    assert "ask several times" in said.refused(422, "invalid")
    catalog = HttpCatalog(ServerClient(talk.url))
    await catalog.mark_damaged(names)
    await catalog.aclose()
