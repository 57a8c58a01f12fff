"""Collections and their versions: finding them, and what to say where there are none.

How versions come is `commits`' business, what changes of them that of `updates`, and how they end that of
`deletion`. All of these lock the collection's row first, so that numbers are contiguous, aliases point to
live versions and `latest` is never raced, however many writers there are.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import bindparam, func, select, tuple_
from sqlalchemy.engine import Connection, Row

from asyncart.errors import NotFound
from asyncart.model import CollectionInfo, ManifestLocation, VersionInfo
from asyncart.names import LATEST, is_version_selector

from . import bulk
from .protocol import CollectionName
from .tables import aliases, collections, versions

SELECT = select(
    versions,
    collections.c.entity,
    collections.c.project,
    collections.c.name,
    collections.c.type,
).join(collections, collections.c.id == versions.c.collection_id)

LIVE = SELECT.where(versions.c.deleted_at.is_(None))
_NAMED = LIVE.where(
    collections.c.entity == bindparam("entity"),
    collections.c.project == bindparam("project"),
    collections.c.name == bindparam("name"),
)
_BY_NUMBER = _NAMED.where(versions.c.number == bindparam("number"))
BY_DIGEST = _NAMED.where(versions.c.digest == bindparam("digest"))
_BY_ALIAS = _NAMED.join(aliases, aliases.c.version_id == versions.c.id).where(
    aliases.c.collection_id == collections.c.id, aliases.c.alias == bindparam("alias")
)
_BY_ID = SELECT.where(versions.c.public_id == bindparam("public_id"))
_ALIASES = select(aliases.c.alias).where(aliases.c.version_id == bindparam("version_id"))


# finding


def find_version(conn: Connection, collection: CollectionName, digest: bytes) -> VersionInfo | None:
    row = conn.execute(BY_DIGEST, {**keys(collection), "digest": digest}).first()
    return None if row is None else info(conn, row)


def resolve(conn: Connection, collection: CollectionName, selector: str) -> VersionInfo:
    number = is_version_selector(selector)
    if number is not None:
        row = conn.execute(_BY_NUMBER, {**keys(collection), "number": number}).first()
    else:
        row = conn.execute(_BY_ALIAS, {**keys(collection), "alias": selector}).first()
    if row is None:
        raise _not_found(conn, collection, selector)
    return info(conn, row)


def get_version(conn: Connection, version_id: str) -> VersionInfo:
    return info(conn, live_row(conn, version_id))


def any_row(conn: Connection, version_id: str) -> Row[Any]:
    """The version's row, also that of a deleted one."""
    row = conn.execute(_BY_ID, {"public_id": version_id}).first()
    if row is None:
        raise NotFound(f"there is no version with id {version_id}")
    return row


def live_row(conn: Connection, version_id: str) -> Row[Any]:
    return require_live(any_row(conn, version_id))


def require_live(row: Row[Any]) -> Row[Any]:
    if row.deleted_at is not None:
        raise NotFound(f"{row.project}/{row.name}:v{row.number} was deleted")
    return row


def locked_row(conn: Connection, version_id: str) -> Row[Any]:
    """The version's row, also that of a deleted one, read again once its collection is locked."""
    collection_id = any_row(conn, version_id).collection_id
    conn.execute(
        select(collections.c.id).where(collections.c.id == collection_id).with_for_update()
    )
    return any_row(conn, version_id)


def list_versions(
    conn: Connection, collection: CollectionName, after: int | None, limit: int
) -> list[VersionInfo]:
    query = _NAMED.order_by(versions.c.number.desc()).limit(limit)
    if after is not None:
        query = query.where(versions.c.number < after)
    rows = conn.execute(query, keys(collection)).all()
    if not rows:
        collection_row(conn, collection)
    return infos(conn, rows)


def list_collections(
    conn: Connection,
    entity: str,
    project: str | None = None,
    type_: str | None = None,
    *,
    projects: Collection[str] | None = None,
    after: str | None = None,
    limit: int | None = None,
) -> list[CollectionInfo]:
    """By project and name: those in `projects` (None: all), at most `limit`, from behind "project/name"."""
    of_it = versions.c.collection_id == collections.c.id
    live = select(versions).where(of_it, versions.c.deleted_at.is_(None))
    count, newest = live.with_only_columns(func.count()), live.order_by(versions.c.number.desc())
    latest = (
        select(versions.c.number)
        .join(aliases, aliases.c.version_id == versions.c.id)
        .where(aliases.c.collection_id == collections.c.id, aliases.c.alias == LATEST)
    )
    query = (
        select(
            collections,
            count.scalar_subquery().label("live"),
            newest.with_only_columns(versions.c.size).limit(1).scalar_subquery().label("size"),
            latest.scalar_subquery().label("latest"),
        )
        .where(collections.c.entity == entity, collections.c.deleted_at.is_(None))
        .order_by(collections.c.project, collections.c.name)
        .limit(limit)
    )
    if project is not None:
        query = query.where(collections.c.project == project)
    if type_ is not None:
        query = query.where(collections.c.type == type_)
    if projects is not None:
        query = query.where(bulk.among(conn, collections.c.project, sorted(projects)))
    if after is not None:
        first, _, second = after.rpartition("/")
        query = query.where(
            tuple_(collections.c.project, collections.c.name) > tuple_(first, second)
        )
    return [
        CollectionInfo(
            entity=row.entity,
            project=row.project,
            name=row.name,
            type=row.type,
            versions=row.live,
            latest=row.latest,
            size=row.size or 0,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )
        for row in conn.execute(query)
    ]


# rows as values


def info(conn: Connection, row: Row[Any]) -> VersionInfo:
    return _info(row, aliases_of(conn, row.id))


def infos(conn: Connection, rows: Sequence[Row[Any]]) -> list[VersionInfo]:
    pointing: dict[int, list[str]] = {row.id: [] for row in rows}
    if rows:
        query = (
            select(aliases.c.version_id, aliases.c.alias)
            .where(bulk.among(conn, aliases.c.version_id, pointing))
            .order_by(aliases.c.alias)
        )
        for version, alias in conn.execute(query):
            pointing[version].append(alias)
    return [_info(row, pointing[row.id]) for row in rows]


def info_of(conn: Connection, version: int) -> VersionInfo:
    return info(conn, conn.execute(SELECT.where(versions.c.id == version)).one())


def _info(row: Row[Any], pointing: Sequence[str]) -> VersionInfo:
    return VersionInfo(
        id=row.public_id,
        entity=row.entity,
        project=row.project,
        collection=row.name,
        type=row.type,
        number=row.number,
        digest=row.digest,
        size=row.size,
        entry_count=row.entry_count,
        manifest=ManifestLocation(
            row.manifest_object_id, row.manifest_size, row.footer_bytes, row.footer_digest
        ),
        created_at=row.created_at,
        updated_at=row.updated_at,
        description=row.description,
        metadata=json.loads(row.metadata),
        aliases=tuple(pointing),
        tags=tuple(json.loads(row.tags)),
        is_damaged=row.is_damaged,
        ttl_s=row.ttl_s,
        logged_at=row.logged_at,
    )


def aliases_of(conn: Connection, version: int) -> list[str]:
    return sorted(conn.execute(_ALIASES, {"version_id": version}).scalars())


def keys(collection: CollectionName) -> dict[str, str]:
    return {
        "entity": collection.entity,
        "project": collection.project,
        "name": collection.name,
    }


def _collection_query(collection: CollectionName) -> Any:
    return named(collection).where(collections.c.deleted_at.is_(None))


def named(collection: CollectionName) -> Any:
    """The collection's row, also that of a deleted one."""
    return select(collections).where(
        collections.c.entity == collection.entity,
        collections.c.project == collection.project,
        collections.c.name == collection.name,
    )


def collection_row(
    conn: Connection, collection: CollectionName, *, is_locked: bool = False
) -> Row[Any]:
    query = _collection_query(collection)
    row: Row[Any] | None = conn.execute(query.with_for_update() if is_locked else query).first()
    if row is None:
        raise _no_collection(conn, collection)
    return row


# messages


def title_of(collection: CollectionName) -> str:
    return f"{collection.project}/{collection.name}"


def _no_collection(conn: Connection, collection: CollectionName) -> NotFound:
    query = (
        select(collections.c.name)
        .where(
            collections.c.entity == collection.entity,
            collections.c.project == collection.project,
            collections.c.deleted_at.is_(None),
        )
        .order_by(collections.c.updated_at.desc())
        .limit(9)
    )
    names = list(conn.execute(query).scalars())
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    there = f"it has: {listed}" if names else "it has none"
    return NotFound(
        f"{collection.entity}/{collection.project} has no artifact '{collection.name}'; {there}"
    )


def _not_found(conn: Connection, collection: CollectionName, selector: str) -> NotFound:
    row = conn.execute(_collection_query(collection)).first()
    if row is None:
        return _no_collection(conn, collection)
    names = sorted(
        conn.execute(select(aliases.c.alias).where(aliases.c.collection_id == row.id)).scalars()
    )
    numbers = sorted(
        conn.execute(
            select(versions.c.number).where(
                versions.c.collection_id == row.id, versions.c.deleted_at.is_(None)
            )
        ).scalars()
    )
    there = ", ".join([*shortened(names), *shortened(_ranges(numbers))]) or "no versions"
    title = title_of(collection)
    number = is_version_selector(selector)
    if number is None:
        return NotFound(f"{title} has no alias '{selector}'; it has: {there}")
    if number < row.next_number:
        return NotFound(f"{title}:{selector} was deleted; it has: {there}")
    return NotFound(f"{title} has no version {selector}; it has: {there}")


def shortened(names: list[str], limit: int = 12) -> list[str]:
    return names if len(names) <= limit else [*names[: limit - 1], "...", names[-1]]


def _ranges(numbers: list[int]) -> list[str]:
    """[0, 1, 2, 5] as ["v0..v2", "v5"]."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return [f"v{first}" if first == last else f"v{first}..v{last}" for first, last in ranges]
