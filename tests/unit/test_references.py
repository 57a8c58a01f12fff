"""References: what is recorded when they are logged, and that a changed source is noticed when they are fetched."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web
from blake3 import blake3
from material import read_tree

from asyncart import references
from asyncart.engine.target import Target
from asyncart.engine.tasks import Threads
from asyncart.errors import (
    AsyncartError,
    Conflict,
    Denied,
    Invalid,
    NotFound,
    TransferError,
    Unavailable,
)
from asyncart.model import Entry, Reference
from asyncart.net.aiohttp_plane import AiohttpPlane
from asyncart.references import fetch, fetch_all, resolve
from asyncart.references import web as web_module
from asyncart.references.uris import check_uri, entry_path, local_path, uri_digest


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = Target(str(tmp_path / "got"))
    yield target
    target.close()


def files(target: Target) -> dict[str, bytes]:
    """Everything below the target, temporary files included."""
    return read_tree(target.root)


# --- URIs ---


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/key",
        "s3://bucket/a b?versionId=3",
        "gs://b/k",
        "az://container/x",
        "abfss://container@account.dfs.core.windows.net/x",
        "sftp://user@host/x",
        "file:///data/x",
        "file://localhost/data/x",
        "file:/data/x",
        "file:///data/a:b@c",
        "https://host/x?sig=a:b@c",
        "HTTPS://HOST/X",
        "http://[::1]:80/x",
        "urn:isbn:1",
        "https://host",
        "s3://bucket/日本",
    ],
)
def test_uris_that_are_accepted(uri: str) -> None:
    assert check_uri(uri) == uri


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("", "is no URI"),
        ("/data/x", "is no URI.*file:///"),
        ("data/x", "is no URI"),
        ("C:\\data", "is no URI"),
        ("C:/data", "is no URI"),
        ("s3://", "names nothing"),
        ("file:", "names nothing"),
        ("file:///", "names nothing"),
        ("http:///path", "names no host"),
        ("http://[::1/x", "is no URI"),
        ("http://host:port/x", "is no URI"),
        ("file://host/x", "not on this machine"),
        ("file://./x", "not on this machine"),
        ("file:x", "not on this machine"),
        ("file:///a%00b", "NUL"),
        ("s3://b/a\nb", "U\\+000A"),
        ("s3://b/\ud800", "U\\+D800"),
        ("s3://b/" + "x" * 9000, "characters long"),
        ("https://user:secret@host/x", "contains credentials"),
        ("https://token@host/x", "contains credentials"),
        ("s3://key:secret@bucket/x", "contains credentials"),
        ("ftp://a:b@h/x", "contains credentials"),
    ],
)
def test_uris_that_are_refused(uri: str, why: str) -> None:
    with pytest.raises(Invalid, match=why) as caught:
        check_uri(uri)
    assert "secret" not in str(caught.value)
    assert "token" not in str(caught.value)


def test_what_is_not_a_string_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="must be a URI"):
        check_uri(tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("s3://bucket/a/model.h5", "model.h5"),
        ("s3://bucket/a/model.h5?versionId=3", "model.h5"),
        ("s3://bucket/prefix/", "prefix"),
        ("s3://bucket", "bucket"),
        ("s3://bucket/a%20b", "a%20b"),
        ("https://host/a/b%20c.csv?x=/y#z", "b c.csv"),
        ("https://host/a%2Fb", "a%2Fb"),
        ("https://host", "host"),
        ("file:///data/a%20b", "a b"),
        ("file:///data/a b?c#d", "a b?c#d"),
        ("file:///data/images/", "images"),
        ("urn:isbn:1", "isbn:1"),
    ],
)
def test_the_default_path_is_the_last_part(uri: str, path: str) -> None:
    assert entry_path(uri, None) == path
    assert entry_path(uri, "given/name") == "given/name"


def test_a_last_part_that_cannot_be_a_path_needs_a_name() -> None:
    for uri in ("https://host/..", "https://host/nul.txt", "s3://b/a\\b"):
        with pytest.raises(Invalid, match="needs a name="):
            entry_path(uri, None)
        assert entry_path(uri, "x") == "x"
    with pytest.raises(Invalid, match="entry path"):
        entry_path("s3://b/x", "../x")


def test_file_uris_of_pathlib_round_trip(tmp_path: Path) -> None:
    for name in ("plain", "with space", "100%", "a?b#c", "ä日", "a%20b"):
        assert local_path((tmp_path / name).as_uri()) == str(tmp_path / name)


def test_the_digest_of_a_uri_is_frozen() -> None:
    """The documented encoding, by other means."""
    expected = blake3(b'asyncart reference 1\n["s3://b/\xc3\xa4\\"x"]').digest()
    assert uri_digest('s3://b/ä"x') == expected


# --- recorded only ---


@pytest.mark.parametrize("scheme", ["s3", "gs", "az", "unknown+x"])
async def test_other_schemes_are_recorded_as_they_are(scheme: str) -> None:
    uri = f"{scheme}://bucket/model.h5"
    (entry,) = await resolve(uri)
    assert entry == Entry("model.h5", uri_digest(uri), 0, reference=Reference(uri))


@pytest.mark.parametrize("uri", ["file:///not/there", "http://127.0.0.1:1/x", "s3://b/k"])
async def test_without_checksum_nothing_is_opened(uri: str) -> None:
    (entry,) = await resolve(uri, checksum=False, name="n")
    assert entry == Entry("n", uri_digest(uri), 0, reference=Reference(uri))


async def test_a_recorded_reference_is_not_fetched_and_the_log_says_so(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    (entry,) = await resolve("s3://bucket/model.h5?secret=1")
    with caplog.at_level(logging.WARNING, logger="asyncart"):
        assert await fetch(entry, target) is None
        assert await fetch_all([entry], target) == [entry]
    assert "model.h5 is not downloaded: s3://bucket/model.h5 is only recorded" in caplog.text
    assert "secret" not in caplog.text
    assert not files(target)


async def test_a_stored_entry_is_no_reference(target: Target) -> None:
    with pytest.raises(Invalid, match="not a reference"):
        await fetch(Entry("a", bytes(32), 1), target)


async def test_a_scheme_can_be_registered(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    class Echo:
        async def resolve(
            self, uri: str, *, name: str | None, checksum: bool, max_objects: int
        ) -> list[Entry]:
            return [
                Entry("echo", blake3(uri.encode()).digest(), len(uri), reference=Reference(uri))
            ]

        async def fetch(self, entry: Entry, target: Target) -> os.stat_result:
            assert entry.reference is not None
            return target.write_file(entry.path, memoryview(entry.reference.uri.encode()), False)

    monkeypatch.setattr(references, "_RESOLVERS", dict(references._RESOLVERS))
    references.register("ECHO", lambda means: Echo())
    (entry,) = await resolve("echo:hello")
    assert await fetch(entry, target) is not None
    assert files(target) == {"echo": b"echo:hello"}


# --- local files ---


async def test_a_file_has_the_digest_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "a b").write_bytes(b"hello")
    (tmp_path / "a b").chmod(0o755)
    uri = (tmp_path / "a b").as_uri()
    (entry,) = await resolve(uri)
    assert entry == Entry(
        "a b",
        blake3(b"hello").digest(),
        5,
        executable=True,
        reference=Reference(uri, digest_is_content=True),
    )


@pytest.mark.parametrize("size", [0, 1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 9 << 20])
async def test_files_of_any_size_go_and_come(tmp_path: Path, target: Target, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    (entry,) = await resolve((tmp_path / "f").as_uri(), name="d/f")
    assert (entry.digest, entry.size) == (blake3(data).digest(), size)
    info = await fetch(entry, target, allow_file_references=True)
    assert info == target.stat("d/f")  # before reading it, which may change the atime
    assert files(target) == {"d/f": data}


async def test_a_directory_is_walked_in_order(tmp_path: Path, target: Target) -> None:
    data = {f"{n % 3}/{'x' * (n % 2)}y/f {n}": f"{n}".encode() * n for n in range(600)}
    data["é.txt"] = b"e"
    for path, content in data.items():
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path).write_bytes(content)
    (tmp_path / "in" / "empty").mkdir()
    for uri in ((tmp_path / "in").as_uri(), (tmp_path / "in").as_uri() + "/"):
        entries = await resolve(uri, name="p/q")
        assert [entry.path for entry in entries] == sorted(f"p/q/{path}" for path in data)
        assert all(entry.digest == blake3(data[entry.path[4:]]).digest() for entry in entries)
    assert [e.path for e in await resolve(uri)] == sorted(f"in/{path}" for path in data)
    assert await fetch_all(entries, target, allow_file_references=True) == []
    assert files(target) == {f"p/q/{path}": content for path, content in data.items()}


async def test_links_are_followed(tmp_path: Path, target: Target) -> None:
    """Hugging Face's cache consists of them."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/x").write_bytes(b"hello")
    (tmp_path / "snap/d").mkdir(parents=True)
    (tmp_path / "snap/file").symlink_to("../blobs/x")
    (tmp_path / "snap/all").symlink_to("../blobs")
    (tmp_path / "snap/d/again").symlink_to("../../blobs")  # twice is no loop
    entries = await resolve((tmp_path / "snap").as_uri(), name="s")
    assert [entry.path for entry in entries] == ["s/all/x", "s/d/again/x", "s/file"]
    await fetch_all(entries, target, allow_file_references=True)
    assert set(files(target).values()) == {b"hello"}
    assert not any(path.is_symlink() for path in Path(target.root).rglob("*"))


async def test_loops_broken_links_and_special_files_are_named(tmp_path: Path) -> None:
    top = tmp_path / "in"
    (top / "d").mkdir(parents=True)
    (top / "a").write_bytes(b"")
    bad = top / "d/bad"

    async def fails(kind: type[AsyncartError], why: str) -> None:
        with pytest.raises(kind, match=rf"in/d/bad.*{why}"):
            await resolve(top.as_uri())
        bad.unlink()

    bad.symlink_to("missing")
    await fails(NotFound, "broken link")
    for loop in ("..", ".", "../../in"):
        bad.symlink_to(loop)
        await fails(Invalid, "a directory that contains it")
    bad.symlink_to("bad")
    await fails(Invalid, "loop")
    os.mkfifo(bad)
    await fails(Invalid, "neither a file nor a directory")
    for uri, why in (("missing", "No such file"), ("a/b", "Not a directory")):
        with pytest.raises(NotFound, match=why):
            await resolve((top / uri).as_uri())
    with pytest.raises(Invalid, match="holds no files"):
        await resolve((top / "d").as_uri())
    with pytest.raises(Invalid, match="neither a file nor a directory"):
        await resolve("file:///dev/null")


async def test_too_many_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    for n in range(5):
        (tmp_path / f"{n}").write_bytes(b"")
    assert len(await resolve(tmp_path.as_uri(), name="x", max_objects=5)) == 5
    with pytest.raises(Invalid, match=r"more than 4 files.*max_objects"):
        await resolve(tmp_path.as_uri(), name="x", max_objects=4)
    for limit in (0, -1):
        with pytest.raises(Invalid, match="max_objects"):
            await resolve(tmp_path.as_uri(), max_objects=limit)


async def test_names_that_no_artifact_can_hold_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in (b"a\\b", b"nul", b"\xff", b"a."):
        path = os.path.join(os.fsencode(tmp_path / "in"), name)
        with open(path, "wb"):
            pass
        with pytest.raises(Invalid, match="entry path"):
            await resolve((tmp_path / "in").as_uri())
        os.unlink(path)


async def test_foreign_file_references_need_consent(target: Target) -> None:
    entry = Entry(
        "x", bytes(32), 9, reference=Reference("file:///etc/passwd", digest_is_content=True)
    )
    with pytest.raises(Denied, match=r"x refers to file:///etc/passwd.*allow_file_references=True"):
        await fetch(entry, target)
    with pytest.raises(Denied):
        await fetch_all([entry], target)
    assert not files(target)


@pytest.mark.parametrize("new", [b"jello", b"hello!", b""])
async def test_a_changed_file_is_a_conflict(tmp_path: Path, target: Target, new: bytes) -> None:
    (tmp_path / "f").write_bytes(b"hello")
    (entry,) = await resolve((tmp_path / "f").as_uri())
    (tmp_path / "f").write_bytes(new)
    with pytest.raises(
        Conflict, match=r"f refers to .*/f, whose content changed since it was logged"
    ):
        await fetch(entry, target, allow_file_references=True)
    assert not files(target)


async def test_a_file_that_is_gone_or_something_else(tmp_path: Path, target: Target) -> None:
    place = tmp_path / "f"
    place.write_bytes(b"hello")
    (entry,) = await resolve(place.as_uri())
    place.unlink()
    with pytest.raises(NotFound, match="No such file"):
        await fetch(entry, target, allow_file_references=True)
    os.mkfifo(place)
    with pytest.raises(Invalid, match="is not a file"):
        await fetch(entry, target, allow_file_references=True)
    place.unlink()
    place.mkdir()
    with pytest.raises(Invalid, match="is not a file"):
        await fetch(entry, target, allow_file_references=True)
    assert not files(target)


async def test_a_file_without_checksum_is_copied_as_it_is(tmp_path: Path, target: Target) -> None:
    (tmp_path / "f").write_bytes(b"hello")
    (entry,) = await resolve((tmp_path / "f").as_uri(), checksum=False)
    (tmp_path / "f").write_bytes(b"other bytes")
    await fetch(entry, target, allow_file_references=True)
    assert files(target) == {"f": b"other bytes"}


async def test_what_is_there_already_is_left(tmp_path: Path, target: Target) -> None:
    """Also if the source is gone: the bytes are the right ones. Wrong bytes are replaced."""
    (tmp_path / "f").write_bytes(b"hello")
    (entry,) = await resolve((tmp_path / "f").as_uri())
    first = await fetch(entry, target, allow_file_references=True)
    assert await fetch(entry, target, allow_file_references=True) == first
    Path(target.root, "f").write_bytes(b"jello")
    await fetch(entry, target, allow_file_references=True)
    assert files(target) == {"f": b"hello"}
    (tmp_path / "f").unlink()
    await fetch(entry, target, allow_file_references=True)


@pytest.mark.parametrize("new_size", [5 << 20, 11 << 20])
async def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch, new_size: int
) -> None:
    place = tmp_path / "f"
    place.write_bytes(bytes(10 << 20))
    real = os.preadv

    def preadv(fd: int, buffers: Any, offset: int) -> int:
        got = real(fd, buffers, offset)
        if offset == 0:
            os.truncate(place, new_size)
        return got

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(Conflict, match="changed while it was read"):
        await resolve(place.as_uri())
    place.write_bytes(bytes(10 << 20))
    entry = Entry("f", bytes(32), 0, reference=Reference(place.as_uri()))
    with pytest.raises(Conflict, match="changed while it was read"):
        await fetch(entry, target, allow_file_references=True)
    assert not files(target)


async def test_an_obstacle_leaves_nothing_behind(tmp_path: Path, target: Target) -> None:
    (tmp_path / "f").write_bytes(b"hello")
    (entry,) = await resolve((tmp_path / "f").as_uri())
    Path(target.root, "f").mkdir()
    with pytest.raises(Conflict, match="is a directory"):
        await fetch(entry, target, allow_file_references=True)
    assert not files(target)


async def test_memory_is_one_buffer_for_a_large_file(tmp_path: Path, target: Target) -> None:
    with open(tmp_path / "f", "wb") as file:
        file.truncate(100 << 20)
    tracemalloc.start()
    try:
        (entry,) = await resolve((tmp_path / "f").as_uri(), threads=Threads(2))
        await fetch(entry, target, allow_file_references=True)
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


# --- web servers ---


class Site:
    """A web server that behaves as the test says; `requests` is what it was asked."""

    def __init__(self) -> None:
        self.data = b"0123456789" * 1000
        self.etag: str | None = '"one"'
        self.last_modified: str | None = "Tue, 01 Oct 2024 10:00:00 GMT"
        self.requests: list[tuple[str, str | None]] = []
        self.answers: list[Callable[[web.Request], Awaitable[web.StreamResponse]]] = []
        self.refuses_head: int | None = None
        self.has_ranges = True
        self.is_chunked = False
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.headers.get("Range")))
        if self.answers and request.method == "GET":
            return await self.answers.pop(0)(request)
        if request.method == "HEAD" and self.refuses_head:
            return web.Response(status=self.refuses_head)
        return await self.plain(request)

    def facts(self) -> dict[str, str]:
        found = {"ETag": self.etag, "Last-Modified": self.last_modified}
        return {name: value for name, value in found.items() if value is not None}

    def part(self, request: web.Request) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of an honest answer."""
        asked = request.headers.get("Range")
        condition = request.headers.get("If-Range")
        if (
            asked is None
            or not self.has_ranges
            or condition not in (None, self.etag, self.last_modified)
        ):
            return 200, self.data, self.facts()
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last or len(self.data)) + 1, len(self.data))
        if begin >= len(self.data):
            return 416, b"", {**self.facts(), "Content-Range": f"bytes */{len(self.data)}"}
        where = {"Content-Range": f"bytes {begin}-{end - 1}/{len(self.data)}"}
        return 206, self.data[begin:end], {**self.facts(), **where}

    async def plain(self, request: web.Request) -> web.StreamResponse:
        status, body, headers = self.part(request)
        if not self.is_chunked:
            return web.Response(status=status, body=body, headers=headers)
        response = web.StreamResponse(status=status, headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        if request.method != "HEAD":
            await response.write(body)
        await response.write_eof()
        return response

    def breaks_after(self, count: int) -> None:
        """The next GET ends with a lost connection after that many bytes of its body."""

        async def answer(request: web.Request) -> web.StreamResponse:
            status, body, headers = self.part(request)
            response = web.StreamResponse(
                status=status, headers={**headers, "Content-Length": str(len(body))}
            )
            await response.prepare(request)
            await response.write(body[:count])
            assert request.transport is not None
            request.transport.close()
            return response

        self.answers.append(answer)

    def stalls_after(self, count: int, release: asyncio.Event, trickle: bytes = b"") -> None:
        """The next GET falls silent (or sends `trickle` again and again) after that many bytes."""

        async def answer(request: web.Request) -> web.StreamResponse:
            status, body, headers = self.part(request)
            response = web.StreamResponse(
                status=status, headers={**headers, "Content-Length": str(len(body))}
            )
            await response.prepare(request)
            await response.write(body[:count])
            while not release.is_set():
                with contextlib.suppress(TimeoutError, ConnectionError):
                    async with asyncio.timeout(0.01 if trickle else None):
                        await release.wait()
                    break
                with contextlib.suppress(ConnectionError):
                    await response.write(trickle)
            return response

        self.answers.append(answer)

    def answers_with(self, status: int, **headers: str) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            return web.Response(
                status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
            )

        self.answers.append(answer)


@contextlib.asynccontextmanager
async def running(site: Site) -> AsyncIterator[Site]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", site.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        server = web.TCPSite(runner, "127.0.0.1", 0)
        await server.start()
        host, port = runner.addresses[0][:2]
        site.url = f"http://{host}:{port}/dir/data.bin"
        yield site
    finally:
        await runner.cleanup()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running(Site()) as site:
        yield site


@pytest.fixture
async def quick() -> AsyncIterator[AiohttpPlane]:
    """Stalls after 0.2 s instead of 30."""
    plane = AiohttpPlane(stall_s=0.2, connect_s=5)
    yield plane
    await plane.aclose()


@pytest.fixture(autouse=True)
def no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module.random, "random", lambda: 0.0)


async def test_a_web_reference_records_etag_and_size(site: Site) -> None:
    (entry,) = await resolve(site.url)
    facts = json.dumps([site.url, "etag", '"one"'], separators=(",", ":")).encode()
    assert entry.digest == blake3(b"asyncart reference 1\n" + facts).digest()
    assert (entry.path, entry.size) == ("data.bin", 10_000)
    assert entry.reference == Reference(site.url, '"one"')
    assert site.requests == [("HEAD", None)]


async def test_without_etag_size_and_date_count(site: Site) -> None:
    site.etag = None
    (entry,) = await resolve(site.url)
    facts = json.dumps(
        [site.url, "size", 10_000, site.last_modified], separators=(",", ":")
    ).encode()
    assert entry.digest == blake3(b"asyncart reference 1\n" + facts).digest()
    assert entry.reference == Reference(site.url)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
@pytest.mark.parametrize("has_ranges", [True, False])
async def test_where_head_is_refused_one_byte_is_asked_for(
    site: Site, status: int, has_ranges: bool
) -> None:
    expected = await resolve(site.url)
    site.refuses_head, site.has_ranges = status, has_ranges
    site.requests.clear()
    assert await resolve(site.url) == expected
    assert site.requests == [("HEAD", None), ("GET", "bytes=0-0")]


async def test_an_empty_file(site: Site, target: Target) -> None:
    site.data = b""
    for site.refuses_head in (None, 405):
        for site.etag in ('"one"', None):
            (entry,) = await resolve(site.url)
            assert entry.size == 0
            await fetch(entry, target)
            assert files(target) == {"data.bin": b""}


async def test_a_server_that_says_nothing_is_refused(site: Site) -> None:
    site.etag = site.last_modified = None
    site.is_chunked = True
    site.has_ranges = False
    with pytest.raises(Invalid, match=r"neither ETag, size nor date.*checksum=False"):
        await resolve(site.url)


@pytest.mark.parametrize(
    ("status", "kind", "why"),
    [
        (404, NotFound, "data.bin: http://.*/dir/data.bin is not there"),
        (410, NotFound, "is not there"),
        (401, Denied, "without credentials"),
        (403, Denied, "without credentials"),
        (400, TransferError, "400"),
    ],
)
async def test_refusals_when_it_is_logged(site: Site, status: int, kind: type, why: str) -> None:
    site.refuses_head = status
    site.answers_with(status)
    with pytest.raises(kind, match=why):
        await resolve(site.url + "?signature=secret")
    assert len(site.requests) == 2


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("etag", ['"one"', 'W/"weak"', None])
@pytest.mark.parametrize("size", [0, 1, 10_000, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 9_000_000])
async def test_what_was_logged_is_fetched(
    site: Site, target: Target, chunked: bool, etag: str | None, size: int
) -> None:
    """Also where GET does not tell the length that HEAD told."""
    site.data, site.etag = os.urandom(size), etag
    (entry,) = await resolve(site.url, name="d/x")
    site.is_chunked = chunked
    info = await fetch(entry, target)
    assert info == target.stat("d/x")  # before reading it, which may change the atime
    assert files(target) == {"d/x": site.data}


async def test_a_size_that_nobody_knows_is_not_checked(site: Site, target: Target) -> None:
    site.is_chunked = True
    (entry,) = await resolve(site.url)
    assert entry.size == 0
    await fetch(entry, target)
    assert files(target) == {"data.bin": site.data}


@pytest.mark.parametrize("etag", ['"one"', None])
async def test_a_changed_source_is_a_conflict(site: Site, target: Target, etag: str | None) -> None:
    site.etag = etag
    (entry,) = await resolve(site.url)

    async def conflicts(why: str) -> None:
        with pytest.raises(
            Conflict, match=rf"data.bin refers to .*changed since it was logged: .*{why}"
        ):
            await fetch(entry, target)
        assert not files(target)

    if etag:
        site.etag = '"two"'
        await conflicts('ETag was "one" and is "two" now')
        site.etag = None
        await conflicts('ETag was "one" and is None now')
        site.etag = etag
    else:
        site.last_modified = "Wed, 02 Oct 2024 10:00:00 GMT"
        await conflicts("size or date")
        site.last_modified = "Tue, 01 Oct 2024 10:00:00 GMT"
    for site.data in (b"0" * 9_999, b"0" * 10_001, b""):
        site.is_chunked = False
        await conflicts(f"had 10,000 bytes and has {len(site.data):,} now")
        site.is_chunked = True
        await conflicts("bytes")


async def test_without_checksum_whatever_is_there_is_fetched(site: Site, target: Target) -> None:
    (entry,) = await resolve(site.url, checksum=False)
    site.data, site.etag = b"something else", '"three"'
    await fetch(entry, target)
    assert files(target) == {"data.bin": b"something else"}


@pytest.mark.parametrize("etag", ['"one"', 'W/"weak"', None])
@pytest.mark.parametrize("count", [0, 1, 5_000, 9_999])
async def test_a_broken_transfer_continues_where_it_broke(
    site: Site, target: Target, count: int, etag: str | None
) -> None:
    site.etag = etag
    (entry,) = await resolve(site.url)
    site.breaks_after(count)
    await fetch(entry, target)
    assert files(target) == {"data.bin": site.data}
    assert [asked for method, asked in site.requests if method == "GET"] == [
        None,
        f"bytes={count}-" if count else None,
    ]


async def test_it_starts_again_where_there_are_no_ranges(site: Site, target: Target) -> None:
    site.data = os.urandom(5_000_000)
    (entry,) = await resolve(site.url)
    site.has_ranges = False
    site.breaks_after(4_500_000)
    await fetch(entry, target)
    assert files(target) == {"data.bin": site.data}


async def test_a_source_that_changes_in_the_middle_is_a_conflict(
    site: Site, target: Target
) -> None:
    (entry,) = await resolve(site.url)
    site.breaks_after(5_000)

    async def other(request: web.Request) -> web.StreamResponse:
        site.etag, site.data = '"two"', b"9876543210" * 1000
        return await site.plain(request)

    site.answers.append(other)
    with pytest.raises(Conflict, match=r'ETag was "one" and is "two" now'):
        await fetch(entry, target)
    assert not files(target)


async def test_a_range_of_something_else_is_not_put_together(site: Site, target: Target) -> None:
    """A server that ignores If-Range: the tail of another content behind the head of the first."""
    (entry,) = await resolve(site.url)
    site.breaks_after(5_000)

    async def liar(request: web.Request) -> web.StreamResponse:
        headers = {"ETag": '"two"', "Content-Range": "bytes 5000-9999/10000"}
        return web.Response(status=206, body=b"x" * 5_000, headers=headers)

    async def shifted(request: web.Request) -> web.StreamResponse:
        headers = {**site.facts(), "Content-Range": "bytes 4000-9999/10000"}
        return web.Response(status=206, body=b"x" * 6_000, headers=headers)

    site.answers.append(liar)
    site.breaks_after(5_000)
    site.answers.append(shifted)
    await fetch(entry, target)
    assert files(target) == {"data.bin": site.data}


async def test_a_shorter_range_than_asked_for_is_continued(site: Site, target: Target) -> None:
    (entry,) = await resolve(site.url)
    site.breaks_after(5_000)

    async def short(request: web.Request) -> web.StreamResponse:
        headers = {**site.facts(), "Content-Range": "bytes 5000-7999/10000"}
        return web.Response(status=206, body=site.data[5_000:8_000], headers=headers)

    site.answers.append(short)
    await fetch(entry, target)
    assert files(target) == {"data.bin": site.data}
    assert site.requests[-1] == ("GET", "bytes=8000-")


async def test_transient_answers_are_repeated(site: Site, target: Target) -> None:
    (entry,) = await resolve(site.url)
    for status in (500, 502, 503, 429, 408):
        site.answers_with(status)
    await fetch(entry, target)
    assert files(target) == {"data.bin": site.data}


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (403, Denied), (400, TransferError), (204, TransferError)]
)
async def test_permanent_answers_are_not(
    site: Site, target: Target, status: int, kind: type
) -> None:
    (entry,) = await resolve(site.url)
    for _ in range(9):
        site.answers_with(status)
    with pytest.raises(kind, match=r"data.bin"):
        await fetch(entry, target)
    assert not files(target)


async def test_a_server_that_compresses_unasked_is_refused(site: Site, target: Target) -> None:
    (entry,) = await resolve(site.url)
    site.answers_with(200, ETag='"one"', Content_Encoding="gzip", Content_Length="10000")
    with pytest.raises(AsyncartError):
        await fetch(entry, target)
    assert not files(target)


@pytest.mark.parametrize("trickle", [b"", b"x"])
async def test_a_silent_server_is_a_stall_and_the_transfer_continues(
    site: Site, target: Target, quick: AiohttpPlane, trickle: bytes
) -> None:
    """One byte now and then is silence, too."""
    release = asyncio.Event()
    site.data = b"x" * 10_000
    (entry,) = await resolve(site.url)
    site.stalls_after(6_000, release, trickle)
    with anyio.fail_after(20):
        await fetch(entry, target, plane=quick)
    release.set()
    assert files(target) == {"data.bin": site.data}


async def test_patience_ends(site: Site, target: Target, quick: AiohttpPlane) -> None:
    release = asyncio.Event()
    (entry,) = await resolve(site.url)
    for _ in range(100):
        site.stalls_after(0, release)
    resolver = web_module.Web(quick, Threads(), patience_s=0.5)
    with anyio.fail_after(20), pytest.raises(Unavailable, match=r"data.bin: .*no progress"):
        await resolver.fetch(entry, target)
    release.set()
    assert not files(target)


async def test_nobody_listens(target: Target, quick: AiohttpPlane) -> None:
    async with running(Site()) as gone:
        (entry,) = await resolve(gone.url)
    resolver = web_module.Web(quick, Threads(), patience_s=0.3)
    with pytest.raises(Unavailable, match="could not connect"):
        await resolver.resolve(gone.url, name=None, checksum=True, max_objects=1)
    with pytest.raises(Unavailable, match="could not connect"):
        await resolver.fetch(entry, target)
    assert not files(target)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(site: Site, target: Target, status: int) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": site.url})

    front = Site()
    front.handle = handle  # type: ignore[method-assign]
    async with running(front):
        (entry,) = await resolve(front.url, name="x")
        assert entry.reference == Reference(front.url, '"one"')
        await fetch(entry, target)
    assert files(target) == {"x": site.data}


async def test_redirects_without_end(site: Site) -> None:
    async def around(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": site.url})

    site.handle = around  # type: ignore[method-assign]
    # the route is bound to the first handler: a second server for the new one
    async with running(site):
        with pytest.raises(TransferError, match="redirects"):
            await resolve(site.url)


async def test_signed_urls_are_sent_as_they_are(site: Site) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request.raw_path)
        return await site.plain(request)

    site.answers.append(answer)
    site.refuses_head = 403
    await resolve(site.url + "/a%2Bb%2fc?X-Sig=%2B/%3d&b=a+b")
    site.answers.append(answer)
    await resolve(site.url + "/ä b", name="x")
    assert seen == ["/dir/data.bin/a%2Bb%2fc?X-Sig=%2B/%3d&b=a+b", "/dir/data.bin/%C3%A4%20b"]


async def test_a_cancelled_fetch_leaves_nothing(site: Site, target: Target) -> None:
    release = asyncio.Event()
    (entry,) = await resolve(site.url)
    site.stalls_after(5_000, release)
    before = len(asyncio.all_tasks())
    with anyio.move_on_after(0.2) as scope:
        await fetch(entry, target)
    release.set()
    assert scope.cancelled_caught
    assert not files(target)
    async with anyio.create_task_group():
        pass
    assert len(asyncio.all_tasks()) <= before + 1  # the server's own


async def test_many_at_once(site: Site, target: Target, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hello")
    entries = [
        *[(await resolve(site.url, name=f"w/{n}"))[0] for n in range(20)],
        *await resolve((tmp_path / "f").as_uri()),
        *await resolve("s3://b/k"),
    ]
    skipped = await fetch_all(entries, target, allow_file_references=True)
    assert [entry.path for entry in skipped] == ["k"]
    assert files(target) == {"f": b"hello", **{f"w/{n}": site.data for n in range(20)}}


async def test_one_failure_of_many_is_raised_as_itself(site: Site, target: Target) -> None:
    entries = [(await resolve(site.url, name=f"w/{n}"))[0] for n in range(20)]
    site.etag = '"two"'
    with pytest.raises((Conflict, TransferError), match="changed since it was logged"):
        await fetch_all(entries, target)
    assert not files(target)


async def test_memory_is_bounded_while_it_is_fetched(site: Site, target: Target) -> None:
    piece = bytes(1 << 20)

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": '"one"', "Content-Length": str(64 << 20)})
        await response.prepare(request)
        for _ in range(64):
            await response.write(piece)
        return response

    (entry,) = await resolve(site.url)
    entry = msgspec.structs.replace(entry, size=0)
    site.answers.append(stream)
    tracemalloc.start()
    try:
        await fetch(entry, target)
        assert os.path.getsize(os.path.join(target.root, entry.path)) == 64 << 20
        # one block of 4 MiB; the rest are the server's and aiohttp's buffers
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


# --- many at once ---


class Asked(msgspec.Struct):
    uri: str
    name: str | None = None
    checksum: bool = True
    max_objects: int | None = None


async def test_many_are_resolved_side_by_side_and_given_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many at once as are allowed, all with the same means."""
    means: set[int] = set()
    under_way = 0
    all_there = anyio.Event()

    class Meeting:
        async def resolve(self, uri: str, **_: Any) -> list[Entry]:
            nonlocal under_way
            under_way += 1
            if under_way == references.AT_ONCE:
                all_there.set()
            await all_there.wait()
            return [Entry(uri.rpartition("/")[2], uri_digest(uri), 0)]

    def make(given: references.Means) -> Meeting:
        means.add(id(given))
        return Meeting()

    monkeypatch.setitem(references._RESOLVERS, "meet", make)
    asked = [Asked(f"meet://x/{n:02}") for n in range(2 * references.AT_ONCE)]
    with anyio.fail_after(10):
        found = await references.resolve_all(asked)
    assert [[entry.path for entry in entries] for entries in found] == [
        [f"{n:02}"] for n in range(len(asked))
    ]
    assert len(means) == 1
    assert await references.resolve_all([]) == []


async def test_one_that_fails_ends_all_as_itself(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"x")
    asked = [Asked((tmp_path / "there").as_uri()), Asked((tmp_path / "gone").as_uri())]
    with pytest.raises(NotFound, match="gone"):
        await references.resolve_all(asked)
