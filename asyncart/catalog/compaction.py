"""Objects of which little is used any more: which they may be, and how versions leave them.

An object is *loose* once something was deleted that reached it; nothing else makes dead bytes (but for
what a failed attempt or a condemned object brings along, see `commits.keep_objects`). So a store that
nobody deletes from is never looked at.

Moving versions is one transaction, beside which nothing else is written: their manifests, what they
reach, and the index rows of what was moved. Readers who hold an old manifest find the content by its
digest then. The emptied objects are condemned here like any garbage: a writer who was told of them may
still commit them, and they go when the sessions of that time are over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.engine import Connection, Row

from . import bulk, commits, contents, sessions, versions
from .collector import is_unreached
from .protocol import Compacted, Compaction, LooseObject, Reaching, Rewritten
from .tables import STORED, collections, entities, objects, version_objects
from .tables import versions as versions_table


def loose_objects(conn: Connection, after: int, limit: int) -> list[LooseObject]:
    reached = select(version_objects.c.object).where(version_objects.c.object == objects.c.id)
    by_damaged = reached.join(
        versions_table, versions_table.c.id == version_objects.c.version_id
    ).where(versions_table.c.is_damaged)
    query = (
        select(
            objects.c.id,
            objects.c.object_id,
            entities.c.name,
            objects.c.size,
            objects.c.loosened_by,
        )
        .join(entities, entities.c.id == objects.c.entity_id)
        .where(
            objects.c.id > after,
            objects.c.loosened_by.is_not(None),
            contents.IS_OFFERED,
            reached.exists(),
            ~by_damaged.exists(),
        )
        .order_by(objects.c.id)
        .limit(limit)
    )
    return [LooseObject(*row) for row in conn.execute(query)]


def versions_reaching(conn: Connection, numbers: Sequence[int]) -> list[Reaching]:
    found: dict[int, list[int]] = {}
    query = select(version_objects.c.version_id, version_objects.c.object).where(
        bulk.among(conn, version_objects.c.object, numbers)
    )
    for version, object_ in conn.execute(query):
        found.setdefault(version, []).append(object_)
    named = bulk.among(conn, versions_table.c.id, found)
    rows = conn.execute(versions.SELECT.where(named).order_by(versions_table.c.id)).all()
    return [
        Reaching(info, tuple(sorted(found[row.id])))
        for row, info in zip(rows, versions.infos(conn, rows), strict=True)
    ]


def mark_compact(conn: Connection, looked_at: Sequence[LooseObject]) -> None:
    if not looked_at:
        return
    statement = (
        update(objects)
        .where(objects.c.id == bindparam("number"), objects.c.loosened_by == bindparam("seen"))
        .values(loosened_by=None)
    )
    rows = [{"number": each.number, "seen": each.loosened_by} for each in looked_at]
    conn.execute(statement, rows)


def compact(conn: Connection, session_id: str, compaction: Compaction) -> Compacted:
    session = sessions.live(conn, session_id)
    there = _live_versions(conn, session, [each.version_id for each in compaction.versions])
    moving: list[tuple[Row[Any], Rewritten]] = []
    moved: list[str] = []
    for rewritten in compaction.versions:
        row = there.get(rewritten.version_id)
        if row is None:
            continue
        if row.manifest_object_id == rewritten.seen.object_id and not row.is_damaged:
            moving.append((row, rewritten))
        elif row.manifest_object_id != rewritten.manifest.object_id:
            continue  # neither what was rewritten nor what it was rewritten as
        moved.append(rewritten.version_id)
    if moving:
        _move(conn, session, session_id, compaction, moving)
    return Compacted(tuple(moved), _emptied(conn, compaction.emptied))


def _live_versions(
    conn: Connection, session: sessions.Session, version_ids: Sequence[str]
) -> dict[str, Row[Any]]:
    """Those of the session's entity, by id."""
    query = versions.SELECT.where(
        bulk.among(conn, versions_table.c.public_id, version_ids),
        versions_table.c.deleted_at.is_(None),
        collections.c.entity == sessions.entity_of(conn, session),
    )
    return {row.public_id: row for row in conn.execute(query)}


def _move(
    conn: Connection,
    session: sessions.Session,
    session_id: str,
    compaction: Compaction,
    moving: Sequence[tuple[Row[Any], Rewritten]],
) -> None:
    named = {object_id for _, new in moving for object_id in new.object_ids}
    manifests = {new.manifest.object_id for _, new in moving}
    commits.keep_objects(conn, session, named | manifests, "compaction")
    for row, new in moving:
        left = {*compaction.emptied, new.seen.object_id}
        numbers = select(objects.c.id).where(bulk.among(conn, objects.c.object_id, left))
        conn.execute(
            delete(version_objects).where(
                version_objects.c.version_id == row.id, version_objects.c.object.in_(numbers)
            )
        )
        commits.reach(conn, row.id, {*new.object_ids, new.manifest.object_id})
        conn.execute(
            update(versions_table)
            .where(versions_table.c.id == row.id)
            .values(**commits.manifest_columns(new.manifest))
        )
    _condemn(conn, {*compaction.emptied, *(new.seen.object_id for _, new in moving)})
    # Only now do the new places take over the index: rows of condemned objects are given up.
    contents.add_stored(
        conn,
        session_id,
        [stored for stored in compaction.objects if stored.object_id in named],
        [
            content
            for content in compaction.contents
            if all(extent.object_id in named for extent in content.extents)
        ],
    )


def _condemn(conn: Connection, object_ids: set[str]) -> None:
    """What nothing reaches of these, as the collector does it; the session that asks is alive."""
    _, newest = sessions.living(conn)
    conn.execute(
        update(objects)
        .where(
            bulk.among(conn, objects.c.object_id, object_ids),
            objects.c.state == STORED,
            objects.c.condemned_at.is_(None),
            is_unreached(),
        )
        .values(condemned_at=newest)
    )


def _emptied(conn: Connection, object_ids: Sequence[str]) -> tuple[str, ...]:
    query = select(objects.c.object_id).where(
        bulk.among(conn, objects.c.object_id, object_ids),
        objects.c.condemned_at.is_not(None),
        is_unreached(),
    )
    return tuple(sorted(conn.execute(query).scalars()))
