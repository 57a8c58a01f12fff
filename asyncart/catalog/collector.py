"""The collection of garbage, in two passes, beside writers.

An object is *reached* by a live version, or kept by the session that wrote it until that session's
lease would have run out (what a failed writer stored waits there for the next attempt). One pass does,
in this order:

0. delete the versions whose time to live is over (by the catalog's clock: time is what was asked for);
1. write down which sessions are over;
2. what an earlier pass condemned, that nothing reaches now, and that no session may still know of, is
   doomed: there is no way back. No session may know of it when all those up to the number remembered
   with it are over: a later one was never offered a condemned object;
3. condemn everything else that nothing reaches. From now on it is offered to nobody; a writer who was
   told of it before may still commit it, which takes it back;
4. delete the index rows of what is doomed, one object per transaction, so that writers need not wait;
5. forget what was answered to commits long ago (`commits.forget_drafts`), in steps as short as these.

The caller deletes the bytes and then calls `forget_objects`. If it dies before, the next pass names
the same objects again. Object ids are never reused, so being late cannot hurt anybody.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.engine import Connection

from ..model import PendingUpload
from . import bulk, deletion, sessions
from .protocol import Collected
from .tables import (
    DOOMED,
    chunks,
    contents,
    listings,
    objects,
    upload_parts,
    version_objects,
)
from .tables import sessions as sessions_table


def condemn_and_doom(conn: Connection, dry_run: bool) -> Collected:
    """Steps 0 to 3. A dry run does the same and takes it back."""
    savepoint = conn.begin_nested() if dry_run else None
    collected = _condemn_and_doom(conn)
    if savepoint is not None:
        savepoint.rollback()
    return collected


def _condemn_and_doom(conn: Connection) -> Collected:
    expired_versions = deletion.expire_versions(conn)
    expired = sessions.end_lost_sessions(conn)
    sessions.forget_sessions(conn)
    oldest, newest = sessions.living(conn)

    unreached = is_unreached()
    forgotten = and_(unreached, objects.c.state != DOOMED, objects.c.condemned_at.is_not(None))
    if oldest is not None:
        forgotten = and_(forgotten, objects.c.condemned_at < oldest)
    conn.execute(update(objects).where(forgotten).values(state=DOOMED))
    useless = and_(unreached, objects.c.state != DOOMED, objects.c.condemned_at.is_(None))
    condemned, condemned_bytes = conn.execute(
        select(func.count(), func.coalesce(func.sum(objects.c.size), 0)).where(useless)
    ).one()
    conn.execute(update(objects).where(useless).values(condemned_at=newest or 0))

    doomed = conn.execute(
        select(objects.c.id, objects.c.object_id, objects.c.size, objects.c.token)
        .where(objects.c.state == DOOMED)
        .order_by(objects.c.id)
    ).all()
    return Collected(
        condemned=condemned,
        condemned_bytes=int(condemned_bytes),
        deleted_object_ids=tuple(row.object_id for row in doomed),
        freed_bytes=sum(row.size for row in doomed),
        expired_sessions=expired,
        aborted_uploads=tuple(
            PendingUpload(row.object_id, row.token, sessions.parts_of(conn, row.id))
            for row in doomed
            if row.token
        ),
        expired_versions=tuple(expired_versions),
    )


def is_unreached() -> ColumnElement[bool]:
    by_version = select(version_objects.c.object).where(version_objects.c.object == objects.c.id)
    by_session = select(sessions_table.c.id).where(sessions_table.c.id == objects.c.session_id)
    return and_(~by_version.exists(), ~by_session.exists())


def doomed_listings(conn: Connection) -> list[int]:
    """Doomed objects that still have index rows."""
    query = (
        select(listings.c.object)
        .distinct()
        .join(objects, objects.c.id == listings.c.object)
        .where(objects.c.state == DOOMED)
    )
    return list(conn.execute(query).scalars())


def remove_index_rows(conn: Connection, object_: int) -> None:
    """Step 4, for one object."""
    doomed = conn.execute(
        select(objects.c.entity_id, objects.c.object_id).where(objects.c.id == object_)
    ).first()
    if doomed is None:
        return
    rows = conn.execute(
        select(listings.c.id, listings.c.contents, listings.c.chunks).where(
            listings.c.object == object_
        )
    ).all()
    for row in rows:
        bulk.remove(conn, contents, doomed.entity_id, row.contents, object_, doomed.object_id)
        bulk.remove(conn, chunks, doomed.entity_id, row.chunks, object_, doomed.object_id)
    conn.execute(delete(listings).where(listings.c.object == object_))


def forget_objects(conn: Connection, object_ids: Sequence[str]) -> None:
    """Only what is doomed can be forgotten."""
    if not object_ids:
        return
    gone = and_(bulk.among(conn, objects.c.object_id, object_ids), objects.c.state == DOOMED)
    numbers = select(objects.c.id).where(gone)
    conn.execute(delete(upload_parts).where(upload_parts.c.object.in_(numbers)))
    conn.execute(delete(objects).where(gone))
