"""Facts about the store, probed once and remembered for everybody."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.engine import Connection

from . import bulk
from .tables import facts


def get_fact(conn: Connection, key: str) -> str | None:
    return conn.execute(select(facts.c.value).where(facts.c.key == key)).scalar_one_or_none()


def set_fact(conn: Connection, key: str, value: str) -> None:
    bulk.upsert(conn, facts, [{"key": key, "value": value}])
