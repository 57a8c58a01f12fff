"""Collections, their versions and aliases; the version rule.

Everything that changes a collection first locks its row, so that numbers are contiguous, aliases
point to live versions and `latest` is never raced, however many writers there are.

`latest` follows commits by itself: it moves to what was logged last, also when that content was there
already. Deleting the version under it moves it to the newest version that is left. Nobody can remove it.

A version may have a time to live. It counts from when its content was logged last: to log it again is to
want it. Then the longer wish wins, and no limit is the longest. How versions end is `deletion`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import uuid4

import msgspec
from sqlalchemy import and_, bindparam, case, delete, func, insert, select, tuple_, update
from sqlalchemy.engine import Connection, Row

from asyncart.errors import Conflict, Invalid, NotFound
from asyncart.model import CollectionInfo, ManifestLocation, VersionInfo
from asyncart.names import LATEST, is_version_selector

from . import bulk, clock, contents, deletion, lineage, sessions
from .protocol import CollectionName, Committed, Draft, Retention
from .tables import OUTPUT, STORED, aliases, collections, drafts, objects, version_objects, versions

SELECT = select(
    versions,
    collections.c.entity,
    collections.c.project,
    collections.c.name,
    collections.c.type,
).join(collections, collections.c.id == versions.c.collection_id)

_LIVE = SELECT.where(versions.c.deleted_at.is_(None))
_NAMED = _LIVE.where(
    collections.c.entity == bindparam("entity"),
    collections.c.project == bindparam("project"),
    collections.c.name == bindparam("name"),
)
_BY_NUMBER = _NAMED.where(versions.c.number == bindparam("number"))
_BY_DIGEST = _NAMED.where(versions.c.digest == bindparam("digest"))
_BY_ALIAS = _NAMED.join(aliases, aliases.c.version_id == versions.c.id).where(
    aliases.c.collection_id == collections.c.id, aliases.c.alias == bindparam("alias")
)
_BY_ID = SELECT.where(versions.c.public_id == bindparam("public_id"))
_ALIASES = select(aliases.c.alias).where(aliases.c.version_id == bindparam("version_id"))


# finding


def find_version(conn: Connection, collection: CollectionName, digest: bytes) -> VersionInfo | None:
    row = conn.execute(_BY_DIGEST, {**_keys(collection), "digest": digest}).first()
    return None if row is None else info(conn, row)


def resolve(conn: Connection, collection: CollectionName, selector: str) -> VersionInfo:
    number = is_version_selector(selector)
    if number is not None:
        row = conn.execute(_BY_NUMBER, {**_keys(collection), "number": number}).first()
    else:
        row = conn.execute(_BY_ALIAS, {**_keys(collection), "alias": selector}).first()
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
    return _live(any_row(conn, version_id))


def _live(row: Row[Any]) -> Row[Any]:
    if row.deleted_at is not None:
        raise NotFound(f"{row.project}/{row.name}:v{row.number} was deleted")
    return row


def list_versions(
    conn: Connection, collection: CollectionName, after: int | None, limit: int
) -> list[VersionInfo]:
    query = _NAMED.order_by(versions.c.number.desc()).limit(limit)
    if after is not None:
        query = query.where(versions.c.number < after)
    rows = conn.execute(query, _keys(collection)).all()
    if not rows:
        _collection(conn, collection)
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


# committing


def commit_version(conn: Connection, session_id: str, draft: Draft) -> Committed:
    if (again := committed_before(conn, draft)) is not None:
        return again
    session = sessions.live(conn, session_id)
    _check_entity(conn, session, draft)
    now = clock.now(conn)
    collection = _locked_collection(conn, draft, now)
    if (again := committed_before(conn, draft)) is not None:
        return again  # the same draft, by another connection, while this one waited for the lock

    row = conn.execute(_BY_DIGEST, {**_keys(draft.collection), "digest": draft.digest}).first()
    if row is None:
        version = _insert_version(conn, session, draft, collection, now)
    else:
        version = row.id
        if row.is_damaged:
            _heal(conn, session, draft, row)
        terms = {"logged_at": now, "ttl_s": _longer(row.ttl_s, draft.ttl_s)}
        conn.execute(update(versions).where(versions.c.id == version).values(**terms))
    for alias in {*draft.aliases, LATEST}:
        _point(conn, collection.id, alias, version)
    if draft.run_id is not None:
        lineage.record(conn, draft.run_id, version, OUTPUT)
    done = {"id": draft.id, "version_id": version, "is_new": row is None}
    if not bulk.insert_if_new(conn, drafts, done):
        raise Conflict(f"draft {draft.id} was committed elsewhere; take a fresh draft id")
    conn.execute(
        update(collections).where(collections.c.id == collection.id).values(updated_at=now)
    )
    return Committed(_info_of(conn, version), is_new=row is None)


def _longer(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)


def committed_before(conn: Connection, draft: Draft) -> Committed | None:
    row = conn.execute(select(drafts).where(drafts.c.id == draft.id)).first()
    return None if row is None else Committed(_info_of(conn, row.version_id), is_new=row.is_new)


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
    query = _named(name).with_for_update()
    row = conn.execute(query).first()
    if row is not None and row.deleted_at is not None:
        anew = {"type": draft.type, "created_at": now, "deleted_at": None}
        conn.execute(update(collections).where(collections.c.id == row.id).values(**anew))
        row = conn.execute(query).one()
    if row is None:
        new = {
            **_keys(name),
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
            f"{_title(draft.collection)}: its content was there, but was deleted meanwhile; log again"
        )
    keep_objects(conn, session, _object_ids(draft), _title(draft.collection))
    inserted = conn.execute(
        insert(versions).values(
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
            f"{_title(draft.collection)}:v{damaged.number} is damaged; log its content again to heal it"
        )
    keep_objects(conn, session, _object_ids(draft), _title(draft.collection))
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
        update(versions)
        .where(versions.c.id == damaged.id)
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


# changing


def update_version(
    conn: Connection,
    version_id: str,
    *,
    description: str | msgspec.UnsetType | None,
    metadata: dict[str, Any] | msgspec.UnsetType,
    aliases: Sequence[str] | msgspec.UnsetType,
    tags: Sequence[str] | msgspec.UnsetType,
    ttl_s: float | msgspec.UnsetType | None,
) -> VersionInfo:
    row = _live(_locked_row(conn, version_id))
    changes: dict[str, Any] = {}
    if description is not msgspec.UNSET:
        changes["description"] = description
    if metadata is not msgspec.UNSET:
        changes["metadata"] = json.dumps(metadata)
    if tags is not msgspec.UNSET:
        changes["tags"] = json.dumps(list(dict.fromkeys(tags)))
    if ttl_s is not msgspec.UNSET:
        changes["ttl_s"] = ttl_s
    if aliases is not msgspec.UNSET:
        _set_aliases(conn, row, {*aliases} - {LATEST})
    now = clock.now(conn)
    conn.execute(update(versions).where(versions.c.id == row.id).values(**changes, updated_at=now))
    return _info_of(conn, row.id)


def _set_aliases(conn: Connection, row: Row[Any], wanted: set[str]) -> None:
    present = set(_aliases_of(conn, row.id)) - {LATEST}
    for alias in sorted(wanted - present):
        _point(conn, row.collection_id, alias, row.id)
    for alias in sorted(present - wanted):
        _unpoint(conn, row.collection_id, alias)


def set_alias(
    conn: Connection, version_id: str, alias: str, *, if_current: int | msgspec.UnsetType | None
) -> None:
    row = _live(_locked_row(conn, version_id))
    current = conn.execute(
        select(versions.c.number)
        .join(aliases, aliases.c.version_id == versions.c.id)
        .where(aliases.c.collection_id == row.collection_id, aliases.c.alias == alias)
    ).scalar_one_or_none()
    if current == row.number:
        return  # also the second call of one whose answer got lost
    if if_current is not msgspec.UNSET and current != if_current:
        seen, now = ("nowhere" if n is None else f"v{n}" for n in (if_current, current))
        raise Conflict(
            f"{row.project}/{row.name}:{alias} moved from {seen} to {now} meanwhile; "
            f"resolve it again and repeat"
        )
    _point(conn, row.collection_id, alias, row.id)


def remove_alias(conn: Connection, collection: CollectionName, alias: str) -> None:
    if alias == LATEST:
        raise Invalid(
            f"{_title(collection)}: 'latest' cannot be removed; it follows what is logged"
        )
    row = conn.execute(_collection_query(collection).with_for_update()).first()
    if row is None:
        raise _no_collection(conn, collection)
    _unpoint(conn, row.id, alias)


def delete_version(conn: Connection, version_id: str, *, delete_aliases: bool) -> None:
    row = _locked_row(conn, version_id)
    if row.deleted_at is not None:
        return
    pointing = _aliases_of(conn, row.id)
    custom = [alias for alias in pointing if alias != LATEST]
    if custom and not delete_aliases:
        raise Conflict(
            f"{row.project}/{row.name}:v{row.number} still has the aliases {', '.join(custom)}; "
            f"remove them first, or delete them with it (delete_aliases=True)"
        )
    deletion.end_versions(conn, [row.id])


def delete_collection(
    conn: Connection, collection: CollectionName, *, delete_aliases: bool, dry_run: bool
) -> list[VersionInfo]:
    row = _collection(conn, collection, is_locked=not dry_run)
    found = _all_of(conn, row.id)
    custom = [
        f"{alias} (v{version.number})"
        for _, version in found
        for alias in version.aliases
        if alias != LATEST
    ]
    if custom and not delete_aliases:
        raise Conflict(
            f"{_title(collection)} still has the aliases {', '.join(_shortened(custom))}; "
            f"remove them first, or delete them with it (delete_aliases=True)"
        )
    if not dry_run:
        deletion.end_versions(conn, [number for number, _ in found])
        now = clock.now(conn)
        conn.execute(update(collections).where(collections.c.id == row.id).values(deleted_at=now))
    return [version for _, version in found]


def prune_versions(
    conn: Connection, collection: CollectionName, rule: Retention, *, dry_run: bool
) -> list[VersionInfo]:
    deletion.check_retention(rule)
    row = _collection(conn, collection, is_locked=not dry_run)
    found = _all_of(conn, row.id)
    outlived = deletion.outlived([version for _, version in found], rule, clock.now(conn))
    gone = [(number, version) for number, version in found if version.number in outlived]
    if not dry_run:
        deletion.end_versions(conn, [number for number, _ in gone])
    return [version for _, version in gone]


def _all_of(conn: Connection, collection_id: int) -> list[tuple[int, VersionInfo]]:
    """The live versions of a collection with their row numbers, newest first."""
    query = _LIVE.where(versions.c.collection_id == collection_id)
    rows = conn.execute(query.order_by(versions.c.number.desc())).all()
    return list(zip([row.id for row in rows], infos(conn, rows), strict=True))


def expire_versions(conn: Connection) -> list[VersionInfo]:
    """Delete those whose time to live is over; an alias other than `latest` protects them."""
    is_named = select(aliases.c.alias).where(
        aliases.c.version_id == versions.c.id, aliases.c.alias != LATEST
    )
    query = _LIVE.where(
        versions.c.logged_at + versions.c.ttl_s <= clock.now(conn), ~is_named.exists()
    ).order_by(versions.c.id)
    rows = conn.execute(query).all()
    expired = infos(conn, rows)
    deletion.end_versions(conn, [row.id for row in rows])
    return expired


def _locked_row(conn: Connection, version_id: str) -> Row[Any]:
    """The version's row, also that of a deleted one, read again once its collection is locked."""
    collection_id = any_row(conn, version_id).collection_id
    conn.execute(
        select(collections.c.id).where(collections.c.id == collection_id).with_for_update()
    )
    return any_row(conn, version_id)


def _point(conn: Connection, collection_id: int, alias: str, version: int) -> None:
    row = {"collection_id": collection_id, "alias": alias, "version_id": version}
    bulk.upsert(conn, aliases, [row])


def _unpoint(conn: Connection, collection_id: int, alias: str) -> None:
    conn.execute(
        delete(aliases).where(aliases.c.collection_id == collection_id, aliases.c.alias == alias)
    )


# rows as values


def info(conn: Connection, row: Row[Any]) -> VersionInfo:
    return _info(row, _aliases_of(conn, row.id))


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


def _info_of(conn: Connection, version: int) -> VersionInfo:
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


def _aliases_of(conn: Connection, version: int) -> list[str]:
    return sorted(conn.execute(_ALIASES, {"version_id": version}).scalars())


def _keys(collection: CollectionName) -> dict[str, str]:
    return {
        "entity": collection.entity,
        "project": collection.project,
        "name": collection.name,
    }


def _collection_query(collection: CollectionName) -> Any:
    return _named(collection).where(collections.c.deleted_at.is_(None))


def _named(collection: CollectionName) -> Any:
    """The collection's row, also that of a deleted one."""
    return select(collections).where(
        collections.c.entity == collection.entity,
        collections.c.project == collection.project,
        collections.c.name == collection.name,
    )


def _collection(
    conn: Connection, collection: CollectionName, *, is_locked: bool = False
) -> Row[Any]:
    query = _collection_query(collection)
    row: Row[Any] | None = conn.execute(query.with_for_update() if is_locked else query).first()
    if row is None:
        raise _no_collection(conn, collection)
    return row


# messages


def _title(collection: CollectionName) -> str:
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
    there = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
    return NotFound(
        f"{collection.entity}/{collection.project} has no artifact '{collection.name}'; "
        f"it has: {there}"
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
    there = ", ".join([*_shortened(names), *_shortened(_ranges(numbers))]) or "no versions"
    title = _title(collection)
    number = is_version_selector(selector)
    if number is None:
        return NotFound(f"{title} has no alias '{selector}'; it has: {there}")
    if number < row.next_number:
        return NotFound(f"{title}:{selector} was deleted; it has: {there}")
    return NotFound(f"{title} has no version {selector}; it has: {there}")


def _shortened(names: list[str], limit: int = 12) -> list[str]:
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
