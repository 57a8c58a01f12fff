"""Versions leave objects that are mostly dead: in one transaction, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from catalog_kinds import (
    Writer,
    catalog,
    catalog_url,
    content,
    digest,
    expire,
    fresh_object,
    sweep,
    writer,
)
from sqlalchemy import select

from asyncart.catalog import tables
from asyncart.catalog.protocol import (
    Compacted,
    Compaction,
    Draft,
    LooseObject,
    Rewritten,
    StoredObject,
)
from asyncart.errors import Conflict
from asyncart.model import Chunk, Content, Extent, ManifestLocation, VersionInfo

__all__ = ["catalog", "catalog_url", "writer"]  # fixtures


async def loose(catalog: Any) -> list[str]:
    return [each.object_id for each in await catalog.loose_objects()]


class Case:
    """A pack of five contents, of which two versions (b+c and c) use two and one was deleted."""

    @classmethod
    async def make(cls, catalog: Any, writer: Writer) -> Case:
        self = cls()
        self.catalog, self.writer = catalog, writer
        self.old = await writer.store("a", "b", "c", "d", "e")
        whole = (await writer.log("a", "b", "c", "d", "e", objects=[self.old])).version
        self.both = (await writer.log("b", "c", objects=[self.old])).version
        self.one = (await writer.log("c", objects=[self.old])).version
        await catalog.delete_version(whole.id)
        return self

    async def copy(self, mover: Writer, *moved: VersionInfo) -> Compaction:
        """What a compaction asks for after it copied b and c."""
        self.new = fresh_object()
        await self.catalog.register_upload(mover.session_id, self.new)
        stored = StoredObject(self.new, 2)
        await self.catalog.add_stored(mover.session_id, [stored], [])
        rewritten = []
        for version in moved or (self.both, self.one):
            manifest = await mover.store()
            where = ManifestLocation(manifest, 10, 5, digest(manifest))
            rewritten.append(Rewritten(version.id, version.manifest, where, (self.new,)))
        contents = (content("b", self.new, 0), content("c", self.new, 1))
        return Compaction((self.old,), (stored,), contents, tuple(rewritten))


async def test_only_what_something_was_deleted_from_is_loose(catalog, writer):
    """And is still needed; a look that finds nothing worth doing is remembered until the next deletion."""
    kept, shared = await writer.store("k"), await writer.store("s")
    await writer.log("k", objects=[kept])
    first = (await writer.log("k", "s", objects=[kept, shared])).version
    second = (await writer.log("s", objects=[shared])).version
    third = (await writer.log("s", "t", objects=[shared])).version
    assert await loose(catalog) == []
    await catalog.delete_version(first.id)
    found = await catalog.loose_objects()
    assert [each.object_id for each in found] == [kept, shared]
    assert [(each.entity, each.size) for each in found] == [("me", 1), ("me", 1)]
    assert await catalog.loose_objects(limit=1) == found[:1]
    assert await catalog.loose_objects(after=found[0].number) == found[1:]
    reaching = await catalog.versions_reaching([each.number for each in found])
    assert [(each.version.number, each.objects) for each in reaching] == [
        (0, (found[0].number,)),
        (2, (found[1].number,)),
        (3, (found[1].number,)),
    ]
    await catalog.delete_version(second.id)
    await catalog.mark_compact(found)  # too late for `shared`: something was deleted since
    assert await loose(catalog) == [shared]
    await catalog.mark_compact(await catalog.loose_objects())
    assert await loose(catalog) == []
    await catalog.delete_version(third.id)
    assert await loose(catalog) == []  # nothing needs `shared` now: the collector's business


async def test_what_a_failed_attempt_left_is_loose_once_it_is_used(catalog, writer):
    pack = await writer.store("a", "b", "c")
    await writer.end()
    other = await Writer.begin(catalog)
    await other.log("a", objects=[pack])
    assert await loose(catalog) == [pack]


async def test_what_a_healed_version_let_go_of_is_loose(catalog, writer):
    """It needs nothing of the sound pack any more, and others only a part of it."""
    bad, sound = await writer.store("a"), await writer.store("b", "c")
    await writer.log("a", "b", objects=[bad, sound])
    await writer.log("c", objects=[sound])
    await catalog.mark_damaged([bad])
    assert await loose(catalog) == []
    healed = await writer.log("a", "b", objects=[await writer.store("a", "b")])
    assert (healed.is_new, healed.version.is_damaged) == (False, False)
    assert await loose(catalog) == [sound]


async def test_versions_move_and_what_they_left_is_collected(catalog, writer):
    """Same numbers, digests, times; the contents are found in the new object; the rest is gone."""
    case = await Case.make(catalog, writer)
    await writer.end()
    mover = await Writer.begin(catalog)
    compaction = await case.copy(mover)
    done = Compacted((case.both.id, case.one.id), (case.old,))
    assert await catalog.compact(mover.session_id, compaction) == done
    assert await catalog.compact(mover.session_id, compaction) == done  # the answer got lost
    for old, new in zip((case.both, case.one), compaction.versions, strict=True):
        now = await catalog.get_version(old.id)
        assert now.manifest == new.manifest
        assert (now.number, now.digest, now.updated_at) == (old.number, old.digest, old.updated_at)
    assert await loose(catalog) == []
    late = await Writer.begin(catalog)
    assert await late.stored("a", "b", "c", "d", "e") == {
        digest("b"): content("b", case.new, 0),
        digest("c"): content("c", case.new, 1),
    }
    await mover.end()
    gone = await sweep(catalog) | await sweep(catalog)
    assert gone == {case.old, case.both.manifest.object_id, case.one.manifest.object_id}
    assert case.new not in gone
    assert await late.stored("a", "b", "c") == {
        digest("b"): content("b", case.new, 0),
        digest("c"): content("c", case.new, 1),
    }
    await catalog.delete_version(case.both.id)
    await catalog.delete_version(case.one.id)
    await late.end()
    left = await sweep(catalog) | await sweep(catalog)
    assert left >= {case.new, *(new.manifest.object_id for new in compaction.versions)}


async def test_a_writer_who_was_told_of_an_emptied_object_may_commit_it(catalog, writer):
    """It is taken back, whole, and is looked at again."""
    case = await Case.make(catalog, writer)
    mover = await Writer.begin(catalog)
    compaction = await case.copy(mover)
    told = await writer.stored("a")
    assert told[digest("a")].extents[0].object_id == case.old
    await catalog.compact(mover.session_id, compaction)
    await mover.end()
    assert case.old not in await sweep(catalog) | await sweep(catalog)
    version = (await writer.log("a", objects=[case.old], aliases=["mine"])).version
    await writer.end()
    assert case.old not in await sweep(catalog) | await sweep(catalog)
    assert await loose(catalog) == [case.old]
    assert not (await catalog.get_version(version.id)).is_damaged


async def test_a_version_that_was_deleted_meanwhile_stays_deleted(catalog, writer):
    """The others move; if none is left, nothing happens, and the copies are garbage."""
    case = await Case.make(catalog, writer)
    mover = await Writer.begin(catalog)
    compaction = await case.copy(mover)
    await catalog.delete_version(case.both.id)
    done = await catalog.compact(mover.session_id, compaction)
    assert done == Compacted((case.one.id,), (case.old,))
    assert (await catalog.get_version(case.one.id)).manifest == compaction.versions[1].manifest
    again = await Case.make(catalog, writer)
    compaction = await again.copy(mover)
    for version in (again.both, again.one):
        await catalog.delete_version(version.id)
    done = await catalog.compact(mover.session_id, compaction)
    assert done.version_ids == ()
    for session in (mover, writer):
        await expire(catalog, session.session_id)
    assert again.new in await sweep(catalog) | await sweep(catalog)


async def test_a_version_whose_manifest_changed_meanwhile_stays_as_it_is(catalog, writer):
    """Moved by another compaction, or healed; its objects stay with it."""
    case = await Case.make(catalog, writer)
    first, second = await Writer.begin(catalog), await Writer.begin(catalog)
    slow = await case.copy(second)
    slow_copy = case.new
    fast = await case.copy(first, case.both)
    assert (await catalog.compact(first.session_id, fast)).version_ids == (case.both.id,)
    done = await catalog.compact(second.session_id, slow)
    assert done == Compacted((case.one.id,), (case.old,))
    assert (await catalog.get_version(case.both.id)).manifest == fast.versions[0].manifest
    for session in (first, second, writer):
        await session.end()
    gone = await sweep(catalog) | await sweep(catalog)
    assert not {case.new, slow_copy} & gone


async def test_an_object_that_somebody_still_needs_is_not_condemned(catalog, writer):
    """A version was logged from it after the look: it stays where it is, and so does the object."""
    case = await Case.make(catalog, writer)
    mover = await Writer.begin(catalog)
    compaction = await case.copy(mover)
    late = (await writer.log("a", "b", objects=[case.old])).version
    done = await catalog.compact(mover.session_id, compaction)
    assert done == Compacted((case.both.id, case.one.id), ())
    assert (await catalog.get_version(late.id)).manifest == late.manifest
    assert await loose(catalog) == [case.old]
    for session in (mover, writer):
        await session.end()
    assert case.old not in await sweep(catalog) | await sweep(catalog)


@pytest.mark.parametrize("how", ["expires", "was never stored", "other entity"])
async def test_a_compaction_that_came_too_late_changes_nothing(catalog, writer, how):
    """Its lease ran out, or its copies are not there: Conflict, and the versions are where they were."""
    case = await Case.make(catalog, writer)
    mover = await Writer.begin(catalog, "you" if how == "other entity" else "me")
    compaction = await case.copy(mover)
    if how == "was never stored":
        wrong = [
            Rewritten(each.version_id, each.seen, each.manifest, (fresh_object(),))
            for each in compaction.versions
        ]
        compaction = Compaction(compaction.emptied, (), (), tuple(wrong))
    if how == "expires":
        await expire(catalog, mover.session_id)
        await catalog.collect()
    if how == "other entity":
        assert await catalog.compact(mover.session_id, compaction) == Compacted()
    else:
        with pytest.raises(Conflict):
            await catalog.compact(mover.session_id, compaction)
    for version in (case.both, case.one):
        assert (await catalog.get_version(version.id)).manifest == version.manifest
    assert await loose(catalog) == [case.old]


async def test_what_a_damaged_version_may_need_is_left_alone(catalog, writer):
    """Its content may be looked for by digest in objects that its manifest does not name."""
    case = await Case.make(catalog, writer)
    bad = await writer.store("x")
    damaged = (await writer.log("x", "c", objects=[bad, case.old])).version
    mover = await Writer.begin(catalog)
    compaction = await case.copy(mover)
    await catalog.mark_damaged([bad])
    assert await loose(catalog) == []
    await catalog.mark_damaged([case.one.manifest.object_id])
    done = await catalog.compact(mover.session_id, compaction)
    assert done == Compacted((case.both.id,), ())
    assert (await catalog.get_version(damaged.id)).is_damaged


async def test_recipes_and_chunks_move_too_and_survive_the_old_object(catalog, writer):
    """A large file of which a part lay there is found by its digest, and its chunks by theirs."""
    parts = [Chunk(digest(text), 10) for text in ("p", "q")]
    old, other = fresh_object(), fresh_object()
    for object_id in (old, other):
        await catalog.register_upload(writer.session_id, object_id)
    large = Content(digest("large"), 20, (Extent(other, 0, 10), Extent(old, 50, 10)), tuple(parts))
    await catalog.add_stored(
        writer.session_id,
        [StoredObject(old, 100, ((parts[1], 50),)), StoredObject(other, 10, ((parts[0], 0),))],
        [large],
    )
    whole = (await writer.log("whole", objects=[old, other])).version
    version = (await writer.log("large", objects=[old, other])).version
    await catalog.delete_version(whole.id)
    mover = await Writer.begin(catalog)
    new = fresh_object()
    await catalog.register_upload(mover.session_id, new)
    stored = StoredObject(new, 10, ((parts[1], 0),))
    await catalog.add_stored(mover.session_id, [StoredObject(new, 10)], [])
    manifest = await mover.store()
    where = ManifestLocation(manifest, 10, 5, digest(manifest))
    moved = Content(digest("large"), 20, (Extent(other, 0, 10), Extent(new, 0, 10)), tuple(parts))
    compaction = Compaction(
        (old,), (stored,), (moved,), (Rewritten(version.id, version.manifest, where, (new, other)),)
    )
    assert (await catalog.compact(mover.session_id, compaction)).condemned == (old,)
    for session in (writer, mover):
        await session.end()
    assert old in await sweep(catalog) | await sweep(catalog)
    late = await Writer.begin(catalog)
    assert await late.stored("large") == {digest("large"): moved}
    assert await catalog.stored_chunks(late.session_id, [digest("p"), digest("q")]) == {
        digest("p"): Extent(other, 0, 10),
        digest("q"): Extent(new, 0, 10),
    }

    def listed(conn: Any) -> int:
        return len(conn.execute(select(tables.listings)).all())

    assert await catalog.database.read(listed) > 0


async def test_nothing_to_do_is_fine(catalog, writer):
    assert await catalog.versions_reaching([]) == []
    await catalog.mark_compact([])
    await catalog.mark_compact([LooseObject(1, fresh_object(), "me", 1, 1)])
    nothing = Compaction((), (), (), ())
    assert await catalog.compact(writer.session_id, nothing) == Compacted()
    draft: Draft = await writer.draft("a")
    assert (await catalog.commit_version(writer.session_id, draft)).is_new
