"""How versions end: one at a time, by rules, when their time is over, or with their collection.

A deleted version leaves its row behind (see `tables`): its number is never given again. Its objects are
told that something was deleted: what other versions still reach of them may be little now, and then
compaction moves it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, insert, literal, select, update
from sqlalchemy.engine import Connection

from ..errors import Invalid
from ..model import VersionInfo
from ..names import LATEST
from . import bulk, clock
from .protocol import Retention
from .tables import aliases, collections, objects, version_objects, versions


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
    gone = bulk.among(conn, versions.c.id, numbers)
    touched = select(versions.c.collection_id).where(gone)
    conn.execute(update(collections).where(collections.c.id.in_(touched)).values(updated_at=now))
    conn.execute(update(versions).where(gone).values(deleted_at=now))
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
        select(versions.c.collection_id, func.max(versions.c.number).label("number"))
        .where(
            bulk.among(conn, versions.c.collection_id, collection_ids),
            versions.c.deleted_at.is_(None),
        )
        .group_by(versions.c.collection_id)
        .subquery()
    )
    rows = select(versions.c.collection_id, literal(LATEST), versions.c.id).join(
        newest,
        (newest.c.collection_id == versions.c.collection_id)
        & (newest.c.number == versions.c.number),
    )
    conn.execute(insert(aliases).from_select(["collection_id", "alias", "version_id"], rows))
