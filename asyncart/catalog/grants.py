"""Whose session it is, and whose bytes: what a server asks before it does what the catalog's verbs do.

The dedupe domain is the entity, but naming a digest gives no access to its bytes. Access is granted per
object: to whoever may read a project in which a live version holds it, and to the user whose session
uploaded it. Contents and chunks are offered, commits accepted and URLs signed by that one rule, in one
query however many objects are named, in the transaction of the verb itself.

An index row says where *one* copy of a content lies. Who may not read that copy is not offered it, and
uploads the content once more; the catalog keeps the copy that everybody else uses.

What a client says about its own objects (which contents lie where in them) is believed within the entity:
a wrong word there is found when it is read, because everything that is read is verified.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.engine import Connection

from asyncart.errors import Conflict
from asyncart.model import Content, Extent

from . import bulk, clock, commits, contents, ownership, sessions, versions
from .protocol import SESSION_TTL_S, Committed, Draft, StoredObject
from .tables import WRITING, objects, version_objects
from .tables import sessions as sessions_table

# Which of these objects' bytes the caller may have; None: whatever is there.
MayRead = Callable[[Connection, Collection[str]], Collection[str]] | None


# sessions


def begin_session(
    conn: Connection, session_id: str, entity: str, project: str | None, user_id: int, owner: str
) -> None:
    """The client's own id; again by the same user, also at the same time, the same session."""
    entity_id = sessions.number_of_entity(conn, entity)
    new = {
        "public_id": session_id,
        "entity_id": entity_id,
        "owner": owner,
        "expires_at": clock.now(conn) + SESSION_TTL_S,
        "principal": user_id,
        "project": project,
    }
    # Inserted first and looked up second: of two at once, one waits here until the other one's is there.
    if bulk.insert_if_new(conn, sessions_table, new):
        return
    row = _session_row(conn, session_id)
    if row is None or (row.principal, row.entity_id, row.project, row.is_over) != (
        user_id,
        entity_id,
        project,
        False,
    ):
        raise Conflict(f"session {session_id} exists already; begin one with a fresh id")


def _session_row(conn: Connection, session_id: str) -> Any:
    query = select(
        sessions_table.c.id,
        sessions_table.c.principal,
        sessions_table.c.entity_id,
        sessions_table.c.project,
        sessions_table.c.is_over,
    ).where(sessions_table.c.public_id == session_id)
    return conn.execute(query).first()


# what is offered, and what may be named


def stored_contents(
    conn: Connection, session_id: str, digests: Sequence[bytes], may_read: MayRead
) -> dict[bytes, Content]:
    stored = contents.stored_contents(conn, session_id, digests)
    if may_read is None:
        return stored
    allowed = set(may_read(conn, _named(stored.values())))
    return {
        digest: content
        for digest, content in stored.items()
        if all(extent.object_id in allowed for extent in content.extents)
    }


def stored_chunks(
    conn: Connection, session_id: str, digests: Sequence[bytes], may_read: MayRead
) -> dict[bytes, Extent]:
    stored = contents.stored_chunks(conn, session_id, digests)
    if may_read is None:
        return stored
    allowed = set(may_read(conn, {extent.object_id for extent in stored.values()}))
    return {digest: extent for digest, extent in stored.items() if extent.object_id in allowed}


def add_stored(
    conn: Connection,
    session_id: str,
    stored: Sequence[StoredObject],
    contents_: Sequence[Content],
    user_id: int,
    may_read: MayRead,
) -> None:
    """Contents may reach into older objects, if those are readable too.

    What a client says about an object that is not its own, or that a version holds already, is not written
    down: a wrong word there would make it look damaged. (Edited files, which reach into older objects, say
    it by their chunks.) So a call that is repeated after the commit changes nothing.
    """
    if may_read is not None:
        named = _named(contents_) | {each.object_id for each in stored}
        others = named - ownership.own_objects(conn, user_id, named).keys()
        _require(conn, may_read, others)
        stored = [each for each in stored if each.object_id not in others]
        contents_ = [
            content
            for content in contents_
            if content.chunks
            or len(content.extents) != 1
            or content.extents[0].object_id not in others
        ]
    contents.add_stored(conn, session_id, stored, contents_)


def commit_version(
    conn: Connection, session_id: str, draft: Draft, user_id: int, may_read: MayRead
) -> Committed:
    """An answer given before is given again, but to nobody who commits to another collection.

    The manifest is an object of the user's own: what a version says of its manifest is held against the
    bytes when somebody complains, and a wrong word must not make anybody else's object look damaged.
    """
    committed = commits.committed_before(conn, draft)
    if committed is None:
        manifest = draft.manifest
        named = {*draft.object_ids, *([manifest.object_id] if manifest is not None else [])}
        _require(conn, may_read, named)
        if manifest is not None and may_read is not None:
            _require_own(conn, user_id, manifest.object_id)
        committed = commits.commit_version(conn, session_id, draft)
    version, name = committed.version, draft.collection
    if (version.entity, version.project, version.collection) != (
        name.entity,
        name.project,
        name.name,
    ):
        raise Conflict(f"draft {draft.id} was committed elsewhere; take a fresh draft id")
    return committed


def _require(conn: Connection, may_read: MayRead, object_ids: Collection[str]) -> None:
    """Conflict, as for an object that was collected: logging again uploads what may not be shared."""
    if may_read is None or not object_ids:
        return  # the verb itself looks whether they are there
    if missing := set(object_ids) - set(may_read(conn, object_ids)):
        raise Conflict(f"object {min(missing)} is not stored (any more); log again")


def _require_own(conn: Connection, user_id: int, object_id: str) -> None:
    if object_id not in ownership.own_objects(conn, user_id, [object_id]):
        raise Conflict(
            f"object {object_id} is no manifest that this user has just written; log again"
        )


def _named(contents_: Iterable[Content]) -> set[str]:
    return {extent.object_id for content in contents_ for extent in content.extents}


# uploads


class Writing(NamedTuple):
    """An unfinished object of a session of the user's, and whether that session is still alive."""

    token: str
    is_live: bool


def own_uploads(conn: Connection, user_id: int, object_ids: Collection[str]) -> dict[str, Writing]:
    """Those that are unfinished objects of the user's own sessions."""
    if not object_ids:
        return {}
    query = (
        select(objects.c.object_id, objects.c.token, sessions_table.c.is_over)
        .join(sessions_table, sessions_table.c.id == objects.c.session_id)
        .where(
            bulk.among(conn, objects.c.object_id, object_ids),
            objects.c.state == WRITING,
            sessions_table.c.principal == user_id,
        )
    )
    return {row.object_id: Writing(row.token, not row.is_over) for row in conn.execute(query)}


# what a version is made of


def objects_of(conn: Connection, version_id: str, limit: int) -> list[str]:
    """The objects that a live version reaches, oldest first, and not its manifest."""
    row = versions.live_row(conn, version_id)
    query = (
        select(objects.c.object_id)
        .join(version_objects, version_objects.c.object == objects.c.id)
        .where(
            version_objects.c.version_id == row.id,
            objects.c.object_id != row.manifest_object_id,
        )
        .order_by(objects.c.id)
        .limit(limit)
    )
    return list(conn.execute(query).scalars())


def is_writing(conn: Connection, object_id: str) -> bool:
    """Whether the object is on its way, and its session alive."""
    query = (
        select(objects.c.id)
        .join(sessions_table, sessions_table.c.id == objects.c.session_id)
        .where(
            objects.c.object_id == object_id, objects.c.state == WRITING, ~sessions_table.c.is_over
        )
    )
    return conn.execute(query).first() is not None
