"""Making the tables, and bringing older ones up to date.

A new database gets today's tables at once. Alembic takes 270 ms to import, so it is imported only when
there is something to migrate; that both ways lead to the same tables is tested. SQLite files migrate
when they are opened. PostgreSQL has other users: it waits for `asyncart db upgrade`.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import (
    Column,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    insert,
    inspect,
    select,
)
from sqlalchemy.engine import Connection

from asyncart.errors import Invalid, Unavailable

from . import tables

MIGRATIONS = Path(__file__).with_name("migrations")
# all in migrations/versions, oldest first; the last is what `tables` says
REVISIONS = ("0001", "0002", "0003", "0004")

_stamp = Table(  # as Alembic makes it
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def revision(conn: Connection) -> str | None:
    """What the database says it has; None where nobody made our tables yet, or somebody else did theirs."""
    if not inspect(conn).has_table(_stamp.name):
        return None
    return conn.execute(select(_stamp.c.version_num)).scalar_one_or_none()


def is_empty(conn: Connection) -> bool:
    return not _tables(conn)


def ensure(conn: Connection, name: str, *, may_upgrade: bool) -> None:
    """Create what is not there; upgrade what is older, if that is allowed; refuse the rest."""
    found = revision(conn)
    if found == REVISIONS[-1]:
        return
    if found is None:
        if there := _tables(conn):
            raise Invalid(f"{name}: is the database of something else (it has {min(there)!r})")
        create(conn)
        return
    if found not in REVISIONS:
        raise Invalid(
            f"{name}: has schema {found}, this version of asyncart knows those up to "
            f"{REVISIONS[-1]}; use a newer asyncart"
        )
    if not may_upgrade:
        raise Unavailable(
            f"{name}: has the older schema {found}, {REVISIONS[-1]} is needed; "
            f"upgrade it once with `asyncart db upgrade --catalog URL`"
        )
    migrate(conn)


def create(conn: Connection) -> None:
    tables.metadata.create_all(conn)
    _stamp.create(conn)
    conn.execute(insert(_stamp).values(version_num=REVISIONS[-1]))


def migrate(conn: Connection, to: str = "head") -> None:
    """Run the migrations that are missing, in the transaction of this connection."""
    from alembic import command
    from alembic.config import Config

    # If SQLAlchemy knew of no transaction yet, Alembic would begin one, and commit ours.
    _tables(conn)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = conn
    command.upgrade(config, to)


def _tables(conn: Connection) -> set[str]:
    return set(inspect(conn).get_table_names())
