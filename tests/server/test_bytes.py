"""Bytes through the server: what a URL allows, and what an interrupted transfer leaves behind."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from talk import Talk, fresh_object, in_folder, served

from asyncart.server import bytes as served_bytes
from asyncart.server.context import ServerSettings
from asyncart.stores.protocol import Upload

MIB = 1 << 20


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncIterator[Talk]:
    async with served(*in_folder(tmp_path)) as talk:
        yield talk


async def put_url(talk: Talk) -> tuple[str, str]:
    object_id, answer = await talk.registered(await talk.session(), want_url=True)
    return object_id, answer["url"]["url"]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "store" in path.parts]


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB])
async def test_what_was_put_is_what_is_got(talk: Talk, size: int) -> None:
    data = os.urandom(size)
    object_id = await talk.stored(await talk.session(), data)
    said = (await talk.ask("sign_urls", wanted=[{"object_id": object_id, "method": "GET"}])).ok()
    got = await talk.raw("GET", said["urls"][0]["url"])
    assert (got.status, got.body) == (200, data)
    assert int(got.headers["Content-Length"]) == size


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=0-", slice(0, None)),
        ("bytes=5-7", slice(5, 8)),
        ("bytes=-3", slice(-3, None)),
        ("bytes=8-100", slice(8, None)),
    ],
)
async def test_ranges(talk: Talk, asked: str, expected: slice) -> None:
    data = b"0123456789"
    object_id = await talk.stored(await talk.session(), data)
    said = (await talk.ask("sign_urls", wanted=[{"object_id": object_id, "method": "GET"}])).ok()
    got = await talk.raw("GET", said["urls"][0]["url"], headers={"Range": asked})
    assert (got.status, got.body) == (206, data[expected])


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=5-4", "bytes=x", "bytes=-", "chars=1-2"])
async def test_ranges_that_cannot_be(talk: Talk, asked: str) -> None:
    object_id = await talk.stored(await talk.session(), b"0123456789")
    said = (await talk.ask("sign_urls", wanted=[{"object_id": object_id, "method": "GET"}])).ok()
    got = await talk.raw("GET", said["urls"][0]["url"], headers={"Range": asked})
    assert got.status == 416


@pytest.mark.parametrize("change", ["object", "method", "expires", "part", "signature", "none"])
async def test_a_url_is_for_what_it_was_signed_for(talk: Talk, change: str) -> None:
    """Every field of it is under the signature."""
    session_id = await talk.session()
    object_id = await talk.stored(session_id, b"mine")
    other = await talk.stored(session_id, b"other")
    said = (await talk.ask("sign_urls", wanted=[{"object_id": object_id, "method": "GET"}])).ok()
    url = said["urls"][0]["url"]
    changed = {
        "object": url.replace(object_id, other),
        "method": url,
        "expires": url.replace("expires=", "expires=9"),
        "part": url + "&part=0",
        "signature": url[:-1] + ("0" if url[-1] != "0" else "1"),
        "none": url.partition("?")[0],
    }[change]
    if change == "method":
        (await talk.raw("PUT", changed, data=b"bad")).refused(403, "denied")
    else:
        (await talk.raw("GET", changed)).refused(403, "denied")
    assert (await talk.raw("GET", url)).body == b"mine"


async def test_a_url_expires(tmp_path: Path) -> None:
    """By the server's clock."""
    settings = ServerSettings(url_ttl_s=10.0)
    async with served(*in_folder(tmp_path), settings) as talk:
        now = 1000.0
        talk.context.clock = lambda: now
        _, url = await put_url(talk)
        now = 1011.0
        assert "expired" in (await talk.raw("PUT", url, data=b"x")).refused(403, "denied")
        now = 1009.0
        assert (await talk.raw("PUT", url, data=b"x")).status == 200


async def test_a_stored_object_does_not_change_any_more(talk: Talk) -> None:
    """Also for whoever still has the URL that it was sent to."""
    session_id = await talk.session()
    object_id, answer = await talk.registered(session_id, want_url=True)
    url = answer["url"]["url"]
    assert (await talk.raw("PUT", url, data=b"first")).status == 200
    assert (await talk.raw("PUT", url, data=b"again")).status == 200  # a lost answer
    objects = [{"object_id": object_id, "size": 5}]
    (await talk.ask("add_stored", session_id=session_id, objects=objects, contents=[])).ok()
    (await talk.raw("PUT", url, data=b"other")).refused(403, "denied")


async def test_a_slow_put_replaces_nothing_that_was_stored_meanwhile(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was begun when it was allowed, and ends when it is not any more."""
    session_id = await talk.session()
    object_id, answer = await talk.registered(session_id, want_url=True)
    url = answer["url"]["url"]
    begun = anyio.Event()
    begin_upload = talk.context.store.begin_upload

    async def watched(key: str, size_hint: int | None = None) -> Upload:
        begun.set()
        return await begin_upload(key, size_hint)

    monkeypatch.setattr(talk.context.store, "begin_upload", watched)
    host, port = talk.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"PUT {url.removeprefix(talk.url)} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\n"
    writer.write(head.encode() + b"sl")
    await writer.drain()
    with anyio.fail_after(20):
        await begun.wait()
        assert (await talk.raw("PUT", url, data=b"first")).status == 200
        objects = [{"object_id": object_id, "size": 5}]
        (await talk.ask("add_stored", session_id=session_id, objects=objects, contents=[])).ok()
        writer.write(b"ow!")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 403 ")
    writer.close()
    await writer.wait_closed()
    said = (await talk.ask("sign_urls", wanted=[{"object_id": object_id, "method": "GET"}])).ok()
    assert (await talk.raw("GET", said["urls"][0]["url"])).body == b"first"
    assert len(files(tmp_path)) == 1


async def test_an_interrupted_put_leaves_nothing(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an object nor a temp file."""
    begun, given_up = anyio.Event(), anyio.Event()
    store = talk.context.store
    begin_upload = store.begin_upload

    async def watched(key: str, size_hint: int | None = None) -> Upload:
        upload = await begin_upload(key, size_hint)
        part, abort = upload.part, upload.abort

        async def part_and_tell(*args: Any) -> None:
            await part(*args)
            begun.set()

        async def abort_and_tell() -> None:
            await abort()
            given_up.set()

        upload.part, upload.abort = part_and_tell, abort_and_tell  # type: ignore[method-assign]
        return upload

    monkeypatch.setattr(store, "begin_upload", watched)
    object_id, url = await put_url(talk)
    host, port = talk.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    path = url.removeprefix(talk.url)
    head = f"PUT {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {4 * MIB}\r\n\r\n"
    writer.write(head.encode() + bytes(2 * MIB))
    await writer.drain()
    with anyio.fail_after(20):
        await begun.wait()
        assert len(files(tmp_path)) == 1
        writer.close()
        await writer.wait_closed()
        await given_up.wait()
    assert files(tmp_path) == []
    assert (await talk.ask("object_sizes", object_ids=[object_id])).ok() == {"sizes": {}}


async def test_a_put_says_how_long_it_is(talk: Talk) -> None:
    _, url = await put_url(talk)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    (await talk.raw("PUT", url, data=chunks())).refused(411, "invalid")
    headers = {"Content-Encoding": "gzip"}
    (await talk.raw("PUT", url, data=b"x", headers=headers)).refused(415, "invalid")


async def test_parts_in_any_order_and_again(talk: Talk) -> None:
    """A part that is sent again replaces itself; one that was cut off does not count."""
    object_id, _ = await talk.registered(await talk.session())
    token = (await talk.ask("begin_object_upload", object_id=object_id)).ok()["token"]
    data = os.urandom(2 * MIB + 5)
    spans = [(0, MIB + 3), (MIB + 3, 2 * MIB + 5)]

    async def send(index: int) -> str:
        wanted = {
            "object_id": object_id,
            "method": "PUT",
            "part": index,
            "token": token,
            "offset": spans[index][0],
        }
        url = (await talk.ask("sign_urls", wanted=[wanted])).ok()["urls"][0]["url"]
        sent = await talk.raw("PUT", url, data=data[slice(*spans[index])])
        assert sent.status == 200
        return str(sent.headers["ETag"])

    done = {
        "object_id": object_id,
        "token": token,
        "size": len(data),
        "sizes": [end - start for start, end in spans],
    }
    etags = ["", await send(1)]
    (await talk.ask("complete_object_upload", **done, etags=etags)).refused(409, "conflict")
    etags[0] = await send(0)
    assert await send(0) == etags[0]
    (await talk.ask("complete_object_upload", **done, etags=etags)).ok()
    said = (await talk.ask("sign_urls", wanted=[{"object_id": object_id, "method": "GET"}])).ok()
    assert (await talk.raw("GET", said["urls"][0]["url"])).body == data


async def test_a_restarted_server_knows_no_uploads(talk: Talk) -> None:
    """The client is told so, and begins anew."""
    object_id, _ = await talk.registered(await talk.session())
    token = (await talk.ask("begin_object_upload", object_id=object_id)).ok()["token"]
    wanted = {"object_id": object_id, "method": "PUT", "part": 0, "token": token}
    url = (await talk.ask("sign_urls", wanted=[wanted])).ok()["urls"][0]["url"]
    talk.context.open_uploads = type(talk.context.open_uploads)()
    (await talk.raw("PUT", url, data=b"x")).refused(404, "not_found")
    resumed = await talk.ask("resume_object_upload", object_id=object_id, token=token)
    assert resumed.ok() == {"upload": None}


async def test_memory_is_bounded(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large PUT is in memory by pieces only."""
    _, url = await put_url(talk)
    size = 48 * MIB
    block = bytes(256 << 10)

    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(size // len(block)):
            yield block

    tracemalloc.start()
    try:
        sent = await talk.raw("PUT", url, data=blocks(), headers={"Content-Length": str(size)})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sent.status == 200
    assert peak < 12 * MIB


async def test_urls_are_of_the_server_s_own_origin(tmp_path: Path) -> None:
    """As the client named it, or as the settings do."""
    settings = ServerSettings(public_url="https://artifacts.example.com")
    async with served(*in_folder(tmp_path), settings) as talk:
        _, url = await put_url(talk)
        assert url.startswith("https://artifacts.example.com/bytes/")


async def test_an_object_that_nobody_has_is_not_found(talk: Talk) -> None:
    (await talk.raw("GET", f"/bytes/{fresh_object()}")).refused(403, "denied")
    (await talk.raw("GET", "/bytes/..%2F..%2Fetc%2Fpasswd")).refused(422, "invalid")
    said = (
        await talk.ask("sign_urls", wanted=[{"object_id": fresh_object(), "method": "GET"}])
    ).ok()
    (await talk.raw("GET", said["urls"][0]["url"])).refused(404, "not_found")
    assert served_bytes.is_needed(talk.context.store)
