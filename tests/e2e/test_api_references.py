"""References through the public API: what is recorded, what a change means, what is fetched again."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from api_fixtures import found, tree
from blake3 import blake3
from colours import draft, entered, got, written

from asyncart.engine import download
from asyncart.errors import Conflict, Denied, Invalid, NotFound

pytestmark = pytest.mark.usefixtures("here")


async def logged(face: Any, run: Any, uri: str, name: str | None = None, **options: Any) -> Any:
    artifact = face.Artifact("refs", "dataset")
    artifact.add_reference(uri, name, **options)
    return await got(run.log_artifact(artifact))


# --- file:// ------------------------------------------------------------------------------------


async def test_a_file_reference_has_the_digest_of_its_content(face: Any, here: Path) -> None:
    tree(here, {"x.bin": "content"})
    async with entered(face.init("p")) as run:
        artifact = await logged(face, run, (here / "x.bin").as_uri())
        entry = await got(artifact.get_entry("x.bin"))
        assert entry.is_reference
        assert entry.ref_target() == entry.ref == (here / "x.bin").as_uri()
        assert entry.digest == blake3(b"content").hexdigest()
        assert artifact.size == entry.size == 7
        assert found(await got(artifact.download("out"))) == {"x.bin": b"content"}
        tree(here, {"x.bin": "CONTENT"})
        assert (await logged(face, run, (here / "x.bin").as_uri())).version == "v1"


async def test_a_file_that_changed_since_is_a_conflict_that_names_it(face: Any, here: Path) -> None:
    tree(here, {"x.bin": "content"})
    async with entered(face.init("p")) as run:
        artifact = await logged(face, run, (here / "x.bin").as_uri())
        tree(here, {"x.bin": "CONTENT"})
        with pytest.raises(Conflict, match=r"x\.bin"):
            await got(artifact.download("out"))
        assert not Path("out/x.bin").exists()
        Path("x.bin").unlink()
        with pytest.raises(NotFound, match=r"x\.bin"):
            await got(artifact.download("out"))


async def test_without_checksum_only_the_uri_counts(face: Any, here: Path) -> None:
    """Nothing is opened: it need not exist, and other content is no new version."""
    uri = (here / "x.bin").as_uri()
    async with entered(face.init("p")) as run:
        first = await logged(face, run, uri, checksum=False)
        assert (await got(first.get_entry("x.bin"))).size == 0
        tree(here, {"x.bin": "content"})
        assert await logged(face, run, uri, checksum=False) == first
        assert (await logged(face, run, uri)).version == "v1"


async def test_a_folder_reference_is_walked(face: Any, here: Path) -> None:
    tree(here, {"data/a": "1", "data/b/c": "2", "data/d e#?": "3"})
    uri = (here / "data").as_uri()
    async with entered(face.init("p")) as run:
        artifact = await logged(face, run, uri, name="pre")
        assert [e.path for e in await got(artifact.files())] == ["pre/a", "pre/b/c", "pre/d e#?"]
        assert found(await got(artifact.download("out"))) == {
            "pre/a": b"1",
            "pre/b/c": b"2",
            "pre/d e#?": b"3",
        }
        assert (await logged(face, run, uri, name="pre", max_objects=3)) == artifact
        with pytest.raises(ValueError, match=r"more than 2 files.*max_objects"):
            await logged(face, run, uri, max_objects=2)


async def test_what_a_folder_reference_brought_is_read_once_and_then_known_by_its_stat(
    face: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it changes: then it is read, and put right."""
    read: list[str] = []
    digest_of = download.file_digest

    def noted(local: str) -> bytes:
        read.append(os.path.basename(local))
        return digest_of(local)

    monkeypatch.setattr(download, "file_digest", noted)
    monkeypatch.setattr(download, "RACY_NS", -1)  # no waiting until the stamps are old enough
    tree(here, {"data/a": "1", "data/b/c": "2"})
    async with entered(face.init("p")) as run:
        artifact = await logged(face, run, (here / "data").as_uri(), name="pre")
        for expected in ([], ["a", "c"], [], []):
            await got(artifact.download("out", allow_file_references=True))
            assert found("out") == {"pre/a": b"1", "pre/b/c": b"2"}
            assert sorted(read) == expected
            read.clear()
        tree(here, {"out/pre/a": "X"})
        await got(artifact.download("out", allow_file_references=True))
        assert read == ["a"]
        assert found("out") == {"pre/a": b"1", "pre/b/c": b"2"}


async def test_a_missing_file_is_named_when_logged(face: Any, here: Path) -> None:
    async with entered(face.init("p")) as run:
        with pytest.raises(NotFound, match="nowhere"):
            await logged(face, run, (here / "nowhere").as_uri())


async def test_a_file_reference_from_elsewhere_is_not_opened_without_consent(
    face: Any, here: Path, tmp_path: Path
) -> None:
    """A catalog that is not one's own may name any path of this machine."""
    tree(here, {"secret": "secret"})
    elsewhere = {"catalog": str(tmp_path / "team.sqlite"), "store": str(tmp_path / "team")}
    async with entered(face.init("p", **elsewhere)) as run:
        artifact = await logged(face, run, (here / "secret").as_uri())
        with pytest.raises(Denied, match=r"secret.*allow_file_references=True"):
            await got(artifact.download("out"))
        entry = await got(artifact.get_entry("secret"))
        with pytest.raises(PermissionError, match="allow_file_references"):
            await got(entry.download("out"))
        assert found("out") == {}
        await got(artifact.download("out", allow_file_references=True))
        assert found("out") == {"secret": b"secret"}


# --- http(s):// ---------------------------------------------------------------------------------


class Site(BaseHTTPRequestHandler):
    """Serves `pages`: path -> (ETag or None, body)."""

    pages: ClassVar[dict[str, tuple[str | None, bytes]]] = {}
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        page = self.pages.get(self.path)
        etag, body = page or (None, b"")
        self.send_response(200 if page else 404)
        if etag is not None:
            self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def site() -> Iterator[str]:
    """The base URL of a server whose pages are Site.pages."""
    Site.pages = {"/model.h5": ('"one"', b"weights"), "/plain": (None, b"no etag")}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_web_reference_is_known_by_its_etag_and_size(face: Any, site: str) -> None:
    async with entered(face.init("p")) as run:
        artifact = await logged(face, run, f"{site}/model.h5")
        entry = await got(artifact.get_entry("model.h5"))
        assert (entry.size, entry.ref) == (7, f"{site}/model.h5")
        assert await logged(face, run, f"{site}/model.h5") == artifact
        assert found(await got(artifact.download("out"))) == {"model.h5": b"weights"}
        Site.pages["/model.h5"] = ('"two"', b"WEIGHTS")
        with pytest.raises(Conflict, match=r"model\.h5.*ETag"):
            await got(artifact.download("again"))
        assert (await logged(face, run, f"{site}/model.h5")).version != artifact.version
        plain = await logged(face, run, f"{site}/plain")
        assert found(await got(plain.download("plain"))) == {"plain": b"no etag"}


async def test_a_query_belongs_to_the_uri_and_not_to_the_path(face: Any, site: str) -> None:
    Site.pages["/model.h5?signature=x"] = Site.pages["/model.h5"]
    async with entered(face.init("p")) as run:
        artifact = await logged(face, run, f"{site}/model.h5?signature=x")
        assert found(await got(artifact.download("out"))) == {"model.h5": b"weights"}


async def test_a_page_that_is_not_there_is_named_when_logged(face: Any, site: str) -> None:
    async with entered(face.init("p")) as run:
        with pytest.raises(NotFound, match="nothing"):
            await logged(face, run, f"{site}/nothing")


# --- other schemes ------------------------------------------------------------------------------


async def test_other_schemes_are_recorded_as_they_are_and_skipped_by_download(
    face: Any, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with entered(face.init("p")) as run:
        artifact = await draft(face, "refs", f="x")
        for uri in ("s3://bucket/a", "gs://bucket/b", "az://c/d", "doi:10.1000/182"):
            artifact.add_reference(uri)
        await got(run.log_artifact(artifact))
        assert [e.ref for e in await got(artifact.files())] == [
            "doi:10.1000/182", "s3://bucket/a", "gs://bucket/b", "az://c/d", None,
        ]  # fmt: skip
        assert found(await got(artifact.download("out"))) == {"f": b"x"}
        assert any("s3://bucket/a is only recorded" in m for m in caplog.messages)
        assert (await got(artifact.verify("out"))).is_ok


@pytest.mark.parametrize("bad", ["", "no-scheme", "/a/path", "C:/x", "s3://", "http:///x", "file://other/x",
                                 "s3://b/\n", "https://user:password@host/x", None])  # fmt: skip
def test_what_is_no_uri_is_a_value_error_at_once(face: Any, bad: Any) -> None:
    with pytest.raises(ValueError, match=r"reference|URI"):
        face.Artifact("refs", "dataset").add_reference(bad)


async def test_a_reference_and_a_file_of_one_path_must_agree(face: Any, here: Path) -> None:
    tree(here, {"x": "content", "elsewhere/x": "content", "other/x": "other"})
    async with entered(face.init("p")) as run:
        both = face.Artifact("refs", "dataset")
        both.add_file("x")
        both.add_reference((here / "elsewhere/x").as_uri())
        await got(run.log_artifact(both))
        assert both.file_count == 1
        for uri in [(here / "other/x").as_uri(), "s3://bucket/x"]:
            clash = face.Artifact("refs", "dataset")
            clash.add_file("x")
            clash.add_reference(uri)
            with pytest.raises(Invalid, match="x is in the draft"):
                await got(run.log_artifact(clash))
        two = face.Artifact("refs", "dataset")
        two.add_reference("s3://bucket/x")
        two.add_reference("s3://elsewhere/x")
        with pytest.raises(Invalid, match="x is in the draft"):
            await got(run.log_artifact(two))


async def test_a_file_may_overwrite_a_reference(face: Any, here: Path) -> None:
    async with entered(face.init("p")) as run:
        artifact = face.Artifact("refs", "dataset")
        artifact.add_reference("s3://bucket/x")
        await written(artifact, "x", "stored", overwrite=True)
        await got(run.log_artifact(artifact))
        entry = await got(artifact.get_entry("x"))
        assert not entry.is_reference
        assert await got(entry.read()) == b"stored"
