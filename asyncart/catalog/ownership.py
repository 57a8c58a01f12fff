"""Whose it is: from an id to the entity and project that decide who may see it.

A server authorizes the row that an id leads to, never what the client says about it. These questions
read only; what follows from the answers is the server's business (`server.access`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import ColumnElement, bindparam, select, true
from sqlalchemy.engine import Connection

from . import bulk
from .tables import (
    api_keys,
    collections,
    drafts,
    entities,
    objects,
    runs,
    sessions,
    version_objects,
    versions,
)


class Place(NamedTuple):
    entity: str
    project: str


class VersionPlace(NamedTuple):
    entity: str
    project: str
    collection: str
    number: int


class SessionPlace(NamedTuple):
    """`principal` is None for a session of a process that opened the catalog itself."""

    principal: int | None
    entity: str
    project: str | None
    is_over: bool


class OwnObject(NamedTuple):
    """An object that a session of the caller wrote, and that no version owns yet."""

    entity: str
    project: str | None
    state: int


# Made once: putting a statement together anew takes longer than the database needs for the answer.
_OF_RUN = select(runs.c.entity, runs.c.project).where(runs.c.id == bindparam("id"))
_OF_VERSION = (
    select(collections.c.entity, collections.c.project, collections.c.name, versions.c.number)
    .join(versions, versions.c.collection_id == collections.c.id)
    .where(versions.c.public_id == bindparam("id"))
)
_OF_SESSION = (
    select(sessions.c.principal, entities.c.name, sessions.c.project, sessions.c.is_over)
    .join(entities, entities.c.id == sessions.c.entity_id)
    .where(sessions.c.public_id == bindparam("id"))
)


def of_run(conn: Connection, run_id: str) -> Place | None:
    row = conn.execute(_OF_RUN, {"id": run_id}).first()
    return None if row is None else Place(*row)


def of_version(conn: Connection, version_id: str) -> VersionPlace | None:
    """Also of a deleted version: runs keep their history."""
    row = conn.execute(_OF_VERSION, {"id": version_id}).first()
    return None if row is None else VersionPlace(*row)


def of_draft(conn: Connection, draft_id: str) -> tuple[str, str, str] | None:
    """The collection that the draft of that id was committed to, if it was."""
    row = conn.execute(
        select(collections.c.entity, collections.c.project, collections.c.name)
        .join(versions, versions.c.collection_id == collections.c.id)
        .join(drafts, drafts.c.version_id == versions.c.id)
        .where(drafts.c.id == draft_id)
    ).first()
    return None if row is None else (row.entity, row.project, row.name)


def of_session(conn: Connection, session_id: str) -> SessionPlace | None:
    row = conn.execute(_OF_SESSION, {"id": session_id}).first()
    return None if row is None else SessionPlace(*row)


def of_key(conn: Connection, key_id: str) -> int | None:
    """The user whose API key it is."""
    return conn.execute(
        select(api_keys.c.user_id).where(api_keys.c.id == key_id)
    ).scalar_one_or_none()


def own_objects(
    conn: Connection, user_id: int, object_ids: Collection[str]
) -> dict[str, OwnObject]:
    """Those of the objects that sessions of the user registered and that no version owns yet."""
    query = (
        select(objects.c.object_id, entities.c.name, sessions.c.project, objects.c.state)
        .join(sessions, sessions.c.id == objects.c.session_id)
        .join(entities, entities.c.id == objects.c.entity_id)
        .where(bulk.among(conn, objects.c.object_id, object_ids), sessions.c.principal == user_id)
    )
    return {row[0]: OwnObject(*row[1:]) for row in conn.execute(query)}


def entities_of(conn: Connection, object_ids: Collection[str]) -> dict[str, str]:
    """The entity of each of these objects that is there."""
    if not object_ids:
        return {}
    query = (
        select(objects.c.object_id, entities.c.name)
        .join(entities, entities.c.id == objects.c.entity_id)
        .where(bulk.among(conn, objects.c.object_id, object_ids))
    )
    return {row.object_id: row.name for row in conn.execute(query)}


def held_objects(
    conn: Connection, object_ids: Collection[str], projects: Collection[str] | None
) -> set[str]:
    """Those of the objects that a live version holds; one in these projects (None: in any).

    All the objects are of one entity, and so is every version that holds one of them. EXISTS, so that
    the first version that is found ends the search.
    """
    is_there: ColumnElement[bool] = true()
    if projects is not None:
        is_there = (
            select(versions.c.id)
            .join(collections, collections.c.id == versions.c.collection_id)
            .where(
                versions.c.id == version_objects.c.version_id,
                bulk.among(conn, collections.c.project, sorted(projects)),
            )
            .exists()
        )
    holder = select(version_objects.c.object).where(
        version_objects.c.object == objects.c.id, is_there
    )
    query = select(objects.c.object_id).where(
        bulk.among(conn, objects.c.object_id, object_ids), holder.exists()
    )
    return set(conn.execute(query).scalars())
