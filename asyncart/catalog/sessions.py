"""Sessions (the lease of one writer) and the uploads under way in them.

What a session promises its writer: no object that it was told about, or that it stored, is deleted
while it lives. Nothing is written down for that: sessions have increasing numbers, the collector
remembers with every object that it condemns the newest session alive at that time, and deletes none
before all sessions up to that number are over. So asking "which of these digests are stored?" is a
pure read, and a hundred thousand of them cost no transaction.

A session is over when it was ended, when its lease ran out and somebody noticed (the collector, or
the writer who continues its upload), or when its process is known to be gone. Whatever is noticed is
written down in the same transaction, so a writer that wakes up late learns that it is too late, and
never half. Its objects and unfinished uploads are kept until the lease would have run out anyway:
until then the next attempt may continue them. Then its row goes: with the collector, and in a file, where
perhaps nobody ever collects, also when others begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.engine import Connection

from asyncart.errors import Conflict, NotFound

from ..model import PendingUpload, UploadPart
from . import bulk, clock, owner
from .protocol import SESSION_TTL_S
from .tables import DOOMED, WRITING, entities, objects, sessions, upload_parts

# Every so often the beginning of a session in a file looks at so many of the oldest: more than have begun
# meanwhile. That one takes 0.5 ms longer; a small log takes 10 ms.
FORGETS_EVERY, LOOKS_AT = 16, 64


class Session(NamedTuple):
    """A live session: its number, and the number of the entity it writes for."""

    id: int
    entity_id: int


_LIVE = select(sessions.c.id, sessions.c.entity_id, sessions.c.is_over)


def begin_session(conn: Connection, entity: str, owner_id: str) -> str:
    public_id = uuid4().hex
    begun = conn.execute(
        insert(sessions).values(
            public_id=public_id,
            entity_id=number_of_entity(conn, entity),
            owner=owner_id,
            expires_at=clock.now(conn) + SESSION_TTL_S,
        )
    )
    assert begun.inserted_primary_key is not None
    if bulk.is_sqlite(conn) and begun.inserted_primary_key[0] % FORGETS_EVERY == 0:
        _forget_oldest(conn)
    return public_id


def number_of_entity(conn: Connection, name: str) -> int:
    query = select(entities.c.id).where(entities.c.name == name)
    known: int | None = conn.execute(query).scalar_one_or_none()
    if known is None:  # once in an entity's life
        bulk.insert_new(conn, entities, [{"name": name}])
        known = conn.execute(query).scalar_one()
    return known


def live(conn: Connection, session_id: str) -> Session:
    """The session, or Conflict if it is over."""
    row = conn.execute(_LIVE.where(sessions.c.public_id == session_id)).first()
    if row is None or row.is_over:
        raise over(session_id)
    return Session(row.id, row.entity_id)


def over(session_id: str) -> Conflict:
    return Conflict(
        f"the upload session {session_id} is over (ended, or not renewed for "
        f"{SESSION_TTL_S:.0f} s); log again, what is stored already is not sent again"
    )


def entity_of(conn: Connection, session: Session) -> str:
    query = select(entities.c.name).where(entities.c.id == session.entity_id)
    return str(conn.execute(query).scalar_one())


def renew_session(conn: Connection, session_id: str) -> None:
    session = live(conn, session_id)
    conn.execute(
        update(sessions)
        .where(sessions.c.id == session.id)
        .values(expires_at=clock.now(conn) + SESSION_TTL_S)
    )


def end_session(conn: Connection, session_id: str) -> None:
    conn.execute(update(sessions).where(sessions.c.public_id == session_id).values(is_over=True))


def end_lost_sessions(conn: Connection) -> int:
    """Write down which sessions are over: their lease ran out, or their process is gone."""
    now = clock.now(conn)
    alive = conn.execute(
        select(sessions.c.id, sessions.c.owner, sessions.c.expires_at).where(~sessions.c.is_over)
    ).all()
    lost = [row.id for row in alive if _is_lost(row.owner, row.expires_at, now)]
    if lost:
        conn.execute(
            update(sessions).where(bulk.among(conn, sessions.c.id, lost)).values(is_over=True)
        )
    return len(lost)


def living(conn: Connection) -> tuple[int | None, int | None]:
    """The numbers of the oldest and of the newest session that is not over."""
    ids = select(func.min(sessions.c.id), func.max(sessions.c.id)).where(~sessions.c.is_over)
    oldest, newest = conn.execute(ids).one()
    return oldest, newest


def count_living(conn: Connection) -> int:
    query = select(func.count()).select_from(sessions).where(~sessions.c.is_over)
    return int(conn.execute(query).scalar_one())


def forget_sessions(conn: Connection) -> None:
    """Drop those that are over and whose lease has run out: nothing of theirs is continued."""
    over = sessions.c.is_over & (sessions.c.expires_at <= clock.now(conn))
    conn.execute(delete(sessions).where(over))


def _forget_oldest(conn: Connection) -> None:
    """The same with few of them, by their numbers, which are in the order of their beginning."""
    columns = (sessions.c.id, sessions.c.owner, sessions.c.expires_at, sessions.c.is_over)
    oldest = conn.execute(select(*columns).order_by(sessions.c.id).limit(LOOKS_AT)).all()
    now = clock.now(conn)
    over = [
        row.id
        for row in oldest
        if row.expires_at <= now and (row.is_over or owner.is_gone(row.owner))
    ]
    if over:
        conn.execute(delete(sessions).where(bulk.among(conn, sessions.c.id, over)))


def register_upload(
    conn: Connection, session_id: str, object_id: str, token: str, resume_key: str
) -> None:
    session = live(conn, session_id)
    row = {
        "object_id": object_id,
        "entity_id": session.entity_id,
        "state": WRITING,
        "size": 0,
        "session_id": session.id,
        "token": token,
        "resume_key": resume_key,
    }
    if bulk.insert_if_new(conn, objects, row):
        return
    there = conn.execute(select(objects).where(objects.c.object_id == object_id)).first()
    if there is None or there.session_id != session.id or there.state != WRITING:
        raise Conflict(f"object {object_id} belongs to another upload; take a fresh object id")
    if (there.token, there.resume_key) != (token, resume_key):
        conn.execute(
            update(objects)
            .where(objects.c.id == there.id)
            .values(token=token, resume_key=resume_key)
        )


def note_parts(conn: Connection, object_id: str, parts: Sequence[UploadPart]) -> None:
    there = _locked_upload(conn, object_id)
    if there is None:
        raise NotFound(f"there is no upload of object {object_id}: it was given up meanwhile")
    if there.state != WRITING:
        raise Conflict(f"object {object_id} is not being uploaded any more; log again")
    rows = {
        part.index: {
            "object": there.id,
            "index": part.index,
            "offset": part.offset,
            "length": part.length,
            "digest": part.digest,
        }
        for part in parts
    }
    bulk.upsert(conn, upload_parts, list(rows.values()))


def adopt_upload(
    conn: Connection,
    session_id: str,
    resume_key: str,
    *,
    principal: int | None = None,
    project: str | None = None,
) -> PendingUpload | None:
    """At a server: only what the same user has begun (`principal`), in one `project` only if it says so."""
    session = live(conn, session_id)
    uploads = conn.execute(
        select(objects.c.id, objects.c.object_id, objects.c.token, objects.c.session_id)
        .where(
            objects.c.state == WRITING,
            objects.c.entity_id == session.entity_id,
            objects.c.resume_key == resume_key,
            objects.c.token != "",
            or_(objects.c.session_id.is_(None), objects.c.session_id != session.id),
        )
        .order_by(objects.c.id.desc())
        .with_for_update(skip_locked=True)
    ).all()
    if not uploads:
        return None
    # Asked once the uploads are locked. In the same statement, an upload that somebody adopted between its
    # being found and locked would look as if its session was forgotten.
    numbers = {upload.session_id for upload in uploads} - {None}
    query = select(sessions).where(bulk.among(conn, sessions.c.id, numbers))
    holders = {row.id: row for row in conn.execute(query)}
    now = clock.now(conn)
    for upload in uploads:
        holder = holders.get(upload.session_id)
        whose, where = (holder.principal, holder.project) if holder is not None else (None, None)
        if principal not in (None, whose) or project not in (None, where):
            continue
        if holder is not None and not holder.is_over:
            if not _is_lost(holder.owner, holder.expires_at, now):
                continue
            conn.execute(update(sessions).where(sessions.c.id == holder.id).values(is_over=True))
        conn.execute(
            update(objects)
            .where(objects.c.id == upload.id)
            .values(session_id=session.id, condemned_at=None)
        )
        return PendingUpload(upload.object_id, upload.token, parts_of(conn, upload.id))
    return None


def forget_upload(conn: Connection, object_id: str) -> None:
    row = _locked_upload(conn, object_id)
    if row is None or row.state not in (WRITING, DOOMED):
        return
    conn.execute(delete(upload_parts).where(upload_parts.c.object == row.id))
    if row.state == WRITING:
        conn.execute(delete(objects).where(objects.c.id == row.id))
    else:  # it may have been completed unnoticed: its bytes have yet to be deleted
        conn.execute(update(objects).where(objects.c.id == row.id).values(token=""))


def _locked_upload(conn: Connection, object_id: str) -> Any:
    """Locked, so that no part is noted of what is forgotten at the same time: nobody would find it."""
    query = select(objects.c.id, objects.c.state).where(objects.c.object_id == object_id)
    return conn.execute(query.with_for_update()).first()


def parts_of(conn: Connection, object_: int) -> tuple[UploadPart, ...]:
    query = (
        select(
            upload_parts.c.index,
            upload_parts.c.offset,
            upload_parts.c.length,
            upload_parts.c.digest,
        )
        .where(upload_parts.c.object == object_)
        .order_by(upload_parts.c.index)
    )
    return tuple(UploadPart(*row) for row in conn.execute(query))


def _is_lost(holder: str, expires_at: float, now: float) -> bool:
    return expires_at <= now or owner.is_gone(holder)
