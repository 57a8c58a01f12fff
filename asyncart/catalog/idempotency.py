"""Answers that were given to writes with an idempotency key: again is the same answer, for a day.

A key belongs to the user who sent it. It is reserved before the write is carried out, so that of two
requests at the same time one is carried out and the other is told to come back. A replica that dies in
between leaves a reservation; after `TAKE_OVER_S` the next request takes it over. If the first one was only
slow, the write is carried out twice then, which is safe because the catalog's verbs are idempotent by
themselves: the key only makes the *answer* the same. What is kept is the answer to the last reservation:
whoever was overtaken has no say any more.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.engine import Connection

from asyncart.errors import Conflict, Unavailable

from . import bulk, clock
from .tables import idempotency

KEPT_S = 86_400.0
# Nearly all verbs take milliseconds. Half of what a client waits for an answer (`net.retry.PATIENCE_S`), so
# that it does not give up because of a replica that died.
TAKE_OVER_S = 60.0


class Kept(NamedTuple):
    status: int
    body: bytes


class Reserved(NamedTuple):
    """A request that is being carried out, and since when: the next one to reserve the key is later."""

    user_id: int
    key: str
    since: float


def reserve(conn: Connection, user_id: int, key: str, digest: bytes) -> Kept | Reserved:
    """The answer that was given before; or: carry it out, then `keep` the answer or `release`.

    Conflict if the key stands for another request, Unavailable while the same one is being carried out.
    """
    now = clock.now(conn)
    reserved = Reserved(user_id, key, now)
    row = {"user_id": user_id, "key": key, "digest": digest, "created_at": now}
    if bulk.insert_if_new(conn, idempotency, row):
        return reserved
    mine = _mine(user_id, key)
    there = conn.execute(select(idempotency).where(mine).with_for_update()).first()
    if there is None:  # it was released since we looked
        raise _busy(key)
    if there.created_at + KEPT_S > now:
        if there.digest != digest:
            raise Conflict(
                f"idempotency key {key!r} was used for another request; take a fresh one"
            )
        if there.status is not None:
            return Kept(there.status, there.body)
        if there.created_at + TAKE_OVER_S > now:
            raise _busy(key)
    anew = {"digest": digest, "status": None, "body": None, "created_at": now}
    conn.execute(update(idempotency).where(mine).values(**anew))
    return reserved


def keep(conn: Connection, reserved: Reserved, kept: Kept) -> None:
    conn.execute(
        update(idempotency).where(_still(reserved)).values(status=kept.status, body=kept.body)
    )


def release(conn: Connection, reserved: Reserved) -> None:
    """It failed in a way that repeating may mend: nothing is kept."""
    conn.execute(delete(idempotency).where(_still(reserved)))


def sweep(conn: Connection) -> int:
    """Drop what is older than a day."""
    old = idempotency.c.created_at <= clock.now(conn) - KEPT_S
    return conn.execute(delete(idempotency).where(old)).rowcount


def _mine(user_id: int, key: str) -> ColumnElement[bool]:
    return (idempotency.c.user_id == user_id) & (idempotency.c.key == key)


def _still(reserved: Reserved) -> ColumnElement[bool]:
    """Nobody took it over, and no answer is kept yet."""
    return (
        _mine(reserved.user_id, reserved.key)
        & (idempotency.c.created_at == reserved.since)
        & idempotency.c.status.is_(None)
    )


def _busy(key: str) -> Unavailable:
    return Unavailable(
        f"the request with idempotency key {key!r} is being carried out; repeat in a moment"
    )
