"""What is stored in a bucket is not replaced by the URL that it was sent to, where the bucket can see to it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from services import S3Server
from sqlalchemy import func, select
from talk import Talk, served

from asyncart.catalog.tables import objects, sessions
from asyncart.server import overwriting
from asyncart.server.overwriting import Overwriting
from asyncart.stores import probe
from asyncart.stores.presigned import ONLY_NEW, Presigner


@pytest.fixture
async def talk(aws_environment: S3Server, tmp_path: Path) -> AsyncIterator[Talk]:
    store = f"s3://{aws_environment.bucket}/server-{os.urandom(4).hex()}"
    async with served(str(tmp_path / "catalog.sqlite"), store) as talk:
        yield talk


async def url_to_put(talk: Talk, session_id: str) -> tuple[str, dict[str, Any]]:
    object_id, answer = await talk.registered(session_id, want_url=True)
    return object_id, answer["url"]


async def bytes_of(talk: Talk, object_id: str) -> bytes:
    said = await talk.ask("sign_urls", wanted=[{"object_id": object_id, "method": "GET"}])
    body: bytes = (await talk.raw("GET", said.ok()["urls"][0]["url"])).body
    return body


def ignoring(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a bucket that does not know the condition."""
    url = Presigner.url

    def without(self: Presigner, *args: Any, is_only_new: bool = False, **kwargs: Any) -> str:
        return url(self, *args, **kwargs)

    monkeypatch.setattr(Presigner, "url", without)
    monkeypatch.setattr(probe, "ONLY_NEW", {})


async def facts(talk: Talk) -> str | None:
    store: Any = talk.context.store
    endpoint = store.access.settings.endpoint_url
    return await talk.context.catalog.get_fact(f"writes once {store.url} {endpoint}")


async def test_an_old_url_replaces_nothing(talk: Talk) -> None:
    """Neither before the object is called stored, nor after that; nor without the condition."""
    session_id = await talk.session()
    object_id, signed = await url_to_put(talk, session_id)
    assert signed["headers"] == ONLY_NEW
    assert (await talk.raw("PUT", signed["url"], data=b"other")).status == 403
    assert (await talk.send(signed, b"first")).status == 200
    assert (await talk.send(signed, b"other")).status == 412
    objects = [{"object_id": object_id, "size": 5}]
    (await talk.ask("add_stored", session_id=session_id, objects=objects, contents=[])).ok()
    assert (await talk.send(signed, b"other")).status == 412
    assert (await talk.raw("PUT", signed["url"], data=b"other")).status == 403
    assert await bytes_of(talk, object_id) == b"first"
    assert await facts(talk) == overwriting.YES


async def test_asking_leaves_nothing(talk: Talk) -> None:
    """No object, neither in the bucket nor in the catalog, and no session that lives."""
    store: Any = talk.context.store
    assert await talk.context.overwriting.is_prevented(store)
    assert (await store.list_page()).objects == []

    def left(conn: Any) -> tuple[int, int]:
        living = select(func.count()).select_from(sessions).where(~sessions.c.is_over)
        known = select(func.count()).select_from(objects)
        return conn.execute(living).scalar_one(), conn.execute(known).scalar_one()

    assert await talk.context.database.read(left) == (0, 0)


async def test_a_bucket_that_replaces_gets_plain_urls(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is found out once for all replicas, and said in the log."""
    store: Any = talk.context.store
    with monkeypatch.context() as patched:
        ignoring(patched)
        _, signed = await url_to_put(talk, await talk.session())
    assert signed["headers"] == {}
    assert (await talk.send(signed, b"first")).status == 200
    assert await facts(talk) == overwriting.NO
    assert "does not honour If-None-Match" in caplog.text

    async def never(*args: object) -> bool:
        raise AssertionError("asked twice")

    monkeypatch.setattr(probe, "writes_once", never)
    assert not await Overwriting(talk.context.catalog, "local").is_prevented(store)


async def test_what_is_not_known_is_asked_again(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, because it may have been a bad moment; meanwhile URLs are plain, and at once."""
    store: Any = talk.context.store
    with monkeypatch.context() as patched:
        patched.setattr(probe, "ONLY_NEW", {"If-None-Match": "another"})  # the bucket says 403
        session_id = await talk.session()
        _, signed = await url_to_put(talk, session_id)
        assert signed["headers"] == {}
    assert (await talk.send(signed, b"first")).status == 200
    assert await facts(talk) is None
    assert not await talk.context.overwriting.is_prevented(store)
    monkeypatch.setattr(overwriting, "AGAIN_S", 0.0)
    fresh = Overwriting(talk.context.catalog, "local")
    with monkeypatch.context() as patched:
        patched.setattr(probe, "ONLY_NEW", {"If-None-Match": "another"})
        assert not await fresh.is_prevented(store)
    assert await fresh.is_prevented(store)


async def test_urls_of_parts_and_reading_are_plain(talk: Talk) -> None:
    """Those of parts end with their upload, and reading changes nothing."""
    object_id, _ = await url_to_put(talk, await talk.session())
    token = (await talk.ask("begin_object_upload", object_id=object_id)).ok()["token"]
    wanted = [
        {"object_id": object_id, "method": "GET"},
        {"object_id": object_id, "method": "PUT", "part": 0, "token": token},
        {"object_id": object_id, "method": "PUT"},
    ]
    urls = (await talk.ask("sign_urls", wanted=wanted)).ok()["urls"]
    assert [url["headers"] for url in urls] == [{}, {}, ONLY_NEW]
