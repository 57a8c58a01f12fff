"""`policy="immutable"`: a large file is linked into a local store instead of copied, and safely so."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import anyio
import pytest
from api_fixtures import found
from blake3 import blake3
from colours import entered, got

import asyncart
import asyncart.aio
from asyncart.engine import upload
from asyncart.errors import Conflict, Denied, NotFound, Unavailable
from asyncart.model import Progress
from asyncart.stores.local import LocalStore
from asyncart.stores.memory import MemoryStore
from asyncart.stores.wrappers import CountingStore, Fault, FaultyStore

pytestmark = [
    pytest.mark.usefixtures("here"),
    pytest.mark.skipif(os.name == "nt", reason="links"),
]

KEY = "objects/ab/000000000000000000000000000000ab"
SIZE = (16 << 20) + 13  # more than one block


@pytest.fixture
def large(here: Path) -> Path:
    path = here / "large.bin"
    path.write_bytes(os.urandom(SIZE))
    path.chmod(0o640)
    return path


@pytest.fixture
def store(here: Path) -> LocalStore:
    return LocalStore(here / "store")


def stored(tmp_path: Path) -> list[Path]:
    """The objects of the embedded store."""
    return [path for path in (tmp_path / "home" / "store").rglob("*") if path.is_file()]


def objects_of_size(tmp_path: Path, size: int) -> list[Path]:
    return [path for path in stored(tmp_path) if path.stat().st_size == size]


# --- the store's verb ---------------------------------------------------------------------------


async def test_an_adopted_file_is_the_object(store: LocalStore, large: Path) -> None:
    assert await store.adopt(KEY, str(large))
    assert await store.sizes([KEY]) == {KEY: SIZE}
    buffer = memoryview(bytearray(SIZE))
    await store.read_into(KEY, 0, buffer)
    assert bytes(buffer) == large.read_bytes()
    assert [listed.key for listed in (await store.list_page()).objects] == [KEY]
    await store.aclose()


async def test_adopting_moves_no_bytes_and_leaves_the_users_file_as_it_is(
    store: LocalStore, large: Path
) -> None:
    before = large.stat()
    assert await store.adopt(KEY, str(large))
    after = large.stat()
    assert (after.st_mode, after.st_uid, after.st_ino) == (
        before.st_mode,
        before.st_uid,
        before.st_ino,
    )
    assert after.st_mtime_ns == before.st_mtime_ns
    local = store.local_path(KEY)
    assert local is not None
    if os.path.samefile(local, large):  # else it was reflinked
        assert after.st_nlink == 2
    assert not any(name.startswith(".") for _, _, names in os.walk(store.root) for name in names)
    await store.aclose()


async def test_deleting_the_object_leaves_the_users_file_and_the_other_way_round(
    store: LocalStore, large: Path
) -> None:
    content = large.read_bytes()
    assert await store.adopt(KEY, str(large))
    await store.delete([KEY])
    assert large.read_bytes() == content
    assert await store.adopt(KEY, str(large))
    large.unlink()
    buffer = memoryview(bytearray(SIZE))
    await store.read_into(KEY, 0, buffer)
    assert bytes(buffer) == content
    await store.aclose()


async def test_what_a_link_leads_to_is_adopted_and_not_the_link(
    store: LocalStore, large: Path, here: Path
) -> None:
    """As in a snapshot of Hugging Face's cache."""
    (here / "link").symlink_to("large.bin")
    assert await store.adopt(KEY, "link")
    local = store.local_path(KEY)
    assert local is not None
    assert not os.path.islink(local)
    assert Path(local).read_bytes() == large.read_bytes()
    await store.aclose()


async def test_a_file_that_is_not_there_is_not_found_and_leaves_nothing(
    store: LocalStore, here: Path
) -> None:
    with pytest.raises(NotFound):
        await store.adopt(KEY, str(here / "nowhere"))
    assert found(store.root) == {}


@pytest.mark.parametrize("other", [Path("/dev/shm"), Path("/var/tmp")])
async def test_a_file_of_another_file_system_cannot_be_adopted(other: Path, tmp_path: Path) -> None:
    if not os.access(other, os.W_OK) or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("the same file system, or none of ours")
    path = other / f"asyncart-test-{os.getpid()}"
    path.write_bytes(b"x")
    store = LocalStore(tmp_path / "store")
    try:
        assert not await store.adopt(KEY, str(path))
        assert path.stat().st_nlink == 1
    finally:
        path.unlink()
    assert found(store.root) == {}
    await store.aclose()


async def test_other_stores_adopt_nothing_and_wrappers_ask_the_one_inside(
    store: LocalStore, large: Path
) -> None:
    assert not await MemoryStore().adopt(KEY, str(large))
    counting = CountingStore(store)
    assert await counting.adopt(KEY, str(large))
    assert counting.requests["adopt"] == 1
    faulty = FaultyStore(store, lambda operation: Fault(error=Unavailable(operation.verb)))
    with pytest.raises(Unavailable, match="adopt"):
        await faulty.adopt(KEY, str(large))
    await store.aclose()


# --- logging ------------------------------------------------------------------------------------


async def log(face: Any, run: Any, path: Path, **options: Any) -> Any:
    artifact = face.Artifact("data", "dataset")
    artifact.add_file(path, policy="immutable")
    return await got(run.log_artifact(artifact, **options))


async def test_a_large_immutable_file_is_stored_without_a_copy(
    face: Any, large: Path, tmp_path: Path
) -> None:
    events: list[Progress] = []
    async with entered(face.init("p")) as run:
        artifact = await log(face, run, large, progress=events.append)
        [local] = objects_of_size(tmp_path, SIZE)
        assert local.samefile(large) or large.stat().st_nlink == 1
        assert stat.S_IMODE(large.stat().st_mode) == 0o640
        assert (events[-1].bytes, events[-1].bytes_moved) == (SIZE, 0)
        entry = await got(artifact.get_entry("large.bin"))
        assert entry.digest == blake3(large.read_bytes()).hexdigest()
        assert (await got(artifact.verify())).is_ok
        assert await got(entry.read(SIZE - 5, 5)) == large.read_bytes()[-5:]
        folder = Path(await got(artifact.download("out")))
        assert (folder / "large.bin").read_bytes() == large.read_bytes()
        assert not (folder / "large.bin").samefile(large)


async def test_without_the_users_word_it_is_copied(face: Any, large: Path, tmp_path: Path) -> None:
    async with entered(face.init("p")) as run:
        await got(run.log_artifact(large, name="data"))
    [local] = objects_of_size(tmp_path, SIZE)
    assert not local.samefile(large)
    assert large.stat().st_nlink == 1


async def test_logging_it_again_links_nothing_and_reads_nothing(
    face: Any, large: Path, tmp_path: Path
) -> None:
    async with entered(face.init("p")) as run:
        first = await log(face, run, large)
        objects = stored(tmp_path)
        atime_kept = large.stat().st_ctime_ns
        assert await log(face, run, large) == first
        assert sorted(stored(tmp_path)) == sorted(objects)
        assert large.stat().st_ctime_ns == atime_kept  # no link came or went


async def test_content_that_is_stored_already_is_pointed_to(
    face: Any, large: Path, here: Path, tmp_path: Path
) -> None:
    """The link that was made to find out is taken away again."""
    copy = here / "copy.bin"
    copy.write_bytes(large.read_bytes())
    async with entered(face.init("p")) as run:
        await got(run.log_artifact(large, name="data", type="dataset"))
        await log(face, run, copy)
        assert len(objects_of_size(tmp_path, SIZE)) == 1
        assert copy.stat().st_nlink == 1


async def test_a_later_edit_is_deduplicated_against_the_linked_object(
    face: Any, large: Path, here: Path, tmp_path: Path
) -> None:
    edited = here / "edited" / "large.bin"
    edited.parent.mkdir()
    edited.write_bytes(large.read_bytes() + os.urandom(1 << 20))
    async with entered(face.init("p")) as run:
        await log(face, run, large)
        second = await got(run.log_artifact(edited, name="data", type="dataset"))
        assert second.version == "v1"
        [linked] = objects_of_size(tmp_path, SIZE)
        others = sum(p.stat().st_size for p in stored(tmp_path) if p != linked)
        assert others < 8 << 20
        assert (await got(second.verify())).is_ok
        assert (await got((await got(second.get_entry("large.bin"))).read())) == edited.read_bytes()


async def test_small_immutable_files_are_packed_as_ever(face: Any, here: Path) -> None:
    (here / "small").write_bytes(b"x" * 1000)
    async with entered(face.init("p")) as run:
        artifact = await log(face, run, here / "small")
        assert (here / "small").stat().st_nlink == 1
        assert (await got((await got(artifact.get_entry("small"))).read())) == b"x" * 1000


async def test_a_large_new_file_is_not_written_twice(face: Any, here: Path, tmp_path: Path) -> None:
    """A draft's own file does not change either: it becomes the object."""
    data = os.urandom(SIZE)
    async with entered(face.init("p")) as run:
        artifact = face.Artifact("data", "dataset")
        async with entered(artifact.new_file("x", "wb")) as file:
            await got(file.write(data))
        [drafted] = (p for p in (tmp_path / "home" / "drafts").rglob("*") if p.is_file())
        inode = drafted.stat().st_ino
        await got(run.log_artifact(artifact))
        [local] = objects_of_size(tmp_path, SIZE)
        assert local.stat().st_ino == inode
        assert local.stat().st_nlink == 1
        assert await got((await got(artifact.get_entry("x"))).read()) == data


async def test_whoever_breaks_his_word_is_found_out_when_it_is_read(
    face: Any, large: Path, here: Path
) -> None:
    async with entered(face.init("p")) as run:
        artifact = await log(face, run, large)
        with large.open("r+b") as file:
            file.seek(SIZE // 2)
            file.write(b"changed")
        if large.stat().st_nlink == 1:
            pytest.skip("reflinked here: the object did not change")
        with pytest.raises(asyncart.errors.Corrupt, match=r"large\.bin"):
            await got(artifact.download("out"))
        assert not Path("out/large.bin").exists()


# --- when it goes wrong -------------------------------------------------------------------------


async def test_a_file_that_changes_meanwhile_is_a_conflict_and_leaves_no_link(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = upload.LinkedFile.read_block

    def changing(self: Any, buffer: memoryview) -> Any:
        with large.open("r+b") as file:
            file.write(os.urandom(8))
        os.utime(large, ns=(1, large.stat().st_mtime_ns + 1))
        return read(self, buffer)

    monkeypatch.setattr(upload.LinkedFile, "read_block", changing)
    async with asyncart.aio.init("p") as run:
        with pytest.raises(Conflict, match=r"large\.bin changed while it was read"):
            await log(asyncart.aio, run, large)
    assert large.stat().st_nlink == 1
    assert stored(tmp_path) == []


async def test_a_failure_or_a_cancellation_leaves_no_link(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Any, buffer: memoryview) -> Any:
        raise Denied("no reading today")

    scope = anyio.CancelScope()
    read = upload.LinkedFile.read_block

    def cancelling(self: Any, buffer: memoryview) -> Any:
        anyio.from_thread.run_sync(scope.cancel)
        return read(self, buffer)

    async with asyncart.aio.init("p") as run:
        monkeypatch.setattr(upload.LinkedFile, "read_block", failing)
        with pytest.raises(Denied, match="no reading today"):
            await log(asyncart.aio, run, large)
        assert large.stat().st_nlink == 1
        monkeypatch.setattr(upload.LinkedFile, "read_block", cancelling)
        with scope:
            await log(asyncart.aio, run, large)
        assert scope.cancelled_caught
        assert large.stat().st_nlink == 1
        assert stored(tmp_path) == []
        monkeypatch.setattr(upload.LinkedFile, "read_block", read)
        assert (await log(asyncart.aio, run, large)).version == "v0"


async def test_where_the_store_cannot_link_the_bytes_are_written(
    face: Any, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStore, "_adopt", lambda *_: False)
    async with entered(face.init("p")) as run:
        artifact = await log(face, run, large)
        assert (await got(artifact.verify())).is_ok
    assert large.stat().st_nlink == 1
    assert len(objects_of_size(tmp_path, SIZE)) == 1


async def test_many_logs_of_one_immutable_file_at_once_all_succeed(large: Path) -> None:
    """Each link changes the ctime under the others; that is no change of the file."""
    async with asyncart.aio.init("p") as run, anyio.create_task_group() as group:
        versions: list[str] = []

        async def one() -> None:
            versions.append((await log(asyncart.aio, run, large)).version)

        for _ in range(6):
            group.start_soon(one)
    assert versions == ["v0"] * 6


async def test_the_space_of_a_deleted_version_comes_back(large: Path, tmp_path: Path) -> None:
    async with asyncart.aio.init("p") as run:
        artifact = await log(asyncart.aio, run, large)
        await artifact.delete(delete_aliases=True)
    async with asyncart.aio.Api(project="p") as api:
        await api.collect()
    assert stored(tmp_path) == []
    assert large.stat().st_nlink == 1
    assert large.stat().st_size == SIZE
