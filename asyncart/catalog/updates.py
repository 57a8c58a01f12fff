"""What may change of a version that is there: its words, and which aliases point to it.

`latest` moves by itself and cannot be removed. An alias moves under the lock of its collection, so that
`if_current` is a comparison and a move in one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection, Row

from asyncart.errors import Conflict, Invalid
from asyncart.model import VersionInfo
from asyncart.names import LATEST

from . import bulk, clock, versions
from .protocol import CollectionName
from .tables import aliases as aliases_table
from .tables import versions as versions_table


def update_version(
    conn: Connection,
    version_id: str,
    *,
    description: str | msgspec.UnsetType | None,
    metadata: dict[str, Any] | msgspec.UnsetType,
    add_aliases: Sequence[str],
    remove_aliases: Sequence[str],
    tags: Sequence[str] | msgspec.UnsetType,
    ttl_s: float | msgspec.UnsetType | None,
) -> VersionInfo:
    row = versions.require_live(versions.locked_row(conn, version_id))
    changes: dict[str, Any] = {}
    if description is not msgspec.UNSET:
        changes["description"] = description
    if metadata is not msgspec.UNSET:
        changes["metadata"] = json.dumps(metadata)
    if tags is not msgspec.UNSET:
        changes["tags"] = json.dumps(list(dict.fromkeys(tags)))
    if ttl_s is not msgspec.UNSET:
        changes["ttl_s"] = ttl_s
    _change_aliases(conn, row, {*add_aliases} - {LATEST}, {*remove_aliases} - {LATEST})
    now = clock.now(conn)
    conn.execute(
        update(versions_table)
        .where(versions_table.c.id == row.id)
        .values(**changes, updated_at=now)
    )
    return versions.info_of(conn, row.id)


def _change_aliases(conn: Connection, row: Row[Any], added: set[str], removed: set[str]) -> None:
    """What nobody names here stays: others may have moved it here meanwhile, or away."""
    if not (added or removed):
        return
    present = set(versions.aliases_of(conn, row.id))
    for alias in sorted(added - present):
        point(conn, row.collection_id, alias, row.id)
    for alias in sorted((removed - added) & present):
        _unpoint(conn, row.collection_id, alias)


def set_alias(
    conn: Connection, version_id: str, alias: str, *, if_current: int | msgspec.UnsetType | None
) -> None:
    row = versions.require_live(versions.locked_row(conn, version_id))
    current = conn.execute(
        select(versions_table.c.number)
        .join(aliases_table, aliases_table.c.version_id == versions_table.c.id)
        .where(aliases_table.c.collection_id == row.collection_id, aliases_table.c.alias == alias)
    ).scalar_one_or_none()
    if current == row.number:
        return  # also the second call of one whose answer got lost
    if if_current is not msgspec.UNSET and current != if_current:
        seen, now = ("nowhere" if n is None else f"v{n}" for n in (if_current, current))
        raise Conflict(
            f"{row.project}/{row.name}:{alias} moved from {seen} to {now} meanwhile; "
            f"resolve it again and repeat"
        )
    point(conn, row.collection_id, alias, row.id)


def remove_alias(conn: Connection, collection: CollectionName, alias: str) -> None:
    if alias == LATEST:
        raise Invalid(
            f"{versions.title_of(collection)}: 'latest' cannot be removed; it follows what is logged"
        )
    row = versions.collection_row(conn, collection, is_locked=True)
    _unpoint(conn, row.id, alias)


def point(conn: Connection, collection_id: int, alias: str, version: int) -> None:
    row = {"collection_id": collection_id, "alias": alias, "version_id": version}
    bulk.upsert(conn, aliases_table, [row])


def _unpoint(conn: Connection, collection_id: int, alias: str) -> None:
    conn.execute(
        delete(aliases_table).where(
            aliases_table.c.collection_id == collection_id, aliases_table.c.alias == alias
        )
    )
