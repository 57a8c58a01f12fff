"""Running it again is resuming it: what was finished is neither sent nor read again."""

from __future__ import annotations

import os
from typing import Any

import anyio
import pytest
from material import content, read_tree
from workplace import KIB, Place, check_hands_empty, settle, small_tree

from asyncart.aio.collect import collect
from asyncart.catalog.tables import STORED, WRITING
from asyncart.engine import download, listing, plan, reading
from asyncart.errors import Unavailable
from asyncart.model import object_key
from asyncart.stores.wrappers import Fault, Operation

GONE = "the store has gone away"


def broken_store() -> Unavailable:
    return Unavailable(GONE)  # a new one each time: its traceback holds on to frames


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe stamps at once, where the racy rule would want files that are two seconds old."""
    for module in (listing, download):
        monkeypatch.setattr(module, "RACY_NS", -(10**15))


@pytest.mark.parametrize("is_done", [False, True])
async def test_log_fails_at_any_store_operation(wrapped: Place, is_done: bool) -> None:
    """The error is the store's; the next attempt sends only what was not finished."""
    place = wrapped
    async with place.init() as run:
        await run.log_artifact(place.artifact({"x": b"warm"}, "warm"))
        store, faulty = place.store, place.faulty
        assert store is not None
        assert faulty is not None
        number = 0
        while True:
            tree = small_tree(("fails", is_done, number))
            size = sum(len(data) for data in {data: data for data in tree.values()})
            artifact = place.artifact(tree)
            first = len(faulty.operations)
            broken = False

            def fails(operation: Operation, at: int = first + number) -> Fault | None:
                nonlocal broken
                if operation.number != at:
                    return None
                broken = True
                # An upload that was begun without anybody hearing of it is nobody's: see `sweep`.
                return Fault(broken_store(), is_done and operation.verb != "begin_upload")

            place.plan = fails
            failure = None
            try:
                await run.log_artifact(artifact)
            except Unavailable as error:
                failure = str(error)
            place.plan = lambda operation: None
            if not broken:
                break
            assert failure == GONE
            check_hands_empty(place)
            place.check_store()
            rows = place.query(f"SELECT sum(size) FROM objects WHERE state = {STORED}")
            before = rows[0][0]
            store.clear()
            await run.log_artifact(artifact)
            assert artifact.version == f"v{number}"
            sent = store.bytes["write"] + store.bytes["part"]
            manifest = artifact._version_info("manifest").manifest.size
            after = place.query(f"SELECT sum(size) FROM objects WHERE state = {STORED}")[0][0]
            assert isinstance(before, int)
            assert isinstance(after, int)
            assert sent == after - before <= size + manifest
            assert (await artifact.verify()).is_ok
            number += 1
        await place.check_collected()
    assert number > 4


async def test_finished_objects_are_not_sent_again(wrapped: Place) -> None:
    """Of many packs and large files, those that were finished before the failure are there."""
    place = wrapped
    tree = {f"small{i:02}": content(i, 7 * KIB) for i in range(30)}
    tree |= {f"large{i}": content(("large", i), 50 * KIB) for i in range(5)}
    total = sum(map(len, tree.values()))
    async with place.init() as run:
        artifact = place.artifact(tree)
        completed = 0

        def fails(operation: Operation) -> Fault | None:
            nonlocal completed
            completed += operation.verb == "complete"
            return Fault(broken_store()) if completed > 4 else None

        place.plan = fails
        with pytest.raises(Unavailable, match="gone away"):
            await run.log_artifact(artifact)
        place.plan = lambda operation: None
        await settle()
        stored = place.query(f"SELECT sum(size) FROM objects WHERE state = {STORED}")[0][0]
        assert isinstance(stored, int)
        assert stored >= 3 * 50 * KIB
        # The store had gone away, so what was begun could not be aborted: its parts are continued.
        noted = (
            "SELECT coalesce(sum(length), 0) FROM upload_parts JOIN objects ON object = objects.id"
        )
        parts = place.query(f"{noted} WHERE state = {WRITING} AND token != ''")[0][0]
        assert isinstance(parts, int)
        assert (parts > 0) == (place.memory is not None)
        assert place.store is not None
        place.store.clear()
        await run.log_artifact(artifact)
        sent = place.store.bytes["write"] + place.store.bytes["part"]
        manifest = artifact._version_info("manifest").manifest.size
        assert sent == total - stored - parts + manifest
        assert (await artifact.verify()).is_ok


@pytest.mark.parametrize("is_done", [False, True])
async def test_download_fails_at_any_store_operation(wrapped: Place, is_done: bool) -> None:
    """The error is the store's; the next attempt does not fetch again what is verified and there."""
    place = wrapped
    tree = small_tree("download") | {f"more{i}": content(i, 6 * KIB) for i in range(8)}
    total = sum(map(len, tree.values()))
    async with place.init() as run:
        await run.log_artifact(place.artifact(tree))
        number = 0
        while True:
            artifact = await run.use_artifact("data:v0")
            await artifact.get_entry("large")  # the manifest's footer is read
            store, faulty = place.store, place.faulty
            assert store is not None
            assert faulty is not None
            at = len(faulty.operations) + number
            place.plan = lambda operation, at=at: (  # type: ignore[misc]
                Fault(broken_store(), is_done) if operation.number == at else None
            )
            target = place.fresh("target")
            failure = None
            try:
                await artifact.download(target)
            except Unavailable as error:
                failure = str(error)
            place.plan = lambda operation: None
            if failure is None:
                break
            assert failure == GONE
            check_hands_empty(place)
            finished = {path: data for path, data in read_tree(target).items() if path in tree}
            assert finished.items() <= tree.items()
            store.clear()
            await artifact.download(target)
            manifest = object_key(artifact._version_info("manifest").manifest.object_id)
            objects = [length for key, _, length in store.reads if key != manifest]
            gaps = 2 * KIB
            assert sum(objects) <= total - sum(map(len, finished.values())) + gaps
            assert read_tree(target) == tree
            number += 1
    assert number > 4


async def test_unchanged_content_costs_nothing(
    wrapped: Place, trusting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No byte of a file is read, no object written; the same version is the answer."""
    place = wrapped
    tree = small_tree("unchanged")
    source = place.source(tree)
    async with place.init() as run:
        first = await run.log_artifact(place.artifact(source))
        assert place.store is not None
        place.store.clear()

        class Forbidden:
            def __getattr__(self, name: str) -> Any:
                assert name not in ("open", "readv", "preadv"), "a file was read"
                return getattr(os, name)

        with monkeypatch.context() as patch:
            patch.setattr(reading, "os", Forbidden())
            again = await run.log_artifact(place.artifact(source))
        assert again.id == first.id
        assert not place.store.requests
        (source / "a/two").write_bytes(content("changed", 5 * KIB))
        changed = await run.log_artifact(place.artifact(source))
        assert changed.version == "v1"
        sent = place.store.bytes["write"] + place.store.bytes["part"]
        assert sent == 5 * KIB + changed._version_info("manifest").manifest.size


async def test_downloading_again_costs_nothing(wrapped: Place, trusting: None) -> None:
    """A warm folder: the manifest is read, and nothing else."""
    place = wrapped
    tree = small_tree("warm")
    async with place.init() as run:
        artifact = await run.log_artifact(place.artifact(tree))
        target = place.fresh("target")
        await artifact.download(target)
        stamps = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
        assert place.store is not None
        place.store.clear()
        await (await run.use_artifact("data:v0")).download(target)
        manifest = artifact._version_info("manifest").manifest.size
        assert place.store.bytes["read_into"] <= manifest
        assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == stamps


async def test_equal_content_logged_at_once(wrapped: Place) -> None:
    """Ten tasks log the same tree: one version, and nothing that the collector cannot take back."""
    place = wrapped
    tree = small_tree("equal")
    async with place.init() as run:
        artifacts = [place.artifact(tree) for _ in range(10)]
        async with anyio.create_task_group() as group:
            for artifact in artifacts:
                group.start_soon(run.log_artifact, artifact)
        assert {artifact.version for artifact in artifacts} == {"v0"}
        assert (await artifacts[0].verify()).is_ok
        place.check_store()
        await place.check_collected()


async def test_duplicates_are_stored_once(wrapped: Place) -> None:
    """Many paths, in many batches and large, with few contents: each content is stored once."""
    place = wrapped
    contents = [content(i, 3 * KIB) for i in range(3)] + [content("large", 30 * KIB)]
    tree = {f"f{i:02}": contents[i % 4] for i in range(40)}
    async with place.init() as run:
        artifact = await run.log_artifact(place.artifact(tree))
        assert place.store is not None
        sent = place.store.bytes["write"] + place.store.bytes["part"]
        manifest = artifact._version_info("manifest").manifest.size
        # Copies of a large file are read side by side: their first blocks may all be sent.
        blocks = (place.workspace().threads.count - 1) * plan.BLOCK_BYTES
        assert sent <= sum(map(len, contents)) + manifest + blocks
        target = place.fresh("target")
        await artifact.download(target)
        assert read_tree(target) == tree


async def test_collected_while_logging(wrapped: Place) -> None:
    """What the collector takes between being found and being committed is stored again, once."""
    place = wrapped
    tree = small_tree("collected")
    async with place.init() as run:
        source = place.source(tree)
        gone = await run.log_artifact(place.artifact(source))
        await gone.delete(delete_aliases=True)
        place.execute("UPDATE sessions SET expires_at = 0")
        await collect(place.workspace())
        assert not place.keys()
        artifact = await run.log_artifact(place.artifact(source))
        assert artifact.version == "v1"
        assert (await artifact.verify()).is_ok
