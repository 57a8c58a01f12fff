"""What every catalog does: each verb, each rule, each repeated call."""

from __future__ import annotations

import itertools
import math
import time

import msgspec
import pytest
from catalog_kinds import (
    BIKES,
    Writer,
    catalog,
    catalog_url,
    content,
    digest,
    expire,
    fresh_object,
    part,
    run,
    writer,
)

from asyncart.catalog import open_catalog, versions
from asyncart.catalog.protocol import CollectionName, Draft, Retention, StoredObject
from asyncart.errors import Conflict, Invalid, NotFound
from asyncart.model import Chunk, Content, Extent, RunState

__all__ = ["catalog", "catalog_url", "writer"]  # fixtures


# runs and lineage


async def test_a_run_is_created_once_and_read_back(catalog):
    """The same run again is fine, and changes nothing."""
    config = {"lr": 0.1, "deep": {"a": [1, None, "x\u0000y"]}, "big": 2**80}
    info = run("r1", job_type="train", config=config)
    await catalog.create_run(info)
    await catalog.create_run(run("r1", name="other"))
    assert await catalog.get_run("r1") == info


async def test_a_run_id_belongs_to_one_project(catalog):
    await catalog.create_run(run("r1"))
    with pytest.raises(Conflict, match="r1 exists in me/bikes"):
        await catalog.create_run(run("r1", project="cars"))


async def test_a_run_finishes_once(catalog):
    """The second call keeps the time of the first; a different state is written."""
    await catalog.create_run(run("r1"))
    await catalog.finish_run("r1", RunState.FINISHED)
    first = await catalog.get_run("r1")
    assert first.state is RunState.FINISHED
    assert abs(first.finished_at - time.time()) < 60
    await catalog.finish_run("r1", RunState.FINISHED)
    assert await catalog.get_run("r1") == first
    await catalog.finish_run("r1", RunState.FAILED)
    assert (await catalog.get_run("r1")).state is RunState.FAILED
    with pytest.raises(Invalid):
        await catalog.finish_run("r1", RunState.RUNNING)


async def test_unknown_runs_are_not_found(catalog, writer):
    version = (await writer.log("a")).version
    for call in (
        catalog.get_run("nope"),
        catalog.finish_run("nope", RunState.FINISHED),
        catalog.record_use("nope", version.id),
        catalog.run_inputs("nope"),
        catalog.run_outputs("nope"),
        writer.log("b", run_id="nope"),
    ):
        with pytest.raises(NotFound, match="nope"):
            await call
    assert len(await catalog.list_versions(BIKES)) == 1  # the commit with it was taken back


async def test_lineage_is_recorded_once_and_in_order(catalog, writer):
    for name in ("r1", "r2", "r3"):
        await catalog.create_run(run(name))
    a = (await writer.log("a", run_id="r2")).version
    b = (await writer.log("b", run_id="r1")).version
    await writer.log("a", run_id="r1")
    await writer.log("a", run_id="r1")
    for name in ("r3", "r1", "r3"):
        await catalog.record_use(name, a.id)
    await catalog.record_use("r3", b.id)
    assert [r.id for r in await catalog.logged_by(a.id)] == ["r2", "r1"]
    assert [r.id for r in await catalog.used_by(a.id)] == ["r3", "r1"]
    assert [v.number for v in await catalog.run_outputs("r1")] == [1, 0]
    assert [v.number for v in await catalog.run_inputs("r3")] == [0, 1]
    assert await catalog.run_outputs("r3") == []


async def test_lineage_of_a_deleted_version(catalog, writer):
    """It cannot be used any more and is no run's input; who used it remains known."""
    await catalog.create_run(run("r1"))
    version = (await writer.log("a", run_id="r1")).version
    await catalog.record_use("r1", version.id)
    await catalog.delete_version(version.id)
    assert await catalog.run_inputs("r1") == []
    assert await catalog.run_outputs("r1") == []
    assert [r.id for r in await catalog.used_by(version.id)] == ["r1"]
    with pytest.raises(NotFound, match="deleted"):
        await catalog.record_use("r1", version.id)


# sessions and what is stored


async def test_a_session_that_is_over_is_a_conflict(catalog, writer):
    """Ended, or never there: every verb that needs it says: log again."""
    draft = await writer.draft("a")
    await writer.end()
    await writer.end()
    for call in (
        catalog.renew_session(writer.session_id),
        writer.stored("a"),
        catalog.stored_chunks(writer.session_id, []),
        writer.store("a"),
        catalog.add_stored(writer.session_id, [], []),
        catalog.adopt_upload(writer.session_id, "k"),
        catalog.commit_version(writer.session_id, draft),
        catalog.renew_session("0" * 32),
    ):
        with pytest.raises(Conflict, match="log again"):
            await call
    await catalog.end_session("0" * 32)


async def test_a_late_renewal_saves_the_session_if_nobody_noticed(catalog, writer):
    """The lease decides only when somebody looks: then it is over for good."""
    await expire(catalog, writer.session_id)
    await catalog.renew_session(writer.session_id)
    assert (await catalog.collect()).expired_sessions == 0
    await expire(catalog, writer.session_id)
    assert (await catalog.collect()).expired_sessions == 1
    with pytest.raises(Conflict):
        await catalog.renew_session(writer.session_id)


async def test_stored_contents_are_found(catalog, writer):
    """Those that are stored, with their extents; in any number, also twice, also none."""
    assert await writer.stored("a") == {}
    pack = await writer.store("a", "bb", "ccc")
    found = await writer.stored("bb", "x", "a", "bb")
    assert found == {digest("bb"): content("bb", pack, 1), digest("a"): content("a", pack, 0)}
    assert await catalog.stored_contents(writer.session_id, []) == {}


@pytest.mark.parametrize("count", [1, 4095, 4096, 4097, 9000])
async def test_thousands_at_once(catalog, writer, count):
    texts = [f"text {number}" for number in range(count)]
    pack = await writer.store(*texts)
    found = await writer.stored(*texts, "missing")
    assert len(found) == count
    assert found[digest(texts[-1])].extents[0].object_id == pack
    assert found[digest(texts[-1])].extents[0].offset == sum(map(len, texts[:-1]))


async def test_a_content_of_chunks_and_extents_is_found_whole(catalog, writer):
    """A recipe comes back as it was given, also one that reaches back into an older object."""
    first, second = await writer.store("old"), fresh_object()
    chunks = tuple(Chunk(digest(f"chunk{n}"), 1000 + n) for n in range(3))
    large = Content(
        digest("large"), 3003, (Extent(first, 0, 1000), Extent(second, 0, 2003)), chunks
    )
    whole = Content(digest("whole"), 3003, (Extent(second, 0, 3003),), chunks)
    await catalog.register_upload(writer.session_id, second)
    placed = tuple((chunk, 1000 * n) for n, chunk in enumerate(chunks))
    stored = StoredObject(second, 3003, placed)
    for _ in range(2):  # the answer got lost
        await catalog.add_stored(writer.session_id, [stored], [large, whole])
    assert await writer.stored("large", "whole", "old") == {
        digest("large"): large,
        digest("whole"): whole,
        digest("old"): content("old", first),
    }
    found = await catalog.stored_chunks(
        writer.session_id, [chunks[2].digest, digest("no"), chunks[0].digest]
    )
    assert found == {
        chunks[2].digest: Extent(second, 2000, 1002),
        chunks[0].digest: Extent(second, 0, 1000),
    }


async def test_the_first_place_of_a_content_stays(catalog, writer):
    """Two writers stored the same: the older object keeps being named."""
    first = await writer.store("a")
    await writer.store("a")
    assert (await writer.stored("a"))[digest("a")].extents[0].object_id == first


async def test_an_empty_file_is_nothing_that_is_stored(catalog, writer):
    await catalog.add_stored(writer.session_id, [], [Content(digest(""), 0, ())])
    assert await writer.stored("") == {}


async def test_an_object_is_offered_once_it_is_stored(catalog, writer):
    """Not while it is written. Others may use it at once, within the entity and not beyond."""
    object_id = fresh_object()
    await catalog.register_upload(writer.session_id, object_id)
    with pytest.raises(Conflict, match="not stored"):
        await catalog.add_stored(writer.session_id, [], [content("a", object_id)])
    await catalog.add_stored(
        writer.session_id, [StoredObject(object_id, 1)], [content("a", object_id)]
    )
    other, stranger = await Writer.begin(catalog), await Writer.begin(catalog, "you")
    assert list(await other.stored("a")) == [digest("a")]
    assert await stranger.stored("a") == {}
    with pytest.raises(Conflict):
        await stranger.log("a", objects=[object_id], name=CollectionName("you", "p", "n"))


async def test_an_object_is_registered_before_it_is_stored(catalog, writer):
    with pytest.raises(Conflict, match="not registered"):
        await catalog.add_stored(writer.session_id, [StoredObject(fresh_object(), 1)], [])


async def test_an_object_belongs_to_one_upload(catalog, writer):
    """Registering it again is fine (the token may come later); taking another's is not."""
    object_id = fresh_object()
    other = await Writer.begin(catalog)
    await catalog.register_upload(writer.session_id, object_id)
    await catalog.register_upload(writer.session_id, object_id, "token", "key")
    with pytest.raises(Conflict):
        await catalog.register_upload(other.session_id, object_id)
    with pytest.raises(Conflict):
        await catalog.add_stored(other.session_id, [StoredObject(object_id, 1)], [])
    await catalog.add_stored(writer.session_id, [StoredObject(object_id, 1)], [])
    await catalog.add_stored(writer.session_id, [StoredObject(object_id, 1)], [])
    with pytest.raises(Conflict, match="with 1 bytes, not 2"):
        await catalog.add_stored(writer.session_id, [StoredObject(object_id, 2)], [])
    with pytest.raises(Conflict):
        await catalog.register_upload(writer.session_id, object_id)


async def test_a_wrong_digest_is_refused(catalog, writer):
    for wrong in (b"", b"short", b"x" * 33):
        with pytest.raises(Invalid, match="32 bytes"):
            await catalog.stored_contents(writer.session_id, [digest("a"), wrong])


# uploads that are continued


async def test_an_upload_is_continued_when_its_session_is_over(catalog, writer):
    """With the parts that the store has acknowledged, noted once or twice."""
    object_id = fresh_object()
    await catalog.register_upload(writer.session_id, object_id, "token", "source")
    await catalog.note_parts(object_id, [part(1), part(0, "wrong")])
    await catalog.note_parts(object_id, [part(0), part(0), part(1)])
    await catalog.note_parts(object_id, [])
    other = await Writer.begin(catalog)
    assert await catalog.adopt_upload(other.session_id, "source") is None  # its writer lives
    await writer.end()
    assert await catalog.adopt_upload(other.session_id, "another source") is None
    upload = await catalog.adopt_upload(other.session_id, "source")
    assert (upload.object_id, upload.token, upload.parts) == (
        object_id,
        "token",
        (part(0), part(1)),
    )
    third = await Writer.begin(catalog)
    assert await catalog.adopt_upload(third.session_id, "source") is None  # taken
    await catalog.note_parts(object_id, [part(2)])
    await catalog.add_stored(
        other.session_id, [StoredObject(object_id, 300)], [content("a", object_id)]
    )
    with pytest.raises(Conflict, match="not being uploaded"):
        await catalog.note_parts(object_id, [part(3)])
    assert list(await third.stored("a")) == [digest("a")]


async def test_adopting_an_expired_sessions_upload_ends_that_session(catalog, writer):
    """Two writers of one upload would be none too few."""
    object_id = fresh_object()
    await catalog.register_upload(writer.session_id, object_id, "token", "source")
    await expire(catalog, writer.session_id)
    other = await Writer.begin(catalog)
    assert (await catalog.adopt_upload(other.session_id, "source")).object_id == object_id
    with pytest.raises(Conflict):
        await catalog.renew_session(writer.session_id)


async def test_uploads_are_adopted_within_the_entity_and_with_a_token(catalog, writer):
    await catalog.register_upload(writer.session_id, fresh_object(), "token", "source")
    await catalog.register_upload(writer.session_id, fresh_object(), "", "no token")
    await writer.end()
    stranger, other = await Writer.begin(catalog, "you"), await Writer.begin(catalog)
    assert await catalog.adopt_upload(stranger.session_id, "source") is None
    assert await catalog.adopt_upload(other.session_id, "no token") is None
    assert await catalog.adopt_upload(other.session_id, "source") is not None


async def test_a_forgotten_upload_is_gone(catalog, writer):
    """What is stored cannot be forgotten that way."""
    object_id = fresh_object()
    await catalog.register_upload(writer.session_id, object_id, "token", "source")
    await catalog.note_parts(object_id, [part(0)])
    for _ in range(2):
        await catalog.forget_upload(object_id)
    with pytest.raises(NotFound):
        await catalog.note_parts(object_id, [part(0)])
    stored = await writer.store("a")
    await catalog.forget_upload(stored)
    assert list(await writer.stored("a")) == [digest("a")]


# the version rule


async def test_the_first_version_is_v0(catalog, writer):
    """It comes back as it was logged, under every way to ask for it."""
    metadata = {"rows": 17379, "z": None, "a": [1.5, "\u0000\u00e9\ud800"], "big": 2**70}
    draft = await writer.draft(
        "a", "bb", aliases=("best", "x"), metadata=metadata, description="d", tags=("t", "s", "t")
    )
    committed = await catalog.commit_version(writer.session_id, draft)
    version = committed.version
    assert committed.is_new
    assert version.qualified_name == "me/bikes/bike-data:v0"
    assert (version.type, version.size, version.entry_count) == ("dataset", 3, 2)
    assert (version.digest, version.manifest) == (draft.digest, draft.manifest)
    assert (version.metadata, list(version.metadata)) == (metadata, list(metadata))
    assert (version.description, version.tags) == ("d", ("t", "s"))
    assert version.aliases == ("best", "latest", "x")
    assert version.created_at == version.updated_at
    assert not version.is_damaged
    assert version == await catalog.get_version(version.id)
    assert version == await catalog.find_version(BIKES, draft.digest)
    assert [version] == await catalog.list_versions(BIKES)
    for selector in ("v0", "latest", "best", "x"):
        assert await catalog.resolve(BIKES, selector) == version


async def test_changed_content_is_the_next_version(catalog, writer):
    """Aliases that were given move, `latest` always does, others stay."""
    await writer.log("a", aliases=["best", "first"])
    second = (await writer.log("b", aliases=["best"])).version
    assert second.number == 1
    assert second.aliases == ("best", "latest")
    assert (await catalog.resolve(BIKES, "v0")).aliases == ("first",)


async def test_logging_a_b_a_gives_v0_again(catalog, writer):
    """No new version, `latest` moves back; the old metadata stays."""
    first = (await writer.log("a", metadata={"n": 1}, description="one", tags=("t",))).version
    await writer.log("b", aliases=["best"])
    again = await writer.log("a", metadata={"n": 2}, aliases=["best"], tags=("u",))
    assert not again.is_new
    as_before = msgspec.structs.replace(again.version, logged_at=first.logged_at)
    assert as_before == msgspec.structs.replace(first, aliases=("best", "latest"))
    assert again.version.logged_at > first.logged_at
    assert (await catalog.resolve(BIKES, "v1")).aliases == ()


async def test_content_that_is_there_needs_no_manifest(catalog, writer):
    first = (await writer.log("a")).version
    claim = Draft("claim", BIKES, "dataset", first.digest, 1, 1, manifest=None, aliases=("x",))
    again = await catalog.commit_version(writer.session_id, claim)
    assert (again.version.number, again.is_new) == (0, False)
    assert again.version.aliases == ("latest", "x")
    await catalog.delete_version(first.id, delete_aliases=True)
    late = msgspec.structs.replace(claim, id="late")
    with pytest.raises(Conflict, match="deleted meanwhile; log again"):
        await catalog.commit_version(writer.session_id, late)


async def test_the_same_draft_again_is_the_same_answer(catalog, writer):
    """Also when others have committed since, when the session is over, and when it made nothing new."""
    draft = await writer.draft("a", aliases=("best",))
    unchanged = await writer.draft("a", aliases=("best",))
    first = await catalog.commit_version(writer.session_id, draft)
    second = await catalog.commit_version(writer.session_id, unchanged)
    await writer.log("b", aliases=["best"])
    await writer.end()
    again = await catalog.commit_version(writer.session_id, draft)
    assert (again.version.id, again.is_new) == (first.version.id, True)
    again = await catalog.commit_version(writer.session_id, unchanged)
    assert (again.version.id, again.is_new) == (second.version.id, False)
    assert (await catalog.resolve(BIKES, "best")).number == 1  # moved by "b", and not back
    await catalog.delete_version(first.version.id)
    assert (await catalog.commit_version(writer.session_id, draft)).version.number == 0


async def test_a_collection_has_one_type_for_ever(catalog, writer):
    version = (await writer.log("a")).version
    with pytest.raises(Invalid, match=r"bikes/bike-data holds .* 'dataset', not 'model'"):
        await writer.log("b", type="model")
    await catalog.delete_version(version.id)
    with pytest.raises(Invalid):
        await writer.log("b", type="model")
    assert (await writer.log("b")).version.number == 1


async def test_collections_are_apart(catalog, writer):
    """Same name in another project, or by another entity: its own numbers, aliases and types."""
    await writer.log("a", aliases=["best"])
    cars = CollectionName("me", "cars", "bike-data")
    assert (await writer.log("a", name=cars, type="model")).version.number == 0
    with pytest.raises(NotFound):
        await catalog.resolve(cars, "best")
    yours = CollectionName("you", "bikes", "bike-data")
    with pytest.raises(Invalid, match="belongs to entity 'me'"):
        await writer.log("a", name=yours)
    assert (await (await Writer.begin(catalog, "you")).log("a", name=yours)).is_new


async def test_every_object_of_a_version_is_stored(catalog, writer):
    """An unknown, an unfinished or a damaged one, or such a manifest: log again, and no gap is left."""
    writing, damaged = fresh_object(), await writer.store("b")
    await catalog.register_upload(writer.session_id, writing)
    await catalog.mark_damaged([damaged])
    for bad in (fresh_object(), writing, damaged):
        good = await writer.store("g")
        with pytest.raises(Conflict, match=f"{bad}.*log again"):
            await writer.log("a", objects=[good, bad])
        with pytest.raises(Conflict, match=bad):
            await writer.log("a", manifest=bad)
    with pytest.raises(NotFound):
        await catalog.resolve(BIKES, "v0")
    assert (await writer.log("a")).version.number == 0


async def test_text_that_is_not_unicode_is_refused(catalog, writer):
    """A lone surrogate in a description; the version is not made, and the next one is v0."""
    with pytest.raises(Invalid, match=r"cannot store|cannot be stored"):
        await writer.log("a", description="x\ud800")
    assert (await writer.log("b", description="\u00e9\U0001f600")).version.number == 0


# asking


async def test_a_missing_alias_says_what_there_is(catalog, writer):
    for text in "abcdefgh":
        await writer.log(text)
    cases = {
        "best": "bikes/bike-data has no alias 'best'; it has: latest, v0..v7",
        "v8": "bikes/bike-data has no version v8; it has: latest, v0..v7",
        "v007": "bikes/bike-data has no alias 'v007'; it has: latest, v0..v7",
        "v99999999999999999999": "bikes/bike-data has no alias 'v99999999999999999999'; it has: ",
    }
    for selector, message in cases.items():
        with pytest.raises(NotFound) as caught:
            await catalog.resolve(BIKES, selector)
        assert str(caught.value).startswith(message)
    for number in (3, 5):
        await catalog.delete_version((await catalog.resolve(BIKES, f"v{number}")).id)
    with pytest.raises(NotFound) as caught:
        await catalog.resolve(BIKES, "v3")
    assert str(caught.value) == "bikes/bike-data:v3 was deleted; it has: latest, v0..v2, v4, v6..v7"


async def test_a_missing_collection_says_what_there_is(catalog, writer):
    other = CollectionName("me", "bikes", "other")
    with pytest.raises(NotFound, match=r"(?m)me/bikes has no artifact 'other'; it has none$"):
        await catalog.resolve(other, "latest")
    await writer.log("a")
    for call in (
        catalog.resolve(other, "latest"),
        catalog.list_versions(other),
        catalog.remove_alias(other, "best"),
    ):
        with pytest.raises(NotFound, match="it has: bike-data"):
            await call
    assert await catalog.find_version(other, digest("a")) is None
    assert await catalog.find_version(BIKES, digest("never")) is None
    with pytest.raises(NotFound):
        await catalog.get_version("never")


async def test_versions_are_listed_newest_first_in_pages(catalog, writer):
    for text in "abcde":
        await writer.log(text, aliases=[f"is-{text}"])
    await catalog.delete_version((await catalog.resolve(BIKES, "v2")).id, delete_aliases=True)
    page = await catalog.list_versions(BIKES, limit=2)
    assert [(v.number, v.aliases) for v in page] == [(4, ("is-e", "latest")), (3, ("is-d",))]
    page = await catalog.list_versions(BIKES, after=page[-1].number, limit=2)
    assert [v.number for v in page] == [1, 0]
    assert await catalog.list_versions(BIKES, after=0) == []


async def test_collections_are_listed(catalog, writer):
    await writer.log("a")
    await writer.log("bb")
    await writer.log("a")
    await writer.log("m", name=CollectionName("me", "cars", "net"), type="model")
    bikes, net = await catalog.list_collections("me")
    assert (bikes.project, bikes.name, bikes.type) == ("bikes", "bike-data", "dataset")
    assert (bikes.versions, bikes.latest, bikes.size) == (2, 0, 2)
    assert bikes.updated_at >= bikes.created_at
    assert await catalog.list_collections("me", "cars") == [net]
    assert await catalog.list_collections("me", type="model") == [net]
    assert await catalog.list_collections("me", "bikes", "model") == []
    assert await catalog.list_collections("you") == []
    await catalog.delete_version((await catalog.resolve(net_name(net), "v0")).id)
    (_, net) = await catalog.list_collections("me")
    assert (net.versions, net.latest, net.size) == (0, None, 0)


def net_name(info) -> CollectionName:
    return CollectionName(info.entity, info.project, info.name)


@pytest.mark.parametrize("size", [1, 2, 7])
async def test_pages_of_collections_are_the_whole_list(catalog, writer, size):
    """In its order, wherever a page ends; and those of some projects only."""
    for project, name in itertools.product(("a", "a-b", "b"), ("x", "x-1", "y")):
        await writer.log(project + name, name=CollectionName("me", project, name))

    async def pages(**more):
        found, after = [], None
        while True:
            page = await catalog.database.read(
                versions.list_collections, "me", after=after, limit=size, **more
            )
            if not page:
                return found
            assert len(page) <= size
            found += page
            after = f"{page[-1].project}/{page[-1].name}"

    whole = await catalog.list_collections("me")
    assert len(whole) == 9
    assert await pages() == whole
    some = [each for each in whole if each.project != "b"]
    assert await pages(projects={"a", "a-b", "c"}) == some
    assert await pages(projects=set()) == []


# changing


async def test_a_version_is_updated(catalog, writer):
    """Only what is given; None takes the description away."""
    version = (await writer.log("a", description="d", metadata={"a": 1}, tags=("t",))).version
    updated = await catalog.update_version(version.id, metadata={"b": 2}, tags=["x", "y", "x"])
    assert (updated.metadata, updated.tags, updated.description) == ({"b": 2}, ("x", "y"), "d")
    assert updated.updated_at >= version.updated_at
    updated = await catalog.update_version(version.id, description=None)
    assert (updated.metadata, updated.description) == ({"b": 2}, None)
    assert updated == await catalog.get_version(version.id)
    with pytest.raises(NotFound):
        await catalog.update_version("never", description="x")


async def test_the_aliases_of_a_version_are_changed(catalog, writer):
    """Those that are added move here, those that are removed go if they are here, all others stay;
    `latest` is left alone in either direction."""
    first = (await writer.log("a", aliases=["one", "two"])).version
    second = (await writer.log("b", aliases=["three", "four"])).version
    for _ in range(2):
        updated = await catalog.update_version(
            first.id, add_aliases=["three", "latest"], remove_aliases=["one", "four", "nowhere"]
        )
        assert updated.aliases == ("three", "two")
    assert (await catalog.get_version(second.id)).aliases == ("four", "latest")
    updated = await catalog.update_version(second.id, remove_aliases=["latest", "four"])
    assert updated.aliases == ("latest",)
    for gone in ("one", "four", "nowhere"):
        with pytest.raises(NotFound):
            await catalog.resolve(BIKES, gone)
    both = await catalog.update_version(first.id, add_aliases=["two"], remove_aliases=["two"])
    assert both.aliases == ("three", "two")
    assert (await catalog.update_version(first.id, tags=["t"])).aliases == ("three", "two")


async def test_an_alias_moves_if_it_is_where_it_was_seen(catalog, writer):
    first, second = (await writer.log("a")).version, (await writer.log("b")).version
    await catalog.set_alias(first.id, "best", if_current=None)
    await catalog.set_alias(first.id, "best", if_current=None)  # the answer got lost
    with pytest.raises(Conflict, match=r"bike-data:best moved from nowhere to v0 meanwhile"):
        await catalog.set_alias(second.id, "best", if_current=None)
    await catalog.set_alias(second.id, "best", if_current=0)
    with pytest.raises(Conflict, match="moved from v0 to v1"):
        await catalog.set_alias(first.id, "best", if_current=0)
    await catalog.set_alias(first.id, "best")
    assert (await catalog.resolve(BIKES, "best")).number == 0
    with pytest.raises(Conflict, match="from v3 to nowhere"):
        await catalog.set_alias(first.id, "other", if_current=3)


async def test_an_alias_is_removed(catalog, writer):
    """Twice is fine; `latest` is not ours to remove."""
    await writer.log("a", aliases=["best"])
    for _ in range(2):
        await catalog.remove_alias(BIKES, "best")
    with pytest.raises(NotFound):
        await catalog.resolve(BIKES, "best")
    with pytest.raises(Invalid):
        await catalog.remove_alias(BIKES, "latest")


async def test_a_deleted_version_is_gone_and_its_number_too(catalog, writer):
    """The same content later is a new version; `latest` falls back to the newest that is left."""
    first, second = (await writer.log("a")).version, (await writer.log("b")).version
    for _ in range(2):
        await catalog.delete_version(second.id)
    assert (await catalog.resolve(BIKES, "latest")).id == first.id
    assert await catalog.find_version(BIKES, second.digest) is None
    for call in (
        catalog.get_version(second.id),
        catalog.resolve(BIKES, "v1"),
        catalog.update_version(second.id, tags=["x"]),
        catalog.set_alias(second.id, "x"),
    ):
        with pytest.raises(NotFound, match="deleted"):
            await call
    again = await writer.log("b")
    assert (again.version.number, again.is_new) == (2, True)
    with pytest.raises(NotFound):
        await catalog.delete_version("never")


async def test_deleting_keeps_latest_where_it_is_if_it_is_elsewhere(catalog, writer):
    await writer.log("a")
    second, _ = (await writer.log("b")).version, await writer.log("a")
    await catalog.delete_version(second.id)
    assert (await catalog.resolve(BIKES, "latest")).number == 0
    await catalog.delete_version((await catalog.resolve(BIKES, "v0")).id)
    with pytest.raises(NotFound, match="no alias 'latest'; it has: no versions"):
        await catalog.resolve(BIKES, "latest")
    assert (await writer.log("c")).version.number == 2


async def test_a_version_with_aliases_is_deleted_only_on_purpose(catalog, writer):
    version = (await writer.log("a", aliases=["best", "x"])).version
    with pytest.raises(Conflict, match="still has the aliases best, x"):
        await catalog.delete_version(version.id)
    await catalog.delete_version(version.id, delete_aliases=True)
    with pytest.raises(NotFound, match="no alias 'best'"):
        await catalog.resolve(BIKES, "best")


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("whole", [True, False], ids=["collection", "pruned"])
async def test_only_what_was_expected_is_deleted(catalog, writer, whole, dry_run):
    """A version more, one less, or another one: nothing goes. Nothing expected is no expectation at all."""
    for text in "abcd":
        await writer.log(text)
    gone = [3, 2, 1, 0] if whole else [1, 0]

    async def delete(expected: list[int] | None) -> list[int]:
        if whole:
            found = await catalog.delete_collection(BIKES, expected=expected, dry_run=dry_run)
        else:
            rule = Retention(keep_last=2)
            found = await catalog.prune_versions(BIKES, rule, expected=expected, dry_run=dry_run)
        return [version.number for version in found]

    for other, named in (
        ([*gone, 9], "v9"),
        (gone[1:], f"v{gone[0]}"),
        ([*gone[1:], 7], f"v{gone[0]}, v7"),
        ([], ", ".join(f"v{number}" for number in sorted(gone))),
    ):
        with pytest.raises(Conflict, match=f"bikes/bike-data: {named} changed meanwhile; nothing"):
            await delete(other)
    assert len(await catalog.list_versions(BIKES)) == 4
    assert await delete(sorted(gone)) == gone
    if dry_run:
        assert await delete(None) == gone
    elif whole:
        assert await catalog.list_collections("me") == []
    else:
        assert [version.number for version in await catalog.list_versions(BIKES)] == [3, 2]
        assert await delete([]) == []


# healing


async def test_damaged_objects_are_not_offered_and_their_versions_say_so(catalog, writer):
    """Whole contents, recipes that touch them, and chunks; others are not concerned."""
    bad, good = await writer.store("a", "aa"), await writer.store("b")
    mixed = Content(
        digest("mixed"), 3, (Extent(good, 0, 1), Extent(bad, 0, 2)), (Chunk(digest("c"), 3),)
    )
    chunk = StoredObject(bad, 3, ((Chunk(digest("c"), 3), 0),))
    await catalog.add_stored(writer.session_id, [chunk], [mixed])
    damaged = (await writer.log("a", objects=[bad, good])).version
    sound = (await writer.log("b", objects=[good])).version
    await catalog.mark_damaged([bad, fresh_object()])
    await catalog.mark_damaged([])
    assert list(await writer.stored("a", "aa", "b", "mixed")) == [digest("b")]
    assert await catalog.stored_chunks(writer.session_id, [digest("c")]) == {}
    assert (await catalog.get_version(damaged.id)).is_damaged
    assert not (await catalog.get_version(sound.id)).is_damaged
    assert [v.is_damaged for v in await catalog.list_versions(BIKES)] == [False, True]


async def test_logging_again_heals_a_damaged_version(catalog, writer):
    """Its number, metadata and lineage stay; manifest and objects are the new ones."""
    bad = await writer.store("a")
    version = (await writer.log("a", objects=[bad], metadata={"n": 1})).version
    await catalog.mark_damaged([bad])
    claim = Draft("claim", BIKES, "dataset", version.digest, 1, 1, manifest=None)
    with pytest.raises(Conflict, match="bike-data:v0 is damaged; log its content again"):
        await catalog.commit_version(writer.session_id, claim)
    draft = await writer.draft("a", metadata={"n": 2})
    healed = await catalog.commit_version(writer.session_id, draft)
    assert not healed.is_new
    assert (healed.version.number, healed.version.is_damaged) == (0, False)
    assert healed.version.manifest == draft.manifest
    assert healed.version.metadata == {"n": 1}
    found = await writer.stored("a")
    assert found[digest("a")].extents[0].object_id == draft.object_ids[0]
    assert await catalog.commit_version(writer.session_id, draft) == healed


async def test_a_damaged_recipe_and_chunk_can_be_stored_afresh(catalog, writer):
    """Whichever of its objects was damaged, also when the first one is sound."""
    good, bad, new = await writer.store("g"), await writer.store("b"), fresh_object()
    chunk = Chunk(digest("c"), 3)
    extents = (Extent(good, 0, 1), Extent(bad, 0, 2))
    await catalog.add_stored(
        writer.session_id,
        [StoredObject(bad, 1, ((chunk, 0),))],
        [Content(digest("mixed"), 3, extents, (chunk,))],
    )
    await catalog.mark_damaged([bad])
    await catalog.register_upload(writer.session_id, new)
    fresh = content("mixed", new)
    await catalog.add_stored(writer.session_id, [StoredObject(new, 5, ((chunk, 2),))], [fresh])
    assert await writer.stored("mixed") == {digest("mixed"): fresh}
    found = await catalog.stored_chunks(writer.session_id, [chunk.digest])
    assert found == {chunk.digest: Extent(new, 2, 3)}


# facts


async def test_facts_are_kept(catalog):
    assert await catalog.get_fact("probe") is None
    for value in ("1", "2", "2"):
        await catalog.set_fact("probe", value)
    assert await catalog.get_fact("probe") == "2"


async def test_facts_and_versions_outlive_the_process(catalog_url):
    """Closing and opening again changes nothing."""
    catalog = await open_catalog(catalog_url)
    version = (await (await Writer.begin(catalog)).log("a")).version
    await catalog.set_fact("k", "v")
    await catalog.aclose()
    catalog = await open_catalog(catalog_url)
    assert await catalog.resolve(BIKES, "latest") == version
    assert await catalog.get_fact("k") == "v"
    await catalog.aclose()


async def test_times_are_of_now(catalog, writer):
    version = (await writer.log("a")).version
    assert math.isclose(version.created_at, time.time(), abs_tol=60)
