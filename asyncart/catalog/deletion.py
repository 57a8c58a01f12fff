"""How versions end: one at a time, by rules, when their time is over, or with their collection.

A deleted version leaves its row behind (see `tables`): its number is never given again. Its objects are
told that something was deleted: what other versions still reach of them may be little now, and then
compaction moves it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, insert, literal, select, update
from sqlalchemy.engine import Connection

from ..errors import Conflict, Invalid
from ..model import VersionInfo
from ..names import LATEST
from . import bulk, clock, versions
from .protocol import CollectionName, Retention
from .tables import aliases, collections, objects, version_objects
from .tables import versions as versions_table
from .transactions import not_twice


def delete_version(conn: Connection, version_id: str, *, delete_aliases: bool) -> None:
    row = versions.locked_row(conn, version_id)
    if row.deleted_at is not None:
        return
    pointing = versions.aliases_of(conn, row.id)
    custom = [alias for alias in pointing if alias != LATEST]
    if custom and not delete_aliases:
        raise Conflict(
            f"{row.project}/{row.name}:v{row.number} still has the aliases {', '.join(custom)}; "
            f"remove them first, or delete them with it (delete_aliases=True, `rm --delete-aliases`)"
        )
    end_versions(conn, [row.id])


def delete_collection(
    conn: Connection,
    collection: CollectionName,
    *,
    delete_aliases: bool,
    expected: Sequence[int] | None,
    dry_run: bool,
) -> list[VersionInfo]:
    row = versions.collection_row(conn, collection, is_locked=not dry_run)
    found = _all_of(conn, row.id)
    _check_expected(collection, {version.number for _, version in found}, expected)
    custom = [
        f"{alias} (v{version.number})"
        for _, version in found
        for alias in version.aliases
        if alias != LATEST
    ]
    if custom and not delete_aliases:
        raise Conflict(
            f"{versions.title_of(collection)} still has the aliases {', '.join(versions.shortened(custom))}; "
            f"remove them first, or delete them with it (delete_aliases=True, `rm --delete-aliases`)"
        )
    if not dry_run:
        not_twice(conn)
        end_versions(conn, [number for number, _ in found])
        now = clock.now(conn)
        conn.execute(update(collections).where(collections.c.id == row.id).values(deleted_at=now))
    return [version for _, version in found]


def prune_versions(
    conn: Connection,
    collection: CollectionName,
    rule: Retention,
    *,
    expected: Sequence[int] | None,
    dry_run: bool,
) -> list[VersionInfo]:
    check_retention(rule)
    row = versions.collection_row(conn, collection, is_locked=not dry_run)
    found = _all_of(conn, row.id)
    over = outlived([version for _, version in found], rule, clock.now(conn))
    _check_expected(collection, over, expected)
    gone = [(number, version) for number, version in found if version.number in over]
    if not dry_run:
        not_twice(conn)
        end_versions(conn, [number for number, _ in gone])
    return [version for _, version in gone]


def _check_expected(
    collection: CollectionName, numbers: set[int], expected: Sequence[int] | None
) -> None:
    """Whoever has seen what goes decides about that, and about nothing else."""
    if expected is None:
        return
    if others := sorted(numbers ^ {*expected}):
        which = ", ".join(versions.shortened([f"v{number}" for number in others]))
        raise Conflict(
            f"{versions.title_of(collection)}: {which} changed meanwhile; "
            f"nothing of it was deleted, look again at what would be"
        )


def _all_of(conn: Connection, collection_id: int) -> list[tuple[int, VersionInfo]]:
    """The live versions of a collection with their row numbers, newest first."""
    query = versions.LIVE.where(versions_table.c.collection_id == collection_id)
    rows = conn.execute(query.order_by(versions_table.c.number.desc())).all()
    return list(zip([row.id for row in rows], versions.infos(conn, rows), strict=True))


def expire_versions(conn: Connection) -> list[VersionInfo]:
    """Delete those whose time to live is over; an alias other than `latest` protects them."""
    is_named = select(aliases.c.alias).where(
        aliases.c.version_id == versions_table.c.id, aliases.c.alias != LATEST
    )
    query = versions.LIVE.where(
        versions_table.c.logged_at + versions_table.c.ttl_s <= clock.now(conn), ~is_named.exists()
    ).order_by(versions_table.c.id)
    rows = conn.execute(query).all()
    expired = versions.infos(conn, rows)
    end_versions(conn, [row.id for row in rows])
    return expired


def check_retention(rule: Retention) -> None:
    """Raises Invalid for rules that say nothing, or nonsense."""
    if rule.keep_last is None and rule.older_than_s is None:
        raise Invalid(
            "say what may go: keep_last, older_than or both; to delete all, delete the name"
        )
    if rule.keep_last is not None and rule.keep_last < 0:
        raise Invalid(f"keep_last={rule.keep_last}: it must not be negative")
    if rule.older_than_s is not None and not rule.older_than_s >= 0:
        raise Invalid(f"older_than: {rule.older_than_s} seconds must not be negative")


def outlived(found: Sequence[VersionInfo], rule: Retention, now: float) -> set[int]:
    """The numbers of those that no rule keeps. `found` are the live versions, newest first."""
    return {
        version.number
        for place, version in enumerate(found)
        if LATEST not in version.aliases
        and not (rule.keep_last is not None and place < rule.keep_last)
        and not (rule.older_than_s is not None and version.logged_at > now - rule.older_than_s)
        and not (rule.keep_aliased and version.aliases)
    }


def end_versions(conn: Connection, numbers: Sequence[int]) -> None:
    """Delete these (rows of live versions) with their aliases; `latest` moves to what is left."""
    if not numbers:
        return
    now = clock.now(conn)
    # The largest of them names this deletion: no other one will ever have it.
    let_go(conn, numbers, loosened_by=max(numbers))
    of_them = bulk.among(conn, aliases.c.version_id, numbers)
    query = select(aliases.c.collection_id).where(of_them, aliases.c.alias == LATEST)
    headless = list(conn.execute(query).scalars())
    conn.execute(delete(aliases).where(of_them))
    gone = bulk.among(conn, versions_table.c.id, numbers)
    touched = select(versions_table.c.collection_id).where(gone)
    conn.execute(update(collections).where(collections.c.id.in_(touched)).values(updated_at=now))
    conn.execute(update(versions_table).where(gone).values(deleted_at=now))
    _move_latest(conn, headless)


def let_go(conn: Connection, numbers: Sequence[int], *, loosened_by: int) -> None:
    """These versions reach nothing any more, and what they reached is to be looked at."""
    their = bulk.among(conn, version_objects.c.version_id, numbers)
    reached = select(version_objects.c.object).where(their)
    loosened = update(objects).where(objects.c.id.in_(reached))
    conn.execute(loosened.values(loosened_by=loosened_by))
    conn.execute(delete(version_objects).where(their))


def _move_latest(conn: Connection, collection_ids: Sequence[int]) -> None:
    """To the newest version of each of these collections, if one is left."""
    if not collection_ids:
        return
    newest = (
        select(versions_table.c.collection_id, func.max(versions_table.c.number).label("number"))
        .where(
            bulk.among(conn, versions_table.c.collection_id, collection_ids),
            versions_table.c.deleted_at.is_(None),
        )
        .group_by(versions_table.c.collection_id)
        .subquery()
    )
    rows = select(versions_table.c.collection_id, literal(LATEST), versions_table.c.id).join(
        newest,
        (newest.c.collection_id == versions_table.c.collection_id)
        & (newest.c.number == versions_table.c.number),
    )
    conn.execute(insert(aliases).from_select(["collection_id", "alias", "version_id"], rows))
