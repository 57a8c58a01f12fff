"""The audit log: who did what, on what, when. Rows are added and read; the database refuses the rest.

A row is written in the transaction of what it tells of: there is no change without its row, and no row of
a change that did not happen.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from sqlalchemy import insert, select
from sqlalchemy.engine import Connection

from asyncart.wire import AuditEntry

from . import clock
from .tables import audit_log


class Deed(NamedTuple):
    """What is to be written down; the database adds the time and the number."""

    user_id: int
    user: str
    key_id: str
    request_id: str
    action: str
    entity: str | None
    project: str | None
    subject: str
    detail: dict[str, Any]


def append(conn: Connection, deed: Deed) -> None:
    row = deed._asdict() | {"at": clock.now(conn), "detail": json.dumps(deed.detail)}
    conn.execute(insert(audit_log).values(**row))


def read(
    conn: Connection, entity: str | None, project: str | None, after: int | None, limit: int
) -> list[AuditEntry]:
    """The newest first, older than the entry `after`."""
    query = select(audit_log).order_by(audit_log.c.id.desc()).limit(limit)
    if entity is not None:
        query = query.where(audit_log.c.entity == entity)
    if project is not None:
        query = query.where(audit_log.c.project == project)
    if after is not None:
        query = query.where(audit_log.c.id < after)
    return [
        AuditEntry(
            id=row.id,
            at=row.at,
            user=row.user,
            key_id=row.key_id,
            request_id=row.request_id,
            action=row.action,
            entity=row.entity,
            project=row.project,
            subject=row.subject,
            detail=json.loads(row.detail),
        )
        for row in conn.execute(query)
    ]
