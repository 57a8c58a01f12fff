"""How versions end: by their time to live, by rules, or with their collection; numbers never come back."""

from __future__ import annotations

from typing import Any

import pytest
from catalog_kinds import BIKES, catalog, catalog_url, run, writer
from sqlalchemy import update

from asyncart.catalog import tables
from asyncart.catalog.deletion import outlived
from asyncart.catalog.protocol import Retention
from asyncart.errors import Conflict, Invalid, NotFound
from asyncart.model import ManifestLocation, VersionInfo

__all__ = ["catalog", "catalog_url", "writer"]  # fixtures

DAY_S = 86400.0


async def age(catalog: Any, version: VersionInfo, days: float) -> None:
    """Let the version have been logged so long ago."""
    logged_at = tables.versions.c.logged_at - days * DAY_S
    statement = update(tables.versions).where(tables.versions.c.public_id == version.id)
    await catalog.database.write(
        lambda conn: conn.execute(statement.values(logged_at=logged_at)) and None
    )


async def numbers(catalog: Any) -> list[int]:
    return [version.number for version in await catalog.list_versions(BIKES)]


# time to live


async def test_a_version_is_deleted_when_its_time_is_over(catalog, writer):
    """By the next collection, with its objects; until then it is there. Others stay."""
    short = (await writer.log("short", ttl_s=DAY_S)).version
    assert short.expires_at == short.logged_at + DAY_S
    long = (await writer.log("long", ttl_s=3 * DAY_S)).version
    never = (await writer.log("never")).version
    assert never.expires_at is None
    await writer.end()
    assert (await catalog.collect()).expired_versions == ()
    for version in (short, long, never):
        await age(catalog, version, 2)
    assert await numbers(catalog) == [2, 1, 0]
    for _ in range(2):
        would = await catalog.collect(dry_run=True)
        assert [version.number for version in would.expired_versions] == [0]
        assert (would.condemned, would.condemned_bytes) == (2, len("short"))
    assert await numbers(catalog) == [2, 1, 0]
    collected = await catalog.collect()
    assert [version.id for version in collected.expired_versions] == [short.id]
    assert collected.condemned == 2
    assert await numbers(catalog) == [2, 1]
    again = await catalog.collect()
    assert again.expired_versions == ()
    assert len(again.deleted_object_ids) == 2
    with pytest.raises(NotFound, match=r"v0 was deleted"):
        await catalog.get_version(short.id)


async def test_an_alias_protects_an_expired_version_but_latest_does_not(catalog, writer):
    first = (await writer.log("a", ttl_s=1, aliases=["prod"])).version
    second = (await writer.log("b", ttl_s=1)).version
    assert second.aliases == ("latest",)
    for version in (first, second):
        await age(catalog, version, 1)
    assert [each.number for each in (await catalog.collect()).expired_versions] == [1]
    assert (await catalog.resolve(BIKES, "latest")).number == 0
    await catalog.remove_alias(BIKES, "prod")
    assert [each.number for each in (await catalog.collect()).expired_versions] == [0]
    with pytest.raises(NotFound, match="it has: no versions"):
        await catalog.resolve(BIKES, "latest")
    assert (await writer.log("a")).version.number == 2


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [(1.0, 1.0, 1.0), (1.0, 9.0, 9.0), (9.0, 1.0, 9.0), (9.0, None, None), (None, 1.0, None)],
)
async def test_to_log_content_again_is_to_want_it_again(catalog, writer, first, second, result):
    """The time begins anew, and the longer wish wins: nobody's data is shortened by another's."""
    version = (await writer.log("a", ttl_s=first)).version
    await age(catalog, version, 30)  # it is over, but nobody collected yet
    again = await writer.log("a", ttl_s=second)
    assert (again.is_new, again.version.ttl_s) == (False, result)
    assert again.version.logged_at >= version.logged_at
    assert (await catalog.collect()).expired_versions == ()


async def test_a_repeated_commit_renews_nothing(catalog, writer):
    """The answer got lost and is asked for again: that is no second logging."""
    draft = await writer.draft("a", ttl_s=1.0)
    version = (await catalog.commit_version(writer.session_id, draft)).version
    await age(catalog, version, 1)
    await catalog.commit_version(writer.session_id, draft)
    assert [each.id for each in (await catalog.collect()).expired_versions] == [version.id]


async def test_the_time_to_live_can_be_changed_and_taken_back(catalog, writer):
    """It counts from the logging, so a short one may be over at once."""
    version = (await writer.log("a")).version
    await age(catalog, version, 2)
    changed = await catalog.update_version(version.id, ttl_s=3 * DAY_S)
    assert (changed.ttl_s, changed.aliases) == (3 * DAY_S, ("latest",))
    assert (await catalog.update_version(version.id, description="x")).ttl_s == 3 * DAY_S
    assert (await catalog.collect()).expired_versions == ()
    assert (await catalog.update_version(version.id, ttl_s=None)).ttl_s is None
    assert (await catalog.collect()).expired_versions == ()
    await catalog.update_version(version.id, ttl_s=1.0)
    assert len((await catalog.collect()).expired_versions) == 1


# rules


def listed(*aliases: str, days: int = 0) -> list[VersionInfo]:
    """Versions as `outlived` sees them, newest first; each logged a day before the one in front."""
    where = ManifestLocation("0" * 32, 1, 1, b"")
    return [
        VersionInfo(
            f"id{number}", "me", "p", "c", "t", number, b"", 1, 1, where, 0.0, 0.0,
            aliases=tuple(text.split()), logged_at=-DAY_S * place,
        )
        for place, (number, text) in enumerate(zip(range(len(aliases) - 1, -1, -1), aliases, strict=True))
    ]  # fmt: skip


FIVE = listed("latest", "", "best", "", "")  # v4 (today), v3, v2, v1, v0 (four days ago)


@pytest.mark.parametrize(
    ("rule", "gone"),
    [
        (Retention(keep_last=0), {3, 1, 0}),
        (Retention(keep_last=1), {3, 1, 0}),
        (Retention(keep_last=2), {1, 0}),
        (Retention(keep_last=5), set()),
        (Retention(keep_last=6), set()),
        (Retention(keep_last=0, keep_aliased=False), {3, 2, 1, 0}),
        (Retention(older_than_s=2.5 * DAY_S), {1, 0}),
        (Retention(older_than_s=1.0 * DAY_S), {3, 1, 0}),
        (Retention(older_than_s=0.0, keep_aliased=False), {3, 2, 1, 0}),
        (Retention(older_than_s=9 * DAY_S), set()),
        (Retention(keep_last=4, older_than_s=1.0), {0}),
        (Retention(keep_last=1, older_than_s=3.5 * DAY_S), {0}),
    ],
)
def test_what_no_rule_keeps_is_outlived(rule, gone):
    """`latest` always stays; each rule that is given must let a version go."""
    assert outlived(FIVE, rule, now=0.0) == gone


def test_latest_stays_wherever_it_points():
    assert outlived(listed("", "latest", ""), Retention(keep_last=0), now=0.0) == {2, 0}


async def test_pruning_deletes_exactly_what_it_says(catalog, writer):
    """In one transaction; a dry run says the same and deletes nothing; other names are untouched."""
    other = BIKES.__class__("me", "bikes", "other")
    await writer.log("x", name=other)
    versions = [
        (await writer.log(f"{n}", aliases=["prod"] if n == 1 else [])).version for n in range(5)
    ]
    for place, version in enumerate(reversed(versions)):
        await age(catalog, version, place)
    rule = Retention(keep_last=2, older_than_s=1.5 * DAY_S)
    for _ in range(2):
        would = await catalog.prune_versions(BIKES, rule, dry_run=True)
        assert [version.number for version in would] == [2, 0]
    assert await numbers(catalog) == [4, 3, 2, 1, 0]
    gone = await catalog.prune_versions(BIKES, rule)
    assert [version.id for version in gone] == [version.id for version in would]
    assert await numbers(catalog) == [4, 3, 1]
    assert await catalog.prune_versions(BIKES, rule) == []
    gone = await catalog.prune_versions(BIKES, Retention(keep_last=0, keep_aliased=False))
    assert [version.number for version in gone] == [3, 1]
    with pytest.raises(NotFound):
        await catalog.resolve(BIKES, "prod")
    assert (await writer.log("new")).version.number == 5
    assert len(await catalog.list_versions(other)) == 1


@pytest.mark.parametrize("rule", [Retention(), Retention(keep_last=-1), Retention(older_than_s=-1.0),
                                  Retention(older_than_s=float("nan"))])  # fmt: skip
@pytest.mark.parametrize("dry_run", [True, False])
async def test_rules_that_say_nothing_are_refused(catalog, writer, rule, dry_run):
    await writer.log("a")
    with pytest.raises(Invalid):
        await catalog.prune_versions(BIKES, rule, dry_run=dry_run)
    assert await numbers(catalog) == [0]


# whole collections


async def test_a_deleted_collection_is_gone_but_its_numbers_are_not_given_again(catalog, writer):
    """It is in no list and has no versions; the name may come back, with another type."""
    await catalog.create_run(run("r1"))
    first = (await writer.log("a", run_id="r1")).version
    await writer.log("b", aliases=["best"])
    with pytest.raises(Conflict, match=r"still has the aliases best \(v1\)"):
        await catalog.delete_collection(BIKES)
    with pytest.raises(Conflict):
        await catalog.delete_collection(BIKES, dry_run=True)
    would = await catalog.delete_collection(BIKES, delete_aliases=True, dry_run=True)
    assert await numbers(catalog) == [1, 0]
    gone = await catalog.delete_collection(BIKES, delete_aliases=True)
    assert [version.number for version in gone] == [version.number for version in would] == [1, 0]
    assert await catalog.list_collections("me") == []
    for call in (
        catalog.list_versions(BIKES),
        catalog.resolve(BIKES, "latest"),
        catalog.resolve(BIKES, "v0"),
        catalog.delete_collection(BIKES),
        catalog.prune_versions(BIKES, Retention(keep_last=1)),
        catalog.remove_alias(BIKES, "best"),
    ):
        with pytest.raises(NotFound, match=r"has no artifact 'bike-data'; it has none$"):
            await call
    assert [each.id for each in await catalog.logged_by(first.id)] == ["r1"]
    again = (await writer.log("a", type="model")).version
    assert (again.number, again.type) == (2, "model")
    (listed_again,) = await catalog.list_collections("me")
    assert (listed_again.type, listed_again.versions, listed_again.latest) == ("model", 1, 2)


async def test_deleting_an_unknown_collection_is_an_error(catalog):
    with pytest.raises(NotFound):
        await catalog.delete_collection(BIKES)
