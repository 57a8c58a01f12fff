"""API keys: made, found, revoked; and the first of them all.

Stored is a keyed BLAKE3 of a key's secret, never the secret: who reads the table has no key, and who has
the table of one server cannot try its hashes at another. The hash key is derived from the server's secret,
which is made once and shared by all replicas through `server_secret`, or given by the environment.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from blake3 import blake3
from sqlalchemy import bindparam, func, insert, or_, select, update
from sqlalchemy.engine import Connection, Row

from asyncart.apikey import ApiKey
from asyncart.errors import NotFound
from asyncart.wire import Key, Scope

from . import accounts, bulk, clock
from .tables import USER, api_keys, server_secret
from .tables import accounts as accounts_table

SECRET_BYTES = 32
_SECRET_ROW = 1
_HASHING = "asyncart 2026 API key hashing"  # BLAKE3's context: this key is for nothing else


class Credential(NamedTuple):
    """What a key's row says to whoever wants to let its bearer in, as of `now`."""

    id: str
    hash: bytes
    user_id: int
    user: str
    scopes: frozenset[Scope]
    project: tuple[str, str] | None
    is_admin: bool
    is_disabled: bool
    expires_at: float | None
    revoked_at: float | None
    used_on: str | None
    now: float

    @property
    def has_ended(self) -> bool:
        is_over = self.expires_at is not None and self.expires_at <= self.now
        return is_over or self.revoked_at is not None or self.is_disabled


# the server's secret


def get_secret(conn: Connection) -> bytes | None:
    return conn.execute(
        select(server_secret.c.secret).where(server_secret.c.id == _SECRET_ROW)
    ).scalar_one_or_none()


def ensure_secret(conn: Connection) -> bytes:
    """The secret that all replicas share, made by the first."""
    bulk.insert_new(conn, server_secret, [{"id": _SECRET_ROW, "secret": os.urandom(SECRET_BYTES)}])
    secret = get_secret(conn)
    assert secret is not None
    return secret


def hash_key(secret: bytes) -> bytes:
    """What key hashes are keyed with, of a server's secret of any length."""
    return blake3(secret, derive_key_context=_HASHING).digest()


def hash_of(key: ApiKey, hash_key: bytes) -> bytes:
    return blake3(f"{key.id}_{key.secret}".encode("ascii"), key=hash_key).digest()


# keys


def create_key(
    conn: Connection,
    user: str,
    key: ApiKey,
    hash_: bytes,
    *,
    name: str,
    scopes: Iterable[Scope],
    project: tuple[str, str] | None,
    expires_in_s: float | None,
    expires_by: float | None = None,
) -> Key:
    """`expires_by`: when it has to end at the latest."""
    now = clock.now(conn)
    wished = None if expires_in_s is None else now + expires_in_s
    ends = [at for at in (expires_by, wished) if at is not None]
    entity, project_name = project or (None, None)
    row = {
        "id": key.id,
        "user_id": accounts.user_row(conn, user).id,
        "name": name,
        "hash": hash_,
        "scopes": " ".join(sorted({scope.value for scope in scopes})),
        "entity": entity,
        "project": project_name,
        "created_at": now,
        "expires_at": min(ends, default=None),
    }
    conn.execute(insert(api_keys).values(**row))
    return _key(conn.execute(_WITH_USER.where(api_keys.c.id == key.id)).one())


def list_keys(conn: Connection, user: str) -> list[Key]:
    """The newest first; also those that have ended."""
    user_id = accounts.user_row(conn, user).id
    query = _WITH_USER.where(api_keys.c.user_id == user_id)
    query = query.order_by(api_keys.c.created_at.desc(), api_keys.c.id)
    return [_key(row) for row in conn.execute(query)]


def revoke_key(conn: Connection, key_id: str) -> None:
    """For good. Again is the same."""
    since = func.coalesce(api_keys.c.revoked_at, clock.now(conn))
    revoked = update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=since)
    if not conn.execute(revoked).rowcount:
        raise NotFound(f"there is no API key {key_id}")


def find(conn: Connection, key_id: str) -> Credential | None:
    row = conn.execute(_FIND, {"id": key_id}).first()
    if row is None:
        return None
    return Credential(
        id=row.id,
        hash=row.hash,
        user_id=row.user_id,
        user=row.user,
        scopes=_scopes(row),
        project=None if row.project is None else (row.entity, row.project),
        is_admin=row.is_admin,
        is_disabled=row.is_disabled,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        used_on=row.used_on,
        now=clock.now(conn),
    )


def note_use(conn: Connection, key_id: str) -> None:
    """That it was used today."""
    day = today(clock.now(conn))
    conn.execute(
        update(api_keys)
        .where(
            api_keys.c.id == key_id, or_(api_keys.c.used_on.is_(None), api_keys.c.used_on != day)
        )
        .values(used_on=day)
    )


def today(now: float) -> str:
    return datetime.datetime.fromtimestamp(now, datetime.UTC).date().isoformat()


# the first one


def has_users(conn: Connection) -> bool:
    there = select(accounts_table.c.id).where(accounts_table.c.kind == USER).limit(1)
    return conn.execute(there).first() is not None


def ensure_admin(conn: Connection, name: str, key: ApiKey, hash_: bytes) -> bool:
    """Make the first administrator and this key of theirs; False if the server has users already.

    Run it as `write_alone`, so that of many replicas one makes them.
    """
    if has_users(conn):
        return False
    accounts.create_user(conn, name, is_admin=True)
    create_key(
        conn,
        name,
        key,
        hash_,
        name="the first key",
        scopes=Scope,
        project=None,
        expires_in_s=None,
    )
    return True


_WITH_USER = select(
    api_keys,
    accounts_table.c.name.label("user"),
    accounts_table.c.is_admin,
    accounts_table.c.is_disabled,
).join(accounts_table, accounts_table.c.id == api_keys.c.user_id)

_FIND = _WITH_USER.where(api_keys.c.id == bindparam("id"))


def _scopes(row: Row[Any]) -> frozenset[Scope]:
    return frozenset(Scope(word) for word in row.scopes.split())


def _key(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        user=row.user,
        name=row.name,
        scopes=sorted(_scopes(row)),
        project=None if row.project is None else f"{row.entity}/{row.project}",
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        used_on=row.used_on,
    )
