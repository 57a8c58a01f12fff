"""From a URL to a catalog whose tables are there."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import urlsplit

from sqlalchemy.engine import Connection

from asyncart.errors import Invalid
from asyncart.threads import run_blocking

from . import schema
from .sql import SqlCatalog
from .transactions import Database

_POSTGRES = ("postgresql", "postgres", "postgresql+asyncpg")


class SchemaState(NamedTuple):
    """What a database has, and what this version of asyncart knows (oldest first)."""

    name: str  # the database, for people
    found: str | None  # None: none of ours
    known: tuple[str, ...]
    is_empty: bool  # nothing at all is in it

    @property
    def is_current(self) -> bool:
        return self.found == self.known[-1]

    @property
    def is_unknown(self) -> bool:
        """A newer asyncart made it, or something else did."""
        return not self.is_empty and self.found not in self.known


async def open_catalog(url: str, *, may_upgrade: bool) -> SqlCatalog:
    database = open_database(url)
    if database.owner_is_process:
        from .sqlite import SqliteDatabase

        assert isinstance(database, SqliteDatabase)
        await database.make_file()
        may_upgrade = True  # a file is one user's: it is brought up to date when it is opened
    return await _opened(database, may_upgrade)


async def schema_state(url: str) -> SchemaState:
    """Look, and change nothing."""
    database = open_database(url)
    try:
        if database.owner_is_process and not await run_blocking(os.path.exists, database.name):
            return SchemaState(database.name, None, schema.REVISIONS, is_empty=True)
        found, is_empty = await database.read(_look)
    finally:
        await database.aclose()
    return SchemaState(database.name, found, schema.REVISIONS, is_empty)


def open_database(url: str) -> Database:
    """The database behind the URL, whatever is in it. Nothing is made, and nobody is asked yet."""
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme in _POSTGRES:
        return _postgres(url)
    if scheme == "sqlite":
        path = url.removeprefix("sqlite://").removeprefix("/")
    elif not scheme:
        path = url
    else:
        raise Invalid(f"{scheme}://: a catalog is a path, sqlite:///path or postgresql://...")
    if not path or path == ":memory:":
        raise Invalid("the catalog needs the path of a file: sqlite:///path")
    from .sqlite import SqliteDatabase

    return SqliteDatabase(path)


def _postgres(url: str) -> Database:
    try:
        from .postgres import PostgresDatabase
    except ImportError as error:
        raise Invalid(
            f"a PostgreSQL catalog needs {error.name or 'more packages'}: "
            f"pip install 'asyncart[postgres]'"
        ) from error

    return PostgresDatabase(url)


async def _opened(database: Database, may_upgrade: bool) -> SqlCatalog:
    try:
        # Nobody has to wait for others where nothing is to be done.
        if await database.read(schema.revision) != schema.REVISIONS[-1]:
            await database.write_alone(schema.ensure, database.name, may_upgrade=may_upgrade)
    except BaseException:
        await database.aclose()
        raise
    return SqlCatalog(database)


def _look(conn: Connection) -> tuple[str | None, bool]:
    return schema.revision(conn), schema.is_empty(conn)
