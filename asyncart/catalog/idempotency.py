"""Answers that were given to writes with an idempotency key: again is the same answer, for a day.

A key belongs to the user who sent it. It is reserved before the write is carried out, so that of two
requests at the same time one is carried out and the other is told to wait. A replica that dies in between
leaves a reservation; after `TAKE_OVER_S` the next one takes it over, which is safe because the catalog's
verbs are idempotent by themselves: the key only makes the *answer* the same.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.engine import Connection

from asyncart.errors import Conflict

from . import bulk, clock
from .tables import idempotency

KEPT_S = 86_400.0
TAKE_OVER_S = 120.0  # longer than any verb takes


class Kept(NamedTuple):
    status: int
    body: bytes


def reserve(conn: Connection, user_id: int, key: str, digest: bytes) -> Kept | None:
    """The answer that was given before; None: carry it out, then `keep` the answer or `release`.

    Conflict if the key stands for another request, or for one that is being carried out.
    """
    now = clock.now(conn)
    mine = _mine(user_id, key)
    row = {"user_id": user_id, "key": key, "digest": digest, "created_at": now}
    if bulk.insert_if_new(conn, idempotency, row):
        return None
    there = conn.execute(select(idempotency).where(mine).with_for_update()).one()
    if there.created_at + KEPT_S <= now:
        fresh = {"digest": digest, "status": None, "body": None, "created_at": now}
        conn.execute(update(idempotency).where(mine).values(**fresh))
        return None
    if there.digest != digest:
        raise Conflict(f"idempotency key {key!r} was used for another request; take a fresh one")
    if there.status is not None:
        return Kept(there.status, there.body)
    if there.created_at + TAKE_OVER_S > now:
        raise Conflict(
            f"the request with idempotency key {key!r} is being carried out; repeat in a moment"
        )
    conn.execute(update(idempotency).where(mine).values(created_at=now))
    return None


def keep(conn: Connection, user_id: int, key: str, digest: bytes, kept: Kept) -> None:
    conn.execute(
        update(idempotency)
        .where(_mine(user_id, key), idempotency.c.digest == digest)
        .values(status=kept.status, body=kept.body)
    )


def release(conn: Connection, user_id: int, key: str, digest: bytes) -> None:
    """It failed in a way that repeating may mend: nothing is kept."""
    conn.execute(
        delete(idempotency).where(
            _mine(user_id, key), idempotency.c.digest == digest, idempotency.c.status.is_(None)
        )
    )


def sweep(conn: Connection) -> int:
    """Drop what is older than a day."""
    old = idempotency.c.created_at <= clock.now(conn) - KEPT_S
    return conn.execute(delete(idempotency).where(old)).rowcount


def _mine(user_id: int, key: str) -> ColumnElement[bool]:
    return (idempotency.c.user_id == user_id) & (idempotency.c.key == key)
