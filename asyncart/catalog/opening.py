"""From a URL to a catalog whose tables are there."""

from __future__ import annotations

from urllib.parse import urlsplit

from asyncart.errors import Invalid

from . import schema
from .sql import SqlCatalog
from .transactions import Database

_POSTGRES = ("postgresql", "postgres", "postgresql+asyncpg")


async def open_catalog(url: str, *, may_upgrade: bool) -> SqlCatalog:
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme in _POSTGRES:
        return await _open_postgres(url, may_upgrade)
    if scheme == "sqlite":
        path = url.removeprefix("sqlite://").removeprefix("/")
    elif not scheme:
        path = url
    else:
        raise Invalid(f"{scheme}://: a catalog is a path, sqlite:///path or postgresql://...")
    if not path or path == ":memory:":
        raise Invalid("the catalog needs the path of a file: sqlite:///path")
    return await _open_sqlite(path)


async def _open_sqlite(path: str) -> SqlCatalog:
    from .sqlite import SqliteDatabase

    database = SqliteDatabase(path)
    await database.make_file()
    return await _opened(database, may_upgrade=True)


async def _open_postgres(url: str, may_upgrade: bool) -> SqlCatalog:
    try:
        from .postgres import PostgresDatabase
    except ImportError as error:
        raise Invalid(
            f"a PostgreSQL catalog needs {error.name or 'more packages'}: "
            f"pip install 'asyncart[postgres]'"
        ) from error

    return await _opened(PostgresDatabase(url), may_upgrade)


async def _opened(database: Database, may_upgrade: bool) -> SqlCatalog:
    try:
        if not await database.read(schema.is_current):
            await database.write_alone(schema.ensure, database.name, may_upgrade=may_upgrade)
    except BaseException:
        await database.aclose()
        raise
    return SqlCatalog(database)
