"""How versions come: the version rule, in one transaction.

`latest` follows commits by itself: it moves to what was logged last, also when that content was there
already.

A commit that is repeated gives the same answer. What was answered is kept for a day, by the database's
clock: a client gives up after minutes, and whoever has kept a draft in hand for longer than that is answered
by the version rule, as if it were another draft of the same content. Nothing else is decided by these rows.

A version may have a time to live. It counts from when its content was logged last: to log it again is to
want it. Then the longer wish wins, and no limit is the longest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from sqlalchemy import and_, bindparam, case, delete, func, insert, select, update
from sqlalchemy.engine import Connection, Row

from asyncart.errors import Conflict, Invalid
from asyncart.model import ManifestLocation
from asyncart.names import LATEST

from . import bulk, clock, contents, deletion, lineage, sessions, updates, versions
from .protocol import Committed, Draft
from .tables import OUTPUT, STORED, collections, drafts, objects, version_objects
from .tables import versions as versions_table

KEPT_S = 86_400.0
FORGOTTEN_AT_ONCE = 1000  # milliseconds: nobody has to wait


def commit_version(conn: Connection, session_id: str, draft: Draft) -> Committed:
    if (again := committed_before(conn, draft)) is not None:
        return again
    session = sessions.live(conn, session_id)
    _check_entity(conn, session, draft)
    now = clock.now(conn)
    collection = _locked_collection(conn, draft, now)
    if (again := committed_before(conn, draft)) is not None:
        return again  # the same draft, by another connection, while this one waited for the lock

    row = conn.execute(
        versions.BY_DIGEST, {**versions.keys(draft.collection), "digest": draft.digest}
    ).first()
    if row is None:
        version = _insert_version(conn, session, draft, collection, now)
    else:
        version = row.id
        if row.is_damaged:
            _heal(conn, session, draft, row)
        terms = {"logged_at": now, "ttl_s": _longer(row.ttl_s, draft.ttl_s)}
        conn.execute(update(versions_table).where(versions_table.c.id == version).values(**terms))
    for alias in {*draft.aliases, LATEST}:
        updates.point(conn, collection.id, alias, version)
    if draft.run_id is not None:
        lineage.record(conn, draft.run_id, version, OUTPUT)
    done = {"id": draft.id, "version_id": version, "is_new": row is None, "committed_at": now}
    if not bulk.insert_if_new(conn, drafts, done):
        raise Conflict(f"draft {draft.id} was committed elsewhere; take a fresh draft id")
    conn.execute(
        update(collections).where(collections.c.id == collection.id).values(updated_at=now)
    )
    return Committed(versions.info_of(conn, version), is_new=row is None)


def _longer(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)


def committed_before(conn: Connection, draft: Draft) -> Committed | None:
    row = conn.execute(select(drafts).where(drafts.c.id == draft.id)).first()
    return (
        None
        if row is None
        else Committed(versions.info_of(conn, row.version_id), is_new=row.is_new)
    )


def forget_drafts(conn: Connection) -> bool:
    """Forget some of the drafts that were committed more than a day ago; False if none may be left."""
    old = (
        select(drafts.c.id)
        .where(drafts.c.committed_at <= clock.now(conn) - KEPT_S)
        .order_by(drafts.c.committed_at)
        .limit(FORGOTTEN_AT_ONCE)
    )
    gone = conn.execute(delete(drafts).where(drafts.c.id.in_(old))).rowcount
    return gone == FORGOTTEN_AT_ONCE


def _check_entity(conn: Connection, session: sessions.Session, draft: Draft) -> None:
    entity = sessions.entity_of(conn, session)
    if entity != draft.collection.entity:
        raise Invalid(
            f"{draft.collection.entity}/{draft.collection.project}/{draft.collection.name}: "
            f"this upload session belongs to entity '{entity}'; begin one for the collection's entity"
        )


def _locked_collection(conn: Connection, draft: Draft, now: float) -> Row[Any]:
    """The collection's row, made if need be, locked until the transaction ends."""
    name = draft.collection
    query = versions.named(name).with_for_update()
    row = conn.execute(query).first()
    if row is not None and row.deleted_at is not None:
        anew = {"type": draft.type, "created_at": now, "deleted_at": None}
        conn.execute(update(collections).where(collections.c.id == row.id).values(**anew))
        row = conn.execute(query).one()
    if row is None:
        new = {
            **versions.keys(name),
            "type": draft.type,
            "next_number": 0,
            "created_at": now,
            "updated_at": now,
        }
        bulk.insert_new(conn, collections, [new])
        row = conn.execute(query).one()
    if row.type != draft.type:
        raise Invalid(
            f"{name.project}/{name.name} holds artifacts of type '{row.type}', not '{draft.type}'; "
            f"use that type or another name"
        )
    return row


def _insert_version(
    conn: Connection, session: sessions.Session, draft: Draft, collection: Row[Any], now: float
) -> int:
    if draft.manifest is None:
        raise Conflict(
            f"{versions.title_of(draft.collection)}: its content was there, but was deleted meanwhile; log again"
        )
    keep_objects(conn, session, _object_ids(draft), versions.title_of(draft.collection))
    inserted = conn.execute(
        insert(versions_table).values(
            public_id=uuid4().hex,
            collection_id=collection.id,
            number=collection.next_number,
            digest=draft.digest,
            size=draft.size,
            entry_count=draft.entry_count,
            **manifest_columns(draft.manifest),
            description=draft.description,
            metadata=json.dumps(draft.metadata),
            tags=json.dumps(list(dict.fromkeys(draft.tags))),
            created_at=now,
            updated_at=now,
            ttl_s=draft.ttl_s,
            logged_at=now,
        )
    )
    assert inserted.inserted_primary_key is not None
    version = int(inserted.inserted_primary_key[0])
    conn.execute(
        update(collections)
        .where(collections.c.id == collection.id)
        .values(next_number=collection.next_number + 1)
    )
    reach(conn, version, _object_ids(draft))
    return version


def _heal(conn: Connection, session: sessions.Session, draft: Draft, damaged: Row[Any]) -> None:
    """The version gets the draft's manifest; others that used the same damaged objects are still
    damaged, but the new objects now live as long as they do, so that a reader can find the content
    there (`stored_contents` names it) until they are logged again too."""
    if draft.manifest is None:
        raise Conflict(
            f"{versions.title_of(draft.collection)}:v{damaged.number} is damaged; log its content again to heal it"
        )
    keep_objects(conn, session, _object_ids(draft), versions.title_of(draft.collection))
    mine, theirs = version_objects.alias("mine"), version_objects.alias("theirs")
    others = conn.execute(
        select(theirs.c.version_id)
        .distinct()
        .join(mine, mine.c.object == theirs.c.object)
        .join(objects, objects.c.id == mine.c.object)
        .where(
            mine.c.version_id == damaged.id, theirs.c.version_id != damaged.id, objects.c.is_damaged
        )
    ).scalars()
    for other in others.all():
        reach(conn, other, draft.object_ids)
    deletion.let_go(conn, [damaged.id], loosened_by=0)
    reach(conn, damaged.id, _object_ids(draft))
    conn.execute(
        update(versions_table)
        .where(versions_table.c.id == damaged.id)
        .values(**manifest_columns(draft.manifest), is_damaged=False)
    )


def keep_objects(conn: Connection, session: sessions.Session, wanted: set[str], title: str) -> None:
    """Check that every one of these objects is there, and take them from the collector and the session.

    An object that was condemned while this session lived is still there, whole: it is taken back. That
    one, or what a failed attempt left behind, may be needed in part only: it is to be looked at.

    What nobody has to be taken from is only looked at: commits that share objects do not wait for each other.
    Nobody condemns or damages it meanwhile (`write_alone`).
    """
    named = bulk.among(conn, objects.c.object_id, wanted)
    kept = conn.execute(
        update(objects)
        .where(
            named,
            objects.c.entity_id == session.entity_id,
            objects.c.state == STORED,
            ~objects.c.is_damaged,
            objects.c.condemned_at.is_(None) | (objects.c.condemned_at >= session.id),
            objects.c.session_id.is_not(None) | objects.c.condemned_at.is_not(None),
        )
        .values(
            session_id=None,
            condemned_at=None,
            loosened_by=case(
                (
                    objects.c.condemned_at.is_not(None) | (objects.c.session_id != session.id),
                    0,
                ),
                else_=objects.c.loosened_by,
            ),
        )
    ).rowcount
    if kept == len(wanted):
        return
    are_there = and_(named, objects.c.entity_id == session.entity_id)
    sound = select(func.count()).select_from(objects).where(are_there, contents.IS_OFFERED)
    if conn.execute(sound).scalar_one() == len(wanted):
        return
    rows = conn.execute(select(objects).where(are_there)).all()
    there = {row.object_id: row for row in rows}
    for object_id in sorted(wanted):
        row = there.get(object_id)
        if row is None or row.state != STORED or row.condemned_at is not None:
            why = "was never stored, or was collected meanwhile"
        elif row.is_damaged:
            why = "was found damaged"
        else:
            continue
        raise Conflict(f"{title}: object {object_id} {why}; log again")


def reach(conn: Connection, version: int, object_ids: Iterable[str]) -> None:
    """Once or again, also while somebody else writes down the same (see `_heal`)."""
    rows = select(_literal(version), objects.c.id).where(
        bulk.among(conn, objects.c.object_id, object_ids)
    )
    bulk.insert_new_from(conn, version_objects, ["version_id", "object"], rows)


def _literal(version: int) -> Any:
    return bindparam(None, version, type_=version_objects.c.version_id.type).label("version_id")


def _object_ids(draft: Draft) -> set[str]:
    assert draft.manifest is not None
    return {*draft.object_ids, draft.manifest.object_id}


def manifest_columns(manifest: ManifestLocation) -> dict[str, Any]:
    return {
        "manifest_object_id": manifest.object_id,
        "manifest_size": manifest.size,
        "footer_bytes": manifest.footer_bytes,
        "footer_digest": manifest.footer_digest,
    }
