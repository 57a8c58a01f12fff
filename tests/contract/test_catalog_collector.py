"""Garbage is collected beside writers: everything that is garbage, and nothing that is not."""

from __future__ import annotations

import itertools

import anyio
import pytest
from catalog_kinds import (
    Writer,
    catalog,
    catalog_url,
    content,
    digest,
    expire,
    fresh_object,
    part,
    sweep,
    writer,
)
from sqlalchemy import func, select, update

from asyncart.catalog import commits, tables
from asyncart.catalog.protocol import Collected, StoredObject
from asyncart.errors import Conflict
from asyncart.model import Chunk, PendingUpload

__all__ = ["catalog", "catalog_url", "writer"]  # fixtures


async def rows(catalog, *names: str) -> dict[str, int]:
    def count(conn):
        return {
            name: conn.execute(
                select(func.count()).select_from(tables.metadata.tables[name])
            ).scalar_one()
            for name in names
        }

    return await catalog.database.read(count)


async def test_what_is_in_use_is_never_condemned(catalog, writer):
    """Reached by a live version, or by a living writer, stored or still being written."""
    await writer.log("a")
    await writer.store("b")
    await catalog.register_upload(writer.session_id, fresh_object(), "token", "key")
    assert await catalog.collect() == Collected()
    await writer.end()
    assert await catalog.collect() == Collected()  # its lease has not run out: the next attempt
    other = await Writer.begin(catalog)
    assert list(await other.stored("b")) == [digest("b")]
    assert await catalog.adopt_upload(other.session_id, "key") is not None


async def test_a_deleted_versions_objects_go_in_two_passes(catalog, writer):
    """Condemned, then deleted with all their index rows; what other versions share stays."""
    shared, own = await writer.store("s"), await writer.store("o", "p")
    chunk = StoredObject(own, 2, ((Chunk(digest("c"), 1), 0),))
    await catalog.add_stored(writer.session_id, [chunk], [])
    first = (await writer.log("s", "o", objects=[shared, own])).version
    await writer.log("s", objects=[shared])
    await writer.end()
    await catalog.delete_version(first.id)

    collected = await catalog.collect()
    assert (collected.condemned, collected.deleted_object_ids) == (2, ())
    late = await Writer.begin(catalog)
    assert list(await late.stored("s", "o", "p")) == [digest("s")]  # not offered any more
    assert await catalog.stored_chunks(late.session_id, [digest("c")]) == {}

    collected = await catalog.collect()
    gone = {own, first.manifest.object_id}
    assert (collected.condemned, set(collected.deleted_object_ids)) == (0, gone)
    assert collected.freed_bytes == 2
    assert await rows(catalog, "contents", "chunks") == {"contents": 1, "chunks": 0}
    assert set((await catalog.collect()).deleted_object_ids) == gone  # until the bytes are deleted
    for _ in range(2):
        await catalog.forget_objects([*gone, shared, "unknown"])
    assert await catalog.collect() == Collected()
    assert await rows(catalog, "objects") == {"objects": 2}
    assert list(await late.stored("s")) == [digest("s")]


async def test_the_answers_to_commits_are_kept_for_a_day(catalog, writer, monkeypatch):
    """Then they go, a few at a time. Who asks again later gets the version that has the content."""
    monkeypatch.setattr(commits, "FORGOTTEN_AT_ONCE", 2)
    drafts = [await writer.draft(f"{number}") for number in range(6)]
    done = [await catalog.commit_version(writer.session_id, draft) for draft in drafts]
    column, key = tables.drafts.c.committed_at, tables.drafts.c.id
    for each, age_s in (*[(old, commits.KEPT_S) for old in drafts[:5]], (drafts[5], 86_000.0)):
        older = update(tables.drafts).where(key == each.id).values(committed_at=column - age_s)
        await catalog.database.write(lambda conn, older=older: conn.execute(older) and None)
    await catalog.collect(dry_run=True)
    assert await rows(catalog, "drafts") == {"drafts": 6}
    await catalog.collect()
    assert await rows(catalog, "drafts", "versions") == {"drafts": 1, "versions": 6}
    again = [await catalog.commit_version(writer.session_id, draft) for draft in drafts]
    assert [each.version.id for each in again] == [each.version.id for each in done]
    assert [each.is_new for each in again] == [False] * 5 + [True]


async def test_a_dry_run_says_what_would_happen_and_does_nothing(catalog, writer):
    version = (await writer.log("abc")).version
    await writer.end()
    await catalog.delete_version(version.id)
    for _ in range(2):
        assert await catalog.collect(dry_run=True) == Collected(condemned=2, condemned_bytes=3)
    assert (await catalog.collect()).condemned == 2
    would = await catalog.collect(dry_run=True)
    assert len(would.deleted_object_ids) == 2
    assert would.freed_bytes == 3
    assert await rows(catalog, "contents") == {"contents": 1}
    assert await catalog.collect() == would
    assert await rows(catalog, "contents") == {"contents": 0}


async def test_condemned_objects_wait_for_the_older_sessions(catalog, writer):
    """Who was told of an object may still commit it, however many passes there are; a later
    session was not told, and does not delay anything."""
    version = (await writer.log("a")).version
    older = await Writer.begin(catalog)
    assert list(await older.stored("a")) == [digest("a")]
    await writer.end()
    await catalog.delete_version(version.id)
    assert (await catalog.collect()).condemned == 2
    later = await Writer.begin(catalog)
    assert await later.stored("a") == {}
    assert await sweep(catalog) == set()

    told = (await catalog.database.read(object_ids))[:1]
    with pytest.raises(Conflict, match="collected meanwhile; log again"):
        await later.log("a", objects=told)
    committed = await older.log("a", objects=told)
    assert (committed.version.number, committed.is_new) == (1, True)
    assert list(await later.stored("a")) == [digest("a")]  # it is offered again
    assert await sweep(catalog) == set()  # the old manifest waits for `older`
    await older.end()
    assert await sweep(catalog) == {version.manifest.object_id}
    assert list(await later.stored("a")) == [digest("a")]


def object_ids(conn):
    return list(
        conn.execute(select(tables.objects.c.object_id).order_by(tables.objects.c.id)).scalars()
    )


@pytest.mark.parametrize("how", ["ends", "expires"])
async def test_condemned_objects_go_when_the_older_sessions_are_over(catalog, writer, how):
    version = (await writer.log("a")).version
    await catalog.delete_version(version.id)
    assert (await catalog.collect()).condemned == 2
    assert await sweep(catalog) == set()
    if how == "ends":
        await writer.end()
    else:
        await expire(catalog, writer.session_id)
    later = await Writer.begin(catalog)
    assert len(await sweep(catalog)) == 2
    with pytest.raises(Conflict):
        await later.log("a", objects=[version.manifest.object_id])
    assert (await later.log("a")).version.number == 1


async def test_what_a_dead_writer_stored_goes_when_its_lease_has_run_out(catalog, writer):
    """It is offered until then; two passes later it is gone, with the sessions."""
    await writer.store("a", "b")
    await expire(catalog, writer.session_id)
    collected = await catalog.collect()
    assert (collected.expired_sessions, collected.condemned) == (1, 1)
    assert len(await sweep(catalog)) == 1
    assert await rows(catalog, "objects", "contents", "listings", "sessions") == {
        "objects": 0,
        "contents": 0,
        "listings": 0,
        "sessions": 0,
    }


async def test_an_expired_upload_is_named_to_be_aborted(catalog, writer):
    """With its parts and token, until it was forgotten; then its object can be deleted."""
    object_id, plain = fresh_object(), fresh_object()
    await catalog.register_upload(writer.session_id, object_id, "token", "key")
    await catalog.register_upload(writer.session_id, plain)
    await catalog.note_parts(object_id, [part(0)])
    await expire(catalog, writer.session_id)
    assert (await catalog.collect()).aborted_uploads == ()
    for _ in range(2):
        collected = await catalog.collect()
        assert collected.aborted_uploads == (PendingUpload(object_id, "token", (part(0),)),)
        assert set(collected.deleted_object_ids) == {object_id, plain}
    other = await Writer.begin(catalog)
    assert await catalog.adopt_upload(other.session_id, "key") is None  # too late
    with pytest.raises(Conflict):
        await catalog.note_parts(object_id, [part(1)])
    with pytest.raises(Conflict):
        await catalog.add_stored(other.session_id, [StoredObject(object_id, 100)], [])
    await catalog.forget_upload(object_id)
    collected = await catalog.collect()
    assert collected.aborted_uploads == ()
    assert set(collected.deleted_object_ids) == {object_id, plain}
    await catalog.forget_objects([object_id, plain])
    assert await rows(catalog, "objects", "upload_parts") == {"objects": 0, "upload_parts": 0}


async def test_a_condemned_upload_can_still_be_adopted(catalog, writer):
    """Its new writer keeps it alive from then on."""
    object_id = fresh_object()
    await catalog.register_upload(writer.session_id, object_id, "token", "key")
    await expire(catalog, writer.session_id)
    assert (await catalog.collect()).condemned == 1
    other = await Writer.begin(catalog)
    assert (await catalog.adopt_upload(other.session_id, "key")).object_id == object_id
    for _ in range(3):
        assert await sweep(catalog) == set()
    await catalog.add_stored(other.session_id, [StoredObject(object_id, 1)], [])
    assert (await other.log("a", objects=[object_id])).is_new


async def test_a_stored_object_of_another_writer_outlives_that_writer(catalog, writer):
    """Offered to one, stored by another who dies: the one may commit it."""
    pack = await writer.store("a")
    other = await Writer.begin(catalog)
    assert list(await other.stored("a")) == [digest("a")]
    await expire(catalog, writer.session_id)
    for _ in range(3):
        assert await sweep(catalog) == set()
    assert (await other.log("a", objects=[pack])).is_new
    await other.end()
    assert await sweep(catalog) == set()


async def test_a_healed_content_lives_as_long_as_all_versions_that_need_it(catalog, writer):
    """Two versions used the damaged object; one is healed and deleted; the new object stays."""
    bad = await writer.store("a", "b")
    first = (await writer.log("a", objects=[bad])).version
    second = (await writer.log("a", "b", objects=[bad])).version
    await catalog.mark_damaged([bad])
    draft = await writer.draft("a")
    await catalog.commit_version(writer.session_id, draft)
    await writer.end()
    assert (await catalog.get_version(second.id)).is_damaged
    await catalog.delete_version(first.id)
    assert await sweep(catalog) == set()
    # the damaged version's manifest was replaced, and the healed one's goes with its version
    assert await sweep(catalog) == {first.manifest.object_id, draft.manifest.object_id}
    later = await Writer.begin(catalog)
    found = await later.stored("a")
    assert found[digest("a")].extents[0].object_id == draft.object_ids[0]
    await catalog.delete_version(second.id)
    await later.end()
    await sweep(catalog)
    assert await sweep(catalog) == {bad, draft.object_ids[0], second.manifest.object_id}


async def test_index_rows_that_moved_on_survive_the_old_object(catalog, writer):
    """A content damaged in one object and stored again in another stays findable when the
    first is deleted."""
    bad = await writer.store("a")
    await catalog.mark_damaged([bad])
    good = await writer.store("a")
    version = (await writer.log("a", objects=[good])).version
    await expire(catalog, writer.session_id)
    await catalog.collect()
    assert await sweep(catalog) == {bad}
    later = await Writer.begin(catalog)
    assert await later.stored("a") == {digest("a"): content("a", good)}
    assert not (await catalog.get_version(version.id)).is_damaged


STEPS = ("store", "look", "commit", "delete", "collect", "collect")
SCHEDULES = [
    steps
    for steps in sorted(set(itertools.permutations(STEPS)))
    if steps.index("store") < steps.index("look") < steps.index("commit")
    and steps.index("store") < steps.index("delete")
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids="-".join)
async def test_no_schedule_of_a_writer_and_the_collector_loses_a_byte(catalog, schedule):
    """One writer stores and later deletes; another looks and commits what it was told; the collector
    comes at any two points: what the second was told is never deleted under it."""
    first, second = await Writer.begin(catalog), await Writer.begin(catalog)
    deleted: set[str] = set()
    told: str | None = None
    version = committed = None
    for step in schedule:
        if step == "store":
            version = (await first.log("a")).version
            await first.end()
        elif step == "look":
            found = await second.stored("a")
            told = found[digest("a")].extents[0].object_id if found else None
        elif step == "commit" and told is not None:
            draft = await second.draft("a", objects=[told], aliases=["mine"])
            committed = await catalog.commit_version(second.session_id, draft)
        elif step == "delete":
            await catalog.delete_version(version.id, delete_aliases=True)
        elif step == "collect":
            deleted |= await sweep(catalog)
    assert told not in deleted
    if committed is not None and committed.is_new:
        await second.end()
        for _ in range(3):
            deleted |= await sweep(catalog)
        assert told not in deleted
        late = await Writer.begin(catalog)
        assert list(await late.stored("a")) == [digest("a")]


async def test_collecting_twice_at_once_is_fine(catalog, writer):
    """Two collectors and a writer side by side: all garbage goes, and nothing else."""
    kept = (await writer.log("kept")).version
    versions = [(await writer.log(f"{n}")).version for n in range(5)]
    await writer.end()
    for version in versions:
        await catalog.delete_version(version.id)
    deleted: set[str] = set()

    async def collect() -> None:
        for _ in range(4):
            deleted.update(await sweep(catalog))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect)
        tasks.start_soon(collect)
        other = await Writer.begin(catalog)
        new = (await other.log("new")).version
        await other.end()
    deleted |= await sweep(catalog) | await sweep(catalog)
    assert len(deleted) == 10
    assert deleted.isdisjoint({kept.manifest.object_id, new.manifest.object_id})
    assert await rows(catalog, "objects") == {"objects": 4}
