"""The one clock that leases are measured by: that of the machine which holds the database.

Clients' clocks differ; nothing is ordered by any of them. A lease runs out, and times are written
down for people to read, by the clock that all writers of one catalog share.
"""

from __future__ import annotations

import time

from sqlalchemy import Double, cast, func, select
from sqlalchemy.engine import Connection

_NOW = select(cast(func.extract("epoch", func.clock_timestamp()), Double))


def now(conn: Connection) -> float:
    """Seconds since 1970 (UTC)."""
    if conn.dialect.name == "sqlite":
        return time.time()
    return float(conn.execute(_NOW).scalar_one())
