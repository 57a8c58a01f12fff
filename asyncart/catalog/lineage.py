"""Which run consumed and which produced which version."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.engine import Connection

from asyncart.errors import NotFound

from . import bulk
from .tables import lineage, runs


def record(conn: Connection, run_id: str, version: int, direction: int) -> None:
    """Once per run, version and direction. `version` is the row's number, not the public id."""
    if conn.execute(select(runs.c.id).where(runs.c.id == run_id)).first() is None:
        raise NotFound(f"there is no run {run_id}")
    there = select(lineage.c.id).where(
        lineage.c.run_id == run_id,
        lineage.c.version_id == version,
        lineage.c.direction == direction,
    )
    # Asked first, because an insertion that is ignored uses up a number on PostgreSQL.
    if conn.execute(there).first() is None:
        row = {"run_id": run_id, "version_id": version, "direction": direction}
        bulk.insert_new(conn, lineage, [row])
